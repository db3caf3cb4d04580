"""The similarity of each item of an ordered cluster to the nearest one before it, by which copies in meaning go."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

BLOCK = 1024
"""Items that are compared with as many others in one matrix product."""

COMPARED = 1 << 15
"""Items that are compared with each other at most: a larger cluster is cut into consecutive parts of its order."""


def nearest_earlier(vectors: NDArray[np.float32], known: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the nearest item before each one.

    An item is near an earlier one whether or not that one is near another before it: of a chain, only the first is
    nearest to none.

    Args:
        vectors: float32[n, d], rows of length one, in the order in which they are to stay.
        known: the first so many are not asked about, and their results say nothing.

    Returns:
        similarity float32[n], the largest product with an item before, at least 0; and place int64[n], of the first
        such item, or its own where no product is above 0. Items COMPARED apart or more may not be compared.

    Memory: BLOCK**2 products. Blocks are of fixed size, so that the same vectors give the same products.

    Source: M_j of SemDeDup (Abbas et al. 2023, https://arxiv.org/abs/2303.09540; its code cuts large clusters so too).
    """
    similarity, place = np.zeros(len(vectors), np.float32), np.arange(len(vectors))
    for start in range(known // BLOCK * BLOCK, len(vectors), BLOCK):
        later = vectors[start : start + BLOCK]
        for first in range(start // COMPARED * COMPARED, start + 1, BLOCK):
            products = later @ vectors[first : first + BLOCK].T
            _update(products, start, first, similarity, place)
    return similarity, place


def distinct(vectors: NDArray[Any], cluster: NDArray[np.int32], threshold: float) -> NDArray[np.bool_]:
    """Tell which items are near none before them in their cluster.

    Args:
        vectors: floats[n, d], in the order in which they are to stay.
        cluster: int32[n].
        threshold: cosine from which on they are near.

    Returns:
        bool[n]. Memory: 4 bytes a dimension of a cluster.
    """
    near = np.zeros(len(vectors), np.bool_)
    order = np.argsort(cluster, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1):
        similarity, _ = nearest_earlier(unit_length(vectors[members]))
        near[members] = similarity >= threshold
    return ~near


def unit_length(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Return vectors of length one; those of length zero stay. vectors: floats[n, d]. Returns float32[n, d]."""
    wide = vectors.astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    return np.asarray(wide / np.where(lengths > 0, lengths, 1)[:, None], np.float32)


@numba.njit(nogil=True, cache=True)
def _update(products: Any, start: Any, first: Any, similarity: Any, place: Any) -> None:
    for i in range(products.shape[0]):
        best, where = similarity[start + i], place[start + i]
        for j in range(min(products.shape[1], start + i - first)):
            if products[i, j] > best:
                best, where = products[i, j], first + j
        similarity[start + i], place[start + i] = best, where
