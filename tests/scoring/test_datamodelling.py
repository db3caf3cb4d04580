"""The linear datamodelling score against its definition, and where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tamis.scoring.datamodelling import datamodelling_score, mean_rank_correlation, random_halves

KEYS = np.arange(40, dtype=np.uint64)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """By its definition: the correlation of ranks, equal values sharing theirs."""
    ranks = [np.array([(v < one).sum() + ((v == one).sum() - 1) / 2 for one in v]) for v in (x, y)]
    if min(r.std() for r in ranks) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


@settings(max_examples=30)
@given(arrays(np.float64, (7, 3), elements=st.integers(-4, 4)), arrays(np.float64, (7, 3), elements=st.integers(-4, 4)))
def test_the_mean_of_rank_correlations(x: np.ndarray, y: np.ndarray) -> None:
    found = mean_rank_correlation(x, y)
    assert found.value == pytest.approx(np.mean([spearman(a, b) for a, b in zip(x.T, y.T, strict=True)]), abs=1e-9)
    assert -1 - 1e-9 <= found.low <= found.high <= 1 + 1e-9
    turned = mean_rank_correlation(x, -y)
    assert turned.value == pytest.approx(-found.value, abs=1e-9)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=1e-9)


def test_true_influences_score_one_and_wrong_signs_minus_one() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=(40, 5))
    taken = random_halves(KEYS, 30, 0)
    losses = 4.0 - taken.astype(float) @ truth
    assert datamodelling_score(taken, truth, losses) == pytest.approx((1, 1, 1))
    assert datamodelling_score(taken, -truth, losses).value == pytest.approx(-1)
    assert datamodelling_score(taken, np.ones((40, 1)), losses).value == 0  # halves are of one size
    noisy = datamodelling_score(taken, truth + random.normal(size=truth.shape), losses)
    unrelated = datamodelling_score(taken, random.normal(size=truth.shape), losses)
    assert 0.3 < noisy.low <= noisy.value <= noisy.high < 1
    assert unrelated.low < 0 < unrelated.high
    assert noisy.low > unrelated.high


def test_intervals_cover_the_score_of_many_subsets() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(20):
        x = random.normal(size=(16, 12))
        y = x + 1.5 * random.normal(size=x.shape)
        found = mean_rank_correlation(x, y)
        covered += found.low <= 0.5374 <= found.high  # Spearman's of normal variables with correlation 0.5547
    assert covered >= 16


@given(st.integers(2, 40), st.integers(1, 5), st.integers(0, 5))
def test_halves_are_halves_whatever_the_order(n: int, subsets: int, seed: int) -> None:
    taken = random_halves(KEYS[:n], subsets, seed)
    assert (taken.sum(axis=1) == n // 2).all()
    order = np.random.default_rng(seed).permutation(n)
    np.testing.assert_array_equal(random_halves(KEYS[:n][order], subsets, seed), taken[:, order])
    np.testing.assert_array_equal(random_halves(KEYS[:n], subsets + 1, seed)[:subsets], taken)
    if n > 20 and subsets > 1:
        assert (taken[0] != taken[1]).any()
