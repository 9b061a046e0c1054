"""Runs rows through a model that is wholly in memory: micro-batches, several at once, in an order that never changes.

Numbers depend on the micro-batch and on the threads of each (both recorded in the model's facts), and on nothing else:
how many micro-batches run at once is decided by measured memory, and changes no number.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from excise.errors import ArchitectureError, PromptError, SpaceError
from excise.generation import Continuation, Forward, Stop, decode
from excise.lanes import Lanes, NoRoomError
from excise.model import Model
from excise.results import Answer, Prompt

J = TypeVar("J")
T = TypeVar("T")
_SMALL = 50_000_000
"""Below so many parameters, memory is not worth measuring: it would cost more time than it could save."""
_PADDING_ERROR = 0.02
"""Relative change of the logits by padding that is still taken for rounding; half precision gives up to 0.01."""


@dataclass(frozen=True)
class Batch:
    """Rows that run in one forward pass, padded on the left."""

    index: tuple[int, ...]
    """Their places in the caller's order."""
    ids: Int[Tensor, "row token"]
    mask: Int[Tensor, "row token"]
    """1 for a token, 0 for padding."""

    @property
    def position_ids(self) -> Int[Tensor, "row token"]:
        """0 for each row's first token; 0 in the padding, too."""
        return (self.mask.cumsum(1) - 1).clamp(min=0)


