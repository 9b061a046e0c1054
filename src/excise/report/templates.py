"""The templates' environment: where they are read from, and the number formats that they may use."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from excise.report import answers, markdown, words


@cache
def source(name: str) -> str:
    """Text of a packaged file of this folder, line ends as written."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8").replace("\r\n", "\n")


def environment(*, html: bool) -> Environment:
    """Undefined names are errors; with `html` every value is escaped, and made fit to be stored as UTF-8."""
    found = Environment(
        loader=FunctionLoader(source),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_storable,
    )
    for format_number in (words.rate, words.tally, words.kl, words.count, words.size, words.signed, words.seconds):
        found.filters[format_number.__name__] = format_number
    found.filters.update(plural=words.plural, cut=answers.cut, md=markdown.text, code=markdown.code, yaml=markdown.yaml)
    return found


def _storable(value: object) -> object:
    return words.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value
