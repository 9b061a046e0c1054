"""The decode loop gives transformers' own tokens, family by family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from excise.generation import Forward, decode

SMALL = {
    "vocab_size": 200, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.3, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
    "max_position_embeddings": 512,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen3Moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 8},
    "Gemma3": {
        "sliding_window": 8, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "Mamba": {"state_size": 8},
    "Lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "Rwkv": {"attention_hidden_size": 32, "context_length": 512},
}  # fmt: skip


def build(family: str, **options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config")
    module = getattr(transformers, f"{family}ForCausalLM")(config(**(SMALL | FAMILIES[family] | options)))
    return module.eval().requires_grad_(False)


SLOW = {"Lfm2", "Rwkv"}


@pytest.mark.parametrize("family", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in FAMILIES])
def test_same_tokens_as_transformers(family: str) -> None:
    module = build(family)
    drawn = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, 200, (n,), generator=drawn).tolist() for n in (9, 9, 7, 4, 12, 3)]
    width, limit = max(map(len, rows)), 90 if family == "Llama" else 16  # 90: the cache grows once more
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    ends = [1, *range(3, 20)]  # many, so that rows end at different steps and are dropped
    theirs = module.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=limit, do_sample=False, eos_token_id=ends, pad_token_id=0
    )
    with torch.no_grad():
        ours = decode(Forward(module), range(6), ids, mask, limit, torch.tensor(ends))
    lengths = {len(row.tokens) for row in ours}
    assert len(lengths) > 1 and max(lengths) <= limit
    for row, expected in zip(ours, theirs[:, width:].tolist(), strict=True):
        count = len(row.tokens)
        assert list(row.tokens) == expected[:count]
        assert row.finish == ("stop" if expected[count - 1] in ends else "length")
        assert row.finish == "stop" or count == limit
