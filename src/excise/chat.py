"""How a prompt becomes tokens: chat template, system text, the closed reasoning block, the turn's end.

Rendered strings are tokenised as a whole and without extra special tokens: the template writes its own BOS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from excise.errors import ModelError, PromptError, SettingsError
from excise.results import Prompt

_PROBE = "zqprobe"
_PROBES = ("Why?", "name three things (of any kind), please", "7 × 8 =", "Привет", "a b\n\nc.")


@dataclass(frozen=True)
class Tags:
    """The marks around a thinking model's reasoning."""

    open: str
    close: str
    empty: str
    """A whole empty block, where the template opens none."""
    shut: str
    """What closes a block that the generation prompt has opened (a line break is put before it if one is missing)."""
    seam: str = ""
    """What stands between the reasoning and `close`."""


TAGS: tuple[Tags, ...] = (
    Tags("<think>", "</think>", "<think>\n\n</think>\n\n", "\n</think>\n\n"),
    Tags("<thought>", "</thought>", "<thought>\n\n</thought>\n\n", "\n</thought>\n\n"),
    Tags("[THINK]", "[/THINK]", "[THINK][/THINK]", "[/THINK]"),
    Tags(  # gpt-oss
        "<|channel|>analysis<|message|>",
        "<|channel|>final<|message|>",
        "<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        seam="<|end|><|start|>assistant",
    ),
    Tags("<|channel>thought\n", "<channel|>", "<|channel>thought\n<channel|>", "<channel|>"),  # Gemma 4
)
SWITCHES = ("enable_thinking", "thinking")
"""Template variables that turn reasoning on and off (Qwen 3, SmolLM 3 and GLM; DeepSeek 3.1 and Granite)."""


