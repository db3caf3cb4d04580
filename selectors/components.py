"""Connected components by union-find, on links that may lie in a file: what is alike through others is one group.

`links` is int64, one per document: 0 for a document that is joined with none (so that a fresh file of zeros will do),
-s for the representative of a group of s documents, p + 1 for a document whose way to its representative is p.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ..connectors.keys import constant


def spanning_forest(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which edges a graph needs to stay connected as it is, the earlier ones before the later ones.

    Args:
        first, second: int64[edges], documents.

    Returns:
        bool[edges]; fewer are True than there are documents among them. Memory: 40 bytes per edge.
    """
    documents, ends = np.unique(np.concatenate([first, second]), return_inverse=True)
    links = np.zeros(len(documents), np.int64)
    needed = np.zeros(len(first), np.bool_)
    _join(links, constant(ends[: len(first)]), constant(ends[len(first) :]), needed)
    return needed


def join(links: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]) -> None:
    """Join the groups of the ends of each edge, in place; the groups do not depend on the order of the edges.

    Args:
        links: int64[documents], see the module.
        first, second: int64[edges], 0 to documents - 1.

    Source: Tarjan 1975, "Efficiency of a good but not linear set union algorithm"; union by size, path halving.
    """
    _join(links, constant(first), constant(second), np.zeros(len(first), np.bool_))


def representatives(links: NDArray[np.int64], first: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return who is joined with others, and the representative of each.

    Args:
        links: int64[n], a part of all links, flattened (see `flatten`).
        first: number of the part's first document.

    Returns:
        Rows of the part int64[m], ascending, and numbers of representatives int64[m].
    """
    rows = np.flatnonzero(links)
    return rows, np.where(links[rows] > 0, links[rows] - 1, rows + first)


@numba.njit(nogil=True, cache=True)
def flatten(links: Any) -> Any:
    """Let each link point to its representative, in place; returns how many documents are joined with others.

    links: int64[documents].
    """
    joined = 0
    for i in range(links.size):
        joined += links[i] != 0
        if links[i] > 0:
            links[i] = _find(links, i) + 1
    return joined


@numba.njit(nogil=True, cache=True)
def _find(links: Any, i: Any) -> Any:
    while links[i] > 0:
        above = links[i] - 1
        if links[above] > 0:
            links[i] = links[above]
        i = above
    return i


@numba.njit(nogil=True, cache=True)
def _join(links: Any, first: Any, second: Any, needed: Any) -> None:
    for edge in range(first.size):
        a, b = _find(links, first[edge]), _find(links, second[edge])
        if a == b:
            continue
        needed[edge] = True
        size = max(-links[a], 1) + max(-links[b], 1)
        if links[a] > links[b]:  # the smaller group
            a, b = b, a
        links[a] = -size
        links[b] = a + 1
