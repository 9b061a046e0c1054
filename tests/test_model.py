"""Loading, templates, and what is refused."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from excise.chat import Chat
from excise.errors import ExciseError, ModelError, PromptError, SettingsError, SpaceError
from excise.model import load
from excise.placement import choose_dtype, choose_lanes, free_memory
from excise.results import Prompt
from tiny import CHATML, make_tokenizer

Maker = Callable[..., Path]
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'].split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
R1 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|User|>{{ m['content'] }}"
    "{% else %}{{ m['content'].split('</think>')[-1] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
OLD_R1 = R1.replace("<think>\n{% endif %}", "{% endif %}")
V31 = R1.replace("<think>\n{% endif %}", "{% if thinking %}<think>{% else %}</think>{% endif %}{% endif %}")
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
GPT_OSS = (
    "{% for m in messages %}<|start|>{{ m['role'] }}{% if m['role'] == 'assistant' %}<|channel|>final{% endif %}"
    "<|message|>{{ m['content'] }}<|end|>{% endfor %}{# <|channel|>analysis<|message|> #}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


def chat(template: str | None, thinking: Any = "auto", system: str | None = None) -> Chat:
    extra = ["<end_of_turn>", "<|end|>", "<|start|>", "<|channel|>", "<|message|>"]
    return Chat(make_tokenizer(template, extra), thinking=thinking, system=system)


# ---------------------------------------------------------------- templates
@pytest.mark.parametrize(
    ("template", "thinking", "told", "ending"),
    [
        (CHATML, "auto", "none", "<|im_start|>assistant\n"),
        (QWEN3, "auto", "closed", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        (QWEN3, "open", "open", "<|im_start|>assistant\n"),
        (QWEN3, "none", "none", "<|im_start|>assistant\n"),
        (R1, "auto", "closed", "<|Assistant|><think>\n\n</think>\n\n"),
        (R1, "open", "open", "<|Assistant|><think>\n"),
        (OLD_R1, "auto", "closed", "<|Assistant|><think>\n\n</think>\n\n"),
        (V31, "auto", "closed", "<|Assistant|></think>"),
        (V31, "open", "open", "<|Assistant|><think>"),
        (GPT_OSS, "auto", "closed", "<|message|><|end|><|start|>assistant<|channel|>final<|message|>"),
        (GEMMA, "auto", "none", "<start_of_turn>model\n"),
        (None, "auto", "none", "Why?\n"),
    ],
)
def test_generation_prompt(template: str | None, thinking: str, told: str, ending: str) -> None:
    found = chat(template, thinking)
    assert found.thinking == told
    assert found.render(Prompt("Why?")).endswith(ending)


def test_reasoning_is_split_off() -> None:
    opened = chat(R1, "open")
    ids = opened._tokenizer("a lamp\n</think>\n\nan oar<|im_end|>")["input_ids"]
    assert opened.decode(ids) == ("an oar", "a lamp")
    assert opened.decode(ids[:3])[0] == "", "cut off while it reasons: there is no answer yet"
    by_itself = chat(QWEN3, "open")
    ids = by_itself._tokenizer("<think>\na lamp\n</think>\n\nan oar<|im_end|>")["input_ids"]
    assert by_itself.decode(ids) == ("an oar", "a lamp")
    channel = chat(GPT_OSS, "open")
    text = "<|channel|>analysis<|message|>a lamp<|end|><|start|>assistant<|channel|>final<|message|>an oar"
    assert channel.decode(channel._tokenizer(text)["input_ids"]) == ("an oar", "a lamp")
    assert chat(CHATML).decode(ids[-3:])[1] is None


def test_system_text() -> None:
    with_role, without = chat(CHATML, system="Be brief."), chat(GEMMA, system="Be brief.")
    assert with_role.template == "chat"
    assert "<|im_start|>system\nBe brief.<|im_end|>" in with_role.render(Prompt("Why?"))
    assert without.template == "chat without system role"
    assert "user\nBe brief.\n\nWhy?<end_of_turn>" in without.render(Prompt("Why?"))
    assert "Be long." in without.render(Prompt("Why?", system="Be long.")), "a prompt's own system message goes first"
    assert "system" not in with_role.render(Prompt("Why?", system=""))


def test_prefix_leaves_the_prompt_alone() -> None:
    found = chat(None)
    bare, whole = (found.encode([Prompt("Why?")], prefix)[0] for prefix in ("", "\n\nSure!"))
    assert found._tokenizer("Why?\n\n\nSure!")["input_ids"][: len(bare)] != bare, "the tokenizer merges line breaks"
    assert whole[: len(bare)] == bare
    assert found._tokenizer.decode(whole[len(bare) :]) == "\n\nSure!"


def test_no_second_bos() -> None:
    from tokenizers.processors import TemplateProcessing

    for template, count in ((None, 1), ("<|endoftext|>{{ messages[-1]['content'] }}", 1), (CHATML, 0)):
        tokenizer = make_tokenizer(template)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            "<|endoftext|> $A", special_tokens=[("<|endoftext|>", 1)]
        )
        assert tokenizer("Why?")["input_ids"][0] == 1
        assert Chat(tokenizer).encode([Prompt("Why?")])[0].count(1) == count


def test_turn_end_and_suffix() -> None:
    gemma = chat(GEMMA)
    assert gemma._tokenizer.convert_ids_to_tokens(gemma.turn_end()) == "<end_of_turn>"
    assert chat(GPT_OSS).turn_end() is None, "there <|end|> ends the reasoning, too"
    ids = gemma._tokenizer("<end_of_turn>\n<start_of_turn>model\n")["input_ids"]
    assert gemma.shared_suffix() == len(ids)
    assert chat(None).shared_suffix() == 1


def test_broken_templates_and_prompts() -> None:
    with pytest.raises(ModelError, match=r"chat_template\.jinja"):
        chat("{{ raise_exception('never') }}")
    with pytest.raises(SettingsError, match="thinking"):
        chat(CHATML, "sometimes")
    with pytest.raises(PromptError, match="prompt 1"):
        chat("{{ messages[-1]['content'] }}").encode([Prompt("Why?"), Prompt("")])


# ---------------------------------------------------------------- loading
def test_facts(tiny_model: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local folder never touches the network, whatever the environment says."""

    def refuse(*args: object) -> None:
        raise AssertionError(f"a socket was opened: {args}")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    folder = tiny_model()
    model = load(folder, system="Be brief.", micro_batch=5)
    facts = model.facts
    assert (facts.path, facts.model_type, facts.dtype, facts.micro_batch) == (str(folder), "llama", "float32", 5)
    assert (facts.template, facts.thinking, model.system) == ("chat", "none", "Be brief.")
    assert facts.dtype_reason and facts.device_reason and len(facts.fingerprint) == 64
    assert not model.module.training
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert model.end_tokens == {1, model.tokenizer.convert_tokens_to_ids("<|im_end|>")}
    ids = model.tokenizer("<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    assert model.suffix_length == len(ids)
    assert model.encode([Prompt("Why?")])[0][-len(ids) :] == ids
    assert load(folder).facts.fingerprint == facts.fingerprint


def test_half_precision_is_widened_on_cpu(tiny_model: Maker) -> None:
    folder = tiny_model(dtype="bfloat16")
    state = {name: value.bfloat16() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    model = load(folder, device="cpu")
    assert model.facts.dtype == "float32" and "slow on CPU" in model.facts.dtype_reason
    assert load(folder, device="cpu", dtype="bfloat16").facts.dtype == "bfloat16"


def test_choices() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    huge = free_memory(cpu)
    assert choose_dtype("auto", torch.bfloat16, huge, cpu)[0] == torch.bfloat16
    assert choose_dtype("auto", torch.float16, 10, cuda)[0] == torch.float16
    assert choose_dtype("auto", torch.uint8, 10, cuda)[0] == torch.bfloat16
    assert choose_dtype("fp16", torch.bfloat16, 10, cuda) == (torch.float16, "asked for")
    with pytest.raises(SettingsError, match="bfloat16"):
        choose_dtype("int3", torch.float32, 10, cpu)
    assert choose_lanes(3_000_000, cpu, None).micro_batch == 32
    assert choose_lanes(7_000_000_000, cpu, None).micro_batch == 8
    assert choose_lanes(7_000_000_000, cuda, None).at_once == 1
    with pytest.raises(SettingsError, match="micro_batch"):
        choose_lanes(1, cpu, 0)


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({k: v for k, v in (json.loads(file.read_text()) | changes).items() if v is not None}))


def drop(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def lose_a_weight(folder: Path, *, twin: bool = False) -> None:
    state = load_file(folder / "model.safetensors")
    value = state["model.layers.0.mlp.down_proj.weight"] if twin else state.pop("model.layers.0.mlp.down_proj.weight")
    state |= {"model.layers.0.mlp.down_proj.twin": value.clone()} if twin else {}
    save_file(state, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda f: drop(f, "config.json"), "expected config.json"),
        (lambda f: (f / "config.json").write_text("{"), "expected JSON"),
        (lambda f: drop(f, "tokenizer.json", "tokenizer_config.json"), "expected a tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer cannot be loaded"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickles only"),
        (lambda f: edit_config(f, model_type="novel"), "Upgrade transformers"),
        (lambda f: edit_config(f, model_type="novel", auto_map={"AutoConfig": "x.X"}), "--trust-remote-code"),
        (lambda f: edit_config(f, model_type=None), "expected a model_type"),
        (lambda f: lose_a_weight(f), r"1 missing: model\.layers\.0\.mlp\.down_proj"),
        (lambda f: lose_a_weight(f, twin=True), r"1 unexpected: .*twin"),
        (lambda f: edit_config(f, intermediate_size=48), "transformers cannot load|of another shape"),
    ],
)
def test_refused(tiny_model: Maker, harm: Callable[[Path], Any], words: str) -> None:
    folder = tiny_model()
    harm(folder)
    with pytest.raises(ModelError, match=words):
        load(folder)


def test_refused_sources(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for source in (tmp_path / "nowhere", tmp_path / "file", "not a model!", "./nowhere/at/all"):
        with pytest.raises(ModelError, match="neither a folder nor a hub id"):
            load(source)


def test_too_big(tiny_model: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("excise.model.free_memory", lambda device: 1000)
    with pytest.raises(SpaceError, match="narrower dtype"):
        load(tiny_model(), device="cpu")
    assert issubclass(SpaceError, ExciseError)


def test_no_such_device(tiny_model: Maker) -> None:
    with pytest.raises(SettingsError, match="warp9"):
        load(tiny_model(), device="warp9")
