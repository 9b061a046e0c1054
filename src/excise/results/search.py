"""Edits, what a search holds them against, and what it found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from excise.results.answers import Answer, Prompt, Rate
from excise.results.model import Writer

Norm = Literal["none", "columns", "rows"]


@dataclass(frozen=True)
class WriterEdit:
    """One writer's edit: W' = norm(W − Uᵀ Λ U W)."""

    writer: Writer
    units: Float[Tensor, "k d_model"]
    """float32, orthonormal rows."""
    strengths: Float[Tensor, " k"]
    """λ, float32. 1 removes, 0 leaves, negative strengthens, 2 reflects."""


@dataclass(frozen=True)
class EditPlan:
    """The whole edit of a model: enough to make the checkpoint again from its base."""

    edits: tuple[WriterEdit, ...]
    norm: Norm = "none"


@dataclass(frozen=True)
class BaseAnswers:
    """What the unedited model says, before anything is searched."""

    target: tuple[Answer, ...]
    """To target prompts of the extract split."""
    neutral: tuple[Answer, ...]
    """To neutral prompts of the extract split."""
    select: tuple[Answer, ...]
    """To target prompts of the select split."""
    openers: tuple[str, ...]
    """The usual openers of neutral answers, in the order in which they were tried; empty for `plain` targets."""
    keep: tuple[Answer, ...]
    """To the prompts whose answers must stay."""
    forced: tuple[Answer, ...]
    """Answers to target prompts of the extract split, made to begin with the first opener."""


@dataclass(frozen=True)
class Reference:
    """One teacher-forced answer, and the context in which the base's distribution over it counts."""

    prompt: Prompt
    """The prompt that the edited model sees."""
    teacher: Prompt
    """The prompt under which the base is asked; the same as `prompt` but for `plain` targets."""
    tokens: tuple[int, ...]
    """Answer tokens."""
    forced: int
    """How many leading tokens were forced: they do not count as the model's own words."""


@dataclass(frozen=True)
class References:
    """What the search holds an edit against."""

    target: tuple[Reference, ...]
    neutral: tuple[Reference, ...]
    keep: tuple[Reference, ...]
    """Other behaviours' answers: damage to them counts as damage to neutral ones."""
    source: str
    """"openers", "plain" or "coarse edit"."""


@dataclass(frozen=True)
class Terms:
    """The parts of the search objective for one candidate on the select split; lower is better, all in nats."""

    first: float
    """KL(wanted first-token distribution ‖ edited) on target prompts."""
    target: float
    """KL(base ‖ edited) per token over the prefilled answers to target prompts."""
    neutral: float
    """KL(base ‖ edited) per token over answers to neutral prompts."""


@dataclass(frozen=True)
class Confirmation:
    """Real generation on the confirm split, judged."""

    behaviour: Rate
    broken: Rate
    kept: Rate
    drift: float
    """Mean KL per token, nats, on neutral prompts."""


@dataclass(frozen=True)
class Candidate:
    """One point of the search path."""

    index: int
    round: int
    """Refinement round it came from, from 1."""
    weight: float
    """κ, the price of damage while it was found; 0 for sampled candidates."""
    plan: EditPlan
    terms: Terms
    select: Rate | None
    """Behaviour on the select split by generation, where it was generated."""
    confirmed: Confirmation | None = None


@dataclass(frozen=True)
class Round:
    """One round of search or refinement."""

    number: int
    directions: str
    """Source of the start that won."""
    starts: dict[str, float]
    """Objective of every start after the warm-up steps."""
    steps: int
    select: Rate
    """Behaviour left on the select split at the end of the round."""
    drift: float
    """Mean KL per token on neutral select prompts, nats."""
    seconds: float
    """Clock time; not part of the reproducible bytes."""


@dataclass(frozen=True)
class Front:
    """All candidates worth showing, none better than another in both behaviour and damage, and the one chosen."""

    candidates: tuple[Candidate, ...]
    chosen: int
    """Index of the chosen candidate (its `index` field)."""
    rounds: tuple[Round, ...]
    method: str
    """"gradient" or "sampler"."""
    stopped: str
    """Why it ended: "rate reached", "budget", "rounds", "time limit"."""
