"""What each stage of a run does, on the values of the stages before it. `story.py` tells in which order."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from excise import architecture, behaviours, demo
from excise.activations import measure, separation
from excise.behaviours import Behaviour
from excise.checkpoint import Entry, open_index
from excise.checkpoint.tensors import DTYPES
from excise.directions import METHODS, NEEDS_COVARIANCE, starts
from excise.edits import random_like, uniform_plan
from excise.errors import BehaviourError, CheckpointError, PromptError, SettingsError
from excise.evaluate.behaviour import Judge, build_judge
from excise.evaluate.drift import drift
from excise.evaluate.score import score
from excise.executor import Resident
from excise.gather import gather_prompts as gather_prompts
from excise.intervene import Substitution
from excise.model import Model, load
from excise.observer import Observer
from excise.results import (
    ActivationStats,
    BaseAnswers,
    Directions,
    EditPlan,
    Front,
    Judged,
    Prompt,
    PromptSet,
    Reference,
    References,
    Score,
    Separation,
    Verdict,
    WriterMap,
)  # fmt: skip
from excise.search import targets
from excise.search.confirm import confirm
from excise.search.rounds import GradientSearch, Ground, Wanted
from excise.search.sampler import SamplerSearch
from excise.settings import RunSettings

REFERENCES = 48
"""Teacher-forced answers of each side that the search descends on."""
SHOWN = 96
"""Target prompts of the extract split that the base answers, to learn what the behaviour looks like in this model."""
POSITIONS = 8
"""At most so many of the last prompt positions are measured."""
ENOUGH = 0.5
"""Where fewer target prompts than this share give usable answers, targets come from a first coarse edit."""


@dataclass
class Bench:
    """The loaded model with everything that runs on it."""

    settings: RunSettings
    behaviour: Behaviour
    model: Model
    writers: WriterMap
    executor: Resident
    observer: Observer
    leak: float
    """What the proof of the writers left along a removed direction."""
    stored: Mapping[str, torch.dtype]
    """Dtype of each writer's tensors in the checkpoint, by the writer's name: what measured edits are rounded to."""

    @property
    def wanted(self) -> Wanted:
        """The search's goal, with its deadline counted from now."""
        s = self.settings
        deadline = None if s.time_limit is None else time.monotonic() + s.time_limit
        return Wanted(s.max_rate, s.max_drift, s.rounds, s.max_tokens, deadline)

    @property
    def positions(self) -> int:
        """How many of the last prompt positions are measured."""
        return self.settings.positions or min(POSITIONS, self.model.suffix_length)


def set_up(settings: RunSettings, behaviour: Behaviour, observer: Observer) -> Bench:
    """Load the model, find its writers and prove that no other one is left."""
    s = settings
    model = load(
        s.model or demo.path(), revision=s.revision, dtype=s.dtype, device=s.device,
        trust_remote_code=s.trust_remote_code, thinking=s.thinking, system=s.system, micro_batch=s.micro_batch,
    )  # fmt: skip
    entries = {entry.name: entry for shard in open_index(model.path).shards for entry in shard.entries}
    writers = architecture.find_writers(model.module, {name: entry.shape for name, entry in entries.items()})
    stored = {writer.name: _stored_dtype(entries[writer.tensors[0]]) for writer in writers.writers}
    leak = architecture.verify(model.module, writers, seed=s.seed)
    executor = Resident(model, [model.module.get_submodule(path) for path in writers.blocks])
    observer.note(
        f"{model.facts.model_type}, {model.facts.parameters:,} parameters, {model.facts.dtype} on "
        f"{model.facts.device}: "
        f"{len(writers.writers)} writers in {writers.layers} layers, {leak:.1e} left along a removed direction"
    )
    return Bench(s, behaviour, model, writers, executor, observer, leak, stored)


def _stored_dtype(entry: Entry) -> torch.dtype:
    if entry.dtype not in DTYPES:
        raise CheckpointError(
            f"{entry.name}: expected one of {', '.join(DTYPES)}, found {entry.dtype}, which cannot be edited yet. "
            "Convert the checkpoint to BF16 first."
        )
    return DTYPES[entry.dtype]


