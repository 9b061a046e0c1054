"""Units, edits and plans by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from excise.linalg import orthonormalize
from excise.results import EditPlan, Layout, Norm, Writer, WriterEdit


def make_units(k: int, d: int, seed: int = 0) -> Tensor:
    """k orthonormal rows."""
    return orthonormalize(torch.randn(k, d, generator=torch.Generator().manual_seed(seed)))


def make_edit(
    tensors: str | tuple[str, ...],
    units: Tensor,
    strengths: list[float],
    layout: Layout = "linear",
    *,
    bias: str | None = None,
    module: str = "module",
    model_layout: Layout | None = None,
) -> WriterEdit:
    """An edit of stored tensors by name."""
    names = (tensors,) if isinstance(tensors, str) else tensors
    writer = Writer(
        names[0], 0, "mlp", module, f"{module}.weight", model_layout or layout, names, layout, bias
    )  # fmt: skip
    return WriterEdit(writer, units, torch.tensor(strengths, dtype=torch.float32))


def make_plan(units: Tensor, strengths: list[float], norm: Norm = "none", layout: Layout = "linear") -> EditPlan:
    """A plan that edits the tensor "w" alone."""
    return EditPlan((make_edit("w", units, strengths, layout),), norm)


def residual_plan(prefix: str, layers: int, d_model: int, strengths: list[float]) -> EditPlan:
    """Attention output and MLP down of every layer of a Llama, each with units of its own."""
    edits = []
    for layer in range(layers):
        for number, part in enumerate(("self_attn.o_proj", "mlp.down_proj")):
            module = f"{prefix}.{layer}.{part}"
            units = make_units(len(strengths), d_model, seed=10 * layer + number)
            edits.append(make_edit(f"{module}.weight", units, strengths, module=module))
    return EditPlan(tuple(edits))
