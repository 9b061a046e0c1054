"""The edit itself as two small files: enough to make the checkpoint again, bit for bit, from its base.

recipe.safetensors holds every distinct set of units once, float32. recipe.json holds the writers, their strengths
(float32 numbers, written out exactly), the norm, and where the base came from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from excise.checkpoint.files import replace_file
from excise.checkpoint.tensors import check_edit
from excise.errors import CheckpointError
from excise.results import EditPlan, Layout, Norm, Writer, WriterEdit

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
FORMAT, VERSION = "excise recipe", 1
JSON_NAME, TENSOR_NAME = "recipe.json", "recipe.safetensors"
_KEYS = {"format", "version", "norm", "base", "tensors_sha256", "edits"}
_EDIT_KEYS = {"writer", "units", "strengths"}
_WRITER_KEYS = {field.name for field in fields(Writer)}


def save_recipe(plan: EditPlan, folder: Path, *, base: Mapping[str, JSON]) -> None:
    """Write recipe.safetensors and recipe.json into `folder`; the same plan and base give the same bytes.

    `base` says what the plan belongs to: its fingerprint and source. The json file comes last and names the other's
    hash, so two halves of different recipes are never taken for one.
    """
    names: dict[bytes, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    edits: list[JSON] = []
    for edit in plan.edits:
        check_edit(edit)
        units = edit.units.detach().float().cpu().contiguous().clone()
        content = str(tuple(units.shape)).encode() + units.numpy().tobytes()
        name = names.setdefault(content, f"units.{len(names)}")
        tensors[name] = units
        strengths = [float(value) for value in edit.strengths.detach().float().cpu()]
        writer = {key: getattr(edit.writer, key) for key in sorted(_WRITER_KEYS)}
        edits.append({"writer": writer, "units": name, "strengths": list(strengths)})
    data = save_tensors(tensors)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "norm": plan.norm,
        "base": dict(base),
        "tensors_sha256": hashlib.sha256(data).hexdigest(),
        "edits": edits,
    }
    text = json.dumps(record, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / TENSOR_NAME, data)
    replace_file(folder / JSON_NAME, text.encode())


def load_recipe(path: Path) -> tuple[EditPlan, dict[str, JSON]]:
    """(the plan, what `base` was) from a folder or its recipe.json; raises CheckpointError for anything unknown."""
    path = path / JSON_NAME if path.is_dir() else path
    try:
        record: Any = json.loads(path.read_bytes().decode("utf-8"))
        data = (path.parent / TENSOR_NAME).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{error.filename}: expected a recipe's file, found none. Give its folder.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, found something else ({error}). Save it again.") from error
    _check_keys(record, _KEYS, str(path))
    if (record["format"], record["version"]) != (FORMAT, VERSION):
        raise CheckpointError(
            f"{path}: expected {FORMAT} version {VERSION}, found {record['format']!r} version {record['version']!r}. "
            "Use the version of Excise that wrote it."
        )
    if hashlib.sha256(data).hexdigest() != record["tensors_sha256"]:
        raise CheckpointError(f"{path.parent / TENSOR_NAME}: expected the bytes that {path.name} names, found others.")
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path.parent / TENSOR_NAME}: expected safetensors, found something else.") from error
    right = isinstance(record["base"], dict) and isinstance(record["edits"], list)
    if not right or record["norm"] not in get_args(Norm):
        raise CheckpointError(f"{path}: expected a known norm, a base and a list of edits, found something else.")
    edits = tuple(_edit(item, tensors, f"{path}: edit {number}") for number, item in enumerate(record["edits"]))
    return EditPlan(edits, record["norm"]), record["base"]


def _check_keys(value: Any, keys: set[str], where: str) -> None:
    found = set(value) if isinstance(value, dict) else set()
    if not isinstance(value, dict) or found != keys:
        raise CheckpointError(
            f"{where}: expected the keys {', '.join(sorted(keys))}, found {', '.join(sorted(found)) or 'none'}. "
            "Use the version of Excise that wrote it."
        )


def _edit(item: Any, tensors: dict[str, torch.Tensor], where: str) -> WriterEdit:
    """One writer's edit, every field of the type that results.py declares."""
    _check_keys(item, _EDIT_KEYS, where)
    raw, units, strengths = item["writer"], tensors.get(str(item["units"])), item["strengths"]
    _check_keys(raw, _WRITER_KEYS, f"{where}: writer")
    texts = ("name", "module", "parameter")
    right = (
        all(isinstance(raw[key], str) for key in texts)
        and type(raw["layer"]) is int
        and raw["role"] in ("attention", "mlp", "expert", "shared_expert")
        and raw["layout"] in get_args(Layout)
        and raw["stored_layout"] in get_args(Layout)
        and isinstance(raw["tensors"], list)
        and all(isinstance(name, str) for name in raw["tensors"])
        and (raw["bias"] is None or isinstance(raw["bias"], str))
    )
    numbers = isinstance(strengths, list) and all(type(v) in (int, float) and abs(v) < 1e38 for v in strengths)
    if (
        not right
        or not numbers
        or units is None
        or units.dtype != torch.float32
        or units.shape[:-1] != (len(strengths),)
    ):
        raise CheckpointError(f"{where}: expected a writer, its float32 units and its strengths, found something else.")
    writer = Writer(**{**raw, "tensors": tuple(raw["tensors"])})
    edit = WriterEdit(writer, units, torch.tensor(strengths, dtype=torch.float32))
    check_edit(edit)
    return edit
