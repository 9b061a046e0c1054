"""Directions and measurements on states whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from excise.activations import measure, moments, separation
from excise.architecture import decoder_blocks
from excise.directions import difference_of_means, starts, top_k
from excise.errors import PromptError
from excise.executor import Resident
from excise.model import load
from excise.results import ActivationStats, Moments, Prompt, Separation


@pytest.fixture
def executor(tiny_model: Callable[..., Path]) -> Resident:
    model = load(tiny_model(layers=3))
    return Resident(model, [block for _, block in decoder_blocks(model.module)])


def rows(executor: Resident, words: str) -> list[list[int]]:
    return executor.model.encode([Prompt(f"{words} {i} {'oar ' * (i % 5)}") for i in range(70)])


def test_streaming_moments_agree_with_numpy(executor: Resident) -> None:
    tokens = rows(executor, "Where is the harbour")
    found = moments(executor, tokens, 3, covariance=True)
    states = torch.empty(3, len(tokens), 3, 32)
    for index, part in executor.states(tokens, 3):
        states[:, list(index)] = part
    every = states.double().numpy()
    assert found.count == len(tokens)
    assert np.allclose(found.mean.numpy(), every.mean(axis=1), atol=1e-10)
    assert found.covariance is not None
    for layer, position in ((0, 0), (2, 1)):
        assert np.allclose(found.covariance[layer, position].numpy(), np.cov(every[layer, :, position].T), atol=1e-8)


def test_sides_that_do_not_differ_are_an_error(executor: Resident) -> None:
    tokens = rows(executor, "Where is it")
    with pytest.raises(PromptError, match="expected target and neutral prompts to differ"):
        measure(executor, tokens, tokens, 1)
    with pytest.raises(PromptError, match="found none"):
        moments(executor, [], 1)


def test_unseen_prompts_separate(executor: Resident) -> None:
    target, neutral = rows(executor, "Name three things:"), rows(executor, "Why? a market")
    stats = measure(executor, target[:40], neutral[:40], 2)
    vectors = difference_of_means(stats)[:, :, 0]
    found = separation(executor, target[40:], neutral[40:], vectors, stats)
    assert found.auroc.shape == (3, 2) and float(found.auroc.max()) > 0.95
    chosen = starts(difference_of_means(stats), found, "difference-of-means", count=2)
    assert len(chosen) == 3 and chosen[0].separation == pytest.approx(float(found.auroc[:2].max()))
    assert chosen[0].vectors.shape == (3, 1, 32)


def made_stats(seed: int = 0) -> tuple[ActivationStats, torch.Tensor]:
    """Targets spread along a second known direction; returns it too."""
    generator = torch.Generator().manual_seed(seed)
    d = 12
    neutral_mean = torch.randn(1, 1, d, generator=generator, dtype=torch.float64)
    shift, second = torch.eye(d, dtype=torch.float64)[3] * 4, torch.eye(d, dtype=torch.float64)[7]
    eye = torch.eye(d, dtype=torch.float64)[None, None]
    target = Moments(100, neutral_mean + shift, eye + 5 * torch.outer(second, second))
    return ActivationStats(target, Moments(100, neutral_mean, eye)), second


def test_difference_of_means_is_orthogonal_to_the_neutral_mean() -> None:
    stats, _ = made_stats()
    direction = difference_of_means(stats)
    assert float((direction[0, 0, 0] * stats.neutral.mean[0, 0]).sum().abs()) < 1e-12
    assert float(direction.norm(dim=-1).sub(1).abs().max()) < 1e-12
    with pytest.raises(ValueError, match="top-k"):
        difference_of_means(stats, 2)


def test_top_k_adds_the_direction_of_excess_spread() -> None:
    stats, second = made_stats()
    found = top_k(stats, 2)[0, 0]
    assert torch.allclose(found @ found.T, torch.eye(2, dtype=torch.float64), atol=1e-9)
    assert float((found[1] @ second).abs()) > 0.9
    with pytest.raises(ValueError, match="covariances"):
        top_k(ActivationStats(Moments(1, stats.target.mean), Moments(1, stats.neutral.mean)), 2)


def test_late_layers_are_no_starts() -> None:
    area = torch.tensor([[0.6], [0.7], [0.8], [0.9], [1.0]])
    vectors = torch.nn.functional.normalize(torch.randn(5, 1, 1, 8), dim=-1)
    found = starts(vectors, Separation(area, area, area), "difference-of-means", count=3)
    assert [start.source for start in found[:3]] == [f"layer {i}, position 0" for i in (3, 2, 1)]
    assert torch.equal(found[-1].vectors[4], vectors[4, 0])
