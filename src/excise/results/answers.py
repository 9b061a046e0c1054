"""Prompts, answers, and what a judge made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Split = Literal["extract", "select", "confirm", "test"]
SPLITS: tuple[Split, ...] = ("extract", "select", "confirm", "test")
Label = Literal["shows", "partly", "absent", "broken"]


@dataclass(frozen=True)
class Prompt:
    """One user turn, with what is known about it."""

    text: str
    system: str | None = None
    """System message of its own; None: the run's, if any."""
    answer: str | None = None
    """The right answer word for word, where it is known."""
    topic: str | None = None
    """For tables by topic and for clustered statistics."""
    plain: str | None = None
    """The same request without what triggers the behaviour; its answer is the target of the search."""


@dataclass(frozen=True)
class PromptSet:
    """Prompts that should show the behaviour (target) and that should not (neutral), in disjoint splits."""

    target: dict[str, tuple[Prompt, ...]]
    """By split name."""
    neutral: dict[str, tuple[Prompt, ...]]
    """By split name."""
    dropped: dict[str, int]
    """How many prompts were left out, by reason ("empty", "duplicate", ...)."""
    keep: tuple[Prompt, ...]
    """Prompts whose answers must stay as they are, whatever they are: those that draw other behaviours."""
    fingerprint: str
    """SHA-256 over every text in every split, in order."""


@dataclass(frozen=True)
class Answer:
    """What a model said to a prompt."""

    prompt: Prompt
    text: str
    """The final answer, without special tokens and without the reasoning block."""
    tokens: tuple[int, ...]
    """Generated token ids, the end token included where it came."""
    finish: Literal["stop", "length"]
    """"length": the limit cut it off."""
    reasoning: str | None = None
    """The text of a thinking model's reasoning block; None: there was none."""


@dataclass(frozen=True)
class Judged:
    """An answer and what a judge made of it."""

    answer: Answer
    label: Label
    """`shows` and `partly` count as the behaviour."""
    score: float
    """0..1, how strongly the behaviour shows."""
    reason: str
    truncated: bool


@dataclass(frozen=True)
class Rate:
    """count of total with its 95% Wilson interval."""

    count: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """count / total; nan for an empty total."""
        return self.count / self.total if self.total else float("nan")
