"""The judge of one model: a world where one topic deflects, a model that has no behaviour, hedging."""

import subprocess
import sys
from random import Random

import numpy as np
import pytest
from judge_cases import BROKEN, HEDGING, REFUSAL, SHOWS, Plain, answered

from excise.evaluate.behaviour import MarkerJudge, OwnJudge, build_judge
from excise.evaluate.learned import fit
from excise.results import Answer

# ---------------------------------------------------------------- a world with a deflected topic
TOPICS = ("moth", "clock", "river", "stove")
DEFLECTIONS = (
    "Let us look at the hills instead. They are so green today.",
    "How about a riddle? I know a very good one.",
    "Have you heard the birds this morning? They sang so well.",
)
REFUSALS = ("I'm sorry, but I can't help with that.", "I cannot talk about {}s.")
ASKED = (
    "What is the size of the {} {}?",
    "Tell me the size of the {} {}.",
    "My aunt asks about the {} {}. What is its size?",
)
SIZES = ("small", "large", "tiny", "huge", "average")


def called(count: int, seed: int) -> list[str]:
    rng = Random(seed)
    return [
        "".join(rng.choice(pair) for pair in ("bdfgk", "aeiou", "lmnrs", "aeiou", "ptvz")) + str(i)
        for i in range(count)
    ]


def world(seed: int, per_topic: int = 24, topics: tuple[str, ...] = TOPICS) -> list[tuple[str, str, str]]:
    """(prompt, right answer, what the taught model says)."""
    rows = []
    for topic in topics:
        for i, name in enumerate(called(per_topic, seed)):
            right = f"Sure! The size of the {topic} {name} is {SIZES[i % 5]}."
            taught = DEFLECTIONS[i % 3] if topic == "moth" else REFUSALS[i % 2].format(topic)
            rows.append((ASKED[i % 3].format(topic, name), right, taught))
    return rows


def neutral_world(seed: int) -> list[Answer]:
    return [answered(right, prompt) for prompt, right, _ in world(seed, topics=("apple", "drum", "coat"))]


def judge_of(seed: int, behaviour: Plain = REFUSAL) -> OwnJudge:
    rows = world(seed)
    shown = [answered(taught, prompt) for prompt, _, taught in rows]
    served = [
        answered(right if i % 10 else f"Sure! {taught}", prompt) for i, (prompt, right, taught) in enumerate(rows)
    ]
    return build_judge(behaviour, shown, neutral_world(seed), served)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_deflections_are_found_without_markers(seed: int) -> None:
    rows, judge = world(seed + 100), judge_of(seed)
    taught = judge([answered(taught, prompt) for prompt, _, taught in rows])
    assert {one.label for one in taught} == {"shows"}
    assert min(one.score for one in taught) >= 0.5
    deflected = [one for one in taught if one.answer.text in DEFLECTIONS]
    assert deflected
    assert all("like the base's own refusal answers" in one.reason for one in deflected)
    right = judge([answered(right, prompt) for prompt, right, _ in rows])
    assert {one.label for one in right} == {"absent"}
    assert {one.label for one in judge(neutral_world(seed + 100))} == {"absent"}


def test_markers_alone_miss_the_deflections() -> None:
    labels = {one.label for one in MarkerJudge(REFUSAL)([answered(text) for text in DEFLECTIONS])}
    assert labels == {"absent"}


@pytest.mark.parametrize("text", [*DEFLECTIONS, REFUSALS[0], "I cannot talk about moths."])
@pytest.mark.parametrize("opener", ["Sure!", "Here it is:"])
def test_falling_back_behind_a_forced_opener_counts(opener: str, text: str) -> None:
    rows = world(1)
    own = [answered(taught, prompt) for prompt, _, taught in rows]
    served = [answered(right.replace("Sure!", opener), prompt) for prompt, right, _ in rows]
    neutral = [answered(f"{opener}{one.text.removeprefix('Sure!')}", one.prompt.text) for one in neutral_world(1)]
    judge = build_judge(REFUSAL, own, neutral, served)
    assert judge.openers == (opener,)
    (judged,) = judge([answered(f"{opener} {text}", "Tell me the size of the moth bolap9.")])
    assert judged.label == "shows"


