"""Answers that are no answers: empty, looping, or gibberish. Deterministic; in doubt an answer is whole."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from math import log2
from typing import Literal

import numpy as np

from excise.evaluate.text import unfenced, words

Reason = Literal["empty", "repetition", "gibberish"]

_RULE = re.compile(r"[-=_*~|:+.·•─═\s]{4,}")
"""Rules, table frames and dot leaders are layout, not soup."""
_INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_DAMAGE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd\ue000-\uf8ff]")
_SHORT_SYMBOLS = 12
_LONGEST_LOOP = 40
_LETTER_LOOP = re.compile(r"([^\W\d_]{1,6}?)\1{7,}")
_PLAIN_LATIN = re.compile(r"(?<!\S)[a-z]{4,}(?!\S)")
_CONSONANTS = re.compile(r"(?<!\S)(?:[bcdfghjklmnpqrstvwxz]{4,}|[a-z]*?[bcdfghjklmnpqrstvwxz]{6,}[a-z]*)(?!\S)")
_OTHER_SCRIPTS = re.compile(r"[\u0370-\u1dff\u2c00-\u2dff\u2e80-\ud7ff\uf900-\ufdff\ufe70-\ufefe]")
_ONE_EAST_ASIAN = {"CJK": "EAST", "HIRAGANA": "EAST", "KATAKANA": "EAST", "HANGUL": "EAST"}


def broken(text: str) -> Reason | None:
    """Why the text is no answer at all, or None. Code, lists, other scripts, numbers and short answers are answers."""
    visible = _INVISIBLE.sub("", text).strip()
    if not visible:
        return "empty"
    prose = unfenced(visible).strip()
    if not prose:
        return None
    said = words(prose)
    if _loops(said):
        return "repetition"
    if _soup(prose, bool(said)) or _damaged(prose) or _unpronounceable(said) or _scripts_mixed(prose):
        return "gibberish"
    return None


def _loops(said: tuple[str, ...]) -> bool:
    """Some unit of words comes again and again without a break, and is much of the text."""
    if len(said) < 12 and any(len(word) >= 16 and _LETTER_LOOP.search(word) for word in said):
        return True
    if len(said) < 5:
        return False
    grams = set(zip(said, said[1:], said[2:], strict=False))
    if len(said) - 2 - len(grams) < max(2, 0.18 * len(said) - 2):
        return False  # every loop that is long enough repeats more triples than that
    number = {word: index for index, word in enumerate(dict.fromkeys(said))}
    ids = np.array([number[word] for word in said])
    for period in range(1, min(_LONGEST_LOOP, len(said) // 3) + 1):
        same = np.concatenate([[False], ids[period:] == ids[:-period], [False]])
        breaks = np.flatnonzero(~same)
        run = int(np.diff(breaks).max()) - 1
        last = int(breaks[np.diff(breaks).argmax()]) + run
        unit = said[last - period : last]
        if any(word.isalpha() for word in unit) and _too_long(period, run + period, len(said), last + period):
            return True
    return False


def _too_long(period: int, covered: int, total: int, end: int) -> bool:
    """Refrains and laughter are short beside their text; a model that loops does so to the end or for most of it."""
    share, at_end = covered / total, end >= total - 1
    if period == 1:
        return covered >= 5 and (share >= 0.8 or (covered >= 8 and (share >= 0.5 or at_end)))
    if share >= 0.95:
        return covered >= max(9, 3 * period)
    return covered >= max(12, 4 * period) and (share >= 0.5 or (at_end and share >= 0.25))


def _soup(prose: str, worded: bool) -> bool:
    """Symbols with hardly a letter or digit between them."""
    dense = "".join(_RULE.sub(" ", prose).split())
    if not worded:
        pictures = sum(unicodedata.category(char) in ("So", "Sm", "Sc", "Mn", "Sk") for char in dense)
        return not (dense and len(dense) <= _SHORT_SYMBOLS and pictures * 2 > len(dense))
    if len(dense) < 12:
        return False
    plain = sum(map(str.isalnum, dense))
    if not dense.isascii():
        plain += sum(unicodedata.category(char) in ("Mn", "Mc", "So") for char in dense)
    return plain / len(dense) < 0.3


def _damaged(prose: str) -> bool:
    """Characters that text does not contain, or a spread of characters that no writing has."""
    if len(_DAMAGE.findall(prose)) / len(prose) > 0.05:
        return True
    dense = "".join(prose.split())
    if len(dense) < 60:
        return False
    counts = Counter(dense).values()
    spread = prose.isascii() and len(counts) > 52  # more than 5.7 bits need that many characters ...
    narrow = max(counts) > len(dense) / 4  # ... and less than 2 bits one so frequent
    if not spread and not narrow:
        return False
    entropy = -sum(count / len(dense) * log2(count / len(dense)) for count in counts)
    return (spread and entropy > 5.7) or (entropy < 2.0 and sum(map(str.isalpha, dense)) / len(dense) > 0.7)


def _unpronounceable(said: tuple[str, ...]) -> bool:
    """Most longer words have no vowel or an endless run of consonants."""
    line = " ".join(said)
    plain = len(_PLAIN_LATIN.findall(line))
    return plain >= 4 and len(_CONSONANTS.findall(line)) > 0.5 * plain


def _scripts_mixed(prose: str) -> bool:
    """Neighbouring words jump between scripts other than Latin, as no sentence does."""
    if not _OTHER_SCRIPTS.search(prose):
        return False
    jumps = 0
    for line in prose.splitlines():
        before = ""
        for word in line.split():
            now = _script(word)
            jumps += bool(before and now and before != now)
            before = now if word[-1].isalpha() else ""
    return jumps >= 3


def _script(word: str) -> str:
    """The one script other than Latin that all the word's letters are in; else empty."""
    found = {unicodedata.name(char, "?").split()[0] for char in word if char.isalpha()}
    unified = {_ONE_EAST_ASIAN.get(name, name) for name in found}
    return unified.pop() if len(unified) == 1 and "LATIN" not in unified else ""
