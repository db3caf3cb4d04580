"""k-center picks the farthest item, and k-means++ samples by squared distance, from keys alone."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from tamis.selectors.greedy import greedy
from tamis.selectors.k_center import KCenter
from tamis.selectors.k_means_plus_plus import KMeansPlusPlus


def points(n: int, d: int = 3, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def distances(vectors: NDArray[np.float32], items: list[int]) -> NDArray[np.float64]:
    return (((vectors[:, None].astype(float) - vectors[items].astype(float)) ** 2).sum(2)).min(1)


def test_every_pick_is_the_farthest_item() -> None:
    vectors = points(50)
    picks = greedy(KCenter(vectors), 20)
    assert picks.items[0] == 0
    for number in range(1, 20):
        left = distances(vectors, picks.items[:number].tolist())
        assert picks.items[number] == left.argmax()
        assert np.isclose(picks.gains[number], left.max(), rtol=1e-5)


def test_the_radius_is_at_most_twice_the_best() -> None:
    vectors = points(14, 2)
    found = np.sqrt(distances(vectors, greedy(KCenter(vectors), 3).items.tolist()).max())
    best = min(np.sqrt(distances(vectors, list(some)).max()) for some in itertools.combinations(range(14), 3))
    assert best <= found <= 2 * best + 1e-6


def test_what_is_given_pushes_picks_away() -> None:
    vectors = np.array([[0.0], [1.0], [10.0], [11.0]], np.float32)
    assert greedy(KCenter(vectors), 1, given=[2]).items.tolist() == [0]
    assert greedy(KCenter(np.repeat(vectors, 2, axis=0)), 4).items.tolist() == [0, 6, 2, 4]


def test_sampling_is_by_squared_distance() -> None:
    vectors = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    keys = np.arange(4, dtype=np.uint64)
    first, second = np.zeros(4), np.zeros(4)
    for seed in range(2000):
        picked = greedy(KMeansPlusPlus(vectors, keys, seed, "cover"), 1).items
        first[picked] += 1
        second[greedy(KMeansPlusPlus(vectors, keys, seed, "cover"), 1, given=[0]).items] += 1
    assert np.allclose(first / 2000, 0.25, atol=0.04)
    assert np.allclose(second / 2000, np.array([0, 1, 4, 9]) / 14, atol=0.04)


def test_draws_depend_on_keys_and_not_on_the_order() -> None:
    vectors, keys = points(60), np.random.default_rng(1).integers(0, 2**63, 60).astype(np.uint64)
    picked = greedy(KMeansPlusPlus(vectors, keys, 7, "cover"), 15).items
    order = np.random.default_rng(2).permutation(60)
    turned = greedy(KMeansPlusPlus(vectors[order], keys[order], 7, "cover"), 15).items
    assert np.array_equal(order[turned], picked)
    assert len(np.unique(picked)) == 15
    assert not np.array_equal(greedy(KMeansPlusPlus(vectors, keys, 7, "other"), 15).items, picked)
