"""The model card: README.md of the edited checkpoint. No clock times, so equal results give equal bytes."""

from __future__ import annotations

import re
from pathlib import Path

import yaml as pyyaml  # type: ignore[import-untyped, unused-ignore]
from huggingface_hub.repocard import metadata_load

from excise.report import markdown, sentences
from excise.report.facts import Facts
from excise.report.templates import environment

_LICENCE_KEYS = ("license", "license_name", "license_link")


def render_card(facts: Facts) -> str:
    """Markdown with YAML front matter as the Hugging Face hub reads it; the numbers are the page's."""
    values: dict[str, object] = {
        "facts": facts,
        "tags": tags(facts),
        "headline": sentences.headline(facts),
        "damage": sentences.damage(facts),
        "cautions": sentences.cautions(facts),
        "base_words": _base_words(facts),
        "edit": sentences.edit(facts),
        "states": sentences.states(facts),
        "results": sentences.results(facts),
        "topics": sentences.topics(facts),
        "topics_right": sentences.topics_have_right(facts),
        "limits": sentences.limits(facts),
        "directions": sentences.directions(facts),
        "search": sentences.search(facts),
        "command": markdown.block(facts.command, "sh") if facts.command else "",
    }
    return environment(html=False).get_template("card.md.j2").render(values)


def tags(facts: Facts) -> tuple[str, ...]:
    """Tags by which the hub finds the model."""
    behaviour = re.sub(r"[^a-z0-9]+", "-", facts.behaviour.name.lower()).strip("-")
    return ("abliterated", "excise", *([behaviour] if behaviour else []))


def base_licence(folder: Path) -> dict[str, str]:
    """`license` fields of the base's own card; empty where it has none, or none that can be read."""
    card = folder / "README.md"
    if not card.is_file():
        return {}
    try:
        found = metadata_load(card)
    except (ValueError, UnicodeError, pyyaml.YAMLError):
        return {}  # a damaged card says nothing about the licence; the checkpoint is unaffected
    values = {key: found.get(key) for key in _LICENCE_KEYS} if isinstance(found, dict) else {}
    return {key: value for key, value in values.items() if isinstance(value, str) and value.strip()}


def _base_words(facts: Facts) -> str:
    if facts.hub_id:
        return f"[{markdown.text(facts.hub_id)}](https://huggingface.co/{facts.hub_id})"
    return markdown.code(facts.base_name)
