"""Foreign text in the card: names, topics, notes and commands must not become Markdown, HTML or YAML."""

from __future__ import annotations

import json
import re

from excise.report.words import clean

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$!&])")


def text(value: str) -> str:
    """One line of plain words: what Markdown or HTML would act on is escaped."""
    return _SPECIAL.sub(r"\\\1", " ".join(clean(value).split()))


def code(value: str) -> str:
    """Inline code; the fence is longer than any run of backticks inside. Bars are escaped for tables."""
    line = " ".join(clean(value).split()) or " "
    fence = "`" * (_longest_run(line) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def block(value: str, language: str = "") -> str:
    """A fenced block that its content cannot close."""
    body = clean(value)
    fence = "`" * max(3, _longest_run(body) + 1)
    return f"{fence}{language}\n{body}\n{fence}"


def yaml(value: str) -> str:
    """A double-quoted YAML string; plain words stay bare."""
    line = " ".join(clean(value).split())
    if re.fullmatch(r"[A-Za-z][\w./-]*", line, re.ASCII) and line.lower() not in _YAML_WORDS:
        return line
    return json.dumps(line, ensure_ascii=False)


_YAML_WORDS = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))


def _longest_run(value: str) -> int:
    return max(map(len, re.findall("`+", value)), default=0)
