"""Finding the writers: matrices whose product is added to the residual stream.

The rule is a table of the field's names (below, as data) plus shapes; it does not have to be complete, because
`verify.py` proves for every model, before anything is edited, that no other writer is left.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from excise.architecture.blocks import decoder_blocks, text_config
from excise.errors import ArchitectureError
from excise.results import Layout, Writer, WriterMap

ROLES: Mapping[str, tuple[str, ...]] = {
    "attention": ("o_proj", "out_proj", "wo", "c_proj", "dense"),
    "mlp": ("down_proj", "fc2", "w2", "c_proj", "dense_4h_to_h", "fc_out"),
}
"""Last name of a writer's module, by role; the first of each role is by far the most frequent."""

ATTENTION_PARENTS = frozenset({"self_attn", "attn", "attention", "self_attention", "linear_attn"})
MLP_PARENTS = frozenset({"mlp", "feed_forward", "ffn", "shared_expert", "shared_experts", "shared_mlp"})
FUSED_EXPERTS = ("down_proj",)
"""Names of 3-D parameters of a routed-experts module that hold every expert's output matrix."""

EXPERT_FILES = ("{module}.{expert}.down_proj.weight", "{module}.{expert}.w2.weight")
"""How checkpoints name one expert's output matrix where the loaded module holds all of them in one parameter."""


def find_writers(module: nn.Module, stored: Mapping[str, Sequence[int]]) -> WriterMap:
    """The writer map of a loaded model. `stored` gives name and shape of every tensor in its checkpoint.

    Raises ArchitectureError where a block has no writer, or a writer's stored tensor is not found.
    """
    config = text_config(module.config)
    d_model = int(config.hidden_size)
    blocks = decoder_blocks(module)
    writers: list[Writer] = []
    for layer, (path, block) in enumerate(blocks):
        found = [
            *_linear_writers(path, block, layer, d_model, stored),
            *_expert_writers(path, block, layer, d_model, stored),
        ]
        if not found:
            names = sorted(
                {name.split(".")[-1] for name, child in block.named_modules() if isinstance(child, nn.Linear)}
            )
            raise ArchitectureError(
                f"{path}: expected matrices that write to the residual stream ({d_model} wide), found none among "
                f"{names}. This architecture is not known yet; please report it with its config.json."
            )
        writers.extend(found)
    counts = Counter(writer.name for writer in writers)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ArchitectureError(
            f"{type(module).__name__}: expected one writer a role in each block, found several called {twice[0]}. "
            "This architecture is not known yet; please report its config.json."
        )
    return WriterMap(str(config.model_type), d_model, len(blocks), tuple(path for path, _ in blocks), tuple(writers))


def _role(path: Sequence[str]) -> str | None:
    """Role of a module by its own and its parents' names; None: not a writer."""
    leaf, parents = path[-1], set(path[:-1])
    if leaf in ROLES["attention"] and parents & ATTENTION_PARENTS:
        return "attention"
    if leaf in ROLES["mlp"] and parents & MLP_PARENTS:
        return "shared_expert" if parents & {"shared_expert", "shared_experts", "shared_mlp"} else "mlp"
    return None


def _linear_writers(
    path: str, block: nn.Module, layer: int, d_model: int, stored: Mapping[str, Sequence[int]]
) -> Iterator[Writer]:
    for name, child in block.named_modules():
        weight = getattr(child, "weight", None)
        role = _role(name.split(".")) if name else None
        if role is None or not isinstance(weight, nn.Parameter) or weight.dim() != 2:
            continue
        layout: Layout = "linear" if isinstance(child, nn.Linear) else "conv1d"
        width = weight.shape[0] if layout == "linear" else weight.shape[1]
        if width != d_model:
            continue
        module = f"{path}.{name}"
        parameter = _stored_name(f"{module}.weight", stored)
        bias = getattr(child, "bias", None)
        yield Writer(
            name=f"layers.{layer}.{role}",
            layer=layer,
            role=role,  # type: ignore[arg-type]
            module=module,
            parameter=f"{module}.weight",
            layout=layout,
            tensors=(parameter,),
            stored_layout=layout,
            bias=_stored_name(f"{module}.bias", stored) if bias is not None else None,
        )


def _expert_writers(
    path: str, block: nn.Module, layer: int, d_model: int, stored: Mapping[str, Sequence[int]]
) -> Iterator[Writer]:
    for name, child in block.named_modules():
        for leaf in FUSED_EXPERTS:
            weight = child._parameters.get(leaf)
            if weight is None or weight.dim() != 3:
                continue
            module = f"{path}.{name}"
            transposed = bool(getattr(child, "is_transposed", False))
            width = weight.shape[2] if transposed else weight.shape[1]
            if width != d_model:
                raise ArchitectureError(
                    f"{module}.{leaf}: expected experts that write {d_model} values, found {tuple(weight.shape)}. "
                    "This layout of experts is not known yet; please report it with the model's config.json."
                )
            if getattr(child, f"{leaf}_bias", None) is not None:
                raise ArchitectureError(f"{module}.{leaf}: experts with output biases cannot be edited yet.")
            layout: Layout = "experts_in_out" if transposed else "experts_out_in"
            tensors, stored_layout = _expert_tensors(module, leaf, weight.shape[0], layout, stored)
            yield Writer(
                f"layers.{layer}.experts", layer, "expert", module, f"{module}.{leaf}", layout, tensors, stored_layout
            )


def _expert_tensors(
    module: str, leaf: str, experts: int, layout: Layout, stored: Mapping[str, Sequence[int]]
) -> tuple[tuple[str, ...], Layout]:
    """Stored names of the experts: one fused tensor, or one an expert."""
    fused = f"{module}.{leaf}"
    if fused in stored:
        return (fused,), layout
    for pattern in EXPERT_FILES:
        names = tuple(pattern.format(module=module, expert=expert) for expert in range(experts))
        if all(name in stored for name in names):
            return names, "linear"
    raise ArchitectureError(
        f"{fused}: expected it in the checkpoint, fused or one tensor an expert, found neither. "
        f"Tensors near it: {_near(module, stored)}. Please report this with the model's index file."
    )


def _stored_name(parameter: str, stored: Mapping[str, Sequence[int]]) -> str:
    """The checkpoint's name of a parameter: the same, or with or without one leading component ("model.")."""
    short = parameter.split(".", 1)[1]
    longer = [name for name in stored if name.split(".", 1)[-1] == parameter]
    for name in (parameter, short, *longer[:1]):
        if name in stored:
            return name
    raise ArchitectureError(
        f"{parameter}: expected a tensor of this name in the checkpoint, found none. "
        f"Tensors near it: {_near(parameter, stored)}. Please report this with the model's index file."
    )


def _near(name: str, stored: Mapping[str, Sequence[int]]) -> list[str]:
    layer = re.search(r"\.(\d+)\.", name)
    number = layer.group(1) if layer else ""
    return [other for other in stored if number in other.split(".")][:6]
