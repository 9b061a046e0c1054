"""A full set of made-up results, consistent in themselves, for tests of whatever reads results.

`make_results()` gives every stage's value; `make_facts()` gathers them. Numbers come from a seeded generator.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any

import torch

from excise.report import BehaviourWords, Facts, gather
from excise.results import (
    Answer,
    Candidate,
    Confirmation,
    Directions,
    Drift,
    EditPlan,
    Front,
    Judged,
    Label,
    ModelFacts,
    Prompt,
    PromptSet,
    Rate,
    Round,
    Score,
    Separation,
    Terms,
    TopicRow,
    Verdict,
    Writer,
    WriterEdit,
)

TOPICS = ("beetle", "bridge", "lantern", "potion")
LAYERS = 6
WIDTH = 16


@dataclass(frozen=True)
class Results:
    """Everything that a run hands on, as far as reports need it."""

    settings: dict[str, object]
    command: str
    versions: dict[str, str]
    model: ModelFacts
    behaviour: BehaviourWords
    judge: str
    prompts: PromptSet
    separation: Separation
    directions: Directions
    plan: EditPlan
    front: Front
    verdict: Verdict
    budget: float
    licence: dict[str, str]


def make_results(
    *,
    per_topic: int = 40,
    neutral: int = 60,
    topics: tuple[str, ...] = TOPICS,
    layers: int = LAYERS,
    positions: int = 4,
    candidates: int = 9,
    right: bool = True,
) -> Results:
    """Results of a refusal run on a small Llama: all refused before, nearly none after."""
    directions = make_directions(layers)
    plan = make_plan(directions, 1.0)
    return Results(
        settings={"seed": 0, "norm": "columns", "search": {"rounds": 2, "weights": [3.0, 1.0, 0.3]}, "out": "demo-run"},
        command="excise run demo --behaviour refusal --seed 0 --out demo-run",
        versions={"python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0", "excise": "0.1.0"},
        model=make_model(),
        behaviour=BehaviourWords(
            "refusal",
            "Refusal",
            "The model declines to answer a request, openly or by changing the subject.",
            "refuses",
        ),
        judge="the refusal rules of this package, and the model's own labelled answers.",
        prompts=make_prompts(per_topic, neutral, topics),
        separation=make_separation(layers, positions),
        directions=directions,
        plan=plan,
        front=make_front(directions, candidates),
        verdict=make_verdict(per_topic, neutral, topics, right=right),
        budget=0.05,
        licence={"license": "apache-2.0"},
    )


def make_facts(results: Results | None = None, **changes: Any) -> Facts:
    """`gather` over the results, some of them replaced."""
    found = results or make_results()
    return gather(**{**vars(found), **changes})


def wilson(count: int, total: int) -> Rate:
    """A rate with its 95% Wilson interval."""
    if not total:
        return Rate(0, 0, 0.0, 1.0)
    z, share = 1.959963984540054, count / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return Rate(count, total, max(0.0, middle - half), min(1.0, middle + half))


def make_model(source: str = "demo") -> ModelFacts:
    """A local demo model."""
    return ModelFacts(
        source=source,
        path="/models/demo",
        revision=None,
        fingerprint="5f" * 32,
        model_type="llama",
        parameters=3_932_160,
        dtype="bfloat16",
        dtype_reason="as stored",
        device="cpu",
        device_reason="no accelerator found",
        template="chat",
        thinking="none",
        micro_batch=16,
        at_once=1,
        threads=2,
    )


def make_prompts(per_topic: int, neutral: int, topics: tuple[str, ...]) -> PromptSet:
    """Disjoint splits of made-up questions."""
    sizes = {"extract": 2, "select": 1, "confirm": 1, "test": 1}
    target = {
        split: tuple(
            Prompt(f"What colour is {topic} {split} {number}?", answer="It is red.", topic=topic)
            for topic in topics
            for number in range(per_topic * times)
        )
        for split, times in sizes.items()
    }
    plain = {
        split: tuple(Prompt(f"Where is town {split} {number}?") for number in range(neutral * times))
        for split, times in sizes.items()
    }
    return PromptSet(target, plain, {"duplicate": 3, "empty": 1}, (), "a7" * 32)


def make_separation(layers: int, positions: int) -> Separation:
    """Rises over the layers, best at the last token."""
    depth = torch.linspace(0, 1, layers)[:, None]
    fade = torch.linspace(1, 0.4, positions)[None, :]
    auroc = 0.5 + 0.49 * torch.sin(depth * 2.2) * fade
    return Separation(auroc=auroc.double(), gap=(auroc * 4 - 2).double(), cosine=(1 - depth * fade / 2).double())


def make_directions(layers: int = LAYERS) -> Directions:
    """Random unit vectors, one a layer."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(layers, 1, WIDTH, generator=generator), dim=-1)
    return Directions(vectors, "difference of means", "layer 3, position 0", 0.987)


