"""The frozen values that the stages hand on, in pipeline order. Facts only: no wording for people, no behaviour.

Every class here can be saved and loaded by `store.py`: fields are str, int, float, bool, None, tuples, dicts with str
keys, tensors, and other classes of this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor

Split = Literal["extract", "select", "confirm", "test"]
SPLITS: tuple[Split, ...] = ("extract", "select", "confirm", "test")
Norm = Literal["none", "columns", "rows"]
Layout = Literal["linear", "conv1d", "experts_out_in", "experts_in_out"]
Label = Literal["shows", "partly", "absent", "broken"]


# ---------------------------------------------------------------- prompts
@dataclass(frozen=True)
class Prompt:
    """One user turn, with what is known about it."""

    text: str
    system: str | None = None
    """System message of its own; None: the run's, if any."""
    answer: str | None = None
    """The right answer word for word, where it is known."""
    topic: str | None = None
    """For tables by topic and for clustered statistics."""
    plain: str | None = None
    """The same request without what triggers the behaviour; its answer is the target of the search."""


@dataclass(frozen=True)
class PromptSet:
    """Prompts that should show the behaviour (target) and that should not (neutral), in disjoint splits."""

    target: dict[str, tuple[Prompt, ...]]
    """By split name."""
    neutral: dict[str, tuple[Prompt, ...]]
    """By split name."""
    dropped: dict[str, int]
    """How many prompts were left out, by reason ("empty", "duplicate", ...)."""
    fingerprint: str
    """SHA-256 over every text in every split, in order."""


# ---------------------------------------------------------------- answers
@dataclass(frozen=True)
class Answer:
    """What a model said to a prompt."""

    prompt: Prompt
    text: str
    """The final answer, without special tokens and without the reasoning block."""
    tokens: tuple[int, ...]
    """Generated token ids, the end token included where it came."""
    finish: Literal["stop", "length"]
    """"length": the limit cut it off."""
    reasoning: str | None = None
    """The text of a thinking model's reasoning block; None: there was none."""


@dataclass(frozen=True)
class Judged:
    """An answer and what a judge made of it."""

    answer: Answer
    label: Label
    """`shows` and `partly` count as the behaviour."""
    score: float
    """0..1, how strongly the behaviour shows."""
    reason: str
    truncated: bool


# ---------------------------------------------------------------- the model
@dataclass(frozen=True)
class Writer:
    """A stored matrix whose output is added to the residual stream."""

    name: str
    """Unique and short, e.g. "layers.3.attention"."""
    layer: int
    """0-based decoder block."""
    role: Literal["attention", "mlp", "expert", "shared_expert"]
    module: str
    """Dotted path of the module whose output is W x (for fused experts: the module that holds them all)."""
    parameter: str
    """Dotted path of the parameter in the loaded model."""
    layout: Layout
    """Of the parameter in the loaded model; d_model is the `out` axis."""
    tensors: tuple[str, ...]
    """Names in the checkpoint: one, or one an expert where the file holds experts apart."""
    stored_layout: Layout
    """Of each of those tensors; per-expert matrices are "linear"."""
    bias: str | None = None
    """Name of the writer's bias, in the model and in the checkpoint."""


@dataclass(frozen=True)
class WriterMap:
    """Who writes to the residual stream of one model."""

    model_type: str
    d_model: int
    layers: int
    blocks: tuple[str, ...]
    """Dotted paths of the decoder blocks, in order."""
    writers: tuple[Writer, ...]


@dataclass(frozen=True)
class ModelFacts:
    """What was loaded, and why so."""

    source: str
    """Folder or hub id as given."""
    path: str
    """Folder that the files were read from."""
    revision: str | None
    fingerprint: str
    """SHA-256 over config.json and the safetensors headers and sizes."""
    model_type: str
    parameters: int
    dtype: str
    dtype_reason: str
    device: str
    device_reason: str
    template: str
    """How prompts are wrapped: "chat", "chat without system role", "plain"."""
    thinking: str
    """"none", "closed" (an empty reasoning block is put in front of the answer) or "open"."""
    micro_batch: int
    """Rows that run in one forward pass; numbers depend on it."""
    at_once: int
    """Micro-batches in flight; numbers do not depend on it."""
    threads: int
    """Arithmetic threads in each."""


# ---------------------------------------------------------------- activations and directions
@dataclass(frozen=True)
class Moments:
    """Streaming moments of one side's residual states after each block (before the final norm)."""

    count: int
    """Prompts seen."""
    mean: Float[Tensor, "layer position d_model"]
    """float64. Position 0 is the last prompt token, 1 the one before it, ..."""
    covariance: Float[Tensor, "layer position d_model d_model"] | None = None
    """float64, only where the direction method asks for it."""


@dataclass(frozen=True)
class ActivationStats:
    """What the extract split says about both sides."""

    target: Moments
    neutral: Moments


@dataclass(frozen=True)
class Separation:
    """How well projections on each layer's and position's direction tell target from neutral prompts, unseen ones."""

    auroc: Float[Tensor, "layer position"]
    """0.5: not at all; 1: perfectly."""
    gap: Float[Tensor, "layer position"]
    """Difference of the mean projections over their pooled standard deviation."""
    cosine: Float[Tensor, "layer position"]
    """cos of the two sides' mean states."""


@dataclass(frozen=True)
class Directions:
    """Unit vectors per layer that carry the behaviour; layer i is the output of block i."""

    vectors: Float[Tensor, "layer k d_model"]
    """float32, the k rows of a layer orthonormal."""
    method: str
    source: str
    """Where it came from: "layer 4, position 0" or "each layer's own, position 0"."""
    separation: float
    """AUROC on the select split of the place it came from, 0.5..1."""


