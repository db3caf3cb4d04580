"""Facility location covers: near the best possible, near that of all pairs, and better than chance."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from tamis.scoring.neighbours import neighbour_graph
from tamis.selectors.facility_location import FacilityLocation, facility_value, neighbours_for
from tamis.selectors.greedy import greedy


def clustered(n: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, 16))
    vectors = centres[rng.integers(0, 12, n)] + 0.5 * rng.normal(size=(n, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_gains_add_up_to_the_value() -> None:
    vectors = clustered(120)
    picks = greedy(FacilityLocation(neighbour_graph(vectors, 119)), 15)
    for number in (1, 5, 15):
        assert np.isclose(picks.gains[:number].sum(), facility_value(vectors, picks.items[:number]), rtol=1e-5)
    assert (np.diff(picks.gains) <= 0).all()


def test_the_value_is_near_the_best_possible() -> None:
    vectors = clustered(16, 3)
    found = facility_value(vectors, greedy(FacilityLocation(neighbour_graph(vectors, 15)), 3).items)
    best = max(facility_value(vectors, np.array(some)) for some in itertools.combinations(range(16), 3))
    assert (1 - 1 / np.e) * best <= found <= best + 1e-4


def test_few_neighbours_suffice() -> None:
    vectors = clustered(1000)
    for budget in (20, 100):
        every = greedy(FacilityLocation(neighbour_graph(vectors, 999)), budget).items
        few = greedy(FacilityLocation(neighbour_graph(vectors, neighbours_for(1000, budget))), budget).items
        chance = np.random.default_rng(0).permutation(1000)[:budget]
        values = [facility_value(vectors, items) for items in (every, few, chance)]
        assert values[1] > 0.99 * values[0] and values[0] - values[1] < 0.3 * (values[0] - values[2])


def test_the_value_does_not_depend_on_blocks() -> None:
    vectors = clustered(100)
    items = np.array([3, 50, 71])
    wanted = np.maximum(vectors.astype(float) @ vectors[items].T.astype(float), 0).max(1).sum()
    assert np.isclose(facility_value(vectors, items, block=7), wanted, rtol=1e-6)
    assert facility_value(vectors, items[:0]) == 0
