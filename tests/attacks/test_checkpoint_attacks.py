"""Checkpoints made by an enemy: every one is a CheckpointError, read without harm, and nothing is written."""

import json
import os
import pickle
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from excise.checkpoint import fingerprint, open_index, write_edited
from excise.checkpoint.recipe import load_recipe
from excise.errors import CheckpointError
from excise.results import EditPlan, Writer, WriterEdit

NOTHING = EditPlan(())


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start: int, end: int, shape: Any = None, dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


HEADERS: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "cut off"),
    "header length beyond the file": (raw({"a": tensor(0, 4)}, b"1234", length=10_000), "a length of 10000"),
    "header of 10 GB": (raw({}, b"", length=10 * 2**30), "found a length"),
    "header of 2^64 - 1": (raw({}, b"", length=2**64 - 1), "found a length"),
    "no JSON": (raw(b"{{{{"), "expected a JSON header"),
    "JSON in UTF-16": (raw('{"a": 1}'.encode("utf-16")), "expected a JSON header"),
    "deep JSON": (raw(b"[" * 200_000), "expected a JSON header"),
    "a list": (raw([]), "JSON object"),
    "a number of 10,000 digits": (raw(b'{"a": ' + b"9" * 10_000 + b"}"), "JSON header"),
    "same name twice": (raw(b'{"a": 1, "a": 2}'), "'a' twice"),
    "metadata that is no text": (raw({"__metadata__": {"a": 1}}), "__metadata__"),
    "offsets beyond the file": (raw({"a": tensor(0, 10 * 2**30)}, b"1234"), "end within the file"),
    "overlap": (raw({"a": tensor(0, 4), "b": tensor(2, 6)}, b"123456"), "overlaps"),
    "same bytes twice": (raw({"a": tensor(0, 4), "b": tensor(0, 4)}, b"1234"), "overlaps"),
    "hole": (raw({"a": tensor(0, 2), "b": tensor(4, 6)}, b"123456"), "hole"),
    "bytes left over": (raw({"a": tensor(0, 4)}, b"123456"), "end at byte"),
    "negative offset": (raw({"a": {"dtype": "U8", "shape": [4], "data_offsets": [-4, 0]}}, b"1234"), "rising offsets"),
    "falling offsets": (raw({"a": {"dtype": "U8", "shape": [4], "data_offsets": [4, 0]}}, b"1234"), "rising offsets"),
    "three offsets": (raw({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 2, 4]}}, b"1234"), "offsets"),
    "bool offsets": (raw({"a": {"dtype": "U8", "shape": [1], "data_offsets": [False, True]}}, b"1"), "offsets"),
    "negative shape": (raw({"a": tensor(0, 4, [-2, -2])}, b"1234"), "shape"),
    "float shape": (raw({"a": tensor(0, 4, [4.0])}, b"1234"), "shape"),
    "huge shape": (raw({"a": tensor(0, 4, [2**40] * 60)}, b"1234"), "bits for U8"),
    "shape that does not fit": (raw({"a": tensor(0, 4, [5])}, b"1234"), "expected 40 bits"),
    "unknown dtype": (raw({"a": tensor(0, 4, dtype="Q3")}, b"1234"), "dtype among"),
    "dtype that is no text": (raw({"a": tensor(0, 4, dtype=["U8"])}, b"1234"), "dtype among"),
    "missing field": (raw({"a": {"dtype": "U8"}}), "dtype, shape and data_offsets"),
    "entry that is no object": (raw({"a": 3}), "dtype, shape and data_offsets"),
}


def refused(path: Path, message: str) -> None:
    for act in (open_index, fingerprint, lambda p: write_edited(p, NOTHING, path.parent / "out")):
        with pytest.raises(CheckpointError, match=message):
            act(path)
    assert not (path.parent / "out").exists() and not (path.parent / ".out.partial").exists()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    path.mkdir()
    (path / "config.json").write_text("{}")
    return path


@pytest.mark.parametrize("case", HEADERS)
def test_hostile_header(base: Path, case: str) -> None:
    data, message = HEADERS[case]
    (base / "model.safetensors").write_bytes(data)
    refused(base, message)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_told_or_harmless(base: Path, data: st.DataObject) -> None:
    path = base / "model.safetensors"
    save_file({"a": torch.ones(3), "b": torch.zeros(2, 2)}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        index = open_index(base)
    except CheckpointError:
        return
    size = path.stat().st_size
    assert all(0 <= entry.start <= entry.end <= size for _, entry in index.places.values())


def test_a_header_of_10_gb_in_a_sparse_file_costs_no_memory(base: Path) -> None:
    with (base / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 10 * 2**30))
        file.truncate(11 * 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(base, "found a length")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def write_index(base: Path, weight_map: object) -> None:
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    "name",
    [
        "../../x.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "..",
        "",
        "a\\b.safetensors",
        "a\0.safetensors",
        "a.bin",
    ],
)
def test_index_that_names_other_places(base: Path, name: str) -> None:
    save_file({"a": torch.ones(2)}, base / "x.safetensors")
    write_index(base, {"a": name})
    refused(base, "plain names")


