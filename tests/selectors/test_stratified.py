"""Coverage-centric choice: the hardest go, strata get even shares, smallest first, and keys decide inside them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tamis.selectors.stratified import coverage_sample, stratum_of

SCORES = st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=60).map(np.array)


@given(SCORES, st.integers(1, 60))
def test_strata_hold_both_ends_and_rise_with_the_score(scores: np.ndarray, strata: int) -> None:
    found = stratum_of(scores, scores.min(), scores.max(), strata)
    assert found.min() == 0 and found.max() == (strata - 1 if scores.max() > scores.min() else 0)
    assert (np.diff(found[np.argsort(scores, kind="stable")]) >= 0).all()


def test_negative_scores_keep_their_greatest() -> None:
    """The published code multiplies the greatest score by 1.0001, and loses it where it is negative."""
    assert stratum_of(np.array([-3.0, -2.0, -1.0]), -3.0, -1.0, 2).tolist() == [0, 1, 1]


def published_budgets(sizes: list[int], budget: int) -> dict[int, int]:
    """Smallest stratum first: its size, or an even share of what is left."""
    given_to, left = {}, budget
    for number, (size, stratum) in enumerate(sorted((size, i) for i, size in enumerate(sizes))):
        given_to[stratum] = min(size, left // (len(sizes) - number))
        left -= given_to[stratum]
    return given_to


@pytest.mark.parametrize("budget", [5, 40, 90])
def test_strata_get_the_published_shares_and_the_rest_of_the_division(budget: int) -> None:
    rng = np.random.default_rng(0)
    scores, keys = rng.gamma(2.0, size=300), rng.integers(0, 2**63, 300).astype(np.uint64)
    chosen = coverage_sample(scores, keys, budget, 0, "ccs", strata=10)
    of = stratum_of(scores, scores.min(), scores.max(), 10)
    kept = np.bincount(of[chosen], minlength=10)
    wanted = published_budgets(np.bincount(of, minlength=10).tolist(), budget)
    assert chosen.sum() == budget
    assert all(wanted[i] <= kept[i] <= wanted[i] + 1 for i in range(10))


def test_the_hardest_are_dropped_first_and_the_budget_is_of_what_is_left() -> None:
    rng = np.random.default_rng(1)
    scores, hardness = rng.normal(size=100), rng.normal(size=100)
    keys = np.arange(100, dtype=np.uint64)
    chosen = coverage_sample(scores, keys, 100, 0, "ccs", hardness, drop=0.3)
    assert np.array_equal(np.flatnonzero(chosen), np.sort(np.argsort(hardness)[:70]))
    by_score = coverage_sample(scores, keys, 100, 0, "ccs", drop=0.25)
    assert np.array_equal(np.flatnonzero(by_score), np.sort(np.argsort(scores)[:75]))


def test_choice_depends_on_keys_and_not_on_the_order() -> None:
    rng = np.random.default_rng(2)
    scores, keys = rng.normal(size=200), rng.integers(0, 2**63, 200).astype(np.uint64)
    chosen = coverage_sample(scores, keys, 60, 3, "ccs", drop=0.1)
    order = rng.permutation(200)
    assert np.array_equal(coverage_sample(scores[order], keys[order], 60, 3, "ccs", drop=0.1), chosen[order])
    assert not np.array_equal(coverage_sample(scores, keys, 60, 4, "ccs", drop=0.1), chosen)
    inside = [coverage_sample(np.zeros(10), np.arange(10, dtype=np.uint64), 3, seed, "ccs") for seed in range(300)]
    assert np.allclose(np.mean(inside, axis=0), 0.3, atol=0.1)  # uniform in a stratum


def test_odd_cases() -> None:
    keys = np.arange(3, dtype=np.uint64)
    assert not coverage_sample(np.zeros(3), keys, 2, 0, "ccs", drop=1.0).any()
    assert coverage_sample(np.zeros(0), keys[:0], 2, 0, "ccs").shape == (0,)
    with pytest.raises(ValueError, match="finite"):
        coverage_sample(np.array([0.0, np.nan, 1.0]), keys, 2, 0, "ccs")
