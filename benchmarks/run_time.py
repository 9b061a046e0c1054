"""How long `excise run` takes as a whole process, how much memory, and how far each stage is from the physical limit.

    python benchmarks/run_time.py --out runs/run-time

Wall seconds include the interpreter's start and every import. The floor of a stage is the larger of two times: its
multiplications at the rate of this machine's matrix product, and the bytes it must move at this machine's rate of
copying. Both rates are measured here, at sizes that suit the machine. What is left out makes the floor lower, never
higher: attention scores, norms, sampling, tokenization, rounds and answers that are not stored.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import killing
from common import machine, outcome, table, write_docs
from excise import demo
from excise.checkpoint import open_index
from excise.model import Model, load
from excise.results import Answer, BaseAnswers, Front, PromptSet, References, Verdict
from excise.search.confirm import FINALISTS
from excise.search.rounds import SAMPLE, WARM_UP
from excise.store import RunDirectory
from rates import FLOAT, Rates, rates

SECONDS, BYTES = 60.0, 2e9
"""The targets: a whole run of the demo model in less time and less resident memory than that."""
BACKWARD = 2
"""Forward and backward together, in forwards: weights are frozen, so only the gradient of activations is needed
(training, with gradients of the weights too, would be 3)."""


# ---------------------------------------------------------------- whole runs
@dataclass(frozen=True)
class Timed:
    """One run as a process."""

    seconds: float
    peak_bytes: int
    """Largest resident set."""
    processor_seconds: float
    """User and system time, all cores."""
    stages: dict[str, float]
    """Seconds between the files that the stages leave; `start` is up to run.json, `exit` after everything is there."""


def timed(options: Sequence[str], out: Path) -> Timed:
    """`excise run` in a process, waited for with its resource usage."""
    killing.remove(out)
    clock, began = time.time(), time.monotonic()
    with (out.parent / f"{out.name}.log").open("w") as log:
        child = subprocess.Popen([*killing.EXCISE, "run", *options, "--out", str(out)], stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"excise run ended with {child.returncode}. See {log.name}.")
    scale = 1 if sys.platform == "darwin" else 1024
    return Timed(
        seconds, usage.ru_maxrss * scale, usage.ru_utime + usage.ru_stime, _stages(out, clock, clock + seconds)
    )


def _stages(out: Path, began: float, ended: float) -> dict[str, float]:
    marks = {"start": out / "run.json"}
    marks |= {name: out / "stages" / f"{name}.json" for name in killing.SAVED}
    marks |= {"write": out / "stages" / ".finished"}
    found, last = {}, began
    for name, file in marks.items():
        at = file.stat().st_mtime
        found[name], last = at - last, at
    return {**found, "exit": ended - last}


# ---------------------------------------------------------------- the floor
@dataclass(frozen=True)
class Work:
    """What a stage cannot do without."""

    flops: float = 0
    bytes: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> Work:
        return Work(self.flops * times, self.bytes * times)

    def seconds(self, rate: Rates) -> float:
        """At the machine's best."""
        return max(self.flops / rate.flops, self.bytes / rate.bytes)


