"""The front: candidates of which none is better than another in both behaviour and damage."""

from __future__ import annotations

from collections.abc import Sequence

from excise.evaluate.statistics import wilson
from excise.results import Candidate, Judged, Rate


def remaining(judged: Sequence[Judged]) -> Rate:
    """Answers that an edit has not put right: those that show the behaviour, and those that are broken."""
    return wilson(sum(row.label != "absent" for row in judged), len(judged))


def rate(candidate: Candidate) -> float:
    """What is left on the select split and, where it was measured, the confirm split; 1 where neither was."""
    rates = [candidate.select] if candidate.select else []
    if candidate.confirmed is not None:
        rates += [candidate.confirmed.behaviour]
    total = sum(found.total for found in rates)
    return sum(found.count for found in rates) / total if total else 1.0


def damage(candidate: Candidate) -> float:
    """KL per token on neutral prompts: on the confirm split where it was measured, else the search's own term."""
    return candidate.confirmed.drift if candidate.confirmed is not None else candidate.terms.neutral


def pareto(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The candidates that no other one beats in behaviour and damage, least damage first."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (damage(c), rate(c), c.index)):
        if not kept or rate(candidate) < rate(kept[-1]):
            kept.append(candidate)
    return tuple(kept)


def choose(candidates: Sequence[Candidate], *, max_drift: float) -> Candidate:
    """Least behaviour within the damage budget, then least damage among equals.

    A candidate that breaks answers (empty or gibberish) counts them as behaviour.
    """
    affordable = [c for c in candidates if damage(c) <= max_drift] or [min(candidates, key=damage)]
    return min(affordable, key=lambda c: (_spoilt(c), damage(c), c.index))


def _spoilt(candidate: Candidate) -> float:
    broken = candidate.confirmed.broken.value if candidate.confirmed is not None else 0.0
    return rate(candidate) + broken
