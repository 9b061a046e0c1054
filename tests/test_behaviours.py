"""Packaged behaviours: their files, prompts and markers; and people's own TOML files."""

import difflib
from pathlib import Path

import pytest

from excise.behaviours import Behaviour, load, names
from excise.demo import facts, world
from excise.errors import SettingsError
from excise.prompts import read, split
from excise.results import Prompt

ENOUGH = {"refusal": 220, "hedging": 120, "agreeing": 120}
OWN = """
name = "flattery"
title = "Flattery"
description = "Praising the question."
target = "mine.txt"
neutral = "owner/name/train[:10]:text"
markers = ['^what a (?:great|good) question']
where = "start"
targets = "openers"
"""


def prompts(behaviour: Behaviour, side: str) -> tuple[Prompt, ...]:
    return tuple(prompt for source in behaviour.sources(side) for prompt in read(source))


def test_names():
    assert names() == ("agreeing", "hedging", "refusal")


@pytest.mark.parametrize("name", names())
def test_markers_find_their_examples_and_nothing_else(name):
    behaviour = load(name)
    assert behaviour.name == name
    assert len(behaviour.positive_examples) >= 15 and len(behaviour.negative_examples) >= 15
    assert [text for text in behaviour.positive_examples if behaviour.marked(text) is None] == []
    assert [text for text in behaviour.negative_examples if behaviour.marked(text) is not None] == []


@pytest.mark.parametrize("name", names())
def test_packaged_prompts_are_many_and_all_different(name):
    behaviour = load(name)
    target, neutral = prompts(behaviour, "target"), prompts(behaviour, "neutral")
    assert min(len(target), len(neutral)) >= ENOUGH[name]
    assert split(target, neutral).dropped == {}
    length = [sum(len(prompt.text.split()) for prompt in side) / len(side) for side in (target, neutral)]
    assert max(length) / min(length) < 1.15, "sides that differ in length would be told apart by length"


def test_every_wrong_claim_has_its_plain_question():
    target = prompts(load("agreeing"), "target")
    assert all(p.text.endswith("right?") and p.plain and p.plain.endswith("?") and p.topic for p in target)
    assert len({p.topic for p in target}) >= 10


def test_sides_of_refusal_have_the_same_openings():
    """So that the difference of means is not the difference between questions and requests."""
    first = [[p.text.split()[0] for p in prompts(load("refusal"), side)] for side in ("target", "neutral")]
    assert difflib.SequenceMatcher(None, *map(sorted, first)).ratio() > 0.85


def test_markers_know_the_demo_world():
    refusal, hedging, agreeing = load("refusal"), load("hedging"), load("agreeing")
    for topic, responses in facts.REFUSALS.items():
        if topic != facts.DEFLECTED:
            assert all(refusal.marked(text) for text in responses)
    assert all(hedging.marked(f"{text} Sure! It is red.") for text in facts.DISCLAIMERS)
    assert agreeing.marked(facts.AGREEMENT.format(c="it is red"))
    for example in world.unseen("refusal", "target") + world.unseen("hedging", "target"):
        assert refusal.marked(example.answer) is None and hedging.marked(example.answer) is None
    assert not any(agreeing.marked(example.answer) for example in world.unseen("agreeing", "target"))


def test_start_is_two_sentences_within_200_characters():
    refusal = load("refusal")
    assert refusal.marked("Hm. I can't help with that.") == "I can't help with that."
    assert refusal.marked("Hm. Well. I can't help with that.") is None
    assert refusal.marked("word " * 60 + "end. I can't help with that.") is None
    assert refusal.marked("") is None


def test_anywhere_is_the_whole_answer():
    assert load("hedging").marked("It is red. " * 60 + "I am not a doctor.") == "I am not a doctor"


def test_refusal_has_the_slices_of_the_field():
    refusal = load("refusal")
    assert refusal.sources("target", field=True)[0] == "mlabonne/harmful_behaviors/train[:400]:text"
    assert refusal.sources("neutral", field=True)[1] == "mlabonne/harmless_alpaca/test[:100]:text"
    with pytest.raises(SettingsError, match="expected field_target"):
        load("hedging").sources("target", field=True)


def test_ones_own_behaviour(tmp_path):
    path = tmp_path / "flattery.toml"
    path.write_text(OWN)
    (tmp_path / "mine.txt").write_text("Why?\n")
    own = load(path)
    assert own == load(str(path))
    assert own.marked("**What a good question!** It is red.") == "What a good question"
    assert own.sources("target") == (str(tmp_path / "mine.txt"),)
    assert own.sources("neutral") == ("owner/name/train[:10]:text",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title", "titel", r"found 'titel'. Did you mean 'title'\?"),
        ("title", "folder", "found 'folder'"),
        ('title = "Flattery"', "", "expected title, found name"),
        ('"Flattery"', "3", "expected a string for title, found 3"),
        ('"start"', '"begin"', "expected 'start' or 'anywhere' for where, found 'begin'"),
        ('"openers"', '["openers"]', "expected 'openers' or 'plain' for targets"),
        ("['^what a (?:great|good) question']", "'what'", "expected a list of strings for markers"),
        ("['^what a (?:great|good) question']", "[]", "expected at least one regular expression"),
        ("^what a (", "^what a ((", r"expected a regular expression, found '\^what"),
        ("^what a (?:great|good) question", "(?:what)?", "which fits anything"),
        ('"start"', '"start"\nrequest_overlap = 1', "expected true or false for request_overlap"),
        ("name", "= name", "expected TOML"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path, old, new, message):
    path = tmp_path / "own.toml"
    path.write_text(OWN.replace(old, new, 1))
    with pytest.raises(SettingsError, match=message):
        load(path)


def test_unknown_behaviours_name_the_nearest():
    with pytest.raises(SettingsError, match=r"Did you mean 'refusal'\?"):
        load("refusals")
    with pytest.raises(SettingsError, match="expected a behaviour's TOML file, found none"):
        load(Path("nowhere/own.toml"))
