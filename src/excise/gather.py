"""Which prompts a run works with: own ones, the demo's, the field's, or the packaged ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from excise import behaviours, demo, prompts
from excise.behaviours import Behaviour, Side
from excise.errors import PromptError
from excise.results import Prompt, PromptSet
from excise.settings import RunSettings

KEPT = 16
"""Prompts that draw other behaviours, at most: their answers are to stay as they are."""


def gather_prompts(settings: RunSettings, behaviour: Behaviour) -> PromptSet:
    """Own prompts, the demo's, the field's, or the packaged ones, dealt into splits."""
    own = {"target": settings.target, "neutral": settings.neutral}
    if any(own.values()) and not all(own.values()):
        raise PromptError("prompts: expected both --target and --neutral, found one. Give both sides.")
    if settings.model in (None, str(demo.path())) and settings.prompts == "packaged" and not any(own.values()):
        target, neutral = demo.prompts(behaviour.name)
        found = prompts.split(target, neutral, seed=settings.seed, sizes=demo.sizes(behaviour.name))
        return replace(found, keep=_keep(settings, demo.keep(behaviour.name)))

    def side(name: Side) -> list[Prompt]:
        source = own[name]
        sources = (source,) if source else behaviour.sources(name, field=settings.prompts == "field")
        return [prompt for one in sources for prompt in prompts.read(one, column=settings.column)]

    found = prompts.split(side("target"), side("neutral"), seed=settings.seed)
    if any(own.values()):
        return replace(found, keep=_keep(settings, ()))
    others = (behaviours.load(name) for name in behaviours.names() if name != behaviour.name)
    return replace(found, keep=_keep(settings, [p for other in others for p in _sample(other)]))


def _keep(settings: RunSettings, otherwise: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """The prompts that `--keep` names, at most KEPT of them, else those given."""
    if settings.keep is not None:
        otherwise = prompts.read(settings.keep, column=settings.column)
    return (
        tuple(otherwise[index * len(otherwise) // KEPT] for index in range(KEPT))
        if len(otherwise) > KEPT
        else tuple(otherwise)
    )


def _sample(behaviour: Behaviour) -> list[Prompt]:
    """Target prompts of another packaged behaviour."""
    return [prompt for source in behaviour.sources("target") for prompt in prompts.read(source)]
