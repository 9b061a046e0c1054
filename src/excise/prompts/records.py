"""From one record of a table or a JSON object to a `Prompt`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from excise.errors import PromptError
from excise.results import Prompt

COLUMNS = ("prompt", "text", "instruction", "question", "messages")
"""Where the prompt is looked for when no column is named, in this order."""
DETAILS = ("system", "answer", "topic", "plain")
"""Further columns that are used where they exist."""


def nearest(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?", or nothing where no known name is near."""
    found = get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f" Did you mean {found[0]!r}?" if found else ""


def choose(columns: Iterable[str], wanted: str | None, where: str) -> str:
    """The column that holds the prompt: `wanted`, or the first of `COLUMNS` that exists."""
    found = list(columns)
    listed = ", ".join(map(repr, found)) or "none"
    if wanted is not None:
        if wanted in found:
            return wanted
        raise PromptError(f"{where}: expected a column {wanted!r}, found {listed}.{nearest(wanted, found)}")
    for name in COLUMNS:
        if name in found:
            return name
    guess = next((near for near in (nearest(name, found) for name in COLUMNS[:4]) if near), "")
    raise PromptError(
        f"{where}: expected a column {', '.join(map(repr, COLUMNS[:-1]))} or {COLUMNS[-1]!r}, found {listed}.{guess}"
        " Name the one that holds the prompts (column=..., or ':NAME' after the source)."
    )


def prompt_of(record: Mapping[str, object], column: str, where: str, *, foreign: bool = False) -> Prompt:
    """The prompt in one record.

    `foreign`: a data set that was not made for Excise, where a detail that is no text (a class number named
    "answer") means something else and is left alone; in a user's own file it is an error.
    """
    value = record.get(column)
    turns = value if isinstance(value, list) else None
    text = _first(turns, "user", where) if turns is not None else _string(value, column, where)
    details: dict[str, str | None] = {}
    for name in DETAILS:
        detail = record.get(name) if name != column else None
        details[name] = None if foreign and not isinstance(detail, str) else _string(detail, name, where)
    system = details["system"] or (_first(turns, "system", where) if turns is not None else None)
    answer, topic, plain = (details[name] or None for name in DETAILS[1:])
    return Prompt(text or "", system or None, answer, topic, plain)


def _string(value: object, name: str, where: str) -> str | None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as problem:
            raise PromptError(f"{where}: expected text in {name!r}, found half a character. Repair it.") from problem
        return value
    if value is None:
        return None
    raise PromptError(f"{where}: expected text in {name!r}, found {type(value).__name__}. Write it as a string.")


def _first(turns: list[object], role: str, where: str) -> str | None:
    """Content of the first turn of that role; a conversation without a user turn is an error."""
    for turn in turns:
        if not isinstance(turn, Mapping) or "role" not in turn or "content" not in turn:
            raise PromptError(
                f'{where}: expected turns like {{"role": "user", "content": "..."}}, found {str(turn)[:80]!r}.'
                " Convert the conversation to that form, or name a column of plain text."
            )
        if turn["role"] == role:
            return _content(turn["content"], where)
    if role == "user":
        raise PromptError(f"{where}: expected a user turn, found none in {len(turns)} turns. Add one or leave it out.")
    return None


def _content(content: object, where: str) -> str | None:
    """Text of a turn, given as a string or as a list of typed parts."""
    if not isinstance(content, list):
        return _string(content, "content", where)
    texts = []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise PromptError(f"{where}: expected parts of type 'text' only, found {str(part)[:80]!r}. Leave it out.")
        texts.append(part["text"])
    return "\n".join(texts)
