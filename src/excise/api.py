"""The Python interface: each command as a function on paths and plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from excise import stages, story
from excise.checkpoint import WriteResult, fingerprint, load_recipe, write_edited
from excise.checkpoint.files import Progress
from excise.edits import scaled, uniform_plan
from excise.errors import CheckpointError, SettingsError, StoreError
from excise.observer import Observer, Silent
from excise.results import EditPlan, Front, ModelFacts, Writer
from excise.settings import RunSettings, parse
from excise.store import RunDirectory
from excise.story import Run


def run(model: str | Path | None = None, *, out: str | Path, observer: Observer | None = None, **settings: Any) -> Run:
    """Take a behaviour out of `model` (None: the packaged demo) and prove it, all in the new folder `out`.

    Further keywords are the fields of RunSettings. Raises ExciseError.
    """
    values = {**settings, **({} if model is None else {"model": str(model)})}
    finished = story.run(parse(values, "excise.run"), Path(out), observer)
    assert finished is not None
    return finished


def resume(out: str | Path, *, observer: Observer | None = None) -> Run:
    """Go on with a run that was stopped. Raises StoreError where there is none."""
    finished = story.resume(Path(out), observer)
    assert finished is not None
    return finished


def measure(
    model: str | Path | None = None, *, out: str | Path, observer: Observer | None = None, **settings: Any
) -> Path:
    """Only the first stages: activations and where the two sides part. `resume` goes on from there."""
    values = {**settings, **({} if model is None else {"model": str(model)})}
    story.run(parse(values, "excise.measure"), Path(out), observer, until="separation")
    return Path(out)


def apply(
    source: str | Path,
    *,
    out: str | Path,
    base: str | Path | None = None,
    candidate: int | None = None,
    direction: str | Path | torch.Tensor | None = None,
    strength: float = 1.0,
    layers: tuple[int, int] | None = None,
    writers: Sequence[str] | None = None,
    keep_norms: bool = False,
    progress: Progress | None = None,
) -> WriteResult:
    """Write an edited checkpoint to the new folder `out`.

    `source` is a run directory (its chosen candidate, or `candidate` of its front), a recipe (with `base`), or, with
    `direction`, a model. A direction is a tensor or a safetensors file with a tensor `direction` of shape [d_model],
    [layers, d_model] or [layers, k, d_model]; `layers` is half-open. For runs and recipes `strength` multiplies theirs.
    """
    folder, target = Path(source), Path(out)
    given = {"layers": layers, "writers": writers, "keep_norms": keep_norms or None}
    if direction is not None:
        _refuse({"candidate": candidate, "base": base}, "a direction")
        path, plan = _directed(source, direction, strength, layers, writers, keep_norms)
        return write_edited(path, plan, target, observer=progress)
    if (folder / "run.json").is_file():
        _refuse(given, "a run")
        path, plan = _of_run(folder, candidate, base)
    else:
        _refuse({**given, "candidate": candidate}, "a recipe")
        path, plan = _of_recipe(folder, base)
    return write_edited(path, plan if strength == 1 else scaled(plan, strength), target, observer=progress)


def _refuse(options: Mapping[str, object], source: str) -> None:
    """Raises SettingsError for options that would be read and ignored."""
    if named := [name for name, value in options.items() if value is not None]:
        raise SettingsError(f"apply: {', '.join(named)} cannot go with {source}. Leave it out.")


def _directed(
    source: str | Path,
    direction: str | Path | torch.Tensor,
    strength: float,
    layers: tuple[int, int] | None,
    roles: Sequence[str] | None,
    keep_norms: bool,
) -> tuple[Path, EditPlan]:
    settings = RunSettings(model=str(source))
    bench = stages.set_up(settings, stages.behaviour_of(settings), Silent())
    known = {writer.role for writer in bench.writers.writers}
    if roles and not set(roles) <= known:
        raise SettingsError(f"writers: expected some of {', '.join(sorted(known))}, found {', '.join(roles)}.")
    first, last = layers or (0, bench.writers.layers)
    if not 0 <= first < last <= bench.writers.layers:
        raise SettingsError(f"layers: expected A:B within 0:{bench.writers.layers}, found {first}:{last}.")
    chosen = [w for w in bench.writers.writers if first <= w.layer < last and (not roles or w.role in roles)]
    vectors = _vectors(direction, bench.writers.layers, bench.writers.d_model)
    return bench.model.path, uniform_plan(chosen, vectors, strength, "columns" if keep_norms else "none")


def _vectors(direction: str | Path | torch.Tensor, layers: int, d_model: int) -> torch.Tensor:
    """[layers, k, d_model] from any of the accepted shapes. Raises SettingsError."""
    if isinstance(direction, torch.Tensor):
        vectors, name = direction, "direction"
    else:
        name = str(direction)
        try:
            tensors = load_file(direction)
        except (OSError, SafetensorError) as error:
            raise SettingsError(f"{name}: expected a safetensors file, found: {error}.") from error
        if "direction" not in tensors:
            raise SettingsError(f"{name}: expected a tensor named 'direction', found {', '.join(sorted(tensors))}.")
        vectors = tensors["direction"]
    vectors = vectors.float()
    if vectors.dim() == 1:
        vectors = vectors.expand(layers, -1)
    if vectors.dim() == 2:
        vectors = vectors[:, None]
    if vectors.dim() != 3 or vectors.shape[0] != layers or vectors.shape[2] != d_model:
        raise SettingsError(
            f"{name}: expected shape [{d_model}], [{layers}, {d_model}] or [{layers}, k, {d_model}], "
            f"found {tuple(vectors.shape)}."
        )
    if not torch.isfinite(vectors).all() or float(vectors.norm(dim=-1).min()) < 1e-12:
        raise SettingsError(f"{name}: expected finite vectors that are not zero.")
    return vectors


def _of_run(folder: Path, candidate: int | None, base: str | Path | None) -> tuple[Path, EditPlan]:
    directory = RunDirectory.open(folder)
    if not directory.has("confirm"):
        raise StoreError(
            f"{folder}: expected a run that has searched, found one that has not. Use excise resume {folder}."
        )
    plan = stages.chosen_plan(directory.load("confirm", Front), candidate)
    settings = parse(directory.settings["settings"], f"{folder}/run.json")
    made_for = directory.load("model", ModelFacts).fingerprint
    return _checked_base(base or settings.model, made_for, folder, settings.revision, settings.trust_remote_code), plan


def _of_recipe(path: Path, base: str | Path | None) -> tuple[Path, EditPlan]:
    plan, made_for = load_recipe(path)
    source = None if made_for["source"] == "demo" else str(made_for["source"])
    revision = str(made_for["revision"]) if base is None and made_for.get("revision") else None
    return _checked_base(base or source, made_for["fingerprint"], path, revision, False), plan


def _checked_base(
    base: str | Path | None, expected: object, where: Path, revision: str | None, trust_remote_code: bool
) -> Path:
    """The base's folder, if it is the very one that the edit was made for."""
    from excise import demo
    from excise.source import find

    path = demo.path()
    if base is not None:
        path = find(base, revision=revision, trust_remote_code=trust_remote_code).path
    found = fingerprint(path)
    if found != expected:
        raise CheckpointError(
            f"{path}: expected the base that {where} was made for (fingerprint {str(expected)[:12]}), "
            f"found {found[:12]}. Name the right one with --base."
        )
    return path


def writers_of(model: str | Path | None) -> tuple[Writer, ...]:
    """The writer map of a model, proved."""
    settings = RunSettings(model=None if model is None else str(model))
    return stages.set_up(settings, stages.behaviour_of(settings), Silent()).writers.writers
