"""One stored tensor under one edit: storage dtype → float32 → edited → storage dtype, proved on what was stored.

The arithmetic runs over blocks of columns of a fixed shape, which norm "none" and "columns" allow: the bits depend
neither on memory nor on what else is running.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from excise.checkpoint.header import Entry
from excise.checkpoint.index import Index
from excise.errors import CheckpointError
from excise.linalg import EPS, column_scale, edit_matrix
from excise.results import EditPlan, Layout, Norm, WriterEdit

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
ROUNDING = {"F64": 2.0**-53, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
"""Largest relative error of storing a number."""
SUBNORMAL = {"F64": 0.0, "F32": 0.0, "F16": 2.0**-25, "BF16": 0.0}
"""Largest absolute error of storing a tiny number."""
ARITHMETIC = 2.0**-16
"""Room for float32 sums over up to 65,536 rows, relative to the weights before the edit."""
BLOCK = 1 << 20
"""Elements of a column block."""

_OUT_AXIS: dict[Layout | Literal["bias"], tuple[tuple[int, ...], int]] = {
    "linear": ((2,), 0), "conv1d": ((2,), 1), "experts_out_in": ((3,), 1), "experts_in_out": ((3,), 2),
    "bias": ((1, 2), -1),
}  # fmt: skip
"""Layout → (numbers of axes it may have, which of them is d_model)."""


@dataclass(frozen=True)
class TensorEdit:
    """What to do to one stored tensor."""

    entry: Entry
    layout: Layout | Literal["bias"]
    units: Tensor
    """float32, k × d_model."""
    strengths: Tensor
    """float32, k."""
    norm: Norm
    slack: float
    """How far the units are from orthonormal."""

    @property
    def pieces(self) -> int:
        """Matrices that are read, edited and written one after the other: experts, or one."""
        return self.entry.shape[0] if len(self.entry.shape) == 3 else 1


def find_tensor_edits(index: Index, plan: EditPlan) -> dict[str, TensorEdit]:
    """Every stored tensor that the plan changes, by name; edits whose strengths are all 0 change nothing.

    Raises CheckpointError, before anything is written, for tensors that are missing, named twice, or of a dtype or
    shape that cannot be edited, and for units that are not orthonormal.
    """
    found: dict[str, TensorEdit] = {}
    seen: set[str] = set()
    if plan.norm not in ("none", "columns", "rows"):
        raise CheckpointError(f"plan: expected norm none, columns or rows, found {plan.norm!r}.")
    for edit in plan.edits:
        slack = check_edit(edit)
        units, strengths = edit.units.detach().float().cpu(), edit.strengths.detach().float().cpu()
        for name, layout in _named(edit):
            if name in seen:
                raise CheckpointError(f"{name}: expected one edit, found another by {edit.writer.name}. Merge them.")
            seen.add(name)
            entry = index.find(name)[1]
            _check_entry(entry, layout, units.shape[1])
            if strengths.any() and entry.nbytes:
                norm: Norm = "none" if layout == "bias" else plan.norm
                found[name] = TensorEdit(entry, layout, units, strengths, norm, slack)
    return found


def _named(edit: WriterEdit) -> Iterator[tuple[str, Layout | Literal["bias"]]]:
    for name in edit.writer.tensors:
        yield name, edit.writer.stored_layout
    if edit.writer.bias is not None:
        yield edit.writer.bias, "bias"


def check_edit(edit: WriterEdit) -> float:
    """The largest entry of |U Uᵀ − I|, zero rows aside; raises CheckpointError where it is not small."""
    units, strengths = edit.units.detach().double().cpu(), edit.strengths.detach().double().cpu()
    where = f"edit of {edit.writer.name}"
    if units.ndim != 2 or strengths.shape != units.shape[:1]:
        raise CheckpointError(
            f"{where}: expected k × d_model units and k strengths, found {list(units.shape)} and "
            f"{list(strengths.shape)}. The plan is damaged: search again."
        )
    if not (units.isfinite().all() and strengths.isfinite().all()):
        raise CheckpointError(f"{where}: expected finite units and strengths, found NaN or infinity. Search again.")
    gram = units @ units.T
    off = float((gram - torch.diag((units.norm(dim=1) > EPS).double())).abs().max()) if len(gram) else 0.0
    if off > 1e-3:
        raise CheckpointError(f"{where}: expected orthonormal units, found U Uᵀ off by {off:.2g}. Orthonormalize them.")
    return off


def _check_entry(entry: Entry, layout: Layout | Literal["bias"], d_model: int) -> None:
    if entry.dtype not in DTYPES:
        raise CheckpointError(
            f"{entry.name}: expected {', '.join(DTYPES)}, found {entry.dtype}, which cannot be edited. Dequantize the "
            "checkpoint to BF16 first, or take the unquantized one."
        )
    if layout not in _OUT_AXIS:
        raise CheckpointError(f"{entry.name}: expected layout {', '.join(map(str, _OUT_AXIS))}, found {layout!r}.")
    axes, out = _OUT_AXIS[layout]
    if len(entry.shape) not in axes or entry.shape[out] != d_model:
        raise CheckpointError(
            f"{entry.name}: expected {layout} with d_model {d_model} on axis {out}, found shape {list(entry.shape)}. "
            "The edit belongs to another model, or the layout is wrong: name it in overrides."
        )


def edit_piece(raw: bytearray, edit: TensorEdit) -> float | None:
    """Edit the stored bytes of one piece in place; the residual of what was stored, or None where none is defined.

    The residual is max_i ‖u_iᵀW' − (wanted u_iᵀW')‖ / ‖W'‖: norm "none" wants (1 − λ_i) u_iᵀW; "columns" with every
    λ = 1 wants 0. Raises CheckpointError for NaN, infinity, or a residual above the dtype's rounding.
    """
    entry = edit.entry
    stored = torch.frombuffer(raw, dtype=DTYPES[entry.dtype])
    if edit.layout == "bias":
        matrix = stored.reshape(-1, edit.units.shape[1]).T
    else:
        matrix = stored.reshape(entry.shape[-2:])
        matrix = matrix.T if edit.layout in ("conv1d", "experts_in_out") else matrix
    proof = _Proof(edit)
    for block in _blocks(matrix, edit.norm):
        before = block.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        _check_finite(before, entry, "before the edit", "The checkpoint is damaged: download it again.")
        block.copy_(edit_matrix(before, edit.units, edit.strengths, edit.norm))
        after = block.float().contiguous()
        _check_finite(after, entry, f"after the edit, in {entry.dtype}", "The strengths are too large for this dtype.")
        proof.add(before, after)
    return proof.residual(matrix.numel())


def _blocks(matrix: Tensor, norm: Norm) -> list[Tensor]:
    """Views of fixed width; the row norms of "rows" need the whole matrix at once."""
    if norm == "rows":
        return [matrix]
    width = max(1, BLOCK // matrix.shape[0])
    return [matrix[:, start : start + width] for start in range(0, matrix.shape[1], width)]


def _check_finite(values: Tensor, entry: Entry, when: str, remedy: str) -> None:
    if not math.isfinite(_norm(values)):
        raise CheckpointError(f"{entry.name}: expected finite numbers {when}, found NaN or infinity. {remedy}")


def _norm(values: Tensor) -> float:
    """Frobenius norm: finite exactly when every value is. The quick float32 sum serves unless out of range."""
    flat = values.reshape(-1)
    square = float(flat @ flat)
    return math.sqrt(square) if 1e-20 < square < 1e30 else float(torch.linalg.vector_norm(flat, dtype=torch.float64))


class _Proof:
    """Sums up, block by block, what is left along the units."""

    def __init__(self, edit: TensorEdit) -> None:
        self.edit = edit
        self.possible = edit.norm == "none" or (edit.norm == "columns" and bool((edit.strengths == 1).all()))
        self.left = torch.zeros(len(edit.units), dtype=torch.float64)
        self.before = self.after = 0.0

    def add(self, before: Tensor, after: Tensor) -> None:
        """One block in float32, as it was and as it is stored."""
        if self.possible:
            wanted = (1 - self.edit.strengths)[:, None] * (self.edit.units @ before)
            self.left += (self.edit.units @ after - wanted).double().square().sum(1)
            grown = column_scale(before, self.edit.units, self.edit.strengths) if self.edit.norm == "columns" else 1.0
            self.before += _norm(before * grown) ** 2
            self.after += _norm(after) ** 2

    def residual(self, numbers: int) -> float | None:
        """max_i ‖…‖ / ‖W'‖; raises CheckpointError where rounding cannot explain it."""
        if not self.possible:
            return None
        dtype, name = self.edit.entry.dtype, self.edit.entry.name
        left, before, after = math.sqrt(float(self.left.max())), math.sqrt(self.before), math.sqrt(self.after)
        allowed = ROUNDING[dtype] * after + SUBNORMAL[dtype] * math.sqrt(numbers)
        allowed += (ARITHMETIC + self.edit.slack) * before
        if left > allowed:
            raise CheckpointError(
                f"{name}: expected at most {allowed:.3g} along the removed direction (rounding to {dtype}), found "
                f"{left:.3g}. The edit did not come out exact: please report this."
            )
        # Three digits: the last bits of a sum depend on how many threads took part.
        return float(f"{left / after:.3g}") if after > 0 else 0.0
