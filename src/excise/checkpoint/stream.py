"""Write an edited checkpoint by streaming: same files, same headers, same bytes but for the edited tensors.

Memory: one matrix (one expert) in storage dtype and a block of it in float32; norm "rows" takes a whole matrix in
float32. On any error nothing is left at the destination.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from excise.checkpoint.files import Progress, Sink, check_space, new_file, new_folder
from excise.checkpoint.header import Entry, Shard
from excise.checkpoint.index import CHUNK, is_plain_name, open_index
from excise.checkpoint.side import find_side_files
from excise.checkpoint.tensors import TensorEdit, edit_piece, find_tensor_edits
from excise.errors import CheckpointError, StoreError
from excise.results import EditPlan

SPARE = 1 << 20
"""Bytes kept free for folders and rounding up to disk blocks, beside the files themselves."""


@dataclass(frozen=True)
class WriteResult:
    """What was written."""

    residuals: dict[str, float | None]
    """Edited tensor → worst ‖uᵀW' − wanted‖ / ‖W'‖ of what was stored, at most the dtype's rounding (0 is exact); None
    where the norm leaves no such law."""
    files: tuple[str, ...]
    """Names of all files, sorted."""
    left_out: tuple[str, ...]
    """Files and folders of the base that hold the unedited weights in another form."""
    size: int
    """Bytes of all files."""


@dataclass
class _Copy:
    """The state of one writing."""

    edits: Mapping[str, TensorEdit]
    total: int
    observer: Progress | None
    done: int = 0
    residuals: dict[str, float | None] = field(default_factory=dict)

    def advance(self, count: int) -> None:
        self.done += count
        if self.observer is not None:
            self.observer.progress(self.done, self.total)


def write_edited(
    source: Path,
    plan: EditPlan,
    out: Path,
    *,
    side_files: Mapping[str, bytes] | None = None,
    observer: Progress | None = None,
) -> WriteResult:
    """Write the checkpoint at `source` under `plan` to the new folder `out`; `side_files` replace or add small files.

    Raises CheckpointError for a source that is damaged or does not fit the plan, SpaceError where the disk is too
    small, StoreError where `out` exists. Same source and plan: same bytes.
    """
    index = open_index(source)
    edits = find_tensor_edits(index, plan)
    copied, left_out = find_side_files(index)
    given = dict(side_files or {})
    for name in given:
        if not is_plain_name(name) or name in {shard.name for shard in index.shards} or name == index.index_name:
            raise CheckpointError(f"side file {name!r}: expected a plain name that is no weight file. Rename it.")
        copied.pop(name, None)
    if out.resolve().is_relative_to(index.folder):
        raise StoreError(f"{out}: expected a folder outside the base model's, {index.folder}. Choose another folder.")
    total = sum(shard.size for shard in index.shards) + sum(len(data) for data in given.values())
    total += sum(path.stat().st_size for path in copied.values())
    check_space(out, total + SPARE)
    copy = _Copy(edits, total, observer)
    with new_folder(out) as folder:
        for shard in index.shards:
            _write_shard(shard, folder / shard.name, copy)
        for name, path in copied.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as file, new_file(folder / name) as sink:
                while chunk := file.read(CHUNK):
                    sink(chunk)
                    copy.advance(len(chunk))
        for name, data in given.items():
            with new_file(folder / name) as sink:
                sink(data)
            copy.advance(len(data))
    names = sorted([shard.name for shard in index.shards] + [*copied] + [*given])
    return WriteResult(dict(sorted(copy.residuals.items())), tuple(names), left_out, copy.done)


def _write_shard(shard: Shard, target: Path, copy: _Copy) -> None:
    """One file in byte order: header, then every tensor."""
    with shard.path.open("rb") as file, new_file(target) as sink:
        if file.read(len(shard.header)) != shard.header:
            raise CheckpointError(f"{shard.path}: expected the header read before, found another: it changed.")
        sink(shard.header)
        copy.advance(len(shard.header))
        for entry in shard.entries:
            edit = copy.edits.get(entry.name)
            if edit is not None:
                copy.residuals[entry.name] = _write_edit(file, edit, shard, sink, copy)
                continue
            for start in range(0, entry.nbytes, CHUNK):
                chunk = _read(file, min(CHUNK, entry.nbytes - start), shard)
                sink(chunk)
                copy.advance(len(chunk))


def _write_edit(file: BinaryIO, edit: TensorEdit, shard: Shard, sink: Sink, copy: _Copy) -> float | None:
    """All pieces of one edited tensor; their worst residual."""
    residuals = []
    for _ in range(edit.pieces):
        raw = _read(file, edit.entry.nbytes // edit.pieces, shard)
        residuals.append(edit_piece(raw, edit))
        sink(raw)
        copy.advance(len(raw))
    known = [residual for residual in residuals if residual is not None]
    return max(known) if known else None


def read_tensor(shard: Shard, entry: Entry) -> bytearray:
    """The stored bytes of one tensor."""
    with shard.path.open("rb") as file:
        file.seek(entry.start)
        return _read(file, entry.nbytes, shard)


def _read(file: BinaryIO, count: int, shard: Shard) -> bytearray:
    """Exactly `count` bytes."""
    raw = bytearray(count)
    view = memoryview(raw)
    position = 0
    while position < count:
        got = file.readinto(view[position:])  # type: ignore[attr-defined]
        if not got:
            raise CheckpointError(f"{shard.path}: expected {shard.size} bytes, found fewer: it shrank meanwhile.")
        position += got
    return raw
