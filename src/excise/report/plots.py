"""Where the marks of the other plots go: separation by layer, strengths, and rates at a glance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from excise.report.axes import Box, Tick, every, rounded
from excise.report.facts import EditFacts, SeparationFacts, Strengths
from excise.report.words import rate, signed
from excise.results import Score

ROLES = ("attention", "mlp", "expert", "shared_expert")
ROLE_WORDS = {"attention": "attention", "mlp": "MLP", "expert": "experts", "shared_expert": "shared expert"}


@dataclass(frozen=True)
class Line:
    """One position's AUROC over the layers."""

    points: str
    """As an SVG polyline takes them."""
    title: str
    kind: str
    """"best", "last" (the last prompt token) or "other"."""


@dataclass(frozen=True)
class SeparationPlot:
    """How well each layer tells the two sides apart."""

    box: Box
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    best: tuple[float, float, str] | None
    """(x, y, words) of the marked place."""


@dataclass(frozen=True)
class Cell:
    """Strength of one role in one layer."""

    x: float
    y: float
    sign: str
    """"plus", "minus" or "none" (no edit)."""
    opacity: float
    label: str
    title: str


@dataclass(frozen=True)
class HeatPlot:
    """Strengths by layer and role."""

    box: Box
    cell: tuple[float, float]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    cells: tuple[Cell, ...]
    largest: float


@dataclass(frozen=True)
class Whisker:
    """One rate with its interval."""

    y: float
    x: float
    low: float
    high: float
    name: str
    kind: str
    label: str


@dataclass(frozen=True)
class WhiskerPlot:
    """The behaviour's rate in every state of the model."""

    box: Box
    x_ticks: tuple[Tick, ...]
    rows: tuple[Whisker, ...]


def position_words(position: int) -> str:
    """Position 0 is the last prompt token, 1 the one before it."""
    return "last prompt token" if position == 0 else f"{position} before the last token"


# ---------------------------------------------------------------- separation
def separation_plot(separation: SeparationFacts) -> SeparationPlot:
    """One line a position; the best place marked."""
    layers, positions = len(separation.auroc), max(map(len, separation.auroc))
    box = Box(width=680.0, height=320.0, left=62.0, right=660.0, top=18.0, bottom=266.0)
    finite = [value for row in separation.auroc for value in row if math.isfinite(value)]
    floor = min(0.5, math.floor(10 * min(finite, default=0.5)) / 10)
    scale = (box.right - box.left - 24) / max(1, layers - 1)

    def across(layer: int) -> float:
        return rounded(box.left + 12 + scale * layer)

    def up(value: float) -> float:
        return rounded(box.bottom - (box.bottom - box.top) * (value - floor) / (1 - floor))

    best = separation.best
    lines = tuple(
        Line(_polyline(separation, position, across, up), position_words(position), _line_kind(position, best))
        for position in range(positions)
    )
    order = {"other": 0, "last": 1, "best": 2}
    tenths = range(round(floor * 10), 11)
    return SeparationPlot(
        box=box,
        x_ticks=tuple(Tick(across(layer), str(layer)) for layer in every(layers, 16)),
        y_ticks=tuple(Tick(up(step / 10), f"{step / 10:.1f}") for step in tenths if len(tenths) <= 7 or step % 2 == 0),
        lines=tuple(sorted(lines, key=lambda line: order[line.kind])),
        best=None if best is None else (across(best[0]), up(_at(separation, best)), best_words(separation, best)),
    )


def best_words(separation: SeparationFacts, best: tuple[int, int]) -> str:
    """The marked place in words."""
    return f"layer {best[0]}, {position_words(best[1])}: AUROC {_at(separation, best):.3f}"


def _at(separation: SeparationFacts, place: tuple[int, int]) -> float:
    return separation.auroc[place[0]][place[1]]


def _line_kind(position: int, best: tuple[int, int] | None) -> str:
    if best is not None and position == best[1]:
        return "best"
    return "last" if position == 0 else "other"


