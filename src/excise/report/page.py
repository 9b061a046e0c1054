"""The report as one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib

from markupsafe import Markup

from excise.report import plots, sentences
from excise.report.answers import pair_up
from excise.report.facts import Facts
from excise.report.front import front_plot
from excise.report.templates import environment, source
from excise.report.words import size

_STRENGTH_ROWS = 1000
"""A mixture of experts can have many more writers than anyone reads."""


def render_page(facts: Facts) -> str:
    """HTML of at most 3 MB that asks nothing of a network; equal facts give equal bytes."""
    css, js = source("page.css"), source("page.js")
    scores = sentences.states(facts)
    measured = facts.separation
    positions = max(map(len, measured.auroc)) if measured else 0
    values: dict[str, object] = {
        "facts": facts,
        "css": Markup(css),
        "js": Markup(js),
        "policy": _policy(css, js),
        "headline": sentences.headline(facts),
        "damage": sentences.damage(facts),
        "cautions": sentences.cautions(facts),
        "states": scores,
        "results": sentences.results(facts),
        "topics": sentences.topics(facts),
        "topics_right": sentences.topics_have_right(facts),
        "pairs": pair_up(facts.verdict),
        "edit": sentences.edit(facts),
        "directions": sentences.directions(facts),
        "search": sentences.search(facts),
        "limits": sentences.limits(facts),
        "split_words": sentences.SPLIT_WORDS,
        "role_words": plots.ROLE_WORDS,
        "strengths": facts.edit.strengths[:_STRENGTH_ROWS],
        "whiskers": plots.whisker_plot(scores),
        "heat": plots.heat_plot(facts.edit),
        "front": front_plot(facts.front, facts.verdict.base.behaviour, facts.budget) if facts.front else None,
        "separation": plots.separation_plot(measured) if measured else None,
        "positions": positions,
        "last_apart": measured is not None and measured.best is not None and measured.best[1] != 0,
        "model_rows": _model_rows(facts),
    }
    return environment(html=True).get_template("page.html.j2").render(values)


def _policy(css: str, js: str) -> str:
    """A policy that runs this page's own script and style only: a second wall behind the escaping of answers."""

    def allow(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return f"default-src 'none'; style-src {allow(css)}; script-src {allow(js)}; base-uri 'none'; form-action 'none'"


def _model_rows(facts: Facts) -> tuple[tuple[str, str], ...]:
    model = facts.model
    return (
        ("Source", model.source),
        ("Type", model.model_type),
        ("Parameters", size(model.parameters)),
        ("Number format", f"{model.dtype} ({model.dtype_reason})"),
        ("Device", f"{model.device} ({model.device_reason})"),
        ("Prompt wrapping", model.template),
        ("Reasoning block", model.thinking),
        ("Rows in a pass", str(model.micro_batch)),
        ("Passes at once", str(model.at_once)),
        ("Threads in each", str(model.threads)),
    )