def measure_activations(bench: Bench, prompt_set: PromptSet) -> ActivationStats:
    """Moments of both sides on the extract split. Raises SettingsError for more positions than prompts have tokens."""
    encode = bench.model.encode
    shortest = min(len(row) for side in (prompt_set.target, prompt_set.neutral) for row in encode(side["extract"]))
    if bench.positions > shortest:
        raise SettingsError(f"positions: expected at most {shortest}, the shortest prompt, found {bench.positions}.")
    return measure(
        bench.executor,
        encode(prompt_set.target["extract"]),
        encode(prompt_set.neutral["extract"]),
        bench.positions,
        covariance=bench.settings.directions in NEEDS_COVARIANCE,
        winsor=bench.settings.winsor,
    )


def measure_separation(bench: Bench, prompt_set: PromptSet, stats: ActivationStats) -> Separation:
    """How well each place's direction separates the select split."""
    vectors = METHODS[bench.settings.directions](stats, bench.settings.k)[:, :, 0]
    encode = bench.model.encode
    rows = encode(prompt_set.target["select"]), encode(prompt_set.neutral["select"])
    return separation(bench.executor, *rows, vectors, stats)


def choose_starts(bench: Bench, stats: ActivationStats, measured: Separation) -> tuple[Directions, ...]:
    """Starting directions for the search."""
    method = bench.settings.directions
    return starts(METHODS[method](stats, bench.settings.k), measured, method)


def ask_base(bench: Bench, prompt_set: PromptSet) -> BaseAnswers:
    """What the unedited model says, freely and when made to open as on neutral prompts."""
    executor, limit = bench.executor, bench.settings.max_tokens
    asked = prompt_set.target["extract"][:SHOWN]
    shown = executor.generate(asked, limit)
    neutral = executor.generate(prompt_set.neutral["extract"][:SHOWN], limit)
    select = executor.generate(prompt_set.target["select"], limit)
    keep = executor.generate(prompt_set.keep, limit)
    if bench.behaviour.targets == "plain":
        return BaseAnswers(tuple(shown), tuple(neutral), tuple(select), (), tuple(keep), ())
    openers = bench.behaviour.openers or targets.usual_openers(neutral, executor)
    forced = executor.generate(asked[:REFERENCES], limit, prefix=openers[0]) if openers else []
    return BaseAnswers(tuple(shown), tuple(neutral), tuple(select), openers, tuple(keep), tuple(forced))


def make_judge(bench: Bench, base: BaseAnswers) -> Judge:
    """The judge for this model, and the check that there is something to remove (BehaviourError)."""
    judge = build_judge(bench.behaviour, base.target, base.neutral, base.forced)
    judged = judge(base.select)
    count = sum(row.label in ("shows", "partly") for row in judged)
    if count <= bench.settings.max_rate * len(judged):
        raise BehaviourError(
            f"nothing to remove: {count} of {len(judged)} prompts show {bench.behaviour.name!r} in "
            f"{bench.model.facts.source}. Give prompts that draw it with --target, or name another behaviour."
        )
    bench.observer.note(f"the base shows {bench.behaviour.name} on {count} of {len(judged)} select prompts")
    return judge


def make_references(bench: Bench, base: BaseAnswers, judge: Judge, first: Directions) -> References:
    """The answers that the search holds an edit against, made by the model itself."""
    asked, limit = [answer.prompt for answer in base.target[:REFERENCES]], bench.settings.max_tokens
    neutral = targets.from_answers([row.answer for row in judge(base.neutral) if row.label != "broken"][:REFERENCES])
    if not neutral:
        raise BehaviourError(
            "search: expected neutral answers that are not broken, found none. Check the neutral prompts."
        )
    if bench.behaviour.targets == "plain":
        found, source = targets.from_plain(bench.executor, asked, limit), "plain"
        if not found:
            raise PromptError(f"target prompts: {bench.behaviour.name!r} needs a `plain` version of each, found none.")
    else:
        found = targets.from_openers(bench.executor, asked, base.openers, base.forced, judge, limit)
        source = "openers"
    if source == "openers" and len(found) < ENOUGH * len(asked):
        found, source = _from_coarse_edit(bench, asked, judge, first, found), "coarse edit"
    bench.observer.note(f"{len(found)} wanted answers to target prompts from {source}, {len(neutral)} to neutral ones")
    return References(found, neutral, targets.from_answers(base.keep), source)