@pytest.mark.parametrize("weight_map", [None, [], {}, {"a": 3}, {"a": None}, "x.safetensors"])
def test_index_without_a_map(base: Path, weight_map: object) -> None:
    write_index(base, weight_map)
    refused(base, "weight_map")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 200_000])
def test_index_that_is_no_json(base: Path, content: bytes) -> None:
    (base / "model.safetensors.index.json").write_bytes(content)
    refused(base, "expected JSON")


def test_missing_shard(base: Path) -> None:
    save_file({"a": torch.ones(2)}, base / "x.safetensors")
    write_index(base, {"a": "x.safetensors", "b": "y.safetensors"})
    refused(base, r"y\.safetensors: expected a file, found none")


def test_truncated_shard(base: Path) -> None:
    save_file({"a": torch.ones(200)}, base / "model.safetensors")
    os.truncate(base / "model.safetensors", 400)
    refused(base, "cut off")


def test_pickles_are_never_opened(base: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return os.system, (f"touch {base.parent / 'exploded'}",)

    (base / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    refused(base, "pickles only.*save_pretrained")
    save_file({"a": torch.ones(2)}, base / "model.safetensors")
    assert "pytorch_model.bin" in write_edited(base, NOTHING, base.parent / "out").left_out
    assert not (base.parent / "exploded").exists()


def link_cases(base: Path) -> dict[str, tuple[str, Path]]:
    secret = base.parent / "secret"
    secret.mkdir()
    save_file({"a": torch.ones(2)}, secret / "stolen.safetensors")
    return {
        "weights": ("model.safetensors", secret / "stolen.safetensors"),
        "relative": ("model.safetensors", Path("../secret/stolen.safetensors")),
        "loop": ("model.safetensors", Path("model.safetensors")),
        "device": ("model.safetensors", Path("/dev/zero")),
        "folder": ("model.safetensors", base),
    }


@pytest.mark.parametrize("case", ["weights", "relative", "loop", "device", "folder"])
def test_links_out_of_the_folder(base: Path, case: str) -> None:
    name, target = link_cases(base)[case]
    (base / name).symlink_to(target)
    refused(base, "found a link|found none|found something else")


@pytest.mark.parametrize("name", ["tokenizer.json", "README.md", "sub"])
def test_side_links_steal_nothing(base: Path, name: str) -> None:
    save_file({"a": torch.ones(2)}, base / "model.safetensors")
    secret = base.parent / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    (base / name).symlink_to(secret if name == "sub" else secret / "key")
    with pytest.raises(CheckpointError, match="found a link"):
        write_edited(base, NOTHING, base.parent / "out")
    assert not (base.parent / "out").exists()


def test_a_pipe_does_not_hang(base: Path) -> None:
    os.mkfifo(base / "model.safetensors")
    refused(base, "regular file")


def test_a_false_hub_cache_gives_no_way_out(tmp_path: Path) -> None:
    (tmp_path / "secret.safetensors").write_bytes(raw({}))
    snapshot = tmp_path / "models--a--b" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").symlink_to("../../../secret.safetensors")
    refused(snapshot, "found a link")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_an_edited_tensor(base: Path, value: float) -> None:
    weight = torch.ones(4, 4)
    weight[2, 3] = value
    save_file({"w": weight}, base / "model.safetensors")
    writer = Writer("w", 0, "mlp", "m", "m.weight", "linear", ("w",), "linear")
    plan = EditPlan((WriterEdit(writer, torch.eye(4)[:1], torch.ones(1)),))
    with pytest.raises(CheckpointError, match="w: expected finite numbers before the edit"):
        write_edited(base, plan, base.parent / "out")
    assert [file.name for file in base.parent.iterdir()] == ["base"]


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"format": 1}', b"[" * 200_000, b"\xff"])
def test_recipes_that_are_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "recipe.json").write_bytes(text)
    (tmp_path / "recipe.safetensors").write_bytes(raw({}))
    with pytest.raises(CheckpointError):
        load_recipe(tmp_path)
