"""A run that is killed ends in the same bytes as one that is not, and the same command twice gives the same bytes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import killing

PROMPTS = 44
"""Of each side: 17 to 18 to extract, 6 or 7 to select and confirm, 13 or 14 to test."""


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run."""

    options: tuple[str, ...]
    path: Path
    seconds: dict[str, float]
    hashes: dict[str, str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """A short run of the demo model: the whole story, in seconds."""
    folder = tmp_path_factory.mktemp("resume")
    options = ("--rounds", "1", "--max-tokens", "24", *killing.demo_prompts(folder / "prompts", PROMPTS))
    seconds = killing.whole(options, folder / "whole")
    yield Whole(options, folder / "whole", seconds, killing.hashes(folder / "whole"))


def test_compared_files_are_the_checkpoint_the_recipe_and_the_verdict(whole: Whole) -> None:
    found = whole.hashes
    assert {"recipe.json", "recipe.safetensors", "stages/verdict.json", "model/config.json"} <= found.keys()
    assert any(name.startswith("model/") and name.endswith(".safetensors") for name in found)


def test_same_command_twice_gives_the_same_bytes(whole: Whole, tmp_path: Path) -> None:
    killing.whole(whole.options, tmp_path / "again")
    assert killing.differences(whole.hashes, tmp_path / "again") == []


def test_killed_in_several_stages_and_resumed_gives_the_same_bytes(whole: Whole, tmp_path: Path) -> None:
    """The last kill comes while the checkpoint is being written."""
    out = tmp_path / "killed"
    plan = [killing.Moment("base", 0.5), killing.Moment("search", 0.4), killing.Moment("write", 0.0)]
    kills = [killing.kill_at(whole.options, out, moment, whole.seconds) for moment in plan]
    assert all(kill is not None for kill in kills), "the run had ended before it could be killed"
    stages = [kill.stage for kill in kills if kill is not None]
    assert len(set(stages)) == len(stages)
    assert not killing.finished(out)
    killing.complete(whole.options, out)
    assert killing.finished(out)
    assert killing.differences(whole.hashes, out) == []


def test_a_difference_is_seen(whole: Whole) -> None:
    """The comparison itself: one changed byte, one missing file."""
    changed = {**whole.hashes, "recipe.json": "0", "model/more.bin": "0"}
    assert killing.differences(changed, whole.path) == ["model/more.bin", "recipe.json"]
