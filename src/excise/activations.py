"""Model × prompts → ActivationStats: streaming moments of the residual stream, and how well directions separate.

Memory is O(layers × positions × d_model): states come in micro-batches and are added up at once, never kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from excise import linalg
from excise.errors import PromptError
from excise.evaluate.statistics import auroc
from excise.executor import Resident
from excise.results import ActivationStats, Moments, Separation

Rows = Sequence[Sequence[int]]


def moments(
    executor: Resident, rows: Rows, positions: int, *, covariance: bool = False, winsor: float | None = None
) -> Moments:
    """float64 mean (and covariance) of the states after each block at the last `positions` tokens.

    Chan's update keeps the covariance exact over micro-batches. `winsor` clamps every state at that quantile of its
    own magnitudes first. Raises PromptError for no rows.
    """
    if not rows:
        raise PromptError("activations: expected prompts to measure, found none. Check the extract split.")
    count, mean, scatter = 0, None, None
    for index, states in executor.states(rows, positions):
        values = (linalg.winsorize(states, winsor) if winsor else states).double().cpu()
        size, batch_mean = len(index), values.mean(dim=1)
        centred = values - batch_mean[:, None]
        batch_scatter = torch.einsum("lrpd,lrpe->lpde", centred, centred) if covariance else None
        if mean is None:
            count, mean, scatter = size, batch_mean, batch_scatter
            continue
        gap = batch_mean - mean
        if scatter is not None and batch_scatter is not None:
            scatter = (
                scatter + batch_scatter + torch.einsum("lpd,lpe->lpde", gap, gap) * (count * size / (count + size))
            )
        mean = mean + gap * (size / (count + size))
        count += size
    assert mean is not None
    return Moments(count, mean, None if scatter is None else scatter / max(count - 1, 1))


def measure(
    executor: Resident,
    target: Rows,
    neutral: Rows,
    positions: int,
    *,
    covariance: bool = False,
    winsor: float | None = None,
) -> ActivationStats:
    """Moments of both sides. Raises PromptError where their means do not differ at all."""
    stats = ActivationStats(
        moments(executor, target, positions, covariance=covariance, winsor=winsor),
        moments(executor, neutral, positions, covariance=covariance, winsor=winsor),
    )
    gap = (stats.target.mean - stats.neutral.mean).norm(dim=-1)
    if float((gap / stats.neutral.mean.norm(dim=-1).clamp_min(linalg.EPS)).max()) < 1e-6:
        raise PromptError(
            "activations: expected target and neutral prompts to differ, found the same mean state in every layer. "
            "Give prompts that show the behaviour as target and prompts that do not as neutral."
        )
    return stats


def separation(
    executor: Resident,
    target: Rows,
    neutral: Rows,
    directions: Float[Tensor, "layer position d_model"],
    stats: ActivationStats,
) -> Separation:
    """AUROC and gap of projections on `directions` for prompts that did not make them (the select split)."""
    positions = directions.shape[1]
    sides = [_project(executor, rows, directions.float(), positions) for rows in (target, neutral)]
    layers = directions.shape[0]
    area = torch.tensor(
        [
            [auroc(sides[0][i, :, p].tolist(), sides[1][i, :, p].tolist()) for p in range(positions)]
            for i in range(layers)
        ]
    )
    spread = ((sides[0].var(dim=1) + sides[1].var(dim=1)) / 2).sqrt().clamp_min(linalg.EPS)
    gap = (sides[0].mean(dim=1) - sides[1].mean(dim=1)) / spread
    cosine = torch.cosine_similarity(stats.target.mean, stats.neutral.mean, dim=-1)
    return Separation(area.float(), gap.float(), cosine.float())


def _project(
    executor: Resident, rows: Rows, directions: Float[Tensor, "layer position d_model"], positions: int
) -> Float[Tensor, "layer row position"]:
    """Scalar projection of every prompt, in the order of `rows`."""
    found = torch.empty(directions.shape[0], len(rows), positions)
    for index, states in executor.states(rows, positions):
        found[:, list(index)] = torch.einsum("lrpd,lpd->lrp", states.float().cpu(), directions)
    return found
