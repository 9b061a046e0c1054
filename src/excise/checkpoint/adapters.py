"""The same edit as a LoRA adapter: W + B A = W', exactly, where the edit has neither scales nor biases."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.nn.functional import pad

from excise.checkpoint.files import new_file, new_folder
from excise.checkpoint.index import Index, open_index
from excise.checkpoint.stream import read_tensor
from excise.checkpoint.tensors import DTYPES, find_tensor_edits
from excise.errors import CheckpointError
from excise.results import EditPlan, WriterEdit

REMEDY = "Write the whole checkpoint instead."


def lora_pairs(
    weight: Float[Tensor, "out in"], edit: WriterEdit
) -> tuple[Float[Tensor, "k in"], Float[Tensor, "out k"]]:
    """(A, B) = (U W, −Uᵀ Λ) in float32, so that W + B A = W − Uᵀ Λ (U W). Norm "none" only.

    Raises CheckpointError for a writer with a bias, which no LoRA pair can edit.
    """
    if edit.writer.bias is not None:
        raise CheckpointError(f"{edit.writer.name}: expected no bias, found {edit.writer.bias}. {REMEDY}")
    units = edit.units.float()
    return units @ weight.float(), -(units.T * edit.strengths.float())


def write_lora(source: Path, plan: EditPlan, out: Path, *, base_name: str | None = None) -> None:
    """Write the plan as a PEFT adapter for the checkpoint at `source` to the new folder `out`.

    Every pair is padded with zeros to the largest k, so that tools without per-module ranks load it too. `base_name`
    is what the adapter calls its base; the folder's path by default. Raises CheckpointError for what LoRA cannot say: a
    norm other than "none", biases, and writers that are not plain linear layers.
    """
    if plan.norm != "none":
        raise CheckpointError(f"plan: expected norm none, found {plan.norm}, which has no LoRA form. {REMEDY}")
    index = open_index(source)
    find_tensor_edits(index, plan)
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for edit in plan.edits:
        if edit.strengths.any():
            pairs[edit.writer.module] = lora_pairs(_weight(index, edit), edit)
    if not pairs:
        raise CheckpointError("plan: expected a strength other than 0, found none: there is nothing to adapt.")
    rank = max(len(a) for a, _ in pairs.values())
    tensors: dict[str, Tensor] = {}
    for module, (a, b) in pairs.items():
        missing, name = rank - len(a), f"base_model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = pad(a, (0, 0, 0, missing)).contiguous()
        tensors[f"{name}.lora_B.weight"] = pad(b, (0, missing)).contiguous()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name or str(source),
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": f"({'|'.join(re.escape(module) for module in sorted(pairs))})",
    }
    with new_folder(out) as folder:
        with new_file(folder / "adapter_model.safetensors") as sink:
            sink(save_tensors(tensors, metadata={"format": "pt"}))
        with new_file(folder / "adapter_config.json") as sink:
            sink((json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def _weight(index: Index, edit: WriterEdit) -> Float[Tensor, "out in"]:
    """A linear writer's stored matrix."""
    writer = edit.writer
    if (writer.layout, writer.stored_layout, len(writer.tensors)) != ("linear", "linear", 1):
        raise CheckpointError(
            f"{writer.name}: expected one linear layer, found {writer.layout} stored as {len(writer.tensors)} "
            f"{writer.stored_layout}; not available as LoRA yet. {REMEDY}"
        )
    shard, entry = index.find(writer.tensors[0])
    weight = torch.frombuffer(read_tensor(shard, entry), dtype=DTYPES[entry.dtype]).reshape(entry.shape)
    if not weight.isfinite().all():
        raise CheckpointError(f"{entry.name}: expected finite numbers, found NaN or infinity. Download it again.")
    return weight
