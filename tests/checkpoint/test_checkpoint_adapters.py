"""The LoRA form of an edit is the edit."""

from pathlib import Path

import pytest
import torch
from checkpoint_plans import make_edit, make_plan, make_units, residual_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from excise.checkpoint import lora_pairs, write_edited, write_lora
from excise.errors import CheckpointError, StoreError
from excise.linalg import ablate
from excise.results import EditPlan


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(0, 99), st.lists(st.floats(-1, 2, width=32), min_size=3, max_size=3))
def test_pair_adds_up_to_the_edit(k: int, seed: int, strengths: list[float]) -> None:
    weight = torch.randn(12, 7, generator=torch.Generator().manual_seed(seed))
    edit = make_edit("w", make_units(k, 12, seed), strengths[:k])
    a, b = lora_pairs(weight, edit)
    assert a.shape == (k, 7) and b.shape == (12, k)
    torch.testing.assert_close(weight + b @ a, ablate(weight, edit.units, edit.strengths), atol=1e-5, rtol=1e-5)


def test_peft_loads_it_and_agrees_with_the_stored_edit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=11, num_attention_heads=2,
        num_key_value_heads=2, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    many = residual_plan("model.layers", 2, 32, [1.0, 0.5]).edits
    plan = EditPlan((*many[:3], make_edit("model.layers.10.mlp.down_proj.weight", make_units(1, 32), [0.8],
                                          module="model.layers.10.mlp.down_proj")))  # fmt: skip
    write_lora(tmp_path / "base", plan, tmp_path / "adapter", base_name="someone/model")
    write_edited(tmp_path / "base", plan, tmp_path / "edited")
    base, edited = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("base", "edited"))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before, wanted = base(ids).logits, edited(ids).logits
        adapted = PeftModel.from_pretrained(base, tmp_path / "adapter")
        torch.testing.assert_close(adapted(ids).logits, wanted, atol=1e-4, rtol=1e-4)
    assert (before - wanted).abs().max() > 0.1
    assert sum("lora_A.default.weight" in name for name, _ in adapted.named_parameters()) == 4
    assert {len(v) for k, v in load_file(tmp_path / "adapter/adapter_model.safetensors").items() if "lora_A" in k} == {
        2
    }


def test_same_bytes_each_time(folder, tmp_path: Path) -> None:
    path, plan = folder({"w": torch.randn(8, 6).half()}), make_plan(make_units(2, 8), [1.0, 0.3])
    for name in ("a", "b"):
        write_lora(path, plan, tmp_path / name)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    with pytest.raises(StoreError):
        write_lora(path, plan, tmp_path / "a")


def test_what_lora_cannot_say_is_refused(folder, tmp_path: Path) -> None:
    nan = torch.full((8, 6), float("nan"))
    path = folder(
        {"w": torch.randn(8, 6), "t": torch.randn(6, 8), "b": torch.randn(8), "e": torch.randn(2, 8, 6), "n": nan}
    )
    units = make_units(1, 8)
    apart = make_edit(("w",), units, [1.0], model_layout="experts_out_in")
    cases = [
        (make_plan(units, [1.0], "columns"), "expected norm none, found columns"),
        (EditPlan((make_edit("w", units, [1.0], bias="b"),)), "expected no bias, found b"),
        (EditPlan((make_edit("t", units, [1.0], "conv1d"),)), "not available as LoRA"),
        (EditPlan((make_edit("e", units, [1.0], "experts_out_in"),)), "not available as LoRA"),
        (EditPlan((apart,)), "not available as LoRA"),
        (make_plan(units, [0.0]), "nothing to adapt"),
        (EditPlan((make_edit("n", units, [1.0]),)), "finite"),
        (EditPlan((make_edit("missing", units, [1.0]),)), "nearest"),
    ]
    for plan, message in cases:
        with pytest.raises(CheckpointError, match=message):
            write_lora(path, plan, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["base"]
