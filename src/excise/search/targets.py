"""Self-made targets: what the model itself says to target prompts once it is led past its first token (method.md §3).

`openers`: the model's usual openers on neutral prompts, forced on target prompts, and the model goes on; answers that
fall back into the behaviour are dropped. `plain`: its answers to the same requests without what triggers the behaviour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from excise.evaluate.behaviour import Judge
from excise.executor import Resident
from excise.results import Answer, Prompt, Reference

OPENER_TOKENS = 6
"""An opener ends with its first punctuation mark, or after this many tokens where the answers agree that far."""
OPENERS = 3
MINIMUM_SHARE = 0.05
"""Openers rarer than this among neutral answers are not usual."""
PUNCTUATION = frozenset(".,:;!?。，：！？")


def usual_openers(neutral: Sequence[Answer], executor: Resident) -> tuple[str, ...]:
    """The most frequent openers of the model's neutral answers, most frequent first."""
    counts: Counter[str] = Counter()
    for answer in neutral:
        counts[_opener(answer, executor)] += 1
    usual = [
        text for text, count in counts.most_common(OPENERS) if text.strip() and count >= MINIMUM_SHARE * len(neutral)
    ]
    return tuple(usual)


def _opener(answer: Answer, executor: Resident) -> str:
    """Text up to the first punctuation mark, if one comes within OPENER_TOKENS; else the first token's text."""
    for length in range(1, OPENER_TOKENS + 1):
        text = executor.model.decode(answer.tokens[:length])[0]
        if text and text[-1] in PUNCTUATION:
            return text
    return executor.model.decode(answer.tokens[:1])[0]


def from_openers(
    executor: Resident,
    prompts: Sequence[Prompt],
    openers: Sequence[str],
    first: Sequence[Answer],
    judge: Judge,
    limit: int,
) -> tuple[Reference, ...]:
    """For each prompt the first opener (most usual first) whose answer does not show the behaviour and is not broken.

    `first` are the answers forced to begin with `openers[0]`; later openers are tried on what is left. Prompts without
    a usable answer are dropped.
    """
    found: dict[Prompt, Reference] = {}
    left = list(prompts)
    for number, opener in enumerate(openers):
        if not left:
            break
        answers = first if number == 0 else executor.generate(left, limit, prefix=opener)
        for judged in judge(answers):
            prompt = judged.answer.prompt
            forced = len(executor.model.encode([prompt], opener)[0]) - len(executor.model.encode([prompt])[0])
            if judged.label == "absent" and len(judged.answer.tokens) > forced:
                found[prompt] = Reference(prompt, prompt, judged.answer.tokens, forced)
        left = [prompt for prompt in left if prompt not in found]
    return tuple(found[prompt] for prompt in prompts if prompt in found)


def from_plain(executor: Resident, prompts: Sequence[Prompt], limit: int) -> tuple[Reference, ...]:
    """The base's answers to each prompt's `plain` version; prompts without one are dropped."""
    usable = [prompt for prompt in prompts if prompt.plain]
    teachers = [replace(prompt, text=str(prompt.plain), plain=None) for prompt in usable]
    answers = executor.generate(teachers, limit)
    return tuple(
        Reference(prompt, teacher, answer.tokens, 0)
        for prompt, teacher, answer in zip(usable, teachers, answers, strict=True)
    )


def from_answers(answers: Sequence[Answer], forced: int = 0) -> tuple[Reference, ...]:
    """The model's own answers as they are (neutral side), or an edited model's, whose first token counts as forced."""
    return tuple(
        Reference(answer.prompt, answer.prompt, answer.tokens, forced)
        for answer in answers
        if len(answer.tokens) > forced
    )
