"""Models from the hub, against a hub in miniature."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hub import COMMIT, GATED, serve

SCRIPT = """
import json, sys
from excise.errors import ModelError
from excise.model import load
found = []
for source, revision in json.loads(sys.argv[1]):
    try:
        model = load(source, revision=revision, device="cpu")
        found.append([model.facts.source, model.facts.path, model.facts.parameters])
    except ModelError as error:
        found.append(str(error))
json.dump(found, sys.stdout)
"""


def load_all(cache: Path, endpoint: str, *sources: tuple[str, str | None]) -> list[list[str] | str]:
    """What `load` makes of each, in a process of its own: the endpoint is read when huggingface_hub is imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = kept | {
        "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_ETAG_TIMEOUT": "2", "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    command = [sys.executable, "-c", SCRIPT, json.dumps(sources)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: list[list[str] | str] = json.loads(done.stdout)
    return found


def test_hub(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_model()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "original").mkdir()
    (folder / "original" / "model.safetensors").write_bytes(b"a second copy")
    cache = tmp_path / "cache"
    with serve({"someone/tiny": folder}) as (endpoint, asked):
        loaded, gated, missing, revision = load_all(
            cache, endpoint, ("someone/tiny", None), (GATED, None), ("someone/else", None), ("someone/tiny", "v9")
        )
    assert isinstance(loaded, list)
    assert loaded[0] == "someone/tiny" and loaded[1].endswith(f"snapshots/{COMMIT}")
    names = {path.rpartition("/")[2] for path in asked if "/resolve/" in path}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert "pytorch_model.bin" not in names and not any("original/" in path for path in asked)
    assert "gated" in gated and "hf auth login" in gated
    assert "neither a folder nor a hub id" in missing
    assert "no such revision" in revision

    again, unreachable = load_all(cache, endpoint, ("someone/tiny", None), ("someone/new", None))
    assert again == loaded, "what is in the cache loads without a network"
    assert "cannot be reached" in unreachable
