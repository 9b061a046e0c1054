"""Prompt files and data sets: one reader a format, one door for all.

    prompts.txt                      one prompt a line
    prompts.jsonl                    one object a line
    prompts.csv, prompts.parquet     a table
    folder/ or folder/test[:400]     a data set saved by `save_to_disk`, or a downloaded one
    owner/name/train[:400]:text      a slice of a data set on the Hugging Face hub

":column" may follow any of them but .txt. What exists on disk wins over the hub.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

from excise.errors import PromptError
from excise.prompts.hub import is_saved, read_folder, read_hub
from excise.prompts.records import choose, nearest, prompt_of
from excise.results import Prompt

_PART = r"\w[\w.]*(?:\[[^\[\]]*\])?"
_SPLIT = re.compile(rf"(?P<base>.+?)/(?P<split>{_PART}(?:\+{_PART})*)")
_COLUMN = re.compile(r"(?P<base>.*[^:]):(?P<column>[^:/\[\]]+)")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")


def read(source: str, *, column: str | None = None) -> tuple[Prompt, ...]:
    """All prompts of a file, a folder or a hub slice, in order, empty ones included.

    `column` says where the prompt is, as ":column" at the end of `source` does; without either it is the first of
    prompt, text, instruction, question and messages that exists. Columns named system, answer, topic and plain are
    read too. Raises `PromptError` where that cannot be done.
    """
    base, named = _take_column(source)
    if column is not None and named is not None and column != named:
        raise PromptError(f"{source}: expected one column, found ':{named}' and column={column!r}. Give one of them.")
    prompts = _read(source, base, column or named)
    if not any(prompt.text.strip() for prompt in prompts):
        raise PromptError(
            f"{source}: expected prompts, found none ({len(prompts)} empty). Put prompts in, or name another."
        )
    return prompts


def _take_column(source: str) -> tuple[str, str | None]:
    """The source without its ":column", and the column."""
    found = None if Path(source).exists() else _COLUMN.fullmatch(source)
    return (found["base"], found["column"]) if found else (source, None)


def _read(source: str, base: str, column: str | None) -> tuple[Prompt, ...]:
    path = Path(base).expanduser()
    if path.is_file():
        return _file(path, column)
    if path.is_dir():
        return read_folder(path, None, column)
    cut = _SPLIT.fullmatch(base)
    folder = Path(cut["base"]).expanduser() if cut else None
    if cut and folder and folder.is_dir() and (is_saved(folder) or not _HUB.fullmatch(base)):
        return read_folder(folder, cut["split"], column)
    if Path(base).suffix.lower() in _READERS:
        raise PromptError(f"{base}: expected a file, found none. Check the path; it is relative to {Path.cwd()}.")
    if _HUB.fullmatch(base):
        return read_hub(base, "train", column)
    if cut and _HUB.fullmatch(cut["base"]):
        return read_hub(cut["base"], cut["split"], column)
    raise PromptError(
        f"{source}: expected a file ({', '.join(_READERS)}), a folder, or a hub slice like"
        f" 'owner/name/train[:400]:column', found neither. Check the path; it is relative to {Path.cwd()}."
    )


def _file(path: Path, column: str | None) -> tuple[Prompt, ...]:
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise PromptError(
            f"{path}: expected one of {', '.join(_READERS)}, found {suffix or 'no suffix'!r}."
            f"{nearest(suffix, _READERS)} Convert it, or rename it to what it holds."
        )
    return _READERS[suffix](path, column)


def _decoded(path: Path) -> str:
    """The file as text, its byte order mark dropped, its line ends made "\\n"."""
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise PromptError(f"{path}: expected a readable file, found: {problem}. Check its permissions.") from problem
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        found = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else f"byte 0x{data[problem.start]:02x}"
        guess = "UTF-16" if found == "UTF-16" else "WINDOWS-1252"
        raise PromptError(
            f"{path}:{line}: expected UTF-8, found {found}. Convert it, for instance: iconv -f {guess} -t UTF-8."
        ) from problem
    if not text.strip():
        raise PromptError(f"{path}: expected prompts, found an empty file. Put prompts in, or name another.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lines(path: Path) -> list[str]:
    return _decoded(path).removesuffix("\n").split("\n")


def _txt(path: Path, column: str | None) -> tuple[Prompt, ...]:
    if column is not None:
        raise PromptError(f"{path}: expected no column for a .txt file, found {column!r}. Leave it out.")
    return tuple(Prompt(line.strip()) for line in _lines(path))


def _jsonl(path: Path, column: str | None) -> tuple[Prompt, ...]:
    prompts = []
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}:{number}"
        if not line.strip():
            prompts.append(Prompt(""))
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise PromptError(
                f"{where}: expected one JSON object, found: {problem}. Write one object a line."
            ) from problem
        if not isinstance(record, dict):
            raise PromptError(
                f"{where}: expected one JSON object, found {type(record).__name__}."
                ' Write {"prompt": "..."}, one object a line.'
            )
        prompts.append(prompt_of(record, choose(record, column, where), where))
    return tuple(prompts)


def _csv(path: Path, column: str | None) -> tuple[Prompt, ...]:
    text = _decoded(path)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    prompts = []
    try:
        chosen = choose([name.strip() for name in reader.fieldnames or ()], column, f"{path}:1")
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        for record in reader:
            where = f"{path}:{reader.line_num}"
            if None in record:
                raise PromptError(
                    f"{where}: expected {len(reader.fieldnames)} cells, found more. Quote cells with commas."
                )
            prompts.append(prompt_of(record, chosen, where))
    except csv.Error as problem:
        line = min(reader.line_num, text.rstrip("\n").count("\n")) + 1
        raise PromptError(
            f"{path}:{line}: expected CSV, found: {problem}. Quote that cell, or write it again."
        ) from problem
    return tuple(prompts)


def _parquet(path: Path, column: str | None) -> tuple[Prompt, ...]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as problem:
        raise PromptError(f"{path}: expected a parquet file, found: {problem}. Write it again.") from problem
    chosen = choose(table.column_names, column, str(path))
    return tuple(prompt_of(record, chosen, f"{path}, row {row}") for row, record in enumerate(table.to_pylist(), 1))


_READERS: dict[str, Callable[[Path, str | None], tuple[Prompt, ...]]] = {
    ".txt": _txt,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}
