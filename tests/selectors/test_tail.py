import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tamis.selectors.tail import (
    coefficient_of_variation,
    fit_tail,
    generalised_pareto,
    hill_index,
    hill_length,
    tail_length,
)


def largest(log_weights: NDArray, number: int) -> NDArray:
    return np.sort(log_weights)[-number - 1 :]


def shape_of(log_weights: NDArray) -> float:
    return fit_tail(largest(log_weights, tail_length(log_weights.size))).shape


def brute_fit(excess: list[float]) -> tuple[float, float]:
    """Zhang and Stephens, value by value."""
    m = len(excess)
    points = 30 + int(math.sqrt(m))
    quartile = excess[int(m / 4 + 0.5) - 1]
    b = [1 / excess[-1] + (1 - math.sqrt(points / (j - 0.5))) / (3 * quartile) for j in range(1, points + 1)]
    k = [sum(math.log1p(-one * x) for x in excess) / m for one in b]
    profile = [m * (math.log(-b[j] / k[j]) - k[j] - 1) for j in range(points)]
    weight = [1 / sum(math.exp(profile[i] - profile[j]) for i in range(points)) for j in range(points)]
    best = sum(w * one for w, one in zip(weight, b, strict=True))
    shape = sum(math.log1p(-best * x) for x in excess) / m
    return shape, -shape / best


@pytest.mark.parametrize("k", [-0.3, 0.2, 0.9])
def test_the_fit_is_that_of_its_paper(k: float) -> None:
    u = np.random.default_rng(0).random(60)
    excess = np.sort((u**-k - 1) / k)
    np.testing.assert_allclose(generalised_pareto(excess), brute_fit(excess.tolist()), rtol=1e-9)


@pytest.mark.parametrize("k", [-0.3, 0.1, 0.5, 1.0, 2.0])
def test_the_fit_recovers_shape_and_scale(k: float) -> None:
    u = np.random.default_rng(1).random(20_000)
    found, sigma = generalised_pareto(np.sort(3.0 * (u**-k - 1) / k))
    assert found == pytest.approx(k, abs=0.05) and sigma == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize("k", [0.3, 0.7, 1.2])
def test_k_of_power_laws(k: float) -> None:
    """Weights u**-k have moments below 1 / k only."""
    logs = -k * np.log(np.random.default_rng(2).random(200_000))
    assert shape_of(logs) == pytest.approx(k, abs=0.08)
    assert shape_of(logs + 700) == pytest.approx(shape_of(logs), rel=1e-9)
    assert hill_index(largest(logs, hill_length(logs.size))) == pytest.approx(1 / k, rel=0.05)


def test_light_tails_are_light() -> None:
    assert shape_of(np.log(np.random.default_rng(3).random(10_000))) < 0.1
    assert shape_of(np.random.default_rng(3).normal(0, 0.3, 10_000)) < 0.5


def test_length_of_the_tail() -> None:
    assert [tail_length(n) for n in (10, 100, 225, 10_000, 10**9)] == [2, 20, 45, 300, 94869]
    assert tail_length(10_000, 0.25) == 600
    assert [hill_length(n) for n in (99, 100, 200, 1000)] == [0, 10, 10, 50]


@settings(max_examples=50)
@given(st.lists(st.integers(-40, 0) | st.just(-math.inf), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_any_tail_is_smoothed_in_order_and_within_bounds(values: list[float], random) -> None:
    logs = np.array(values, np.float64)
    tail = fit_tail(logs)
    random.shuffle(values)
    again = fit_tail(np.array(values, np.float64))
    assert again.shape == tail.shape or (math.isnan(again.shape) and math.isnan(tail.shape))
    np.testing.assert_array_equal(again.smoothed, tail.smoothed)
    assert (np.diff(tail.smoothed) >= 0).all() and not np.isnan(tail.smoothed).any()
    if tail.smoothed.size:
        assert tail.smoothed[-1] <= logs.max() + 1e-12 and tail.smoothed[0] >= tail.cutoff - 1e-12
        for value in set(tail.raw):
            assert np.ptp(tail.smoothed[tail.raw == value]) == 0


def test_tails_that_cannot_be_fitted() -> None:
    assert math.isnan(fit_tail(np.zeros(100)).shape)  # no tail above the cut-off
    assert math.isnan(fit_tail(np.array([0.0, 1.0, 2.0])).shape)  # too short
    assert math.isnan(fit_tail(np.empty(0)).shape)
    assert fit_tail(np.append(0.0, np.ones(20))).shape == math.inf  # one value
    assert fit_tail(np.arange(20.0) * 1000).shape == math.inf  # more than float64 holds
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match="log weight"):
            fit_tail(np.array([0.0, wrong]))


def test_hill_is_never_healthy_by_default() -> None:
    assert hill_index(np.zeros(20)) == math.inf
    assert math.isnan(hill_index(np.arange(10.0)))
    assert math.isnan(hill_index(np.append(np.arange(20.0), -np.inf)))


def test_variation_and_effective_size_say_the_same() -> None:
    w = np.array([0.5, 1.0, 4.0])
    cv = coefficient_of_variation(3, w.sum(), w @ w)
    assert cv == pytest.approx(w.std() / w.mean())
    assert coefficient_of_variation(3, 0.3 * 3, 0.09 * 3) == pytest.approx(0.0, abs=1e-7)
    assert math.isnan(coefficient_of_variation(3, 0.0, 0.0))
