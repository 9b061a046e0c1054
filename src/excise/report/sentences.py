"""What the page and the card say in words, and the tables that both of them show."""

from __future__ import annotations

import math
from dataclasses import dataclass

from excise.report import words
from excise.report.facts import Facts
from excise.results import Drift, Rate, Score

_NORMS = {
    "none": "Plain ablation, W′ = W − λ u(uᵀW)",
    "columns": "Ablation that keeps the norm of every input column",
    "rows": "Ablation of the row-normalised weight, row norms kept",
}
_METHODS = {
    "gradient": "gradient descent on the edit's strengths",
    "sampler": "sampling of the edit's settings",
}
_STOPPED = {
    "rate reached": "the wanted rate was reached",
    "budget": "nothing better was left within the allowed damage",
    "rounds": "the allowed number of rounds was used",
    "time limit": "the time limit was reached",
    "trials": "all trials were made",
}
SPLIT_WORDS = {
    "extract": "to find the directions",
    "select": "to steer the search",
    "confirm": "to choose among the candidates",
    "test": "for the numbers of this report, used once",
}


@dataclass(frozen=True)
class Value:
    """One table cell."""

    text: str
    detail: str = ""
    """The counts behind it."""


@dataclass(frozen=True)
class Row:
    """One measure in every state of the model."""

    label: str
    hint: str
    values: tuple[Value, ...]


def states(facts: Facts) -> tuple[tuple[str, Score], ...]:
    """(heading, score) of base, edited and every control."""
    verdict = facts.verdict
    return (
        ("Base", verdict.base),
        ("Edited", verdict.edited),
        *((_control_name(score.name), score) for score in verdict.controls),
    )


def _control_name(name: str) -> str:
    return "Control" if name.strip().lower() in ("", "control") else f"Control: {words.clean(name)}"


def headline(facts: Facts) -> str:
    """The verdict in one sentence."""
    base, edited = facts.verdict.base, facts.verdict.edited
    if not edited.behaviour.total:
        return "No prompt was judged, so there is no verdict."
    verb = facts.behaviour.verb.strip() or f"shows {facts.behaviour.title.lower()} on"
    if facts.verdict.split == "test":
        prompts = words.plural(edited.behaviour.total, "unseen prompt")
    else:
        prompts = f"{words.plural(edited.behaviour.total, 'prompt')} of the {facts.verdict.split} split"
    parts = [f"On {prompts} the edited model {verb} {words.rate(edited.behaviour)}"]
    if base.behaviour.total:
        parts.append(f" instead of {words.rate(base.behaviour)}")
    if edited.right is not None and edited.right.total:
        parts.append(f"; {words.rate(edited.right)} of its answers are right")
        if base.right is not None and base.right.total:
            parts.append(f", where the base's were {words.percent(base.right.value)}")
    return "".join(parts) + "."


def damage(facts: Facts) -> str:
    """What happened to everything else, in one sentence; empty where it was not measured."""
    edited = facts.verdict.edited
    parts = []
    if edited.drift is not None:
        parts.append(f"its predictions move by {words.kl(edited.drift.mean)} nats per token (KL)")
    if edited.kept is not None and edited.kept.total:
        parts.append(f"{words.rate(edited.kept)} of its answers stay the same word for word")
    return f"On neutral prompts {' and '.join(parts)}." if parts else ""


def cautions(facts: Facts) -> tuple[str, ...]:
    """What weakens the headline."""
    verdict = facts.verdict
    base, edited = verdict.base, verdict.edited
    found = []
    if verdict.split != "test":
        found.append(f"The numbers come from the {verdict.split} split, which the search has used.")
    if _overlap(base.behaviour, edited.behaviour):
        found.append("The intervals of base and edited overlap: this run does not show a change of the behaviour.")
    for name, control in states(facts)[2:]:
        if not _overlap(base.behaviour, edited.behaviour) and _overlap(control.behaviour, edited.behaviour):
            found.append(
                f"{name} does about as well as the edit ({words.rate(control.behaviour)}): "
                "these directions may not be what did it."
            )
    for what in ("empty", "gibberish", "truncated"):
        before, after = getattr(base, what), getattr(edited, what)
        if before.total and after.total and after.low > before.high:
            found.append(f"More {what} answers than before: {words.rate(after)} instead of {words.rate(before)}.")
    return tuple(found)


def _overlap(one: Rate, other: Rate) -> bool:
    return bool(one.total and other.total) and one.low <= other.high and other.low <= one.high


