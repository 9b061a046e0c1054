"""A small judge for one model, trained on that model's own answers: logistic regression on hashed words.

What it sees of an answer is its manner: words of the prompt are masked, so that a topic cannot stand for the behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log1p
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import coo_array, csr_array, hstack, vstack

from excise.evaluate.broken import broken
from excise.evaluate.text import masked, recurring, restated, skeletons, unquoted
from excise.results import Answer, Judged, Label

Form = tuple[str, ...]

_GRAMS, _OPENERS = 1 << 15, 1 << 13
_LENGTH, _RESTATED, _RECURS, _BIAS = (_GRAMS + _OPENERS + index for index in range(4))
_WIDTH = _BIAS + 1
_TAGGED = 6
"""So many first words also count with their place."""
_RIDGE = 1e-3
_DOUBT = 0.05
"""Weight of the rule that an answer of which nothing is known does not show the behaviour; each side weighs 0.5."""
_MIX = (np.uint64(0x9E3779B1), np.uint64(0x85EBCA6B), np.uint64(0xC2B2AE35))
_LOW32 = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class LearnedJudge:
    """Tells one model's answers that show the behaviour from its other answers."""

    weights: NDArray[np.float64]
    """One a feature; the bias last."""
    forms: Mapping[Form, float]
    """Openings that recur where the behaviour shows: masked words, and the share of its prompts."""
    seed: int
    """Starting value of the word hash."""

    def scores(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """How much each answer is like those that showed the behaviour, 0..1."""
        if not answers:
            return np.zeros(0)
        logits = _features(answers, self.forms, self.seed) @ self.weights
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -50, 50))), np.float64)

    def __call__(self, answers: Sequence[Answer]) -> tuple[Judged, ...]:
        """`shows` from 0.5 on, `absent` below; broken answers are told apart first."""
        judged = []
        for answer, score in zip(answers, self.scores(answers).tolist(), strict=True):
            cut = answer.finish == "length"
            if reason := broken(answer.text):
                judged.append(Judged(answer, "broken", 0.0, reason, cut))
            else:
                label: Label = "shows" if score >= 0.5 else "absent"
                judged.append(Judged(answer, label, score, f"likeness to the base's own: {score:.2f}", cut))
        return tuple(judged)


def fit(shown: Sequence[Answer], absent: Sequence[Answer], seed: int = 0) -> LearnedJudge:
    """The judge that tells `shown` from `absent` answers: ridge logistic regression, both sides of equal weight.

    Convex, from zero, in float64: the same answers always give the same judge.
    """
    if not shown or not absent:
        raise ValueError(f"fit: expected answers of both kinds, found {len(shown)} shown and {len(absent)} absent.")
    forms = recurring(shown, absent, least=max(3, len(shown) // 20))
    features = vstack([_features([*shown, *absent], forms, seed), _nothing_known()], format="csr")
    used = np.unique(features.indices)
    sides = [len(shown), len(absent), 1]
    wanted = np.repeat([1.0, -1.0, -1.0], sides)
    share = np.repeat([0.5 / len(shown), 0.5 / len(absent), _DOUBT], sides)
    weights = np.zeros(_WIDTH)
    weights[used] = _regress(csr_array(features[:, used]), wanted, share, free=int(np.searchsorted(used, _BIAS)))
    return LearnedJudge(weights, forms, seed)


def _nothing_known() -> csr_array:
    """An answer of new words that restates nothing: by itself no sign of the behaviour."""
    return csr_array(([1.0], ([0], [_BIAS])), shape=(1, _WIDTH))


def _regress(
    features: csr_array, wanted: NDArray[np.float64], share: NDArray[np.float64], free: int
) -> NDArray[np.float64]:
    """argmin Σ share · log(1 + exp(−wanted · Xw)) + ½ ridge ‖w‖², the column `free` (the bias) without ridge."""
    ridge = np.full(features.shape[1], _RIDGE)
    ridge[free] = 0.0

    def objective(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin = wanted * (features @ weights)
        loss = share @ np.logaddexp(0.0, -margin) + 0.5 * ridge @ weights**2
        pull = -wanted * share / (1 + np.exp(np.clip(margin, -500, 500)))
        return float(loss), features.T @ pull + ridge * weights

    found = minimize(objective, np.zeros(features.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return np.asarray(found.x, np.float64)


def _features(answers: Sequence[Answer], forms: Mapping[Form, float], seed: int) -> csr_array:
    """One row an answer; word grams and tagged openers each of length 1, so that long answers weigh no more."""
    own = [masked(answer, unquoted(answer.text)) for answer in answers]
    sizes = np.array([len(words) for words in own])
    row = np.repeat(np.arange(len(own)), sizes)
    ids = np.fromiter((_hash(word, seed) for words in own for word in words), np.uint64, count=len(row))
    pairs = (ids[:-1] * _MIX[0] + ids[1:]) & _LOW32
    triples = (pairs[:-1] * _MIX[1] + ids[2:]) & _LOW32
    two, three = row[1:] == row[:-1], row[2:] == row[:-2]
    grams = _unit_rows([row, row[1:][two], row[2:][three]], [ids, pairs[two], triples[three]], _GRAMS, len(own))
    place = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    first, second = place < _TAGGED, two & (place[:-1] < _TAGGED)
    tags = (
        ids[first] + place[first].astype(np.uint64) * _MIX[2],
        pairs[second] + (place[:-1][second] + 64).astype(np.uint64) * _MIX[2],
    )
    openers = _unit_rows([row[first], row[:-1][second]], [(tag & _LOW32) * _MIX[0] for tag in tags], _OPENERS, len(own))
    facts = [
        (log1p(len(words)) / 16, restated(answer), float(any(form in forms for form in skeletons(answer))), 1.0)
        for words, answer in zip(own, answers, strict=True)
    ]
    return csr_array(hstack([grams, openers, csr_array(np.array(facts))], format="csr"))


def _unit_rows(rows: list[NDArray[np.int64]], hashes: list[NDArray[np.uint64]], width: int, height: int) -> coo_array:
    """Row by row the set of hashed columns, each worth 1 / √(how many)."""
    column = (np.concatenate(hashes) % np.uint64(width)).astype(np.int64)
    key = np.unique(np.concatenate(rows) * width + column)
    row, column = np.divmod(key, width)
    counts = np.bincount(row)
    return coo_array((1 / np.sqrt(counts[row]), (row, column)), shape=(height, width))


@lru_cache(maxsize=1 << 17)
def _hash(word: str, seed: int) -> int:
    """CRC-32: Python's own hash differs from process to process."""
    return crc32(word.encode(), seed)
