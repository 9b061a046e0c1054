"""The keystone: one plan, several appliers, and they agree (live hook, swapped parameters, stored tensor, LoRA)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from excise import linalg
from excise.architecture import find_writers
from excise.checkpoint import lora_pairs, open_index, write_edited
from excise.edits import random_like, scaled, stack, uniform_plan
from excise.errors import ArchitectureError, SettingsError
from excise.intervene import Steering, Substitution, hooked, substituted
from excise.results import EditPlan, WriterMap


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    return {entry.name: entry.shape for shard in open_index(path).shards for entry in shard.entries}


def dense(tmp_path: Path, tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(layers=3)


def moe(tmp_path: Path, tiny_model: Callable[..., Path]) -> Path:
    torch.manual_seed(1)
    config = Qwen3MoeConfig(
        vocab_size=200, hidden_size=32, intermediate_size=48, moe_intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_experts=4, num_experts_per_tok=2,
        initializer_range=0.3, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen3MoeForCausalLM(config).save_pretrained(tmp_path / "moe")
    return tmp_path / "moe"


def conv1d(tmp_path: Path, tiny_model: Callable[..., Path]) -> Path:
    torch.manual_seed(2)
    config = GPT2Config(vocab_size=200, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3)
    module = GPT2LMHeadModel(config)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    module.save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


KINDS = {"dense": dense, "moe": moe, "conv1d": conv1d}


def loaded(path: Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def logits(module: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return module(input_ids=ids, use_cache=False).logits


def plan_for(writers: WriterMap, norm: str, k: int = 1, strength: float = 0.8) -> EditPlan:
    generator = torch.Generator().manual_seed(3)
    vectors = linalg.orthonormalize(torch.randn(writers.layers, k, writers.d_model, generator=generator))
    return uniform_plan(writers.writers, vectors, strength, norm)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("norm", "k"), [("none", 1), ("none", 2), ("columns", 1), ("columns", 2), ("rows", 1)])
def test_appliers_agree(kind: str, norm: str, k: int, tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    path = KINDS[kind](tmp_path, tiny_model)
    module = loaded(path)
    plan = plan_for(find_writers(module, shapes(path)), norm, k)
    ids = torch.arange(24).reshape(2, 12) % 150
    base = logits(module, ids)
    with substituted(module, plan):
        swapped = logits(module, ids)
    assert torch.equal(logits(module, ids), base), "the swap was not undone"
    write_edited(path, plan, tmp_path / "edited")
    stored = logits(loaded(tmp_path / "edited"), ids)
    scale = (swapped - base).norm()
    assert scale > 1e-2 * base.norm(), "the edit did nothing, so agreement would say nothing"
    assert (stored - swapped).norm() <= 1e-5 * scale + 1e-5 * base.norm()
    if kind == "moe" and norm != "none":
        with hooked(module, plan, rows=2), pytest.raises(ArchitectureError, match="experts"):
            logits(module, ids)
        return
    with hooked(module, plan, rows=2):
        live = logits(module, ids)
    assert (live - swapped).norm() <= 1e-4 * scale + 1e-5 * base.norm()
    assert torch.equal(logits(module, ids), base), "a hook stayed"


def test_lora_form_is_the_same_matrix(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    path = tiny_model()
    module = loaded(path)
    for edit in plan_for(find_writers(module, shapes(path)), "none", 2).edits:
        weight = module.get_parameter(edit.writer.parameter).detach()
        a, b = lora_pairs(weight, edit)
        assert torch.allclose(weight + b @ a, linalg.ablate(weight, edit.units, edit.strengths), atol=1e-5)


@pytest.mark.parametrize("norm", ["none", "columns", "rows"])
def test_strengths_may_differ_by_row(norm: str, tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    path = tiny_model(layers=3)
    module = loaded(path)
    writers = find_writers(module, shapes(path))
    plan = plan_for(writers, norm, strength=1.0)
    ids = torch.arange(24).reshape(2, 12)
    with Steering(module, writers.writers) as steering:
        units = {edit.writer.name: edit.units[None] for edit in plan.edits}
        strengths = {edit.writer.name: torch.tensor([[0.0], [1.0]]) for edit in plan.edits}
        with steering.using(units, strengths, rows=2, norm=norm):  # type: ignore[arg-type]
            mixed = logits(module, ids)
    with substituted(module, plan):
        edited = logits(module, ids)
    assert torch.allclose(mixed[0], logits(module, ids)[0], atol=1e-4)
    assert torch.allclose(mixed[1], edited[1], atol=1e-3)
    assert not torch.allclose(mixed[1], mixed[0], atol=1e-2)


def test_strengths_and_directions_have_the_right_gradients(tiny_model: Callable[..., Path]) -> None:
    path = tiny_model()
    module = loaded(path).double()  # its norms still calculate in float32, hence the wide finite differences
    writers = find_writers(module, shapes(path))
    ids = torch.arange(10)[None]
    torch.manual_seed(0)
    raw = torch.randn(len(writers.writers), 1, writers.d_model, dtype=torch.float64)
    strengths = torch.full((len(writers.writers), 1), 0.5, dtype=torch.float64)

    def loss(directions: Tensor, amounts: Tensor) -> Tensor:
        units = linalg.orthonormalize(directions)
        by_name = {w.name: units[i][None] for i, w in enumerate(writers.writers)}
        with Steering(module, writers.writers) as steering:
            amount = {w.name: amounts[i][None] for i, w in enumerate(writers.writers)}
            with steering.using(by_name, amount, rows=1):
                return module(input_ids=ids, use_cache=False).logits[0, -1, :5].logsumexp(0)

    assert torch.autograd.gradcheck(
        loss, (raw.requires_grad_(), strengths.requires_grad_()), eps=1e-3, atol=2e-3, rtol=0.02
    )


def test_an_error_inside_leaves_the_model_as_it_was(tiny_model: Callable[..., Path]) -> None:
    path = tiny_model()
    module = loaded(path)
    plan = plan_for(find_writers(module, shapes(path)), "none")
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    with pytest.raises(RuntimeError, match="inside"), substituted(module, plan):
        raise RuntimeError("inside")
    assert all(torch.equal(before[name], parameter) for name, parameter in module.named_parameters())


def test_rounding_goes_through_the_stored_dtype(tiny_model: Callable[..., Path]) -> None:
    path = tiny_model()
    module = loaded(path)
    plan = plan_for(find_writers(module, shapes(path)), "none")
    name = plan.edits[0].writer.parameter
    with Substitution(module, plan, rounded_to={edit.writer.name: torch.bfloat16 for edit in plan.edits}).active():
        value = module.get_parameter(name)
        assert torch.equal(value, value.bfloat16().float())


def test_plans_stack_scale_and_randomise(tiny_model: Callable[..., Path]) -> None:
    path = tiny_model()
    writers = find_writers(loaded(path), shapes(path))
    plan = plan_for(writers, "none")
    other = random_like(plan, seed=1)
    both = stack(plan, other)
    for edit in both.edits:
        assert torch.allclose(edit.units @ edit.units.T, torch.eye(2), atol=1e-5)
        assert len(edit.strengths) == 2
    assert torch.allclose(scaled(plan, 0.5).edits[0].strengths, plan.edits[0].strengths / 2)
    assert torch.equal(random_like(plan, seed=1).edits[0].units, other.edits[0].units)
    with pytest.raises(SettingsError, match="shape"):
        uniform_plan(writers.writers, torch.zeros(1, 1, 5), 1.0)
    with pytest.raises(SettingsError, match="norm"):
        stack(plan, plan_for(writers, "columns"))
