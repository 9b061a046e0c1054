"""The front: behaviour left against damage done, one mark a candidate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from excise.report.axes import Box, Tick, percent_ticks, rounded, up_share
from excise.report.facts import FrontFacts, FrontPoint
from excise.report.words import kl, rate
from excise.results import Rate


@dataclass(frozen=True)
class FrontMark:
    """One candidate."""

    x: float
    y: float
    low: float
    high: float
    kind: str
    """"chosen", "confirmed" or "select"."""
    title: str


@dataclass(frozen=True)
class FrontPlot:
    """Behaviour against damage."""

    box: Box
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[FrontMark, ...]
    base_y: float | None
    budget_x: float | None


def front_plot(front: FrontFacts, base: Rate, budget: float | None) -> FrontPlot | None:
    """Damage on a log axis to the right, behaviour upwards; None where no candidate was generated."""
    points = [point for point in front.points if _drawable(point)]
    if not points:
        return None
    box = Box(width=680.0, height=380.0, left=62.0, right=660.0, top=18.0, bottom=324.0)
    place, x_ticks = _log_axis([point.drift for point in points], box, budget)
    marks = tuple(_front_mark(point, place, box) for point in points)
    return FrontPlot(
        box=box,
        x_ticks=x_ticks,
        y_ticks=percent_ticks(box),
        # Drawn last, so that nothing covers it.
        marks=tuple(sorted(marks, key=lambda mark: mark.kind == "chosen")),
        base_y=up_share(base.value, box) if base.total else None,
        budget_x=place(budget) if budget and math.isfinite(budget) and budget > 0 else None,
    )


def _drawable(point: FrontPoint) -> bool:
    return point.behaviour is not None and point.behaviour.total > 0 and math.isfinite(point.drift)


def _front_mark(point: FrontPoint, place: Callable[[float], float], box: Box) -> FrontMark:
    behaviour = point.behaviour
    assert behaviour is not None, "only candidates with a rate are drawn"
    kind = "chosen" if point.chosen else "confirmed" if point.confirmed else "select"
    return FrontMark(
        x=rounded(place(point.drift)),
        y=up_share(behaviour.value, box),
        low=up_share(behaviour.low, box),
        high=up_share(behaviour.high, box),
        kind=kind,
        title=_front_title(point, behaviour),
    )


def _front_title(point: FrontPoint, behaviour: Rate) -> str:
    lines = [
        f"Candidate {point.index}{', chosen' if point.chosen else ''} (round {point.round}, κ {point.weight:g})",
        f"behaviour {rate(behaviour)} on the {'confirm' if point.confirmed else 'select'} split",
        f"KL per token {kl(point.drift)}",
    ]
    if point.confirmed:
        lines += [f"broken {rate(point.confirmed.broken)}", f"neutral kept {rate(point.confirmed.kept)}"]
    terms = point.terms
    lines.append(f"search terms: first {kl(terms.first)}, target {kl(terms.target)}, neutral {kl(terms.neutral)}")
    return "\n".join(lines)


def _log_axis(values: list[float], box: Box, budget: float | None) -> tuple[Callable[[float], float], tuple[Tick, ...]]:
    """A log axis over the positive values; zero and below sit on a place of their own at its left end."""
    positive = [value for value in values if value > 0]
    if budget and budget > 0 and math.isfinite(budget):
        positive.append(budget)
    low = math.floor(math.log10(min(positive))) if positive else -4
    high = max(math.ceil(math.log10(max(positive))), low + 1) if positive else 0
    zero = any(value <= 0 for value in values)
    start = box.left + (46 if zero else 12)
    scale = (box.right - 12 - start) / (high - low)

    def place(value: float) -> float:
        return start + scale * (math.log10(value) - low) if value > 0 else box.left + 14

    steps = (1, 2, 5) if high - low <= 2 else (1,)
    every = max(1, math.ceil((high - low) / 8))
    exact = [m * 10.0**power for power in range(low, high, every) for m in steps] + [10.0**high]
    ticks = tuple(Tick(rounded(place(value)), _tick_words(value)) for value in exact)
    return place, ((Tick(box.left + 14, "0"), *ticks) if zero else ticks)


def _tick_words(value: float) -> str:
    """A round number: "0.001", "0.5", "10⁻⁶"."""
    return f"{value:g}" if value >= 0.0001 else kl(value).replace("1.0\u00a0×\u00a0", "").replace(".0\u00a0", "\u00a0")
