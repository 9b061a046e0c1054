"""Directions × strengths → EditPlan, and plans put together round by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from excise import linalg
from excise.errors import SettingsError
from excise.results import EditPlan, Norm, Writer, WriterEdit

NEGLIGIBLE = 1e-4
"""A strength below this changes no stored bf16 number: its edit is left out of the plan."""


def make_plan(
    writers: Sequence[Writer],
    units: Mapping[str, Float[Tensor, "k d_model"]],
    strengths: Mapping[str, Float[Tensor, " k"]],
    norm: Norm = "none",
) -> EditPlan:
    """One edit for every writer that has a strength worth storing; units are made orthonormal."""
    edits = tuple(
        WriterEdit(
            writer, linalg.orthonormalize(units[writer.name].float()).cpu(), strengths[writer.name].float().cpu()
        )
        for writer in writers
        if writer.name in strengths and float(strengths[writer.name].abs().max()) > NEGLIGIBLE
    )
    return EditPlan(edits, norm)


def uniform_plan(
    writers: Sequence[Writer], vectors: Float[Tensor, "layer k d_model"], strength: float, norm: Norm = "none"
) -> EditPlan:
    """Every writer's layer direction at one strength. Raises SettingsError where layers or widths do not fit."""
    layers = max(writer.layer for writer in writers) + 1
    if vectors.dim() != 3 or len(vectors) < layers:
        raise SettingsError(f"direction: expected shape [{layers}, k, d_model], found {tuple(vectors.shape)}.")
    return make_plan(
        writers,
        {writer.name: vectors[writer.layer] for writer in writers},
        {writer.name: torch.full((vectors.shape[1],), strength) for writer in writers},
        norm,
    )


def stack(first: EditPlan, second: EditPlan) -> EditPlan:
    """Both plans as one: units of `second` follow those of `first`, made orthogonal to them.

    Exact where the second plan's units were orthogonal to the first's already, as refinement makes them.
    """
    if first.norm != second.norm:
        raise SettingsError(f"plans to stack: expected one norm, found {first.norm!r} and {second.norm!r}.")
    later = {edit.writer.name: edit for edit in second.edits}
    edits = []
    for edit in first.edits:
        other = later.pop(edit.writer.name, None)
        if other is None:
            edits.append(edit)
            continue
        units = linalg.orthonormalize(torch.cat([edit.units, other.units]))
        edits.append(WriterEdit(edit.writer, units, torch.cat([edit.strengths, other.strengths])))
    return EditPlan((*edits, *later.values()), first.norm)


def scaled(plan: EditPlan, factor: float) -> EditPlan:
    """The same plan at `factor` times its strengths."""
    return EditPlan(tuple(WriterEdit(e.writer, e.units, e.strengths * factor) for e in plan.edits), plan.norm)


def random_like(plan: EditPlan, *, seed: int) -> EditPlan:
    """The control: random orthonormal directions in place of the found ones, at the same strengths."""
    generator = torch.Generator().manual_seed(seed)
    edits = tuple(
        WriterEdit(e.writer, linalg.orthonormalize(torch.randn(e.units.shape, generator=generator)), e.strengths)
        for e in plan.edits
    )
    return EditPlan(edits, plan.norm)