class Resident:
    """The executor for a model that fits the memory.

    Args:
        blocks: the decoder blocks in order, as architecture/ finds them; only `states` needs them.
    """

    def __init__(self, model: Model, blocks: Sequence[nn.Module] | None = None) -> None:
        facts = model.facts
        self.model = model
        self.blocks = None if blocks is None else tuple(blocks)
        self.micro_batch = facts.micro_batch
        self.notes: list[str] = []
        """What a reader of the numbers must know: micro-batches made smaller, padding that a model cannot take."""
        self._lanes = Lanes(
            model.device,
            1 if _keeps_state(model.module) else facts.at_once,
            facts.threads,
            measure=facts.parameters > _SMALL,
        )
        self._forward = Forward(model.module)
        self._pads: bool | None = None

    @property
    def at_once(self) -> int:
        """Micro-batches in flight at most; made smaller where memory ran out."""
        return self._lanes.at_once

    # ------------------------------------------------------------ rows to results
    def batches(self, rows: Sequence[Sequence[int]]) -> list[Batch]:
        """Cut rows into micro-batches, longest first (what does not fit shows at once), ties in the caller's order.

        Raises PromptError for a row without tokens.
        """
        for position, row in enumerate(rows):
            if not row:
                raise PromptError(f"row {position}: expected at least one token, found none.")
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        cuts: list[list[int]] = []
        pads = len({len(row) for row in rows}) <= 1 or self._takes_padding()
        for i in order:
            fits = cuts and len(cuts[-1]) < self.micro_batch
            if fits and (pads or len(rows[cuts[-1][0]]) == len(rows[i])):
                cuts[-1].append(i)
            else:
                cuts.append([i])
        return [self._batch(rows, cut) for cut in cuts]

    def map(self, rows: Sequence[Sequence[int]], work: Callable[[Batch], T]) -> list[T]:
        """`work` on every micro-batch of `rows`, in the order of `batches`.

        It runs in other threads, with the caller's grad mode and context variables (not its threading.local values).
        Out of memory: fewer at once, then smaller micro-batches (numbers may change in the last bits: see `notes`).
        Raises SpaceError where a single row does not fit.
        """
        while True:
            try:
                return [result for _, result in self._flow(self.batches(rows), work)]
            except NoRoomError as error:
                self._halve(error)

    def run(self, build: Callable[[], Sequence[J]], work: Callable[[J], T], size: Callable[[J], int]) -> list[T]:
        """`work` on items made from micro-batches, in order; `build` is called again where memory made those smaller.

        Raises SpaceError as `map` does.
        """
        while True:
            items = build()
            kind = getattr(work, "__qualname__", repr(type(work))), torch.is_grad_enabled()
            try:
                return [result for _, result in self._lanes.run(items, work, [size(item) for item in items], kind)]
            except NoRoomError as error:
                self._halve(error)

    def forward(self, batch: Batch, keep: int) -> Float[Tensor, "row keep vocab"]:
        """float32 logits of the last `keep` positions."""
        logits, _ = self._forward(batch.ids, batch.mask, batch.position_ids, keep=keep)
        return logits.float()

    def states(
        self, rows: Sequence[Sequence[int]], positions: int
    ) -> Iterator[tuple[tuple[int, ...], Float[Tensor, "layer row position d_model"]]]:
        """The residual stream after each block (before the final norm), float32, position 0 the last token.

        One (index, states) for each micro-batch, as it comes.

        Raises:
            PromptError: a row shorter than `positions`.
            ArchitectureError: no blocks were given, or one's output is no [row, token, d_model] tensor.
        """
        if not self.blocks:
            raise ArchitectureError("states: expected the model's decoder blocks, found none. Pass blocks to Resident.")
        shortest = min((len(row) for row in rows), default=positions)
        if shortest < positions:
            raise PromptError(f"states: expected rows of at least {positions} tokens, found {shortest}. Ask for fewer.")
        seen = threading.local()

        def work(batch: Batch) -> Tensor:
            seen.states = []
            with torch.no_grad():
                self._forward(batch.ids, batch.mask, batch.position_ids, keep=1)
            states, seen.states = seen.states, None
            return torch.stack([state.to(batch.ids.device) for state in states])

        with ExitStack() as undo:
            for block in self.blocks:
                undo.callback(block.register_forward_hook(_reader(seen, positions)).remove)
            left = list(range(len(rows)))
            while left:
                done: set[int] = set()
                try:
                    for batch, states in self._flow(self.batches([rows[i] for i in left]), work):
                        index = tuple(left[i] for i in batch.index)
                        done.update(index)
                        yield index, states
                except NoRoomError as error:
                    self._halve(error)
                left = [i for i in left if i not in done]

    def generate(
        self,
        prompts: Sequence[Prompt],
        limit: int,
        *,
        prefix: str = "",
        stop: Stop | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Answer]:
        """Answers of at most `limit` new tokens, in the order of `prompts`; greedy unless a temperature is given.

        Args:
            prefix: the beginning of every answer; part of its text and tokens, not of the limit.
            stop: (position in `prompts`, answer tokens so far, prefix included) → end that answer here, as "stop".
            seed: with the position in `prompts` it fixes what is sampled, whatever runs beside it.
        """
        if not prompts:
            return []
        bare = self.model.encode(prompts)
        rows = self.model.encode(prompts, prefix) if prefix else bare
        begun = [row[len(start) :] for start, row in zip(bare, rows, strict=True)]
        ends = torch.tensor(sorted(self.model.end_tokens), dtype=torch.long, device=self.model.device)

        def work(batch: Batch) -> list[tuple[int, Continuation]]:
            chosen = [begun[i] for i in batch.index]
            uniforms = _uniforms(batch.index, limit, seed).to(ends.device) if temperature > 0 else None
            with torch.no_grad():
                found = decode(
                    self._forward, batch.index, batch.ids, batch.mask, limit, ends,
                    begun=chosen, stop=stop, temperature=temperature, uniforms=uniforms,
                )  # fmt: skip
            return list(zip(batch.index, found, strict=True))

        found = dict(pair for part in self.map(rows, work) for pair in part)
        return [self._answer(prompt, begun[i], found[i]) for i, prompt in enumerate(prompts)]

    # ------------------------------------------------------------ inside
    def _flow(self, batches: list[Batch], work: Callable[[Batch], T]) -> Iterator[tuple[Batch, T]]:
        kind = getattr(work, "__qualname__", repr(type(work))), torch.is_grad_enabled()
        return self._lanes.run(batches, work, [batch.ids.numel() for batch in batches], kind)

    def _batch(self, rows: Sequence[Sequence[int]], cut: list[int]) -> Batch:
        width = len(rows[cut[0]])
        ids = torch.zeros(len(cut), width, dtype=torch.long)
        mask = torch.zeros(len(cut), width, dtype=torch.long)
        for place, i in enumerate(cut):
            ids[place, width - len(rows[i]) :] = torch.tensor(rows[i])
            mask[place, width - len(rows[i]) :] = 1
        device = self.model.device
        return Batch(tuple(cut), ids.to(device), mask.to(device))

    def _takes_padding(self) -> bool:
        """Whether this model gives a row the same logits with padding before it (RWKV, for one, does not)."""
        if self._pads is None:
            row = self.model.encode([Prompt("How are you?")])[0][-16:]
            alone = self._batch([row], [0])
            padding = alone.ids.new_zeros(1, 8)
            padded = Batch((0,), torch.cat([padding, alone.ids], 1), torch.cat([padding, alone.mask], 1))
            with torch.no_grad():
                one, other = self.forward(alone, 1), self.forward(padded, 1)
            change = float((one - other).norm() / (one - one.mean()).norm().clamp(min=1e-12))
            self._pads = change <= _PADDING_ERROR
            if not self._pads:
                self.notes.append(
                    f"padding changes the logits (by {change:.2g}): only rows of equal length share a batch"
                )
        return self._pads

    def _halve(self, error: NoRoomError) -> None:
        facts = self.model.facts
        if self.micro_batch == 1:
            raise SpaceError(
                f"{facts.source}: {facts.device} is out of memory with one row at a time ({error}). Use shorter "
                "prompts or fewer tokens, a narrower dtype, or a device with more memory."
            ) from error
        self.shrink(self.micro_batch // 2)

    def shrink(self, micro_batch: int) -> None:
        """Run smaller micro-batches from now on, recorded in the model's facts and in `notes`."""
        self.micro_batch = micro_batch
        self.model.facts = replace(self.model.facts, micro_batch=micro_batch)
        self.notes.append(f"out of memory: micro-batch halved to {micro_batch}")

    def _answer(self, prompt: Prompt, begun: list[int], found: Continuation) -> Answer:
        tokens = (*begun, *found.tokens)
        text, reasoning = self.model.decode(tokens)
        return Answer(prompt, text, tokens, found.finish, reasoning)


def _reader(seen: threading.local, positions: int) -> Callable[[nn.Module, Any, Any], None]:
    """A forward hook that keeps the last tokens' states of the pass that runs in its own thread."""

    def hook(block: nn.Module, args: Any, output: Any) -> None:
        if (states := getattr(seen, "states", None)) is None:
            return  # another pass, between two batches of ours
        stream = output[0] if isinstance(output, tuple) else output
        if not isinstance(stream, Tensor) or stream.ndim != 3:
            found = list(stream.shape) if isinstance(stream, Tensor) else type(stream).__name__
            raise ArchitectureError(
                f"{type(block).__name__}: expected a block that returns [row, token, d_model], found {found}. Name the "
                "blocks whose output is the residual stream."
            )
        states.append(stream.detach()[:, -positions:].flip(1).float())  # flip copies: the whole stream can be freed

    return hook


def _keeps_state(module: nn.Module) -> bool:
    """Whether forward passes write to the module itself, so that two at once would disturb each other.

    Rotary embeddings of these types exchange their frequencies by the length of what they see.
    """
    kinds = {str(kind) for part in module.modules() for kind in _rope_types(part)}
    return bool(kinds & {"dynamic", "longrope"})


def _rope_types(part: nn.Module) -> list[Any]:
    kind = getattr(part, "rope_type", None)
    return list(kind.values()) if isinstance(kind, dict) else [kind]


def _uniforms(index: Sequence[int], limit: int, seed: int) -> Float[Tensor, "row step"]:
    """Random numbers in [0, 1) that depend on the seed and on a row's place only."""
    rows = []
    for place in index:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + place)
        rows.append(torch.rand(limit, generator=generator, dtype=torch.float64))
    return torch.stack(rows)
