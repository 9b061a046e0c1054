"""Durable files: a folder or a file is there whole, or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from excise.errors import SpaceError, StoreError


@runtime_checkable
class Progress(Protocol):
    """The part of an Observer that is told how far the writing is."""

    def progress(self, done: int, total: int) -> None:
        """Bytes written, and bytes to write in all."""
        ...


Sink = Callable[[bytes | bytearray | memoryview], object]
FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A sibling `.NAME.partial` that is renamed to `out` when the block ends well, and removed when it does not.

    A leftover of a killed process is taken over; the lock on it dies with its process. Raises StoreError when `out`
    exists or another process is at work on it, SpaceError when the disk is full.
    """
    partial = out.parent / f".{out.name}.partial"
    refuse_existing(out)
    lock = _claim(partial)
    try:
        refuse_existing(out)
        _empty(partial)
        yield partial
        for folder, _, _ in os.walk(partial):
            sync_folder(Path(folder))
        refuse_existing(out)
        os.rename(partial, out)
        sync_folder(out.parent)
    except BaseException as error:
        if _still(partial, lock):
            shutil.rmtree(partial)
        if isinstance(error, OSError) and error.errno in FULL:
            raise SpaceError(f"{out}: the disk is full; nothing was left. Make room or write elsewhere.") from error
        raise
    finally:
        os.close(lock)


def refuse_existing(out: Path) -> None:
    """Raise StoreError when something is at `out`, be it an empty folder or a dead link."""
    if os.path.lexists(out):
        raise StoreError(f"{out}: expected nothing there, found something. Choose another folder, or move it away.")


def _claim(partial: Path) -> int:
    """Make the folder if need be and lock it; the descriptor holds the lock."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in FULL:
            raise SpaceError(f"{partial}: the disk is full. Make room, or write elsewhere.") from error
        raise StoreError(f"{partial}: cannot be made: {error.strerror}. Choose a folder you may write to.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = True
    except OSError as error:
        # A file system without locks is no reason to stop: the lock only guards against a second writer.
        held = error.errno not in (errno.EAGAIN, errno.EACCES)
    if not held or not _still(partial, lock):
        os.close(lock)
        raise StoreError(f"{partial}: another process is writing there. Wait for it, or choose another folder.")
    return lock


def _still(partial: Path, lock: int) -> bool:
    """Whether the path is still the folder that was opened (a process before us may have renamed it)."""
    return partial.is_dir() and os.path.samestat(os.stat(partial, follow_symlinks=False), os.fstat(lock))


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextmanager
def new_file(path: Path) -> Iterator[Sink]:
    """Yields the function that appends to a new file; the file is fsynced when the block ends well."""
    with path.open("xb") as file:
        yield lambda data: write(file, data)
        file.flush()
        os.fsync(file.fileno())


def write(file: BinaryIO, data: bytes | bytearray | memoryview) -> int:
    """The one place where bytes of a checkpoint go out."""
    return file.write(data)


def replace_file(path: Path, data: bytes) -> None:
    """Put a whole file in place, or leave what was there. Raises SpaceError when the disk is full."""
    partial = path.parent / f".{path.name}.partial"
    try:
        partial.unlink(missing_ok=True)
        with new_file(partial) as sink:
            sink(data)
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno in FULL:
            raise SpaceError(f"{path}: the disk is full; nothing changed. Make room or write elsewhere.") from error
        raise


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that the names in it outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_space(out: Path, needed: int) -> None:
    """Raise SpaceError unless the disk that `out` will lie on has `needed` bytes free."""
    place = next(folder for folder in out.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise SpaceError(
            f"{out}: {needed / 1e9:.2f} GB ({needed} bytes) needed, {free / 1e9:.2f} GB ({free} bytes) free on the "
            f"disk of {place}. Make room or write elsewhere."
        )
