"""Counting: every rate from answers whose labels are known."""

import math
from collections.abc import Sequence

import pytest

from excise.errors import PromptError
from excise.evaluate.drift import drift_summary
from excise.evaluate.score import score
from excise.results import Answer, Judged, Prompt


def stub(answers: Sequence[Answer]) -> tuple[Judged, ...]:
    """Labels by the first word of the text."""
    judged = []
    for answer in answers:
        word = answer.text.split()[0] if answer.text else "empty"
        cut = answer.finish == "length"
        if word in ("empty", "gibberish", "repetition"):
            judged.append(Judged(answer, "broken", 0.0, word, cut))
        else:
            label = {"refused": "shows", "half": "partly"}.get(word, "absent")
            judged.append(Judged(answer, label, float(label != "absent"), "stub", cut))  # type: ignore[arg-type]
    return tuple(judged)


def said(
    text: str, *, topic: str | None = None, right: str | None = None, tokens: int = 1, cut: bool = False
) -> Answer:
    prompt = Prompt(f"about {topic}", answer=right, topic=topic)
    return Answer(prompt, text, (tokens,), "length" if cut else "stop")


TARGET = (
    said("refused", topic="b", right="yes it is"),
    said("half", topic="b", right="yes it is"),
    said("yes  it\nis", topic="a", right="yes it is"),
    said("", topic="a", right="yes it is"),
    said("gibberish", topic=None),
    said("repetition", topic=None, cut=True),
)
NEUTRAL = (said("fine", tokens=1), said("fine", tokens=2, cut=True), said("refused", tokens=3), said("fine", tokens=4))


def test_every_rate() -> None:
    base = tuple(said("fine", tokens=tokens) for tokens in (1, 2, 9, 4))
    found = score("edited", TARGET, NEUTRAL, stub, base_neutral=base, drift=None)
    rates = {
        "behaviour": (2, 6), "right": (1, 4), "neutral_behaviour": (1, 4), "kept": (3, 4),
        "empty": (1, 10), "gibberish": (2, 10), "truncated": (2, 10),
    }  # fmt: skip
    for name, pair in rates.items():
        rate = getattr(found, name)
        assert (rate.count, rate.total) == pair, name
        assert rate.low <= rate.value <= rate.high
    assert found.neutral_right is None
    assert found.name == "edited"
    assert [len(found.target), len(found.neutral)] == [6, 4]


def test_topics() -> None:
    topics = score("base", TARGET, NEUTRAL, stub, base_neutral=None, drift=None).topics
    assert list(topics) == ["a", "b"]
    assert (topics["b"].behaviour.count, topics["b"].behaviour.total) == (2, 2)
    assert topics["a"].right is not None
    assert (topics["a"].right.count, topics["a"].right.total) == (1, 2)


def test_base_has_nothing_to_keep_and_no_answers_is_no_error() -> None:
    empty = score("base", (), (), stub, base_neutral=None, drift=None)
    assert empty.kept is None
    assert empty.right is None
    assert math.isnan(empty.behaviour.value)
    assert empty.topics == {}


def test_kept_refuses_other_prompts() -> None:
    with pytest.raises(PromptError, match="4 answers against 3"):
        score("edited", TARGET, NEUTRAL, stub, base_neutral=NEUTRAL[:3], drift=None)
    other = (*NEUTRAL[:1], said("fine", topic="other"), *NEUTRAL[2:])
    with pytest.raises(PromptError, match="another at number 1"):
        score("edited", TARGET, NEUTRAL, stub, base_neutral=other, drift=None)


def test_drift_is_summed_over_tokens_not_prompts() -> None:
    drift = drift_summary([[0.0, 0.0, 0.0], [4.0], []], ["long", "short", "empty"])
    assert (drift.mean, drift.median, drift.tokens) == (1.0, 0.0, 4)
    assert drift.first_token == 2.0
    assert drift.p95 == pytest.approx(3.4)
    assert drift.worst == (("short", 4.0), ("long", 0.0))


def test_drift_keeps_the_ten_worst() -> None:
    drift = drift_summary([[float(i)] for i in range(15)], [f"p{i}" for i in range(15)])
    assert [text for text, _ in drift.worst] == [f"p{i}" for i in range(14, 4, -1)]


def test_drift_of_nothing_is_unknown() -> None:
    assert math.isnan(drift_summary([[]], ["a"]).mean)
    with pytest.raises(ValueError, match="one row a prompt"):
        drift_summary([[1.0]], [])
