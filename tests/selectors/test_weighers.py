import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tamis.selectors.weighers import fixed_point_sum, importance_weights, mean_one

VALUES = st.lists(st.floats(0, 1), max_size=40)


def test_weights_are_relative_to_the_largest() -> None:
    weights = importance_weights(np.array([3.0, 1.0, -np.inf, -1e308]), 3.0, 2.0)
    np.testing.assert_allclose(weights, [1.0, np.exp(-1.0), 0.0, 0.0], rtol=1e-15)


@pytest.mark.parametrize(
    ("score", "maximum", "temperature"),
    [(np.inf, 3.0, 1.0), (np.inf, np.inf, 1.0), (np.nan, 3.0, 1.0), (4.0, 3.0, 1.0), (-np.inf, -np.inf, 1.0),
     (1.0, 3.0, 0.0), (1.0, 3.0, -1.0), (1.0, 3.0, np.nan)],
)  # fmt: skip
def test_scores_without_a_weight_are_refused(score: float, maximum: float, temperature: float) -> None:
    with pytest.raises(ValueError, match=r"score|temperature"):
        importance_weights(np.array([1.0, score]), maximum, temperature)


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
        fixed_point_sum(np.array([0.5, value]))


def test_the_mean_is_one_and_shards_agree_with_the_whole() -> None:
    score = np.random.default_rng(0).normal(0, 5, 100_000)
    values = importance_weights(score, float(score.max()), 2.0)
    parts = np.array_split(values, 7)
    total = sum(fixed_point_sum(part) for part in parts)
    weights = np.concatenate([mean_one(part, total, values.size) for part in parts])
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, mean_one(values, fixed_point_sum(values), values.size))
    np.testing.assert_allclose(weights, values / values.mean(), rtol=1e-6)
    assert weights.astype(np.float64).mean() == pytest.approx(1.0, abs=1e-6)


def test_weights_that_are_all_zero_have_no_mean() -> None:
    with pytest.raises(ValueError, match="zero"):
        mean_one(np.zeros(3), 0, 3)