def _polyline(
    separation: SeparationFacts, position: int, across: Callable[[int], float], up: Callable[[float], float]
) -> str:
    values = [(layer, row[position]) for layer, row in enumerate(separation.auroc)]
    return " ".join(f"{across(layer):g},{up(value):g}" for layer, value in values if math.isfinite(value))


# ---------------------------------------------------------------- strengths
def heat_plot(edit: EditFacts) -> HeatPlot | None:
    """A column a layer, a row a role; None for an empty plan."""
    if not edit.strengths:
        return None
    roles = [role for role in ROLES if any(row.role == role for row in edit.strengths)]
    wide = min(44.0, max(10.0, 770 / edit.layers))
    left, top, high = 104.0, 10.0, 40.0
    right, bottom = left + wide * edit.layers, top + high * len(roles)
    finite = [abs(value) for row in edit.strengths for value in row.values if math.isfinite(value)]
    largest = max(finite, default=0.0)
    grid: dict[tuple[int, str], list[Strengths]] = {}
    for strengths in edit.strengths:
        grid.setdefault((strengths.layer, strengths.role), []).append(strengths)
    cells = tuple(
        _cell(grid.get((layer, role), []), left + wide * layer, top + high * row, wide, largest)
        for row, role in enumerate(roles)
        for layer in range(edit.layers)
    )
    middle = left + wide / 2
    return HeatPlot(
        box=Box(width=right + 10, height=bottom + 46, left=left, right=right, top=top, bottom=bottom),
        cell=(rounded(wide), high),
        x_ticks=tuple(Tick(rounded(middle + wide * at), str(at)) for at in every(edit.layers, 770 // 24)),
        y_ticks=tuple(Tick(top + high * (row + 0.5), ROLE_WORDS[role]) for row, role in enumerate(roles)),
        cells=cells,
        largest=largest,
    )


def _cell(writers: list[Strengths], x: float, y: float, wide: float, largest: float) -> Cell:
    values = [value for writer in writers for value in writer.values]
    if not values:
        return Cell(rounded(x), y, "none", 0.0, "", "")
    mean = sum(values) / len(values)
    share = abs(mean) / largest if largest and math.isfinite(mean) else 0.0
    return Cell(
        x=rounded(x),
        y=y,
        sign="minus" if mean < 0 else "plus",
        opacity=round(0.08 + 0.62 * min(1.0, share), 3),
        label=signed(mean) if wide >= 34 else "",
        title=strength_words(writers),
    )


def strength_words(writers: list[Strengths]) -> str:
    """Every writer's strengths, or their range where there are many."""
    if len(writers) <= 4:
        return "\n".join(f"{writer.name}: λ {', '.join(map(signed, writer.values))}" for writer in writers)
    values = [value for writer in writers for value in writer.values]
    return f"{len(writers)} writers, {writers[0].name} …: λ {signed(min(values))} to {signed(max(values))}"


# ---------------------------------------------------------------- rates at a glance
def whisker_plot(scores: tuple[tuple[str, Score], ...]) -> WhiskerPlot:
    """(heading, score) pairs as rows; a rate of nothing has no row."""
    measured = [(name, score.behaviour) for name, score in scores if score.behaviour.total]
    left, right, step = 16.0, 664.0, 46.0
    box = Box(
        width=680.0, height=step * len(measured) + 34, left=left, right=right, top=0.0, bottom=step * len(measured)
    )

    def across(value: float) -> float:
        return rounded(left + (right - left) * min(1.0, max(0.0, value)))

    rows = tuple(
        Whisker(
            y=step * row + 32,
            x=across(behaviour.value),
            low=across(behaviour.low),
            high=across(behaviour.high),
            name=name,
            kind="edited" if name == "Edited" else "other",
            label=rate(behaviour),
        )
        for row, (name, behaviour) in enumerate(measured)
    )
    return WhiskerPlot(box, tuple(Tick(across(part / 4), f"{25 * part}%") for part in range(5)), rows)