# ---------------------------------------------------------------- edits
@dataclass(frozen=True)
class WriterEdit:
    """One writer's edit: W' = norm(W − Uᵀ Λ U W)."""

    writer: Writer
    units: Float[Tensor, "k d_model"]
    """float32, orthonormal rows."""
    strengths: Float[Tensor, " k"]
    """λ, float32. 1 removes, 0 leaves, negative strengthens, 2 reflects."""


@dataclass(frozen=True)
class EditPlan:
    """The whole edit of a model: enough to make the checkpoint again from its base."""

    edits: tuple[WriterEdit, ...]
    norm: Norm = "none"


# ---------------------------------------------------------------- search
@dataclass(frozen=True)
class BaseAnswers:
    """What the unedited model says, before anything is searched."""

    target: tuple[Answer, ...]
    """To target prompts of the extract split."""
    neutral: tuple[Answer, ...]
    """To neutral prompts of the extract split."""
    select: tuple[Answer, ...]
    """To target prompts of the select split."""
    openers: tuple[str, ...]
    """The usual openers of neutral answers, in the order in which they were tried; empty for `plain` targets."""
    forced: tuple[Answer, ...]
    """Answers to target prompts of the extract split, made to begin with the first opener."""


@dataclass(frozen=True)
class Reference:
    """One teacher-forced answer, and the context in which the base's distribution over it counts."""

    prompt: Prompt
    """The prompt that the edited model sees."""
    teacher: Prompt
    """The prompt under which the base is asked; the same as `prompt` but for `plain` targets."""
    tokens: tuple[int, ...]
    """Answer tokens."""
    forced: int
    """How many leading tokens were forced: they do not count as the model's own words."""


@dataclass(frozen=True)
class References:
    """What the search holds an edit against."""

    target: tuple[Reference, ...]
    neutral: tuple[Reference, ...]
    source: str
    """"openers", "plain" or "coarse edit"."""


@dataclass(frozen=True)
class Terms:
    """The parts of the search objective for one candidate on the select split; lower is better, all in nats."""

    first: float
    """KL(wanted first-token distribution ‖ edited) on target prompts."""
    target: float
    """KL(base ‖ edited) per token over the prefilled answers to target prompts."""
    neutral: float
    """KL(base ‖ edited) per token over answers to neutral prompts."""


@dataclass(frozen=True)
class Confirmation:
    """Real generation on the confirm split, judged."""

    behaviour: Rate
    broken: Rate
    kept: Rate
    drift: float
    """Mean KL per token, nats, on neutral prompts."""


@dataclass(frozen=True)
class Candidate:
    """One point of the search path."""

    index: int
    round: int
    """Refinement round it came from, from 1."""
    weight: float
    """κ, the price of damage while it was found; 0 for sampled candidates."""
    plan: EditPlan
    terms: Terms
    select: Rate | None
    """Behaviour on the select split by generation, where it was generated."""
    confirmed: Confirmation | None = None


@dataclass(frozen=True)
class Round:
    """One round of search or refinement."""

    number: int
    directions: str
    """Source of the start that won."""
    starts: dict[str, float]
    """Objective of every start after the warm-up steps."""
    steps: int
    select: Rate
    """Behaviour left on the select split at the end of the round."""
    drift: float
    """Mean KL per token on neutral select prompts, nats."""
    seconds: float
    """Clock time; not part of the reproducible bytes."""


@dataclass(frozen=True)
class Front:
    """All candidates worth showing, none better than another in both behaviour and damage, and the one chosen."""

    candidates: tuple[Candidate, ...]
    chosen: int
    """Index of the chosen candidate (its `index` field)."""
    rounds: tuple[Round, ...]
    method: str
    """"gradient" or "sampler"."""
    stopped: str
    """Why it ended: "rate reached", "budget", "rounds", "time limit"."""


# ---------------------------------------------------------------- evaluation
@dataclass(frozen=True)
class Rate:
    """count of total with its 95% Wilson interval."""

    count: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """count / total; nan for an empty total."""
        return self.count / self.total if self.total else float("nan")


@dataclass(frozen=True)
class Drift:
    """KL(base ‖ edited) in nats per token over the base's own answers to neutral prompts; 0 is untouched."""

    mean: float
    median: float
    p95: float
    tokens: int
    first_token: float
    """Mean at the first answer token only, for comparison with other tools."""
    worst: tuple[tuple[str, float], ...]
    """(prompt, its mean KL), largest first."""


@dataclass(frozen=True)
class TopicRow:
    """Rates of one topic of the target prompts."""

    behaviour: Rate
    right: Rate | None


@dataclass(frozen=True)
class Score:
    """One state of the model (base, edited, control) on one split."""

    name: str
    behaviour: Rate
    """On target prompts."""
    right: Rate | None
    """Right answers on target prompts, where they are known."""
    neutral_behaviour: Rate
    """The behaviour on neutral prompts."""
    neutral_right: Rate | None
    kept: Rate | None
    """Neutral answers equal to the base's, token for token; None for the base."""
    empty: Rate
    gibberish: Rate
    truncated: Rate
    drift: Drift | None
    """None for the base."""
    topics: dict[str, TopicRow]
    target: tuple[Judged, ...]
    neutral: tuple[Judged, ...]


@dataclass(frozen=True)
class Verdict:
    """The numbers of the report, from the test split, measured once."""

    base: Score
    edited: Score
    controls: tuple[Score, ...]
    split: str = "test"
    notes: tuple[str, ...] = field(default=())
    """What was not measured, and other things that a reader must know."""
