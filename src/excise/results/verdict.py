"""The numbers of the report."""

from __future__ import annotations

from dataclasses import dataclass, field

from excise.results.answers import Judged, Rate


@dataclass(frozen=True)
class Drift:
    """KL(base ‖ edited) in nats per token over the base's own answers to neutral prompts; 0 is untouched."""

    mean: float
    median: float
    p95: float
    tokens: int
    first_token: float
    """Mean at the first answer token only, for comparison with other tools."""
    worst: tuple[tuple[str, float], ...]
    """(prompt, its mean KL), largest first."""


@dataclass(frozen=True)
class TopicRow:
    """Rates of one topic of the target prompts."""

    behaviour: Rate
    right: Rate | None


@dataclass(frozen=True)
class Score:
    """One state of the model (base, edited, control) on one split."""

    name: str
    behaviour: Rate
    """On target prompts."""
    right: Rate | None
    """Right answers on target prompts, where they are known."""
    neutral_behaviour: Rate
    """The behaviour on neutral prompts."""
    neutral_right: Rate | None
    kept: Rate | None
    """Neutral answers equal to the base's, token for token; None for the base."""
    empty: Rate
    gibberish: Rate
    truncated: Rate
    drift: Drift | None
    """None for the base."""
    topics: dict[str, TopicRow]
    target: tuple[Judged, ...]
    neutral: tuple[Judged, ...]


@dataclass(frozen=True)
class Verdict:
    """The numbers of the report, from the test split, measured once."""

    base: Score
    edited: Score
    controls: tuple[Score, ...]
    split: str = "test"
    notes: tuple[str, ...] = field(default=())
    """What was not measured, and other things that a reader must know."""
