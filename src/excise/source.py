"""From what the user typed to a folder that can be loaded: a local one as it is, a hub id fetched into the cache."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import errors, snapshot_download
from transformers import CONFIG_MAPPING

from excise.checkpoint.index import Index, fingerprint, open_index
from excise.errors import ModelError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+|[A-Za-z0-9][\w.-]*")
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py", "LICENSE*", "README.md"]
_UNWANTED = ["original/*", "onnx/*", "metal/*", "consolidated*", "*.bin", "*.gguf", "*.pth", "*.pt", "*.h5"]
"""Second copies of the weights in other formats; gpt-oss has "original" and "metal", Mistral "consolidated"."""
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "tokenizer_config.json")
_FLOATS = {"F32": torch.float32, "F64": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Source:
    """A checked folder with a model in it."""

    given: str
    path: Path
    revision: str | None
    config: dict[str, Any]
    fingerprint: str
    parameters: int
    """Stored elements; those of packed formats are counted as stored."""
    dtype: torch.dtype
    """Of most stored elements; torch.uint8 for narrower formats."""


def find(source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Source:
    """Locate a model and check that it can be loaded without running strangers' code.

    Raises:
        ModelError: neither folder nor hub id; unreachable or gated; no config, tokenizer or safetensors; custom code.
        CheckpointError: damaged or hostile safetensors files.
    """
    given = str(source)
    folder = Path(source).expanduser()
    if folder.is_dir():
        path = folder.resolve()
    elif isinstance(source, str) and not folder.exists() and _HUB_ID.fullmatch(given):
        path = _fetch(given, revision)
    else:
        found = "a file" if folder.exists() else "nothing there"
        raise ModelError(
            f"{given}: neither a folder nor a hub id (found {found}). Give the folder that holds config.json and the "
            "safetensors files, or a hub id such as Qwen/Qwen3-0.6B."
        )
    config = _config(path)
    index = open_index(path)
    if not any((path / name).is_file() for name in _TOKENIZER):
        raise ModelError(f"{path}: expected a tokenizer ({_TOKENIZER[0]}, ...), found none. Copy the base model's.")
    _check_code(path, config, trust_remote_code)
    parameters, dtype = _weigh(index)
    return Source(given, path, revision, config, fingerprint(path), parameters, dtype)


def _config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not file.is_file():
        adapter = (path / "adapter_config.json").is_file()
        remedy = "This is an adapter: merge it into its base first." if adapter else "Is this the folder of a model?"
        raise ModelError(f"{path}: expected config.json, found none. {remedy}")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: expected JSON, found something else ({error}). Download it again.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{file}: expected a JSON object, found {type(config).__name__}. Download it again.")
    return config


def _check_code(path: Path, config: dict[str, Any], trust_remote_code: bool) -> None:
    kind = config.get("model_type")
    if trust_remote_code and config.get("auto_map"):
        return
    if not isinstance(kind, str):
        raise ModelError(f"{path / 'config.json'}: expected a model_type, found {kind!r}. Is this a model's folder?")
    if kind in CONFIG_MAPPING:
        return
    if config.get("auto_map"):
        raise ModelError(
            f"{path}: model type {kind!r} needs code that comes with the model, and that is not run unasked. Read the "
            ".py files in the folder; if you trust them, pass --trust-remote-code."
        )
    raise ModelError(f"{path}: model type {kind!r} is unknown to the installed transformers. Upgrade transformers.")


def _weigh(index: Index) -> tuple[int, torch.dtype]:
    counts: dict[str, int] = {}
    for _, entry in index.places.values():
        size = 1
        for length in entry.shape:
            size *= length
        counts[entry.dtype] = counts.get(entry.dtype, 0) + size
    most = max(counts, key=lambda name: counts[name], default="F32")
    return sum(counts.values()), _FLOATS.get(most, torch.uint8)


def _fetch(repository: str, revision: str | None) -> Path:
    """The snapshot's folder in the hub's cache; what is there already is not fetched again."""
    at = f"{repository}{f' at {revision}' if revision else ''}"
    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{at}: gated. Accept its terms at https://huggingface.co/{repository}, then log in with `hf auth login`."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{at}: no such revision. Give a branch, tag or commit of that model.") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{at}: neither a folder nor a hub id: there is no such folder here, and the hub has no such public model. "
            "Check the spelling; for a private model log in with `hf auth login`."
        ) from error
    except Exception as error:  # the hub client passes on its HTTP library's errors, and has changed that library twice
        raise ModelError(
            f"{at}: no such folder here, and the hub cannot be reached ({_brief(error)}). Check the path, or the "
            "network and HF_ENDPOINT; or fetch the model elsewhere and give its folder. A broken download goes on "
            "where it was."
        ) from error
    return Path(folder).resolve()


def _brief(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
