"""Judging and comparing without a run: answers from a file, checkpoints made by any tool."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from excise import behaviours, stages
from excise.errors import PromptError, SettingsError
from excise.evaluate.behaviour import MarkerJudge
from excise.evaluate.drift import between, drift_summary
from excise.evaluate.score import score
from excise.observer import Observer
from excise.results import Answer, Prompt, Score
from excise.settings import RunSettings


def judge_file(path: Path, behaviour: str) -> Iterator[dict[str, Any]]:
    """One {"verdict", "score", "reason"} for each {"prompt", "response"} line. Raises PromptError with the line."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"{path}: expected a UTF-8 .jsonl file of answers, found: {error}.") from error
    answers = [_answer(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not answers:
        raise PromptError(f"{path}: expected one JSON object a line, found nothing.")
    for judged in MarkerJudge(behaviours.load(behaviour))(answers):
        yield {
            "verdict": judged.label,
            "score": round(judged.score, 4),
            "reason": judged.reason,
            "truncated": judged.truncated,
        }


def _answer(line: str, where: str) -> Answer:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise PromptError(f"{where}: expected a JSON object, found: {error}.") from error
    if not isinstance(row, dict) or not isinstance(row.get("response"), str) or not isinstance(row.get("prompt"), str):
        found = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise PromptError(f'{where}: expected {{"prompt": text, "response": text}}, found {found}.')
    finish = "length" if row.get("finish_reason") == "length" else "stop"
    return Answer(Prompt(row["prompt"]), row["response"], (), finish)  # type: ignore[arg-type]


def compare(settings: RunSettings, edited: Sequence[str], observer: Observer) -> tuple[Score, ...]:
    """Base and other checkpoints on the test split, with drift. Raises SettingsError for other tokenizers."""
    behaviour = stages.behaviour_of(settings)
    prompts = stages.gather_prompts(settings, behaviour)
    observer.stage("base", f"asking {settings.model}")
    bench = stages.set_up(settings, behaviour, observer)
    judge = stages.make_judge(bench, stages.ask_base(bench, prompts))
    sides = prompts.target["test"], prompts.neutral["test"]
    said, kept = (bench.executor.generate(side, settings.max_tokens) for side in sides)
    texts = [answer.prompt.text for answer in kept]
    scores = [score("base", said, kept, judge, base_neutral=None, drift=None)]
    for source in edited:
        observer.stage("edited", f"asking {source}")
        other = stages.set_up(settings.model_copy(update={"model": source}), behaviour, observer)
        if other.model.encode(sides[0][:8]) != bench.model.encode(sides[0][:8]):
            raise SettingsError(
                f"{source}: expected the base's tokenizer and chat template, found others. Compare like with like."
            )
        answers, unchanged = (other.executor.generate(side, settings.max_tokens) for side in sides)
        moved = drift_summary(between(bench.executor, other.executor, kept, tokens=settings.max_tokens), texts)
        scores.append(score(source, answers, unchanged, judge, base_neutral=kept, drift=moved))
    return tuple(scores)
