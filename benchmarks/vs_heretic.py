"""Excise against Heretic 1.4.0 on the demo models: search time, and what each edit did, by the world's own truth.

    python benchmarks/vs_heretic.py --out runs/vs-heretic                 # the full comparison, about half an hour
    python benchmarks/vs_heretic.py --out /tmp/short --trials 3           # does it work here?

Heretic finds directions on the extract split and is scored, trial by trial, on select and confirm together; Excise uses
the same splits for the same purposes. The test split is seen by neither and judges both. Everything runs one after the
other, each tool in a process of its own, with float32 arithmetic.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common import ROOT, machine, outcome, table, write_docs
from excise import demo, stages
from excise.evaluate.statistics import wilson
from excise.placement import cores
from excise.results import PromptSet
from excise.settings import RunSettings
from peer import ours, study, truth
from peer.truth import SYSTEMS, Base, Judged

TARGET = 0.1
"""Excise's search may take this share of Heretic's."""
STATES = ("base", "heretic", "excise")
Table = dict[str, dict[str, Judged]]
"""System message → state → what it did."""


@dataclass(frozen=True)
class Result:
    """One model, both tools."""

    model: str
    heretic: dict[str, Any]
    excise: dict[str, Any]
    judged: Table

    @property
    def share(self) -> float:
        """Excise's search time as a share of Heretic's (the sum of its trials); below 1 is faster."""
        return float(self.excise["seconds"] / self.heretic["seconds_in_trials"])


def main() -> None:
    """Run, print, write."""
    given = _arguments()
    where = machine()
    print(where.line(), flush=True)
    prompts = stages.gather_prompts(RunSettings(), stages.behaviour_of(RunSettings()))
    models = dict(_model(name) for name in given.models)
    given.out.mkdir(parents=True, exist_ok=True)
    results = []
    for name, model in models.items():
        folder = given.out.resolve() / name
        heretic, excise = _results(folder) if given.judge_only else _search(given, model, folder, prompts)
        results.append(Result(name, heretic, excise, _judge(model, folder, prompts)))
    text = "\n\n".join([where.line(), *(_section(result) for result in results)])
    record = {"machine": asdict(where), "prompts": prompts.fingerprint, "results": [asdict(r) for r in results]}
    (given.out / "vs_heretic.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print("\n" + text)
    if given.write_docs:
        write_docs("vs_heretic", text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=["dense", "moe"], help="dense, moe, or NAME=FOLDER of a model of the same world"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for studies, checkpoints and vs_heretic.json")
    parser.add_argument("--trials", type=int, default=200, help="of Heretic (default: its own default, 200)")
    parser.add_argument("--batch", type=int, default=study.Study.batch, help="Heretic's batch size")
    parser.add_argument("--seed", type=int, default=study.Study.seed, help="of Heretic's sampler")
    parser.add_argument("--heretic-threads", type=int, help="of arithmetic (default: 1 or all cores, what is faster)")
    parser.add_argument("--heretic-env", type=Path, default=ROOT / ".venv-heretic", help="made where it is not there")
    parser.add_argument("--judge-only", action="store_true", help="judge again what --out already holds")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/benchmarks.md")
    return parser.parse_args()


def _model(name: str) -> tuple[str, Path]:
    """(label, folder) of `dense`, `moe` or NAME=FOLDER."""
    label, equals, given = name.partition("=")
    known = {"dense": [demo.path()], "moe": [ROOT / "benchmarks/demo_moe", ROOT / "benchmarks/demo_moe/model"]}
    for folder in [Path(given)] if equals else known.get(name, []):
        if (folder / "config.json").is_file():
            return label, folder.resolve()
    raise SystemExit(f"--models {name}: expected a folder with a model, found none. Give {label}=FOLDER.")


# ---------------------------------------------------------------- the two searches
def _search(
    given: argparse.Namespace, model: Path, folder: Path, prompts: PromptSet
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Heretic, then Excise."""
    python = study.environment(given.heretic_env.absolute(), ROOT)
    (folder / "heretic").mkdir(parents=True, exist_ok=True)
    plan = study.Study(given.trials, given.batch, seed=given.seed, threads=given.heretic_threads)
    if plan.threads is None:
        threads = study.faster_threads(python, folder, model, prompts, plan, cores())
        plan = replace(plan, threads=threads)
    print(f"{folder.name}: Heretic, {plan.trials} trials, {plan.threads} thread(s)", flush=True)
    heretic = study.run(python, folder / "heretic", model, prompts, plan)
    print(f"{folder.name}: Heretic {heretic['seconds_in_trials']:.1f} s in trials; Excise", flush=True)
    subprocess.run([sys.executable, ours.__file__, str(model), str(folder / "excise")], env=os.environ, check=True)
    heretic, excise = _results(folder)
    print(f"{folder.name}: Excise {excise['seconds']:.1f} s", flush=True)
    if excise["prompts"] != prompts.fingerprint:
        raise SystemExit(f"{folder.name}: expected both tools to get the same prompts, found others.")
    return heretic, excise


