"""How the library tells what it is doing. Only the command line prints; everything else calls an Observer."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Observer(Protocol):
    """Receives progress. Calls come from the main thread, in order."""

    def stage(self, name: str, about: str) -> None:
        """A stage begins."""
        ...

    def note(self, text: str) -> None:
        """A fact worth one line."""
        ...

    def progress(self, done: int, total: int) -> None:
        """How far the stage is."""
        ...


class Silent:
    """Says nothing: the default of the Python interface."""

    def stage(self, name: str, about: str) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""

    def progress(self, done: int, total: int) -> None:
        """Ignored."""
