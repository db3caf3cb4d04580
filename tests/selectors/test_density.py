"""Typicality, density and medians are those of their formulas, and weights even crowded places out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tamis.connectors.keys import keyed_gumbel
from tamis.selectors import density
from tamis.selectors.density import (
    added_kernel_density,
    added_median_distances,
    added_typicality,
    inverse_density,
    kernel_density,
    median_distances,
    typicality,
)


def unit(n: int, d: int = 8, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def all_distances(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    x = vectors.astype(float)
    return np.linalg.norm(x[:, None] - x[None], axis=2)


@pytest.mark.parametrize(("n", "k"), [(50, 20), (11, 5), (2, 1), (3, 1)])
def test_typicality_is_by_distances_and_not_by_their_squares(n: int, k: int) -> None:
    vectors = unit(n)
    others = np.sort(all_distances(vectors), axis=1)[:, 1 : k + 1]
    assert np.allclose(typicality(vectors), 1 / (others.mean(1) + 1e-5), rtol=1e-4)


def test_copies_are_most_typical_and_one_alone_is_not() -> None:
    vectors = np.concatenate([np.repeat(unit(1), 4, axis=0), unit(10, seed=1)])
    found = typicality(vectors, 3)
    assert np.isfinite(found).all() and found[:4].min() > 10 * found[4:].max()
    assert typicality(unit(1)).tolist() == [0.0] and len(typicality(unit(0))) == 0


def test_density_is_the_mean_kernel_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit(50)
    wanted = np.exp(-(all_distances(vectors) ** 2) / (2 * 0.4**2)).mean(1)
    assert np.allclose(kernel_density(vectors, 0.4), wanted, rtol=1e-4)
    monkeypatch.setattr(density, "BLOCK", 7)
    assert np.allclose(kernel_density(vectors, 0.4), wanted, rtol=1e-4)
    with pytest.raises(ValueError, match="not positive"):
        kernel_density(vectors, 0.0)


def test_sampling_by_inverse_density_evens_places_out() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(2, 8)
    of = np.repeat([0, 1], [900, 100])
    vectors = centres[of] + 0.05 * rng.normal(size=(1000, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    weights = inverse_density(kernel_density(vectors, 0.3))
    keys = np.arange(1000, dtype=np.uint64)

    def small_share(power: float) -> float:
        noise = keyed_gumbel(0, "even", keys)
        taken = np.argsort(-(power * weights + noise))[:60]
        return float(of[taken].mean())

    assert small_share(0) < 0.2 and 0.4 < small_share(1) < 0.6
    assert np.allclose(inverse_density(np.array([0.5, 1.0]), 2.0), [2 * np.log(2), 0])


def test_medians_are_taken_by_class_and_coordinate() -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 5))
    classes = np.random.default_rng(1).integers(0, 4, 40) * 7
    classes[3] = 99  # a class of one, which the published code cannot take
    found = median_distances(vectors, classes)
    for row in range(40):
        members = vectors[classes == classes[row]]
        assert np.isclose(found[row], np.linalg.norm(vectors[row] - np.median(members, axis=0)))
    assert found[3] == 0 and len(median_distances(vectors[:0], classes[:0])) == 0


@pytest.mark.parametrize("n", [1, 2, 30, 61])
def test_what_is_added_gets_what_it_would_get_alone(n: int) -> None:
    others, new = unit(n), unit(9, seed=1)
    for row, one in enumerate(new):
        together = np.concatenate([others, one[None]])
        if n % 2 == 0:  # then half of them is the same with one more
            assert np.isclose(added_typicality(new, others)[row], typicality(together)[-1], rtol=1e-4)
        assert np.isclose(added_kernel_density(new, others, 0.4)[row], kernel_density(together, 0.4)[-1], rtol=1e-5)
        distance = np.linalg.norm(one - np.median(others.astype(float), axis=0))
        assert np.isclose(added_median_distances(new, others)[row], distance)
    assert added_typicality(new, others[:0]).tolist() == added_median_distances(new, others[:0]).tolist() == [0.0] * 9
    assert added_kernel_density(new, others[:0], 0.4).tolist() == [1.0] * 9


def test_what_is_added_together_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    others, new = unit(700, 64), unit(300, 64, seed=1)
    for function in (added_typicality, lambda x, y: added_kernel_density(x, y, 0.5), added_median_distances):
        whole = function(new, others)
        for rows in (np.array([299]), np.arange(140, 290, 3), np.random.default_rng(0).permutation(300)):
            assert np.array_equal(function(new[rows], others), whole[rows])
    monkeypatch.setattr(density, "ADDED", 7)
    assert np.allclose(added_typicality(new, others), typicality_by_all(new, others), rtol=1e-4)


def typicality_by_all(new: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    distances = np.linalg.norm(new.astype(float)[:, None] - others.astype(float)[None], axis=2)
    return 1 / (np.sort(distances, axis=1)[:, :20].mean(1) + 1e-5)