class Floor:
    """Counts work for one model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.config: Any = model.module.config
        self.head = model.embeddings.weight.numel()
        self.body = _active(model)

    def read(self, tokens: int, predicted: int, share: float = 1) -> Work:
        """Tokens through a share of the blocks, some through the head: 2 FLOPs a weight; weights are read once."""
        body = self.body * share
        return Work(2 * (body * tokens + self.head * predicted), FLOAT * (body + self.head))

    def prompts(self, prompts: Sequence[Any], predicted: int = 0) -> Work:
        """One pass over chat-wrapped prompts."""
        return self.read(sum(map(len, self.model.encode(prompts))), predicted * len(prompts))

    def answer(self, answers: Sequence[Answer]) -> Work:
        """Greedy generation of these answers: prompts once, then a step a token, all rows in one batch."""
        if not answers:
            return Work()
        lengths = [len(answer.tokens) for answer in answers]
        more = sum(lengths) - len(lengths)
        steps = Work(2 * (self.body + self.head) * more, FLOAT * (self.body + self.head) * (max(lengths) - 1))
        return self.prompts([answer.prompt for answer in answers], 1) + steps

    def force(self, rows: Sequence[Any], share: float = 1) -> Work:
        """One teacher-forced pass over prompts with answers (Answer or Reference)."""
        own = sum(len(row.tokens) for row in rows)
        asked = sum(map(len, self.model.encode([row.prompt for row in rows])))
        return self.read(asked + own, own, share) if rows else Work()


def _active(model: Model) -> int:
    """Weights that multiply each token: all matrices but the embeddings; of fused experts the share routed to."""
    config: Any = model.module.config
    routed = getattr(config, "num_experts_per_tok", 1) / max(getattr(config, "num_experts", 1) or 1, 1)
    total = 0.0
    for name, parameter in model.module.named_parameters():
        if parameter.dim() >= 2 and parameter is not model.embeddings.weight and "lm_head" not in name:
            total += parameter.numel() * (routed if parameter.dim() == 3 else 1)
    return round(total)


def floors(directory: RunDirectory, model: Model) -> dict[str, Work]:
    """The least work of every stage of a finished run, from what it stored."""
    floor = Floor(model)
    prompts, base = directory.load("prompts", PromptSet), directory.load("base", BaseAnswers)
    front, verdict = directory.load("confirm", Front), directory.load("verdict", Verdict)
    sides = prompts.target, prompts.neutral
    answered = [row.answer for row in verdict.edited.target]
    kept = [row.answer for row in verdict.base.neutral]
    select = _stand_in(answered, len(prompts.target["select"]))
    confirm = floor.answer(_stand_in(answered, len(prompts.target["confirm"])))
    neutral = _stand_in(kept, len(prompts.neutral["confirm"]))
    shown = [[row.answer for row in rows] for state in (verdict.base, verdict.edited, *verdict.controls)
             for rows in (state.target, state.neutral)]  # fmt: skip
    finalists = min(FINALISTS, len(front.candidates))
    return {
        "activations": _sum(floor.prompts(side["extract"]) for side in sides),
        "separation": _sum(floor.prompts(side["select"]) for side in sides),
        "base": _sum(floor.answer(part) for part in (base.target, base.neutral, base.select, base.forced)),
        "search": _descent(floor, directory.load("references", References), front)
        + floor.answer(select) * len(front.rounds),
        "confirm": (confirm + floor.answer(neutral) + floor.force(neutral)) * finalists
        + floor.answer(neutral) + floor.force(neutral),
        "verdict": _sum(map(floor.answer, shown)) + floor.force(kept) * (2 + len(verdict.controls)),
        "write": Work(bytes=2 * sum(shard.path.stat().st_size for shard in open_index(model.path).shards)),
    }  # fmt: skip


def _descent(floor: Floor, references: References, front: Front) -> Work:
    """Adam's steps: every start on a sample, then one state on all references, and the base once.

    Layers below the first edited one change nothing and need not run again. Polishing descents are not counted.
    """
    rows = (*references.target, *references.neutral)
    every, starts = floor.force(rows), max(1, len(front.rounds[0].starts))
    sample = min(1.0, 2 * SAMPLE / len(rows))
    warm_up = every * (BACKWARD * (WARM_UP.steps + 1) * starts * sample)
    plan = next(candidate.plan for candidate in front.candidates if candidate.index == front.chosen)
    first = min((edit.writer.layer for edit in plan.edits), default=0)
    step = floor.force(rows, share=1 - first / int(floor.config.num_hidden_layers))
    return every + warm_up + step * (BACKWARD * sum(one.steps + 1 for one in front.rounds))


def _stand_in(answers: Sequence[Answer], count: int) -> list[Answer]:
    """Stored answers in place of ones that were not stored: as many, evenly taken from the same kind."""
    return [answers[i * len(answers) // count] for i in range(count)]


def _sum(parts: Any) -> Work:
    return sum(parts, Work())


# ---------------------------------------------------------------- the page
def main() -> None:
    """Run, print, write."""
    given = _arguments()
    where = machine()
    print(where.line(), flush=True)
    out: Path = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    runs = []
    for number in range(given.times):
        runs.append(timed(given.model, out / f"run-{number}"))
        print(f"run {number + 1}: {runs[-1].seconds:.1f} s, {runs[-1].peak_bytes / 1e9:.2f} GB", flush=True)
    model = load(given.model[0] if given.model else demo.path())
    rate = rates(model)
    work = floors(RunDirectory.open(out / "run-0"), model)
    text = f"{where.line()}\n\n{_page(runs, rate, work)}"
    record = {"machine": asdict(where), "runs": [asdict(run) for run in runs], "rates": asdict(rate),
              "floors": {name: asdict(part) for name, part in work.items()}}  # fmt: skip
    (out / "run_time.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print("\n" + text)
    if given.write_docs:
        write_docs("run_time", text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and run_time.json")
    parser.add_argument("--model", nargs=1, default=[], help="in place of the demo model")
    parser.add_argument("--times", type=int, default=3, help="runs, of which the median counts")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/benchmarks.md")
    return parser.parse_args()


def _page(runs: Sequence[Timed], rate: Rates, work: dict[str, Work]) -> str:
    seconds, peak = median(run.seconds for run in runs), max(run.peak_bytes for run in runs)
    rows = []
    for stage in runs[0].stages:
        took = median(run.stages[stage] for run in runs)
        if stage not in work:
            rows.append((stage, f"{took:.2f}", "–", "–", "–", "–"))
            continue
        part, least = work[stage], work[stage].seconds(rate)
        rows.append((
            stage, f"{took:.2f}", f"{part.flops / 1e9:.1f}", f"{part.bytes / 1e9:.2f}", f"{least:.3f}",
            f"{took / least:.1f}",
        ))  # fmt: skip
    least = sum(part.seconds(rate) for part in work.values())
    total = sum(part.flops for part in work.values()), sum(part.bytes for part in work.values())
    rows.append((
        "**whole process**", f"{seconds:.2f}", f"{total[0] / 1e9:.1f}", f"{total[1] / 1e9:.2f}", f"{least:.3f}",
        f"{seconds / least:.1f}",
    ))  # fmt: skip
    spread = ", ".join(f"{run.seconds:.1f}" for run in runs)
    return "\n\n".join([
        f"Median of {len(runs)} runs ({spread} s wall; "
        f"{median(run.processor_seconds for run in runs):.1f} s of processor time). This machine: "
        f"{rate.flops / 1e9:.0f} GFLOP/s in the matrix products that suit it best "
        f"({rate.flops_model / 1e9:.0f} in ones as small as the model's own), {rate.bytes / 1e9:.1f} GB/s in copies.",
        table(["stage", "seconds", "GFLOP", "GB", "floor, s", "seconds / floor"], rows),
        f"* whole run under {SECONDS:.0f} s: {outcome(seconds < SECONDS)} ({seconds:.1f} s)\n"
        f"* peak memory under {BYTES / 1e9:.0f} GB: {outcome(peak < BYTES)} ({peak / 1e9:.2f} GB)",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
