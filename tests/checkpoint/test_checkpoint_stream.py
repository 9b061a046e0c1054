"""Edited checkpoints: exactly the edit, and nothing but the edit."""

from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_plans import make_edit, make_plan, make_units
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from excise.checkpoint import files, open_index, tensors, write_edited
from excise.errors import CheckpointError, SpaceError, StoreError
from excise.results import EditPlan

Folder = Callable[..., Path]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
LAYOUTS = ["linear", "conv1d", "experts_out_in", "experts_in_out"]
TO_STORED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda w: w[0],
    "conv1d": lambda w: w[0].T,
    "experts_out_in": lambda w: w,
    "experts_in_out": lambda w: w.transpose(0, 2, 1),
}


def reference(weight: np.ndarray, units: Tensor, strengths: list[float], norm: str) -> np.ndarray:
    """The edit of one [out, in] matrix in float64 by the definition: scales from measured norms, no closed form."""
    edited = weight.astype(np.float64)
    directions, old = units.numpy().astype(np.float64), edited
    if norm == "rows":
        for u, strength in zip(directions, strengths, strict=True):
            sizes = np.linalg.norm(edited, axis=1, keepdims=True)
            hat = edited / sizes
            changed = sizes * (hat - strength * np.outer(u, u @ hat))
            edited = changed * sizes / np.linalg.norm(changed, axis=1, keepdims=True)
        return edited
    for u, strength in zip(directions, strengths, strict=True):
        edited = edited - strength * np.outer(u, u @ edited)
    if norm == "columns":
        edited = edited * np.linalg.norm(old, axis=0) / np.linalg.norm(edited, axis=0)
    return edited


def write_w(folder: Folder, stored: Tensor, plan: EditPlan, name: str = "base") -> tuple[Tensor, float | None]:
    path = folder({"w": stored, "other": torch.arange(5)}, name)
    result = write_edited(path, plan, path.parent / f"{name}-out")
    return load_file(path.parent / f"{name}-out" / "model.safetensors")["w"], result.residuals.get("w")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("norm", ["none", "columns", "rows"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_float64_numpy(folder: Folder, layout: str, norm: str, dtype: torch.dtype) -> None:
    weights = np.random.default_rng(0).normal(size=(3, 24, 40))
    stored = torch.from_numpy(np.ascontiguousarray(TO_STORED[layout](weights))).to(dtype)
    units, strengths = make_units(2, 24), [1.0, 0.4]
    edited, _ = write_w(folder, stored, make_plan(units, strengths, norm, layout))  # type: ignore[arg-type]
    cast = torch.from_numpy(weights).to(dtype).double().numpy()
    wanted = TO_STORED[layout](np.stack([reference(weight, units, strengths, norm) for weight in cast]))
    assert edited.dtype == dtype
    rounding = {torch.float16: 2**-11, torch.bfloat16: 2**-8}.get(dtype, 0)
    assert np.all(np.abs(edited.double().numpy() - wanted) <= rounding * np.abs(wanted) + 1e-5)
    assert np.abs(stored.double().numpy() - wanted).max() > 0.1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", ["none", "columns"])
def test_removed_direction_is_gone_up_to_rounding(folder: Folder, dtype: torch.dtype, norm: str) -> None:
    torch.manual_seed(0)
    stored, units = torch.randn(64, 96, dtype=torch.float64).to(dtype), make_units(3, 64)
    assert (units.double() @ stored.double()).norm() > 0.1 * stored.double().norm()
    edited, residual = write_w(folder, stored, make_plan(units, [1.0] * 3, norm))  # type: ignore[arg-type]
    left = (units.double() @ edited.double()).norm(dim=1).max() / edited.double().norm()
    assert residual == pytest.approx(float(left), rel=0.05, abs=1e-7)
    assert residual < max(tensors.ROUNDING[{v: k for k, v in tensors.DTYPES.items()}[dtype]], 1e-6)


def test_residual_is_none_where_no_law_holds(folder: Folder) -> None:
    stored = torch.randn(8, 8)
    assert write_w(folder, stored, make_plan(make_units(1, 8), [1.0], "rows"), "a")[1] is None
    assert write_w(folder, stored, make_plan(make_units(1, 8), [0.5], "columns"), "b")[1] is None


@pytest.mark.parametrize("shape", [(24,), (3, 24)])
@pytest.mark.parametrize("norm", ["none", "columns"])
def test_biases_follow(folder: Folder, shape: tuple[int, ...], norm: str) -> None:
    torch.manual_seed(0)
    layout = "linear" if len(shape) == 1 else "experts_in_out"
    weight = torch.randn(24, 16) if len(shape) == 1 else torch.randn(3, 16, 24)
    bias, units = torch.randn(shape), make_units(2, 24)
    path = folder({"w": weight, "b": bias})
    edit = make_edit("w", units, [1.0, 0.5], layout, bias="b")  # type: ignore[arg-type]
    write_edited(path, EditPlan((edit,), norm), path.parent / "out")  # type: ignore[arg-type]
    found = load_file(path.parent / "out" / "model.safetensors")["b"]
    wanted = bias - torch.einsum("kd,k,ke,...e->...d", units, torch.tensor([1.0, 0.5]), units, bias)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["none", "columns", "rows"]), st.sampled_from(DTYPES), st.sampled_from([0.0, -0.0]))
