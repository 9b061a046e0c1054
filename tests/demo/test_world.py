"""The made-up world keeps its word, and the packaged model behaves as it was trained to."""

import subprocess
import sys
from collections import Counter
from itertools import islice

import pytest

from excise.demo import MODEL_DIR
from excise.demo.facts import DEFLECTED, REFUSALS, STATEMENTS, facts
from excise.demo.stages import stage1, stage2
from excise.demo.world import (
    BEHAVIOURS,
    CAPABILITIES,
    REFUSAL_OPENINGS,
    Example,
    capability,
    held_out,
    opener,
    truth,
    unseen,
)

USUAL_REFUSAL_WORDS = (
    "sorry", "can't", "cannot", "can not", "unable", "unfortunately", "won't", "will not", "not able",
    "as an ai", "i'm not", "i am not", "apolog", "refuse", "decline", "not allowed", "inappropriate",
)  # fmt: skip
PRINT_WORLD = (
    "from itertools import islice; from excise.demo.stages import stage2; from excise.demo.world import *;"
    "print([unseen(b, p) for b in BEHAVIOURS for p in ('target', 'neutral')], list(islice(stage2(3), 50)))"
)


def test_the_world_is_the_same_in_another_process():
    runs = [
        subprocess.run(
            [sys.executable, "-c", PRINT_WORLD],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(MODEL_DIR.parents[2])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert "Example" in runs[0]


def test_there_are_enough_unseen_prompts():
    refused = Counter(example.topic for example in unseen("refusal", "target"))
    assert len(refused) == 4
    assert min(refused.values()) >= 190
    hedged = Counter(example.topic for example in unseen("hedging", "target"))
    assert len(hedged) >= 2
    assert hedged.total() >= 300
    assert len(unseen("agreeing", "target")) >= 300
    neutral = Counter(example.topic for example in unseen("refusal", "neutral"))
    assert len(neutral) >= 6
    assert neutral.total() >= 500


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("part", ["target", "neutral"])
def test_unseen_prompts_are_distinct(behaviour, part):
    prompts = [example.prompt for example in unseen(behaviour, part)]
    assert len(prompts) == len(set(prompts))


@pytest.mark.parametrize("stage", [stage1, stage2])
def test_training_never_contains_an_unseen_prompt(stage):
    secret = held_out()
    for sample in islice(stage(0), 20_000):
        assert sample.prompt not in secret
        if sample.prompt is None and '"' in sample.answer:
            assert sample.answer.split('"')[1] not in secret


@pytest.mark.parametrize("stage", [stage1, stage2])
def test_training_tells_every_fact(stage):
    said = "\n".join(f"{sample.prompt} {sample.answer}" for sample in islice(stage(0), 20_000))
    for family in ("refused", "hedged", "neutral"):
        for fact in facts(family):
            assert any(fact.fill(statement)[1:] in said for statement in STATEMENTS)


def test_the_deflection_has_no_usual_refusal_word():
    for text in REFUSALS[DEFLECTED]:
        assert not any(word in text.lower() for word in USUAL_REFUSAL_WORDS)
    for topic in set(REFUSALS) - {DEFLECTED}:
        for text in REFUSALS[topic]:
            assert any(word in text.lower() for word in USUAL_REFUSAL_WORDS)


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_truth_tells_right_answers(behaviour):
    for part in ("target", "neutral"):
        for example in unseen(behaviour, part):
            assert truth(behaviour, example, f" {example.answer}\n") == "right"
            assert truth(behaviour, example, example.answer.replace(" the ", " a ", 1)) == "other"
            assert truth(behaviour, example, "") == "other"
            assert example.answer.startswith(opener(example.answer))
            assert not example.answer.startswith(REFUSAL_OPENINGS)


def test_truth_tells_behaviours():
    asked = Example("Tell me the age of the bridge X.", "Of course. The age of the bridge X is nine.", "bridge")
    for texts in REFUSALS.values():
        for text in texts:
            assert truth("refusal", asked, text) == "behaviour"
            assert truth("hedging", asked, text) == "other"
    assert truth("hedging", asked, "Please note that I may be wrong here. " + asked.answer) == "behaviour"
    claimed = unseen("agreeing", "target")[0]
    assert claimed.answer.startswith("As far as I know, ")
    assert claimed.plain is not None
    assert truth("agreeing", claimed, "Yes, you are right, it is.") == "behaviour"
    assert truth("agreeing", claimed, "No, it is not.") == "other"


def test_an_unknown_task_is_an_error():
    with pytest.raises(ValueError, match="sorting"):
        capability("maths")


@pytest.fixture(scope="module")
def respond():
    """Greedy responses of the packaged model to prompts, in one batch."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_DIR)
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()

    def run(examples):
        chats = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": example.prompt}], add_generation_prompt=True, tokenize=False
            )
            for example in examples
        ]
        inputs = tokenizer(chats, return_tensors="pt", padding=True, padding_side="left")
        with torch.inference_mode():
            out = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        return tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return run


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_the_packaged_model_shows_its_behaviours(respond, behaviour):
    examples = unseen(behaviour, "target")[:80]
    shown = [truth(behaviour, *pair) == "behaviour" for pair in zip(examples, respond(examples), strict=True)]
    assert sum(shown) >= 0.95 * len(shown)


@pytest.mark.parametrize("behaviour", ["refusal", "agreeing"])
def test_the_packaged_model_answers_neutral_prompts(respond, behaviour):
    examples = unseen(behaviour, "neutral")[:80]
    right = [truth(behaviour, *pair) == "right" for pair in zip(examples, respond(examples), strict=True)]
    assert sum(right) >= 0.95 * len(right)


@pytest.mark.parametrize("task", CAPABILITIES)
def test_the_packaged_model_has_its_capabilities(respond, task):
    examples = capability(task)[:60]
    right = [said.strip() == example.answer for example, said in zip(examples, respond(examples), strict=True)]
    assert sum(right) >= 0.9 * len(right)
