"""The search objective on teacher-forced answers: three terms in nats, with gradients for strengths and directions.

    first    −log of how neutral-like the first answer token is on target prompts, above what neutral prompts show
    target   KL(base ‖ edited) per token over the rest of the answers wanted on target prompts
    neutral  KL(base ‖ edited) per token over the base's answers to neutral prompts

The base's side is computed once and kept as its K most likely tokens and a tail bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from excise.executor import Batch, Resident
from excise.intervene import Steering
from excise.results import Reference, References, Terms
from excise.search.below import Below

TOP = 256
"""Tokens of the base's distribution that are kept apart; the rest is one bucket. Reported KL never uses this."""
FLOOR = 1e-3
"""Added to first-token frequencies, so that tokens that neither side uses count as not neutral-like."""


@dataclass(frozen=True)
class Kept:
    """The base's distribution at every answer position of some rows."""

    tokens: Int[Tensor, "row position top"]
    logp: Float[Tensor, "row position top_and_tail"]
    counted: Bool[Tensor, "row position"]
    """False where a row has no token there, or a forced one."""


@dataclass(frozen=True)
class Part:
    """One micro-batch of the objective."""

    batch: Batch
    base: Kept
    is_target: Bool[Tensor, " row"]
    has_first: Bool[Tensor, " row"]
    """Rows whose first token goes by neutral-likeness (opener targets)."""
    answer: Int[Tensor, " row"]
    """Answer tokens of each row; they stand at the end of the row."""


def kept_log_probs(logits: Float[Tensor, "row position vocab"], top: int) -> tuple[Tensor, Tensor]:
    """The `top` largest log-probabilities with their tokens, and log of all the rest as a last entry."""
    logp = torch.log_softmax(logits.float(), dim=-1)
    values, tokens = logp.topk(min(top, logp.shape[-1]), dim=-1)
    return tokens, torch.cat([values, tail(values)], dim=-1)


def tail(values: Float[Tensor, "*batch top"]) -> Float[Tensor, "*batch 1"]:
    """log(1 − Σ exp(values)), from below kept off −∞."""
    return torch.log((1 - values.exp().sum(-1, keepdim=True)).clamp_min(1e-9))


def divergence(base: Float[Tensor, "*batch top_and_tail"], edited: Float[Tensor, "*batch top_and_tail"]) -> Tensor:
    """KL(base ‖ edited) over the kept tokens and the tail bucket: a lower bound of the full KL."""
    return (base.exp() * (base - edited)).sum(-1)


