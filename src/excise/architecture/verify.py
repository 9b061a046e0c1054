"""The proof that all writers were found: with every writer ablated, no block adds anything along the direction."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from excise import linalg
from excise.architecture.blocks import inside
from excise.errors import ArchitectureError
from excise.intervene import Steering
from excise.results import WriterMap

TOLERANCE = 1e-3
"""Largest |uᵀΔh| / ‖Δh‖ that float32 rounding explains; without an edit it is about 1/√d."""
TOKENS = 24


def verify(module: nn.Module, writers: WriterMap, *, seed: int = 0) -> float:
    """Largest |uᵀΔh| / ‖Δh‖ over blocks and positions, all writers ablated along a random u (method.md §1, the law).

    Raises ArchitectureError naming the block where more than TOLERANCE is left, which means that something else
    writes to the residual stream there, or that the branch is normalised after its writer.
    """
    generator = torch.Generator().manual_seed(seed)
    unit = linalg.normalize(torch.randn(writers.d_model, generator=generator))
    vocabulary = int(module.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    ids = torch.randint(0, vocabulary, (2, TOKENS), generator=generator)
    device = next(module.parameters()).device
    with torch.no_grad(), Steering(module, writers.writers) as steering:
        ones = {writer.name: torch.ones(1, 1, device=device) for writer in writers.writers}
        units = {writer.name: unit.reshape(1, 1, -1).to(device) for writer in writers.writers}
        with steering.using(units, ones, rows=len(ids)):
            left = _left_along(module, writers, ids.to(device), unit.to(device))
    for path, value in zip(writers.blocks, left, strict=True):
        if not value <= TOLERANCE:
            named = [writer.module for writer in writers.writers if inside(writer.module, path)]
            raise ArchitectureError(
                f"{path}: expected nothing along a removed direction (at most {TOLERANCE:g} of what the block adds), "
                f"found {value:.2g} with {named} edited. Another matrix writes there, or the branch is normalised "
                "afterwards. This architecture is not supported yet; please report it with its config.json."
            )
    return max(left)


def _left_along(module: nn.Module, writers: WriterMap, ids: Tensor, unit: Float[Tensor, " d_model"]) -> list[float]:
    """max over positions of |uᵀ(h_out − h_in)| / ‖h_out − h_in‖ for every block, in float32.

    A block in half precision runs again as a float32 copy of itself, one block at a time, on the same inputs.
    """
    left: list[float] = []

    def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if next(block.parameters()).dtype not in (torch.float32, torch.float64):
            copy = deepcopy(block)
            copy._forward_hooks.clear()
            copy._forward_hooks_with_kwargs.clear()
            args, kwargs = _float32(args), _float32(kwargs)
            output = copy.float()(*args, **kwargs)
        before = args[0] if args else kwargs["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        added = (after.float() - before.float()).reshape(-1, writers.d_model)
        along = (added @ unit.to(added.device)).abs()
        left.append(float((along / added.norm(dim=-1).clamp_min(linalg.EPS)).max()))

    handles = [module.get_submodule(path).register_forward_hook(hook, with_kwargs=True) for path in writers.blocks]
    try:
        module(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return left


def _float32(value: Any) -> Any:
    """The same arguments with every half-precision tensor in float32."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(_float32(part) for part in value)
    return {key: _float32(part) for key, part in value.items()} if isinstance(value, dict) else value
