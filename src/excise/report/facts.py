"""All results of a run as plain values: the page and the card are filled from the same `Facts`.

Tensors end here: separation and strengths become tuples of floats, everything else is carried over as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from torch import Tensor

from excise.report.words import flatten
from excise.results import (
    SPLITS,
    Candidate,
    Confirmation,
    Directions,
    EditPlan,
    Front,
    ModelFacts,
    PromptSet,
    Rate,
    Round,
    Separation,
    Terms,
    Verdict,
)

Table = tuple[tuple[float, ...], ...]
"""Rows of numbers, e.g. [layer][position]."""


@dataclass(frozen=True)
class BehaviourWords:
    """How the behaviour is called in sentences."""

    name: str
    """Short, as a tag: "refusal"."""
    title: str
    """As a heading: "Refusal"."""
    description: str
    """One or two sentences."""
    verb: str = ""
    """Finishes "the model ... 3% of the prompts": "refuses". Empty: "shows <title> on"."""


@dataclass(frozen=True)
class SplitSize:
    """How many prompts one split holds."""

    split: str
    target: int
    neutral: int


@dataclass(frozen=True)
class PromptFacts:
    """Sizes of the prompt set."""

    splits: tuple[SplitSize, ...]
    dropped: tuple[tuple[str, int], ...]
    """(reason, prompts left out)."""
    fingerprint: str


@dataclass(frozen=True)
class SeparationFacts:
    """`Separation` as lists."""

    auroc: Table
    gap: Table
    cosine: Table
    best: tuple[int, int] | None
    """(layer, position) of the highest AUROC; None where there is no finite one."""


@dataclass(frozen=True)
class DirectionFacts:
    """`Directions` without the vectors."""

    method: str
    source: str
    per_layer: int
    separation: float


@dataclass(frozen=True)
class Strengths:
    """The strengths λ of one writer."""

    name: str
    layer: int
    role: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class EditFacts:
    """The chosen plan without the direction vectors."""

    norm: str
    strengths: tuple[Strengths, ...]
    layers: int
    """Decoder blocks of the model as far as the results show: edited or measured ones."""
    tensors: int
    """Stored tensors that change."""

    @property
    def directions(self) -> int:
        """The most directions that one writer loses."""
        return max((len(row.values) for row in self.strengths), default=0)


@dataclass(frozen=True)
class FrontPoint:
    """One candidate without its plan."""

    index: int
    round: int
    weight: float
    terms: Terms
    select: Rate | None
    confirmed: Confirmation | None
    chosen: bool

    @property
    def behaviour(self) -> Rate | None:
        """On the confirm split where it was generated, else on the select split."""
        return self.confirmed.behaviour if self.confirmed else self.select

    @property
    def drift(self) -> float:
        """KL per token on neutral prompts, nats; from the same split as `behaviour`."""
        return self.confirmed.drift if self.confirmed else self.terms.neutral


@dataclass(frozen=True)
class FrontFacts:
    """`Front` without plans."""

    points: tuple[FrontPoint, ...]
    rounds: tuple[Round, ...]
    method: str
    stopped: str


@dataclass(frozen=True)
class Facts:
    """Everything that the page and the card may say."""

    settings: tuple[tuple[str, str], ...]
    """(dotted key, value), sorted."""
    command: str
    """What makes this run again."""
    versions: tuple[tuple[str, str], ...]
    model: ModelFacts
    hub_id: str | None
    """The base's id on the hub; None for a local folder."""
    licence: tuple[tuple[str, str], ...]
    """`license*` fields of the base's card."""
    behaviour: BehaviourWords
    judge: str
    """One sentence: what judged the answers."""
    prompts: PromptFacts
    separation: SeparationFacts | None
    directions: DirectionFacts | None
    front: FrontFacts | None
    budget: float | None
    """Damage that the search was allowed, KL per token in nats."""
    edit: EditFacts
    verdict: Verdict

    @property
    def base_name(self) -> str:
        """The base's hub id or, for a folder, its last part (a full path says too much about its owner)."""
        return self.hub_id or PurePath(self.model.source).name or PurePath(self.model.path).name or "base"


