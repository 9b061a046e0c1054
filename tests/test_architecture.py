"""Finding writers, and the proof that none is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM

from excise.architecture import decoder_blocks, find_writers, verify
from excise.errors import ArchitectureError
from test_intervene import KINDS, loaded, shapes


@pytest.mark.parametrize("kind", KINDS)
def test_all_writers_are_found_and_proved(kind: str, tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    path = KINDS[kind](tmp_path, tiny_model)
    module = loaded(path)
    writers = find_writers(module, shapes(path))
    assert len(writers.writers) == 2 * writers.layers
    assert len({writer.name for writer in writers.writers}) == len(writers.writers)
    assert {name for writer in writers.writers for name in writer.tensors} <= set(shapes(path))
    assert verify(module, writers) < 1e-3


def test_a_missing_writer_is_noticed(tiny_model: Callable[..., Path]) -> None:
    path = tiny_model()
    module = loaded(path)
    writers = find_writers(module, shapes(path))
    for left_out in writers.writers:
        rest = tuple(writer for writer in writers.writers if writer is not left_out)
        with pytest.raises(ArchitectureError, match=rf"layers\.{left_out.layer}: expected nothing"):
            verify(module, replace(writers, writers=rest))


def test_a_norm_after_the_writer_stops_the_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    module = Gemma2ForCausalLM(config).eval()
    for name, parameter in module.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, std=0.5)
    module.save_pretrained(tmp_path / "gemma")
    writers = find_writers(module, shapes(tmp_path / "gemma"))
    with pytest.raises(ArchitectureError, match="normalised afterwards"):
        verify(module, writers)


def test_unknown_structure_stops_with_what_was_found(tiny_model: Callable[..., Path]) -> None:
    path = tiny_model()
    module = loaded(path)
    stored = shapes(path)
    with pytest.raises(ArchitectureError, match="expected a tensor of this name"):
        find_writers(module, {name: shape for name, shape in stored.items() if "o_proj" not in name})
    module.config.num_hidden_layers = 7
    with pytest.raises(ArchitectureError, match="list of 7 decoder blocks"):
        decoder_blocks(module)


def test_ten_layers_are_told_apart_from_one(tiny_model: Callable[..., Path]) -> None:
    path = tiny_model(layers=11)
    writers = find_writers(loaded(path), shapes(path))
    assert [writer.layer for writer in writers.writers] == [i for i in range(11) for _ in range(2)]
    assert writers.blocks[10].endswith(".10") and verify(loaded(path), writers) < 1e-3
