"""`excise chat`: base and edited answers side by side."""

from __future__ import annotations

from pathlib import Path

from excise.cli import console
from excise.errors import StoreError


def talk(run: Path, candidate: int | None) -> None:
    """Ask for lines until an empty one and show both models' answers. Raises StoreError for an unfinished run."""
    from excise import stages
    from excise.intervene import Substitution
    from excise.results import Front, Prompt
    from excise.settings import parse
    from excise.store import RunDirectory

    directory = RunDirectory.open(run)
    if not directory.has("confirm"):
        raise StoreError(f"{run}: expected a run that has searched, found one that has not. Use excise resume {run}.")
    settings = parse(directory.settings["settings"], f"{run}/run.json")
    bench = stages.set_up(settings, stages.behaviour_of(settings), console.Reporter())
    plan = stages.chosen_plan(directory.load("confirm", Front), candidate)
    edit = Substitution(bench.model.module, plan, rounded_to=bench.stored)
    while line := console.ask():
        prompt = [Prompt(line)]
        base = bench.executor.generate(prompt, 4 * settings.max_tokens)[0].text
        with edit.active():
            edited = bench.executor.generate(prompt, 4 * settings.max_tokens)[0].text
        console.show_answers(line, base, edited)
