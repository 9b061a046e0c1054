"""Descent on strengths and directions: an edit's effect is differentiable, nothing has to be guessed (method.md §3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from excise import linalg
from excise.edits import make_plan
from excise.intervene import Steering
from excise.results import EditPlan, Norm, Terms, Writer
from excise.search.objective import Objective, Part

SETTLED = 0.03
"""Three steps that lower the loss by less than this share end a descent."""


@dataclass(frozen=True)
class Prices:
    """Weights of the objective's terms."""

    target: float = 10.0
    """μ, on KL per token over the wanted answers to target prompts."""
    neutral: float = 50.0
    """κ, on KL per token over neutral answers."""
    strength: float = 0.003
    """ρ, on the mean squared strength."""


@dataclass(frozen=True)
class Pace:
    """Steps and step sizes of Adam."""

    steps: int = 14
    """At most; fewer where the loss no longer falls."""
    strengths: float = 0.12
    directions: float = 0.03
    signed: bool = False
    """False keeps strengths ≥ 0: removing never needs to push (method.md §3)."""


@dataclass(frozen=True)
class State:
    """Parameters of several candidates at once."""

    units: Float[Tensor, "candidate writer k d_model"]
    """Not yet orthonormal: `orthonormalize` is part of the computation."""
    strengths: Float[Tensor, "candidate writer k"]

    def one(self, index: int) -> State:
        """The candidate at `index` alone."""
        return State(self.units[index : index + 1], self.strengths[index : index + 1])


@dataclass(frozen=True, eq=False)
class Point:
    """One step of the path of one candidate: the parameters, and what they were worth before the step."""

    units: Float[Tensor, "writer k d_model"]
    strengths: Float[Tensor, "writer k"]
    terms: Terms
    loss: float

    def plan(self, writers: Sequence[Writer], norm: Norm = "none") -> EditPlan:
        """The point as an edit of those writers."""
        units = {writer.name: self.units[i] for i, writer in enumerate(writers)}
        return make_plan(writers, units, {writer.name: self.strengths[i] for i, writer in enumerate(writers)}, norm)


def descend(
    objective: Objective,
    steering: Steering,
    writers: Sequence[Writer],
    state: State,
    prices: Prices,
    pace: Pace,
    chosen: Sequence[int] | None = None,
) -> tuple[list[list[Point]], State]:
    """`pace.steps` steps of Adam from `state`; returns every candidate's path and the last state.

    Gradients are added up micro-batch by micro-batch in a fixed order, so the path does not depend on how many run
    at once.
    """
    copies = len(state.strengths)
    units, strengths = state.units.clone(), state.strengths.clone()
    adam = torch.optim.Adam(
        [{"params": [units], "lr": pace.directions}, {"params": [strengths], "lr": pace.strengths}], betas=(0.8, 0.95)
    )
    paths: list[list[Point]] = [[] for _ in range(copies)]
    for step in range(pace.steps + 1):
        terms, gradients = _gradients(objective, steering, writers, chosen, State(units, strengths), prices)
        for index, (found, loss) in enumerate(terms):
            shown = linalg.orthonormalize(units[index]).clone()
            paths[index].append(Point(shown, strengths[index].clone(), found, loss))
        if step == pace.steps or _settled(paths):
            break
        for group, start in zip(adam.param_groups, (pace.directions, pace.strengths), strict=True):
            group["lr"] = start * 0.5 * (1.1 + math.cos(math.pi * step / max(pace.steps, 1)))
        units.grad, strengths.grad = gradients
        adam.step()
        units = _renormalize(adam, units)
        if not pace.signed:
            strengths.clamp_(min=0)
    return paths, State(units.detach(), strengths.detach())


def _settled(paths: Sequence[Sequence[Point]]) -> bool:
    """Whether every candidate's best loss improved by less than SETTLED over the last three steps."""
    return all(
        len(path) > 4
        and min(point.loss for point in path[-3:]) > (1 - SETTLED) * min(point.loss for point in path[:-3])
        for path in paths
    )


def _renormalize(adam: torch.optim.Adam, units: Tensor) -> Tensor:
    """Unit rows again after a step, in place, so that the optimiser keeps its parameter."""
    units.copy_(linalg.normalize(units))
    return units


def _gradients(
    objective: Objective,
    steering: Steering,
    writers: Sequence[Writer],
    chosen: Sequence[int] | None,
    state: State,
    prices: Prices,
) -> tuple[list[tuple[Terms, float]], tuple[Tensor, Tensor]]:
    """Terms and loss of every candidate, and the gradient of the summed losses."""
    copies = len(state.strengths)
    targets, neutrals = objective.count(chosen)

    def work(part: Part) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            raw, strengths = state.units.clone().requires_grad_(), state.strengths.clone().requires_grad_()
            units = linalg.orthonormalize(raw)
            first, kl = objective.run(
                steering,
                part,
                {writer.name: units[:, i] for i, writer in enumerate(writers)},
                {writer.name: strengths[:, i] for i, writer in enumerate(writers)},
                copies,
            )
            weight = torch.where(part.is_target, prices.target / max(targets, 1), prices.neutral / max(neutrals, 1))
            loss = first.sum() / max(targets, 1) + (weight * kl).sum()
            along_units, along_strengths = torch.autograd.grad(loss, [raw, strengths])
        copy = torch.tensor([position % copies for position in part.batch.index], device=first.device)
        sums = torch.zeros(copies, 3, device=first.device)
        sums.index_add_(0, copy, torch.stack([first, kl * part.is_target, kl * ~part.is_target], 1).detach())
        return sums.cpu(), along_units, along_strengths

    results = objective.executor.run(lambda: objective.parts(chosen, copies), work, lambda part: part.batch.ids.numel())
    sums = sum((result[0] for result in results[1:]), results[0][0])
    units_gradient = sum((result[1] for result in results[1:]), results[0][1])
    strengths_gradient = sum((result[2] for result in results[1:]), results[0][2])
    size = state.strengths[0].numel()
    strengths_gradient = strengths_gradient + 2 * prices.strength * state.strengths / size
    scored = []
    for row, strengths in zip(sums, state.strengths, strict=True):
        found = Terms(
            float(row[0]) / max(targets, 1), float(row[1]) / max(targets, 1), float(row[2]) / max(neutrals, 1)
        )
        loss = found.first + prices.target * found.target + prices.neutral * found.neutral
        scored.append((found, loss + prices.strength * float(strengths.square().mean())))
    return scored, (units_gradient, strengths_gradient)


def start_state(
    starts: Sequence[Float[Tensor, "layer k d_model"]], writers: Sequence[Writer], strength: float
) -> State:
    """One candidate a start: every writer takes its own layer's directions, at one small strength."""
    units = torch.stack([torch.stack([vectors[writer.layer] for writer in writers]) for vectors in starts])
    return State(units.clone(), torch.full(units.shape[:3], strength))


def grown(
    state: State, directions: Float[Tensor, "layer k d_model"], writers: Sequence[Writer], strength: float
) -> State:
    """The state with one more direction for every writer, orthogonal to those it has, for a refinement round."""
    added = torch.stack([directions[writer.layer, :1] for writer in writers])
    units = linalg.orthonormalize(torch.cat([state.units[0], added], dim=1))[None]
    new = torch.full_like(state.strengths[:, :, :1], strength)
    return State(units, torch.cat([state.strengths, new], dim=2))
