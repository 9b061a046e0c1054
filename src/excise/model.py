"""A loaded model: its module, tokenizer and chat template, and how it was loaded and why so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto import modeling_auto
from transformers.utils import logging

from excise.chat import Chat
from excise.errors import ModelError, SpaceError
from excise.placement import choose_device, choose_dtype, choose_lanes, free_memory
from excise.results import ModelFacts, Prompt
from excise.source import Source, find

MaxMemory = Mapping[int | str, int | str]


@dataclass(eq=False)
class Model:
    """A language model ready to run: in eval mode, without gradients on its weights."""

    module: nn.Module
    tokenizer: PreTrainedTokenizerBase
    chat: Chat
    facts: ModelFacts
    """Replaced by the executor where memory forces a smaller micro-batch."""
    path: Path
    end_tokens: frozenset[int]
    """Any of these ends an answer."""
    suffix_length: int
    """Tokens that all prompts share at the end (the post-instruction tokens), at least 1."""

    @property
    def system(self) -> str | None:
        """The system message of prompts that have none of their own."""
        return self.chat.system

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the token embeddings."""
        return self.embeddings.weight.device

    @property
    def embeddings(self) -> nn.Embedding:
        """The input embedding of tokens."""
        embeddings: nn.Embedding = self.module.get_input_embeddings()  # type: ignore[operator]
        return embeddings

    def encode(self, prompts: Sequence[Prompt], prefix: str = "") -> list[list[int]]:
        """Token ids of chat-wrapped prompts, each followed by `prefix` as the beginning of the answer.

        Raises PromptError for a prompt without tokens, ModelError for a template that cannot be rendered.
        """
        return self.chat.encode(prompts, prefix)

    def decode(self, tokens: Sequence[int]) -> tuple[str, str | None]:
        """(answer, reasoning) of generated tokens, without special tokens; reasoning None: there was none."""
        return self.chat.decode(tokens)


def load(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    thinking: str = "auto",
    system: str | None = None,
    micro_batch: int | None = None,
    max_memory: MaxMemory | None = None,
) -> Model:
    """Load a local folder (never touching the network) or a hub id.

    Args:
        thinking: "auto" and "closed" put an empty reasoning block in front of a thinking model's answers, "open" lets
            it reason, "none" leaves the template alone.
        max_memory: per device, as accelerate takes it; given, the model is spread over those devices.

    Raises:
        ModelError: not found, incomplete, of an unknown type, or with weights that do not fit its code.
        SettingsError: unknown dtype, device or thinking; micro_batch < 1.
        SpaceError: the weights do not fit the device.
    """
    found = find(source, revision=revision, trust_remote_code=trust_remote_code)
    place, why_place = choose_device(device)
    kind, why_kind = choose_dtype(dtype, found.dtype, found.parameters, place)
    spread = max_memory is not None or _needs_many(found, kind, place)
    tokenizer = _tokenizer(found, trust_remote_code)
    chat = Chat(tokenizer, thinking=thinking, system=system)
    module = _module(found, kind, place, trust_remote_code, max_memory, spread)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    lanes = choose_lanes(parameters, place, micro_batch)
    facts = ModelFacts(
        source=found.given,
        path=str(found.path),
        revision=found.revision,
        fingerprint=found.fingerprint,
        model_type=str(found.config.get("model_type")),
        parameters=parameters,
        dtype=str(kind).removeprefix("torch."),
        dtype_reason=why_kind,
        device=str(place),
        device_reason=why_place + (", spread over several devices" if spread else ""),
        template=chat.template,
        thinking=chat.thinking,
        **asdict(lanes),
    )
    ends = _end_tokens(module, tokenizer, chat)
    return Model(module, tokenizer, chat, facts, found.path, ends, chat.shared_suffix())


def _needs_many(found: Source, kind: torch.dtype, place: torch.device) -> bool:
    """Whether the weights need several GPUs; raises SpaceError where that does not help either."""
    needed, free = found.parameters * kind.itemsize, free_memory(place)
    if needed <= free:
        return False
    if place.type == "cuda":
        total = sum(free_memory(torch.device("cuda", i)) for i in range(torch.cuda.device_count()))
        if torch.cuda.device_count() > 1 and needed * 1.1 <= total:
            return True
    raise SpaceError(
        f"{found.given}: the weights need {needed / 2**30:.1f} GiB as {kind}, {place} has {free / 2**30:.1f} GiB free. "
        "Choose a narrower dtype, another device, or give max_memory to spread it."
    )


def _tokenizer(found: Source, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(found.path), local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # tokenizers raise a bare Exception for a damaged file
        raise ModelError(
            f"{found.path}: the tokenizer cannot be loaded: {error}. Copy the base model's again."
        ) from error
    return tokenizer


def _module(
    found: Source, kind: torch.dtype, place: torch.device, trust: bool, max_memory: MaxMemory | None, spread: bool
) -> nn.Module:
    options: dict[str, Any] = {
        "dtype": kind,
        "local_files_only": True,
        "trust_remote_code": trust,
        "use_safetensors": True,
        "output_loading_info": True,
        "device_map": "auto" if spread else {"": place},
    }
    if max_memory is not None:
        options["max_memory"] = dict(max_memory)
    try:
        with _quiet():
            module, info = _auto_class(found).from_pretrained(str(found.path), **options)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise SpaceError(f"{found.given}: {place} ran out of memory while loading. Choose a narrower dtype.") from error
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError, ImportError) as error:
        raise ModelError(f"{found.path}: transformers cannot load this model: {error}") from error
    _check_weights(found, info)
    module.eval()
    module.requires_grad_(False)
    return module  # type: ignore[no-any-return]


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no warnings of transformers meanwhile: what they say is checked, and raised if it matters."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _auto_class(found: Source) -> Any:
    """The auto class whose mapping holds the architecture that the checkpoint names; text models first."""
    kind = str(found.config.get("model_type"))
    named = set(found.config.get("architectures") or ())
    text = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    several = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind)
    if several is not None and text not in named and (text is None or several in named):
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def _check_weights(found: Source, info: Mapping[str, Any]) -> None:
    """A model with weights made up on loading must stop: its numbers would mean nothing."""
    troubles = {"missing": "missing_keys", "unexpected": "unexpected_keys", "of another shape": "mismatched_keys"}
    for what, kinds in troubles.items():
        names = sorted(str(name) for name in info.get(kinds) or ())
        if names:
            raise ModelError(
                f"{found.path}: expected the weights that {found.config.get('model_type')!r} needs, found {len(names)} "
                f"{what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}. The checkpoint is incomplete, or "
                "made for another version of transformers."
            )


def _end_tokens(module: nn.Module, tokenizer: PreTrainedTokenizerBase, chat: Chat) -> frozenset[int]:
    config: Any = module.config
    given = [
        getattr(getattr(module, "generation_config", None), "eos_token_id", None),
        getattr(config, "eos_token_id", None),
        getattr(config.get_text_config(), "eos_token_id", None),
        tokenizer.eos_token_id,
        chat.turn_end(),
    ]
    ids: set[int] = set()
    for value in given:
        ids.update(value if isinstance(value, list | tuple) else () if value is None else (value,))
    return frozenset(int(i) for i in ids)
