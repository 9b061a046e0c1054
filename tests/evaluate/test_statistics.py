"""Laws, coverage by simulation, and agreement with scipy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, mannwhitneyu

from excise.evaluate.statistics import auroc, mcnemar, paired_bootstrap, wilson

counts = st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))
values = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)


@given(counts)
def test_wilson_holds_the_rate_and_mirrors(pair: tuple[int, int]) -> None:
    count, total = pair
    rate, mirror = wilson(count, total), wilson(total - count, total)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert rate.low == pytest.approx(1 - mirror.high, abs=1e-12)


@given(counts)
def test_wilson_agrees_with_scipy(pair: tuple[int, int]) -> None:
    theirs = binomtest(*pair).proportion_ci(method="wilson")
    ours = wilson(*pair, z=1.959963984540054)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_wilson_edges() -> None:
    empty = wilson(0, 0)
    assert (empty.low, empty.high) == (0.0, 1.0)
    assert math.isnan(empty.value)
    assert wilson(0, 100).low == 0.0
    assert wilson(0, 100).high == pytest.approx(0.037, abs=5e-4)
    for count, total in ((-1, 5), (6, 5), (0, -1)):
        with pytest.raises(ValueError, match="expected 0 <= count"):
            wilson(count, total)


def test_wilson_covers_on_average_and_nowhere_badly() -> None:
    """Exact coverage on a grid. Single points dip (known of this interval); the mean over rates stays nominal."""
    for total in (20, 50, 100, 200):
        intervals = [wilson(count, total) for count in range(total + 1)]
        low, high = (np.array([getattr(rate, end) for rate in intervals]) for end in ("low", "high"))
        grid = np.linspace(0.02, 0.98, 97)
        covered = [binom.pmf(np.arange(total + 1), total, p)[(low <= p) & (p <= high)].sum() for p in grid]
        assert np.mean(covered) >= 0.945
        assert min(covered) >= 0.85


def test_wilson_covers_in_simulation() -> None:
    rng = np.random.default_rng(0)
    for total in (30, 100, 400):
        for share in (0.1, 0.25, 0.5, 0.75, 0.9):
            drawn = rng.binomial(total, share, size=4000)
            rates = {count: wilson(int(count), total) for count in np.unique(drawn)}
            covered = np.mean([rates[count].low <= share <= rates[count].high for count in drawn])
            assert covered >= 0.93, (total, share, covered)


def test_bootstrap_covers_the_true_difference() -> None:
    rng, hits = np.random.default_rng(1), 0
    for trial in range(200):
        base = rng.random(80) < 0.7
        edited = base & (rng.random(80) < 0.4)
        _, low, high = paired_bootstrap(
            base.astype(float).tolist(), edited.astype(float).tolist(), draws=400, seed=trial
        )
        hits += low <= -0.42 <= high
    assert hits >= 180


def test_bootstrap_difference_and_determinism() -> None:
    base, edited = [1.0] * 8 + [0.0] * 2, [0.0] * 9 + [1.0]
    first = paired_bootstrap(base, edited, seed=3)
    assert first == paired_bootstrap(base, edited, seed=3)
    assert first[0] == pytest.approx(-0.7)
    assert first[1] <= first[0] <= first[2]
    assert paired_bootstrap(base, base) == (0.0, 0.0, 0.0)


def test_bootstrap_by_cluster_is_wider_where_clusters_agree() -> None:
    topics = [topic for topic in "abcdefgh" for _ in range(20)]
    edited = [float(topic in "abc") for topic in topics]
    base = [0.0] * len(topics)
    gap, low, high = paired_bootstrap(base, edited, topics)
    plain_gap, plain_low, plain_high = paired_bootstrap(base, edited)
    assert gap == plain_gap == pytest.approx(3 / 8)
    assert high - low > 2 * (plain_high - plain_low)


def test_bootstrap_refuses_what_does_not_pair() -> None:
    with pytest.raises(ValueError, match="pairs"):
        paired_bootstrap([1.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="pairs"):
        paired_bootstrap([], [])
    with pytest.raises(ValueError, match="cluster labels"):
        paired_bootstrap([1.0], [1.0], ["a", "b"])


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_tail_doubled(b: int, c: int) -> None:
    p = mcnemar(b, c)
    assert p == mcnemar(c, b)
    assert p == pytest.approx(min(1.0, 2 * binom.cdf(min(b, c), b + c, 0.5)) if b + c else 1.0)


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(ValueError, match="two counts"):
        mcnemar(-1, 3)


@given(values, values)
def test_auroc_agrees_with_scipy_and_mirrors(target: list[float], neutral: list[float]) -> None:
    area = auroc(target, neutral)
    assert area == pytest.approx(mannwhitneyu(target, neutral).statistic / (len(target) * len(neutral)))
    assert area == pytest.approx(1 - auroc(neutral, target))


def test_auroc_edges() -> None:
    assert auroc([2.0, 3.0], [0.0, 1.0]) == 1.0
    assert auroc([1.0], [1.0, 1.0]) == 0.5
    with pytest.raises(ValueError, match="both sides"):
        auroc([], [1.0])
