"""Data sets from a folder or from the hub, through the `datasets` library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from excise.errors import PromptError
from excise.prompts.records import DETAILS, choose, prompt_of
from excise.results import Prompt


def read_hub(name: str, spec: str, column: str | None) -> tuple[Prompt, ...]:
    """The slice `spec` ("train[:400]") of the data set `name` on the hub."""
    import datasets

    where = f"{name}/{spec}"
    try:
        table = datasets.load_dataset(name, split=spec)
    except datasets.exceptions.DatasetNotFoundError as problem:
        raise PromptError(
            f"{name}: expected a data set on the hub or a local path, found neither."
            " Check the name; where the data set is gated, ask for access on its page and log in with 'hf auth login'."
        ) from problem
    except (OSError, RuntimeError) as problem:
        raise PromptError(
            f"{where}: the data set cannot be reached ({_short(problem)}). Go online, or download it where there is a"
            " network and name the folder or file, or leave the packaged prompts in place."
        ) from problem
    except (ValueError, AssertionError, datasets.exceptions.DatasetsError) as problem:
        raise _unusable(where, problem) from problem
    return _prompts(table, column, where)


def is_saved(path: Path) -> bool:
    """Whether `save_to_disk` wrote that folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def read_folder(path: Path, spec: str | None, column: str | None) -> tuple[Prompt, ...]:
    """A data set in a folder: one written by `save_to_disk`, or one of data files."""
    import datasets

    where = str(path / spec) if spec else str(path)
    try:
        if is_saved(path):
            table = _sliced(datasets.load_from_disk(str(path)), spec)
        else:
            table = datasets.load_dataset(str(path), split=spec or "train")
    except (OSError, RuntimeError, ValueError, AssertionError, datasets.exceptions.DatasetsError) as problem:
        raise _unusable(where, problem) from problem
    return _prompts(table, column, where)


def _sliced(stored: Any, spec: str | None) -> Any:
    """The asked rows of a saved data set; one without splits answers to its own split's name and to "train"."""
    import datasets

    if not isinstance(stored, dict):
        stored = {str(stored.split or "train"): stored}
    only = next(iter(stored)) if len(stored) == 1 else "train"
    instruction = datasets.ReadInstruction.from_spec(spec or only)
    parts = []
    for part in instruction.to_absolute({name: len(table) for name, table in stored.items()}):
        table = stored[part.splitname]
        start, stop, _ = slice(part.from_, part.to).indices(len(table))
        parts.append(table.select(range(start, max(start, stop))))
    return datasets.concatenate_datasets(parts)


def _prompts(table: Any, column: str | None, where: str) -> tuple[Prompt, ...]:
    chosen = choose(table.column_names, column, where)
    used = [name for name in table.column_names if name == chosen or name in DETAILS]
    records = enumerate(table.select_columns(used), 1)
    return tuple(prompt_of(record, chosen, f"{where}, row {row}", foreign=True) for row, record in records)


def _unusable(where: str, problem: Exception) -> PromptError:
    return PromptError(
        f"{where}: expected a data set with that split and slice, found: {_short(problem)}."
        " Name a split that exists and a slice like [:400], [100:200] or [:10%]."
    )


def _short(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).split("\n")[0].rstrip(".")[:300]
