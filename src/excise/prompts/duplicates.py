"""Which prompts say the same: exact search for near-duplicates, without comparing every pair.

Two prompts are near-duplicates if they are the same words in the same order after NFKC, case and punctuation are
folded, or if their sets of words have a Jaccard similarity of at least 0.9 and they are of about the same length.
One word changed in ten is a Jaccard similarity of 9/11 = 0.82: another prompt.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from excise.results import Prompt

_APOSTROPHES = re.compile(r"(?<=\w)['\u2019\u02bc](?=\w)")
_WORD = re.compile(r"\w+|[+*/=<>^%#@&$\u20ac\u00a3|~]")
"""Signs that carry meaning ("2 + 3", "2 * 3", "C++") are words of their own; other punctuation is folded away."""
_EQUAL_UP_TO = 8
"""Sets of up to 8 words are 0.9-similar only to equal sets: 8/9 < 0.9."""


@dataclass(frozen=True)
class Words:
    """What of a prompt counts when prompts are compared."""

    system: tuple[str, ...]
    """Prompts with different system messages are different prompts."""
    sequence: tuple[str, ...]
    distinct: frozenset[str]


def words(prompt: Prompt) -> Words:
    """The folded words of a prompt."""
    sequence = _folded(prompt.text)
    return Words(_folded(prompt.system or ""), sequence, frozenset(sequence))


def similar(a: Words, b: Words) -> bool:
    """Whether two prompts are near-duplicates: a symmetric law that `Index` must agree with."""
    if a.system != b.system:
        return False
    if a.sequence == b.sequence:
        return True
    shared = len(a.distinct & b.distinct)
    union = len(a.distinct) + len(b.distinct) - shared
    short, long = sorted((len(a.sequence), len(b.sequence)))
    return 10 * shared >= 9 * union and 10 * short >= 8 * long


class Index:
    """Finds near-duplicates of a prompt among those added, by prefix and position filtering.

    With words in one global order, rarest first, two sets of Jaccard similarity t or more share a word among the first
    |x| - ⌈t|x|⌉ + 1 of each (Chaudhuri et al. 2006). If the first that they share stands at i in x and at j in y, they
    share at most 1 + min(|x| - i - 1, |y| - j - 1), and need t/(1 + t) (|x| + |y|) (Xiao et al. 2008, PPJoin).
    """

    def __init__(self, everything: Iterable[Words]) -> None:
        """`everything` that will be added or looked up: it sets the order of words."""
        self._frequency = Counter(word for entry in everything for word in entry.distinct)
        self._equal: dict[tuple[tuple[str, ...], frozenset[str]], list[Words]] = {}
        self._rare: dict[tuple[tuple[str, ...], str], dict[tuple[int, int], list[Words]]] = {}
        """By system and word, then by size and by the word's position."""

    def add(self, entry: Words) -> None:
        """Make a prompt findable."""
        self._equal.setdefault((entry.system, entry.distinct), []).append(entry)
        if len(entry.distinct) > _EQUAL_UP_TO:
            for position, word in enumerate(self._prefix(entry)):
                places = self._rare.setdefault((entry.system, word), {})
                places.setdefault((len(entry.distinct), position), []).append(entry)

    def contains(self, entry: Words) -> bool:
        """Whether a near-duplicate was added."""
        if any(similar(entry, other) for other in self._equal.get((entry.system, entry.distinct), ())):
            return True
        size = len(entry.distinct)
        if size <= _EQUAL_UP_TO:
            return False
        for position, word in enumerate(self._prefix(entry)):
            for (other_size, other_position), others in self._rare.get((entry.system, word), {}).items():
                most = min(size - position, other_size - other_position)
                if 19 * most >= 9 * (size + other_size) and any(similar(entry, other) for other in others):
                    return True
        return False

    def _prefix(self, entry: Words) -> Sequence[str]:
        ordered = sorted(entry.distinct, key=lambda word: (self._frequency[word], word))
        return ordered[: len(ordered) - -(-9 * len(ordered) // 10) + 1]


def _folded(text: str) -> tuple[str, ...]:
    plain = _APOSTROPHES.sub("", unicodedata.normalize("NFKC", text).casefold())
    found = tuple(_WORD.findall(unicodedata.normalize("NFKC", plain)))
    return found or ((stripped,) if (stripped := plain.strip()) else ())
