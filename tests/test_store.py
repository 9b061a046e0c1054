"""The run directory and the codec: what was saved comes back, or an error says why not."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jaxtyping import Float, Int
from torch import Tensor

from excise import results, store
from excise.errors import SpaceError, StoreError
from excise.results import ActivationStats, Directions, EditPlan, Moments, Prompt, PromptSet, Rate, Writer, WriterEdit
from excise.store import RunDirectory, load_value, save_value

FLOATS = st.floats()
TEXTS = st.text(st.characters(codec=None), max_size=8)


def tensors(dims: int) -> st.SearchStrategy[Tensor]:
    shapes = st.lists(st.integers(0, 3), min_size=dims, max_size=dims)
    kinds = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])
    return st.builds(lambda shape, kind, x: torch.full(shape, x).to(kind), shapes, kinds, st.floats(width=32))


@dataclasses.dataclass(frozen=True)
class Inner:
    number: float
    label: results.Label


@dataclasses.dataclass(frozen=True)
class Everything:
    text: str
    flag: bool
    count: int
    pairs: tuple[tuple[str, float], ...]
    table: dict[str, dict[str, Inner]]
    maybe: Inner | None
    matrix: Float[Tensor, "a b"]
    grids: dict[str, tuple[Float[Tensor, " n"], ...]]
    ids: Int[Tensor, " n"] | None = None
    bare: Tensor | None = None


INNERS = st.builds(Inner, FLOATS, st.sampled_from(["shows", "partly", "absent", "broken"]))
VALUES = st.builds(
    Everything,
    text=TEXTS,
    flag=st.booleans(),
    count=st.integers(),
    pairs=st.lists(st.tuples(TEXTS, FLOATS), max_size=3).map(tuple),
    table=st.dictionaries(TEXTS, st.dictionaries(TEXTS, INNERS, max_size=2), max_size=2),
    maybe=st.none() | INNERS,
    matrix=tensors(2),
    grids=st.dictionaries(TEXTS, st.lists(tensors(1), max_size=2).map(tuple), max_size=2),
    ids=st.none() | st.builds(torch.arange, st.integers(0, 5)),
    bare=st.none() | tensors(0),
)


def same(a: Any, b: Any) -> bool:
    """Equal in type and to the last bit; NaN is NaN."""
    if type(a) is not type(b):
        return False
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return bool(a == b)


def bits(tensor: Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()) if tensor.numel() else b""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES)
def test_codec_returns_everything(tmp_path: Path, value: Everything) -> None:
    save_value(value, tmp_path / "a.json")
    loaded = load_value(tmp_path / "a.json", Everything)
    assert same(value, loaded)
    save_value(loaded, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    files = [(tmp_path / f"{name}.safetensors") for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


def plan(k: int = 1) -> EditPlan:
    writer = Writer("w", 0, "mlp", "m", "m.weight", "linear", ("w",), "linear")
    return EditPlan((WriterEdit(writer, torch.eye(4)[:k], torch.full((k,), 0.1)),), "columns")


def test_every_result_class_has_a_form() -> None:
    """No class of results.py uses a type that the codec does not know."""
    classes = [c for c in vars(results).values() if isinstance(c, type) and dataclasses.is_dataclass(c)]
    assert len(classes) > 20
    for cls in classes:
        hints = get_type_hints(cls)
        for field in dataclasses.fields(cls):
            with pytest.raises(StoreError, match="cannot be saved as that"):
                store.encode(object(), hints[field.name], {})


def test_forward_references_and_shared_tensors(tmp_path: Path) -> None:
    rate = Rate(0, 0, 0.0, 1.0)
    candidate = results.Candidate(3, 1, 0.5, plan(), results.Terms(math.inf, -0.0, math.nan), rate, None)
    front = results.Front((candidate, candidate), 3, (), "gradient", "budget")
    save_value(front, tmp_path / "front.json")
    assert same(load_value(tmp_path / "front.json", results.Front), front)
    mean = torch.randn(2, 1, 4, dtype=torch.float64)
    stats = ActivationStats(Moments(3, mean), Moments(4, mean, torch.randn(2, 1, 4, 4).transpose(2, 3)))
    save_value(stats, tmp_path / "stats.json")
    assert same(load_value(tmp_path / "stats.json", ActivationStats), stats)


def test_values_that_do_not_fit_their_hints(tmp_path: Path) -> None:
    values: list[Any] = [Inner("1", "shows"), Inner(True, "shows"), Inner(None, "shows"), Inner(1.0, "other"), None]
    for value in values:
        with pytest.raises(StoreError, match="cannot be saved"):
            save_value(value, tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []


def edit_json(path: Path, change: Any) -> None:
    """Change a record and make its hash right again, as another version of Excise would have."""
    record = json.loads(path.read_text())
    change(record)
    record["value_sha256"] = store._text_hash(record["value"])
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(version=2), "expected .*1.*found .*2"),
        (lambda r: r.update(type="Front"), "Front"),
        (lambda r: r.update(extra=1), "expected the keys"),
        (lambda r: r["value"].update(extra=1), "unknown"),
        (lambda r: r["value"].pop("edits"), "missing"),
        (lambda r: r["value"].update(norm="other"), "found other"),
        (lambda r: r["value"]["edits"][0]["writer"].update(layer=1.5), "layer: expected"),
        (lambda r: r["value"]["edits"][0]["writer"].update(layer=True), "layer: expected"),
        (lambda r: r["value"]["edits"][0].update(units={"tensor": "nothing"}), "no tensor"),
        (lambda r: r["value"]["edits"][0].update(strengths=r["value"]["edits"][0]["units"]), "expected .*Float"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "plan.json"
    save_value(plan(), path)
    edit_json(path, change)
    with pytest.raises(StoreError, match=message):
        load_value(path, EditPlan)


def test_a_missing_field_takes_its_default(tmp_path: Path) -> None:
    save_value(Prompt("a", topic="b"), tmp_path / "p.json")
    edit_json(tmp_path / "p.json", lambda record: record["value"].pop("plain"))
    assert load_value(tmp_path / "p.json", Prompt) == Prompt("a", topic="b")


@pytest.mark.parametrize("file", ["plan.json", "plan.safetensors"])
def test_every_flipped_byte_is_noticed(tmp_path: Path, file: str) -> None:
    save_value(plan(), tmp_path / "plan.json")
    content = (tmp_path / file).read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 4
        (tmp_path / file).write_bytes(damaged)
        try:
            loaded = load_value(tmp_path / "plan.json", EditPlan)
        except StoreError:
            continue
        assert same(loaded, plan())  # white space between the values


def test_half_saved_is_absent_and_cut_off_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.save("plan", plan())
    with monkeypatch.context() as patch:
        patch.setattr(store, "_replace_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run.save("plan", plan(2))
    assert not run.has("plan")
    with pytest.raises(StoreError, match="expected a saved EditPlan, found none"):
        run.load("plan", EditPlan)
    run.save("plan", plan(2))
    (run.path / "stages" / "plan.safetensors").unlink()
    with pytest.raises(StoreError, match="none readable"):
        run.load("plan", EditPlan)


@pytest.mark.parametrize("where", ["save_file", "_sync"])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    run = RunDirectory.create(tmp_path / "run")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, where, full)
    with pytest.raises(SpaceError, match=r"plan\.json: the disk is full"):
        run.save("plan", plan())
    assert not run.has("plan") and list((run.path / "stages").iterdir()) == []


def test_stages_of_a_run(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "runs" / "one", {"seed": 3, "text": "ü"})
    assert [file.name for file in (tmp_path / "runs").iterdir()] == ["one"]
    assert RunDirectory.open(run.path).settings == {"seed": 3, "text": "ü"}
    prompts = PromptSet({"test": (Prompt("ü\ud800\u2028"),), "extract": ()}, {}, {}, (), "f")
    back = run.save("prompts", prompts)
    assert back == prompts and list(back.target) == ["extract", "test"]
    assert run.has("prompts") and not run.has("directions")
    assert run.save("directions", Directions(torch.eye(3)[None], "m", "s", 1.0)).separation == 1
    assert same(run.save("whole", Inner(1, "shows")).number, 1.0)
    assert sorted(file.name for file in (run.path / "stages").iterdir()) == [
        "directions.json", "directions.safetensors", "prompts.json", "whole.json",
    ]  # fmt: skip
    assert run.save_text("report.html", "<p>") == run.report and run.report.read_text() == "<p>"
    for name in ("../x", "run.json", "", "a/b"):
        with pytest.raises(StoreError):
            run.save_text(name, "")
    for stage in ("../x", "A", "", "a.b"):
        with pytest.raises(StoreError, match="stage"):
            run.has(stage)


def test_existing_directories_are_refused(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    with pytest.raises(StoreError, match=rf"unfinished run\. Go on with it: excise resume {run.path}"):
        RunDirectory.create(run.path)
    assert not run.finished
    run.finish()
    with pytest.raises(StoreError, match=r"a run\. Choose another"):
        RunDirectory.create(run.path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "dead").symlink_to("nowhere")
    for name in ("empty", "dead"):
        with pytest.raises(StoreError, match="something else"):
            RunDirectory.create(tmp_path / name)
        with pytest.raises(StoreError, match="expected a run directory"):
            RunDirectory.open(tmp_path / name)
    (tmp_path / ".new.partial" / "stages").mkdir(parents=True)
    RunDirectory.create(tmp_path / "new")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dead", "empty", "new", "run"]


HOLD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from excise.store import RunDirectory
with RunDirectory.open(Path(sys.argv[1])).lock():
    sys.stdout.write("held\\n")
    sys.stdout.flush()
    time.sleep(60)
"""


def test_the_lock_keeps_others_out_and_dies_with_its_process(tmp_path: Path) -> None:
    run, source = RunDirectory.create(tmp_path / "run"), str(Path(store.__file__).parents[1])
    command = [sys.executable, "-c", HOLD, str(run.path), source]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=f"process {holder.pid} works"), run.lock():
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with run.lock():
        pass
    with run.lock(), pytest.raises(StoreError, match=str(os.getpid())), RunDirectory.open(run.path).lock():
        pass
