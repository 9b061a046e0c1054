"""Difference of means first, then the directions in which target states spread more than neutral ones."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from excise import linalg
from excise.directions.difference_of_means import difference_of_means
from excise.results import ActivationStats


def top_k(stats: ActivationStats, k: int = 2) -> Float[Tensor, "layer position k d_model"]:
    """First row: `difference_of_means`. Rows 2..k: leading eigenvectors of Σ_target − Σ_neutral, made orthogonal to it.

    A behaviour with several causes (topics) moves the state in several directions; what they have in common is the
    first row, what tells them apart shows as excess spread. Needs covariances (ValueError without).
    """
    first = difference_of_means(stats)
    if k == 1:
        return first
    if stats.target.covariance is None or stats.neutral.covariance is None:
        raise ValueError("top-k: expected covariances in the activation statistics, found none.")
    excess = stats.target.covariance - stats.neutral.covariance
    off = torch.eye(excess.shape[-1], dtype=excess.dtype) - first.mT @ first
    _, vectors = torch.linalg.eigh(off @ excess @ off)
    leading = vectors[..., -(k - 1) :].flip(-1).mT
    largest = leading.gather(-1, leading.abs().argmax(-1, keepdim=True))
    return linalg.orthonormalize(torch.cat([first, leading * largest.sign()], dim=-2))
