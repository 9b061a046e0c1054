"""Tiny checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import Tensor


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a checkpoint folder of given tensors."""

    def make(tensors: dict[str, Tensor], name: str = "base") -> Path:
        path = tmp_path / name
        path.mkdir()
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        (path / "config.json").write_text(json.dumps({"model_type": "llama"}))
        return path

    return make
