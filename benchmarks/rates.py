"""What this machine can do at best, measured: matrix products and copies of memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from excise.model import Model

FLOAT = 4
"""Bytes of a float32."""


@dataclass(frozen=True)
class Rates:
    """What this machine can do at best."""

    flops: float
    """Multiply-adds count twice, a second; float32, all cores, at the size that runs best: floors go by this."""
    flops_model: float
    """The same for a micro-batch of answers times one matrix of the model's width: what small matrices cost."""
    bytes: float
    """Read and written, a second, in memory."""


def rates(model: Model) -> Rates:
    """Best of several, with all cores."""
    d_model, rows = model.embeddings.embedding_dim, model.facts.micro_batch
    small = _product(rows, d_model, 4 * d_model, 4000)
    memory = torch.rand(2**26)
    target = torch.empty_like(memory)
    return Rates(
        max(small, *(_product(size, size, size, 20) for size in (256, 512, 1024, 1536))),
        small,
        2 * FLOAT * len(memory) / _best(lambda: target.copy_(memory), 12),
    )


def _product(rows: int, inner: int, columns: int, times: int) -> float:
    """FLOPs a second of one size of matrix product."""
    one, other = torch.rand(rows, inner), torch.rand(inner, columns)
    return 2 * rows * inner * columns / _best(lambda: one @ other, times)


def _best(work: Callable[[], object], times: int) -> float:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)
