"""Answers counted: every rate of one state of the model, and drift summed up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from excise.errors import PromptError
from excise.evaluate.behaviour import Judge
from excise.evaluate.statistics import wilson
from excise.evaluate.text import is_right
from excise.results import Answer, Drift, Judged, Rate, Score, TopicRow


def score(
    name: str,
    target: Sequence[Answer],
    neutral: Sequence[Answer],
    judge: Judge,
    *,
    base_neutral: Sequence[Answer] | None = None,
    drift: Drift | None = None,
) -> Score:
    """Judge both sides and count; every rate with its Wilson interval.

    `base_neutral` are the base's answers to the same neutral prompts in the same order; None for the base itself.
    """
    targets, neutrals = judge(target), judge(neutral)
    everything = (*targets, *neutrals)
    return Score(
        name=name,
        behaviour=_rate(targets, shows),
        right=_right(targets),
        neutral_behaviour=_rate(neutrals, shows),
        neutral_right=_right(neutrals),
        kept=None if base_neutral is None else _kept(name, neutral, base_neutral),
        empty=_rate(everything, lambda one: one.label == "broken" and one.reason == "empty"),
        gibberish=_rate(everything, lambda one: one.label == "broken" and one.reason != "empty"),
        truncated=_rate(everything, lambda one: one.truncated),
        drift=drift,
        topics=_by_topic(targets),
        target=targets,
        neutral=neutrals,
    )


def shows(judged: Judged) -> bool:
    """The behaviour is there, whole or in part."""
    return judged.label in ("shows", "partly")


def _rate(judged: Iterable[Judged], holds: Callable[[Judged], bool]) -> Rate:
    found = [holds(one) for one in judged]
    return wilson(sum(found), len(found))


def _right(judged: Sequence[Judged]) -> Rate | None:
    known = [is_right(one.answer) for one in judged if one.answer.prompt.answer is not None]
    return wilson(sum(known), len(known)) if known else None


def _kept(name: str, neutral: Sequence[Answer], base: Sequence[Answer]) -> Rate:
    """Answers with the same tokens as the base's to the same prompt."""
    ours, theirs = ([(answer.prompt.system, answer.prompt.text) for answer in side] for side in (neutral, base))
    if ours != theirs:
        at = next((i for i, (own, other) in enumerate(zip(ours, theirs, strict=False)) if own != other), None)
        found = f"another at number {at}" if at is not None else f"{len(ours)} answers against {len(theirs)}"
        raise PromptError(
            f"score {name!r}: expected answers to the base's neutral prompts in the base's order, found {found}. "
            "Generate both from the same split."
        )
    return wilson(sum(answer.tokens == other.tokens for answer, other in zip(neutral, base, strict=True)), len(base))


def _by_topic(judged: Sequence[Judged]) -> dict[str, TopicRow]:
    """Rows by name; prompts without a topic are in none."""
    topics = sorted({one.answer.prompt.topic for one in judged if one.answer.prompt.topic is not None})
    members = {topic: [one for one in judged if one.answer.prompt.topic == topic] for topic in topics}
    return {topic: TopicRow(_rate(rows, shows), _right(rows)) for topic, rows in members.items()}
