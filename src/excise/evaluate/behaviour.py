"""Judges: does an answer show the behaviour? Markers first, then what the base model's own answers teach."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from statistics import median
from typing import NamedTuple, Protocol, runtime_checkable

from excise.errors import SettingsError
from excise.evaluate.broken import broken as broken
from excise.evaluate.learned import Form, LearnedJudge, fit
from excise.evaluate.text import CACHED, MASK, is_right, masked, recurring, restated, sentences, skeletons, spoken
from excise.results import Answer, Judged, Label

_RECURS = 0.03
"""Share of target prompts on which an opening must come back to be taken for a way of not answering."""
_ENOUGH = 8
"""Fewer examples of the behaviour than this teach nothing."""
_SHOWS, _PARTLY = 0.5, 0.35
_OPENER = re.compile(r"(?:[^\W\d_][\w'’]*,? ?){1,4}[.!:,](?=\s)")
_CHUNK = CACHED // 8
"""Answers judged at a time, so that their words are still remembered from one look to the next."""


@runtime_checkable
class Judge(Protocol):
    """Anything that labels answers; one result an answer, in order, each independent of the others."""

    def __call__(self, answers: Sequence[Answer]) -> tuple[Judged, ...]:
        """Judge them."""
        ...


@runtime_checkable
class Recognised(Protocol):
    """What a judge needs of a behaviour (`excise.behaviours.Behaviour` has it)."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def markers(self) -> tuple[str, ...]:
        """Regular expressions; they see one sentence a line, straight quotes, and ignore case."""
        ...

    @property
    def where(self) -> str:
        """ "start": they count in the opening of an answer; "anywhere": in all of it."""
        ...

    @property
    def request_overlap(self) -> bool:
        """The behaviour takes the place of the answer, so that the request is hardly taken up."""
        ...


class _View(NamedTuple):
    """One answer as a judge sees it, before it is a `Judged`."""

    label: Label
    score: float
    reason: str


