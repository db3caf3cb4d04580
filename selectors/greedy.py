"""One greedy loop for choices that cover: a running value per item, and one pick after another.

A rule says what an item would add now, and takes notice of each pick; k_center, k_means_plus_plus and facility_location
are rules. Ties go to the item with the smaller number: give items in the total order of their documents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


class Picks(NamedTuple):
    """items: int64[b], in the order in which they were picked; gains: float64[b], what each added at its time."""

    items: Int64
    gains: Float64


class Rule(ABC):
    """What a greedy choice makes most of; it has one running value per item, and remembers what is taken."""

    def __init__(self, items: int) -> None:
        self.free = np.ones(items, np.bool_)

    @abstractmethod
    def gains(self) -> Float64:
        """Return what each item would add now, float64[n]; that of a taken item does not matter."""

    @abstractmethod
    def add(self, item: int) -> None:
        """Update the running values for an item that is taken."""

    def best(self) -> tuple[int, float]:
        """Return the free item that adds most, and how much."""
        gains = np.where(self.free, self.gains(), -np.inf)
        item = int(np.argmax(gains))
        return item, float(gains[item])


class LazyRule(Rule):
    """A rule whose gains never grow while items are taken (a sub-modular function), so that few are computed again.

    Source: Minoux 1978, Accelerated greedy algorithms for maximizing submodular set functions.
    """

    def __init__(self, items: int) -> None:
        super().__init__(items)
        self._heap: Int64 | None = None
        self._bounds = np.zeros(0)

    @abstractmethod
    def refresh(self, heap: Int64, bounds: Float64, size: int) -> None:
        """Compute the gain of the heap's first item again, and let it sink, until it stays the first.

        A kernel that calls `sink`, so that the loop runs without Python.
        """

    def best(self) -> tuple[int, float]:
        """Return the free item that adds most, and how much."""
        if self._heap is None:
            self._bounds = self.gains()
            free = np.flatnonzero(self.free)
            self._heap = free[np.argsort(-self._bounds[free], kind="stable")]
        heap = self._heap
        self.refresh(heap, self._bounds, len(heap))
        item = int(heap[0])
        heap[0] = heap[-1]
        self._heap = heap[:-1]
        if len(self._heap):
            sink(self._heap, self._bounds, len(self._heap))
        return item, float(self._bounds[item])


def greedy(rule: Rule, budget: int, given: Sequence[int] | Int64 = ()) -> Picks:
    """Pick items one after another, each the one that adds most to those before it.

    A smaller budget gives a beginning of the picks of a larger one.

    Args:
        rule: of n items; it is used up.
        budget: how many are picked, fewer where there are not so many.
        given: items that are taken beforehand and not picked: documents that are chosen already.
    """
    for item in given:
        if rule.free[item]:
            rule.free[item] = False
            rule.add(int(item))
    many = min(budget, int(np.count_nonzero(rule.free)))
    items, gains = np.zeros(many, np.int64), np.zeros(many)
    for number in range(many):
        items[number], gains[number] = rule.best()
        rule.free[items[number]] = False
        rule.add(int(items[number]))
    return Picks(items, gains)


@numba.njit(nogil=True, cache=True)
def sink(heap: Any, bounds: Any, size: Any) -> None:
    """Let the first item of a heap sink to its place: by its bound, the larger first, then by number. For kernels."""
    item = heap[0]
    bound = bounds[item]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and _before(heap[child + 1], heap[child], bounds):
            child += 1
        below = heap[child]
        if bound > bounds[below] or (bound == bounds[below] and item < below):
            break
        heap[place] = below
        place = child
    heap[place] = item


@numba.njit(nogil=True, cache=True)
def _before(one: Any, other: Any, bounds: Any) -> Any:
    return bounds[one] > bounds[other] or (bounds[one] == bounds[other] and one < other)
