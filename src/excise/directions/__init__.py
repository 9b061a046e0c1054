"""ActivationStats → Directions, one method a file. A method returns unit vectors for every layer and position."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from excise.directions.difference_of_means import difference_of_means
from excise.directions.places import starts
from excise.directions.top_k import top_k
from excise.results import ActivationStats

Method = Callable[[ActivationStats, int], Float[Tensor, "layer position k d_model"]]

METHODS: dict[str, Method] = {"difference-of-means": difference_of_means, "top-k": top_k}
"""By the name that the command line takes."""

NEEDS_COVARIANCE = frozenset({"top-k"})

__all__ = ["METHODS", "NEEDS_COVARIANCE", "difference_of_means", "starts", "top_k"]
