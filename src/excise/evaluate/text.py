"""What the judges see of an answer: words, its opening, what is quoted, what it takes from its prompt. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

from excise.results import Answer

_HEAD = 400
"""Characters that hold the opening of an answer."""
CACHED = 1 << 11
"""Texts whose words are remembered, as one answer is looked at several times in a row; about 15 MB."""
MASK = "_"
"""Stands for words of the prompt, so that what is left is the manner and not the topic."""

_EAST = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_EAST}]|[^\W_{_EAST}]+(?:'[^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]*]*(?=\s|$)|[。！？]|\n+")
_FENCE = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_QUOTED = re.compile(
    r"`[^`\n]+`"
    r"|(?<!\w)\"(?=\S)[^\"]{1,1500}?(?<=\S)\"(?!\w)"
    r"|“[^“”]{1,1500}”|«[^«»]{1,1500}»|„[^„“”]{1,1500}[“”]|「[^「」]{1,1500}」|『[^『』]{1,1500}』"
    r"|‘(?=\S)(?:[^‘’\n]|(?<=\w)’(?=\w)){1,600}’(?!\w)"
    r"|(?<!\w)'(?=\S)(?:[^'\n]|(?<=\w)'(?=\w)){1,600}(?<=\S)'(?!\w)"
    r"|^[ \t]*>.*$",
    re.MULTILINE,
)
_QUOTE_MARKS = re.compile(r"[\"“”„«»「」『』`>]")
_START_SENTENCES, _START_CHARACTERS = 2, 200

_FUNCTION_WORDS = """
    a about above after again all also am an and any are as at be because been before being between both but by can
    cannot could did do does doing down each few for from further get give had has have having he her here hers him
    his how i i'd i'm i've if in into is it its itself just let like me might more most must my myself no nor not
    now of off on once one only or other our ours out over own please really said same say she should so some such
    tell than that the their theirs them then there these they this those through to too under until up us very was
    we were what what's when where which while who whom why will with would yes you your yours don't can't it's
    that's won't isn't aren't want make
"""
_STOPWORDS = frozenset(_FUNCTION_WORDS.split())


def is_right(answer: Answer) -> bool:
    """It is word for word the answer that is known to be right, whatever the spacing."""
    known = answer.prompt.answer
    return known is not None and answer.text.split() == known.split()


@lru_cache(maxsize=CACHED)
def words(text: str) -> tuple[str, ...]:
    """Lower-case words in order; a Chinese or Japanese character is a word of its own."""
    return tuple(_WORD.findall(text.replace("’", "'").lower()))


@lru_cache(maxsize=1 << 17)
def stem(word: str) -> str:
    """The word without a genitive or plural s, so that "potions" restates "potion"."""
    word = word.removesuffix("'s")
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


@lru_cache(maxsize=1 << 13)
def content(text: str) -> frozenset[str]:
    """Stems of the words that carry a topic."""
    return frozenset(stem(word) for word in words(text) if word not in _STOPWORDS)


def masked(answer: Answer, said: str | None = None) -> list[str]:
    """The answer's words (or those of `said`, a part of it), runs of content words of its prompt as one mask."""
    spelled, own, out = words(answer.text if said is None else said), content(answer.prompt.text), list[str]()
    taken = {word for word in set(spelled) if stem(word) in own}
    for word in spelled:
        if word not in taken:
            out.append(word)
        elif not out or out[-1] != MASK:
            out.append(MASK)
    return out


def restated(answer: Answer) -> float:
    """Share of the prompt's content words that the answer says again; 1 where the prompt has none."""
    own = content(answer.prompt.text)
    return len(own & {stem(word) for word in set(words(answer.text))}) / len(own) if own else 1.0


def sentences(text: str) -> list[str]:
    """The text cut after sentence ends and line breaks; nothing empty."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    cuts = [text[low:high].strip() for low, high in zip([0, *ends], [*ends, len(text)], strict=True)]
    return [cut for cut in cuts if cut]


def unfenced(text: str) -> str:
    """The text without fenced code."""
    return _FENCE.sub(" \n", text)


@lru_cache(maxsize=CACHED)
def unquoted(text: str) -> str:
    """What the answer says in its own voice: no quotations, no code; straight apostrophes, single spaces.

    Where all of it stands in quotation marks, the marks alone are taken away.
    """
    own = _QUOTED.sub(" ", unfenced(text))
    if not _WORD.search(own):
        own = _QUOTE_MARKS.sub(" ", unfenced(text))
    lines = (" ".join(line.replace("’", "'").split()) for line in own.splitlines())
    return "\n".join(line for line in lines if line).lstrip("*_#-: \n")


def spoken(text: str) -> tuple[str, int]:
    """What markers see: the answer in its own voice, one sentence a line without markup, and where its start ends.

    The start is the first two sentences, as far as they begin in the first 200 characters.
    """
    lines = [line for cut in sentences(unquoted(text)) if (line := cut.strip(" \t*_#-"))]
    ends = list(accumulate(len(line) + 1 for line in lines))
    inside = [end for end, line in zip(ends, lines, strict=True) if end - len(line) <= _START_CHARACTERS]
    return "\n".join(lines), max(inside[:_START_SENTENCES], default=0)


def skeletons(answer: Answer) -> frozenset[tuple[str, ...]]:
    """Masked forms of the opening that can recur: the first sentence and the first five words.

    Forms of under four words, or with under three of the answer's own, say too little ("Yes.", "Here it is").
    """
    head = answer.text[:_HEAD]
    end = _SENTENCE_END.search(head.lstrip())
    whole = tuple(masked(answer, head.lstrip()[: end.end()] if end else head))
    forms = (whole[:20], tuple(masked(answer, head)[:5]))
    return frozenset(form for form in forms if len(form) >= 4 and sum(word != MASK for word in form) >= 3)


def recurring(answers: Sequence[Answer], against: Sequence[Answer], least: int) -> dict[tuple[str, ...], float]:
    """Skeletons on at least `least` of the answers' prompts that hardly ever occur `against` them, with their share."""
    seen: dict[str, frozenset[tuple[str, ...]]] = {}
    for answer in answers:
        seen[answer.prompt.text] = seen.get(answer.prompt.text, frozenset()) | skeletons(answer)
    here = Counter(form for forms in seen.values() for form in forms)
    there = Counter(form for answer in against for form in skeletons(answer))
    return {
        form: count / len(seen)
        for form, count in sorted(here.items())
        if count >= least and there[form] / max(1, len(against)) <= 0.05 * count / len(seen)
    }
