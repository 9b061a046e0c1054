"""Activation statistics, and the directions made of them."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Streaming moments of one side's residual states after each block (before the final norm)."""

    count: int
    """Prompts seen."""
    mean: Float[Tensor, "layer position d_model"]
    """float64. Position 0 is the last prompt token, 1 the one before it, ..."""
    covariance: Float[Tensor, "layer position d_model d_model"] | None = None
    """float64, only where the direction method asks for it."""


@dataclass(frozen=True)
class ActivationStats:
    """What the extract split says about both sides."""

    target: Moments
    neutral: Moments


@dataclass(frozen=True)
class Separation:
    """How well projections on each layer's and position's direction tell target from neutral prompts, unseen ones."""

    auroc: Float[Tensor, "layer position"]
    """0.5: not at all; 1: perfectly."""
    gap: Float[Tensor, "layer position"]
    """Difference of the mean projections over their pooled standard deviation."""
    cosine: Float[Tensor, "layer position"]
    """cos of the two sides' mean states."""


@dataclass(frozen=True)
class Directions:
    """Unit vectors per layer that carry the behaviour; layer i is the output of block i."""

    vectors: Float[Tensor, "layer k d_model"]
    """float32, the k rows of a layer orthonormal."""
    method: str
    source: str
    """Where it came from: "layer 4, position 0" or "each layer's own, position 0"."""
    separation: float
    """AUROC on the select split of the place it came from, 0.5..1."""
