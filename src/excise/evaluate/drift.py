"""KL(base ‖ edited) per token over the base's own answers, full vocabulary (method.md §5)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from excise.errors import ModelError
from excise.executor import Batch, Resident
from excise.intervene import Substitution
from excise.results import Answer, Drift

WAVE_BYTES = 256 * 2**20
"""Base log-probabilities kept at once; more rows than that go in waves."""
_WORST = 10


def drift(executor: Resident, answers: Sequence[Answer], edit: Substitution, *, tokens: int = 64) -> Drift:
    """Drift over the first `tokens` answer tokens of every base answer, nats. Both models see the same tokens."""
    per_answer = token_divergences(executor, answers, edit, tokens=tokens)
    return drift_summary(per_answer, [answer.prompt.text for answer in answers])


def drift_summary(per_token: Sequence[Sequence[float]], prompts: Sequence[str]) -> Drift:
    """Sum up KL(base ‖ edited) in nats, one row of tokens an answer; the worst ten prompts by their mean.

    Rows without tokens count for nothing; where there is no token at all the numbers are nan.
    """
    if len(per_token) != len(prompts):
        raise ValueError(f"drift_summary: expected one row a prompt, found {len(per_token)} for {len(prompts)}.")
    rows = [(text, np.asarray(row, np.float64)) for text, row in zip(prompts, per_token, strict=True) if len(row)]
    if not rows:
        return Drift(math.nan, math.nan, math.nan, 0, math.nan, ())
    tokens = np.concatenate([row for _, row in rows])
    worst = sorted(((text, float(row.mean())) for text, row in rows), key=lambda entry: -entry[1])[:_WORST]
    return Drift(
        mean=float(tokens.mean()),
        median=float(np.median(tokens)),
        p95=float(np.quantile(tokens, 0.95)),
        tokens=len(tokens),
        first_token=float(np.mean([row[0] for _, row in rows])),
        worst=tuple(worst),
    )


def token_divergences(
    executor: Resident, answers: Sequence[Answer], edit: Substitution, *, tokens: int
) -> list[list[float]]:
    """KL at every answer position of every answer, in the order given."""
    found: list[list[float]] = []
    for wave in _waves(executor, answers, tokens):
        base = answer_log_probs(executor, wave, tokens=tokens)
        with edit.active():
            edited = answer_log_probs(executor, wave, tokens=tokens)
        found += [divergences(before, after) for before, after in zip(base, edited, strict=True)]
    return found


def between(base: Resident, other: Resident, answers: Sequence[Answer], *, tokens: int) -> list[list[float]]:
    """As `token_divergences`, for two models of one vocabulary that are both loaded. Raises ModelError otherwise."""
    found: list[list[float]] = []
    for wave in _waves(base, answers, tokens):
        before, after = (answer_log_probs(executor, wave, tokens=tokens) for executor in (base, other))
        if before[0].shape != after[0].shape:
            raise ModelError(
                f"{other.model.facts.source}: expected {before[0].shape[-1]} logits as the base has, "
                f"found {after[0].shape[-1]}. Compare models of one vocabulary."
            )
        found += [divergences(b, a) for b, a in zip(before, after, strict=True)]
    return found


def divergences(base: Float[Tensor, "position vocab"], edited: Float[Tensor, "position vocab"]) -> list[float]:
    """Σ p (log p − log q) at every position, from log-probabilities; rounding below zero counts as zero,
    and a broken model's nan stays nan."""
    values = torch.where(base > -torch.inf, base.exp() * (base - edited), 0.0).sum(-1)
    return list(values.clamp_min(0).tolist())


def answer_log_probs(
    executor: Resident, answers: Sequence[Answer], *, tokens: int
) -> list[Float[Tensor, "position vocab"]]:
    """log p of the whole vocabulary at the first `tokens` positions of each answer, on the CPU."""
    prompts = executor.model.encode([answer.prompt for answer in answers])
    kept = [answer.tokens[:tokens] for answer in answers]
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, kept, strict=True)]
    return _log_probs(executor, rows, [len(answer) for answer in kept])


def _waves(executor: Resident, answers: Sequence[Answer], tokens: int) -> list[list[Answer]]:
    """Answers in order, as many together as WAVE_BYTES hold log-probabilities of."""
    waves: list[list[Answer]] = [[]]
    size = 0
    for answer in answers:
        cost = 8 * executor.model.embeddings.num_embeddings * len(answer.tokens[:tokens])
        if waves[-1] and size + cost > WAVE_BYTES:
            waves.append([])
            size = 0
        waves[-1].append(answer)
        size += cost
    return waves


def _log_probs(executor: Resident, rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[Tensor]:
    """log p of every token of the vocabulary at the last `length` predicted positions of each row, on the CPU."""
    found: dict[int, Tensor] = {}

    def work(batch: Batch) -> dict[int, Tensor]:
        keep = max(lengths[index] for index in batch.index) + 1
        logp = torch.log_softmax(executor.forward(batch, keep=keep).float(), dim=-1)
        return {
            index: logp[row, -lengths[index] - 1 : -1].cpu() if lengths[index] else logp[row, :0].cpu()
            for row, index in enumerate(batch.index)
        }

    with torch.no_grad():
        for results in executor.map(rows, work):
            found.update(results)
    return [found[index] for index in range(len(rows))]
