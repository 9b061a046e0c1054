"""The whole story: prompts → activations → directions → search → confirmation → verdict → checkpoint → report.

Each stage is a pure function of the stages before it (stages.py) and is saved when it ends (store.py), so a run that
was killed at any moment goes on where it was and ends in the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from excise import outputs, stages
from excise.errors import BehaviourError, ModelError, PromptError, SettingsError, StoreError
from excise.evaluate.behaviour import Judge
from excise.observer import Observer, Silent
from excise.results import (
    ActivationStats,
    BaseAnswers,
    Directions,
    EditPlan,
    Front,
    ModelFacts,
    PromptSet,
    References,
    Separation,
    Verdict,
)  # fmt: skip
from excise.settings import RunSettings, parse
from excise.stages import Bench
from excise.store import RunDirectory

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: Path
    model: Path
    """The edited checkpoint."""
    report: Path
    verdict: Verdict
    front: Front
    plan: EditPlan


def run(settings: RunSettings, out: Path, observer: Observer | None = None, *, until: str | None = None) -> Run | None:
    """Do everything, into the new folder `out`. Raises ExciseError; what was finished stays and can be resumed.

    `until` names the stage after which to stop (None is returned then).

    A run that going on cannot mend (bad model, bad prompts, nothing to remove) leaves no folder behind.
    """
    settings = outputs.absolute(settings)
    directory = RunDirectory.create(out, outputs.run_record(settings))
    try:
        return _go(_tell(directory, settings, observer or Silent()), until)
    except (PromptError, BehaviourError, ModelError, SettingsError):
        if not directory.has("references"):
            shutil.rmtree(directory.path, ignore_errors=True)
        raise


def resume(out: Path, observer: Observer | None = None, *, until: str | None = None) -> Run | None:
    """Go on with a run that was stopped; a finished one is read back. Same bytes as if it had never stopped."""
    directory = RunDirectory.open(out)
    record = directory.settings
    outputs.check_versions(record, out)
    return _go(_tell(directory, parse(record["settings"], f"{out}/run.json"), observer or Silent()), until)


def _go(story: Generator[str, None, Run], until: str | None) -> Run | None:
    """Tell the story to its end, or to the end of the stage `until`."""
    while True:
        try:
            name = next(story)
        except StopIteration as end:
            finished: Run = end.value
            return finished
        if name == until:
            story.close()
            return None


@dataclass(frozen=True)
class _Keeper:
    """Makes each stage once: what a killed run had finished is read back instead."""

    directory: RunDirectory
    observer: Observer
    bench: Bench | None = None
    """Whose facts are saved again where memory made its micro-batches smaller."""

    def __call__(self, name: str, cls: type[T], about: str, make: Callable[[], T]) -> T:
        if self.directory.has(name):
            return self.directory.load(name, cls)
        self.observer.stage(name, about)
        value = self.directory.save(name, make())
        if self.bench is not None and self.bench.model.facts != self.directory.load("model", ModelFacts):
            self.directory.save("model", self.bench.model.facts)
        return value


def _tell(directory: RunDirectory, settings: RunSettings, observer: Observer) -> Generator[str, None, Run]:
    """The story, yielding after each part of it that a command may end with."""
    with directory.lock():
        keep = _Keeper(directory, observer)
        behaviour = stages.behaviour_of(settings)
        prompts = keep("prompts", PromptSet, "reading prompts", lambda: stages.gather_prompts(settings, behaviour))
        observer.stage("model", "loading the model and proving its writers")
        bench = stages.set_up(settings, behaviour, observer)
        _same_model(directory, bench)
        keep = replace(keep, bench=bench)

        stats, separation = _measure(keep, bench, prompts)
        yield "separation"
        starts = stages.choose_starts(bench, stats, separation)
        front, judge = _search(keep, bench, prompts, starts)
        yield "confirm"
        plan = stages.chosen_plan(front)
        about = "measuring on unseen prompts"
        verdict = keep("verdict", Verdict, about, lambda: stages.evaluate(bench, prompts, plan, judge))
        yield "verdict"

        observer.stage("write", "writing checkpoint, recipe and report")
        facts = outputs.facts(bench, prompts, separation, starts, front, plan, verdict)
        outputs.write_recipe(directory, bench, plan)
        outputs.write_model(directory, bench, plan, facts)
        report = outputs.write_report(directory, facts)
        directory.finish()
        return Run(directory.path, directory.model, report, verdict, front, plan)


def _measure(keep: _Keeper, bench: Bench, prompts: PromptSet) -> tuple[ActivationStats, Separation]:
    about = "measuring activations"
    stats = keep("activations", ActivationStats, about, lambda: stages.measure_activations(bench, prompts))
    about = "finding where the two sides part"
    return stats, keep("separation", Separation, about, lambda: stages.measure_separation(bench, prompts, stats))


def _search(keep: _Keeper, bench: Bench, prompts: PromptSet, starts: Sequence[Directions]) -> tuple[Front, Judge]:
    """From the base's own answers to the confirmed front; the judge that they taught goes along."""
    base = keep("base", BaseAnswers, "asking the unedited model", lambda: stages.ask_base(bench, prompts))
    judge = stages.make_judge(bench, base)
    about = "making answers to aim at"
    references = keep("references", References, about, lambda: stages.make_references(bench, base, judge, starts[0]))
    about = "searching for the edit"
    found = keep("search", Front, about, lambda: stages.search(bench, prompts, base, judge, references, starts))
    about = "confirming the best candidates"
    return keep("confirm", Front, about, lambda: stages.confirm_front(bench, prompts, found, judge)), judge


def _same_model(directory: RunDirectory, bench: Bench) -> None:
    """The model of a resumed run must be the one it began with, run in the same micro-batches."""
    if not directory.has("model"):
        directory.save("model", bench.model.facts)
        return
    before, now = directory.load("model", ModelFacts), bench.model.facts
    if before.micro_batch < now.micro_batch and bench.settings.micro_batch is None:
        bench.executor.shrink(before.micro_batch)
        now = bench.model.facts
    for name in ("fingerprint", "dtype", "device", "micro_batch", "threads"):
        if getattr(before, name) != getattr(now, name):
            raise StoreError(
                f"{directory.path}: the run began with {name} {getattr(before, name)}, found {getattr(now, name)}. "
                "Resume it on the machine and with the model that it began with, or start a new run."
            )
