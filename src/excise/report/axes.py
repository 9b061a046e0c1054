"""What the plots share: boxes, ticks, and numbers rounded for drawing (SVG units)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """A drawing's size and the rectangle inside it that holds the marks."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    label: str


def rounded(value: float) -> float:
    """Two decimals: a hundredth of a unit is not seen, and the bytes stay the same everywhere."""
    return round(value, 2)


def up_share(value: float, box: Box) -> float:
    """Height of a share 0..1, with 0 at the bottom."""
    return rounded(box.bottom - (box.bottom - box.top) * value)


def percent_ticks(box: Box) -> tuple[Tick, ...]:
    """0% to 100% upwards in quarters."""
    return tuple(Tick(up_share(part / 100, box), f"{part}%") for part in (0, 25, 50, 75, 100))


def every(total: int, most: int) -> range:
    """0, s, 2s, ... below total with the smallest step that gives no more than `most`."""
    return range(0, total, max(1, math.ceil(total / most)))
