import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tamis.selectors.diagnostics import effective_sample_size, rank_correlation, temperature_for_ess, topk_overlap


def ess_at(temperature: float, counts: NDArray[np.int64], low: float, high: float) -> float:
    """The definition, document by document."""
    width = (high - low) / len(counts)
    scores = np.repeat(low + (np.arange(len(counts)) + 0.5) * width, counts)
    weights = np.exp((scores - scores.max()) / temperature)
    return effective_sample_size(weights.sum(), (weights**2).sum())


def test_effective_sample_size_counts_equal_weights() -> None:
    weights = np.array([2.0, 2.0, 2.0, 0.0])
    assert effective_sample_size(weights.sum(), (weights**2).sum()) == 3.0
    assert effective_sample_size(0.0, 0.0) == 0.0


def brute_rank_correlation(x: list[float], y: list[float]) -> float:
    def ranks(values: list[float]) -> list[float]:
        return [sum(b < a for b in values) + sum(b == a for b in values) / 2 for a in values]

    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=30))
def test_rank_correlation_shares_ranks_between_ties(pairs: list[tuple[int, int]]) -> None:
    x, y = (list(column) for column in zip(*pairs, strict=True))
    assume(len(set(x)) > 1 and len(set(y)) > 1)
    found = rank_correlation(np.array(x, float), np.array(y, float))
    assert found == pytest.approx(brute_rank_correlation(x, y), abs=1e-12)


def test_rank_correlation_sees_order_only() -> None:
    x = np.array([-np.inf, -3.0, 0.1, 7.0, np.inf])
    assert rank_correlation(x, np.arange(5.0) ** 3) == pytest.approx(1.0)
    assert rank_correlation(x, -np.arange(5.0)) == pytest.approx(-1.0)
    with_gap = np.array([np.nan, -3.0, 0.1, 7.0, 8.0])
    assert rank_correlation(with_gap, np.array([100.0, 1.0, 2.0, 3.0, 4.0])) == pytest.approx(1.0)
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4.0)))
    assert np.isnan(rank_correlation(np.array([1.0]), np.array([1.0])))


def test_overlap_of_the_top() -> None:
    score = np.array([5.0, 4.0, 3.0, 2.0, 1.0, -np.inf])
    noisy = np.array([5.0, 0.0, 3.0, 4.0, 1.0, -np.inf])
    assert topk_overlap(score, score, 3) == 1.0
    assert topk_overlap(score, noisy, 3) == pytest.approx(2 / 3)
    assert topk_overlap(score, noisy, 99) == 1.0
    assert topk_overlap(score, -score, 3) == 0.0
    assert np.isnan(topk_overlap(score, noisy, 0))
    assert topk_overlap(np.zeros(4), np.zeros(4), 2) == 1.0


HISTOGRAMS = st.lists(st.integers(0, 50), min_size=2, max_size=40).filter(lambda counts: sum(map(bool, counts)) > 1)
LOWS, EXTENTS = st.floats(-1e6, 1e6), st.floats(1e-3, 1e6)


@settings(deadline=None)
@given(HISTOGRAMS, LOWS, EXTENTS, st.floats(0.02, 0.98))
def test_the_temperature_gives_the_wanted_size(counts: list[int], low: float, extent: float, where: float) -> None:
    histogram, high = np.array(counts), low + extent
    least, most = [n for n in counts if n][-1], sum(counts)
    wanted = least + where * (most - least)
    temperature = temperature_for_ess(histogram, low, high, wanted)
    assert ess_at(temperature, histogram, low, high) == pytest.approx(wanted, rel=0.01)
    assert temperature == float(f"{temperature:.8e}")


@settings(deadline=None)
@given(HISTOGRAMS, st.floats(0.1, 3000), st.floats(0.1, 3000))
def test_more_documents_need_a_higher_temperature(counts: list[int], one: float, other: float) -> None:
    small, large = sorted([one, other])
    histogram = np.array(counts)
    assert temperature_for_ess(histogram, -2.0, 9.0, small) <= temperature_for_ess(histogram, -2.0, 9.0, large)


def test_sizes_out_of_reach_give_the_ends_of_the_range() -> None:
    counts = np.array([10, 0, 5])
    assert temperature_for_ess(counts, 0.0, 2.0, 15) == 2e9
    assert temperature_for_ess(counts, 0.0, 2.0, 99) == 2e9
    assert temperature_for_ess(counts, 0.0, 2.0, 1) == 2e-6  # five documents share the top
    assert temperature_for_ess(np.array([0, 0, 7]), 0.0, 2.0, 3) == 2e-6
    assert temperature_for_ess(np.array([7]), 4.0, 4.0, 7) == 1e9


def test_a_histogram_that_is_none_is_refused() -> None:
    for counts, low, high in [([0, 0], 0.0, 1.0), ([1, 1], 1.0, 0.0), ([1, 1], -np.inf, 0.0), ([1, 1], 0.0, np.nan)]:
        with pytest.raises(ValueError, match=r"document|histogram"):
            temperature_for_ess(np.array(counts), low, high, 2)
