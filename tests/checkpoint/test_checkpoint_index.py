"""Opening folders, and their fingerprints."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from excise.checkpoint import fingerprint, open_index
from excise.errors import CheckpointError


def sharded(path: Path, files: dict[str, list[str]], listed: dict[str, str] | None = None) -> Path:
    path.mkdir()
    for file, names in files.items():
        save_file({name: torch.ones(2, 3) for name in names}, path / file)
    weight_map = listed if listed is not None else {name: file for file, names in files.items() for name in names}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (path / "config.json").write_text("{}")
    return path


def test_finds_every_tensor_of_a_single_file(folder) -> None:
    path = folder({"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "none": torch.ones(0, 4)})
    index = open_index(path)
    assert index.index_name is None and [shard.name for shard in index.shards] == ["model.safetensors"]
    shard, entry = index.find("b")
    assert (entry.dtype, entry.shape, entry.nbytes) == ("BF16", (4,), 8)
    assert shard.path.read_bytes()[entry.start : entry.end] == b"\x80\x3f" * 4
    assert index.find("none")[1].nbytes == 0


def test_a_missing_tensor_names_the_nearest(folder) -> None:
    index = open_index(folder({"layers.1.down": torch.ones(2), "embed": torch.ones(2)}))
    with pytest.raises(CheckpointError, match=r"nearest: layers\.1\.down"):
        index.find("layers.2.down")


def test_sharded_and_other_single_names(tmp_path: Path, folder) -> None:
    path = sharded(tmp_path / "s", {"model-1.safetensors": ["a"], "model-2.safetensors": ["b"]})
    save_file({"a": torch.ones(1)}, path / "consolidated.safetensors")
    assert [shard.name for shard in open_index(path).shards] == ["model-1.safetensors", "model-2.safetensors"]
    other = folder({"a": torch.ones(1)})
    (other / "model.safetensors").rename(other / "weights.safetensors")
    assert open_index(other).find("a")[0].name == "weights.safetensors"


def test_several_files_without_an_index_are_refused(tmp_path: Path) -> None:
    path = sharded(tmp_path / "s", {"model-1.safetensors": ["a"], "model-2.safetensors": ["b"]})
    (path / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match="missing index"):
        open_index(path)


def test_two_checkpoints_in_one_folder_are_refused(tmp_path: Path) -> None:
    path = sharded(tmp_path / "s", {"model-1.safetensors": ["a"]})
    save_file({"a": torch.ones(1)}, path / "model.safetensors")
    with pytest.raises(CheckpointError, match="Move one of them away"):
        open_index(path)


def test_index_and_shards_must_agree(tmp_path: Path) -> None:
    twice = sharded(tmp_path / "twice", {"x.safetensors": ["a", "c"], "y.safetensors": ["a", "b"]})
    with pytest.raises(CheckpointError, match="each tensor once"):
        open_index(twice)
    listed = {"a": "x.safetensors", "b": "x.safetensors"}
    with pytest.raises(CheckpointError, match="nowhere"):
        open_index(sharded(tmp_path / "nowhere", {"x.safetensors": ["a"]}, listed))


def test_empty_and_absent_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found nothing"):
        open_index(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="empty folder"):
        open_index(tmp_path)


def test_fingerprint_follows_content_and_not_place(tmp_path: Path, folder) -> None:
    path = folder({"a": torch.ones(2, 3)})
    first = fingerprint(path)
    copy = shutil.copytree(path, tmp_path / "copy")
    (copy / "README.md").write_text("other")
    assert fingerprint(copy) == first and len(first) == 64
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    assert fingerprint(copy) != first
    (path / "config.json").write_text("{ }")
    assert fingerprint(path) != first


def test_hub_cache_links_are_followed(tmp_path: Path, folder) -> None:
    path = folder({"a": torch.ones(2, 3)})
    repository = tmp_path / "hub" / "models--someone--model"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, name in enumerate(("config.json", "model.safetensors")):
        shutil.copy(path / name, repository / "blobs" / str(number))
        (snapshot / name).symlink_to(Path("../../blobs") / str(number))
    assert fingerprint(snapshot) == fingerprint(path)
