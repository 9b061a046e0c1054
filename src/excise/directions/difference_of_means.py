"""Difference of means, projected off the neutral mean: the default."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from excise import linalg
from excise.results import ActivationStats


def difference_of_means(stats: ActivationStats, k: int = 1) -> Float[Tensor, "layer position k d_model"]:
    """normalize(Δ − (Δ·μ̂)μ̂), Δ = μ_target − μ_neutral, μ = μ_neutral. Arditi et al. 2024; the projection: grimjim 2025.

    There is one such direction; `k` above 1 is an error here (ValueError): take "top-k".
    """
    if k != 1:
        raise ValueError(f"difference-of-means: expected k = 1, found {k}. Use --directions top-k for more.")
    gap = stats.target.mean - stats.neutral.mean
    return linalg.normalize(linalg.reject(gap, stats.neutral.mean))[:, :, None, :]
