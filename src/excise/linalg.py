"""Pure tensor functions: no model, no device choice, no I/O, nothing changed in place.

Notation as in docs/method.md: W is a writer in [out, in] layout with out = d_model, U holds k orthonormal
directions as rows, λ their strengths.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

EPS = 1e-12
"""Below this norm a vector is nothing: it is left as it is instead of being divided by itself."""


def normalize(vectors: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """v / ‖v‖ along the last axis; a zero vector stays zero."""
    norm = vectors.norm(dim=-1, keepdim=True)
    return torch.where(norm > EPS, vectors / norm.clamp_min(EPS), torch.zeros_like(vectors))


def reject(vectors: Float[Tensor, "*batch d"], away_from: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """v − (v·â) â: the part of v orthogonal to `away_from`. Projected ablation, grimjim 2025."""
    unit = normalize(away_from)
    return vectors - (vectors * unit).sum(-1, keepdim=True) * unit


def orthonormalize(rows: Float[Tensor, "*batch k d"]) -> Float[Tensor, "*batch k d"]:
    """Gram–Schmidt over the k rows, in order, so that the first keeps its direction. Differentiable."""
    basis: list[Tensor] = []
    for index in range(rows.shape[-2]):
        vector = rows[..., index, :]
        for _ in range(2):
            for done in basis:
                vector = vector - (vector * done).sum(-1, keepdim=True) * done
        basis.append(normalize(vector))
    return torch.stack(basis, dim=-2)


def ablate(
    weight: Float[Tensor, "out in"], units: Float[Tensor, "k out"], strengths: Float[Tensor, " k"]
) -> Float[Tensor, "out in"]:
    """W − Uᵀ Λ (U W). λ = 1 removes the component along each unit. Arditi et al. 2024, eq. 4, for k directions."""
    return weight - (units.T * strengths) @ (units @ weight)


def column_scale(
    weight: Float[Tensor, "out in"], units: Float[Tensor, "k out"], strengths: Float[Tensor, " k"]
) -> Float[Tensor, " in"]:
    """c_j = 1/√(1 − Σ_i (2λ_i − λ_i²) cos²_ij), which gives every ablated column its old norm back (method.md §1).

    A zero column, and one that the ablation empties, has no such factor: it keeps c_j = 1.
    """
    norms = weight.norm(dim=0)
    cosines = torch.where(norms > EPS, (units @ weight) / norms.clamp_min(EPS), torch.zeros_like(norms))
    left = 1 - ((2 * strengths - strengths**2)[:, None] * cosines**2).sum(0)
    usable = left > 1e-6
    return torch.where(usable, left.clamp_min(1e-6).rsqrt(), torch.ones_like(left))


@dataclass(frozen=True)
class RowForm:
    """The parts of the row-normalised edit of one matrix, for one direction v (method.md §1, third row)."""

    out_vector: Float[Tensor, " out"]
    """D v, with D the row norms of W."""
    in_vector: Float[Tensor, " in"]
    """a = Ŵᵀ v, with Ŵ = D⁻¹ W."""
    row_cosine: Float[Tensor, " out"]
    """c = Ŵ a."""
    unit: Float[Tensor, " out"]
    """v itself."""

    def scale(self, strength: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch out"]:
        """s_i = (1 − 2λ v_i c_i + λ² v_i² ‖a‖²)^−½; a row that the edit empties keeps s_i = 1."""
        square = self.in_vector.square().sum()
        left = 1 - 2 * strength * self.unit * self.row_cosine + strength**2 * self.unit**2 * square
        return torch.where(left > 1e-6, left.clamp_min(1e-6).rsqrt(), torch.ones_like(left))


def row_form(weight: Float[Tensor, "out in"], unit: Float[Tensor, " out"]) -> RowForm:
    """The strength-independent parts of the row-normalised edit ("full" in Heretic, there by a rank-3 SVD)."""
    norms = weight.norm(dim=1)
    hat = torch.where(norms[:, None] > EPS, weight / norms.clamp_min(EPS)[:, None], torch.zeros_like(weight))
    in_vector = unit @ hat
    return RowForm(norms * unit, in_vector, hat @ in_vector, unit)


def edit_matrix(
    weight: Float[Tensor, "out in"], units: Float[Tensor, "k out"], strengths: Float[Tensor, " k"], norm: str = "none"
) -> Float[Tensor, "out in"]:
    """The edited matrix in the arithmetic of its arguments (float32 at least).

    norm "none": plain ablation. "columns": every input column keeps its norm, and λ = 1 stays exactly orthogonal.
    "rows": every output row keeps its norm; directions one after the other, part of them stays behind.
    Raises ValueError for another `norm`.
    """
    if norm == "none":
        return ablate(weight, units, strengths)
    if norm == "columns":
        return ablate(weight, units, strengths) * column_scale(weight, units, strengths)
    if norm == "rows":
        for unit, strength in zip(units, strengths, strict=True):
            form = row_form(weight, unit)
            changed = weight - strength * torch.outer(form.out_vector, form.in_vector)
            weight = form.scale(strength.reshape(1))[:, None] * changed
        return weight
    raise ValueError(f"norm: expected none, columns or rows, found {norm!r}")


def winsorize(values: Float[Tensor, "*batch d"], quantile: float) -> Float[Tensor, "*batch d"]:
    """Clamp each vector's entries to ± their own `quantile` of magnitude (outlier channels carry Gemma's means)."""
    limit = values.abs().float().quantile(quantile, dim=-1, keepdim=True).to(values.dtype)
    return values.clamp(-limit, limit)
