"""The run directory: typed save and load of every result.

A stage is NAME.json, which holds the value and names the SHA-256 of NAME.safetensors, which holds its tensors. The json
comes last, so a stage that was cut off half-way is not there; one that was damaged later is an error.

    DIR/run.json               settings, seeds, versions, fingerprints
    DIR/stages/NAME.json       one a stage, with NAME.safetensors where it has tensors
    DIR/model/, recipe.*, ...  written by others
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from excise.codec import decode, encode
from excise.errors import SpaceError, StoreError

T = TypeVar("T")
FORMAT, VERSION = "excise stage", 1
REPEAT = "Remove it to repeat the stage."
_STAGE = re.compile(r"[a-z0-9][a-z0-9_-]*")


# ---------------------------------------------------------------- values in files
def save_value(value: Any, path: Path) -> None:
    """Save a frozen dataclass of results.py as `path` (NAME.json) and, for its tensors, NAME.safetensors beside it.

    The same value gives the same bytes. Raises StoreError for a value of a type that has no form, SpaceError when the
    disk is full; the stage then is not there.
    """
    tensors: dict[str, Tensor] = {}
    content = encode(value, type(value), tensors)
    with _full_disk(path):
        path.unlink(missing_ok=True)
        _tensor_file(path).unlink(missing_ok=True)
        _sync(path.parent)
        record = {
            "format": FORMAT,
            "version": VERSION,
            "type": type(value).__name__,
            "value": content,
            "value_sha256": _text_hash(content),
            "tensors_sha256": None,
        }
        if tensors:
            _replace(_tensor_file(path), lambda partial: save_file(tensors, partial))
            record["tensors_sha256"] = _file_hash(_tensor_file(path))
        _replace_text(path, _dump(record))


def load_value(path: Path, cls: type[T]) -> T:
    """Load what `save_value` saved; raises StoreError when it is missing, damaged, or of another type or version."""
    try:
        record: Any = json.loads(path.read_bytes().decode("utf-8", "surrogatepass"))
    except OSError as error:
        raise StoreError(f"{path}: expected a saved {cls.__name__}, found none ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: expected JSON, found something else ({error}). {REPEAT}") from error
    keys = {"format", "version", "type", "value", "value_sha256", "tensors_sha256"}
    if not isinstance(record, dict) or set(record) != keys:
        raise StoreError(f"{path}: expected the keys {', '.join(sorted(keys))}, found others. {REPEAT}")
    found = (record["format"], record["version"], record["type"])
    if found != (FORMAT, VERSION, cls.__name__):
        raise StoreError(f"{path}: expected {(FORMAT, VERSION, cls.__name__)}, found {found}. {REPEAT}")
    if _text_hash(record["value"]) != record["value_sha256"]:
        raise StoreError(f"{path}: expected the value that was saved, found it changed. {REPEAT}")
    return decode(record["value"], cls, _load_tensors(path, record["tensors_sha256"]), str(path))


def _load_tensors(path: Path, wanted: object) -> dict[str, Tensor]:
    if wanted is None:
        return {}
    file = _tensor_file(path)
    try:
        if _file_hash(file) != wanted:
            raise StoreError(f"{file}: expected the bytes that {path.name} names, found others. {REPEAT}")
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{file}: expected the tensors of {path.name}, found none readable. {REPEAT}") from error


def _tensor_file(path: Path) -> Path:
    return path.with_suffix(".safetensors")


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _text_hash(value: Any) -> str:
    return hashlib.sha256(_dump(value).encode("utf-8", "surrogatepass")).hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- durable files
def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a hidden sibling, fsync it, and put it in place."""
    partial = path.parent / f".{path.name}.partial"
    try:
        write(partial)
        _sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _sync(path.parent)


