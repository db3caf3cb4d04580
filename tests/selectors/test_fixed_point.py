"""Sums in fixed point: the same on any sharding, near enough, never too large."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tamis.selectors.fixed_point import fixed_point_units

VALUES = st.lists(st.floats(0, 1), max_size=40)


def fixed_point_sum(values: NDArray[np.float64]) -> int:
    high, low = fixed_point_units(values)
    return (int(high.sum()) << 20) + int(low.sum())


@given(VALUES, st.lists(st.integers(0, 40), max_size=5), st.randoms(use_true_random=False))
def test_the_sum_is_the_same_on_any_sharding(values: list[float], ends: list[int], random) -> None:
    whole = fixed_point_sum(np.array(values))
    random.shuffle(values)
    parts = np.split(np.array(values, np.float64), sorted(min(end, len(values)) for end in ends))
    assert sum(fixed_point_sum(part) for part in parts) == whole
    assert abs(whole / 2**40 - sum(values)) <= len(values) * 2**-41 + 1e-12


def test_a_sum_of_many_ones_does_not_overflow() -> None:
    assert fixed_point_sum(np.ones(9_000_000)) == 9_000_000 << 40


@pytest.mark.parametrize("value", [np.nan, -1e-9, 1.0000001, np.inf])
def test_values_outside_the_unit_interval_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="between"):
        fixed_point_units(np.array([0.5, value]))
