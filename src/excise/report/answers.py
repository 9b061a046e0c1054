"""Before and after: each prompt's answer by the base beside the edited model's, within a size budget."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import escape

from excise.report.words import clean
from excise.results import Judged, Prompt, Verdict

CAPS = (6000, 3000, 1500, 800, 400)
"""Characters shown of each text, the longest cap that fits the budget."""
BUDGET = 2_300_000
"""Bytes of escaped text; with the page's own some 100 kB it stays well below 3 MB."""
_FRAME = 900
"""Bytes of markup around a pair, generously."""


@dataclass(frozen=True)
class Said:
    """One answer, cut to what is shown."""

    text: str
    reasoning: str
    label: str
    score: float
    reason: str
    truncated: bool


@dataclass(frozen=True)
class Pair:
    """One prompt and what both models say to it; a side that was not asked is None."""

    side: str
    """"target" or "neutral"."""
    prompt: str
    system: str
    topic: str
    right: str
    """The right answer where it is known."""
    base: Said | None
    edited: Said | None

    @property
    def same(self) -> bool:
        """Whether both answers are equal as shown."""
        return self.base is not None and self.edited is not None and self.base.text == self.edited.text


@dataclass(frozen=True)
class Pairs:
    """The pairs that fit, and what did not."""

    shown: tuple[Pair, ...]
    left_out: int
    cap: int
    """Texts longer than this many characters were cut."""

    def number(self, side: str = "", label: str = "") -> int:
        """How many shown pairs are of this side and of this verdict on the edited answer."""
        return sum(
            1
            for pair in self.shown
            if side in ("", pair.side) and label in ("", pair.edited.label if pair.edited else "none")
        )


def pair_up(verdict: Verdict, budget: int = BUDGET) -> Pairs:
    """Pairs in prompt order, target before neutral; longer texts are cut first, whole pairs left out last."""
    matched = [
        (side, before, after)
        for side, base, edited in (
            ("target", verdict.base.target, verdict.edited.target),
            ("neutral", verdict.base.neutral, verdict.edited.neutral),
        )
        for before, after in _match(base, edited)
    ]
    pairs: list[Pair] = []
    for cap in CAPS:
        pairs = [_pair(side, before, after, cap) for side, before, after in matched]
        if sum(map(_bytes, pairs)) <= budget:
            return Pairs(tuple(pairs), 0, cap)
    kept = _thin(pairs, budget)
    return Pairs(kept, len(pairs) - len(kept), CAPS[-1])


def cut(text: str, cap: int) -> str:
    """The first `cap` characters, and how many more there are."""
    text = clean(text)
    return text if len(text) <= cap else f"{text[:cap]} … ({len(text) - cap:,} more characters)"


def _match(base: tuple[Judged, ...], edited: tuple[Judged, ...]) -> Iterator[tuple[Judged | None, Judged | None]]:
    """Both sides' answers to the same prompt; a prompt asked twice is matched in order."""
    waiting: dict[tuple[str, str | None], deque[Judged]] = defaultdict(deque)
    for after in edited:
        waiting[_key(after.answer.prompt)].append(after)
    for before in base:
        queue = waiting[_key(before.answer.prompt)]
        yield before, queue.popleft() if queue else None
    for queue in waiting.values():
        for after in queue:
            yield None, after


def _key(prompt: Prompt) -> tuple[str, str | None]:
    return prompt.text, prompt.system


def _pair(side: str, before: Judged | None, after: Judged | None, cap: int) -> Pair:
    some = before or after
    assert some is not None, "a pair has at least one answer"
    prompt = some.answer.prompt
    return Pair(
        side=side,
        prompt=cut(prompt.text, cap),
        system=cut(prompt.system or "", cap),
        topic=cut(prompt.topic or "", 80),
        right=cut(prompt.answer or "", cap),
        base=None if before is None else _said(before, cap),
        edited=None if after is None else _said(after, cap),
    )


def _said(judged: Judged, cap: int) -> Said:
    return Said(
        text=cut(judged.answer.text, cap),
        reasoning=cut(judged.answer.reasoning or "", cap),
        label=judged.label,
        score=judged.score,
        reason=cut(judged.reason, 200),
        truncated=judged.truncated,
    )


def _bytes(pair: Pair) -> int:
    texts = [pair.prompt, pair.system, pair.topic, pair.right]
    for said in (pair.base, pair.edited):
        if said is not None:
            texts += [said.text, said.reasoning, said.reason]
    return _FRAME + sum(len(str(escape(text)).encode()) for text in texts)


def _thin(pairs: list[Pair], budget: int) -> tuple[Pair, ...]:
    """The first pairs of each side, both sides cut to the same share."""
    total = sum(map(_bytes, pairs))
    kept: list[Pair] = []
    for side in ("target", "neutral"):
        own = [pair for pair in pairs if pair.side == side]
        left = budget * sum(map(_bytes, own)) / total
        for pair in own:
            left -= _bytes(pair)
            if left < 0:
                break
            kept.append(pair)
    return tuple(kept)