def _from_coarse_edit(
    bench: Bench, asked: Sequence[Prompt], judge: Judge, first: Directions, found: tuple[Reference, ...]
) -> tuple[Reference, ...]:
    """What a plain ablation of the best direction answers; kept together with what openers gave."""
    plan = uniform_plan(bench.writers.writers, first.vectors, 1.0)
    with Substitution(bench.model.module, plan).active():
        answers = bench.executor.generate(asked, bench.settings.max_tokens)
    usable = targets.from_answers([row.answer for row in judge(answers) if row.label == "absent"], forced=1)
    have = {reference.prompt for reference in found}
    both = (*found, *(reference for reference in usable if reference.prompt not in have))
    if not both:
        raise BehaviourError(
            "search: expected answers without the behaviour to aim at, found none, neither by opening answers as on "
            "neutral prompts nor by a first plain ablation. Give the behaviour openers of its own, or `plain` prompts."
        )
    return both


def search(
    bench: Bench, prompt_set: PromptSet, base: BaseAnswers, judge: Judge, references: References,
    begin: Sequence[Directions],
) -> Front:  # fmt: skip
    """The front of candidates by the method that the settings name."""
    ground = Ground(
        references,
        tuple(answer.prompt for answer in base.target),
        tuple(answer.prompt for answer in base.neutral),
        (*prompt_set.target["select"], *_unused(base, references)),
        judge,
    )
    common = (bench.executor, bench.writers.writers, begin, ground, bench.wanted, bench.observer)
    if bench.settings.search == "sampler":
        s = bench.settings
        return SamplerSearch(*common, norm=s.norm, trials=s.trials, seed=s.seed).run()
    return GradientSearch(*common, norm=bench.settings.norm).run()


def _unused(base: BaseAnswers, references: References) -> list[Prompt]:
    """Target prompts of the extract split that the descent does not see: they help to judge its rounds."""
    used = {reference.prompt for reference in references.target}
    return [answer.prompt for answer in base.target if answer.prompt not in used]


def confirm_front(bench: Bench, prompt_set: PromptSet, front: Front, judge: Judge) -> Front:
    """Finalists on the confirm split, once; the choice is made there."""
    return confirm(
        bench.executor, front, prompt_set.target["confirm"], prompt_set.neutral["confirm"], judge, bench.wanted,
        bench.stored,
    )  # fmt: skip


def evaluate(bench: Bench, prompt_set: PromptSet, plan: EditPlan, judge: Judge) -> Verdict:
    """Base, edited and control on the test split, which nothing before has seen."""
    target, neutral = prompt_set.target["test"], prompt_set.neutral["test"]
    limit = bench.settings.max_tokens
    base_target, base_neutral = (bench.executor.generate(side, limit) for side in (target, neutral))
    base = score("base", base_target, base_neutral, judge, base_neutral=None, drift=None)

    def of(name: str, edit: EditPlan) -> Score:
        change = Substitution(bench.model.module, edit, rounded_to=bench.stored)
        with change.active():
            said = bench.executor.generate(target, limit)
            kept = bench.executor.generate(neutral, limit)
        moved = drift(bench.executor, base_neutral, change)
        return score(name, said, kept, judge, base_neutral=base_neutral, drift=moved)

    control = of("random direction", random_like(plan, seed=bench.settings.seed))
    return Verdict(base, of("edited", plan), (control,), notes=_notes(bench, base.target))


def _notes(bench: Bench, target: Sequence[Judged]) -> tuple[str, ...]:
    notes = [f"answers were judged up to {bench.settings.max_tokens} tokens, greedy, first turn only"]
    if not any(row.answer.prompt.answer for row in target):
        notes.append("whether answers are right was not measured: the prompts come without known answers")
    if bench.settings.system is None:
        notes.append("no system message was used; behaviour under other system messages was not measured")
    return (*notes, *bench.executor.notes)


def chosen_plan(front: Front, number: int | None = None) -> EditPlan:
    """The chosen candidate's plan, or that of another one of the front (BehaviourError where it is not there)."""
    wanted = front.chosen if number is None else number
    for candidate in front.candidates:
        if candidate.index == wanted:
            return candidate.plan
    known = ", ".join(str(candidate.index) for candidate in front.candidates)
    raise BehaviourError(f"candidate {wanted}: expected one of the front ({known}).")


def behaviour_of(settings: RunSettings) -> Behaviour:
    """The behaviour that the settings name."""
    return behaviours.load(settings.behaviour)