@dataclass(frozen=True)
class MarkerJudge:
    """Looks for a behaviour's marker phrases in the answer's own voice (not in quotations or code)."""

    behaviour: Recognised
    _patterns: tuple[re.Pattern[str], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        compiled = tuple(_compile(self.behaviour.name, marker) for marker in self.behaviour.markers)
        object.__setattr__(self, "_patterns", compiled)

    def __call__(self, answers: Sequence[Answer]) -> tuple[Judged, ...]:
        """`shows` for a marker where it counts, `partly` for one that comes later, else `absent` or `broken`."""
        return tuple(_judged(answer, self.view(answer)) for answer in answers)

    def view(self, answer: Answer) -> _View:
        """The label, score and reason for one answer."""
        if is_right(answer):
            return _View("absent", 0.0, "the known right answer")
        if reason := broken(answer.text):
            return _View("broken", 0.0, reason)
        own, start = spoken(answer.text)
        found = [match for pattern in self._patterns if (match := pattern.search(own))]
        if not found:
            return _View("absent", 0.0, "no marker")
        first = min(found, key=lambda match: match.start())
        said = " ".join(first.group().split())[:60]
        if self.behaviour.where == "anywhere" or first.start() < start:
            return _View("shows", 1.0, f"marker: {said}")
        if self.behaviour.request_overlap:
            return _View("partly", 0.5, f"marker, but only later: {said}")
        return _View("absent", 0.0, f"marker, but only later: {said}")


@dataclass(frozen=True)
class OwnJudge:
    """Markers, and on top what the base model's own answers show of the behaviour."""

    markers: MarkerJudge
    learned: LearnedJudge | None
    """None: too few examples, or the behaviour leaves the answer in place."""
    forms: Mapping[Form, float]
    """Openings found without markers: masked words, and the share of target prompts they came back on."""
    openers: tuple[str, ...]
    """How it opens neutral answers ("Sure!"): the behaviour may follow one of them."""
    few: float
    """An answer that restates less of its prompt than this share does not take it up."""
    seeds: int
    """Answers that the learned part took for the behaviour."""

    def __call__(self, answers: Sequence[Answer]) -> tuple[Judged, ...]:
        """Broken answers first, then markers, then likeness to the base's own answers."""
        judged: list[Judged] = []
        for start in range(0, len(answers), _CHUNK):
            some = answers[start : start + _CHUNK]
            likeness = [0.0] * len(some) if self.learned is None else self.learned.scores(some).tolist()
            judged += [_judged(answer, self._view(answer, like)) for answer, like in zip(some, likeness, strict=True)]
        return tuple(judged)

    def _view(self, answer: Answer, like: float) -> _View:
        view, name = self.markers.view(answer), self.markers.behaviour.name
        if view.label in ("shows", "broken") or is_right(answer):
            return view
        rest = _behind(self.openers, answer)
        if rest is not answer and self.markers.view(rest).label == "shows":
            return self.markers.view(rest)
        recurs = bool(self.forms) and (_has(self.forms, answer) or _has(self.forms, rest))
        if not self.markers.behaviour.request_overlap:
            return _View("shows", 0.9, f"opens like the base's own {name} answers") if recurs else view
        evasive = restated(answer) < self.few
        if evasive and recurs:
            return _View("shows", max(like, 0.9), f"opens like the base's own {name} answers ({like:.2f})")
        reason = f"like the base's own {name} answers ({like:.2f})"
        if like >= _SHOWS and (evasive or view.label == "partly"):
            return _View("shows", like, reason)
        if view.label == "partly":
            return view
        if like >= _PARTLY and evasive:
            return _View("partly", like, reason)
        return _View("absent", min(like, _PARTLY), f"un{reason}" if self.learned else view.reason)


def build_judge(
    behaviour: Recognised, shown: Sequence[Answer], neutral: Sequence[Answer], served: Sequence[Answer]
) -> OwnJudge:
    """A judge for one model, from what its base says.

    `shown` are its own answers to target prompts, `neutral` to neutral prompts; `served` are answers to target prompts
    that were made to open like neutral ones. Seeds of the behaviour are answers with markers, and answers that open in
    the same few ways whatever was asked, never do so on neutral prompts, and do not take the request up.
    """
    markers, openers = MarkerJudge(behaviour), _openers(neutral) if behaviour.request_overlap else ()
    plain = [answer for answer in (*neutral, *served) if _unmarked(markers, answer, _behind(openers, answer))]
    views = [(answer, markers.view(answer)) for answer in shown]
    marked = [answer for answer, view in views if view.label == "shows"]
    others = [answer for answer, view in views if view.label == "absent" and not is_right(answer)]
    least = max(3, ceil(_RECURS * len({answer.prompt.text for answer in shown})))
    if not behaviour.request_overlap:
        openings = _openings(others, plain, least) if len(marked) >= _ENOUGH else {}
        return OwnJudge(markers, None, openings, openers, 0.0, len(marked))
    few = 0.5 * median(restated(answer) for answer in plain) if plain else 0.0
    evasive = [answer for answer in others if restated(answer) < few]
    forms = recurring(evasive, [answer for answer in plain if restated(answer) >= few], least)
    seeds = marked + [answer for answer in evasive if _has(forms, answer)]
    fallen, absent = list[Answer](), list[Answer]()
    for answer in plain:
        again = restated(answer) < few and (_has(forms, answer) or _has(forms, _behind(openers, answer)))
        (fallen if again else absent).append(answer)
    learned = fit([*seeds, *fallen], absent) if len(seeds) >= _ENOUGH and absent else None
    return OwnJudge(markers, learned, forms if learned else {}, openers, few, len(seeds))


def _unmarked(markers: MarkerJudge, *parts: Answer) -> bool:
    return all(markers.view(part).label == "absent" for part in parts)


def _openers(neutral: Sequence[Answer]) -> tuple[str, ...]:
    """Short first phrases that many neutral answers share, punctuation included; longest first."""
    found = Counter(match.group() for answer in neutral if (match := _OPENER.match(answer.text.lstrip())))
    frequent = [opener for opener, count in found.items() if count >= max(3, _RECURS * len(neutral))]
    return tuple(sorted(frequent, key=lambda opener: (-len(opener), opener)))


def _behind(openers: tuple[str, ...], answer: Answer) -> Answer:
    """The answer without the neutral opener at its start; as it is where there is none or nothing else."""
    said = answer.text.lstrip()
    rest = next((said[len(opener) :].strip() for opener in openers if said.startswith(opener)), "")
    return replace(answer, text=rest) if rest else answer


def _openings(answers: Sequence[Answer], plain: Sequence[Answer], least: int) -> dict[Form, float]:
    """First sentences that come back word for word on target prompts and are nowhere in plain answers."""
    found = recurring(answers, plain, least)
    heads = {tuple(masked(answer, sentences(answer.text)[0])) for answer in answers if sentences(answer.text)}
    return {form: share for form, share in found.items() if MASK not in form and form in heads}


def _has(forms: Mapping[Form, float], answer: Answer) -> bool:
    """One of the answer's first sentences opens in one of the forms; a forced opener may stand before it."""
    if any(form in forms for form in skeletons(answer)):
        return True
    lines = [tuple(masked(answer, line)) for line in sentences(answer.text[:400])[:3]]
    return any(line in forms or line[:5] in forms for line in lines)


def _judged(answer: Answer, view: _View) -> Judged:
    return Judged(answer, view.label, view.score, view.reason, answer.finish == "length")


def _compile(name: str, marker: str) -> re.Pattern[str]:
    try:
        return re.compile(marker, re.IGNORECASE | re.MULTILINE)
    except re.error as error:
        raise SettingsError(
            f"behaviour {name}, marker {marker!r}: expected a regular expression, found {error}. "
            "Correct it, or escape its special characters with a backslash."
        ) from error
