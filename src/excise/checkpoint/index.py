"""A checkpoint folder: which file holds which tensor. Reads headers only; never loads a model, never unpickles."""

from __future__ import annotations

import difflib
import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from excise.checkpoint.header import Entry, Shard, read_shard
from excise.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
INDEX_ENDING = [".safetensors", ".index", ".json"]
MAX_INDEX = 100_000_000
"""Bytes of an index file; a million tensors need about as much."""
FULL_HASH_BELOW = 64 << 20
"""Checkpoints smaller than this are fingerprinted by all their bytes."""
CHUNK = 8 << 20
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


@dataclass(frozen=True)
class Index:
    """An opened checkpoint."""

    folder: Path
    """Resolved."""
    shards: tuple[Shard, ...]
    """By name."""
    index_name: str | None
    """File that lists the shards; None for a single file."""
    places: Mapping[str, tuple[Shard, Entry]]
    """Tensor name → where it is."""

    def find(self, name: str) -> tuple[Shard, Entry]:
        """Where a tensor is; raises CheckpointError with the nearest name when it is nowhere."""
        if name not in self.places:
            near = difflib.get_close_matches(name, self.places, n=1, cutoff=0.0)
            raise CheckpointError(
                f"{self.folder}: expected a tensor {name}, found none; nearest: {near[0] if near else 'nothing'}. "
                "The edit belongs to another model, or the checkpoint stores this one under another name."
            )
        return self.places[name]


def open_index(path: Path) -> Index:
    """Open a checkpoint folder: model.safetensors, a sharded one with its index, or one other *.safetensors file.

    Raises CheckpointError for damaged or hostile files, for links that leave the folder, and for pickle-only folders.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: expected a model folder, found {'a file' if path.exists() else 'nothing'}.")
    folder = path.resolve()
    index_name, names = _shard_names(folder)
    listed = None if index_name is None else _weight_map(folder, index_name)
    if listed is not None:
        names = sorted(set(listed.values()))
    shards = tuple(read_shard(resolve_file(folder, name), name) for name in names)
    places: dict[str, tuple[Shard, Entry]] = {}
    for shard in shards:
        for entry in shard.entries:
            if entry.name in places:
                raise CheckpointError(
                    f"{folder}: expected each tensor once, found {entry.name} in {places[entry.name][0].name} and "
                    f"{shard.name}. Save the model again with save_pretrained."
                )
            places[entry.name] = shard, entry
    for name, file in (listed or {}).items():
        if name not in places or places[name][0].name != file:
            raise CheckpointError(
                f"{folder / file}: expected tensor {name} as {index_name} says, found it "
                f"{'in ' + places[name][0].name if name in places else 'nowhere'}. Download the model again."
            )
    return Index(folder, shards, index_name, places)


def _shard_names(folder: Path) -> tuple[str | None, list[str]]:
    """(the index file, []) or (None, [the single file])."""
    found = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    indexes = [name for name in found if PurePosixPath(name).suffixes[-3:] == INDEX_ENDING]
    files = [name for name in found if PurePosixPath(name).suffix == ".safetensors"]
    if SINGLE in files and INDEX in indexes and set(_weight_map(folder, INDEX).values()) != {SINGLE}:
        raise CheckpointError(f"{folder}: expected one checkpoint, found {SINGLE} and {INDEX}. Move one of them away.")
    if INDEX in indexes:
        return INDEX, []
    if SINGLE in files:
        return None, [SINGLE]
    if len(indexes) == 1:
        return indexes[0], []
    if not indexes and len(files) == 1:
        return None, files
    if indexes or files:
        raise CheckpointError(
            f"{folder}: expected {SINGLE}, {INDEX}, or one set of safetensors files, found "
            f"{', '.join((indexes or files)[:4])}. Add the missing index, or keep one set in the folder."
        )
    pickles = [name for name in found if PurePosixPath(name).suffix in PICKLES]
    if pickles:
        raise CheckpointError(
            f"{folder}: expected safetensors files, found pickles only ({pickles[0]}), which can run code when opened "
            "and are not read. Convert them, if you trust them: load the model with transformers and save_pretrained."
        )
    raise CheckpointError(f"{folder}: expected safetensors files, found {', '.join(found[:4]) or 'an empty folder'}.")


def _weight_map(folder: Path, index_name: str) -> dict[str, str]:
    """Tensor → file name, every file name a plain one."""
    path = resolve_file(folder, index_name)
    remedy = "Download the file again, or save the model again with save_pretrained."
    size = path.stat().st_size
    if size > MAX_INDEX:
        raise CheckpointError(f"{path}: expected at most {MAX_INDEX} bytes, found {size}. {remedy}")
    try:
        content: Any = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, found something else ({error}). {remedy}") from error
    listed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
        raise CheckpointError(f"{path}: expected a weight_map of tensor and file names, found none. {remedy}")
    for file in set(listed.values()):
        if not is_plain_name(file) or PurePosixPath(file).suffix != ".safetensors":
            raise CheckpointError(
                f"{path}: expected plain names of safetensors files in the same folder, found {file[:120]!r}. "
                "Do not trust this model."
            )
    return {str(name): str(file) for name, file in listed.items()}


def is_plain_name(name: str) -> bool:
    """Whether this names a file in a folder and nothing outside it."""
    return name not in ("", ".", "..") and not any(letter in name for letter in "/\\\0")


def resolve_file(folder: Path, name: str) -> Path:
    """The regular file behind a name in a resolved folder.

    Links may end in the folder itself, or, in the hub's cache (models--*/snapshots/REVISION), in that model's blobs.
    Raises CheckpointError for every other link, for a missing file, and for what is no regular file.
    """
    path = folder / name
    try:
        target = path.resolve(strict=True)
        mode = target.stat().st_mode
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: expected a file, found none. Download the model again, completely.") from error
    roots = [folder]
    snapshots, repository = folder.parent, folder.parent.parent
    if snapshots.name == "snapshots" and repository.name.split("--")[0] == "models":
        roots.append(repository / "blobs")
    if not any(target.is_relative_to(root) for root in roots):
        raise CheckpointError(
            f"{path}: expected a file in the model's folder, found a link to {target}. Copy it there if you trust it."
        )
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path}: expected a regular file, found something else. Remove it.")
    return target


def fingerprint(path: Path) -> str:
    """SHA-256 over config.json and each shard's name, header and size; below 64 MB over all the shards' bytes too.

    Does not depend on where the folder lies. Raises CheckpointError as `open_index` does, or without a config.json.
    """
    index = open_index(path)
    digest = hashlib.sha256(b"excise fingerprint 1")
    parts = [resolve_file(index.folder, "config.json").read_bytes()]
    for shard in index.shards:
        parts += [shard.name.encode(), shard.header, str(shard.size).encode()]
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    if sum(shard.size for shard in index.shards) < FULL_HASH_BELOW:
        for shard in index.shards:
            with shard.path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
    return digest.hexdigest()
