"""Laws of the closed-form edits, on random matrices of random shapes."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from excise import linalg

SHAPES = st.tuples(st.integers(2, 12), st.integers(1, 12), st.integers(1, 3), st.integers(0, 2**31))
STRENGTHS = st.floats(-1.5, 2.0)


def made(shape: tuple[int, int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """(W, U) in float64; k never exceeds the rows of W."""
    rows, columns, k, seed = shape
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    units = torch.randn(min(k, rows - 1), rows, generator=generator, dtype=torch.float64)
    return weight, linalg.orthonormalize(units)


@given(SHAPES)
@settings(deadline=None)
def test_full_ablation_leaves_nothing_along_the_directions(shape: tuple[int, int, int, int]) -> None:
    weight, units = made(shape)
    for norm in ("none", "columns"):
        edited = linalg.edit_matrix(weight, units, torch.ones(len(units), dtype=torch.float64), norm)
        assert (units @ edited).abs().max() <= 1e-9 * weight.norm()


@given(SHAPES, STRENGTHS)
@settings(deadline=None)
def test_ablation_is_linear_in_strength_and_leaves_the_rest(shape: tuple[int, int, int, int], strength: float) -> None:
    weight, units = made(shape)
    strengths = torch.full((len(units),), strength, dtype=torch.float64)
    edited = linalg.ablate(weight, units, strengths)
    assert torch.allclose(units @ edited, (1 - strength) * (units @ weight), atol=1e-9)
    off = torch.eye(len(weight), dtype=torch.float64) - units.T @ units
    assert torch.allclose(off @ edited, off @ weight, atol=1e-9)


@given(SHAPES, STRENGTHS)
@settings(deadline=None)
def test_kept_norms_are_kept(shape: tuple[int, int, int, int], strength: float) -> None:
    weight, units = made(shape)
    strengths = torch.full((len(units),), strength, dtype=torch.float64)
    columns = linalg.edit_matrix(weight, units, strengths, "columns").norm(dim=0)
    usable = linalg.ablate(weight, units, strengths).norm(dim=0) > 2e-3 * weight.norm(dim=0)
    assert torch.allclose(columns[usable], weight.norm(dim=0)[usable], rtol=1e-9)
    rows = linalg.edit_matrix(weight, units[:1], strengths[:1], "rows").norm(dim=1)
    hat = weight / weight.norm(dim=1, keepdim=True)
    left = (hat - strength * torch.outer(units[0], units[0] @ hat)).norm(dim=1) > 2e-3
    assert torch.allclose(rows[left], weight.norm(dim=1)[left], rtol=1e-9)


@given(SHAPES, STRENGTHS)
@settings(deadline=None)
def test_row_form_agrees_with_its_definition(shape: tuple[int, int, int, int], strength: float) -> None:
    """Independent way: renormalise rows, ablate, renormalise again, put the norms back (numpy)."""
    weight, units = made(shape)
    ours = linalg.edit_matrix(weight, units[:1], torch.tensor([strength], dtype=torch.float64), "rows").numpy()
    w, u = weight.numpy(), units[0].numpy()
    norms = np.linalg.norm(w, axis=1, keepdims=True)
    changed = w / norms - strength * np.outer(u, u @ (w / norms))
    length = np.linalg.norm(changed, axis=1, keepdims=True)
    kept = (length > 2e-3)[:, 0]
    assert np.allclose(ours[kept], (changed / np.maximum(length, 1e-300) * norms)[kept], atol=1e-8)


@given(SHAPES)
@settings(deadline=None)
def test_orthonormal_rows_span_the_same_space(shape: tuple[int, int, int, int]) -> None:
    weight, units = made(shape)
    assert torch.allclose(units @ units.T, torch.eye(len(units), dtype=torch.float64), atol=1e-9)
    assert (units * linalg.reject(units, weight[:, 0].expand_as(units))).sum() <= len(units) + 1e-9


def test_reject_is_orthogonal_and_zero_vectors_stay_zero() -> None:
    vectors = torch.randn(5, 7, dtype=torch.float64)
    away = torch.randn(5, 7, dtype=torch.float64)
    assert (linalg.reject(vectors, away) * away).sum(-1).abs().max() < 1e-12
    assert torch.equal(linalg.normalize(torch.zeros(3)), torch.zeros(3))


def test_columns_without_a_factor_are_left_alone() -> None:
    weight = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    unit = torch.tensor([[1.0, 0.0]])
    scale = linalg.column_scale(weight, unit, torch.ones(1))
    assert scale[0] == 1 and scale[1] == 1 and scale[2] > 1


def test_winsorising_clamps_only_outliers() -> None:
    values = torch.cat([torch.linspace(-1, 1, 99), torch.tensor([50.0])])
    clamped = linalg.winsorize(values, 0.98)
    assert clamped.abs().max() < 2 and torch.equal(clamped[5:90], values[5:90])


def test_an_unknown_norm_is_an_error() -> None:
    try:
        linalg.edit_matrix(torch.eye(2), torch.eye(2)[:1], torch.ones(1), "frobenius")
    except ValueError as error:
        assert "frobenius" in str(error)
    else:
        raise AssertionError("no error")