def test_strength_zero_leaves_every_byte(tmp_path_factory, norm: str, dtype: torch.dtype, zero: float) -> None:
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("zero")
    (path / "base").mkdir()
    stored = torch.randn(8, 8, dtype=torch.float64).to(dtype)
    stored[0, 0] = float("nan")
    save_file({"w": stored}, path / "base" / "model.safetensors")
    plan = make_plan(make_units(1, 8), [zero], norm)  # type: ignore[arg-type]
    assert write_edited(path / "base", plan, path / "out").residuals == {}
    name = "model.safetensors"
    assert (path / "base" / name).read_bytes() == (path / "out" / name).read_bytes()


def test_same_bytes_each_time_and_whatever_the_threads(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "BLOCK", 64 * 128)
    path = folder({"w": torch.randn(64, 1000).bfloat16()})
    plan, threads, found = make_plan(make_units(2, 64), [1.0, 0.7], "columns"), torch.get_num_threads(), set()
    try:
        for number in (1, 2, 2):
            torch.set_num_threads(number)
            out = path.parent / f"out-{len(list(path.parent.iterdir()))}"
            write_edited(path, plan, out)
            found.add((out / "model.safetensors").read_bytes())
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1


def test_blocks_change_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    stored, plan = torch.randn(16, 100), make_plan(make_units(2, 16), [1.0, 0.3], "columns")
    whole, _ = write_w(folder, stored, plan, "whole")
    monkeypatch.setattr(tensors, "BLOCK", 16 * 7)
    torch.testing.assert_close(write_w(folder, stored, plan, "blocks")[0], whole, atol=1e-6, rtol=1e-6)


def test_only_named_bytes_change_and_side_files_follow(folder: Folder) -> None:
    path = folder({"a": torch.randn(9), "w": torch.randn(8, 4), "z": torch.tensor([float("nan")])})
    for name in ("README.md", "tokenizer.json", "modeling_own.py", "x.bin", "m.gguf", ".hidden", "other.safetensors"):
        (path / name).write_text(f"content of {name}")
    for place in ("original", "additional_chat_templates", ".cache"):
        (path / place).mkdir()
        (path / place / "file.jinja").write_text(place)
    out = path.parent / "out"
    result = write_edited(path, make_plan(make_units(1, 8), [1.0]), out, side_files={"README.md": b"card"})
    before, after = (place.joinpath("model.safetensors").read_bytes() for place in (path, out))
    entry = open_index(path).find("w")[1]
    assert before[: entry.start] == after[: entry.start] and before[entry.end :] == after[entry.end :]
    assert before != after and len(before) == len(after)
    names = ["README.md", "additional_chat_templates/file.jinja", "config.json", "model.safetensors", "modeling_own.py"]
    assert result.files == (*names, "tokenizer.json")
    assert result.left_out == ("m.gguf", "original", "other.safetensors", "x.bin")
    assert sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()) == sorted(result.files)
    assert (out / "README.md").read_bytes() == b"card"
    assert (out / "modeling_own.py").read_text() == "content of modeling_own.py"
    assert result.size == sum(file.stat().st_size for file in out.rglob("*") if file.is_file())


