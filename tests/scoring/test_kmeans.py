"""Centroids are FAISS's, assignments are those of all pairs, and blocks, copies and threads change nothing."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray
from tamis.scoring import kmeans
from tamis.scoring.kmeans import Centroids, fit_kmeans, nearest_centroids, one_thread

NONE = np.zeros((0, 16), np.float32)


def unit(n: int, seed: int = 0, d: int = 16) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def all_distances(centroids: NDArray[Any], x: NDArray[Any], spherical: bool) -> NDArray[np.float64]:
    c, x = centroids.astype(float), x.astype(float)
    return 1 - x @ c.T if spherical else np.linalg.norm(x[:, None] - c[None], axis=2)


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_assignment_is_that_of_all_pairs(spherical: bool, dtype: Any) -> None:
    x = unit(50).astype(dtype)
    centroids = Centroids(unit(7, 1), NONE, spherical)
    found = nearest_centroids(centroids, x)
    wanted = all_distances(centroids.centroids, x, spherical)
    assert np.array_equal(found.cluster, wanted.argmin(1))
    assert np.allclose(found.distance, wanted.min(1), atol=1e-6)
    assert np.allclose(found.second, np.sort(wanted, 1)[:, 1], atol=1e-6)


@pytest.mark.parametrize("spherical", [True, False])
def test_blocks_and_threads_change_no_bit(spherical: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, centroids = unit(3000), Centroids(unit(40, 1), NONE, spherical)
    whole = nearest_centroids(centroids, x)
    with one_thread():
        assert all(map(np.array_equal, nearest_centroids(centroids, x), whole))
    monkeypatch.setattr(kmeans, "BLOCK", 7)
    assert all(map(np.array_equal, nearest_centroids(centroids, x[:500]), (part[:500] for part in whole)))


def test_of_equal_centroids_the_first_is_the_nearest() -> None:
    x = unit(20)
    found = nearest_centroids(Centroids(np.repeat(x[:2], 3, axis=0), NONE, True), x)
    assert set(found.cluster.tolist()) <= {0, 3}
    assert np.array_equal(found.second, found.distance)


def test_one_centroid_has_no_second() -> None:
    found = nearest_centroids(Centroids(unit(1, 1), NONE, True), unit(5))
    assert not found.cluster.any() and np.isnan(found.second).all()


@pytest.mark.parametrize("spherical", [True, False])
def test_centroids_are_those_of_faiss_on_any_number_of_threads(spherical: bool) -> None:
    x = unit(2000)
    direct = faiss.Kmeans(16, 20, niter=25, seed=1234, spherical=spherical)
    direct.train(x)
    found = fit_kmeans(x, 20, spherical)
    assert np.array_equal(found.centroids, direct.centroids)
    with one_thread():
        assert np.array_equal(fit_kmeans(x, 20, spherical).centroids, found.centroids)


def test_spherical_centroids_have_length_one_and_are_the_directions_of_the_means() -> None:
    x = unit(500)
    found = fit_kmeans(x, 5, iterations=200)
    cluster = nearest_centroids(found, x).cluster
    means = np.array([x[cluster == c].sum(0) for c in range(5)])
    assert np.allclose(found.centroids, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-4)


def test_fewer_vectors_than_clusters_become_the_centroids() -> None:
    x = unit(5)
    found = fit_kmeans(x, 9)
    assert len(found) == 5 and np.allclose(nearest_centroids(found, x).distance, 0, atol=1e-6)
    with pytest.raises(ValueError, match="no vector"):
        fit_kmeans(x[:0], 3)


def test_two_levels_find_nearly_as_good_clusters() -> None:
    rng = np.random.default_rng(0)
    centres = unit(100, 3, 32)
    x = centres[rng.integers(0, 100, 8000)] + 0.1 * rng.normal(size=(8000, 32)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    one, two = fit_kmeans(x, 200, two_levels=False), fit_kmeans(x, 200, two_levels=True)
    assert len(two) == 200 and 0 < len(two.coarse) <= 15 and not len(one.coarse)
    loss = [float(nearest_centroids(found, x).distance.mean()) for found in (one, two)]
    assert loss[1] < 1.15 * loss[0]
    through_the_tree = nearest_centroids(two, x)
    every = all_distances(two.centroids, x, True)
    assert np.mean(through_the_tree.cluster == every.argmin(1)) > 0.99
    assert np.allclose(through_the_tree.distance, every[np.arange(len(x)), through_the_tree.cluster], atol=1e-5)


@pytest.mark.parametrize("sizes", [[5, 0, 1, 100], [1, 1, 1, 1], [1000, 1, 1, 1], [3, 3, 3, 4]])
@pytest.mark.parametrize("total", [4, 7, 13])
def test_shares_of_a_total_fit_the_sizes(sizes: list[int], total: int) -> None:
    total = min(total, sum(sizes))
    shares = kmeans._shares(np.array(sizes), total)
    assert shares.sum() == total and (shares <= sizes).all() and ((shares > 0) == (np.array(sizes) > 0)).all()
