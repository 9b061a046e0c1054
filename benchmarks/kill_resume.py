"""Kill `excise run` at random moments, resume it, and compare every byte with an uninterrupted run.

    python benchmarks/kill_resume.py --out runs/kill-resume          # two kills in every stage of a short run
    python benchmarks/kill_resume.py --out runs/kill-resume --full   # of the default run

Each kill is SIGKILL to a run of its own, which is then resumed to the end. At last one run is killed in every stage in
turn. Compared are DIR/model/*, DIR/recipe.* and DIR/stages/verdict.*; nothing half-written may be left in or beside
DIR. Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import killing
from common import machine, outcome, table, write_docs
from killing import STAGES, Kill, Moment

SHORT = ("--rounds", "1", "--max-tokens", "24")
TRIES = 6
"""A stage of milliseconds may be over before the kill comes: so often is another moment tried."""


@dataclass(frozen=True)
class Trial:
    """One run: its kills, and what was different in the end."""

    kills: tuple[Kill, ...]
    differences: tuple[str, ...]
    seconds: float


def main() -> None:
    """Run, print, write; exit code 1 on any difference."""
    given = _arguments()
    where, rng = machine(), Random(given.seed)
    print(where.line(), flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    short = () if given.full else (*SHORT, *killing.demo_prompts(given.out / "prompts", given.prompts))
    options = (*given.model, *short)
    reference = given.out / "whole"
    killing.remove(reference)
    seconds = killing.whole(options, reference)
    expected = killing.hashes(reference)
    print(f"uninterrupted: {sum(seconds.values()):.1f} s, {len(expected)} files to compare", flush=True)
    trials = []
    for trial in _trials(rng, given.each, options, given.out.resolve(), seconds, expected):
        print(f"  {_words(trial)}", flush=True)
        trials.append(trial)
    text = _page(trials, given, where.line())
    print("\n" + text)
    if given.write_docs:
        write_docs("kill_resume", text)
    sys.exit(1 if any(trial.differences for trial in trials) else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs (those without fault are removed)")
    parser.add_argument("--model", nargs=1, default=[], help="in place of the demo model")
    parser.add_argument("--full", action="store_true", help="the default run in place of a short one")
    parser.add_argument("--each", type=int, default=2, help="kills in every stage")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--prompts", type=int, default=64, help="of each side, in a short run")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/benchmarks.md")
    return parser.parse_args()


def _trials(
    rng: Random, each: int, options: Sequence[str], out: Path, seconds: dict[str, float], expected: dict[str, str]
) -> Iterator[Trial]:
    """`each` runs killed once in every stage, and one killed in all of them."""
    for stage in STAGES:
        for number in range(each):
            yield _killed(rng, [stage], options, out / f"{stage}-{number}", seconds, expected)
    yield _killed(rng, STAGES, options, out / "every-stage", seconds, expected)


def _killed(
    rng: Random, stages: Sequence[str], options: Sequence[str], out: Path, seconds: dict[str, float],
    expected: dict[str, str],
) -> Trial:  # fmt: skip
    began = time.monotonic()
    killing.remove(out)
    kills: list[Kill] = []
    for moment in killing.moments(rng, stages):
        kills += _one(rng, moment, options, out, seconds, alone=len(stages) == 1)
    if not killing.finished(out):
        killing.complete(options, out)
    found = killing.differences(expected, out)
    if not found:
        killing.remove(out)
    return Trial(tuple(kills), tuple(found), time.monotonic() - began)


def _one(
    rng: Random, moment: Moment, options: Sequence[str], out: Path, seconds: dict[str, float], *, alone: bool
) -> list[Kill]:
    """The kill in the wanted stage. A miss is a kill too and is told; alone, it is tried again on a fresh run."""
    kills = []
    for _ in range(TRIES if alone else 1):
        kill = killing.kill_at(options, out, moment, seconds)
        kills += [] if kill is None else [kill]
        if kill is None or kill.stage != moment.stage:
            if not alone:
                break
            killing.remove(out)
            moment = Moment(moment.stage, rng.random())
            kills.clear()
            continue
        break
    return kills


def _words(trial: Trial) -> str:
    where = ", ".join(f"{kill.stage} +{kill.seconds:.2f} s" for kill in trial.kills) or "never in time"
    return f"killed in {where}: {'differs in ' + ', '.join(trial.differences) if trial.differences else 'same bytes'}"


def _page(trials: Sequence[Trial], given: argparse.Namespace, where: str) -> str:
    single, chain = trials[:-1], trials[-1]
    counts = Counter(kill.stage for trial in single for kill in trial.kills)
    rows = []
    for stage in STAGES:
        own = [trial for trial in single if trial.kills and trial.kills[-1].stage == stage]
        after = ", ".join(f"{trial.kills[-1].seconds:.2f}" for trial in own)
        left = sorted({name for trial in own for kill in trial.kills for name in kill.partials})
        worse = sorted({name for trial in own for name in trial.differences})
        rows.append((stage, counts[stage], after, ", ".join(left) or "–", ", ".join(worse) or "none"))
    bad = sum(bool(trial.differences) for trial in trials)
    kills = sum(len(trial.kills) for trial in trials)
    return "\n\n".join([
        where,
        f"{'The default' if given.full else 'A short'} run, seed {given.seed}: {kills} kills in {len(trials)} runs.",
        table(["stage", "kills", "seconds into it", "half-written then", "files that differ in the end"], rows),
        f"One run killed in {len(chain.kills)} places ({', '.join(kill.stage for kill in chain.kills)}): "
        f"{', '.join(chain.differences) or 'same bytes'}.",
        f"* {given.each} kills in every stage: {outcome(all(counts[stage] >= given.each for stage in STAGES))}\n"
        f"* same bytes after every kill: {outcome(not bad)} ({len(trials) - bad} of {len(trials)} runs)",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
