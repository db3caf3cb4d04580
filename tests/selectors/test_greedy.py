"""The greedy loop picks what a full search picks, lazily or not, and goes on from what is given."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tamis.scoring.neighbours import Graph, neighbour_graph
from tamis.selectors.facility_location import FacilityLocation
from tamis.selectors.greedy import Rule, greedy, sink


class Coverage(Rule):
    """Sets of points; an item adds those of its points that no taken item has."""

    def __init__(self, points: NDArray[np.bool_]) -> None:
        super().__init__(len(points))
        self.points, self.covered = points, np.zeros(points.shape[1], np.bool_)

    def gains(self) -> NDArray[np.float64]:
        return (self.points & ~self.covered).sum(1).astype(float)

    def add(self, item: int) -> None:
        self.covered |= self.points[item]


def unit(n: int, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(n, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_each_pick_adds_most_and_ties_go_to_the_first() -> None:
    points = np.random.default_rng(0).random((30, 40)) < 0.15
    picks = greedy(Coverage(points), 30)
    covered = np.zeros(40, bool)
    left = list(range(30))
    for item, gain in zip(picks.items.tolist(), picks.gains.tolist(), strict=True):
        adds = {i: int((points[i] & ~covered).sum()) for i in left}
        assert adds[item] == gain == max(adds.values())
        assert item == min(i for i in left if adds[i] == gain)
        covered |= points[item]
        left.remove(item)
    assert not left


def test_what_is_given_is_taken_first_and_not_picked() -> None:
    points = np.random.default_rng(1).random((20, 40)) < 0.2
    whole = greedy(Coverage(points), 12).items
    on = greedy(Coverage(points), 8, given=[*whole[:4].tolist(), int(whole[0])])
    assert np.array_equal(on.items, whole[4:])
    assert np.array_equal(greedy(Coverage(points), 5).items, whole[:5])
    assert len(greedy(Coverage(points), 100, given=range(15)).items) == 5
    assert len(greedy(Coverage(points[:0]), 3).items) == 0


def full_facility_location(similarity: NDArray[np.float32], budget: int) -> list[int]:
    """Every gain computed anew for every pick."""
    values, picked = np.zeros(len(similarity), np.float32), []
    for _ in range(budget):
        gains = [
            -1.0 if j in picked else sum(float(max(similarity[i, j] - values[i], 0)) for i in range(len(values)))
            for j in range(len(values))
        ]
        picked.append(int(np.argmax(gains)))
        values = np.maximum(values, similarity[:, picked[-1]])
    return picked


@pytest.mark.parametrize("neighbours", [3, 39])
def test_lazy_picks_are_those_of_the_full_computation(neighbours: int) -> None:
    vectors = np.concatenate([unit(35), unit(5)])  # with copies, which tie
    graph = neighbour_graph(vectors, neighbours)
    similarity = np.zeros((40, 40), np.float32)
    for i in range(40):
        row = slice(graph.offsets[i], graph.offsets[i + 1])
        order = np.argsort(graph.neighbours[row])
        graph.neighbours[row] = graph.neighbours[row][order]  # sums in the order of the items, as in the oracle
        graph.similarities[row] = graph.similarities[row][order]
        similarity[i, graph.neighbours[row]] = graph.similarities[row]
    assert greedy(FacilityLocation(graph), 40).items.tolist() == full_facility_location(similarity, 40)


def test_lazy_choice_goes_on_from_what_is_given() -> None:
    graph = neighbour_graph(unit(200), 10)
    whole = greedy(FacilityLocation(graph), 60).items
    assert np.array_equal(greedy(FacilityLocation(graph), 40, given=whole[:20]).items, whole[20:])


def test_a_heap_keeps_its_order() -> None:
    rng = np.random.default_rng(0)
    bounds = rng.integers(0, 9, 60).astype(float)
    heap = np.lexsort((np.arange(60), -bounds))
    for _ in range(200):
        bounds[heap[0]] -= rng.integers(0, 5)
        sink(heap, bounds, len(heap))
        assert heap[0] == np.lexsort((np.arange(60), -bounds))[0]
        assert sorted(heap.tolist()) == list(range(60))


def test_graphs_of_negative_similarity_are_refused() -> None:
    graph = Graph(np.array([0, 1]), np.array([0], np.int32), np.array([-0.5], np.float32))
    with pytest.raises(ValueError, match="must not be negative"):
        FacilityLocation(graph)
