"""The decoder blocks: the modules between which the residual stream runs."""

from __future__ import annotations

from typing import Any

from torch import nn

from excise.errors import ArchitectureError


def text_config(config: Any) -> Any:
    """The language model's part of a configuration (multimodal models nest it)."""
    getter = getattr(config, "get_text_config", None)
    return getter(decoder=True) if getter is not None else config


def decoder_blocks(module: nn.Module) -> tuple[tuple[str, nn.Module], ...]:
    """(dotted path, module) of every decoder block, in order.

    The list is the one `nn.ModuleList` that has as many members as the configuration says there are layers, and that
    lies in no other such list. Raises ArchitectureError when there is none, or more than one.
    """
    config = text_config(getattr(module, "config", None))
    expected = getattr(config, "num_hidden_layers", None)
    found = {
        name: child
        for name, child in module.named_modules()
        if isinstance(child, nn.ModuleList) and len(child) == expected and expected
    }
    outer = {name: child for name, child in found.items() if not any(inside(name, other) for other in found)}
    language = {name: child for name, child in outer.items() if not {"vision_tower", "visual"} & set(name.split("."))}
    if len(language) != 1:
        lists = {name: len(child) for name, child in module.named_modules() if isinstance(child, nn.ModuleList)}
        raise ArchitectureError(
            f"{type(module).__name__}: expected one list of {expected} decoder blocks, found {sorted(language)} "
            f"among the module lists {lists}. This architecture is not known yet; please report its config.json."
        )
    ((path, blocks),) = language.items()
    return tuple((f"{path}.{index}", block) for index, block in enumerate(blocks))


def inside(name: str, other: str) -> bool:
    """True where the module path `name` lies below `other`."""
    parts, outer = name.split("."), other.split(".")
    return len(parts) > len(outer) and parts[: len(outer)] == outer