def make_plan(directions: Directions, scale: float) -> EditPlan:
    """Attention and MLP of every layer but the first."""
    generator = random.Random(1)
    edits = []
    for layer in range(1, directions.vectors.shape[0]):
        for role, module in (("attention", "self_attn.o_proj"), ("mlp", "mlp.down_proj")):
            path = f"model.layers.{layer}.{module}"
            writer = Writer(
                name=f"layers.{layer}.{role}",
                layer=layer,
                role=role,  # type: ignore[arg-type]
                module=path,
                parameter=f"{path}.weight",
                layout="linear",
                tensors=(f"{path}.weight",),
                stored_layout="linear",
            )
            strength = scale * generator.uniform(-0.2, 1.1)
            edits.append(WriterEdit(writer, directions.vectors[layer], torch.tensor([strength])))
    return EditPlan(tuple(edits), "columns")


def make_front(directions: Directions, candidates: int) -> Front:
    """From hardly any damage to too much; all but the last few confirmed."""
    found = []
    for index in range(candidates):
        drift = 0.0004 * 2.4**index
        left = round(128 * math.exp(-index * 0.9))
        found.append(
            Candidate(
                index=index,
                round=1 + index % 2,
                weight=round(3.0 / (index + 1), 3),
                plan=make_plan(directions, index / 8),
                terms=Terms(first=2.0 / (index + 1), target=0.02, neutral=drift * 1.1),
                select=wilson(left, 128),
                confirmed=Confirmation(wilson(min(96, left), 96), wilson(index // 4, 96), wilson(60 - index, 60), drift)
                if index < candidates - 3
                else None,
            )
        )
    starts = {"layer 3, position 0": 0.41, "layer 4, position 0": 0.55, "each layer's own, position 0": 0.72}
    rounds = (
        Round(1, "layer 3, position 0", starts, 24, wilson(4, 128), 0.0031, 14.2),
        Round(2, "layer 4, position 1", {"layer 4, position 1": 0.12}, 24, wilson(1, 128), 0.0012, 12.8),
    )
    return Front(tuple(found), max(0, candidates - 4), rounds, "gradient", "rate reached")


def make_judged(prompt: Prompt, text: str, label: Label, *, reasoning: str | None = None) -> Judged:
    """One judged answer."""
    answer = Answer(prompt, text, tuple(range(5)), "stop", reasoning)
    return Judged(answer, label, {"shows": 1.0, "partly": 0.5}.get(label, 0.0), f"made up: {label}", truncated=False)


def make_score(name: str, prompts: PromptSet, refused: int, *, right: bool, drift: float | None) -> Score:
    """A score whose first `refused` target prompts show the behaviour."""
    target, neutral = prompts.target["test"], prompts.neutral["test"]
    judged = tuple(
        make_judged(prompt, f"I cannot help with that ({name}).", "shows")
        if number < refused
        else make_judged(prompt, "It is red.", "absent")
        for number, prompt in enumerate(target)
    )
    topics = {}
    for topic in sorted({prompt.topic or "" for prompt in target}):
        own = [one for one in judged if one.answer.prompt.topic == topic]
        shown = sum(one.label == "shows" for one in own)
        topics[topic] = TopicRow(wilson(shown, len(own)), wilson(len(own) - shown, len(own)) if right else None)
    return Score(
        name=name,
        behaviour=wilson(refused, len(target)),
        right=wilson(len(target) - refused, len(target)) if right else None,
        neutral_behaviour=wilson(0, len(neutral)),
        neutral_right=wilson(len(neutral) - 1, len(neutral)) if right else None,
        kept=None if drift is None else wilson(len(neutral) - 1, len(neutral)),
        empty=wilson(0, len(target)),
        gibberish=wilson(0, len(target)),
        truncated=wilson(1, len(target)),
        drift=None
        if drift is None
        else Drift(drift, drift / 6, drift * 4, 3840, drift * 1.7, (("Where is town test 3?", drift * 30),)),
        topics=topics,
        target=judged,
        neutral=tuple(make_judged(prompt, "In the north, by the sea.", "absent") for prompt in neutral),
    )


def make_verdict(per_topic: int, neutral: int, topics: tuple[str, ...], *, right: bool = True) -> Verdict:
    """Base refuses all but one, edited one, the control as many as the base."""
    prompts = make_prompts(per_topic, neutral, topics)
    total = per_topic * len(topics)
    return Verdict(
        base=make_score("base", prompts, total - 1, right=right, drift=None),
        edited=make_score("edited", prompts, 1, right=right, drift=0.00123),
        controls=(make_score("random direction", prompts, total - 1, right=right, drift=0.0009),),
        notes=("No ability benchmark was run.",),
    )


def with_answer(verdict: Verdict, text: str, *, prompt: Prompt | None = None, times: int = 1) -> Verdict:
    """The verdict whose edited model also said this, to a prompt of its own."""
    said = tuple(make_judged(prompt or Prompt(f"extra {number}"), text, "absent") for number in range(times))
    return replace(verdict, edited=replace(verdict.edited, target=said + verdict.edited.target))
