"""Ranked rows, and the cut of a rank choice: where the order (rank, key, position) stops being inside, per group."""

from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .histograms import Arrays, Int64

UInt64 = NDArray[np.uint64]


@dataclass(frozen=True)
class Ranked:
    """Rows of one shard in the order's terms.

    Attributes:
        group: int64[n], 0 to groups - 1; a negative group marks a row that takes no part and is never inside.
        rank: uint64[n], small first (see `ordering`).
        key: uint64[n], decides between equal ranks.
        position: uint64[n], decides between equal keys; unique in the corpus (shard index << 32 | row).
        measure: int64[n] >= 0, what a row takes of a budget (tokens), or None where every row takes 1.
    """

    group: Int64
    rank: UInt64
    key: UInt64
    position: UInt64
    measure: Int64 | None = None


@dataclass(frozen=True)
class Cuts:
    """Where the selection ends in each group.

    Attributes:
        rank, key, position: uint64[groups], the first row of the order that is not inside (an exclusive bound); all
            bits set where the whole group is inside.
        everything: bool[groups], the whole group is inside.
        kept: int64[groups], rows inside.
        kept_measure: int64[groups], their total measure (equal to `kept` where rows are not weighted).
    """

    rank: UInt64
    key: UInt64
    position: UInt64
    everything: NDArray[np.bool_]
    kept: Int64
    kept_measure: Int64

    def inside(self, rows: Ranked) -> NDArray[np.bool_]:
        """Tell which rows are selected.

        Args:
            rows: n rows of one shard; `measure` is not used. Of a group without a cut, nothing is inside.

        Returns:
            bool[n].
        """
        known = rows.group < len(self.rank)
        if not known.all():
            rows = replace(rows, group=np.where(known, rows.group, 0))
            return known & self.inside(rows) if len(self.rank) else known
        bound = (self.rank, self.key, self.position)
        return _inside(rows.group, rows.rank, rows.key, rows.position, *bound, self.everything)

    def to_arrays(self) -> Arrays:
        """Give the cuts as named arrays, to be stored.

        Returns:
            One array of length groups per attribute.
        """
        return dict(vars(self))

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "Cuts":
        """Restore what `to_arrays` gave.

        Args:
            arrays: one array of length groups per attribute.

        Returns:
            The same cuts.
        """
        return cls(**arrays)


@njit(nogil=True, cache=True)
def _inside(
    group: Int64,
    rank: UInt64,
    key: UInt64,
    position: UInt64,
    cut_rank: UInt64,
    cut_key: UInt64,
    cut_position: UInt64,
    everything: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    inside = np.empty(group.size, np.bool_)
    for i in range(group.size):
        g = group[i]
        if g < 0 or everything[g]:
            inside[i] = g >= 0
        elif rank[i] != cut_rank[g]:
            inside[i] = rank[i] < cut_rank[g]
        elif key[i] != cut_key[g]:
            inside[i] = key[i] < cut_key[g]
        else:
            inside[i] = position[i] < cut_position[g]
    return inside
