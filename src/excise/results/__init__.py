"""The frozen values that the stages hand on, in pipeline order. Facts only: no wording for people, no behaviour.

Every class here can be saved and loaded by `store.py`: fields are str, int, float, bool, None, tuples, dicts with str
keys, tensors, and other classes of this package.
"""

from excise.results.answers import SPLITS, Answer, Judged, Label, Prompt, PromptSet, Rate, Split
from excise.results.directions import ActivationStats, Directions, Moments, Separation
from excise.results.model import Layout, ModelFacts, Writer, WriterMap
from excise.results.search import (
    BaseAnswers,
    Candidate,
    Confirmation,
    EditPlan,
    Front,
    Norm,
    Reference,
    References,
    Round,
    Terms,
    WriterEdit,
)
from excise.results.verdict import Drift, Score, TopicRow, Verdict

__all__ = [
    "SPLITS",
    "ActivationStats",
    "Answer",
    "BaseAnswers",
    "Candidate",
    "Confirmation",
    "Directions",
    "Drift",
    "EditPlan",
    "Front",
    "Judged",
    "Label",
    "Layout",
    "ModelFacts",
    "Moments",
    "Norm",
    "Prompt",
    "PromptSet",
    "Rate",
    "Reference",
    "References",
    "Round",
    "Score",
    "Separation",
    "Split",
    "Terms",
    "TopicRow",
    "Verdict",
    "Writer",
    "WriterEdit",
    "WriterMap",
]
