"""The nearest one before each item, against a loop over all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from tamis.scoring import nearest_earlier as module
from tamis.scoring.nearest_earlier import distinct, nearest_earlier, unit_length


def vectors(n: int, d: int = 8, seed: int = 0) -> np.ndarray:
    return unit_length(np.random.default_rng(seed).normal(size=(n, d)))


@pytest.mark.parametrize("block", [1, 3, 4, 100])
@pytest.mark.parametrize("n", [0, 1, 2, 4, 37])
def test_against_all_pairs(n: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    x = vectors(n)
    similarity, place = nearest_earlier(x)
    for j in range(n):
        products = [float(x[i] @ x[j]) for i in range(j)]
        best = max([0.0, *products])
        assert similarity[j] == pytest.approx(best, abs=1e-6)
        assert place[j] == (j if best == 0 else int(np.argmax(products)))
    known = n // 3
    for found, whole in zip(nearest_earlier(x, known), (similarity, place), strict=True):
        np.testing.assert_array_equal(found[known:], whole[known:])


def test_a_chain_loses_all_but_its_first() -> None:
    """A is near B and B near C, but not A near C: C goes, though the B that it is near to goes too (as in SemDeDup)."""
    angles = np.array([0.0, 0.3, 0.6])
    similarity, place = nearest_earlier(unit_length(np.stack([np.cos(angles), np.sin(angles)], 1)))
    assert (similarity >= 0.95).tolist() == [False, True, True]
    assert place.tolist() == [0, 0, 1]
    assert np.cos(0.6) < 0.95


def test_of_equal_ones_the_first_is_named() -> None:
    x = np.repeat(vectors(1), 5, axis=0)
    similarity, place = nearest_earlier(x)
    assert place.tolist() == [0] * 5
    np.testing.assert_allclose(similarity, [0, 1, 1, 1, 1], atol=1e-6)


def test_a_giant_cluster_is_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 4)
    monkeypatch.setattr(module, "COMPARED", 8)
    x = vectors(21)
    parts = [nearest_earlier(x[start : start + 8]) for start in range(0, 21, 8)]
    similarity, place = nearest_earlier(x)
    np.testing.assert_allclose(similarity, np.concatenate([part[0] for part in parts]), atol=1e-6)
    assert place.tolist() == [8 * i + p for i, part in enumerate(parts) for p in part[1].tolist()]


def test_vectors_of_length_zero_are_near_none() -> None:
    similarity, place = nearest_earlier(unit_length(np.zeros((3, 4))))
    assert similarity.tolist() == [0, 0, 0]
    assert place.tolist() == [0, 1, 2]


def test_distinct_are_those_near_none_before_them_in_their_cluster() -> None:
    x = np.repeat(vectors(30), 2, axis=0)[np.random.default_rng(2).permutation(60)]
    cluster = np.arange(60, dtype=np.int32) % 3
    products = x @ x.T
    expected = [not any(products[i, j] >= 0.7 and cluster[i] == cluster[j] for i in range(j)) for j in range(60)]
    assert distinct(3 * x, cluster, 0.7).tolist() == expected
    assert 30 < sum(expected) < 55
