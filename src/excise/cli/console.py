"""Everything that is printed. Results go to stdout; progress and errors to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from excise.errors import ExciseError
from excise.report import words
from excise.results import Front, Score, Separation, Verdict, Writer

WIDTH = 110
"""Columns where the output is no terminal, so that logs and transcripts look alike everywhere."""
out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Reporter:
    """An Observer for people: a bar on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Reporter:
        if err.is_terminal:
            columns = (TextColumn("  {task.description}"), BarColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=err, transient=True)
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def stage(self, name: str, about: str) -> None:
        """One line a stage, with the seconds since the start."""
        err.print(f"[dim]{time.monotonic() - self._began:6.1f} s[/]  {escape(about)}")
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(about, total=None)

    def note(self, text: str) -> None:
        """An indented line."""
        err.print(f"          [dim]{escape(text)}[/]")

    def progress(self, done: int, total: int) -> None:
        """Moves the bar; says nothing elsewhere."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)


def fail(error: ExciseError) -> None:
    """One clear line."""
    err.print(f"[bold red]error:[/] {escape(str(error))}")


def say(text: str) -> None:
    """A plain line of results."""
    out.print(escape(text), soft_wrap=True)


def write_json(value: Any) -> None:
    """One JSON object on one line, for machines."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, sort_keys=True) + "\n")


def show_verdict(verdict: Verdict, name: str) -> None:
    """The verdict as a table: base, edited, controls."""
    show_scores((verdict.base, verdict.edited, *verdict.controls), name)
    if len(verdict.edited.topics) > 1:
        _show_topics(verdict, name)


def show_scores(states: Sequence[Score], name: str) -> None:
    """States of a model side by side, on the same prompts."""
    first = states[0]
    table = Table(
        title=f"Test split: {first.behaviour.total} target and {first.neutral_behaviour.total} neutral prompts"
    )
    table.add_column("")
    for state in states:
        table.add_column(state.name, justify="right")
    rows: Mapping[str, Sequence[str]] = {
        f"{name} on target prompts": [words.rate(s.behaviour) for s in states],
        "right answers to target prompts": [words.rate(s.right) for s in states],
        "neutral answers kept word for word": [words.rate(s.kept) for s in states],
        "right answers to neutral prompts": [words.rate(s.neutral_right) for s in states],
        "empty or gibberish": [f"{s.empty.count + s.gibberish.count}" for s in states],
        "cut off by the limit": [f"{s.truncated.count}" for s in states],
        "KL per token, mean": [_kl(s, "mean") for s in states],
        "KL per token, median": [_kl(s, "median") for s in states],
        "KL per token, 95th percentile": [_kl(s, "p95") for s in states],
        "KL at the first token": [_kl(s, "first_token") for s in states],
    }
    for label, cells in rows.items():
        table.add_row(label, *cells)
    out.print(table)


def _show_topics(verdict: Verdict, name: str) -> None:
    table = Table(title="By topic")
    for column in ("topic", "prompts", f"{name}, base", f"{name}, edited", "right, edited"):
        table.add_column(column, justify="left" if column == "topic" else "right")
    for topic, row in verdict.edited.topics.items():
        before = verdict.base.topics[topic]
        table.add_row(
            topic,
            str(row.behaviour.total),
            words.rate(before.behaviour),
            words.rate(row.behaviour),
            words.rate(row.right),
        )
    out.print(table)


def show_front(front: Front) -> None:
    """The front as a table, the chosen candidate marked."""
    table = Table(title=f"Front of the search ({front.method}; stopped: {front.stopped})")
    for column in ("candidate", "round", "behaviour, select", "behaviour, confirm", "KL per token", ""):
        table.add_column(column, justify="right")
    for c in front.candidates:
        confirmed = words.rate(c.confirmed.behaviour) if c.confirmed else "–"
        damage = words.kl(c.confirmed.drift if c.confirmed else c.terms.neutral)
        table.add_row(
            str(c.index),
            str(c.round),
            words.rate(c.select),
            confirmed,
            damage,
            "chosen" if c.index == front.chosen else "",
        )
    out.print(table)


def show_separation(separation: Separation) -> None:
    """AUROC by layer and position."""
    table = Table(title="How well each layer's direction tells target from neutral prompts (AUROC, select split)")
    layers, positions = separation.auroc.shape
    table.add_column("layer", justify="right")
    for position in range(positions):
        table.add_column("last token" if position == 0 else f"−{position}", justify="right")
    for layer in range(layers):
        table.add_row(str(layer), *(f"{float(separation.auroc[layer, p]):.3f}" for p in range(positions)))
    out.print(table)


def show_writers(writers: Sequence[Writer]) -> None:
    """The writer map."""
    table = Table(title=f"{len(writers)} matrices write to the residual stream")
    for column in ("writer", "role", "layout", "stored as"):
        table.add_column(column)
    for writer in writers:
        stored = (
            writer.tensors[0] if len(writer.tensors) == 1 else f"{writer.tensors[0]} … {len(writer.tensors)} tensors"
        )
        table.add_row(writer.name, writer.role, writer.stored_layout, stored)
    out.print(table)


def show_answers(prompt: str, base: str, edited: str) -> None:
    """Two answers side by side."""
    table = Table(show_lines=False, expand=True, title=None)
    table.add_column("base", ratio=1)
    table.add_column("edited", ratio=1)
    table.add_row(escape(base), escape(edited))
    out.print(table)


def ask(prompt: str = "you> ") -> str | None:
    """One line from the user; None at the end of input."""
    try:
        return out.input(prompt)
    except EOFError:
        return None


def _kl(state: Score, name: str) -> str:
    return "–" if state.drift is None else words.kl(getattr(state.drift, name))
