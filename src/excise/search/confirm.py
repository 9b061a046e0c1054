"""Confirmation: a few candidates of the front answer the confirm split for real, once, and the best is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from excise.evaluate.behaviour import Judge
from excise.evaluate.drift import drift
from excise.evaluate.statistics import wilson
from excise.executor import Resident
from excise.intervene import Substitution
from excise.results import Answer, Candidate, Confirmation, Front, Prompt
from excise.search.front import choose, rate
from excise.search.rounds import Wanted

FINALISTS = 3


def confirm(
    executor: Resident,
    front: Front,
    target: Sequence[Prompt],
    neutral: Sequence[Prompt],
    judge: Judge,
    wanted: Wanted,
    rounded_to: Mapping[str, torch.dtype],
) -> Front:
    """The front with its finalists confirmed and the choice made anew among them.

    Finalists: the search's choice, then candidates with the least behaviour on the select split.
    """
    chosen = next(c for c in front.candidates if c.index == front.chosen)
    others = sorted((c for c in front.candidates if c is not chosen), key=lambda c: (rate(c), c.terms.neutral, c.index))
    finalists = [chosen, *others][:FINALISTS]
    base = executor.generate(neutral, wanted.tokens)
    confirmed = {
        candidate.index: replace(
            candidate, confirmed=_confirmation(executor, candidate, target, base, judge, wanted, rounded_to)
        )
        for candidate in finalists
    }
    best = choose(list(confirmed.values()), max_drift=wanted.max_drift)
    return replace(front, candidates=tuple(confirmed.get(c.index, c) for c in front.candidates), chosen=best.index)


def _confirmation(
    executor: Resident,
    candidate: Candidate,
    target: Sequence[Prompt],
    base: Sequence[Answer],
    judge: Judge,
    wanted: Wanted,
    rounded_to: Mapping[str, torch.dtype],
) -> Confirmation:
    edit = Substitution(executor.model.module, candidate.plan, rounded_to=rounded_to)
    with edit.active():
        said = judge(executor.generate(target, wanted.tokens))
        neutral = executor.generate([answer.prompt for answer in base], wanted.tokens)
    return Confirmation(
        behaviour=wilson(sum(row.label in ("shows", "partly") for row in said), len(said)),
        broken=wilson(sum(row.label == "broken" for row in said), len(said)),
        kept=wilson(sum(a.tokens == b.tokens for a, b in zip(neutral, base, strict=True)), len(base)),
        drift=drift(executor, base, edit, tokens=wanted.tokens).mean,
    )
