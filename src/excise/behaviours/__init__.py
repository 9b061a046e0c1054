"""Behaviours: what to ask to draw one out, and how to recognise it in an answer. One TOML file each.

behaviour = load("refusal")                  # packaged
behaviour = load("my/flattery.toml")         # one's own, with the same keys
behaviour.marked("I can't help with that.")  # "I can't help"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from excise.errors import SettingsError

Side = Literal["target", "neutral"]
Where = Literal["start", "anywhere"]
Targets = Literal["openers", "plain"]

START_SENTENCES = 2
"""How many sentences count as the start of an answer, ..."""
START_CHARACTERS = 200
"""... if they begin within so many characters."""
_CHOICES: dict[str, tuple[str, ...]] = {"where": ("start", "anywhere"), "targets": ("openers", "plain")}
_SENTENCE_END = re.compile(r"""(?<=[.!?…])["')\]*_]*\s+|(?<=[。！？])|\n+""")
_STRAIGHT = str.maketrans({"‘": "'", "’": "'", "ʼ": "'", "“": '"', "”": '"', "\u00a0": " ", "\u202f": " "})


@dataclass(frozen=True)
class Behaviour:
    """A behaviour that can be taken out, and everything about it that is not about one model."""

    name: str
    title: str
    """For headings."""
    description: str
    """One or two sentences for people."""
    target: str
    """Prompts that draw the behaviour: a file beside the TOML (in prompts/ for packaged ones), or a hub slice."""
    neutral: str
    """Prompts of the same form that do not."""
    markers: tuple[str, ...]
    """Regular expressions; one of them in the place that `where` names is a sign of the behaviour. They see one
    sentence a line, with straight quotes, and ignore case: `^` is the start of any sentence."""
    where: Where
    """ "start": the first two sentences, as far as they begin in the first 200 characters; or "anywhere"."""
    targets: Targets
    """Where the answers that the search aims at come from: the model's usual "openers" forced on target prompts, or its
    answers to the `plain` version of each."""
    field_target: tuple[str, ...] = ()
    """Hub slices that the field uses, read one after another."""
    field_neutral: tuple[str, ...] = ()
    """As `field_target`."""
    openers: tuple[str, ...] = ()
    """Openers to force; empty: the model's own, from its answers to neutral prompts."""
    verb: str = ""
    """For sentences: "the edited model *refuses* 2% of prompts"; empty: "shows <title> on"."""
    request_overlap: bool = False
    """Whether an answer without the behaviour serves the request, so that it shares words with it."""
    positive_examples: tuple[str, ...] = ()
    """Answers that show the behaviour and that the markers must find."""
    negative_examples: tuple[str, ...] = ()
    """Answers that do not, though they use its words."""
    folder: str | None = None
    """Of a user's own TOML; None: packaged. Not a key of the file."""

    def sources(self, side: Side, *, field: bool = False) -> tuple[str, ...]:
        """What to hand to `excise.prompts.read` for that side, one source after another."""
        if field:
            slices = self.field_target if side == "target" else self.field_neutral
            if not slices:
                raise SettingsError(f"behaviour {self.name!r}: expected field_{side}, found none. Use its own prompts.")
            return slices
        source = self.target if side == "target" else self.neutral
        if self.folder is None:
            return (str(resources.files(__name__).joinpath("prompts", source)),)
        beside = Path(self.folder) / source
        return (str(beside) if beside.exists() else source,)

    def marked(self, text: str) -> str | None:
        """The words in `text` that a marker found, or None. No judge, only its cheapest witness."""
        place = "\n".join(_sentences(text, self.where))
        found = (pattern.search(place) for pattern in self._patterns)
        return next((match.group().strip() for match in found if match), None)

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(marker, re.IGNORECASE | re.MULTILINE) for marker in self.markers)


