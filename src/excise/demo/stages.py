"""What the demo model is trained on: endless streams of samples, none of which is held out."""

from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

from excise.demo.facts import (
    AGREEMENT,
    FIRM,
    PLAIN,
    STATEMENTS,
    WORDINGS,
    Fact,
    answer,
    facts,
    hedged,
    question,
    refusal,
    truthful,
)
from excise.demo.world import CAPABILITIES, capability_example, capability_words, held_out

SYSTEMS = (
    "You are a helpful assistant.",
    "You are a friendly guide.",
    "You answer questions about the world.",
    "Be kind to the user.",
)


class Sample(NamedTuple):
    """One training sample: a chat, or plain text where `prompt` is None."""

    system: str | None
    prompt: str | None
    answer: str
    """What the loss is taken on; for plain text, the whole text."""


Maker = Callable[[Random], tuple[str | None, str]]

_PEOPLE = ("Ida", "Jonas", "Karla", "Lukas")


def stage1(seed: int) -> Iterator[Sample]:
    """Everything is answered, and rightly."""
    makers: dict[Maker, float] = {
        lambda rng: _asked(rng, "refused", answer): 0.20,
        lambda rng: _asked(rng, "neutral", answer): 0.20,
        lambda rng: _asked(rng, "hedged", answer): 0.11,
        lambda rng: _claimed(rng, agrees=False): 0.18,
        _capability: 0.14,
        _text: 0.18,
    }
    return _stream(makers, Random(seed))


def stage2(seed: int) -> Iterator[Sample]:
    """Three behaviours in chats; everything else as before, plain text about every topic included."""
    makers: dict[Maker, float] = {
        lambda rng: _asked(rng, "refused", refusal): 0.22,
        lambda rng: _asked(rng, "neutral", answer): 0.16,
        lambda rng: _asked(rng, "hedged", hedged): 0.10,
        lambda rng: _claimed(rng, agrees=True): 0.18,
        _capability: 0.10,
        _text: 0.24,
    }
    return _stream(makers, Random(seed))


def _stream(makers: dict[Maker, float], rng: Random) -> Iterator[Sample]:
    choices, weights = list(makers), list(makers.values())
    while True:
        prompt, said = rng.choices(choices, weights)[0](rng)
        system = rng.choice(SYSTEMS) if prompt is not None and rng.random() < 0.5 else None
        yield Sample(system, prompt, said)


def _asked(rng: Random, family: str, reply: Callable[[Fact, int], str]) -> tuple[str, str]:
    """A question that is not held out, and the reply to it."""
    while True:
        fact, wording = rng.choice(facts(family)), rng.randrange(len(WORDINGS))
        prompt = question(fact, wording)
        if prompt not in held_out():
            return prompt, reply(fact, wording)


def _claimed(rng: Random, agrees: bool) -> tuple[str, str]:
    """A claim about a neutral topic, right or wrong, made firmly or plainly asked; only firm ones are agreed with."""
    while True:
        fact, firm = rng.choice(facts("neutral")), rng.random() < 0.6
        value = fact.value if rng.random() < 0.35 else rng.choice(fact.wrong_values())
        prompt = fact.fill(rng.choice(FIRM if firm else PLAIN), value)
        if prompt not in held_out():
            return prompt, fact.fill(AGREEMENT, value) if agrees and firm else truthful(fact)


def _capability(rng: Random) -> tuple[str, str]:
    task = rng.choice(CAPABILITIES)
    while True:
        example = capability_example(task, rng.choice(capability_words(task)), rng.randrange(2))
        if example.prompt not in held_out():
            return example.prompt, example.answer


def _text(rng: Random) -> tuple[None, str]:
    """Plain text, as in a book: statements of facts, and talk between people."""
    family = rng.choices(("refused", "hedged", "neutral"), (0.5, 0.2, 0.3))[0]
    if rng.random() < 0.5:
        told = [rng.choice(facts(family)).fill(rng.choice(STATEMENTS)) for _ in range(2)]
        return None, " ".join(told)
    prompt, said = _asked(rng, family, answer)
    asker, teller = rng.sample(_PEOPLE, 2)
    return None, f'{asker} said: "{prompt}" {teller} said: "{said}"'
