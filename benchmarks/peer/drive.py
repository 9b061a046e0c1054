"""Runs in Heretic's own environment: one unattended study of Heretic 1.4.0, the chosen trial saved, times written down.

    python drive.py STUDY_FOLDER MODEL_OUT RESULT_JSON

Heretic 1.4.0 cannot run unattended. Its menus are answered here; nothing else of it is touched. The trial is chosen
from the Pareto front that its menu offers: fewest refusals, then least KL, among those with KL at most CAP.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from time import monotonic
from typing import Any

CAP = 0.5
"""Largest first-token KL of a trial that is chosen, nats; where none is below, the cap does not count."""


def choose(choices: list[Any]) -> Any:
    """The trial, from the entries of Heretic's own menu."""
    trials = [choice.value for choice in choices if hasattr(choice.value, "user_attrs")]
    allowed = [trial for trial in trials if trial.user_attrs["kl_divergence"] <= CAP] or trials
    return min(allowed, key=lambda trial: (trial.user_attrs["refusals"], trial.user_attrs["kl_divergence"]))


class Menus:
    """Answers each menu once: choose a trial, save it; a menu that comes back is left."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.chosen: Any = None
        self._seen: set[str] = set()

    def select(self, message: str, choices: list[Any]) -> Any:
        """In place of heretic.main.prompt_select."""
        if message in self._seen:
            return ""
        self._seen.add(message)
        if message.startswith("Which trial"):
            self.chosen = choose(choices)
            return self.chosen
        if message.startswith("What do you"):
            return "Save the model to a local folder"
        raise SystemExit(f"drive: expected Heretic's menus for a trial and what to do with it, found {message!r}.")

    def path(self, message: str) -> str:
        """In place of heretic.main.prompt_path."""
        return str(self.out)


def trials(checkpoints: Path) -> list[Any]:
    """Completed trials of the study, from its journal."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    (journal,) = checkpoints.glob("*.jsonl")
    study = optuna.load_study(study_name="heretic", storage=JournalStorage(JournalFileBackend(str(journal))))
    return [trial for trial in study.trials if trial.state.name == "COMPLETE"]


def result(done: list[Any], chosen: Any, process: float) -> dict[str, Any]:
    """What the comparison needs to know of the study."""
    import torch

    return {
        "trials": len(done),
        "seconds_in_trials": sum(trial.duration.total_seconds() for trial in done),
        "seconds_first_to_last": (
            max(t.datetime_complete for t in done) - min(t.datetime_start for t in done)
        ).total_seconds(),
        "seconds_process": process,
        "chosen": {"number": chosen.number, **chosen.user_attrs},
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("heretic-llm", "torch", "transformers", "optuna", "peft")},
        },
        "all": [
            {
                "refusals": trial.user_attrs["refusals"],
                "kl": trial.user_attrs["kl_divergence"],
                "seconds": trial.duration.total_seconds(),
            }
            for trial in done
        ],
    }


def main(study: Path, out: Path, report: Path) -> None:
    """Search, save, write down."""
    os.chdir(study)  # Heretic reads config.toml from there
    sys.argv = ["heretic"]  # and parses the arguments of whatever program it is in
    began = monotonic()
    from heretic import main as heretic

    menus = Menus(out)
    heretic.prompt_select, heretic.prompt_path = menus.select, menus.path
    heretic.run()
    process = monotonic() - began
    if not (out / "config.json").is_file():  # Heretic only prints such errors
        raise SystemExit(f"drive: expected a saved model in {out}, found none. See Heretic's output above.")
    report.write_text(json.dumps(result(trials(study / "checkpoints"), menus.chosen, process), indent=1, default=str))


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:4]))