def results(facts: Facts) -> tuple[Row, ...]:
    """The verdict table; a measure that nothing was counted for is left out."""
    title = facts.behaviour.title
    rows = [
        _rates(facts, f"{title}: target prompts", "answers that show the behaviour", "behaviour"),
        _rates(facts, "Right answers: target prompts", "of the prompts whose answer is known", "right"),
        _rates(facts, f"{title}: neutral prompts", "answers that show the behaviour", "neutral_behaviour"),
        _rates(facts, "Right answers: neutral prompts", "of the prompts whose answer is known", "neutral_right"),
        _rates(facts, "Neutral answers kept", "equal to the base's, token for token", "kept"),
        _drift(facts, "KL per token, mean", "nats on neutral answers; 0 is untouched", "mean"),
        _drift(facts, "KL per token, median", "nats", "median"),
        _drift(facts, "KL per token, 95th percentile", "nats", "p95"),
        _drift(facts, "KL at the first token", "nats, mean", "first_token"),
        _rates(facts, "Empty answers", "lower is better", "empty"),
        _rates(facts, "Gibberish", "lower is better", "gibberish"),
        _rates(facts, "Truncated answers", "cut off by the length limit", "truncated"),
    ]
    return tuple(row for row in rows if any(value.text != words.NOT_MEASURED for value in row.values))


def _rates(facts: Facts, label: str, hint: str, field: str) -> Row:
    found: list[Rate | None] = [getattr(score, field) for _, score in states(facts)]
    return Row(label, hint, tuple(value(rate) for rate in found))


def value(rate: Rate | None) -> Value:
    """A rate as a table cell."""
    return Value(words.rate(rate), words.tally(rate) if rate is not None and rate.total else "")


def _drift(facts: Facts, label: str, hint: str, field: str) -> Row:
    drifts: list[Drift | None] = [score.drift for _, score in states(facts)]
    return Row(
        label,
        hint,
        tuple(
            Value(words.NOT_MEASURED)
            if drift is None
            else Value(words.kl(getattr(drift, field)), words.plural(drift.tokens, "token") if field == "mean" else "")
            for drift in drifts
        ),
    )


def topics(facts: Facts) -> tuple[Row, ...]:
    """Behaviour and right answers by topic, base then edited; empty for a single topic."""
    base, edited = facts.verdict.base.topics, facts.verdict.edited.topics
    names = sorted(set(base) | set(edited))
    if len(names) < 2:
        return ()
    rows = []
    for name in names:
        before, after = base.get(name), edited.get(name)
        rates = [None if row is None else row.behaviour for row in (before, after)]
        rates += [None if row is None else row.right for row in (before, after)]
        rows.append(Row(words.clean(name), "", tuple(map(value, rates))))
    return tuple(rows)


def topics_have_right(facts: Facts) -> bool:
    """Whether any topic knows its right answers."""
    return any(
        row.right is not None and row.right.total > 0
        for score in (facts.verdict.base, facts.verdict.edited)
        for row in score.topics.values()
    )


def edit(facts: Facts) -> str:
    """The edit in one sentence."""
    strengths = facts.edit.strengths
    if not strengths:
        return "The plan is empty: no weight was changed."
    layers = sorted({row.layer for row in strengths})
    where = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
    each = words.plural(facts.edit.directions, "direction")
    if len({len(row.values) for row in strengths}) > 1:
        each = f"up to {each}"
    return (
        f"{_NORMS.get(facts.edit.norm, facts.edit.norm)}, of {each} from each of "
        f"{words.plural(len(strengths), 'writer')} ({words.plural(facts.edit.tensors, 'stored tensor')}) in {where}."
    )


def directions(facts: Facts) -> str:
    """Where the directions come from; empty where the run does not say."""
    found = facts.directions
    if found is None:
        return ""
    text = f"{found.method}, {words.plural(found.per_layer, 'direction')} a layer, taken from {found.source}"
    if math.isfinite(found.separation):
        text += f", which tells unseen target from neutral prompts with an AUROC of {found.separation:.3f}"
    return f"Directions: {text}."


def search(facts: Facts) -> str:
    """How the strengths were found; empty for a run without a search."""
    front = facts.front
    if front is None:
        return ""
    parts = [f"Strengths were found by {_METHODS.get(front.method, front.method)}"]
    if front.rounds:
        parts.append(f" in {words.plural(len(front.rounds), 'round')}")
    parts.append(f"; {words.plural(len(front.points), 'candidate')} came out of it, and it ended because ")
    parts.append(_STOPPED.get(front.stopped, front.stopped) + ".")
    if facts.budget is not None:
        parts.append(f" Damage allowed: a KL of {words.kl(facts.budget)} nats per token.")
    return "".join(parts)


def limits(facts: Facts) -> tuple[str, ...]:
    """What a reader must not take from the numbers: the verdict's notes, then what is true of every run."""
    return (
        *map(words.clean, facts.verdict.notes),
        "The rates hold for these prompts and this judge; other prompts, languages and system messages can differ.",
        "Abilities beyond the neutral prompts were not measured here unless a note above says so.",
        "What the base was trained to hold back may now be said; whoever deploys the edited model answers for that.",
    )