def _replace_text(path: Path, text: str) -> None:
    _replace(path, lambda partial: partial.write_bytes(text.encode("utf-8", "surrogatepass")))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    """Says where the disk was full; safetensors reports the error as its own, by text."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        code = getattr(error, "errno", None)
        if code in (errno.ENOSPC, errno.EDQUOT) or f"os error {errno.ENOSPC}" in str(error):
            raise SpaceError(f"{path}: the disk is full. Make room, then resume.") from error
        raise


# ---------------------------------------------------------------- the directory
class RunDirectory:
    """One run: DIR, made whole or not at all; see the module's docstring for what is in it."""

    def __init__(self, path: Path) -> None:
        """Use `create` or `open`."""
        self.path = path
        self.model = path / "model"
        """The edited checkpoint."""
        self.report = path / "report.html"

    @classmethod
    def create(cls, path: Path, settings: Mapping[str, Any] | None = None) -> RunDirectory:
        """Make DIR with run.json in it, by way of its sibling `.DIR.partial`; raises StoreError when DIR exists."""
        path = path.absolute()
        partial = path.parent / f".{path.name}.partial"
        cls._refuse(path)
        try:
            with _full_disk(path):
                if partial.is_dir() and not partial.is_symlink():
                    shutil.rmtree(partial)
                partial.mkdir(parents=True)
                (partial / "stages").mkdir()
                _replace_text(partial / "run.json", _dump(dict(settings or {})))
                _sync(partial / "stages")
                os.rename(partial, path)
                _sync(path.parent)
        except SpaceError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            cls._refuse(path)
            raise StoreError(f"{path}: cannot be made: {error.strerror}. Choose a folder you may write to.") from error
        return cls(path)

    @staticmethod
    def _refuse(path: Path) -> None:
        if (path / "run.json").is_file():
            done = RunDirectory(path).finished
            advice = (
                "Choose another --out." if done else f"Go on with it: excise resume {path}; or choose another --out."
            )
            raise StoreError(f"{path}: expected nothing there, found {'a' if done else 'an unfinished'} run. {advice}")
        if os.path.lexists(path):
            raise StoreError(f"{path}: expected nothing there, found something else than a run. Choose another --out.")

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """An existing run; raises StoreError when there is none."""
        if not (path / "run.json").is_file() or not (path / "stages").is_dir():
            raise StoreError(f"{path}: expected a run directory (run.json and stages/), found none. Check the path.")
        return cls(path.absolute())

    @property
    def settings(self) -> dict[str, Any]:
        """What run.json holds."""
        try:
            settings = json.loads((self.path / "run.json").read_bytes().decode("utf-8", "surrogatepass"))
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path / 'run.json'}: expected JSON, found something else ({error}).") from error
        if not isinstance(settings, dict):
            raise StoreError(f"{self.path / 'run.json'}: expected an object, found {type(settings).__name__}.")
        return settings

    @property
    def finished(self) -> bool:
        """Whether `finish` was called."""
        return (self.path / "stages" / ".finished").is_file()

    def finish(self) -> None:
        """Say that nothing is left to do."""
        with _full_disk(self.path):
            _replace_text(self.path / "stages" / ".finished", "")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process works on a run; the lock dies with its process. Raises StoreError when it is taken."""
        with (self.path / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                owner = file.read(20).strip() or "unknown"
                raise StoreError(f"{self.path}: process {owner} works on this run. Wait for it, or end it.") from error
            except OSError as error:
                raise StoreError(f"{self.path}: cannot be locked: {error.strerror}. Choose a local disk.") from error
            with _full_disk(self.path):
                file.truncate(0)
                file.write(f"{os.getpid()}\n")
                file.flush()
            yield

    def stage_path(self, stage: str) -> Path:
        """The stage's json file."""
        if not _STAGE.fullmatch(stage):
            raise StoreError(f"stage {stage!r}: expected small letters, digits, - and _, found something else.")
        return self.path / "stages" / f"{stage}.json"

    def has(self, stage: str) -> bool:
        """Whether the stage was saved to its end."""
        return self.stage_path(stage).is_file()

    def save(self, stage: str, value: T) -> T:
        """Save a stage and give it back as a later process will read it: going on and resuming see the same."""
        save_value(value, self.stage_path(stage))
        return self.load(stage, type(value))

    def load(self, stage: str, cls: type[T]) -> T:
        """A saved stage; raises StoreError when it is missing, damaged, or of another type."""
        return load_value(self.stage_path(stage), cls)

    def save_text(self, name: str, text: str) -> Path:
        """Put a text file into DIR, whole; where it lies."""
        if name in ("", ".", "..", "run.json") or any(letter in name for letter in "/\\\0"):
            raise StoreError(f"{name!r}: expected a plain file name, found none that may be written in {self.path}.")
        with _full_disk(self.path / name):
            _replace_text(self.path / name, text)
        return self.path / name
