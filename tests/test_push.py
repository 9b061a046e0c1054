"""Uploading a finished run, against a hub in miniature that speaks the commit API."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import hub
from excise.store import RunDirectory

SCRIPT = "import sys; from excise.cli import main; sys.argv = ['excise', 'push', *sys.argv[1:]]; main()"


def finished_run(folder: Path) -> Path:
    """A run directory with everything that an upload takes."""
    directory = RunDirectory.create(folder / "run", {"settings": {}})
    directory.model.mkdir()
    for name in ("model.safetensors", "README.md", "config.json"):
        (directory.model / name).write_bytes(f"the {name}".encode())
    for name in ("recipe.json", "recipe.safetensors"):
        (directory.path / name).write_bytes(b"recipe")
    return directory.path


def push(run: Path, endpoint: str, token: str | None) -> subprocess.CompletedProcess[str]:
    """`excise push` in a process of its own: the endpoint is read when huggingface_hub is imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = kept | {
        "HF_ENDPOINT": endpoint, "HF_HOME": str(run.parent / "cache"), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1", "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    if token:
        environment["HF_TOKEN"] = token
    command = [sys.executable, "-c", SCRIPT, str(run), "me/edited"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_push(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    with hub.serve({}) as (endpoint, asked):
        early = push(run, endpoint, hub.TOKEN)
        assert early.returncode == 6 and "excise resume" in early.stderr and not asked
        RunDirectory.open(run).finish()
        for token in (None, "hf_wrong"):
            refused = push(run, endpoint, token)
            assert refused.returncode == 4 and "me/edited" in refused.stderr, refused.stderr
            assert "Traceback" not in refused.stderr
        done = push(run, endpoint, hub.TOKEN)
    assert done.returncode == 0, done.stderr
    assert {"model.safetensors", "README.md", "config.json", "excise/recipe.json"} <= set(hub.uploaded)
    assert hub.uploaded["model.safetensors"] == b"the model.safetensors"