class Chat:
    """Wraps prompts for one tokenizer.

    Raises:
        ModelError: the chat template cannot be rendered.
        SettingsError: unknown `thinking`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, thinking: str = "auto", system: str | None = None):
        if thinking not in ("auto", "none", "closed", "open"):
            raise SettingsError(f"thinking: expected auto, none, closed or open, found {thinking!r}.")
        self._tokenizer: Any = tokenizer
        self.system = system
        self.tags: Tags | None = None
        """The marks of this model's reasoning; None: no thinking model, or marks that are not known."""
        self.thinking: str = "none"
        self.template = "plain"
        """"chat", "chat without system role" or "plain" (prompt text and a line break)."""
        self._switch: dict[str, bool] = {}
        self._appended = ""
        self._starts_open = False
        self._bos = self._leading()
        if tokenizer.chat_template:
            self.template = "chat" if self._has_system_role() else "chat without system role"
            if thinking != "none":
                self._settle_thinking(thinking)

    # ------------------------------------------------------------ text
    def render(self, prompt: Prompt) -> str:
        """The string that the model is to go on from, up to and with the closed reasoning block."""
        system = prompt.system if prompt.system is not None else self.system
        if self.template == "plain":
            return (f"{system}\n\n{prompt.text}" if system else prompt.text) + "\n"
        turns = [{"role": "user", "content": prompt.text}]
        if system and self.template == "chat":
            turns.insert(0, {"role": "system", "content": system})
        elif system:
            turns[0]["content"] = f"{system}\n\n{prompt.text}"
        return self._apply(turns, **self._switch) + self._appended

    def encode(self, prompts: Sequence[Prompt], prefix: str = "") -> list[list[int]]:
        """Token ids of every prompt, followed by those of `prefix` as the beginning of the answer.

        The prefix never changes the tokens before it: where a tokenizer would merge across the seam (a model could not
        have generated that), the prefix is tokenised on its own.

        Raises:
            PromptError: a prompt without a single token.
        """
        texts = [self.render(prompt) for prompt in prompts]
        rows = self._ids(texts)
        for position, row in enumerate(rows):
            if not row:
                raise PromptError(f"prompt {position}: expected at least one token, found none. Remove it.")
        if not prefix:
            return rows
        wholes = self._ids([text + prefix for text in texts])
        alone: list[int] = self._tokenizer(prefix, add_special_tokens=False)["input_ids"]
        return [
            whole if whole[: len(row)] == row and len(whole) > len(row) else row + alone
            for row, whole in zip(rows, wholes, strict=True)
        ]

    def decode(self, tokens: Sequence[int]) -> tuple[str, str | None]:
        """(answer, reasoning) of generated tokens, both without special tokens; reasoning None: there was none."""
        raw = self._text(tokens, skip=False)
        answer, reasoning = self._split(raw)
        if reasoning is None:
            return self._text(tokens, skip=True), None
        return self._clean(answer).lstrip("\n"), self._clean(reasoning).strip("\n")

    def shared_suffix(self) -> int:
        """How many tokens at the end are the same for all prompts (the post-instruction tokens), at least 1."""
        rows = self.encode([Prompt(text) for text in _PROBES])
        shortest = min(len(row) for row in rows)
        count = 0
        while count < shortest - 1 and len({row[-1 - count] for row in rows}) == 1:
            count += 1
        return max(count, 1)

    def turn_end(self) -> int | None:
        """The special token that the template puts after an assistant's turn; None: none, or not a single token."""
        if self.template == "plain" or (self.tags is not None and self.tags.seam):
            return None  # gpt-oss ends its reasoning with the token that ends a turn; its eos tokens are complete
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _PROBE}]
        try:
            text = self._apply(turns, generation=False, **self._switch)
        except ModelError:  # a template that has no assistant turns: the eos tokens must do
            return None
        rest: list[int] = self._tokenizer(text.rpartition(_PROBE)[2].lstrip(), add_special_tokens=False)["input_ids"]
        return rest[0] if rest and rest[0] in self._special_ids() else None

    # ------------------------------------------------------------ reading the template
    def _apply(self, turns: list[dict[str, str]], *, generation: bool = True, **switch: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=generation, **switch
            )
        except Exception as error:  # a template is a program of its own and raises what it likes
            raise ModelError(f"chat template: cannot be rendered: {error}. Mend chat_template.jinja.") from error
        return str(text)

    def _has_system_role(self) -> bool:
        turns = [{"role": "system", "content": _PROBE}, {"role": "user", "content": "x"}]
        try:
            return _PROBE in self._apply(turns)
        except ModelError:
            self._apply(turns[1:])  # raises where the template is broken altogether
            return False

    def _settle_thinking(self, thinking: str) -> None:
        """Find out how this template reasons, and set what closes (or opens) it."""
        turn = [{"role": "user", "content": "x"}]
        source = str(self._tokenizer.get_chat_template())
        self.tags = next((tags for tags in TAGS if tags.close in source or tags.open in source), None)
        name = next((s for s in SWITCHES if self._apply(turn, **{s: True}) != self._apply(turn, **{s: False})), None)
        if name is None and self.tags is None:
            return
        self.thinking = "open" if thinking == "open" else "closed"
        if name is not None:
            self._switch = {name: self.thinking == "open"}
        rendered = self._apply(turn, **self._switch)
        if self.tags is None:
            return
        opened = rendered.rstrip().endswith(self.tags.open.rstrip())
        if self.thinking == "open":
            self._starts_open = opened
        elif opened:
            missing_break = self.tags.shut.startswith("\n") and not rendered.endswith("\n")
            self._appended = "\n" * missing_break + self.tags.shut
        elif name is None and not rendered.rstrip().endswith(self.tags.close):
            self._appended = self.tags.empty

    def _split(self, text: str) -> tuple[str, str | None]:
        head = text.lstrip()
        for tags in TAGS:
            inside = self._starts_open and tags == self.tags
            if inside or head.startswith(tags.open):
                reasoning, found, answer = head.removeprefix(tags.open).partition(tags.close)
                return (answer if found else ""), reasoning.removesuffix(tags.seam)
        return text, None

    # ------------------------------------------------------------ the tokenizer
    def _ids(self, texts: list[str]) -> list[list[int]]:
        rows: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [self._bos + row for row in rows] if self.template == "plain" else rows

    def _leading(self) -> list[int]:
        """What the tokenizer itself puts in front of a text (BOS); only used without a chat template."""
        bare: list[int] = self._tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
        full: list[int] = self._tokenizer(_PROBE, add_special_tokens=True)["input_ids"]
        start = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
        return full[:start]

    def _text(self, tokens: Sequence[int], *, skip: bool) -> str:
        text = self._tokenizer.decode(list(tokens), skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        return str(text)

    def _special_ids(self) -> set[int]:
        added = self._tokenizer.added_tokens_decoder.items()
        return {int(i) for i, token in added if token.special} | set(self._tokenizer.all_special_ids)

    def _clean(self, text: str) -> str:
        for token in self._tokenizer.convert_ids_to_tokens(sorted(self._special_ids())):
            text = text.replace(token, "")
        return text
