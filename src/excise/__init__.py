"""Excise takes a behaviour out of a language model by editing weights, and proves what changed.

import excise
run = excise.run("path/to/model", behaviour="refusal", out="runs/first")
print(run.verdict.edited.behaviour.value)
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Any

_DOOR = {
    "run": "excise.api",
    "resume": "excise.api",
    "apply": "excise.api",
    "measure": "excise.api",
    "Run": "excise.story",
    "RunSettings": "excise.settings",
    "EditPlan": "excise.results",
    "Directions": "excise.results",
    "Verdict": "excise.results",
    "Prompt": "excise.results",
    "PromptSet": "excise.results",
    "Observer": "excise.observer",
    "ExciseError": "excise.errors",
    "load": "excise.model",
}
"""Public names and where they live; imported when first used, so that `import excise` costs nothing."""

__all__ = [*_DOOR, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("excise")
    if name in _DOOR:
        return getattr(import_module(_DOOR[name]), name)
    raise AttributeError(f"module 'excise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
