"""The whole story: prompts → activations → directions → search → confirmation → verdict → checkpoint → report.

Each stage is a pure function of the stages before it (stages.py) and is saved when it ends (store.py), so a run that
was killed at any moment goes on where it was and ends in the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from excise import outputs, stages
from excise.errors import StoreError
from excise.observer import Observer, Silent
from excise.results import (
    ActivationStats, BaseAnswers, EditPlan, Front, ModelFacts, PromptSet, References, Separation, Verdict,
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

    A run that fails before its first stage is saved (bad model, bad prompts) leaves no folder behind.
    """
    directory = RunDirectory.create(out, outputs.run_record(settings))
    try:
        return _go(_tell(directory, settings, observer or Silent()), until)
    except Exception:
        if not directory.has("activations"):
            shutil.rmtree(out, ignore_errors=True)
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


def _tell(directory: RunDirectory, settings: RunSettings, observer: Observer) -> Generator[str, None, Run]:
    with directory.lock():

        def stage(name: str, cls: type[T], about: str, make: Callable[[], T]) -> T:
            if directory.has(name):
                return directory.load(name, cls)
            observer.stage(name, about)
            return directory.save(name, make())

        behaviour = stages.behaviour_of(settings)
        prompts = stage("prompts", PromptSet, "reading prompts", lambda: stages.gather_prompts(settings, behaviour))
        observer.stage("model", "loading the model and proving its writers")
        bench = stages.set_up(settings, behaviour, observer)
        _same_model(directory, bench)

        stats = stage(
            "activations", ActivationStats, "measuring activations",
            lambda: stages.measure_activations(bench, prompts),
        )  # fmt: skip
        separation = stage(
            "separation", Separation, "finding where the two sides part",
            lambda: stages.measure_separation(bench, prompts, stats),
        )  # fmt: skip
        yield "separation"
        starts = stages.choose_starts(bench, stats, separation)
        base = stage("base", BaseAnswers, "asking the unedited model", lambda: stages.ask_base(bench, prompts))
        judge = stages.make_judge(bench, base)
        references = stage(
            "references", References, "making answers to aim at",
            lambda: stages.make_references(bench, prompts, base, judge, starts[0]),
        )  # fmt: skip
        found = stage(
            "search", Front, "searching for the edit",
            lambda: stages.search(bench, prompts, base, judge, references, starts),
        )  # fmt: skip
        front = stage(
            "confirm", Front, "confirming the best candidates",
            lambda: stages.confirm_front(bench, prompts, found, judge),
        )  # fmt: skip
        yield "confirm"
        plan = stages.chosen_plan(front)
        verdict = stage(
            "verdict", Verdict, "measuring on unseen prompts",
            lambda: stages.evaluate(bench, prompts, plan, judge),
        )  # fmt: skip

        yield "verdict"
        observer.stage("write", "writing checkpoint, recipe and report")
        facts = outputs.facts(bench, directory.path, prompts, separation, starts, front, plan, verdict)
        outputs.write_recipe(directory, bench, plan)
        outputs.write_model(directory, bench, plan, facts)
        report = outputs.write_report(directory, facts)
        directory.finish()
        return Run(directory.path, directory.model, report, verdict, front, plan)


def _same_model(directory: RunDirectory, bench: Bench) -> None:
    """The model of a resumed run must be the one it began with, run in the same micro-batches."""
    if not directory.has("model"):
        directory.save("model", bench.model.facts)
        return
    before, now = directory.load("model", ModelFacts), bench.model.facts
    for name in ("fingerprint", "dtype", "device", "micro_batch", "threads"):
        if getattr(before, name) != getattr(now, name):
            raise StoreError(
                f"{directory.path}: the run began with {name} {getattr(before, name)}, found {getattr(now, name)}. "
                "Resume it on the machine and with the model that it began with, or start a new run."
            )
