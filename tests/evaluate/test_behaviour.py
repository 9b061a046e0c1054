"""Markers and filters on hand-written answers."""

import pytest
from judge_cases import ABSENT, BROKEN, FILLER, HEDGING, MORE_HEDGING, PARTLY, REFUSAL, SHOWS, Plain, answered

from excise.behaviours import load, names
from excise.errors import SettingsError
from excise.evaluate.behaviour import Judge, MarkerJudge, broken
from excise.results import Answer, Prompt


@pytest.mark.parametrize(("texts", "label"), [(SHOWS, "shows"), (PARTLY, "partly"), (ABSENT, "absent")])
def test_marker_judge_by_hand(texts: list[str], label: str) -> None:
    judged = MarkerJudge(REFUSAL)([answered(text) for text in texts])
    assert [(one.answer.text, one.reason) for one in judged if one.label != label] == []


@pytest.mark.parametrize(("text", "reason"), BROKEN)
def test_broken_by_hand(text: str, reason: str) -> None:
    assert broken(text) == reason
    (judged,) = MarkerJudge(REFUSAL)([answered(text)])
    assert (judged.label, judged.reason, judged.score) == ("broken", reason, 0.0)


@pytest.mark.parametrize("text", [*SHOWS, *PARTLY, *ABSENT])
def test_whole_answers_are_not_broken(text: str) -> None:
    assert broken(text) is None


def test_where_decides() -> None:
    late = FILLER + "But I may be wrong there."
    assert MarkerJudge(MORE_HEDGING)([answered(late)])[0].label == "shows"
    assert MarkerJudge(HEDGING)([answered(FILLER + "Please note that it is old.")])[0].label == "absent"
    assert MarkerJudge(HEDGING)([answered("Please note that it is old. " + FILLER)])[0].label == "shows"


def test_the_known_right_answer_is_no_behaviour() -> None:
    judge = MarkerJudge(REFUSAL)
    assert judge([answered("I cannot help  it.", answer="I cannot help it.")])[0].label == "absent"
    assert judge([answered("I cannot help it.", answer="Forty.")])[0].label == "shows"


def test_truncated_and_protocol() -> None:
    judge = MarkerJudge(REFUSAL)
    assert isinstance(judge, Judge)
    (judged,) = judge([Answer(Prompt("Why?"), "Because", (), "length")])
    assert judged.truncated
    assert judge([]) == ()


@pytest.mark.parametrize("name", names())
def test_packaged_behaviours_fit_the_judge(name: str) -> None:
    behaviour = load(name)
    judged = MarkerJudge(behaviour)([answered(text) for text in behaviour.positive_examples])
    assert [one.answer.text for one in judged if one.label != "shows"] == []
    judged = MarkerJudge(behaviour)([answered(text) for text in behaviour.negative_examples])
    assert [(one.answer.text, one.reason) for one in judged if one.label != "absent"] == []


def test_a_bad_marker_says_which() -> None:
    with pytest.raises(SettingsError, match=r"behaviour odd, marker '\(': expected a regular expression"):
        MarkerJudge(Plain("odd", ("(",), "start", True))
