"""Drift against counting by hand and against known distributions; pairing of copies against all assignments."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tamis.selectors.changes import ROW, paired
from tamis.selectors.drift import (
    kolmogorov_smirnov,
    population_stability_index,
    quantile_edges,
    reading,
    stability_by_chance,
)

scores = st.lists(st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0]), max_size=40).map(np.array)
known = st.lists(st.floats(allow_nan=False, width=32) | st.just(1.0), min_size=1, max_size=60).map(np.array)


@given(scores, scores)
def test_distance_is_the_largest_difference_of_shares_below(old: NDArray[np.float64], new: NDArray[np.float64]) -> None:
    sides = [[float(value) for value in values if not math.isnan(value)] for values in (old, new)]
    distance = kolmogorov_smirnov(old, new)
    if not all(sides):
        assert math.isnan(distance)
        return
    shares = [[sum(v <= x for v in values) / len(values) for x in sides[0] + sides[1]] for values in sides]
    assert distance == pytest.approx(max(abs(a - b) for a, b in zip(*shares, strict=True)))
    assert kolmogorov_smirnov(new, old) == distance


@given(st.sets(st.floats(allow_nan=False), min_size=2).map(lambda some: np.array(sorted(some))), st.integers(2, 12))
def test_bins_of_distinct_values_are_even(values: NDArray[np.float64], bins: int) -> None:
    bins = min(bins, values.size)
    sizes = np.diff([0, *np.searchsorted(values, quantile_edges(values, bins)), values.size])
    assert len(sizes) == bins
    assert max(sizes) <= values.size // bins + 1
    assert min(sizes[1:]) >= values.size // bins


@given(known, known)
def test_index_by_hand(old: NDArray[np.float64], new: NDArray[np.float64]) -> None:
    edges = [-math.inf, *quantile_edges(old).tolist(), math.nan]
    index = 0.0
    for low, high in itertools.pairwise(edges):
        p, q = (
            (sum(low <= v and not v >= high for v in values) + 0.5) / (len(values) + 0.5 * (len(edges) - 1))
            for values in (old, new)
        )
        index += (q - p) * math.log(q / p)
    assert population_stability_index(old, new) == pytest.approx(index, abs=1e-12)
    assert index >= 0
    assert population_stability_index(old, old) == 0


@given(known, known, st.integers(0, 99))
def test_neither_order_nor_missing_scores_count(old: NDArray[np.float64], new: NDArray[np.float64], seed: int) -> None:
    mixed = np.random.default_rng(seed).permutation(np.append(new, math.nan))
    for measure in (population_stability_index, kolmogorov_smirnov):
        assert measure(old, mixed) == measure(old, new)


def test_a_shifted_normal_distribution() -> None:
    """The bins keep nearly all of the Jeffreys divergence of two normal distributions, which is the squared shift."""
    old, new = np.random.default_rng(7).normal(size=(2, 200_000))
    assert population_stability_index(old, new) < 4 * stability_by_chance(old.size, new.size)
    for shift in (0.2, 0.4, 0.6):
        assert 0.9 * shift**2 < population_stability_index(old, new + shift) < shift**2
        assert kolmogorov_smirnov(old, new + shift) == pytest.approx(math.erf(shift / 2 / math.sqrt(2)), abs=0.01)


@pytest.mark.parametrize("moved", [0.0, 2.0])
def test_a_constant_score_that_moves_is_seen_either_way(moved: float) -> None:
    assert population_stability_index(np.ones(100), np.full(100, moved)) > 1
    assert kolmogorov_smirnov(np.ones(100), np.full(100, moved)) == 1


def test_chance_is_the_mean_over_samples_of_one_distribution() -> None:
    generator = np.random.default_rng(3)
    found = [population_stability_index(*generator.normal(size=(2, 1000))) for _ in range(300)]
    assert np.mean(found) == pytest.approx(stability_by_chance(1000, 1000), rel=0.15)
    assert stability_by_chance(0, 5) == math.inf


def test_the_convention() -> None:
    assert [reading(index) for index in (0, 0.0999, 0.1, 0.25, 0.2501, math.nan)] == [
        *["stable"] * 2,
        *["moderate"] * 2,
        "large",
        "unknown",
    ]


rows = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2**63, 2**64 - 1]),  # key
        st.integers(0, 1),  # group
        st.integers(1, 3),  # tokens
        st.sampled_from([0.0, 1.0, 2.0]),  # weight
        st.integers(1, 3),  # fate
    ),
    max_size=14,
).map(lambda some: np.array(some, ROW))


def distance(before: tuple[int, ...], after: tuple[int, ...]) -> int:
    """How different two states of a document are: by fate first, then group, then weight."""
    (_, group, _, weight, fate), (_, other_group, _, other_weight, other_fate) = before, after
    return 100 * (fate != other_fate) + 10 * (group != other_group) + (weight != other_weight)


@settings(deadline=None, max_examples=50)  # the kernel is compiled in the first one
@given(rows, rows)
def test_copies_are_paired_as_multisets(old: NDArray[np.void], new: NDArray[np.void]) -> None:
    before, after = paired(old, new)
    assert Counter(row.tolist() for row in before if row["fate"]) == Counter(row.tolist() for row in old)
    assert Counter(row.tolist() for row in after if row["fate"]) == Counter(row.tolist() for row in new)
    both = (before["fate"] > 0) & (after["fate"] > 0)
    assert (before["key"] == after["key"])[both].all()
    for key in {*old["key"].tolist(), *new["key"].tolist()}:
        counts = [int(np.sum(side["key"] == key)) for side in (old, new)]
        assert np.sum(both & (before["key"] == key)) == min(counts)
        fates = [Counter(side["fate"][side["key"] == key].tolist()) for side in (old, new)]
        same = np.sum(both & (before["key"] == key) & (before["fate"] == after["fate"]))
        assert same == sum((fates[0] & fates[1]).values())  # no assignment leaves more copies as they are
        states = [
            Counter(row.tolist()[:2] + row.tolist()[3:] for row in side if row["key"] == key) for side in (old, new)
        ]
        equal = Counter(
            b.tolist()[:2] + b.tolist()[3:]
            for b, a in zip(before, after, strict=True)
            if b["key"] == key and a["fate"] and distance(b.tolist(), a.tolist()) == 0
        )
        assert equal == states[0] & states[1]


@settings(deadline=None, max_examples=50)  # the kernel is compiled in the first one
@given(rows, rows)
def test_pairs_are_mirrored_and_know_no_order(old: NDArray[np.void], new: NDArray[np.void]) -> None:
    def pairs(one: NDArray[np.void], other: NDArray[np.void]) -> Counter[tuple[object, ...]]:
        return Counter(
            tuple((row["key"].item(), row["fate"].item(), row["group"].item(), row["weight"].item()) for row in pair)
            for pair in zip(*paired(one, other), strict=True)
        )

    forth, back = pairs(old, new), pairs(new, old)
    assert Counter({(a, b): count for (b, a), count in back.items()}) == forth
    assert pairs(old[::-1], new[::-1]) == forth
    assert all(before == after for before, after in pairs(old, old))
