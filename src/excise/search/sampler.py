"""Sampling search (Optuna's TPE) for what has no gradient: whole trials, each judged by real generation.

Ten numbers or so describe an edit: which start, and for each role a peak strength, the layer of the peak, and how the
strength falls off around it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import optuna
import torch

from excise.edits import make_plan
from excise.executor import Resident
from excise.intervene import Steering, Substitution
from excise.observer import Observer
from excise.results import Candidate, Directions, EditPlan, Front, Norm, Round, Writer
from excise.search.front import choose, pareto, remaining
from excise.search.objective import Objective
from excise.search.rounds import Ground, Wanted

STARTUP = 0.3
"""Share of trials that are drawn at random before the sampler learns from them."""


class SamplerSearch:
    """A study of `trials` trials with two objectives, behaviour left and damage. Takes edits of any norm."""

    def __init__(
        self,
        executor: Resident,
        writers: Sequence[Writer],
        starts: Sequence[Directions],
        ground: Ground,
        wanted: Wanted,
        observer: Observer,
        *,
        norm: Norm = "none",
        trials: int = 60,
        seed: int = 0,
    ) -> None:
        self.executor, self.writers, self.starts, self.ground = executor, tuple(writers), tuple(starts), ground
        self.wanted, self.observer, self.norm, self.trials, self.seed = wanted, observer, norm, trials, seed
        self.candidates: list[Candidate] = []

    def run(self) -> Front:
        """All trials, or as many as the deadline allows; the front of them. Same seed, same trials."""
        began = time.monotonic()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=max(2, int(STARTUP * self.trials)),
            multivariate=True,
            seed=self.seed,
            warn_independent_sampling=False,
        )
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        objective = Objective(self.executor, self.ground.references)
        stopped = "trials"
        for number in range(self.trials):
            if self.wanted.deadline is not None and time.monotonic() > self.wanted.deadline and self.candidates:
                stopped = "time limit"
                break
            trial = study.ask()
            plan = self._plan(trial)
            candidate = self._judge(objective, plan, number)
            self.candidates.append(candidate)
            assert candidate.select is not None
            study.tell(trial, [candidate.select.value, candidate.terms.neutral])
            self.observer.progress(number + 1, self.trials)
        chosen = choose(self.candidates, max_drift=self.wanted.max_drift)
        front = pareto(self.candidates)
        assert chosen.select is not None
        rounds = (
            Round(
                1, "sampled", {}, len(self.candidates), chosen.select, chosen.terms.neutral, time.monotonic() - began
            ),
        )
        return Front(front if chosen in front else (*front, chosen), chosen.index, rounds, "sampler", stopped)

    def _plan(self, trial: optuna.Trial) -> EditPlan:
        layers = max(writer.layer for writer in self.writers) + 1
        start = self.starts[trial.suggest_categorical("start", range(len(self.starts)))]
        strengths: dict[str, torch.Tensor] = {}
        for role in sorted({writer.role for writer in self.writers}):
            peak = trial.suggest_float(f"{role}.peak", 0.0, 1.5)
            centre = trial.suggest_float(f"{role}.centre", 0.2 * (layers - 1), float(layers - 1))
            floor = trial.suggest_float(f"{role}.floor", 0.0, 1.0) * peak
            reach = trial.suggest_float(f"{role}.reach", 1.0, max(1.5, 0.7 * layers))
            for writer in (w for w in self.writers if w.role == role):
                away = abs(writer.layer - centre) / reach
                value = peak + away * (floor - peak) if away <= 1 else 0.0
                strengths[writer.name] = torch.full((start.vectors.shape[1],), value)
        units = {writer.name: start.vectors[writer.layer] for writer in self.writers}
        return make_plan(self.writers, units, strengths, self.norm)

    def _judge(self, objective: Objective, plan: EditPlan, number: int) -> Candidate:
        module = self.executor.model.module
        with torch.no_grad(), Substitution(module, plan).active(), Steering(module, ()) as nothing:
            results = self.executor.run(
                objective.parts,
                lambda part: (*objective.run(nothing, part, {}, {}, 1), part.is_target),
                lambda part: part.batch.ids.numel(),
            )
            said = self.ground.judge(self.executor.generate(self.ground.select, self.wanted.tokens))
        terms = objective.summary(*(torch.cat(column) for column in zip(*results, strict=True)))
        return Candidate(number, 1, 0.0, plan, terms, remaining(said))
