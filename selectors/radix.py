"""Radix select: the exact boundary of a selection per group, in passes over shards, without holding the rows.

Rows are ordered by (rank, key, position), three uint64, ascending, read as one string of 192 bits. A pass counts rows
per group in bins of the next few bits; the driver finds the bin in which the budget runs out and looks only at that
bin in the next pass, until the rows of the boundary bins are few enough to be gathered and sorted.

    select = RadixSelect(groups, weighted=False)
    while select.phase != "done":
        merged = merge(*(select.observe(rows) for rows in shards))
        select.advance(merged, budgets)
    inside = select.cuts().inside(rows)

A band takes two selections in sequence: one up to its start, and one with budget = `kept_measure` of the first + size
of the band; the band is what the second holds and the first does not.

Memory: driver and accumulators hold at most max(`memory`, 64 bytes per group, 128 if weighted) of bins, 40 bytes per
gathered row, and about 75 bytes per group; a worker adds 8 bytes per row of its shard.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .cuts import Cuts, Ranked, UInt64
from .histograms import Arrays, Int64, dense, histogram, merge

__all__ = ["Cuts", "Phase", "RadixSelect", "Ranked", "merge"]

Phase = Literal["histogram", "gather", "done"]

_PHASES: tuple[Phase, ...] = ("histogram", "gather", "done")
_ALL = np.uint64(2**64 - 1)
_MAX_BITS = 18  # 2**18 bins are 2 MB: they stay in the cache, and 18 bits of a float64 are its exponent and 6 digits
_LEVELS = 3
_CHANGED = "the rows differ from those of the pass before"
_TWINS = "two rows share rank, key and position"


class RadixSelect:
    """The longest prefix of the order, per group, whose total measure does not exceed the group's budget.

    Args:
        groups: number of groups, each with a budget of its own.
        weighted: rows are weighed by `Ranked.measure` (a token budget) instead of counting 1.
        memory: bytes for the bins of all groups; a group gets a power of two of bins, 8 to 2**18.
        gather_rows: the rows of the boundary bins are gathered once they are at most so many.
        rows: at most so many rows are there, if that is known: few enough are gathered in the first pass.

    Source: radix select (selection by distribution), per group and in passes.
    """

    def __init__(
        self,
        groups: int,
        weighted: bool,
        memory: int = 256 << 20,
        gather_rows: int = 1_000_000,
        rows: int | None = None,
    ) -> None:
        share = memory // 8 // max(groups, 1) // (2 if weighted else 1)
        self.groups, self.weighted, self.gather_rows = groups, weighted, gather_rows
        self.bits = min(_MAX_BITS, max(3, share.bit_length() - 1))
        self.phase: Phase = "histogram" if rows is None or rows > gather_rows else "gather"
        self._started = False
        self._level, self._used = 0, 0  # which of rank, key, position is refined, and how many of its bits are known
        self._prefix = np.zeros((_LEVELS, groups), np.uint64)
        self._open = np.ones(groups, np.bool_)  # the group's budget ends before its rows do
        self._left = np.zeros(groups, np.int64)  # budget that remains for the boundary bin
        self._kept = np.zeros(groups, np.int64)
        self._kept_measure = np.zeros(groups, np.int64)

    @property
    def needs_keys(self) -> bool:
        """Whether `observe` looks at `Ranked.key`; while ranks are told apart by their first bits it does not."""
        return self.phase == "gather" or self._level > 0

    def observe(self, rows: Ranked) -> Arrays:
        """Summarise one shard for the present phase; changes nothing, so any worker may do it, again if need be.

        Args:
            rows: the n rows of the shard, the same in every pass.

        Returns:
            Arrays for `merge`: a histogram, or the rows of the boundary bins.

        Raises:
            ValueError: a group is out of range, or a measure is missing or negative.
        """
        measure = rows.measure if self.weighted else None
        if rows.group.size and int(rows.group.max()) >= self.groups:
            raise ValueError(f"group {int(rows.group.max())} of a selection with {self.groups} groups")
        if self.weighted and (measure is None or (measure.size and int(measure.min()) < 0)):
            raise ValueError("a weighted selection needs a measure >= 0 for every row")
        if self.phase == "histogram":
            return histogram(self._bins_of(rows, self._width), measure, (self.groups, 1 << self._width))
        chosen = np.flatnonzero(self._bins_of(rows, 0) >= 0)
        taken = measure[chosen] if measure is not None else np.ones(chosen.size, np.int64)
        columns = {"group": rows.group, "rank": rows.rank, "key": rows.key, "position": rows.position}
        return {name: column[chosen] for name, column in columns.items()} | {"measure": taken}

    def advance(self, merged: Arrays, budgets: Callable[[Int64, Int64], Int64]) -> None:
        """Take in the merged result of a pass over all shards and decide what the next pass does.

        Args:
            merged: `merge` of what `observe` gave for every shard; `{}` where there is no shard.
            budgets: called once, after the first pass, with the rows int64[groups] and the total measure
                int64[groups]; returns the budget int64[groups] >= 0 in units of the measure.

        Raises:
            ValueError: the rows are not those of the pass before, or two rows share (rank, key, position).
        """
        if self.phase == "gather":
            self._resolve(merged if self._started else self._start_gathered(merged, budgets))
        elif self.phase == "histogram":
            self._refine(merged, budgets)

    def cuts(self) -> Cuts:
        """Give the result.

        Returns:
            The boundary of each group.

        Raises:
            RuntimeError: the phase is not "done".
        """
        if self.phase != "done":
            raise RuntimeError(f"the selection is not finished: its next pass is {self.phase!r}")
        rank, key, position = np.where(self._open, self._prefix, _ALL)
        return Cuts(rank, key, position, ~self._open, self._kept, self._kept_measure)

    def to_arrays(self) -> Arrays:
        """Give the state as named arrays, to be sent to workers or stored.

        Returns:
            Six arrays, about 65 bytes per group.
        """
        place = [_PHASES.index(self.phase), self._started, self._level, self._used]
        scalars = np.array([self.groups, self.weighted, self.bits, self.gather_rows, *place], np.int64)
        columns = {"prefix": self._prefix, "open": self._open, "left": self._left}
        return {"scalars": scalars, **columns, "kept": self._kept, "kept_measure": self._kept_measure}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "RadixSelect":
        """Restore what `to_arrays` gave.

        Args:
            arrays: the six arrays; they are copied.

        Returns:
            A selection in the same state.
        """
        groups, weighted, bits, gather_rows, phase, started, level, used = arrays["scalars"].tolist()
        self = cls(groups, bool(weighted), gather_rows=gather_rows)
        self.bits, self.phase, self._started, self._level, self._used = bits, _PHASES[phase], bool(started), level, used
        self._prefix, self._open, self._left = (arrays[name].copy() for name in ("prefix", "open", "left"))
        self._kept, self._kept_measure = arrays["kept"].copy(), arrays["kept_measure"].copy()
        return self

    @property
    def _width(self) -> int:
        """Bits that the next histogram tells apart: a level's last step is narrower."""
        return min(self.bits, 64 - self._used)

    def _bins_of(self, rows: Ranked, width: int) -> Int64:
        """Flat bin of each row at the next `width` bits; -1 for a row outside its group's boundary bin."""
        value = (rows.rank, rows.key, rows.position)[self._level]
        known = np.uint64((1 << 64) - (1 << (64 - self._used)))
        shift = np.uint64(64 - self._used - width if width else 0)
        mask = np.uint64((1 << width) - 1)
        place = (self._level, known, shift, mask, 1 << width)
        return _bins(rows.group, rows.rank, rows.key, value, self._open, self._prefix, *place)

    def _refine(self, merged: Arrays, budgets: Callable[[Int64, Int64], Int64]) -> None:
        width = self._width
        total = dense(merged, (self.groups, 1 << width), self.weighted)
        counts, measure = total["counts"], total["measure" if self.weighted else "counts"]
        if not self._started:
            self._start(counts.sum(axis=1), measure.sum(axis=1), budgets)
        found = np.zeros(self.groups, np.int64)
        rows = _descend(counts, measure, self._open, self._left, self._kept, self._kept_measure, found)
        if rows < 0:
            raise ValueError(_CHANGED)
        self._prefix[self._level] |= found.astype(np.uint64) << np.uint64(64 - self._used - width)
        self._used += width
        if self._used == 64:
            self._level, self._used = self._level + 1, 0
        if not self._open.any():
            self.phase = "done"
        elif self._level == _LEVELS:
            if rows != np.count_nonzero(self._open):
                raise ValueError(_TWINS)
            self.phase = "done"
        elif rows <= self.gather_rows:
            self.phase = "gather"

    def _start(self, documents: Int64, tokens: Int64, budgets: Callable[[Int64, Int64], Int64]) -> None:
        budget = np.asarray(budgets(documents, tokens), np.int64)
        self._open = tokens > budget
        self._left = np.where(self._open, budget, 0)
        self._kept, self._kept_measure = np.where(self._open, 0, documents), np.where(self._open, 0, tokens)
        self._started = True

    def _start_gathered(self, merged: Arrays, budgets: Callable[[Int64, Int64], Int64]) -> Arrays:
        """Ask for the budgets when all rows were gathered at once; give the rows of the open groups."""
        group, measure = (merged.get(name, np.zeros(0, np.int64)) for name in ("group", "measure"))
        tokens = np.zeros(self.groups, np.int64)
        np.add.at(tokens, group, measure)
        self._start(np.bincount(group, minlength=self.groups), tokens, budgets)
        return {name: column[self._open[group]] for name, column in merged.items()}

    def _resolve(self, merged: Arrays) -> None:
        if not self._open.any():
            self.phase = "done"
            return
        if not merged:
            raise ValueError(_CHANGED)
        order = np.lexsort((merged["position"], merged["key"], merged["rank"], merged["group"]))
        columns = {name: column[order] for name, column in merged.items()}
        group, measure = columns["group"], columns["measure"]
        starts = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
        through = np.cumsum(measure)
        before = through - measure
        first = np.repeat(starts, np.diff(np.append(starts, group.size)))  # each row's first row of the same group
        over = np.flatnonzero(through - before[first] > self._left[group])
        closed, where = np.unique(group[over], return_index=True)
        if not np.array_equal(closed, np.flatnonzero(self._open)):
            raise ValueError(_CHANGED)
        cut = over[where]
        bound = np.stack([columns[name] for name in ("rank", "key", "position")])
        if (bound[:, 1:] == bound[:, :-1]).all(axis=0)[group[1:] == group[:-1]].any():
            raise ValueError(_TWINS)
        self._prefix[:, closed] = bound[:, cut]
        self._kept[closed] += cut - first[cut]
        self._kept_measure[closed] += before[cut] - before[first[cut]]
        self.phase = "done"


