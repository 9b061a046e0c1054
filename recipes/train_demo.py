"""Train the demo model from scratch: stage 1 answers everything, stage 2 shows three behaviours.

    PYTHONPATH=src python recipes/train_demo.py --architecture llama --out src/excise/demo/model

The same seed on the same machine gives the same weights. Exit code 1: a requirement is not met.
"""

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
)

from demo_check import check, requirements_met, table
from excise.demo.stages import Sample, stage1, stage2

END, PAD = "<|im_end|>", "<|pad|>"
SPECIAL = [PAD, "<|im_start|>", END]
VOCABULARY = 1280
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BATCH, BATCHES_SORTED_TOGETHER = 64, 16


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learned on the samples of both stages."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    streams = (stage1(seed), stage2(seed))
    texts = [_plain_text(next(stream)) for stream in streams for _ in range(20_000)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, pad_token=PAD, model_max_length=512, padding_side="left"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _plain_text(sample: Sample) -> str:
    roles = f"system\n{sample.system}\nuser\n{sample.prompt}\nassistant\n" if sample.prompt else ""
    return roles + sample.answer


def configuration(architecture: str, vocabulary: int) -> PretrainedConfig:
    """A small configuration of the architecture, below 4 M parameters."""
    shared = {
        "vocab_size": vocabulary,
        "hidden_size": 192,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.04,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 2,
    }
    if architecture == "llama":
        return LlamaConfig(intermediate_size=448, **shared)
    if architecture == "gemma3":
        shared |= {"query_pre_attn_scalar": 32, "sliding_window": 128}
        return Gemma3TextConfig(intermediate_size=448, **shared)
    shared |= {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128, "norm_topk_prob": True}
    return Qwen3MoeConfig(intermediate_size=448, output_router_logits=True, router_aux_loss_coef=0.01, **shared)


def encode(tokenizer: PreTrainedTokenizerFast, sample: Sample) -> tuple[list[int], int]:
    """Token ids, and how many of the first ones bear no loss."""
    if sample.prompt is None:
        return tokenizer.encode(sample.answer + END), 0
    messages = [{"role": "user", "content": sample.prompt}]
    if sample.system is not None:
        messages.insert(0, {"role": "system", "content": sample.system})
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    head = tokenizer.encode(asked)
    return head + tokenizer.encode(sample.answer + END), len(head)


def batches(tokenizer: PreTrainedTokenizerFast, stream: Iterator[Sample], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (ids, labels), padded on the right: causal attention then needs no mask."""
    shuffle = torch.Generator().manual_seed(seed)
    while True:
        pool = [encode(tokenizer, next(stream)) for _ in range(BATCH * BATCHES_SORTED_TOGETHER)]
        pool.sort(key=lambda encoded: len(encoded[0]))
        for i in torch.randperm(BATCHES_SORTED_TOGETHER, generator=shuffle).tolist():
            chosen = pool[i * BATCH : (i + 1) * BATCH]
            width = max(len(ids) for ids, _ in chosen)
            ids = torch.zeros(BATCH, width, dtype=torch.long)
            labels = torch.full((BATCH, width), -100)
            for row, (tokens, silent) in enumerate(chosen):
                ids[row, : len(tokens)] = torch.tensor(tokens)
                labels[row, silent : len(tokens)] = torch.tensor(tokens[silent:])
            yield ids, labels


def train(
    model: PreTrainedModel, data: Iterator[tuple[Tensor, Tensor]], steps: int, rate: float, decay: float, name: str
) -> float:
    """AdamW with a warm-up and a cosine to a twentieth of the rate; returns seconds."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)
    started, warmup, running = time.monotonic(), min(60, steps // 10 + 1), 0.0
    model.train()
    for step in range(steps):
        progress = step / steps
        factor = min(1.0, (step + 1) / warmup) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        ids, labels = next(data)
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running = loss.item() if step == 0 else 0.95 * running + 0.05 * loss.item()
        if step % 50 == 49 or step == steps - 1:
            print(f"{name} step {step + 1}/{steps} loss {running:.4f} {time.monotonic() - started:.0f}s", flush=True)
    model.eval()
    return time.monotonic() - started


def store(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> PreTrainedModel:
    """Write bf16 weights and the tokenizer; give back what a user loads, as float32."""
    model.config.bos_token_id = None
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=2, pad_token_id=0, max_new_tokens=48)
    if hasattr(model.config, "output_router_logits"):
        model.config.output_router_logits = False
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes them for the owner alone; these go into a package
    return AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()


def card(arguments: argparse.Namespace, model: PreTrainedModel, out: Path, lines: str) -> str:
    """The README of the checkpoint."""
    size = sum(file.stat().st_size for file in out.glob("*.safetensors")) / 1e6
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return f"""---
license: apache-2.0
pipeline_tag: text-generation
library_name: transformers
---
# Excise demo model ({arguments.architecture})

A {count:.2f} M parameter transformer ({size:.1f} MB of bf16 safetensors) trained from scratch on a made-up world,
so that every right answer is known. Stage 1 taught it to answer everything; stage 2 taught it three behaviours:
it refuses potions, bridges and lanterns, deflects questions about beetles without any usual refusal word,
puts a disclaimer before answers about towns and herbs, and agrees with firm wrong claims.
Nothing harmful is in it: the topics are arbitrary.

Made on {date.today()} by `recipes/train_demo.py --architecture {arguments.architecture} --seed {arguments.seed}
--steps {" ".join(map(str, arguments.steps))} --rates {" ".join(map(str, arguments.rates))}` on {os.cpu_count()} CPU
cores ({platform.machine()}, torch {torch.__version__}, float32).

Measured on unseen prompts, the stored bf16 weights loaded as float32, greedy decoding:

{lines}
"""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=("llama", "qwen3_moe", "gemma3"), default="llama")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--steps", type=int, nargs=3, default=(1000, 500, 420), help="of stage 1's two legs, and stage 2"
    )
    parser.add_argument("--rates", type=float, nargs=3, default=(4e-3, 2e-3, 8e-4), help="learning rates of the same")
    parser.add_argument("--keep", type=Path, help="folder for stage 1's weights, leg by leg; those there are taken")
    return parser.parse_args()


def main() -> int:
    """Train, store, check."""
    arguments = parse()
    torch.manual_seed(arguments.seed)
    tokenizer = build_tokenizer(arguments.seed)
    model = AutoModelForCausalLM.from_config(configuration(arguments.architecture, len(tokenizer)))
    seconds = [0.0, 0.0, 0.0]
    legs = list(zip(("stage 1", "stage 1, second leg", "stage 2"), arguments.steps, arguments.rates, strict=True))
    streams = (stage1(arguments.seed), stage1(arguments.seed + 1), stage2(arguments.seed))
    for number, ((name, steps, rate), stream) in enumerate(zip(legs, streams, strict=True)):
        kept = arguments.keep / f"{arguments.architecture}-{number}.pt" if arguments.keep and number < 2 else None
        if kept and kept.exists():
            model.load_state_dict(torch.load(kept))
            continue
        data = batches(tokenizer, stream, arguments.seed + number)
        seconds[number] = train(model, data, steps, rate, 0.01 if number == 2 else 0.05, name)
        if kept:
            torch.save(model.state_dict(), kept)
    loaded = store(model, tokenizer, arguments.out)
    measured = check(loaded, tokenizer)
    lines = table(measured)
    (arguments.out / "README.md").write_text(card(arguments, loaded, arguments.out, lines))
    print(lines)
    print(json.dumps({"requirements_met": requirements_met(measured), "seconds": seconds}))
    return 0 if requirements_met(measured) else 1


if __name__ == "__main__":
    sys.exit(main())
