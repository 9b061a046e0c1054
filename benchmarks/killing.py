"""Kills `excise run` at chosen moments and resumes it: the core of kill_resume.py and of tests/test_resume.py.

Where a run stands is read off DIR/stages, which is also what `excise resume` goes by: a stage whose file is there is
over. A moment is a stage and a fraction of the time that this stage took in an uninterrupted run.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

SAVED = (
    "prompts", "model", "activations", "separation", "base", "references", "search", "confirm", "verdict",
)  # fmt: skip
"""Stages with a file, in the order in which the files appear."""
STAGES = ("start", *SAVED, "write")
"""`start`: before the run directory is there; `write`: recipe, checkpoint and report, after the last stage file."""
COMPARED = ("model/", "recipe.", "stages/verdict.")
"""What must end in the same bytes, by the beginning of its path in DIR."""
EXCISE = (sys.executable, "-c", "from excise.cli import main; main()")
"""The `excise` command in this very environment."""
_POLL = 0.005


@dataclass(frozen=True)
class Moment:
    """When to kill."""

    stage: str
    fraction: float
    """Of the stage's length, 0..1."""


@dataclass(frozen=True)
class Kill:
    """A kill that happened."""

    wanted: Moment
    stage: str
    """In which stage the run really was."""
    seconds: float
    """After the stage had begun."""
    line: str
    """The last progress line before it."""
    partials: tuple[str, ...]
    """Half-written files and folders that it left."""


@dataclass
class Process:
    """`excise` in a process, its progress lines read as they come."""

    command: Sequence[str]
    out: Path
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.child = subprocess.Popen(list(self.command), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.child.stderr is not None
        self.lines.extend(line.rstrip() for line in self.child.stderr)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.child.poll() is None

    def kill(self) -> None:
        """SIGKILL: nothing in it gets to run any more."""
        self.child.kill()
        self.child.wait()
        self.reader.join()

    def finish(self) -> None:
        """Wait for a good end. Raises RuntimeError with its output otherwise."""
        code = self.child.wait()
        self.reader.join()
        if code:
            raise RuntimeError(f"{' '.join(self.command)}: ended with {code}:\n" + "\n".join(self.lines))


def stage_of(out: Path) -> str:
    """The stage that a run is in, or would go on with."""
    if not (out / "run.json").is_file():
        return "start"
    return next((stage for stage in SAVED if not (out / "stages" / f"{stage}.json").is_file()), "write")


def finished(out: Path) -> bool:
    """Whether the run has said that it is complete."""
    return (out / "stages" / ".finished").is_file()


def whole(options: Sequence[str], out: Path) -> dict[str, float]:
    """An uninterrupted run; seconds of each stage."""
    process = Process((*EXCISE, "run", *options, "--out", str(out)), out)
    began, now, seconds = time.monotonic(), "start", dict.fromkeys(STAGES, 0.0)
    while process.running and not finished(out):
        if (stage := stage_of(out)) != now:
            seconds[now], began, now = time.monotonic() - began, time.monotonic(), stage
        time.sleep(_POLL)
    seconds[now] = time.monotonic() - began
    process.finish()
    found = {path.stem for path in (out / "stages").glob("*.json")}
    if found != set(SAVED):
        raise RuntimeError(f"{out}: expected the stages {', '.join(SAVED)}, found {', '.join(sorted(found))}.")
    return seconds


def go_on(options: Sequence[str], out: Path) -> Process:
    """`excise resume`, or `excise run` again where the kill came before there was anything to resume."""
    begun = (out / "run.json").is_file()
    command = ("resume", str(out)) if begun else ("run", *options, "--out", str(out))
    return Process((*EXCISE, *command), out)


def kill_at(options: Sequence[str], out: Path, moment: Moment, seconds: Mapping[str, float]) -> Kill | None:
    """Begin or go on, and kill at the moment; None where the run had already passed it."""
    process = go_on(options, out)
    reached = STAGES.index(moment.stage)
    while process.running and STAGES.index(stage_of(out)) < reached:
        time.sleep(_POLL)
    began = time.monotonic()
    end = began + moment.fraction * seconds[moment.stage]
    while process.running and time.monotonic() < end and not finished(out):
        time.sleep(_POLL)
    if not process.running or finished(out):
        process.finish()
        return None
    process.kill()
    after = time.monotonic() - began
    line = next((line.strip() for line in reversed(process.lines) if line.strip()), "")
    return Kill(moment, stage_of(out), after, line, partials(out))


def complete(options: Sequence[str], out: Path) -> None:
    """Go on to the end."""
    go_on(options, out).finish()


def partials(out: Path) -> tuple[str, ...]:
    """Half-written things inside and beside DIR."""
    inside = [str(path.relative_to(out)) for path in sorted(out.rglob("*.partial*"))] if out.is_dir() else []
    return (*inside, *(f"../{path.name}" for path in sorted(out.parent.glob(f".{out.name}*"))))


def hashes(out: Path) -> dict[str, str]:
    """SHA-256 of every file that must not differ."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_file() and name.startswith(COMPARED):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def differences(expected: Mapping[str, str], out: Path) -> list[str]:
    """Files whose bytes are not those of the uninterrupted run, and half-written ones that are left."""
    found = hashes(out)
    names = sorted(expected.keys() | found.keys())
    return [*(name for name in names if expected.get(name) != found.get(name)), *partials(out)]


def moments(rng: Random, stages: Sequence[str]) -> list[Moment]:
    """One random moment in each of these stages."""
    return [Moment(stage, rng.random()) for stage in stages]


def demo_prompts(folder: Path, count: int) -> tuple[str, ...]:
    """Options for a short run: few prompts of the demo's world, as files."""
    from excise import demo

    folder.mkdir(parents=True, exist_ok=True)
    options: list[str] = []
    for side, prompts in zip(("target", "neutral"), demo.prompts("refusal"), strict=True):
        file = folder / f"{side}.txt"
        file.write_text("".join(f"{prompt.text}\n" for prompt in prompts[:count]), "utf-8")
        options += [f"--{side}", str(file)]
    return tuple(options)


def remove(out: Path) -> None:
    """A run and what a kill may have left beside it."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(out.parent / f".{out.name}.partial", ignore_errors=True)
