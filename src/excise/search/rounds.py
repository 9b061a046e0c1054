"""The gradient search, round by round: warm up several starts, descend from the best, look at real answers, refine.

A round ends with real generation on the select split. Where that still shows the behaviour above the wanted rate,
activations are measured again on the edited model, one more direction is added, and the descent goes on. Where it does
not, a descent in smaller steps takes damage back, and weaker forms of the result complete the front.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from excise import linalg
from excise.activations import moments
from excise.evaluate.behaviour import Judge
from excise.executor import Resident
from excise.intervene import Steering, Substitution
from excise.observer import Observer
from excise.results import Candidate, Directions, EditPlan, Front, Norm, Prompt, Rate, References, Round, Writer
from excise.search.front import choose, damage, pareto, remaining
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


WARM_UP = Pace(steps=3, strengths=0.35)
SAMPLE = 8
"""References of each side on which starts are compared."""
BEGIN = 0.3
"""Strength with which a new direction begins: at 0 its direction would have no gradient."""
IDLE = 0.05
"""Writers of the first layers that are weaker than this after the warm-up are left out, and their layers skipped."""
FADED = (0.85, 0.7, 0.5)
"""Shares of the best edit's strengths that are judged for the front, too: less removed, less damage."""
GENTLER = 0.3
"""Factor on the step sizes of the polishing descent: at full size its first steps undo what was found."""


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

    def run(self) -> Front:
        """Rounds until the wanted rate, the damage budget, the number of rounds or the deadline is reached."""
        with Steering(self.executor.model.module, self.writers) as steering:
            objective = Objective(self.executor, self.ground.references)
            state, name, scores = self._best_start(objective, steering)
            state = self._leave_out_idle(state)
            with objective.edited_from(min(writer.layer for writer in self.writers)):
                stopped, state = self._rounds(objective, steering, state, name, scores)
                if stopped == "rate reached":
                    state = self._polish(objective, steering, state)
                self._fade(objective, steering, state)
        return self._front(stopped)

    def _rounds(
        self,
        objective: Objective,
        steering: Steering,
        state: State,
        name: str,
        scores: dict[str, float],
    ) -> tuple[str, State]:
        """The rounds themselves: (why they ended, the last state)."""
        for number in range(1, self.wanted.rounds + 1):
            began = time.monotonic()
            (found,), _ = descend(objective, steering, self.writers, state, self.prices, self.pace)
            last, state = self._judge_path(number, found, self.prices)
            assert last.select is not None
            seconds = time.monotonic() - began
            self.rounds.append(Round(number, name, scores, len(found) - 1, last.select, last.terms.neutral, seconds))
            self.observer.note(
                f"round {number}, {name}: {last.select.count} of {last.select.total} select prompts left, "
                f"{last.terms.neutral:.2g} nats per token"
            )
            self.observer.progress(number, self.wanted.rounds)
            if last.select.value <= self.wanted.max_rate:
                return "rate reached", state
            if last.terms.neutral > self.wanted.max_drift:
                return "budget", state
            if self._late():
                return "time limit", state
            if number < self.wanted.rounds:
                directions = self._measure_again(last.plan)
                state, name, scores = grown(state, directions, self.writers, BEGIN), "measured on the edited model", {}
        return "rounds", state

    def _late(self) -> bool:
        return self.wanted.deadline is not None and time.monotonic() > self.wanted.deadline

    def _best_start(self, objective: Objective, steering: Steering) -> tuple[State, str, dict[str, float]]:
        """A few steps from every start, as rows of one batch, on a sample; the one with the least loss goes on."""
        state = start_state([start.vectors for start in self.starts], self.writers, BEGIN)
        targets, total = objective.targets, len(objective.references)
        sample = [*_every(range(targets), SAMPLE), *_every(range(targets, total), SAMPLE)]
        paths, state = descend(objective, steering, self.writers, state, self.prices, WARM_UP, sample)
        losses = [path[-1].loss for path in paths]
        best = min(range(len(losses)), key=losses.__getitem__)
        scores = {start.source: loss for start, loss in zip(self.starts, losses, strict=True)}
        return state.one(best), self.starts[best].source, scores

    def _leave_out_idle(self, state: State) -> State:
        """Drop the writers of the first layers as long as none of a layer's is stronger than IDLE."""
        strongest = state.strengths[0].abs().amax(-1)
        used = [writer.layer for writer, value in zip(self.writers, strongest.tolist(), strict=True) if value > IDLE]
        first = min(used, default=0)
        kept = [i for i, writer in enumerate(self.writers) if writer.layer >= first]
        self.writers = tuple(self.writers[i] for i in kept)
        return State(state.units[:, kept], state.strengths[:, kept])

    def _judge_path(self, number: int, path: Sequence[Point], prices: Prices) -> tuple[Candidate, State]:
        """The path's best point, judged by generation: as a candidate, and as the state to go on from."""
        best = min(path, key=lambda point: point.loss)
        return self._judge_point(number, best, prices), State(best.units[None], best.strengths[None])

    def _judge_point(self, number: int, point: Point, prices: Prices) -> Candidate:
        plan = point.plan(self.writers, self.norm)
        left = self._generate(plan)
        candidate = Candidate(len(self.candidates), number, prices.neutral, plan, point.terms, left)
        self.candidates.append(candidate)
        return candidate

    def _fade(self, objective: Objective, steering: Steering, state: State) -> None:
        """Weaker forms of the last edit, for the front."""
        for share in FADED:
            faded = State(state.units, state.strengths * share)
            (path,), _ = descend(objective, steering, self.writers, faded, self.prices, replace(self.pace, steps=0))
            self._judge_point(len(self.rounds), path[0], self.prices)

    def _generate(self, plan: EditPlan) -> Rate:
        with torch.no_grad(), Substitution(self.executor.model.module, plan).active():
            answers = self.executor.generate(self.ground.select, self.wanted.tokens)
        return remaining(self.ground.judge(answers))

    def _polish(self, objective: Objective, steering: Steering, state: State) -> State:
        """One more descent with smaller steps; kept if the behaviour on the select split does not come back."""
        left = self.candidates[-1].select
        if self._late() or left is None:
            return state
        directions, strengths = self.pace.directions * GENTLER, self.pace.strengths * GENTLER
        pace = replace(self.pace, strengths=strengths, directions=directions)
        (path,), _ = descend(objective, steering, self.writers, state, self.prices, pace)
        last, polished = self._judge_path(len(self.rounds), path, self.prices)
        return polished if last.select is not None and last.select.count <= left.count else state

    def _measure_again(self, plan: EditPlan) -> Float[Tensor, "layer 1 d_model"]:
        """Difference of means on the edited model, from the prompts that still show the behaviour."""
        executor, encode = self.executor, self.executor.model.encode
        with torch.no_grad(), Substitution(executor.model.module, plan).active():
            answers = executor.generate(self.ground.extract, self.wanted.tokens)
            shown = [row.answer.prompt for row in self.ground.judge(answers) if row.label != "absent"]
            target = moments(executor, encode(shown if len(shown) >= 4 else self.ground.extract), 1)
            neutral = moments(executor, encode(self.ground.neutral), 1)
        gap = linalg.reject(target.mean - neutral.mean, neutral.mean)
        return linalg.normalize(gap).float()

    def _front(self, stopped: str) -> Front:
        chosen = choose(self.candidates, max_drift=self.wanted.max_drift)
        front = pareto(self.candidates)
        kept = front if chosen in front else tuple(sorted((*front, chosen), key=damage))
        return Front(kept, chosen.index, tuple(self.rounds), "gradient", stopped)


def _every(items: Sequence[int], count: int) -> list[int]:
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else list(items)
