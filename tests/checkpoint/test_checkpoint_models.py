"""Real checkpoint folders, as transformers saves and loads them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoint_plans import make_edit, make_units, residual_plan
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from excise.checkpoint import fingerprint, open_index, write_edited
from excise.errors import StoreError
from excise.linalg import ablate
from excise.results import EditPlan

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def stored_bytes(path: Path) -> dict[str, bytes]:
    index = open_index(path)
    return {name: s.path.read_bytes()[e.start : e.end] for name, (s, e) in index.places.items()}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("llama") / "base"
    LlamaForCausalLM(LlamaConfig(**SIZES, intermediate_size=48)).save_pretrained(path, max_shard_size="20KB")
    return path


def test_sharded_llama_loads_with_the_edit(llama: Path, tmp_path: Path) -> None:
    plan, out = residual_plan("model.layers", 2, 32, [1.0, 0.5]), tmp_path / "out"
    result = write_edited(llama, plan, out)
    assert len(open_index(out).shards) > 2
    before, after = stored_bytes(llama), stored_bytes(out)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {edit.writer.tensors[0] for edit in plan.edits} == set(result.residuals)
    base, edited = (AutoModelForCausalLM.from_pretrained(path) for path in (llama, out))
    with torch.no_grad():
        for edit in plan.edits:
            weight = base.get_parameter(edit.writer.parameter)
            weight.copy_(ablate(weight, edit.units, edit.strengths))
        ids = torch.arange(12)[None]
        torch.testing.assert_close(edited(ids).logits, base(ids).logits, atol=1e-5, rtol=1e-5)
    assert fingerprint(out) != fingerprint(llama)


def test_experts_stored_apart_load_with_the_edit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        **SIZES, head_dim=16, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2, dtype="bfloat16"
    )
    model, base, out = Qwen3MoeForCausalLM(config).bfloat16(), tmp_path / "base", tmp_path / "out"
    model.save_pretrained(base)
    names = tuple(f"model.layers.1.mlp.experts.{expert}.down_proj.weight" for expert in range(4))
    parameter, module = "model.layers.1.mlp.experts.down_proj", "model.layers.1.mlp.experts"
    edit = make_edit(names, make_units(1, 32), [1.0], module=module, model_layout="experts_out_in")
    result = write_edited(base, EditPlan((edit,)), out)
    before, after = stored_bytes(base), stored_bytes(out)
    assert {name for name in before if before[name] != after[name]} == set(names) == set(result.residuals)
    loaded = AutoModelForCausalLM.from_pretrained(out, dtype="bfloat16").get_parameter(parameter)
    original = model.get_parameter(parameter).float()
    wanted = torch.stack([ablate(expert, edit.units, edit.strengths) for expert in original]).bfloat16()
    torch.testing.assert_close(loaded.detach(), wanted.detach(), atol=0, rtol=0)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from checkpoint_plans import residual_plan
from excise.checkpoint import write_edited
class Killer:
    def progress(self, done, total):
        if done > total / 2:
            os.kill(os.getpid(), signal.SIGKILL)
write_edited(Path(sys.argv[1]), residual_plan("model.layers", 2, 32, [1.0]), Path(sys.argv[2]), observer=Killer())
"""


def test_killed_in_the_middle_leaves_nothing_and_can_be_repeated(llama: Path, tmp_path: Path) -> None:
    out, here = tmp_path / "out", Path(__file__).parent
    command = [sys.executable, "-c", KILLED, str(llama), str(out), str(here), str(here.parents[1] / "src")]
    assert subprocess.run(command, env={**os.environ}, check=False).returncode == -signal.SIGKILL
    assert [file.name for file in tmp_path.iterdir()] == [".out.partial"]
    write_edited(llama, residual_plan("model.layers", 2, 32, [1.0]), out)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_two_writers_do_not_mix(llama: Path, tmp_path: Path) -> None:
    out, plan, seen = tmp_path / "out", residual_plan("model.layers", 2, 32, [1.0]), []

    class Second:
        def progress(self, done: int, total: int) -> None:
            if not seen:
                seen.append(done)
                with pytest.raises(StoreError, match="another process"):
                    write_edited(llama, plan, out)

    write_edited(llama, plan, out, observer=Second())
    assert seen and [file.name for file in tmp_path.iterdir()] == ["out"]
