"""Heretic's side: its environment, its study folder made from Excise's prompts, and its run in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from excise.results import Prompt, PromptSet

DRIVE = Path(__file__).with_name("drive.py")
TORCH, HERETIC = "torch==2.13.0", "heretic-llm==1.4.0"
PROBE = 4
"""Trials with which the number of threads is chosen."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@dataclass(frozen=True)
class Study:
    """What of Heretic is not left at its default."""

    trials: int = 200
    batch: int = 128
    """Fixed, so that its probe of batch sizes costs nothing; 128 holds all evaluation prompts at once."""
    tokens: int = 40
    """Longest response; a little more than the demo's longest answer."""
    seed: int = 1
    threads: int | None = None
    """Of arithmetic; None: torch's own choice, all cores."""


def environment(folder: Path, root: Path) -> Path:
    """The interpreter of Heretic's environment, made and filled where it is not there."""
    python = folder / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        constraints = root / "constraints.txt"
        pinned = ["--constraint", str(constraints)] if constraints.is_file() else []
        install = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, *pinned, TORCH], check=True)
        subprocess.run([*install, TORCH, HERETIC], check=True)  # the pins of Excise's own transformers do not hold here
    return python


def write_folder(folder: Path, model: Path, prompts: PromptSet, study: Study) -> None:
    """A fresh study folder: config.toml, four prompt files, an empty place for checkpoints."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sides = {"bad": prompts.target, "good": prompts.neutral}
    tables = []
    for name, side in sides.items():
        parts = {"prompts": side["extract"], "evaluation_prompts": (*side["select"], *side["confirm"])}
        for part, chosen in parts.items():
            file = folder / f"{name}_{part}.txt"
            _write_prompts(file, chosen)
            tables.append(f"[{name}_{part}]\ndataset = {json.dumps(str(file))}\n")
    (folder / "config.toml").write_text(_config(folder, model, study) + "\n" + "\n".join(tables), "utf-8")


def _config(folder: Path, model: Path, study: Study) -> str:
    """Float32, because bf16 arithmetic is slow on a CPU: in Heretic's favour, as is the fixed batch size."""
    values: dict[str, Any] = {
        "model": str(model),
        "dtypes": ["float32"],
        "device_map": "cpu",
        "batch_size": study.batch,
        "max_response_length": study.tokens,
        "response_prefix": "",
        "n_trials": study.trials,
        "seed": study.seed,
        "study_checkpoint_dir": str(folder / "checkpoints"),
        "export_strategy": "merge",
    }
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def _write_prompts(file: Path, prompts: Sequence[Prompt]) -> None:
    texts = [prompt.text for prompt in prompts]
    broken = next((text for text in texts if text != " ".join(text.splitlines()).strip()), None)
    if broken is not None:
        raise SystemExit(f"prompts: expected one line each, which is all that Heretic reads, found {broken!r}.")
    file.write_text("\n".join(texts) + "\n", "utf-8")


def faster_threads(python: Path, folder: Path, model: Path, prompts: PromptSet, study: Study, cores: int) -> int:
    """One arithmetic thread or one a core: what Heretic's trials are faster with on this machine.

    On models as small as the demo's, threads can cost more than they give. The same few trials are run with each.
    """
    if cores == 1:
        return 1
    took = {}
    for threads in (1, cores):
        probe = replace(study, trials=PROBE, threads=threads)
        (folder / "probe").mkdir(parents=True, exist_ok=True)
        found = run(python, folder / "probe", model, prompts, probe)
        took[threads] = sum(sorted(trial["seconds"] for trial in found["all"])[:-1])  # the slowest may be warming up
        print(f"  Heretic with {threads} thread(s): {took[threads] / (PROBE - 1):.2f} s a trial", flush=True)
    return min(took, key=lambda threads: took[threads])


def run(python: Path, folder: Path, model: Path, prompts: PromptSet, study: Study) -> dict[str, Any]:
    """Study, search and save; folder/model is the merged model, folder/result.json what is given back."""
    inside = folder / "study"
    write_folder(inside, model, prompts, study)
    out, report = folder / "model", folder / "result.json"
    shutil.rmtree(out, ignore_errors=True)
    report.unlink(missing_ok=True)
    command = [str(python), str(DRIVE), str(inside), str(out), str(report)]
    threads = {} if study.threads is None else {"OMP_NUM_THREADS": str(study.threads)}
    with (folder / "heretic.log").open("w") as log:
        done = subprocess.run(command, env=os.environ | OFFLINE | threads, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode or not report.is_file():
        raise SystemExit(f"Heretic ended with {done.returncode}. See {log.name}.")
    found: dict[str, Any] = json.loads(report.read_text())
    if found["trials"] != study.trials:
        raise SystemExit(f"Heretic: expected {study.trials} trials, found {found['trials']}. See {log.name}.")
    return found
