"""States below the first edited layer never change: computed once, and those layers are skipped after that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


class Below:
    """Skips the blocks below `first`: they hand their input on, and block `first` is given the states kept for a key.

    Only for blocks that return one tensor (`possible`); elsewhere nothing is skipped. Each micro-batch says for itself
    whose states it wants, so several micro-batches may run at once.
    """

    def __init__(self, blocks: Sequence[nn.Module], first: int) -> None:
        self.first = first
        self._blocks = tuple(blocks)
        self._kept: dict[object, Float[Tensor, "row token d_model"]] = {}
        self._now: ContextVar[object] = ContextVar("part", default=None)
        self._tuples = False

    @property
    def possible(self) -> bool:
        """Whether there is anything to skip, and the blocks seen so far allow it."""
        return self.first > 0 and not self._tuples

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep the states that reach block `first` while `using` names a key without states; skip where it has some."""
        with ExitStack() as undo:
            for block in self._blocks[: self.first]:
                undo.callback(self._restore, block, block.__dict__.get("forward"))
                block.forward = self._skipping(block, block.forward)
            hook = self._blocks[self.first].register_forward_pre_hook(self._enter, with_kwargs=True)
            undo.callback(hook.remove)
            yield

    @contextmanager
    def using(self, key: object) -> Iterator[None]:
        """Forward passes in this context are about the rows that `key` stands for, until the end."""
        token = self._now.set(key)
        try:
            yield
        finally:
            self._now.reset(token)

    @staticmethod
    def _restore(block: nn.Module, own: Any) -> None:
        if own is None:
            del block.forward
        else:
            block.forward = own

    def _skipping(self, block: nn.Module, forward: Any) -> Any:
        def skip(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.possible and self._now.get() in self._kept:
                return hidden_states
            output = forward(hidden_states, *args, **kwargs)
            self._tuples = self._tuples or not isinstance(output, Tensor)
            return output

        return skip

    def _enter(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = self._now.get()
        if key is None or not self.possible:
            return None
        if key not in self._kept:
            self._kept[key] = (args[0] if args else kwargs["hidden_states"]).detach()
            return None
        if args:
            return (self._kept[key], *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._kept[key]}
