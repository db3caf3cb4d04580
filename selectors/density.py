"""How typical documents are of what lies around them, and weights against crowding. Numerics inside a cluster or group.

The distance to a cluster's prototype is a column of the scorer `clusters`; these functions need the vectors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..scoring.neighbours import nearest_neighbours

Float64 = NDArray[np.float64]

BLOCK = 2048
"""Rows of the matrix of all pairs that are held at a time."""

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
    k = min(neighbours, max(1, len(vectors) // 2))
    _, products = nearest_neighbours(vectors, k)
    squared = np.clip(2.0 - 2.0 * products.astype(np.float64), 0.0, None)
    there = np.isfinite(squared)
    mean = np.where(there, np.sqrt(np.where(there, squared, 0.0)), 0.0).sum(1) / np.maximum(there.sum(1), 1)
    return 1.0 / (mean + 1e-5)


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
