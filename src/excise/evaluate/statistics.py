"""Intervals and tests for rates. Pure; float64."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import sqrt

import numpy as np
from scipy.stats import binomtest, rankdata

from excise.results import Rate

_CHUNK = 1 << 22
"""Resampled entries drawn at a time, so that memory stays under about 100 MB."""


def wilson(count: int, total: int, z: float = 1.96) -> Rate:
    """The rate count / total with its score interval; z = 1.96 is 95%. Wilson 1927, eq. 4.

    (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n). An empty total says nothing: 0..1.
    """
    if not 0 <= count <= total:
        raise ValueError(f"wilson: expected 0 <= count <= total, found count {count} and total {total}.")
    if total == 0:
        return Rate(0, 0, 0.0, 1.0)
    share = count / total
    centre = share + z * z / (2 * total)
    half = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    low = 0.0 if count == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if count == total else min(1.0, (centre + half) / scale)
    return Rate(count, total, low, high)


def paired_bootstrap(
    base: Sequence[float],
    edited: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """mean(edited) − mean(base) over pairs, and its 95% percentile interval. Efron 1979.

    With `clusters` (one label a pair, e.g. its topic) whole clusters are redrawn, as pairs of a cluster go together.
    """
    if len(base) != len(edited) or not base:
        raise ValueError(f"paired_bootstrap: expected pairs, at least one; found {len(base)} and {len(edited)}.")
    if clusters is not None and len(clusters) != len(base):
        raise ValueError(f"paired_bootstrap: expected {len(base)} cluster labels, found {len(clusters)}.")
    gaps = np.asarray(edited, np.float64) - np.asarray(base, np.float64)
    member = np.arange(len(gaps))
    if clusters is not None:
        number = {label: index for index, label in enumerate(dict.fromkeys(clusters))}
        member = np.array([number[label] for label in clusters])
    sums, sizes = np.bincount(member, gaps), np.bincount(member)
    rng, means, units = np.random.default_rng(seed), [], len(sums)
    for start in range(0, draws, step := max(1, _CHUNK // units)):
        drawn = rng.integers(units, size=(min(step, draws - start), units))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(gaps.mean()), float(low), float(high)


def mcnemar(b: int, c: int) -> float:
    """Exact two-sided p that pairs change one way (b of them) as often as the other (c). McNemar 1947."""
    if b < 0 or c < 0:
        raise ValueError(f"mcnemar: expected two counts, found {b} and {c}.")
    return float(binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0


def auroc(target: Sequence[float], neutral: Sequence[float]) -> float:
    """P(target > neutral) + ½ P(target = neutral) over all pairs; 0.5 tells nothing. Mann and Whitney 1947."""
    count, other = len(target), len(neutral)
    if not count or not other:
        raise ValueError(f"auroc: expected values on both sides, found {count} and {other}.")
    ranks = rankdata(np.concatenate([np.asarray(target, np.float64), np.asarray(neutral, np.float64)]))
    return float((ranks[:count].sum() - count * (count + 1) / 2) / (count * other))
