"""Nearest neighbours of vectors, in cells of k-means where there are many, and graphs of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .kmeans import fit_kmeans, nearest_centroids
from .vectors import widened

Float32 = NDArray[np.float32]

BLOCK, WIDTH = 1024, 4096
"""Rows and columns of the matrix of all pairs that are held at a time: 16 MB."""

POINTS = 64
"""Vectors that a cell is found from."""

EXACT = 1 << 13
"""Vectors up to which all pairs are compared; of more, those of near cells only."""

CELL = 128
"""Vectors in a cell, about,"""
PROBES = 16
"""and cells that are compared with each. Of 20,000 real texts this finds 93 % of the nearest 32 of each."""


@dataclass(frozen=True)
class Graph:
    """Similarities between n items, in rows: item i is like neighbours[offsets[i]:offsets[i + 1]].

    offsets: int64[n + 1]; neighbours: int32[m], each once in a row; similarities: float32[m].
    """

    offsets: NDArray[np.int64]
    neighbours: NDArray[np.int32]
    similarities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def nearest_neighbours(
    vectors: NDArray[np.floating], neighbours: int, exact: bool | None = None, seed: int = 1234, threads: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Find the items of the greatest inner products with each item, itself left out.

    Memory: 4 bytes a dimension and vector, 8 bytes a neighbour, and 24 MB. In cells a vector costs some 2,000
    products, whatever n is.

    Args:
        vectors: float16 or float32 [n, d], of length one.
        neighbours: how many, k; fewer where there are not so many items.
        exact: compare all pairs; default: for up to EXACT vectors.
        seed: of the choice of cells.
        threads: that compute; they change nothing but the time.

    Returns:
        Items int32[n, k], the nearest first, -1 where the cells held fewer; and inner products float32[n, k].
    """
    x = widened(vectors)
    n = len(x)
    k = max(0, min(neighbours, n - 1))
    found, products = np.full((n, k), -1, np.int32), np.full((n, k), -np.inf, np.float32)
    if not k:
        return found, products
    everything = np.arange(n)
    blocks: Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]
    if n <= EXACT if exact is None else exact:
        blocks = ((everything[start : start + BLOCK], everything) for start in range(0, n, BLOCK))
    else:
        blocks = _cells(x, max(1, n // CELL), seed)
    with _one_library_thread(), ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda block: _search(x, block[0], block[1], found, products), blocks):
            pass
    return found, products


@contextmanager
def _one_library_thread() -> Iterator[None]:
    """Let matrix products use one core: several wait for each other longer than blocks of this size take."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def _cells(x: Float32, cells: int, seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the vectors of each cell, and those of the PROBES cells nearest to its centroid, its own included."""
    sampled = x[:: max(1, len(x) // (POINTS * cells))]
    centroids = fit_kmeans(sampled, cells, iterations=10, seed=seed, two_levels=False)
    cell = nearest_centroids(centroids, x).cluster
    members = np.split(np.argsort(cell, kind="stable"), np.cumsum(np.bincount(cell, minlength=len(centroids)))[:-1])
    near = np.argsort(-centroids.centroids @ centroids.centroids.T, axis=1, kind="stable")[:, :PROBES]
    for own, rows in enumerate(members):
        others = np.concatenate([members[c] for c in near[own]])
        for start in range(0, len(rows), BLOCK):  # a giant cell, of copies
            yield rows[start : start + BLOCK], others


def _search(
    x: Float32, rows: NDArray[np.int64], others: NDArray[np.int64], found: NDArray[np.int32], products: Float32
) -> None:
    """Fill the neighbours of some rows from among other rows."""
    wanted = x[rows]
    for start in range(0, len(others), WIDTH):
        part = others[start : start + WIDTH]
        _keep_best(wanted @ x[part].T, rows, part, found, products)
    _sort_best(rows, found, products)


def neighbour_graph(
    vectors: NDArray[np.floating], neighbours: int, exact: bool | None = None, seed: int = 1234, threads: int = 1
) -> Graph:
    """Return the graph of items that are among each other's nearest neighbours, one way or both, and of themselves.

    Similarities are max(0, inner product), and 1 of an item to itself. Memory: 4 bytes a dimension and vector, and up
    to 32 bytes a neighbour while it is made, 16 after.

    Args:
        vectors, neighbours, exact, seed, threads: as for `nearest_neighbours`.
    """
    found, products = nearest_neighbours(vectors, neighbours, exact, seed, threads)
    starts, edges = _reversed(found)
    offsets = np.zeros(len(found) + 1, np.int64)
    _fill_edges(found, products, starts, edges, offsets, np.zeros(0, np.int32), np.zeros(0, np.float32))
    items, similarities = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.float32)
    _fill_edges(found, products, starts, edges, offsets, items, similarities)
    return Graph(offsets, items, similarities)


@numba.njit(nogil=True, cache=True)
def _keep_best(block: Any, rows: Any, others: Any, found: Any, products: Any) -> None:
    """Keep the greatest products of each row in a heap of its `found` and `products`, whose first is the least."""
    for r in range(len(rows)):
        item = rows[r]
        items, values = found[item], products[item]
        size, row, least = items.size, block[r], values[0]
        for j in range(len(others)):
            value = row[j]
            if value < least:
                continue
            other = others[j]
            if other == item or (value == least and other > items[0]):
                continue
            _sink(items, values, size, other, value)
            least = values[0]


@numba.njit(nogil=True, cache=True)
def _sink(items: Any, values: Any, size: Any, item: Any, value: Any) -> None:
    """Replace the first of a heap, and let the new one sink to its place: the worst comes first."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and _worse(values[child + 1], items[child + 1], values[child], items[child]):
            child += 1
        if _worse(value, item, values[child], items[child]):
            break
        items[place], values[place] = items[child], values[child]
        place = child
    items[place], values[place] = item, value


@numba.njit(nogil=True, cache=True)
def _worse(value: Any, item: Any, other_value: Any, other: Any) -> Any:
    """Of equal products the larger number is worse."""
    return value < other_value or (value == other_value and item > other)


@numba.njit(nogil=True, cache=True)
def _sort_best(rows: Any, found: Any, products: Any) -> None:
    """Turn each row's heap into a list with the best first."""
    for r in range(len(rows)):
        items, values = found[rows[r]], products[rows[r]]
        for last in range(items.size - 1, 0, -1):
            item, value = items[last], values[last]
            items[last], values[last] = items[0], values[0]
            _sink(items, values, last, item, value)


@numba.njit(nogil=True, cache=True)
def _reversed(found: Any) -> Any:
    """Return offsets int64[n + 1], and the edges that lead to each item: those found, by their place in all of them."""
    offsets = np.zeros(len(found) + 1, np.int64)
    for i in range(len(found)):
        for j in range(found.shape[1]):
            if found[i, j] >= 0:
                offsets[found[i, j] + 1] += 1
    for i in range(len(found)):
        offsets[i + 1] += offsets[i]
    ends, edges = offsets[:-1].copy(), np.empty(offsets[-1], np.int64)
    for i in range(len(found)):
        for j in range(found.shape[1]):
            other = found[i, j]
            if other >= 0:
                edges[ends[other]] = i * found.shape[1] + j
                ends[other] += 1
    return offsets, edges


@numba.njit(nogil=True, cache=True)
def _fill_edges(
    found: Any, products: Any, starts: Any, edges: Any, offsets: Any, items: Any, similarities: Any
) -> None:
    """Fill each item's row: itself, its neighbours, and those whose neighbour it is alone; without room, offsets only.

    starts, edges: of `_reversed`.
    """
    width, at = found.shape[1], 0
    seen = np.full(len(found), -1, np.int32)  # which item's row holds an item already
    for i in range(len(found)):
        if items.size:
            items[at], similarities[at] = i, np.float32(1.0)
        at += 1
        for j in range(width):
            if found[i, j] >= 0:
                seen[found[i, j]] = i
                if items.size:
                    items[at], similarities[at] = found[i, j], max(products[i, j], np.float32(0.0))
                at += 1
        for e in range(starts[i], starts[i + 1]):
            other = edges[e] // width
            if seen[other] != i:
                if items.size:
                    items[at], similarities[at] = other, max(products[other, edges[e] % width], np.float32(0.0))
                at += 1
        offsets[i + 1] = at
