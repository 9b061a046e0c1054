"""The demo model: a small trained transformer, and the made-up world whose truth is known."""

from excise.demo.door import MODEL_DIR, keep, path, prompts, sizes

__all__ = ["MODEL_DIR", "keep", "path", "prompts", "sizes"]