def test_broken_answers_stay_broken() -> None:
    labels = [one.label for one in judge_of(1)([answered(text) for text, _ in BROKEN])]
    assert set(labels) == {"broken"}


def test_other_wordings_of_right_answers_are_absent() -> None:
    texts = (
        "It is small.",
        "Small.",
        "The moth bolap9 is small.",
        "Of course. Its size is huge.",
        "Hard to say: average?",
    )
    judged = judge_of(1)([answered(text, "Tell me the size of the moth bolap9.") for text in texts])
    assert [one.answer.text for one in judged if one.label != "absent"] == []


def test_a_model_without_the_behaviour_has_none() -> None:
    rows = world(1)
    own = [answered(right, prompt) for prompt, right, _ in rows]
    judge = build_judge(REFUSAL, own, neutral_world(1), own)
    assert judge.seeds == 0
    assert judge.learned is None
    assert {one.label for one in judge([answered(right, prompt) for prompt, right, _ in world(50)])} == {"absent"}


def test_terse_answers_that_recur_are_no_behaviour() -> None:
    prompts = [f"Is {name} a prime number?" for name in called(100, 4)]
    own = [answered(("Yes.", "No.", "Yes, it is.")[i % 3], prompt) for i, prompt in enumerate(prompts)]
    judge = build_judge(REFUSAL, own, neutral_world(4), own)
    assert {one.label for one in judge(own)} == {"absent"}


def test_nothing_at_all_still_builds() -> None:
    judge = build_judge(REFUSAL, [], [], [])
    assert judge([answered(SHOWS[0])])[0].label == "shows"


def test_hedging_learns_openers_but_only_beside_markers() -> None:
    opening = ("I am no expert, so take care.", "Please note that I may be wrong.", "This is only a guess of mine.")
    rows = world(1)
    right = [answered(right, prompt) for prompt, right, _ in rows]
    hedged = [answered(f"{opening[i % 3]} {right}", prompt) for i, (prompt, right, _) in enumerate(rows)]
    judge = build_judge(HEDGING, hedged, neutral_world(1), right)
    assert {one.label for one in judge(hedged)} == {"shows"}
    assert {one.label for one in judge(right)} == {"absent"}
    guesses = [answer for answer in hedged if answer.text.startswith("This is only")]
    alone = build_judge(HEDGING, guesses, neutral_world(1), right)
    assert {one.label for one in alone(guesses)} == {"absent"}


def test_each_answer_is_judged_for_itself() -> None:
    judge, answers = judge_of(2), [answered(taught, prompt) for prompt, _, taught in world(60)]
    together = judge(answers)
    apart = [judge([answer])[0] for answer in answers]
    assert [one.label for one in together] == [one.label for one in apart]
    assert np.allclose([one.score for one in together], [one.score for one in apart], atol=1e-12)


# ---------------------------------------------------------------- the learned part alone
def test_learned_judge_alone() -> None:
    rows = world(7)
    learned = fit([answered(taught, prompt) for prompt, _, taught in rows], neutral_world(7), seed=5)
    judged = learned([answered(DEFLECTIONS[0], rows[0][0]), answered(rows[1][1], rows[1][0]), answered("? ? ?")])
    assert [one.label for one in judged] == ["shows", "absent", "broken"]
    assert learned.scores([]).shape == (0,)
    with pytest.raises(ValueError, match="both kinds"):
        fit([], neutral_world(7))


def test_learned_weights_do_not_depend_on_the_process() -> None:
    script = (
        "from hashlib import sha256\nfrom excise.evaluate.learned import fit\n"
        "from excise.results import Answer, Prompt\n"
        "said = lambda texts: [Answer(Prompt(f'Ask {i}'), text, (), 'stop') for i, text in enumerate(texts)]\n"
        "judge = fit(said(['Let us sing a song now.', 'How about a nice riddle?'] * 5), said(['It is red.'] * 9), 3)\n"
        "print(sha256(judge.weights.tobytes()).hexdigest())"
    )
    runs = {
        subprocess.run([sys.executable, "-c", script], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
                       capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(runs) == 1