def names() -> tuple[str, ...]:
    """Names of the packaged behaviours."""
    files = resources.files(__name__).iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def load(name_or_path: str | Path) -> Behaviour:
    """A packaged behaviour by its name, or one's own by the path of its TOML file.

    Raises `SettingsError` for an unknown name, an unknown or missing key, or a value that cannot be used.
    """
    given = str(name_or_path)
    if given in names():
        where, folder = f"{given}.toml", None
        data = resources.files(__name__).joinpath(where).read_bytes()
    else:
        path = Path(given).expanduser()
        if not path.is_file():
            raise _unknown(given)
        where, folder, data = str(path), str(path.resolve().parent), path.read_bytes()
    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise SettingsError(f"{where}: expected TOML in UTF-8, found: {problem}. Correct it there.") from problem
    return Behaviour(**_checked(table, where), folder=folder)


def _checked(table: Mapping[str, object], where: str) -> dict[str, Any]:
    """The values of a file as `Behaviour` wants them."""
    known = {field.name: field for field in fields(Behaviour) if field.name != "folder"}
    for key in table:
        if key not in known:
            raise SettingsError(
                f"{where}: expected known keys, found {key!r}.{_nearest(key, known)} Correct or delete it."
            )
    missing = [key for key, field in known.items() if field.default is MISSING and key not in table]
    if missing:
        raise SettingsError(f"{where}: expected {', '.join(missing)}, found {', '.join(table) or 'nothing'}. Add them.")
    values: dict[str, Any] = {key: _value(key, value, str(known[key].type), where) for key, value in table.items()}
    for marker in values["markers"]:
        try:
            found = re.compile(marker, re.IGNORECASE | re.MULTILINE).search("")
        except re.error as problem:
            raise SettingsError(f"{where}: expected a regular expression, found {marker!r}: {problem}.") from problem
        if found:
            raise SettingsError(f"{where}: expected markers that need words, found {marker!r}, which fits anything.")
    return values


def _value(key: str, value: object, kind: str, where: str) -> object:
    """One value, checked: kind is the annotation in `Behaviour`."""
    if kind == "bool":
        expected, fits = "true or false", isinstance(value, bool)
    elif kind.startswith("tuple"):
        fits = isinstance(value, list) and all(isinstance(item, str) and item for item in value)
        expected, value = "a list of strings", tuple(value) if isinstance(value, list) else value
        if key == "markers" and value == ():
            expected, fits = "at least one regular expression", False
    elif key in _CHOICES:
        expected, fits = " or ".join(map(repr, _CHOICES[key])), value in _CHOICES[key]
    else:
        expected, fits = "a string", isinstance(value, str) and bool(value.strip())
    if not fits:
        raise SettingsError(f"{where}: expected {expected} for {key}, found {value!r}. Correct it there.")
    return value


def _sentences(text: str, where: Where) -> list[str]:
    """The sentences that count, with straight quotes and without the markup before them."""
    plain = text.translate(_STRAIGHT).strip()
    found: list[str] = []
    start = 0
    for end in [*_SENTENCE_END.finditer(plain), None]:
        sentence = plain[start : end.start() if end else None]
        if where == "start" and (len(found) == START_SENTENCES or start > START_CHARACTERS):
            break
        if sentence.strip(" \t*_#>-"):
            found.append(sentence.strip(" \t*_#>-"))
        start = end.end() if end else start
    return found


def _unknown(given: str) -> SettingsError:
    if given.endswith(".toml") or "/" in given:
        return SettingsError(f"{given}: expected a behaviour's TOML file, found none. Check the path.")
    return SettingsError(
        f"behaviour {given!r}: expected one of {', '.join(names())}, or the path of a TOML file."
        f"{_nearest(given, names())} Use one of these."
    )


def _nearest(name: str, known: Any) -> str:
    found = get_close_matches(name.lower(), list(known), n=1, cutoff=0.4)
    return f" Did you mean {found[0]!r}?" if found else ""
