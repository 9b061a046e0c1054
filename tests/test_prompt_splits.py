"""What says the same, and the laws of cleaning and dealing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from excise.demo import world
from excise.errors import PromptError, SettingsError
from excise.prompts import duplicates, split
from excise.prompts.duplicates import Index, similar, words
from excise.results import SPLITS, Prompt, PromptSet

SYLLABLES = ("ba", "ke", "li", "mo", "nu", "pa", "re", "si")


def numbered(count: int, side: str = "target", **details: str) -> list[Prompt]:
    """Prompts that differ in three words each."""
    return [Prompt(f"{side} {i}a asks {i}b about {i}c", **details) for i in range(count)]


def texts(found: PromptSet) -> dict[tuple[str, str], list[str]]:
    sides = {"target": found.target, "neutral": found.neutral}
    return {(side, name): [p.text for p in splits[name]] for side, splits in sides.items() for name in SPLITS}


# ---------------------------------------------------------------- what says the same
@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("What is it?", "what is  it", True),
        ("Can't you?", "Can’t you!", True),
        ("ＦＵＬＬ width", "full width", True),
        ("What is 2 + 3?", "What is 2 * 3?", False),
        ("How do I learn C++?", "How do I learn C#?", False),
        ("???", "!!!", False),
        ("a b c d e f g h i", "a b c d e f g h i j", True),
        ("a b c d e f g h", "a b c d e f g h i", False),
        ("a b c d e f g h i j", "a b c d e f g h i x", False),
        ("no", "no no no no no", False),
        ("我能做什么？", "我能做什么", True),
        ("我能做什么？", "你能做什么？", False),
    ],
)
def test_near_duplicates(a, b, same):
    assert similar(words(Prompt(a)), words(Prompt(b))) is same


def test_other_system_messages_make_other_prompts():
    assert not similar(words(Prompt("Hi", "Be kind.")), words(Prompt("Hi")))


@given(st.lists(st.lists(st.sampled_from((*SYLLABLES, "ta", "vo", "wu", "zi")), min_size=1, max_size=14), max_size=25))
@settings(max_examples=150, deadline=None)
def test_the_index_finds_what_comparing_every_pair_finds(lists):
    entries = [words(Prompt(" ".join(found))) for found in lists]
    index = Index(entries)
    for position, entry in enumerate(entries):
        assert index.contains(entry) == any(similar(entry, other) for other in entries[:position])
        index.add(entry)


def test_comparisons_do_not_grow_with_the_square(monkeypatch):
    """Few words, all frequent but one: what would put everything in the same bucket."""
    compared = []
    monkeypatch.setattr(duplicates, "similar", lambda a, b: compared.append(0) or similar(a, b))
    entries = [
        words(Prompt(f"word{i} of the {i % 97} and {i % 89} from {i % 83} to {i % 79} in {i % 7}")) for i in range(5000)
    ]
    index = Index(entries)
    for entry in entries:
        assert not index.contains(entry)
        index.add(entry)
    assert len(compared) < 2 * len(entries)


# ---------------------------------------------------------------- dealing
prompt_texts = st.lists(
    st.one_of(
        st.sampled_from(["", "  ", "same", "Same!"]), st.lists(st.sampled_from(SYLLABLES), min_size=1).map(" ".join)
    ),
    max_size=12,
)


@given(prompt_texts, prompt_texts, st.integers(0, 3), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_laws_of_splitting(extra_target, extra_neutral, seed, random):
    target = numbered(32) + [Prompt(f"target: {text}" if text.strip() else text) for text in extra_target]
    neutral = numbered(32, "neutral") + [Prompt(f"neutral: {text}" if text.strip() else text) for text in extra_neutral]
    found = split(target, neutral, seed=seed)
    dealt = [text for part in texts(found).values() for text in part]
    entries = [words(Prompt(text)) for text in dealt]
    assert len(dealt) == len(set(dealt))
    assert not any(similar(a, b) for i, a in enumerate(entries) for b in entries[:i])
    assert len(dealt) + sum(found.dropped.values()) == len(target) + len(neutral)
    assert set(dealt) <= {prompt.text for prompt in target + neutral}
    random.shuffle(target)
    random.shuffle(neutral)
    again = split(target, neutral, seed=seed)
    assert texts(again) == texts(found)
    assert again.fingerprint == found.fingerprint


def test_a_seed_deals_differently_but_keeps_the_same_prompts():
    sides = [*numbered(60), Prompt("Same"), Prompt("same!")], numbered(60, "neutral")
    one, two = split(*sides, seed=1), split(*sides, seed=2)
    assert one.fingerprint != two.fingerprint
    kept = [sorted(text for part in texts(found).values() for text in part) for found in (one, two)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("count", "sizes", "expected"),
    [
        (32, None, (13, 5, 5, 9)),
        (200, None, (80, 30, 30, 60)),
        (1000, None, (400, 96, 128, 376)),
        (3000, None, (400, 96, 128, 1000)),
        (100, {"test": 50}, (29, 11, 10, 50)),
        (100, {"extract": 10, "select": 10, "confirm": 10, "test": 10}, (10, 10, 10, 10)),
        (3000, {"extract": 2000}, (2000, 96, 128, 776)),
        (40, {"extract": 37}, (37, 1, 1, 1)),
    ],
)
def test_sizes(count, sizes, expected):
    found = split(numbered(count), numbered(count, "neutral"), sizes=sizes)
    for side in (found.target, found.neutral):
        assert tuple(len(side[name]) for name in SPLITS) == expected
    assert found.dropped.get("left over", 0) == 2 * (count - sum(expected))


def test_sizes_that_cannot_be():
    sides = numbered(40), numbered(50, "neutral")
    with pytest.raises(PromptError, match=r"target prompts: expected at least 41 .*found 40"):
        split(*sides, sizes={"extract": 38})
    with pytest.raises(SettingsError, match="Did you mean 'test'"):
        split(*sides, sizes={"tset": 3})
    with pytest.raises(SettingsError, match="at least 1"):
        split(*sides, sizes={"test": 0})


def test_topics_are_spread_evenly():
    target = [Prompt(p.text, topic="abc"[min(i // 50, 2)]) for i, p in enumerate(numbered(200))]
    found = split(target, numbered(40, "neutral"))
    for name, size in (("extract", 20), ("select", 7.5), ("confirm", 7.5), ("test", 15)):
        count = [sum(p.topic == topic for p in found.target[name]) for topic in "abc"]
        assert abs(count[0] - size) <= 1 and abs(count[1] - size) <= 1 and abs(count[2] - 2 * size) <= 1


def test_too_few_says_how_many_and_why():
    target = [*numbered(20), *numbered(20), *[Prompt("")] * 3, Prompt("TARGET 0a asks 0b about 0c?")]
    message = r"at least 32 .*found 44, of which 24 were dropped \(20 duplicate, 3 empty, 1 near-duplicate\) and 20 are"
    with pytest.raises(PromptError, match=message):
        split(target, numbered(50, "neutral"))


def test_sides_that_do_not_differ():
    both = numbered(5, "both")
    found = split(numbered(60) + both, numbered(60, "neutral") + both)
    assert found.dropped == {"on both sides": 10}
    assert not any(text.startswith("both") for part in texts(found).values() for text in part)
    with pytest.raises(PromptError, match="target and neutral prompts do not differ"):
        split(numbered(60), numbered(60))
    with pytest.raises(PromptError, match="found 5 of 35 neutral"):
        split(numbered(60) + both, numbered(30, "neutral") + both)


def test_the_fingerprint_covers_texts_and_systems():
    target, neutral = numbered(40), numbered(40, "neutral")
    base = split(target, neutral).fingerprint
    assert len(base) == 64
    assert split([Prompt(target[0].text + "x"), *target[1:]], neutral).fingerprint != base
    assert split([Prompt(p.text, system="s") for p in target], neutral).fingerprint != base


@pytest.mark.parametrize("behaviour", world.BEHAVIOURS)
def test_prompts_of_the_demo_world_are_not_duplicates(behaviour):
    """They differ by one invented word in about ten."""
    sides = [
        [Prompt(e.prompt, answer=e.answer, topic=e.topic, plain=e.plain) for e in world.unseen(behaviour, part)]
        for part in ("target", "neutral")
    ]
    assert split(*sides).dropped == {}
