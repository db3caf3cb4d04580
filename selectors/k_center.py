"""k-center: pick items so that the farthest of the others is as near as possible to a picked one."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .greedy import Float64, Rule


class KCenter(Rule):
    """The next item is the one farthest from all that are taken; the first one is item 0, unless some are given.

    The greatest distance that remains is at most twice the smallest possible. An item's running value is the squared
    Euclidean distance to the nearest taken one (of vectors of length one: 2 - 2 cosine), infinite before there is any;
    `gains` are these. Holds the vectors, and 8 bytes an item; a pick costs n d.

    Source: Gonzalez 1985, Clustering to minimize the maximum intercluster distance; for batches of examples Sener and
        Savarese 2018 (https://arxiv.org/abs/1708.00489); PCoreSet is this on class probabilities.
    """

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        """Begin with nothing taken. vectors: float32[n, d]."""
        super().__init__(len(vectors))
        self.vectors = np.ascontiguousarray(vectors, np.float32)
        self.distances = np.full(len(vectors), np.inf)

    def gains(self) -> Float64:
        """Return the squared distance of each item to the nearest taken one."""
        return self.distances

    def add(self, item: int) -> None:
        """Lower the distances of what is nearer to this item."""
        _lower(self.vectors, item, self.distances)


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _lower(vectors: Any, item: Any, distances: Any) -> None:
    picked = vectors[item]
    for i in range(len(vectors)):
        row = vectors[i]
        total = np.float32(0.0)
        for j in range(row.size):
            total += (row[j] - picked[j]) * (row[j] - picked[j])
        if total < distances[i]:
            distances[i] = total
