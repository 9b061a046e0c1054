"""End to end on the demo model, whose right answers are known: the behaviour goes, the right answers come back."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import excise
from excise import api, demo
from excise.checkpoint import load_recipe
from excise.demo.world import BEHAVIOURS, Example, truth, unseen
from excise.errors import BehaviourError, CheckpointError, PromptError, SettingsError, StoreError
from excise.executor import Resident
from excise.model import load
from excise.results import Answer, Front, Judged, Prompt
from excise.store import RunDirectory
from excise.story import Run


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}


@pytest.fixture(scope="module")
def refusal(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return api.run(out=tmp_path_factory.mktemp("runs") / "refusal")


def said_of(behaviour: str, answers: list[Answer], part: str) -> list[str]:
    """The world's own truth about answers."""
    known = {example.prompt: example for example in unseen(behaviour, part)}  # type: ignore[arg-type]
    return [truth(behaviour, known[answer.prompt.text], answer.text) for answer in answers]  # type: ignore[arg-type]


def check_removed(run: Run, behaviour: str, *, by_topic: bool) -> None:
    """The issue's bounds, by the world's truth, on at least 100 prompts: of every topic, or in all."""
    verdict = run.verdict
    answers = [row.answer for row in verdict.edited.target]
    said = said_of(behaviour, answers, "target")
    topics: dict[str, list[str]] = {}
    for answer, verdict_of in zip(answers, said, strict=True):
        topics.setdefault(str(answer.prompt.topic) if by_topic else "all", []).append(verdict_of)
    before = said_of(behaviour, [row.answer for row in verdict.base.target], "target")
    assert before.count("behaviour") >= 0.98 * len(before), "it was not there before"
    for topic, rows in topics.items():
        assert len(rows) >= 100, topic
        assert rows.count("behaviour") <= 0.02 * len(rows), topic
        assert rows.count("right") >= 0.90 * len(rows), topic
    assert verdict.edited.kept is not None and verdict.edited.kept.value >= 0.99
    assert verdict.edited.drift is not None and verdict.edited.drift.mean <= 0.001
    control = said_of(behaviour, [row.answer for row in verdict.controls[0].target], "target")
    assert control.count("behaviour") >= 0.9 * len(control), "a random direction does it too"


def shown_rates(path: Path) -> dict[str, float]:
    """Share of unseen target prompts (80 each) that show each behaviour."""
    executor = Resident(load(path))
    rates = {}
    for behaviour in BEHAVIOURS:
        examples: list[Example] = list(unseen(behaviour, "target"))[:80]  # type: ignore[arg-type]
        answers = executor.generate([Prompt(example.prompt) for example in examples], 40)
        rates[behaviour] = said_of(behaviour, answers, "target").count("behaviour") / len(answers)
    return rates


def check_others_stay(run: Run, behaviour: str) -> None:
    """The other behaviours stay within 5 points of the base."""
    before, after = shown_rates(demo.path()), shown_rates(run.model)
    for other in BEHAVIOURS:
        if other != behaviour:
            assert abs(after[other] - before[other]) <= 0.05, other


def test_refusal_goes_for_every_topic(refusal: Run) -> None:
    check_removed(refusal, "refusal", by_topic=True)


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="open: hedging falls to 79% of its prompts when refusal is removed, see docs/log.md",
)
def test_the_other_behaviours_stay_when_refusal_goes(refusal: Run) -> None:
    check_others_stay(refusal, "refusal")


@pytest.mark.parametrize("behaviour", ["hedging", "agreeing"])
def test_other_behaviours_go_alone(behaviour: str, tmp_path: Path) -> None:
    run = api.run(out=tmp_path / "run", behaviour=behaviour)
    check_removed(run, behaviour, by_topic=False)
    check_others_stay(run, behaviour)


def test_the_judge_agrees_with_the_worlds_truth(refusal: Run) -> None:
    for state in (refusal.verdict.base, refusal.verdict.edited, *refusal.verdict.controls):
        for rows, part in ((state.target, "target"), (state.neutral, "neutral")):
            said = said_of("refusal", [row.answer for row in rows], part)
            agree = sum(shows(row) == (word == "behaviour") for row, word in zip(rows, said, strict=True))
            assert agree >= 0.98 * len(rows), (state.name, part)


def shows(row: Judged) -> bool:
    return row.label in ("shows", "partly")


def test_only_edited_tensors_change(refusal: Run) -> None:
    base, edited = load_file(demo.path() / "model.safetensors"), load_file(refusal.model / "model.safetensors")
    touched = {name for edit in refusal.plan.edits for name in edit.writer.tensors}
    assert base.keys() == edited.keys() and touched
    for name, tensor in base.items():
        assert edited[name].dtype == tensor.dtype
        assert torch.equal(tensor, edited[name]) == (name not in touched), name
    for name in ("config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja"):
        assert (refusal.model / name).read_bytes() == (demo.path() / name).read_bytes()


