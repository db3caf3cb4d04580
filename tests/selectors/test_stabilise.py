"""Guards of weights: what they promise, on log weights; Pareto smoothing against a brute force."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from spreads import spread_of
from tamis.selectors.diagnostics import effective_sample_size
from tamis.selectors.stabilise import Clip, MixUniform, ParetoSmooth, SpreadStabiliser, Temper, uniform_share
from tamis.selectors.tail import fit_tail, generalised_pareto, pareto_smooth, tail_length

WEIGHTS = st.lists(st.floats(0, 100), min_size=2, max_size=40).map(np.array).filter(lambda w: w.max() > 1e-3)


def logs_of(w: NDArray) -> NDArray:
    with np.errstate(divide="ignore"):
        return np.log(w)


def stabilised(stabiliser: SpreadStabiliser, w: NDArray) -> NDArray:
    """Apply to weights; a constant factor, also one that no float64 holds, changes nothing."""
    logs = logs_of(w)
    found = stabiliser.apply(logs, stabiliser.fit(spread_of(logs)))
    raised = stabiliser.apply(logs + 5000, stabiliser.fit(spread_of(logs + 5000)))
    np.testing.assert_allclose(np.exp(raised - raised.max()), np.exp(found - found.max()), rtol=1e-6, atol=1e-12)
    return np.exp(found)


def ess(w: NDArray) -> float:
    return effective_sample_size(float(w.sum()), float(w @ w))


def smoothed(logs: NDArray) -> NDArray:
    return pareto_smooth(logs, fit_tail(np.sort(logs)[-tail_length(logs.size) - 1 :]))


@given(WEIGHTS, st.none() | st.floats(0.1, 5))
def test_clipping_keeps_order_and_never_lowers_the_effective_size(w: NDArray, multiple: float | None) -> None:
    ceiling = w.mean() * (math.sqrt(w.size) if multiple is None else multiple)
    clipped = stabilised(Clip(method="clip", ceiling=multiple), w)
    assert clipped.max() <= ceiling * (1 + 1e-9) and (np.diff(clipped[np.argsort(w)]) >= 0).all()
    assert ess(clipped) >= ess(w) * (1 - 1e-9)
    np.testing.assert_allclose(clipped[w < ceiling], w[w < ceiling])


@given(WEIGHTS, st.floats(0.02, 1))
def test_a_mixture_has_the_effective_size_that_was_wanted(w: NDArray, wanted: float) -> None:
    mixed = stabilised(MixUniform(method="mix_uniform", effective_sample_size=wanted), w)
    share = uniform_share(w.size, float(w.sum()), float(w @ w), wanted * w.size)
    assert 0 <= share <= 1
    assert mixed.mean() == pytest.approx(w.mean())
    assert mixed.min() >= share * w.mean() * (1 - 1e-9)
    assert ess(mixed) == pytest.approx(max(ess(w), wanted * w.size), rel=1e-6)
    np.testing.assert_allclose(stabilised(MixUniform(method="mix_uniform", share=0.25), w), 0.75 * w + 0.25 * w.mean())


@given(WEIGHTS, st.floats(1, 50))
def test_tempering_flattens_and_keeps_order_and_zeros(w: NDArray, temperature: float) -> None:
    flat = Temper(method="temper", temperature=temperature).apply(logs_of(w), {"temperature": temperature})
    np.testing.assert_allclose(np.exp(flat), w ** (1 / temperature))


def test_tempering_reaches_the_size_that_was_wanted() -> None:
    w = np.exp(np.random.default_rng(0).normal(0, 3, 5000))
    for wanted in (0.02, 0.1, 0.8):
        tempered = stabilised(Temper(method="temper", effective_sample_size=wanted), w)
        assert ess(tempered) == pytest.approx(wanted * 5000, rel=1e-3)
    never_sharpened = stabilised(Temper(method="temper", effective_sample_size=0.5 * ess(w) / 5000), w)
    np.testing.assert_allclose(never_sharpened, w)
    np.testing.assert_allclose(stabilised(Temper(method="temper", effective_sample_size=1), w), 1.0, rtol=1e-6)


def test_pareto_smoothing_is_that_of_the_tail() -> None:
    w = np.random.default_rng(1).pareto(1.2, 4000)
    fitted = ParetoSmooth(method="pareto_smooth").fit(spread_of(np.log(w)))
    np.testing.assert_array_equal(ParetoSmooth(method="pareto_smooth").apply(np.log(w), fitted), smoothed(np.log(w)))


def brute_smoothing(logs: NDArray) -> NDArray:
    """Value by value, without ties."""
    m = math.ceil(min(0.2 * logs.size, 3 * math.sqrt(logs.size)))
    order = sorted(range(logs.size), key=lambda i: logs[i])
    base = math.exp(logs[order[-m - 1]])
    k, sigma = generalised_pareto(np.exp(logs[order[-m:]]) - base)
    k = (m * k + 5) / (m + 10)
    result = logs.copy()
    for j, i in enumerate(order[-m:], 1):
        quantile = sigma * ((1 - (j - 0.5) / m) ** -k - 1) / k
        result[i] = min(math.log(base + quantile), logs.max())
    return result


@pytest.mark.parametrize("seed", range(6))  # the cap at the largest binds for some
def test_smoothing_is_that_of_its_paper(seed: int) -> None:
    logs = np.random.default_rng(seed).normal(0, 2, 400)
    np.testing.assert_allclose(smoothed(logs), brute_smoothing(logs), rtol=1e-9)
    np.testing.assert_allclose(smoothed(logs + 5000), smoothed(logs) + 5000, rtol=1e-9)


def test_smoothing_touches_the_tail_only_and_keeps_order() -> None:
    logs = -0.9 * np.log(np.random.default_rng(4).random(10_000))
    result = smoothed(logs)
    order = np.argsort(logs)
    assert (np.diff(result[order]) >= 0).all() and result.max() <= logs.max()
    np.testing.assert_array_equal(result[order[:-300]], logs[order[:-300]])
    assert (result[order[-300:]] != logs[order[-300:]]).any()


def test_shards_are_smoothed_as_the_whole_and_ties_alike() -> None:
    logs = np.round(np.random.default_rng(5).normal(0, 2, 5000), 1)
    whole = smoothed(logs)
    parts = np.array_split(logs, 6)
    m = tail_length(logs.size) + 1
    top = np.sort(np.concatenate([np.sort(part)[-m:] for part in parts]))[-m:]  # the merge of a top-k
    tail = fit_tail(top)
    np.testing.assert_array_equal(np.concatenate([pareto_smooth(part, tail) for part in parts]), whole)
    for value in set(logs):
        assert np.ptp(whole[logs == value]) == 0


def test_smoothing_steadies_an_average() -> None:
    """The mean of Exp(1), drawn from Exp(rate 1.7): weights of k = 0.41, over and over."""
    rng, plain, smooth = np.random.default_rng(6), [], []
    for _ in range(150):
        x = rng.exponential(1 / 1.7, 300)
        logs = 0.7 * x
        for found, result in ((logs, plain), (smoothed(logs), smooth)):
            w = np.exp(found)
            result.append(w @ x / w.sum())
    assert np.mean((np.array(smooth) - 1) ** 2) < np.mean((np.array(plain) - 1) ** 2)


def test_what_was_not_fitted_is_left_alone() -> None:
    for logs in (np.zeros(50), np.array([1.0, 2.0, 3.0])):
        np.testing.assert_array_equal(smoothed(logs), logs)


@pytest.mark.parametrize(("n", "sum_w", "sum_w2", "wanted"), [(2, 0.0, 0.0, 1), (2, 3.0, 5.0, 3), (2, 3.0, 5.0, 0)])
def test_mixtures_that_cannot_be_are_refused(n: int, sum_w: float, sum_w2: float, wanted: float) -> None:
    with pytest.raises(ValueError, match="mixture"):
        uniform_share(n, sum_w, sum_w2, wanted)
