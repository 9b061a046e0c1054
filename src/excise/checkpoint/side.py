"""The files beside the weights: tokenizer, chat template, generation config, custom code, licence."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from excise.checkpoint.index import PICKLES, Index, resolve_file
from excise.errors import CheckpointError

WEIGHTS = PICKLES | {
    ".safetensors", ".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".onnx_data", ".tflite", ".npz", ".nemo", ".mlmodel",
}  # fmt: skip
"""Endings of weight files; whatever of these is not a shard of the checkpoint holds unedited weights."""
WEIGHT_FOLDERS = {"original", "onnx", "openvino", "coreml", "gguf", "metal"}


def find_side_files(index: Index) -> tuple[dict[str, Path], tuple[str, ...]]:
    """({name to copy: the regular file}, names left out because they hold the same weights in another form).

    Names are relative, with "/". Hidden files are passed over. Raises CheckpointError for links that leave the folder.
    """
    shards = {shard.name for shard in index.shards}
    copied: dict[str, Path] = {}
    left_out: list[str] = []
    for place, folders, files in os.walk(index.folder):
        here = Path(place).relative_to(index.folder)
        for folder in folders:
            if Path(place, folder).is_symlink():
                raise CheckpointError(f"{Path(place, folder)}: expected a folder, found a link to one. Remove it.")
        left_out += [str(here / folder) for folder in folders if here == Path() and folder in WEIGHT_FOLDERS]
        folders[:] = sorted(
            name for name in folders if not _hidden(name) and (here != Path() or name not in WEIGHT_FOLDERS)
        )
        for file in sorted(files):
            name = str(here / file)
            if _hidden(file) or name in shards:
                continue
            if _is_weights(file) and name != index.index_name:
                left_out.append(name)
            else:
                copied[name] = resolve_file(index.folder, name)
    return copied, tuple(sorted(left_out))


def _hidden(name: str) -> bool:
    return name[0] == "."


def _is_weights(name: str) -> bool:
    """A weight file, or the index of a sharded one."""
    suffixes = PurePosixPath(name).suffixes
    ending = suffixes[-3:-2] if suffixes[-2:] == [".index", ".json"] else suffixes[-1:]
    return any(suffix.lower() in WEIGHTS for suffix in ending)
