"""The decode loop of one batch: greedy or sampled, with a key/value cache that grows in place and drops ended rows.

Token for token what `module.generate(do_sample=False)` gives in float32 (tests/test_executor.py), without what makes
that slow on small models: masks and position ids made anew and the cache copied whole at each step, ended rows that run
on to the end of the longest.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

Stop = Callable[[int, Sequence[int]], bool]
"""(row in the caller's order, its answer tokens so far) → whether to end that row here."""

_CACHES = ("past_key_values", "cache_params", "state")
_LOGITS = ("logits_to_keep", "num_logits_to_keep")
_CHUNK = 64
"""Tokens by which a cache grows; 1 would copy all of it at each step, as transformers does."""
_LOOK = 8
"""Steps between looks at what has ended, on devices where looking waits for the device."""


class Forward:
    """Calls a causal language model with those arguments that its `forward` knows by name."""

    def __init__(self, module: nn.Module) -> None:
        names = inspect.signature(module.forward).parameters
        self._module = module
        self._positions = "position_ids" in names
        self._keep = next((name for name in _LOGITS if name in names), None)
        self._cache = next((name for name in _CACHES if name in names), None)

    def __call__(
        self,
        ids: Int[Tensor, "row token"],
        mask: Int[Tensor, "row seen"],
        positions: Int[Tensor, "row token"],
        *,
        keep: int,
        cache: Any = None,
        use_cache: bool = False,
    ) -> tuple[Float[Tensor, "row keep vocab"], Any]:
        """(logits of the last `keep` positions in the model's dtype, the cache)."""
        options: dict[str, Any] = {"use_cache": use_cache}
        if self._positions:
            options["position_ids"] = positions
        if self._keep is not None:
            options[self._keep] = keep
        if cache is not None and self._cache is not None:
            options[self._cache] = cache
        # State-space models apply the mask to the new token itself: padding is over, so they must not see it.
        seen = mask if cache is None or self._cache == "past_key_values" else None
        output = self._module(input_ids=ids, attention_mask=seen, return_dict=True, **options)
        return output.logits[:, -keep:], getattr(output, self._cache, None) if use_cache and self._cache else None

    @property
    def caches(self) -> bool:
        """Whether this model keeps a cache that can be handed back to it."""
        return self._cache is not None


@dataclass(frozen=True)
class Continuation:
    """What one row went on with."""

    tokens: tuple[int, ...]
    finish: Literal["stop", "length"]


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped to us
    """A full-attention cache layer whose keys and values are views of buffers that grow by chunks."""

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self._hold(layer.keys, layer.values)

    def _hold(self, keys: Tensor, values: Tensor) -> None:
        """Copy into buffers with room for more."""
        room = keys.shape[-2] + _CHUNK
        self._buffers = tuple(part.new_empty((*part.shape[:-2], room, part.shape[-1])) for part in (keys, values))
        self._show(keys.shape[-2])
        self.keys.copy_(keys)
        self.values.copy_(values)

    def _show(self, length: int) -> None:
        self.keys, self.values = (buffer[..., :length, :] for buffer in self._buffers)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append new keys and values [row, head, token, dim]; returns all of them."""
        start = self.keys.shape[-2]
        length = start + key_states.shape[-2]
        if length > self._buffers[0].shape[-2]:
            self._hold(self.keys, self.values)
        if length > self._buffers[0].shape[-2]:  # more new tokens than a chunk holds
            self._hold(torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2))
            return self.keys, self.values
        self._buffers[0][..., start:length, :] = key_states
        self._buffers[1][..., start:length, :] = value_states
        self._show(length)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows, in this order."""
        length = self.keys.shape[-2]
        self._buffers = tuple(buffer.index_select(0, beam_idx.to(buffer.device)) for buffer in self._buffers)
        self._show(length)


def _let_grow(cache: Any) -> None:
    """Exchange the plain layers of a filled cache for growing ones; special ones stay."""
    if type(cache) is DynamicCache:
        for position, layer in enumerate(cache.layers):
            if type(layer) is DynamicLayer and layer.is_initialized and layer.keys.numel():
                cache.layers[position] = GrowingLayer(layer)


def _can_select(cache: Any) -> bool:
    """Whether rows can be taken out of this cache: only where every layer's class is known to allow it."""
    known = (DynamicLayer.__module__, GrowingLayer.__module__)
    return type(cache) is DynamicCache and all(type(layer).__module__ in known for layer in cache.layers)


def decode(
    forward: Forward,
    index: Sequence[int],
    ids: Int[Tensor, "row token"],
    mask: Int[Tensor, "row token"],
    limit: int,
    end_tokens: Int[Tensor, " end"],
    *,
    begun: Sequence[Sequence[int]] | None = None,
    stop: Stop | None = None,
    temperature: float = 0.0,
    uniforms: Float[Tensor, "row step"] | None = None,
) -> list[Continuation]:
    """Up to `limit` new tokens for each left-padded row.

    Args:
        index: the rows' places in the caller's order, for `stop`.
        begun: answer tokens that the rows end with already, shown to `stop` first.
        uniforms: numbers in [0, 1) that choose the tokens where temperature > 0.
    """
    rows, width = ids.shape
    made = torch.full((rows, limit), -1, dtype=torch.long, device=ids.device)
    state = _State(
        forward,
        torch.cat([mask, mask.new_ones(rows, limit)], 1),
        mask.sum(1, keepdim=True),
        torch.arange(rows, device=ids.device),
        torch.zeros(rows, dtype=torch.bool, device=ids.device),
    )
    histories = [list(begun[row]) if begun else [] for row in range(rows)]
    stopped: set[int] = set()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits, state.cache = forward(ids, mask, positions, keep=1, use_cache=forward.caches)
    _let_grow(state.cache)
    look = 1 if stop is not None or ids.device.type == "cpu" else _LOOK
    for step in range(limit):
        chosen = _choose(logits[:, -1], temperature, None if uniforms is None else uniforms[state.alive, step])
        made[state.alive, step] = chosen.masked_fill(state.ended, -1)
        state.ended |= (chosen[:, None] == end_tokens).any(1)
        if stop is not None:
            stopped |= _ask(stop, index, histories, chosen, state)
        if step + 1 == limit or (step % look == look - 1 and not state.go_on()):
            break
        logits = state.step(made, ids, width + step + 1)
    ends = set(end_tokens.tolist())
    found = [tuple(token for token in row if token >= 0) for row in made.tolist()]
    return [
        Continuation(tokens, "stop" if row in stopped or (tokens and tokens[-1] in ends) else "length")
        for row, tokens in enumerate(found)
    ]


@dataclass
class _State:
    """The rows that still run; every tensor but `mask` has one entry for each of them."""

    forward: Forward
    mask: Int[Tensor, "row seen"]
    lengths: Int[Tensor, "row 1"]
    alive: Int[Tensor, " row"]
    """Their places in the batch."""
    ended: Tensor
    cache: Any = None

    def go_on(self) -> bool:
        """Drop ended rows, once they are a quarter of all (each drop copies the cache); False: none is left."""
        count, ended = len(self.alive), int(self.ended.sum())
        if ended == count:
            return False
        if ended * 4 >= count and ended and (self.cache is None or _can_select(self.cache)):
            keep = (~self.ended).nonzero()[:, 0]
            self.mask, self.lengths, self.alive, self.ended = (
                part[keep] for part in (self.mask, self.lengths, self.alive, self.ended)
            )
            if self.cache is not None:
                self.cache.reorder_cache(keep)
        return True

    def step(self, made: Int[Tensor, "row limit"], ids: Int[Tensor, "row token"], seen: int) -> Tensor:
        """Logits after the tokens that were chosen last."""
        done = seen - ids.shape[1]
        mask = self.mask[:, :seen]
        if self.cache is None:
            whole = torch.cat([ids[self.alive], made[self.alive, :done].clamp(min=0)], 1)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            return self.forward(whole, mask, positions, keep=1)[0]
        last = made[self.alive, done - 1 : done].clamp(min=0)  # ended rows run on with token 0; nobody reads them
        logits, self.cache = self.forward(
            last, mask, self.lengths + (done - 1), keep=1, cache=self.cache, use_cache=True
        )
        return logits


def _choose(logits: Float[Tensor, "row vocab"], temperature: float, uniform: Tensor | None) -> Int[Tensor, " row"]:
    """The likeliest token, or, with a temperature, where the cumulative distribution passes `uniform`."""
    if temperature <= 0 or uniform is None:
        return logits.argmax(-1)
    steps = torch.softmax(logits.double() / temperature, -1).cumsum(-1)
    below = uniform[:, None].double() * steps[:, -1:]
    return torch.searchsorted(steps, below, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def _ask(stop: Stop, index: Sequence[int], histories: list[list[int]], chosen: Tensor, state: _State) -> set[int]:
    """Show every row that runs to `stop`; marks those that are to end, and returns their places in the batch."""
    stopped = set()
    ended = state.ended.tolist()
    for position, (row, token) in enumerate(zip(state.alive.tolist(), chosen.tolist(), strict=True)):
        if ended[position] and row in stopped:
            continue
        histories[row].append(token)
        if not ended[position] and stop(index[row], histories[row]):
            stopped.add(row)
            ended[position] = True
    state.ended = torch.tensor(ended, device=state.ended.device)
    return stopped