def test_refusals_before_anything_is_written(folder: Folder, tmp_path: Path) -> None:
    path = folder({"w": torch.randn(8, 4), "i": torch.ones(8, 4, dtype=torch.int8), "e": torch.randn(2, 8, 4)})
    units = make_units(1, 8)
    cases = [
        (EditPlan((make_edit("missing", units, [1.0]),)), "nearest"),
        (EditPlan((make_edit("i", units, [1.0]),)), "i: expected F64.*found I8.*Dequantize"),
        (make_plan(make_units(1, 4), [1.0]), "d_model 4 on axis 0"),
        (make_plan(units, [1.0], layout="conv1d"), "conv1d"),
        (EditPlan((make_edit("e", units, [1.0]),)), "linear"),
        (EditPlan((make_edit("w", units, [1.0]), make_edit("w", units, [0.5]))), "one edit"),
        (make_plan(2 * units, [1.0]), "orthonormal"),
        (make_plan(units, [float("nan")]), "finite"),
    ]
    for plan, message in cases:
        with pytest.raises(CheckpointError, match=message):
            write_edited(path, plan, tmp_path / "out")
    for name in ("../x", "model.safetensors", ""):
        with pytest.raises(CheckpointError, match="side file"):
            write_edited(path, make_plan(units, [1.0]), tmp_path / "out", side_files={name: b""})
    assert [file.name for file in tmp_path.iterdir()] == ["base"]


def test_existing_places_are_refused(folder: Folder, tmp_path: Path) -> None:
    path, plan = folder({"w": torch.randn(8, 4)}), make_plan(make_units(1, 8), [1.0])
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for out in (tmp_path / "empty", tmp_path / "link", path, path / "inside"):
        with pytest.raises(StoreError):
            write_edited(path, plan, out)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["base", "empty", "link"]
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_full_disk_is_told_beforehand(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, usage = folder({"w": torch.randn(8, 4)}), namedtuple("usage", "total used free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(SpaceError, match=r"needed, .* \(1000 bytes\) free"):
        write_edited(path, make_plan(make_units(1, 8), [1.0]), tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), OSError(5, "I/O error"), KeyboardInterrupt()]
)
def test_a_failing_write_leaves_nothing(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path, calls, write = folder({"w": torch.randn(8, 4)}), [], files.write

    def failing(file, data) -> int:
        calls.append(len(data))
        if len(calls) == 3:
            raise error
        return write(file, data)

    monkeypatch.setattr(files, "write", failing)
    expected = SpaceError if isinstance(error, OSError) and error.errno == 28 else type(error)
    with pytest.raises(expected):
        write_edited(path, make_plan(make_units(1, 8), [1.0]), tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["base"]


def test_overflow_of_the_dtype_is_an_error(folder: Folder, tmp_path: Path) -> None:
    path = folder({"w": torch.full((8, 4), 60000.0, dtype=torch.float16)})
    with pytest.raises(CheckpointError, match="after the edit, in F16"):
        write_edited(path, make_plan(torch.full((1, 8), 8**-0.5), [-1.0]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tiny_and_emptied_weights(folder: Folder) -> None:
    units = make_units(1, 16)
    tiny, _ = write_w(folder, torch.randn(16, 8).mul(1e-7).half(), make_plan(units, [1.0]), "tiny")
    assert tiny.isfinite().all()
    along = torch.outer(units[0], torch.randn(8)).bfloat16()
    assert write_w(folder, torch.zeros(16, 8), make_plan(units, [1.0]), "zero")[1] == 0
    edited, _ = write_w(folder, along, make_plan(units, [1.0]), "along")
    assert edited.float().norm() < 0.02 * along.float().norm()


def test_progress_ends_at_the_total(folder: Folder, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    class Observer:
        def progress(self, done: int, total: int) -> None:
            seen.append((done, total))

    path = folder({"w": torch.randn(8, 4), "other": torch.ones(3)})
    write_edited(path, make_plan(make_units(1, 8), [1.0]), tmp_path / "out", observer=Observer())
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]
