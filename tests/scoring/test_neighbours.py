"""Neighbours are those of a full comparison, and graphs of them go both ways."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tamis.scoring.neighbours import nearest_neighbours, neighbour_graph


def unit(n: int, d: int = 16, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_neighbours_are_those_of_all_pairs() -> None:
    vectors = unit(50)
    found, products = nearest_neighbours(vectors, 5)
    every = vectors.astype(float) @ vectors.T.astype(float)
    np.fill_diagonal(every, -np.inf)
    assert np.array_equal(found, np.argsort(-every, axis=1)[:, :5])
    assert np.allclose(products, np.take_along_axis(every, found.astype(int), 1), atol=1e-6)


def test_copies_are_each_others_neighbours_and_never_their_own() -> None:
    vectors = np.repeat(unit(4), 5, axis=0)
    found, products = nearest_neighbours(vectors, 4)
    assert all(i not in row and (row // 5 == i // 5).all() for i, row in enumerate(found))
    assert np.allclose(products, 1, atol=1e-6)


def test_cells_find_most_of_them() -> None:
    rng = np.random.default_rng(0)
    centres = unit(60, 32)
    vectors = centres[rng.integers(0, 60, 6000)] + 0.1 * rng.normal(size=(6000, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    exact, _ = nearest_neighbours(vectors, 10, exact=True)
    near, _ = nearest_neighbours(vectors, 10, exact=False)
    assert np.mean([len(np.intersect1d(*rows)) for rows in zip(exact, near, strict=True)]) > 9.5


@pytest.mark.parametrize("exact", [True, False])
def test_a_graph_goes_both_ways_and_holds_each_pair_once(exact: bool) -> None:
    vectors = unit(300)
    found, _ = nearest_neighbours(vectors, 6, exact)
    graph = neighbour_graph(vectors, 6, exact)
    wanted = np.eye(300, dtype=bool)
    rows, places = np.nonzero(found >= 0)
    wanted[rows, found[rows, places]] = wanted[found[rows, places], rows] = True
    held = np.zeros((300, 300), int)
    similarity = np.zeros((300, 300))
    for i in range(300):
        row = slice(graph.offsets[i], graph.offsets[i + 1])
        np.add.at(held[i], graph.neighbours[row], 1)
        similarity[i, graph.neighbours[row]] = graph.similarities[row]
    assert np.array_equal(held, wanted.astype(int))
    assert np.allclose(similarity, np.where(wanted, np.maximum(vectors @ vectors.T, 0), 0), atol=1e-5)


def test_few_items() -> None:
    assert nearest_neighbours(unit(1), 5)[0].shape == (1, 0)
    assert nearest_neighbours(unit(3), 5)[0].shape == (3, 2)
    assert len(neighbour_graph(unit(1), 5)) == 1 and neighbour_graph(unit(0), 5).neighbours.size == 0