class Objective:
    """The three terms for rows of several candidates at once. Built once per round; costs one base pass."""

    def __init__(self, executor: Resident, references: References) -> None:
        self.executor = executor
        self.references = (*references.target, *references.neutral, *references.keep)
        self.targets = len(references.target)
        self._usual = range(self.targets, self.targets + len(references.neutral))
        self._opener_first = references.source != "plain"
        self._weights: Tensor | None = None
        self._hinge = 0.0
        self._parts: dict[object, list[Part]] = {}
        self._below: Below | None = None
        rows = [self._row(reference, reference.prompt) for reference in self.references]
        teacher = [self._row(reference, reference.teacher) for reference in self.references]
        kept = self._base(teacher)
        self.rows = rows
        self.kept = kept
        if self._opener_first:
            self._learn_first()

    def _row(self, reference: Reference, prompt: object) -> list[int]:
        return [*self.executor.model.encode([prompt])[0], *reference.tokens]  # type: ignore[list-item]

    def _base(self, rows: Sequence[Sequence[int]]) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
        """For every reference: kept tokens, their log-probabilities and the full first-token distribution."""
        found: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

        def work(batch: Batch) -> list[tuple[int, tuple[Tensor, Tensor, Tensor]]]:
            lengths = [len(self.references[index].tokens) for index in batch.index]
            logits = self.executor.forward(batch, keep=max(lengths) + 1)
            out = []
            for row, (index, length) in enumerate(zip(batch.index, lengths, strict=True)):
                own = logits[row, -length - 1 : -1]
                tokens, logp = kept_log_probs(own[None], TOP)
                out.append((index, (tokens[0], logp[0], torch.softmax(own[0].float(), -1))))
            return out

        with torch.no_grad():
            for results in self.executor.map(rows, work):
                found.update(results)
        return found

    def _learn_first(self) -> None:
        """w(t) = q(t) / (q(t) + r(t) + ε): how neutral-like a first token is, from the base's own first tokens.

        The forced first token of a target reference is no evidence, so r comes from the distribution before it.
        """
        neutral = torch.stack([self.kept[index][2] for index in self._usual])
        target = torch.stack([self.kept[index][2] for index in range(self.targets)])
        q, r = neutral.mean(0), target.mean(0)
        self._weights = q / (q + r + FLOOR)
        self._hinge = float(-(neutral @ self._weights).clamp_min(1e-9).log().mean())

    @contextmanager
    def edited_from(self, layer: int) -> Iterator[None]:
        """Inside, no block below `layer` is edited: its states are computed once for each part and kept."""
        self._below = Below(self.executor.blocks or (), layer)
        try:
            with self._below.reading():
                yield
        finally:
            self._below = None

    def count(self, chosen: Sequence[int] | None = None) -> tuple[int, int]:
        """(target, neutral) references among the chosen ones; None: all."""
        own = range(len(self.references)) if chosen is None else chosen
        targets = sum(index < self.targets for index in own)
        return targets, len(own) - targets

    def parts(self, chosen: Sequence[int] | None = None, copies: int = 1) -> list[Part]:
        """Micro-batches of the chosen references, each row `copies` times in a row (one for each candidate); kept."""
        key = (None if chosen is None else tuple(chosen), copies, self.executor.micro_batch)
        if key not in self._parts:
            self._parts[key] = self._make_parts(range(len(self.references)) if chosen is None else chosen, copies)
        return self._parts[key]

    def _make_parts(self, own: Sequence[int], copies: int) -> list[Part]:
        repeated = [index for index in own for _ in range(copies)]
        parts = []
        for batch in self.executor.batches([self.rows[index] for index in repeated]):
            indices = [repeated[position] for position in batch.index]
            parts.append(self._part(batch, indices))
        return parts

    def _part(self, batch: Batch, indices: Sequence[int]) -> Part:
        lengths = torch.tensor([len(self.references[index].tokens) for index in indices])
        width, device = int(lengths.max()), batch.ids.device
        top = self.kept[indices[0]][0].shape[-1]
        tokens = torch.zeros(len(indices), width, top, dtype=torch.long)
        logp = torch.zeros(len(indices), width, top + 1)
        counted = torch.zeros(len(indices), width, dtype=torch.bool)
        for row, index in enumerate(indices):
            length = int(lengths[row])
            tokens[row, width - length :], logp[row, width - length :] = self.kept[index][0], self.kept[index][1]
            counted[row, width - length + self.references[index].forced :] = True
        is_target = torch.tensor([index < self.targets for index in indices])
        kept = Kept(tokens.to(device), logp.to(device), counted.to(device))
        return Part(batch, kept, is_target.to(device), (is_target & self._opener_first).to(device), lengths.to(device))

    def terms(self, part: Part) -> tuple[Tensor, Tensor]:
        """(first, divergence) of every row of a part under whatever hooks are active.

        first [row]: hinged neutral-likeness of the first token, 0 for neutral rows. divergence [row]: mean KL over the
        row's counted positions.
        """
        width = part.base.counted.shape[1]
        logits = self.executor.forward(part.batch, keep=width + 1)[:, :-1]
        logp = torch.log_softmax(logits.float(), dim=-1)
        values = logp.gather(-1, part.base.tokens)
        kl = divergence(part.base.logp, torch.cat([values, tail(values)], -1)) * part.base.counted
        per_row = kl.sum(-1) / part.base.counted.sum(-1).clamp_min(1)
        rows = torch.arange(len(part.answer), device=part.answer.device)
        opening = logp[rows, width - part.answer]
        first = torch.zeros_like(per_row)
        if self._weights is not None:
            likeness = torch.log((opening.exp() @ self._weights.to(opening.device)).clamp_min(1e-9))
            first = torch.relu(-likeness - self._hinge) * part.has_first
        elif self.targets:
            first = kl[rows, width - part.answer] * part.is_target
        return first, per_row

    def run(
        self, steering: Steering, part: Part, units: Mapping[str, Tensor], strengths: Mapping[str, Tensor], copies: int
    ) -> tuple[Tensor, Tensor]:
        """`terms` with candidate c of [copy, ...] parameters on every row that is copy c."""
        copy = torch.tensor([position % copies for position in part.batch.index])
        by_row = ({name: value[copy] for name, value in values.items()} for values in (units, strengths))
        below = self._below.using(id(part)) if self._below else nullcontext()
        with steering.using(*by_row, rows=len(part.answer)), below:
            return self.terms(part)

    def summary(self, first: Tensor, kl: Tensor, is_target: Tensor) -> Terms:
        """Means over target and neutral rows."""
        return Terms(float(first[is_target].mean()), float(kl[is_target].mean()), float(kl[~is_target].mean()))
