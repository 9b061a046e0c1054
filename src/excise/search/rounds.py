"""The gradient search, round by round: warm up several starts, descend from the best, look at real answers, refine.

A round ends with real generation on the select split. Where that still shows the behaviour above the wanted rate,
activations are measured again on the edited model, one more direction is added, and the descent goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from excise import linalg
from excise.activations import moments
from excise.evaluate.behaviour import Judge
from excise.evaluate.statistics import wilson
from excise.executor import Resident
from excise.intervene import Steering, Substitution
from excise.observer import Observer
from excise.results import Candidate, Directions, EditPlan, Front, Norm, Prompt, Rate, References, Round, Writer
from excise.search.front import choose, pareto
from excise.search.gradient import Pace, Point, Prices, State, descend, grown, start_state
from excise.search.objective import Objective


@dataclass(frozen=True)
class Wanted:
    """When a search is done, and what it may cost."""

    max_rate: float = 0.02
    """Behaviour left on the select split at which refinement stops."""
    max_drift: float = 0.02
    """Largest KL per token on neutral prompts, nats."""
    rounds: int = 4
    tokens: int = 64
    """Longest answer that is generated."""
    deadline: float | None = None
    """`time.monotonic()` at which no further round begins."""


@dataclass(frozen=True)
class Ground:
    """What a search stands on: prompts, references and the judge."""

    references: References
    extract: tuple[Prompt, ...]
    """Target prompts that a refinement round may measure on."""
    neutral: tuple[Prompt, ...]
    """Neutral prompts of the extract split."""
    select: tuple[Prompt, ...]
    """Target prompts on which rounds are judged by generation."""
    judge: Judge


WARM_UP = Pace(steps=4, strengths=0.3)
SAMPLE = 12
"""References of each side on which starts are compared."""


class GradientSearch:
    """One search over one model. `run` returns the front of everything that was tried."""

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
        prices: Prices | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.executor, self.writers, self.starts, self.ground = executor, tuple(writers), tuple(starts), ground
        self.wanted, self.observer, self.norm = wanted, observer, norm
        self.prices, self.pace = prices or Prices(), pace or Pace()
        self.candidates: list[Candidate] = []
        self.rounds: list[Round] = []

    def run(self, stop: Callable[[], bool] = lambda: False) -> Front:
        """Rounds until the wanted rate, the damage budget, the number of rounds or the deadline is reached."""
        stopped = "rounds"
        module = self.executor.model.module
        with Steering(module, self.writers) as steering:
            objective = Objective(self.executor, self.ground.references)
            state, name, scores = self._best_start(objective, steering)
            for number in range(1, self.wanted.rounds + 1):
                began = time.monotonic()
                paths, state = descend(objective, steering, self.writers, state, self.prices, self.pace)
                left = self._judge_round(number, paths[0])
                last = self.candidates[-1]
                self.rounds.append(
                    Round(number, name, scores, self.pace.steps, left, last.terms.neutral, time.monotonic() - began)
                )
                self.observer.progress(number, self.wanted.rounds)
                if left.value <= self.wanted.max_rate:
                    stopped = "rate reached"
                    break
                if last.terms.neutral > self.wanted.max_drift:
                    stopped = "budget"
                    break
                if stop() or (self.wanted.deadline is not None and time.monotonic() > self.wanted.deadline):
                    stopped = "time limit"
                    break
                if number < self.wanted.rounds:
                    directions = self._measure_again(last.plan)
                    state, name, scores = (
                        grown(state, directions, self.writers, 0.3),
                        "measured on the edited model",
                        {},
                    )
        return self._front(stopped)

    def _best_start(self, objective: Objective, steering: Steering) -> tuple[State, str, dict[str, float]]:
        """A few steps from every start, as rows of one batch, on a sample; the one with the least loss goes on."""
        state = start_state([start.vectors for start in self.starts], self.writers, 0.3)
        targets, total = objective.targets, len(objective.references)
        sample = [*_every(range(targets), SAMPLE), *_every(range(targets, total), SAMPLE)]
        paths, state = descend(objective, steering, self.writers, state, self.prices, WARM_UP, sample)
        losses = [path[-1].loss for path in paths]
        best = min(range(len(losses)), key=losses.__getitem__)
        scores = {start.source: loss for start, loss in zip(self.starts, losses, strict=True)}
        return state.one(best), self.starts[best].source, scores

    def _judge_round(self, number: int, path: Sequence[Point]) -> Rate:
        """Candidates from a path, judged by generation; returns the behaviour left by its best point."""
        best = min(range(len(path)), key=lambda step: (path[step].loss, step))
        for step in sorted({*_along(path, best), best}):
            plan = path[step].plan(self.writers, self.norm)
            rate = self._generate(plan)
            index = len(self.candidates)
            self.candidates.append(Candidate(index, number, self.prices.neutral, plan, path[step].terms, rate))
        chosen = self.candidates[-1]
        assert chosen.select is not None
        return chosen.select

    def _generate(self, plan: EditPlan) -> Rate:
        with torch.no_grad(), Substitution(self.executor.model.module, plan).active():
            answers = self.executor.generate(self.ground.select, self.wanted.tokens)
        judged = self.ground.judge(answers)
        return wilson(sum(row.label in ("shows", "partly") for row in judged), len(judged))

    def _measure_again(self, plan: EditPlan) -> torch.Tensor:
        """Difference of means on the edited model, from the prompts that still show the behaviour; [layer, 1, d]."""
        executor, encode = self.executor, self.executor.model.encode
        with torch.no_grad(), Substitution(executor.model.module, plan).active():
            answers = executor.generate(self.ground.extract, self.wanted.tokens)
            shown = [row.answer.prompt for row in self.ground.judge(answers) if row.label in ("shows", "partly")]
            target = moments(executor, encode(shown if len(shown) >= 4 else self.ground.extract), 1)
            neutral = moments(executor, encode(self.ground.neutral), 1)
        gap = linalg.reject(target.mean - neutral.mean, neutral.mean)
        return linalg.normalize(gap).float()

    def _front(self, stopped: str) -> Front:
        chosen = choose(self.candidates, max_rate=self.wanted.max_rate, max_drift=self.wanted.max_drift)
        front = pareto(self.candidates)
        kept = front if chosen in front else (*front, chosen)
        return Front(kept, chosen.index, tuple(self.rounds), "gradient", stopped)


def _every(items: Sequence[int], count: int) -> list[int]:
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else list(items)


def _along(path: Sequence[Point], best: int) -> set[int]:
    """Steps at which the first term had fallen by a third and by two thirds: weaker edits for the front."""
    start, end = path[0].terms.first, path[best].terms.first
    steps = set()
    for share in (1 / 3, 2 / 3):
        level = start + (end - start) * share
        step = next((i for i in range(best) if path[i].terms.first <= level), None)
        if step:
            steps.add(step)
    return steps
