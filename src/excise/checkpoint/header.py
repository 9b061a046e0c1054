"""The header of one safetensors file, read as if a stranger had written it.

    8 bytes   little-endian length n of the header
    n bytes   JSON: {"name": {"dtype": "BF16", "shape": [..], "data_offsets": [start, end]}, "__metadata__": {..}}
    the rest  the tensors, without holes or overlaps

Nothing is read but those 8 + n bytes, and n is checked before it is read.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from excise.errors import CheckpointError

MAX_HEADER = 100_000_000
"""Bytes; the format's own limit."""

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""Bits an element of every dtype that the format knows."""


@dataclass(frozen=True)
class Entry:
    """One stored tensor."""

    name: str
    dtype: str
    """As the file spells it: "BF16", "F32", ..."""
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the beginning of the file."""
    end: int

    @property
    def nbytes(self) -> int:
        """Stored size."""
        return self.end - self.start


@dataclass(frozen=True)
class Shard:
    """One safetensors file whose header has been checked against its size."""

    name: str
    """File name in the checkpoint's folder."""
    path: Path
    """The regular file behind it."""
    header: bytes
    """The length field and the JSON, word for word."""
    size: int
    """Of the whole file, bytes."""
    entries: tuple[Entry, ...]
    """In byte order, without holes."""


def read_shard(path: Path, name: str) -> Shard:
    """Read and check the header of the file at `path`; raises CheckpointError for anything out of order."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            field = file.read(8)
            length = int.from_bytes(field, "little")
            if len(field) < 8 or length > size - 8 or length > MAX_HEADER:
                raise CheckpointError(
                    f"{path}: expected a header within the file's {size} bytes (and at most {MAX_HEADER}), found a "
                    f"length of {length}. The file is cut off or no safetensors file: download it again."
                )
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}. Check its permissions.") from error
    if len(text) < length:
        raise CheckpointError(f"{path}: expected a header of {length} bytes, found {len(text)}. Download it again.")
    return Shard(name, path, field + text, size, _entries(path, _parse(path, text), 8 + length, size))


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    """The header as a dict without duplicate names."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise CheckpointError(f"{path}: expected each name once in the header, found {twice!r} twice. Not usable.")
        return found

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a JSON header, found none ({error}). Download it again.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: expected a JSON object as header, found {type(header).__name__}. Not usable.")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: expected texts in __metadata__, found something else. Not usable.")
    return header


def _entries(path: Path, header: dict[str, Any], data: int, size: int) -> tuple[Entry, ...]:
    """All tensors in byte order; they must fill the file from byte `data` to its end exactly."""
    found = (_entry(path, name, fields, data) for name, fields in header.items())
    entries = sorted(found, key=lambda entry: (entry.start, entry.end))
    position = data
    for entry in entries:
        if entry.start != position:
            what = "overlaps the one before it" if entry.start < position else "leaves a hole before it"
            raise CheckpointError(
                f"{path}: {entry.name}: expected it to start at byte {position}, found {entry.start}: it {what}. "
                "Not usable: download it again."
            )
        if entry.end > size:
            raise CheckpointError(
                f"{path}: {entry.name}: expected it to end within the file's {size} bytes, found {entry.end}. "
                "The file is cut off: download it again."
            )
        position = entry.end
    if position != size:
        raise CheckpointError(f"{path}: expected the tensors to end at byte {size}, found {position}. It is damaged.")
    return tuple(entries)


def _entry(path: Path, name: str, fields: Any, data: int) -> Entry:
    """One header item, with dtype, shape and offsets that agree."""
    where = f"{path}: {name}"
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where}: expected dtype, shape and data_offsets, found {str(fields)[:80]}. Not usable.")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise CheckpointError(f"{where}: expected a dtype among {', '.join(BITS)}, found {str(dtype)[:40]!r}.")
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(
            f"{where}: expected a shape and two rising offsets of whole numbers from 0, found shape {str(shape)[:80]} "
            f"and offsets {str(offsets)[:80]}. Not usable: download it again."
        )
    bits = math.prod(shape) * BITS[dtype]
    if bits != 8 * (offsets[1] - offsets[0]):
        raise CheckpointError(
            f"{where}: expected {bits} bits for {dtype} {str(shape)[:80]}, found {8 * (offsets[1] - offsets[0])}. "
            "Not usable: download it again."
        )
    return Entry(name, dtype, tuple(shape), data + offsets[0], data + offsets[1])


def _sizes(value: Any) -> bool:
    """Whether this is a short list of numbers that a file offset can hold."""
    return (
        isinstance(value, list) and len(value) <= 64 and all(type(item) is int and 0 <= item < 2**48 for item in value)
    )
