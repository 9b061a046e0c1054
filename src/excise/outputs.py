"""What a run leaves behind: recipe, checkpoint with its card, report; and the record that makes it repeatable."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from excise import demo, report
from excise.checkpoint import save_recipe, write_edited
from excise.errors import StoreError
from excise.report.facts import BehaviourWords, Facts, gather
from excise.results import Directions, EditPlan, Front, PromptSet, Separation, Verdict
from excise.settings import RunSettings
from excise.stages import Bench
from excise.store import RunDirectory

PACKAGES = ("torch", "transformers", "safetensors", "tokenizers", "numpy", "scipy")
"""Whose versions can change a number."""


def versions() -> dict[str, str]:
    """Versions of everything that can change a number."""
    found = {name: metadata.version(name) for name in PACKAGES}
    return {"excise": metadata.version("excise"), "python": platform.python_version(), **found}


def absolute(settings: RunSettings) -> RunSettings:
    """Paths that exist made absolute, so that a run can be resumed from anywhere."""
    found = {
        name: str(Path(value).resolve())
        for name in ("model", "behaviour", "target", "neutral", "keep")
        if (value := getattr(settings, name)) and Path(value).exists()
    }
    return settings.model_copy(update=found)


def run_record(settings: RunSettings) -> dict[str, Any]:
    """What run.json holds: settings (the seed among them) and versions."""
    return {"settings": settings.model_dump(mode="json"), "versions": versions()}


def check_versions(record: dict[str, Any], where: Path) -> None:
    """Raises StoreError where a run began under other versions, which may give other bytes."""
    for name, version in versions().items():
        before = record.get("versions", {}).get(name)
        if before != version:
            raise StoreError(
                f"{where}: the run began with {name} {before}, found {version}. Install that version to resume it, "
                "or start a new run."
            )


def command(settings: RunSettings) -> str:
    """The command line that makes this run again."""
    parts = ["excise", "run", "--out", "NEW_FOLDER"]
    changed = settings.model_dump(mode="json", exclude_defaults=True)
    if settings.model is not None:
        parts.append(str(changed.pop("model")))
    for name, value in changed.items():
        flag = "--" + name.replace("_", "-")
        parts += [flag] if value is True else [flag, str(value)]
    return shlex.join(parts)


def facts(
    bench: Bench,
    prompts: PromptSet,
    separation: Separation,
    starts: Sequence[Directions],
    front: Front,
    plan: EditPlan,
    verdict: Verdict,
) -> Facts:
    """Everything that the report and the card say."""
    behaviour = bench.behaviour
    used = next((start for start in starts if start.source == front.rounds[0].directions), starts[0])
    return gather(
        settings=bench.settings.model_dump(mode="json"),
        command=command(bench.settings),
        versions=versions(),
        model=bench.model.facts,
        behaviour=BehaviourWords(behaviour.name, behaviour.title, behaviour.description, behaviour.verb),
        judge="Markers of the behaviour, and a small judge fitted on the unedited model's own answers.",
        prompts=prompts,
        plan=plan,
        verdict=verdict,
        separation=separation,
        directions=used,
        front=front,
        budget=bench.settings.max_drift,
        licence=report.base_licence(bench.model.path),
    )


def write_recipe(directory: RunDirectory, bench: Bench, plan: EditPlan) -> None:
    """DIR/recipe.safetensors and recipe.json: enough to make the checkpoint again from its base."""
    base = bench.model.facts
    source = "demo" if bench.model.path == demo.path() else base.source
    save_recipe(
        plan, directory.path, base={"fingerprint": base.fingerprint, "source": source, "revision": base.revision}
    )


def write_model(directory: RunDirectory, bench: Bench, plan: EditPlan, said: Facts) -> None:
    """DIR/model, unless it is there already (it appears whole or not at all)."""
    if directory.model.exists():
        return
    card = report.render_card(said).encode()
    write_edited(bench.model.path, plan, directory.model, side_files={"README.md": card}, observer=bench.observer)


def write_report(directory: RunDirectory, said: Facts) -> Path:
    """DIR/report.html."""
    return directory.save_text("report.html", report.render_page(said))