def _results(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    heretic, excise = (json.loads((folder / tool / "result.json").read_text()) for tool in ("heretic", "excise"))
    return heretic, excise


def _judge(model: Path, folder: Path, prompts: PromptSet) -> Table:
    """Base, Heretic's and Excise's checkpoints under both system messages."""
    folders = {"base": model, "heretic": folder / "heretic" / "model", "excise": folder / "excise" / "model"}
    found: Table = {}
    for label, system in SYSTEMS.items():
        base: Base | None = None
        found[label] = {}
        for state in STATES:
            print(f"{folder.name}: judging {state}, {label}", flush=True)
            found[label][state], base = truth.judge(folders[state], prompts, system, base)
    return found


# ---------------------------------------------------------------- words
def _section(result: Result) -> str:
    heretic, excise = result.heretic, result.excise
    times = [
        ("search, s", "–", f"{heretic['seconds_in_trials']:.1f}", f"{excise['seconds']:.1f}"),
        ("from first trial to last, s", "–", f"{heretic['seconds_first_to_last']:.1f}", "–"),
        ("whole process, s", "–", f"{heretic['seconds_process']:.1f}", f"{excise['seconds_process']:.1f}"),
    ]
    rows = [row for label, states in result.judged.items() for row in _rows(label, states)]
    return "\n\n".join([
        f"### {result.model}",
        table(["", "base", f"Heretic {heretic['versions']['heretic-llm']}, {heretic['trials']} trials", "Excise"],
              [*times, *rows]),
        _notes(heretic, excise),
        "\n".join(f"* {line}" for line in checks(result)),
    ])  # fmt: skip


def _notes(heretic: Mapping[str, Any], excise: Mapping[str, Any]) -> str:
    """What was timed, and what each tool says of its own run."""
    chosen, laps = heretic["chosen"], ", ".join(f"{name} {s:.1f} s" for name, s in excise["laps"].items())
    return (
        "Search: for Heretic the sum of its trials (its directions, baseline and start-up left out); for Excise from "
        "the first forward pass over prompts to the confirmed choice. Heretic's own judge counts "
        f"{chosen['refusals']} refusals of {chosen['n_bad_prompts']} for the trial chosen, with a first-token KL of "
        f"{chosen['kl_divergence']:.4f}; it ran in transformers {heretic['versions']['transformers']} with "
        f"{heretic['threads']} threads. Excise: {excise['rounds']} round(s), stopped by: {excise['stopped']}; {laps}."
    )


def _rows(label: str, states: Mapping[str, Judged]) -> Iterator[tuple[str, ...]]:
    every = [states[state] for state in STATES]

    def rate(count: int, total: int) -> str:
        found = wilson(count, total)
        return f"{count}/{total} ({found.low:.1%}–{found.high:.1%})"

    yield f"**{label}**", "", "", ""
    yield "refusals", *(rate(one.refusals, one.prompts) for one in every)
    for topic in every[0].topics:
        yield f"– {topic}: refusals, right", *(f"{one.topics[topic][0]}, {one.topics[topic][1]}" for one in every)
    yield "right answers", *(rate(one.right, one.prompts) for one in every)
    yield "neither", *(str(one.other) for one in every)
    yield "neutral answers kept", "–", *(rate(one.kept, one.neutral) for one in every[1:])
    yield "KL at the first token", "–", *(f"{one.kl_first:.5f}" for one in every[1:])
    yield "KL per token", "–", *(f"{one.kl_token:.5f}" for one in every[1:])


def checks(result: Result) -> list[str]:
    """Every target, met or missed; differences are not rounded away."""
    lines = [
        f"search in at most {TARGET:.0%} of Heretic's time: {outcome(result.share <= TARGET)} ({result.share:.1%}, "
        f"{1 / result.share:.1f} times faster)"
    ]
    for label, states in result.judged.items():
        theirs, own = states["heretic"], states["excise"]
        pairs = {
            "refusals": (own.refusals, theirs.refusals),
            "right answers": (-own.right, -theirs.right),
            "neutral answers kept": (-own.kept, -theirs.kept),
            "KL at the first token": (own.kl_first, theirs.kl_first),
            "KL per token": (own.kl_token, theirs.kl_token),
        }
        worse = [f"{name} ({abs(a):.4g} against {abs(b):.4g})" for name, (a, b) in pairs.items() if a > b]
        said = f": worse in {', '.join(worse)}" if worse else ""
        lines.append(f"no worse than Heretic in any of {len(pairs)} measures, {label}: {outcome(not worse)}{said}")
    return lines


if __name__ == "__main__":
    main()
