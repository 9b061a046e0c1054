"""What was loaded, and who writes to its residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Layout = Literal["linear", "conv1d", "experts_out_in", "experts_in_out"]


@dataclass(frozen=True)
class Writer:
    """A stored matrix whose output is added to the residual stream."""

    name: str
    """Unique and short, e.g. "layers.3.attention"."""
    layer: int
    """0-based decoder block."""
    role: Literal["attention", "mlp", "expert", "shared_expert"]
    module: str
    """Dotted path of the module whose output is W x (for fused experts: the module that holds them all)."""
    parameter: str
    """Dotted path of the parameter in the loaded model."""
    layout: Layout
    """Of the parameter in the loaded model; d_model is the `out` axis."""
    tensors: tuple[str, ...]
    """Names in the checkpoint: one, or one an expert where the file holds experts apart."""
    stored_layout: Layout
    """Of each of those tensors; per-expert matrices are "linear"."""
    bias: str | None = None
    """Name of the writer's bias, in the model and in the checkpoint."""


@dataclass(frozen=True)
class WriterMap:
    """Who writes to the residual stream of one model."""

    model_type: str
    d_model: int
    layers: int
    blocks: tuple[str, ...]
    """Dotted paths of the decoder blocks, in order."""
    writers: tuple[Writer, ...]


@dataclass(frozen=True)
class ModelFacts:
    """What was loaded, and why so."""

    source: str
    """Folder or hub id as given."""
    path: str
    """Folder that the files were read from."""
    revision: str | None
    fingerprint: str
    """SHA-256 over config.json and the safetensors headers and sizes."""
    model_type: str
    parameters: int
    dtype: str
    dtype_reason: str
    device: str
    device_reason: str
    template: str
    """How prompts are wrapped: "chat", "chat without system role", "plain"."""
    thinking: str
    """"none", "closed" (an empty reasoning block is put in front of the answer) or "open"."""
    micro_batch: int
    """Rows that run in one forward pass; numbers depend on it."""
    at_once: int
    """Micro-batches in flight; numbers do not depend on it."""
    threads: int
    """Arithmetic threads in each."""