@njit(nogil=True, cache=True)
def _bins(
    group: Int64,
    rank: UInt64,
    key: UInt64,
    value: UInt64,
    is_open: NDArray[np.bool_],
    prefix: UInt64,
    level: int,
    known: np.uint64,
    shift: np.uint64,
    mask: np.uint64,
    bins: int,
) -> Int64:
    flat = np.empty(group.size, np.int64)
    for i in range(group.size):
        g = group[i]
        flat[i] = -1
        if g < 0 or not is_open[g]:
            continue
        if (level > 0 and rank[i] != prefix[0, g]) or (level > 1 and key[i] != prefix[1, g]):
            continue
        if (value[i] ^ prefix[level, g]) & known:
            continue
        flat[i] = g * bins + np.int64((value[i] >> shift) & mask)
    return flat


@njit(nogil=True, cache=True)
def _descend(
    counts: Int64,
    measure: Int64,
    is_open: NDArray[np.bool_],
    left: Int64,
    kept: Int64,
    kept_measure: Int64,
    found: Int64,
) -> int:
    """Find each open group's boundary bin and book the bins before it; gives the rows in boundary bins, or -1."""
    rows = 0
    for g in range(counts.shape[0]):
        if not is_open[g]:
            continue
        b = 0
        while b < counts.shape[1] and measure[g, b] <= left[g]:
            left[g] -= measure[g, b]
            kept[g] += counts[g, b]
            kept_measure[g] += measure[g, b]
            b += 1
        if b == counts.shape[1]:
            return -1
        found[g] = b
        rows += counts[g, b]
    return rows
