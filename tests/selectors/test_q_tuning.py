"""Q-Tuning's triage against Algorithm 1 as the paper has it, in plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tamis.selectors.q_tuning import OUTSIDE, Distribution, Plane

BINS = 1 << 12
VALUES = st.integers(0, 40)  # whole numbers, of which each has a bin of its own

MOST = 0.499999  # the bisection meets no share of at most 40 documents exactly, where quantiles are ambiguous

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def distribution(values: Floats) -> Distribution:
    low, high = float(values.min()), float(values.max())
    high = high if high > low else low + 1
    return Distribution.of(low, high, np.histogram(values, BINS, (low, high))[0])


def plane_of(loss: Floats, entropy: Floats) -> Plane:
    return Plane(distribution(loss), distribution(entropy))


def quadrants_2_and_4(loss: Floats, entropy: Floats, alpha: float) -> tuple[Bools, Bools]:
    """A quantile is the smallest value which at least such a share of all does not exceed."""

    def quantile(values: Floats, share: float) -> float:
        return float(np.sort(values)[max(int(np.ceil(share * len(values))), 1) - 1])

    high_loss, low_loss = loss >= quantile(loss, 1 - alpha), loss <= quantile(loss, alpha)
    high_entropy, low_entropy = entropy >= quantile(entropy, 1 - alpha), entropy <= quantile(entropy, alpha)
    return high_loss & low_entropy, low_loss & high_entropy


def bisected(loss: Floats, entropy: Floats, wanted: int) -> tuple[float, float]:
    """The bisection of Algorithm 1; returns the ends between which alpha lies."""
    low, high = 0.0, MOST
    for _ in range(20):
        alpha = (low + high) / 2
        two, four = quadrants_2_and_4(loss, entropy, alpha)
        if np.count_nonzero(two | four) < wanted:
            low = alpha
        else:
            high = alpha
    return low, high


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=40), st.floats(0, 1, exclude_min=True))
@settings(deadline=None, max_examples=300)
def test_the_first_places_are_what_the_bisection_keeps(points: list[tuple[int, int]], share: float) -> None:
    loss, entropy = np.array(points, np.float64).T
    wanted = int(np.ceil(share * len(points)))
    place = plane_of(loss, entropy).place(loss, entropy)
    first = set(np.argsort(place, kind="stable")[:wanted].tolist())
    low, high = bisected(loss, entropy, wanted)
    inside, too_many = (
        set(np.flatnonzero(np.logical_or(*quadrants_2_and_4(loss, entropy, a))).tolist()) for a in (low, high)
    )
    if low == 0.0:
        inside = set()  # Q_0 is no value of the sample
    if len(too_many) >= wanted and high < MOST:
        assert inside <= first <= too_many
    else:  # the quadrants are too small: they are filled by the largest |P - E|
        assert inside <= first
        assert inside == set(np.flatnonzero(place < OUTSIDE).tolist())
        gap = np.abs(np.subtract(*((v - v.min()) / max(v.max() - v.min(), 1) for v in (loss, entropy))))
        rest = [i for i in range(len(points)) if i not in inside]
        fill = [gap[i] for i in rest if i in first]
        assert sorted(fill) == pytest.approx(sorted(gap[rest])[len(rest) - len(fill) :])


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=40))
@settings(deadline=None)
def test_quadrants_are_cut_at_the_medians(points: list[tuple[int, int]]) -> None:
    loss, entropy = np.array(points, np.float64).T
    plane = plane_of(loss, entropy)
    quadrant, place = plane.quadrant(loss, entropy), plane.place(loss, entropy)
    assert set(quadrant.tolist()) <= {1, 2, 3, 4}
    np.testing.assert_array_equal(np.isin(quadrant, [2, 4]), place < OUTSIDE)
    above, below = (side - np.median(side) for side in (loss, entropy))
    for number, by_loss, by_entropy in ((1, 1, 1), (2, 1, -1), (3, -1, -1), (4, -1, 1)):
        corner = (by_loss * above > 0) & (by_entropy * below > 0)
        assert set(quadrant[corner].tolist()) <= {number}


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=40))
@settings(deadline=None)
def test_exchanging_the_axes_exchanges_quadrants_2_and_4(points: list[tuple[int, int]]) -> None:
    loss, entropy = np.array(points, np.float64).T
    plane, exchanged = plane_of(loss, entropy), plane_of(entropy, loss)
    np.testing.assert_array_equal(plane.place(loss, entropy), exchanged.place(entropy, loss))


def test_perplexity_that_goes_with_entropy_leaves_only_the_fill() -> None:
    loss = np.arange(10.0)
    plane = plane_of(loss, loss)
    assert (plane.place(loss, loss) >= OUTSIDE).all()
    assert plane.quadrant(loss, loss).tolist() == [3] * 5 + [1] * 5


def test_one_document_of_enormous_perplexity_changes_no_places() -> None:
    rng = np.random.default_rng(0)
    loss = rng.uniform(2, 4, 2000)
    entropy = loss + rng.normal(0, 0.2, 2000)
    spoilt, of_both = np.append(loss, 20.0), np.append(entropy, 3.0)  # a perplexity of 5e8
    plain = plane_of(loss, entropy).place(loss, entropy)
    found = plane_of(spoilt, of_both).place(spoilt, of_both)[:-1]
    assert np.abs(plain - found)[np.minimum(plain, found) >= OUTSIDE].max() < 0.02


def test_values_beyond_the_extremes_and_infinite_ones_have_places() -> None:
    loss = np.arange(100.0)
    entropy = np.random.default_rng(0).permutation(loss)
    plane = plane_of(loss, entropy)
    found = plane.place(np.array([-np.inf, np.inf, 1e9]), np.array([1e9, -5.0, -np.inf]))
    assert found.tolist() == [0.0, 0.0, 0.0]
    restored: Any = Plane.from_arrays(plane.to_arrays())
    np.testing.assert_array_equal(restored.place(loss, entropy), plane.place(loss, entropy))
    assert Plane.from_arrays({"0 take rank": np.zeros(1)}) is None