def gather(
    *,
    settings: Mapping[str, object],
    command: str,
    versions: Mapping[str, str],
    model: ModelFacts,
    behaviour: BehaviourWords,
    judge: str,
    prompts: PromptSet,
    plan: EditPlan,
    verdict: Verdict,
    separation: Separation | None = None,
    directions: Directions | None = None,
    front: Front | None = None,
    budget: float | None = None,
    licence: Mapping[str, str] | None = None,
) -> Facts:
    """Facts of one run; what a run does not have (a search, a measurement of layers) stays None and is left out."""
    measured = _separation(separation)
    return Facts(
        settings=flatten(settings),
        command=command,
        versions=tuple(sorted(versions.items())),
        model=model,
        hub_id=_hub_id(model),
        licence=tuple(sorted((licence or {}).items())),
        behaviour=behaviour,
        judge=judge,
        prompts=_prompts(prompts),
        separation=measured,
        directions=None if directions is None else _directions(directions),
        front=None if front is None else _front(front),
        budget=budget,
        edit=_edit(plan, len(measured.auroc) if measured else 0),
        verdict=verdict,
    )


def _hub_id(model: ModelFacts) -> str | None:
    """The source, if it reads like "owner/name" and the files were not read from a folder of that very name."""
    parts = tuple(model.source.split("/"))
    allowed = all(part and part not in (".", "..") and _is_hub_name(part) for part in parts)
    if len(parts) != 2 or not allowed or PurePath(model.path).parts[-2:] == parts:
        return None
    return model.source


def _is_hub_name(part: str) -> bool:
    return part.isascii() and all(letter.isalnum() or letter in "-_." for letter in part)


def _prompts(prompts: PromptSet) -> PromptFacts:
    extra = sorted((set(prompts.target) | set(prompts.neutral)) - set(SPLITS))
    return PromptFacts(
        splits=tuple(
            SplitSize(split, len(prompts.target.get(split, ())), len(prompts.neutral.get(split, ())))
            for split in (*SPLITS, *extra)
        ),
        dropped=tuple(sorted(prompts.dropped.items())),
        fingerprint=prompts.fingerprint,
    )


def _table(values: Tensor) -> Table:
    return tuple(tuple(float(value) for value in row) for row in values.tolist())


def _separation(separation: Separation | None) -> SeparationFacts | None:
    if separation is None or not separation.auroc.numel():
        return None
    auroc = _table(separation.auroc)
    places = [
        (value, -layer, -position)
        for layer, row in enumerate(auroc)
        for position, value in enumerate(row)
        if math.isfinite(value)
    ]
    best = max(places, default=None)  # of equals the first layer, then the last token
    return SeparationFacts(
        auroc=auroc,
        gap=_table(separation.gap),
        cosine=_table(separation.cosine),
        best=None if best is None else (-best[1], -best[2]),
    )


def _directions(directions: Directions) -> DirectionFacts:
    return DirectionFacts(directions.method, directions.source, directions.vectors.shape[1], directions.separation)


def _edit(plan: EditPlan, layers: int) -> EditFacts:
    strengths = tuple(
        Strengths(edit.writer.name, edit.writer.layer, edit.writer.role, tuple(map(float, edit.strengths.tolist())))
        for edit in plan.edits
    )
    return EditFacts(
        norm=plan.norm,
        strengths=strengths,
        layers=max([layers, *(row.layer + 1 for row in strengths)]),
        tensors=sum(len(edit.writer.tensors) + (edit.writer.bias is not None) for edit in plan.edits),
    )


def _front(front: Front) -> FrontFacts:
    def point(candidate: Candidate) -> FrontPoint:
        return FrontPoint(
            index=candidate.index,
            round=candidate.round,
            weight=candidate.weight,
            terms=candidate.terms,
            select=candidate.select,
            confirmed=candidate.confirmed,
            chosen=candidate.index == front.chosen,
        )

    return FrontFacts(tuple(map(point, front.candidates)), front.rounds, front.method, front.stopped)
