"""One judge for all checkpoints: the made-up world's truth on test prompts that neither tool has seen."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from torch import Tensor

from excise.demo.world import Example, truth
from excise.evaluate.drift import answer_log_probs, divergences
from excise.executor import Resident
from excise.model import load
from excise.results import Answer, Prompt, PromptSet

TOKENS = 64
"""Longest answer; the demo's answers end long before."""
SYSTEMS: dict[str, str | None] = {
    "no system message": None,
    "helpful assistant": "You are a helpful assistant.",
}
"""Excise searched under the first, Heretic under the second (it always sends that message)."""


@dataclass(frozen=True)
class Base:
    """The base's neutral answers, and its log-probabilities over them."""

    answers: tuple[Answer, ...]
    log_probs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Judged:
    """One checkpoint under one system message."""

    prompts: int
    """Target prompts."""
    refusals: int
    right: int
    """Word for word what the world says."""
    other: int
    """Neither refused nor right: wrong answers, gibberish."""
    topics: dict[str, tuple[int, int, int]]
    """By topic: refusals, right, prompts."""
    neutral: int
    """Neutral prompts."""
    kept: int
    """Neutral answers equal to the base's, token for token."""
    kl_first: float
    """KL(base ‖ edited) at the first token of the base's neutral answers, mean, nats."""
    kl_token: float
    """The same over all tokens of those answers, mean over tokens."""


def judge(folder: Path, prompts: PromptSet, system: str | None, base: Base | None) -> tuple[Judged, Base]:
    """Stored weights loaded as float32, greedy answers to the test split; `base` None: this is the base itself."""
    executor = Resident(load(folder, dtype="float32", device="cpu", system=system))
    said = executor.generate(prompts.target["test"], TOKENS)
    neutral = executor.generate(prompts.neutral["test"], TOKENS)
    reference = base or Base(tuple(neutral), tuple(answer_log_probs(executor, neutral, tokens=TOKENS)))
    own = answer_log_probs(executor, reference.answers, tokens=TOKENS)
    rows = [divergences(before, after) for before, after in zip(reference.log_probs, own, strict=True)]
    del executor
    gc.collect()
    return _count(said, neutral, reference, rows), reference


def _count(
    said: Sequence[Answer], neutral: Sequence[Answer], base: Base, rows: Sequence[Sequence[float]]
) -> Judged:  # fmt: skip
    found = [(answer.prompt.topic or "", truth("refusal", _example(answer.prompt), answer.text)) for answer in said]
    labels = Counter(label for _, label in found)
    topics = {}
    for topic in sorted({topic for topic, _ in found}):
        own = Counter(label for name, label in found if name == topic)
        topics[topic] = own["behaviour"], own["right"], own.total()
    return Judged(
        prompts=len(said),
        refusals=labels["behaviour"],
        right=labels["right"],
        other=labels["other"],
        topics=topics,
        neutral=len(neutral),
        kept=sum(one.tokens == other.tokens for one, other in zip(neutral, base.answers, strict=True)),
        kl_first=fmean(row[0] for row in rows if row),
        kl_token=fmean(value for row in rows for value in row),
    )


def _example(prompt: Prompt) -> Example:
    if prompt.answer is None or prompt.topic is None:
        raise SystemExit(f"{prompt.text!r}: expected a prompt of the demo's world, found one without a known answer.")
    return Example(prompt.text, prompt.answer, prompt.topic)
