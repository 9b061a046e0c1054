"""Tiny models with tokenizers, made on the spot: nothing here is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ["<pad>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_TEXT = """Where is the harbour of Velmora? It lies east of the old mill, near two bridges and a market.
Why? Name three things, please: a lamp, a rope, an oar. user assistant system think how are you what is
Sure! To mend a boat you need tar and time. The museum opens at nine; tickets cost four coins each."""


def make_tokenizer(template: str | None = CHATML, extra: list[str] | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 400 tokens. `extra`: more special tokens."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r"\s?\w+|\s+|[^\w\s]+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    specials = SPECIALS + (extra or [])
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT, *["\n\n", "\n\n\n"] * 4], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>")
    fast.add_special_tokens({"additional_special_tokens": specials[2:]})
    fast.chat_template = template
    return fast


def save_tiny(folder: Path, *, template: str | None = CHATML, layers: int = 2, **config: Any) -> Path:
    """Write a tiny random Llama with its tokenizer to `folder`."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(template)
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True,
        "eos_token_id": 1, "bos_token_id": None, "pad_token_id": 0, "initializer_range": 0.3,
    }  # fmt: skip
    module = LlamaForCausalLM(LlamaConfig(**(settings | config)))
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
