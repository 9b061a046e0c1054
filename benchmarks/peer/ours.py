"""Runs in a process of its own, as Heretic does: Excise's search on one model, timed, and the edited checkpoint.

    python ours.py MODEL FOLDER

The clock runs from the first forward pass over prompts (activations) to the chosen candidate: the base's answers,
the search with its refinement rounds and the confirmation are in it. Import, loading and the proof of the writers come
before it and are written down apart.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_BEGAN = time.monotonic()


class Laps:
    """Seconds of each stage, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, work: Callable[[], T]) -> T:
        """Time one piece of work."""
        began = time.monotonic()
        found = work()
        self.seconds[name] = time.monotonic() - began
        return found


def search(model: str, out: Path) -> dict[str, Any]:
    """Every stage of a run from activations to the choice; the checkpoint goes to `out`."""
    from excise import stages
    from excise.checkpoint import write_edited
    from excise.observer import Silent
    from excise.settings import RunSettings

    settings = RunSettings(model=model)
    behaviour = stages.behaviour_of(settings)
    prompts = stages.gather_prompts(RunSettings(), behaviour)  # the demo's, whatever model it is
    before = Laps()
    bench = before("load and prove the writers", lambda: stages.set_up(settings, behaviour, Silent()))
    lap, began = Laps(), time.monotonic()
    stats = lap("activations", lambda: stages.measure_activations(bench, prompts))
    measured = lap("separation", lambda: stages.measure_separation(bench, prompts, stats))
    starts = stages.choose_starts(bench, stats, measured)
    base = lap("base", lambda: stages.ask_base(bench, prompts))
    judge = stages.make_judge(bench, base)
    wanted = lap("references", lambda: stages.make_references(bench, base, judge, starts[0]))
    found = lap("search", lambda: stages.search(bench, prompts, base, judge, wanted, starts))
    front = lap("confirm", lambda: stages.confirm_front(bench, prompts, found, judge))
    plan = stages.chosen_plan(front)
    seconds = time.monotonic() - began
    before("write", lambda: write_edited(bench.model.path, plan, out))
    return {
        "seconds": seconds,
        "laps": lap.seconds,
        "outside": before.seconds,
        "seconds_process": time.monotonic() - _BEGAN,
        "prompts": prompts.fingerprint,
        "rounds": len(front.rounds),
        "stopped": front.stopped,
        "chosen": front.chosen,
        "lanes": {"micro_batch": bench.model.facts.micro_batch, "threads": bench.model.facts.threads},
    }


if __name__ == "__main__":
    place = Path(sys.argv[2])
    place.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(place / "model", ignore_errors=True)
    (place / "result.json").write_text(json.dumps(search(sys.argv[1], place / "model"), indent=1))
