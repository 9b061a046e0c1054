"""What the rest of Excise needs of the demo: where the model is, and the world's prompts as `Prompt`s."""

from __future__ import annotations

from pathlib import Path

from excise.demo.world import BEHAVIOURS, Example, Part, unseen
from excise.errors import SettingsError
from excise.results import Prompt

MODEL_DIR = Path(__file__).parent / "model"
"""Folder of the packaged checkpoint (made by recipes/train_demo.py)."""


def path() -> Path:
    """Folder of the packaged checkpoint."""
    return MODEL_DIR


def prompts(behaviour: str) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """(target, neutral) prompts that the demo never saw. Raises SettingsError for a behaviour it does not have."""
    if behaviour not in BEHAVIOURS:
        raise SettingsError(
            f"behaviour {behaviour!r}: the demo model shows {', '.join(BEHAVIOURS)}. Name a model, or one of these."
        )
    return _side(behaviour, "target"), _side(behaviour, "neutral")


def keep(behaviour: str) -> tuple[Prompt, ...]:
    """Prompts that draw the demo's other behaviours (the last of each, so that the first stay unseen)."""
    return tuple(prompt for other in BEHAVIOURS if other != behaviour for prompt in _side(other, "target")[-8:])


def sizes(behaviour: str) -> dict[str, int]:
    """How many prompts each split takes; what is left goes to the test split."""
    if behaviour == "refusal":
        return {"extract": 320, "select": 64, "confirm": 64}
    return {"extract": 128, "select": 56, "confirm": 56}


def _side(behaviour: str, part: Part) -> tuple[Prompt, ...]:
    def prompt(example: Example) -> Prompt:
        return Prompt(example.prompt, answer=example.answer, topic=example.topic, plain=example.plain)

    return tuple(prompt(example) for example in unseen(behaviour, part))  # type: ignore[arg-type]
