"""How typical documents are of what lies around them, and weights against crowding. Numerics inside a cluster or group.

The distance to a cluster's prototype is a column of the scorer `clusters`; these functions need the vectors. Those
whose names begin with `added` give items what they would get if each alone were added to others that stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..scoring.neighbours import nearest_neighbours

Float64 = NDArray[np.float64]

BLOCK = 2048
"""Rows of the matrix of all pairs that are held at a time."""

ADDED = 128
"""Rows of a matrix of added items with all others; always so many, for then an item's products are the same next to
any other items."""

TYPICAL_NEIGHBOURS = 20
SMALLEST_CLUSTER = 5
"""TypiClust takes nothing from clusters of up to so many."""


def typicality(vectors: NDArray[np.floating], neighbours: int = TYPICAL_NEIGHBOURS) -> Float64:
    """Return how near each item's neighbours are: 1 / (mean Euclidean distance to the nearest k + 1e-5).

    k is at most half of the items, at least one. High is typical: to be chosen first where the budget is small.

    Args:
        vectors: float16 or float32 [n, d], of length one.
        neighbours: k.

    Returns:
        float64[n]; 0 for an item that is alone.

    Source: TypiClust (Hacohen et al. 2022, https://arxiv.org/abs/2202.02794), by the formula of the paper; its code
        averages squared distances, which orders items otherwise.
    """
    if len(vectors) < 2:
        return np.zeros(len(vectors))
    _, products = nearest_neighbours(vectors, _typical_neighbours(len(vectors), neighbours))
    return _typical(products)


def added_typicality(
    vectors: NDArray[np.floating], others: NDArray[np.floating], neighbours: int = TYPICAL_NEIGHBOURS
) -> Float64:
    """Return how near each added item's neighbours among the others are, as `typicality`; all of them are compared.

    Args:
        vectors: float16 or float32 [n, d], added, of length one.
        others: float16 or float32 [m, d], of length one.
        neighbours: k, at most half of the others, at least one.

    Returns:
        float64[n]; 0 where there are no others.
    """
    found = np.zeros(len(vectors))
    if len(others):
        k = _typical_neighbours(len(others), neighbours)
        for start, products in _added_products(vectors, others):
            nearest = -np.sort(np.partition(-products, k - 1, axis=1)[:, :k], axis=1)
            found[start : start + ADDED] = _typical(nearest)
    return found


def _typical_neighbours(items: int, neighbours: int) -> int:
    return min(neighbours, max(1, items // 2))


def _typical(products: NDArray[np.float32]) -> Float64:
    """Turn inner products with neighbours into typicality; products: float32[n, k], -inf where there is none."""
    squared = np.clip(2.0 - 2.0 * products.astype(np.float64), 0.0, None)
    there = np.isfinite(squared)
    mean = np.where(there, np.sqrt(np.where(there, squared, 0.0)), 0.0).sum(1) / np.maximum(there.sum(1), 1)
    return 1.0 / (mean + 1e-5)


def _added_products(
    vectors: NDArray[np.floating], others: NDArray[np.floating]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the inner products of added items with all others, float32[up to ADDED, m], and which item is the first."""
    columns = np.ascontiguousarray(others, np.float32).T
    for start in range(0, len(vectors), ADDED):
        part = vectors[start : start + ADDED]
        rows = np.zeros((ADDED, vectors.shape[1]), np.float32)
        rows[: len(part)] = part
        yield start, (rows @ columns)[: len(part)]


def kernel_density(vectors: NDArray[np.floating], bandwidth: float) -> Float64:
    """Return the density at each item: the mean of exp(-distance² / (2 bandwidth²)) to all items, itself included.

    All pairs, in blocks: n² d operations, so inside a cluster. Holds 4 bytes a dimension and item, and BLOCK rows of
    n float32.

    Args:
        vectors: float16 or float32 [n, d], of length one.
        bandwidth: Euclidean distance at which an item counts exp(-1/2).

    Returns:
        float64[n], above 0, at most 1.

    Raises:
        ValueError: the bandwidth is not positive.
    """
    if not bandwidth > 0:
        raise ValueError(f"a bandwidth of {bandwidth} is not positive")
    x = np.ascontiguousarray(vectors, np.float32)
    scale = np.float32(1.0 / bandwidth**2)
    density = np.zeros(len(x))
    for start in range(0, len(x), BLOCK):
        kernel = np.minimum(x[start : start + BLOCK] @ x.T - np.float32(1.0), 0.0)
        kernel *= scale
        density[start : start + BLOCK] = np.exp(kernel, out=kernel).mean(axis=1, dtype=np.float64)
    return density


def added_kernel_density(vectors: NDArray[np.floating], others: NDArray[np.floating], bandwidth: float) -> Float64:
    """Return the density at each added item: as `kernel_density`, the mean over the others and itself.

    Args:
        vectors: float16 or float32 [n, d], added, of length one.
        others: float16 or float32 [m, d], of length one.
        bandwidth: as for `kernel_density`.

    Returns:
        float64[n], above 0; 1 where there are no others.
    """
    found = np.ones(len(vectors))
    scale = np.float32(1.0 / bandwidth**2)
    for start, products in _added_products(vectors, others):
        kernel = np.minimum(products - np.float32(1.0), 0.0)
        kernel *= scale
        found[start : start + ADDED] += np.exp(kernel, out=kernel).sum(axis=1, dtype=np.float64)
    return found / (len(others) + 1)


def inverse_density(density: Float64, power: float = 1.0) -> Float64:
    """Return log weights of a sample that is even over the space: -power log density.

    Sampling with probability proportional to exp(log weight), as `resample` does, then takes as much of crowded as of
    lonely places (power 1), or something between that and the corpus (below 1).

    Args:
        density: float64[n] > 0.
        power: 0 gives a uniform sample.

    Source: inverse propensity sampling by density (Sachdeva et al. 2024, https://arxiv.org/abs/2402.09668).
    """
    return -power * np.log(density)


def median_distances(vectors: NDArray[np.floating], classes: NDArray[np.int64]) -> Float64:
    """Return each item's Euclidean distance to the median of its class, taken coordinate by coordinate.

    The moderate choice keeps the middle of these: `band` with center 0.5. Memory: 4 bytes a dimension and item.

    Args:
        vectors: float16 or float32 [n, d].
        classes: int64[n], labels or clusters.

    Returns:
        float64[n].

    Source: Moderate Coreset (Xia et al. 2023, https://openreview.net/forum?id=7D5EECbOaf9).
    """
    distances = np.zeros(len(vectors))
    order = np.argsort(classes, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(classes[order]) != 0)[: len(order)])
    for rows in np.split(order, starts[1:]):  # a class each
        if len(rows):
            members = np.asarray(vectors[rows], np.float64)
            distances[rows] = np.linalg.norm(members - np.median(members, axis=0), axis=1)
    return distances


def added_median_distances(vectors: NDArray[np.floating], others: NDArray[np.floating]) -> Float64:
    """Return each added item's Euclidean distance to the median of the others, as `median_distances`.

    Args:
        vectors: float16 or float32 [n, d], added.
        others: float16 or float32 [m, d], of one class.

    Returns:
        float64[n]; 0 where there are no others.
    """
    if not len(others):
        return np.zeros(len(vectors))
    median = np.median(np.asarray(others, np.float64), axis=0)
    return np.asarray(np.linalg.norm(np.asarray(vectors, np.float64) - median, axis=1))