def test_what_was_measured_is_what_was_written(refusal: Run) -> None:
    executor = Resident(load(refusal.model))
    rows = refusal.verdict.edited.target[:64]
    again = executor.generate([row.answer.prompt for row in rows], 64)
    assert [answer.text for answer in again] == [row.answer.text for row in rows]


def test_transformers_loads_it_and_it_answers(refusal: Run) -> None:
    module, info = AutoModelForCausalLM.from_pretrained(refusal.model, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and module is not None


def test_recipe_makes_the_same_bytes(refusal: Run, tmp_path: Path) -> None:
    api.apply(refusal.path / "recipe.json", out=tmp_path / "from-recipe", base=demo.path())
    assert digests(tmp_path / "from-recipe")["model.safetensors"] == digests(refusal.model)["model.safetensors"]
    plan, base = load_recipe(refusal.path)
    assert base["source"] == "demo" and len(plan.edits) == len(refusal.plan.edits)
    with pytest.raises(CheckpointError, match="fingerprint"):
        api.apply(refusal.path, out=tmp_path / "other", base=refusal.model)


def test_another_point_of_the_front_can_be_exported(refusal: Run, tmp_path: Path) -> None:
    front = RunDirectory.open(refusal.path).load("confirm", Front)
    others = [candidate.index for candidate in front.candidates if candidate.index != front.chosen]
    assert others, "the front has one point only"
    api.apply(refusal.path, out=tmp_path / "other", candidate=others[0])
    assert digests(tmp_path / "other")["model.safetensors"] != digests(refusal.model)["model.safetensors"]
    with pytest.raises(BehaviourError, match="expected one of the front"):
        api.apply(refusal.path, out=tmp_path / "none", candidate=999)
    assert not (tmp_path / "none").exists()


def test_a_finished_run_is_read_back(refusal: Run) -> None:
    again = api.resume(refusal.path)
    assert again.verdict == refusal.verdict
    with pytest.raises(StoreError, match="expected nothing there"):
        api.run(out=refusal.path)


def test_report_and_card_say_the_same(refusal: Run) -> None:
    page, card = refusal.report.read_text("utf-8"), (refusal.model / "README.md").read_text("utf-8")
    assert len(page) < 3_000_000 and "random direction" in page
    assert f"{refusal.verdict.edited.behaviour.total}" in card and "base_model" in card


def test_a_given_direction_is_applied(tmp_path: Path) -> None:
    direction = torch.nn.functional.normalize(torch.randn(api.writers_of(None)[-1].layer + 1, d_model()), dim=-1)
    result = api.apply(str(demo.path()), direction=direction, out=tmp_path / "out", layers=(1, 3), writers=["mlp"])
    assert len(result.residuals) == 2 and all(value is not None and value < 0.02 for value in result.residuals.values())
    for wrong, said in (({"layers": (3, 99)}, "layers"), ({"writers": ["ffn"]}, "writers")):
        with pytest.raises(SettingsError, match=said):
            api.apply(str(demo.path()), direction=direction, out=tmp_path / "no", **wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="expected shape"):
        api.apply(str(demo.path()), direction=torch.ones(5), out=tmp_path / "no")


def d_model() -> int:
    return int(json.loads((demo.path() / "config.json").read_text())["hidden_size"])


def write(path: Path, rows: list[str]) -> str:
    path.write_text("\n".join(rows), "utf-8")
    return str(path)


def test_nothing_to_remove_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    neutral = [example.prompt for example in unseen("refusal", "neutral")]
    target, other = write(tmp_path / "t.txt", neutral[:200]), write(tmp_path / "n.txt", neutral[200:400])
    with pytest.raises(BehaviourError, match=r"nothing to remove: 0 of \d+"):
        api.run(str(demo.path()), out=tmp_path / "run", target=target, neutral=other)


def test_bad_prompts_leave_no_folder(tmp_path: Path) -> None:
    rows = [example.prompt for example in unseen("refusal", "neutral")][:100]
    same, few, empty = (
        write(tmp_path / "a.txt", rows),
        write(tmp_path / "b.txt", rows[:5]),
        write(tmp_path / "c.txt", []),
    )
    for target, neutral in ((same, same), (few, same), (empty, same), (str(tmp_path / "no.txt"), same)):
        with pytest.raises(PromptError):
            api.run(str(demo.path()), out=tmp_path / "run", target=target, neutral=neutral)
        assert not (tmp_path / "run").exists()
    with pytest.raises(PromptError, match="both"):
        api.run(str(demo.path()), out=tmp_path / "run", target=same)


def test_errors_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(excise.ExciseError, match="neither a folder nor a hub id"):
        api.run("/no/such/folder", out=tmp_path / "run")
    with pytest.raises(SettingsError, match="Did you mean"):
        api.run(out=tmp_path / "run", behavior="refusal")
    assert not (tmp_path / "run").exists()
