import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tamis.selectors.diagnostics import effective_sample_size
from tamis.selectors.monotone import bin_moments, isotonic, least_variance, monotone

SHAPE = (5, 40)


def sample(n: int = 4000, seed: int = 0) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Weights that rise with the score, with noise; rewards that follow the score."""
    rng = np.random.default_rng(seed)
    score = rng.random(n)
    weights = np.exp(2 * score + rng.normal(0, 1, n))
    return weights, (score * SHAPE[1]).astype(np.int64), rng.integers(0, SHAPE[0], n), score + rng.normal(0, 0.1, n)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), min_size=1, max_size=9))
def test_isotonic_is_the_min_max_formula(points: list[tuple[int, int]]) -> None:
    v, w = (np.array(column, np.float64) for column in zip(*points, strict=True))

    def mean(i: int, j: int) -> float:
        return float(v[i : j + 1] @ w[i : j + 1] / w[i : j + 1].sum())

    m = v.size
    brute = [max(min(mean(i, j) for j in range(k, m)) for i in range(k + 1)) for k in range(m)]
    np.testing.assert_allclose(isotonic(v, w), brute, atol=1e-12)


@given(st.integers(2, 3), st.integers(0, 1000))
def test_the_mixture_has_the_least_variance_on_a_grid(k: int, seed: int) -> None:
    root = np.random.default_rng(seed).normal(size=(k, k))
    sigma = root @ root.T
    best = least_variance(sigma)
    assert best.min() >= 0 and best.sum() == pytest.approx(1.0)
    steps = np.arange(21) / 20
    pairs = [(a, b) for a in steps for b in steps if a + b <= 1 + 1e-9]
    grid = np.array([(a, 1 - a) if k == 2 else (a, b, 1 - a - b) for a, b in pairs])
    assert best @ sigma @ best <= ((grid @ sigma) * grid).sum(1).min() + 1e-6 * np.trace(sigma)


def test_the_least_variance_may_need_a_candidate_that_was_negative_at_first() -> None:
    """Dropping the most negative one until none is left, as published, ends with the first alone here."""
    sigma = np.array([[0.22504155, 0.95758516, 0.18633142], [0.95758516, 6.39453544, -1.02994595],
                      [0.18633142, -1.02994595, 1.66147807]])  # fmt: skip
    assert least_variance(sigma)[2] > 0.01


def test_candidates_without_variance_share_alike() -> None:
    np.testing.assert_array_equal(least_variance(np.zeros((2, 2))), [0.5, 0.5])
    np.testing.assert_allclose(least_variance(np.ones((3, 3))), np.full(3, 1 / 3), rtol=1e-6)


@pytest.mark.parametrize(("rewarded", "include_raw"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("cap", [None, 1.0, 0.05])
def test_calibrated_weights_have_mean_one_and_the_variance_allowed(
    rewarded: bool, include_raw: bool, cap: float | None
) -> None:
    weights, bins, folds, reward = sample()
    moments = bin_moments(weights, bins, folds, SHAPE, reward if rewarded else None)
    found = monotone(moments, rewarded, include_raw, 0.2, cap)
    calibrated = found.apply(weights, bins)
    assert np.isfinite(calibrated).all() and (calibrated >= 0).all()
    assert calibrated.mean() == pytest.approx(1.0)
    assert calibrated.var() <= min(4.0, np.inf if cap is None else cap) * (1 + 1e-9)
    assert (found.blend > 0) == (cap == 0.05)
    assert found.mixture.size == 2 + include_raw and found.mixture.sum() == pytest.approx(1.0)


def test_weights_of_a_bin_become_one_and_the_effective_size_grows() -> None:
    weights, bins, folds, _ = sample()
    found = monotone(bin_moments(weights, bins, folds, SHAPE), False, smallest_share=0.01, max_variance=None)
    calibrated = found.apply(weights, bins)
    assert found.blend == 0.0 and found.raw_share == 0.0
    for one in range(SHAPE[1]):
        assert np.ptp(calibrated[bins == one]) == 0
    before = effective_sample_size(weights.sum(), weights @ weights)
    assert effective_sample_size(calibrated.sum(), calibrated @ calibrated) > 1.5 * before


def test_weights_that_are_monotone_and_noiseless_stay() -> None:
    """Where the score says all, and averages of the reward need the rise, the rising fit is the weight itself."""
    rng = np.random.default_rng(1)
    bins, folds = rng.integers(0, 40, 4000), rng.integers(0, 5, 4000)
    weights = 1.0 + bins / 40
    reward = 1 / weights + rng.normal(0, 0.01, 4000)  # w · reward is constant: the raw weights have no variance
    found = monotone(bin_moments(weights, bins, folds, SHAPE, reward), True, False, 0.01, None)
    rising = found.mixture[0]
    expected = rising * weights / weights.mean() + (1 - rising)
    np.testing.assert_allclose(found.apply(weights, bins), expected, rtol=0.02)


def test_without_rewards_the_direction_follows_the_weights() -> None:
    """Published code, with a reward of one, would choose the flat fit, whose weights have no variance."""
    weights, bins, folds, _ = sample()
    moments = bin_moments(weights, bins, folds, SHAPE)
    np.testing.assert_array_equal(monotone(moments, False).mixture, [1, 0])
    falling = monotone(moments[:, ::-1], False)
    np.testing.assert_array_equal(falling.mixture, [0, 1])
    np.testing.assert_allclose(falling.value[::-1], monotone(moments, False).value)
    assert np.corrcoef(monotone(moments, False).value, np.arange(SHAPE[1]))[0, 1] > 0.9
    assert np.ptp(_flat_fit(weights, bins)) < 0.2 * np.ptp(falling.value)


def _flat_fit(weights: NDArray, bins: NDArray) -> NDArray:
    count = np.bincount(bins)
    return isotonic(-np.bincount(bins, weights) / count, count * 1.0) / weights.mean()


def brute_covariance(weights: NDArray, bins: NDArray, folds: NDArray, reward: NDArray, raw: bool) -> NDArray:
    """Influence values document by document."""
    influence = np.empty((weights.size, 2 + raw))
    for fold in range(SHAPE[0]):
        train, held = folds != fold, folds == fold
        count = np.bincount(bins[train], minlength=SHAPE[1])
        filled = np.flatnonzero(count)
        means = np.bincount(bins[train], weights[train], SHAPE[1])[filled] / count[filled]
        fits = [isotonic(means, count[filled] * 1.0), -isotonic(-means, count[filled] * 1.0)]
        columns = [np.interp(bins, filled, fit) for fit in fits] + [weights] * raw
        for c, column in enumerate(columns):
            w = column / column[train].mean()
            psi = np.mean(w[train] * reward[train])
            influence[held, c] = (w * (reward - psi))[held]  # once: the published code takes psi · w off again
    return np.cov(influence.T, bias=True)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("inverse", [0.0, 0.9])
@pytest.mark.parametrize("seed", [1, 2])
def test_moments_say_what_documents_do(raw: bool, inverse: float, seed: int) -> None:
    weights, bins, folds, reward = sample(300, seed)
    reward = (1 - inverse) * reward + inverse * 2 / weights  # the more, the better the raw weights
    found = monotone(bin_moments(weights, bins, folds, SHAPE, reward), True, raw)
    expected = least_variance(brute_covariance(weights, bins, folds, reward, raw))
    np.testing.assert_allclose(found.mixture, expected, atol=1e-6)


def test_shards_add_up_to_the_whole_and_the_unit_does_not_matter() -> None:
    weights, bins, folds, reward = sample()
    order = np.random.default_rng(3).permutation(weights.size)
    moments = sum(
        bin_moments(weights[part] * 50, bins[part], folds[part], SHAPE, reward[part])
        for part in np.array_split(order, 4)
    )
    whole = monotone(bin_moments(weights, bins, folds, SHAPE, reward), True, True)
    found = monotone(moments, True, True)
    np.testing.assert_allclose(found.apply(weights * 50, bins), whole.apply(weights, bins), rtol=1e-7)


def test_bins_and_folds_without_documents_do_no_harm() -> None:
    weights, bins, folds, _ = sample(60, 5)
    bins, folds = bins // 10 * 10, folds % 2
    found = monotone(bin_moments(weights, bins, folds, SHAPE), False)
    assert np.isfinite(found.value).all()
    assert found.apply(weights, bins).mean() == pytest.approx(1.0)


def test_nonsense_is_refused() -> None:
    weights, bins, folds, _ = sample(50)
    with pytest.raises(ValueError, match="2 folds"):
        monotone(bin_moments(weights, bins, folds * 0, SHAPE), True)
    with pytest.raises(ValueError, match="above 0"):
        monotone(bin_moments(weights * 0, bins, folds, SHAPE), False)
    with pytest.raises(ValueError, match="smallest share"):
        monotone(bin_moments(weights, bins, folds, SHAPE), False, smallest_share=0.0)
    with pytest.raises(ValueError, match="rewards"):
        monotone(bin_moments(weights, bins, folds, SHAPE), False, include_raw=True)
