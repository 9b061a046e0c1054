"""The recipe makes the same checkpoint again."""

import json
from pathlib import Path

import pytest
import torch
from checkpoint_plans import make_edit, make_plan, make_units, residual_plan

from excise.checkpoint import load_recipe, save_recipe, write_edited
from excise.errors import CheckpointError
from excise.results import EditPlan

BASE = {"source": "someone/model", "fingerprint": "ab" * 32, "revision": None}


def same(first: EditPlan, second: EditPlan) -> bool:
    return first.norm == second.norm and all(
        a.writer == b.writer and torch.equal(a.units, b.units) and torch.equal(a.strengths, b.strengths)
        for a, b in zip(first.edits, second.edits, strict=True)
    )


@pytest.mark.parametrize("norm", ["none", "columns", "rows"])
def test_plan_returns_bit_for_bit(tmp_path: Path, norm: str) -> None:
    edits = (
        make_edit(("w", "v"), make_units(2, 8), [0.1, 1 / 3], "conv1d", bias="b"),
        make_edit("x", make_units(2, 8), [1, 2]),
    )
    plan = EditPlan(edits, norm)  # type: ignore[arg-type]
    save_recipe(plan, tmp_path / "one", base=BASE)
    for path in (tmp_path / "one", tmp_path / "one" / "recipe.json"):
        loaded, base = load_recipe(path)
        assert same(plan, loaded) and base == BASE
    save_recipe(loaded, tmp_path / "two", base=dict(reversed(BASE.items())))
    for name in ("recipe.json", "recipe.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == ["recipe.json", "recipe.safetensors"]


def test_equal_units_are_stored_once(tmp_path: Path) -> None:
    units = make_units(1, 1000)
    save_recipe(EditPlan(tuple(make_edit(f"w{i}", units.clone(), [i]) for i in range(20))), tmp_path, base=BASE)
    assert (tmp_path / "recipe.safetensors").stat().st_size < 5000
    assert len(load_recipe(tmp_path)[0].edits) == 20
    save_recipe(EditPlan(()), tmp_path, base={})
    assert load_recipe(tmp_path) == (EditPlan(()), {})


def test_checkpoint_from_the_recipe_is_the_same(folder, tmp_path: Path) -> None:
    path, plan = folder({"w": torch.randn(8, 6).bfloat16()}), make_plan(make_units(2, 8), [1.0, 0.3], "columns")
    save_recipe(plan, tmp_path, base=BASE)
    write_edited(path, plan, tmp_path / "a")
    write_edited(path, load_recipe(tmp_path)[0], tmp_path / "b")
    name = "model.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() != (path / name).read_bytes()


def change(path: Path, *keys: str | int, value: object) -> None:
    record = json.loads((path / "recipe.json").read_text())
    place = record
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (path / "recipe.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("version",), 2, "version 2"),
        (("extra",), 1, "extra"),
        (("edits", 0, "extra"), 1, "extra"),
        (("edits", 0, "writer", "extra"), 1, "extra"),
        (("edits", 0, "writer", "layer"), True, "expected a writer"),
        (("edits", 0, "writer", "layout"), "diagonal", "expected a writer"),
        (("edits", 0, "writer", "tensors"), "w", "expected a writer"),
        (("edits", 0, "units"), "units.9", "expected a writer"),
        (("edits", 0, "strengths"), [1], "expected a writer"),
        (("edits", 0, "strengths"), ["1"], "expected a writer"),
        (("edits", 0, "strengths"), [float("nan"), 1, 1], "expected"),
        (("edits", 0, "strengths"), [10**400, 1, 1], "expected"),
        (("norm",), "other", "norm"),
        (("base",), [], "base"),
        (("tensors_sha256",), "00", "bytes that recipe.json names"),
    ],
)
def test_what_is_unknown_is_refused(tmp_path: Path, keys: tuple[str | int, ...], value: object, message: str) -> None:
    save_recipe(residual_plan("layers", 1, 8, [1.0, 0.5, 0.1]), tmp_path, base=BASE)
    change(tmp_path, *keys, value=value)
    with pytest.raises(CheckpointError, match=message):
        load_recipe(tmp_path)


def test_halves_and_absence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Give its folder"):
        load_recipe(tmp_path)
    save_recipe(residual_plan("layers", 1, 8, [1.0]), tmp_path, base=BASE)
    (tmp_path / "recipe.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"recipe\.safetensors"):
        load_recipe(tmp_path)
