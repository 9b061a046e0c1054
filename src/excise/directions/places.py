"""Which layer and position a direction is taken from: the places that separate unseen prompts best."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from excise.results import Directions, Separation

LATEST = 0.8
"""Places from this share of the depth on are left out: directions turn into output tokens there (Arditi, l < 0.8 L)."""


def starts(
    vectors: Float[Tensor, "layer position k d_model"], separation: Separation, method: str, *, count: int = 4
) -> tuple[Directions, ...]:
    """Starting directions for the search, best separated first.

    `count` single places (at most two of one layer), whose direction serves all layers, and one set in which every
    layer has its own direction at the best position. Order: AUROC, then gap.
    """
    layers, positions = separation.auroc.shape
    usable = max(1, int(LATEST * layers))
    order = sorted(
        ((layer, position) for layer in range(usable) for position in range(positions)),
        key=lambda place: (-round(float(separation.auroc[place]), 4), -float(separation.gap[place]), place),
    )
    taken: list[tuple[int, int]] = []
    for place in order:
        if sum(other[0] == place[0] for other in taken) < 2 and len(taken) < count:
            taken.append(place)
    single = [
        Directions(
            vectors[place].float().expand(layers, -1, -1).contiguous(),
            method,
            f"layer {place[0]}, position {place[1]}",
            float(separation.auroc[place]),
        )
        for place in taken
    ]
    best = taken[0][1]
    own = Directions(
        vectors[:, best].float().contiguous(),
        method,
        f"each layer's own, position {best}",
        float(separation.auroc[:usable, best].max()),
    )
    return (*single, own)
