"""How one number of the kept documents - a loss, a log weight - is spread in each scope: the corpus, or each group.

All of it merges exactly, so that no cut into shards changes a weight: extremes by comparison, counts as integers, sums
of exponentials in fixed point, the largest values by sorting. A run holds 64 MB of counts, however many scopes it has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .fixed_point import FRACTION_BITS, HALF, fixed_point_units

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

BINS = 1 << 16
"""Counts of a scope, at most."""

_FEWEST_BINS = 256
_COUNTS_BYTES = 64 << 20

SUMS = ("total_high", "total_low", "squares_high", "squares_low")


def bins_of(scopes: int) -> int:
    """Return how many bins each of so many scopes has."""
    return int(min(BINS, max(_COUNTS_BYTES // 8 // max(scopes, 1), _FEWEST_BINS)))


@dataclass(frozen=True)
class Grid:
    """Equally spaced values from `low` to `high`, both included; numbers are counted at the nearest."""

    low: float
    high: float
    bins: int

    @property
    def spacing(self) -> float:
        """Distance of neighbours; 0 where all are one."""
        return (self.high - self.low) / (self.bins - 1)

    def place(self, values: Float64) -> Int64:
        """Return the nearest of the values, int64[n], for finite values float64[n]; those beyond go to the ends."""
        return places(values, np.float64(self.low), np.float64(self.high), self.bins)

    def value(self, place: Int64) -> Float64:
        """Return the value of each place, float64[n]; the ends are exact."""
        return np.where(place == self.bins - 1, self.high, self.low + place * self.spacing)

    def rounded(self, values: Float64) -> Float64:
        """Return the nearest values, float64[n]."""
        return self.value(self.place(values))


@dataclass(frozen=True)
class Spread:
    """How a number is spread in one scope.

    Attributes:
        documents: how many have it, those of -inf (log weights of zero) too.
        grid: over the finite ones.
        counts: finite ones at each value of the grid, int64[bins].
        total: Σ exp(value - high), 1 or more where there is a finite one.
        squares: Σ exp(value - high)².
        largest: the largest finite values, ascending, as many as asked for.
    """

    documents: int
    grid: Grid
    counts: Int64
    total: float
    squares: float
    largest: Float64

    def points(self) -> tuple[Float64, Int64]:
        """Return the values that were counted, ascending, and how many documents each has."""
        filled = np.flatnonzero(self.counts)
        return self.grid.value(filled), self.counts[filled]

    def quantile(self, share: float) -> float:
        """Return the smallest value of the grid that at least this share of the finite ones do not exceed."""
        upto = np.cumsum(self.counts)
        at = int(np.searchsorted(upto, max(math.ceil(share * int(upto[-1])), 1)))
        return float(self.grid.value(np.array([at]))[0])

    def top(self, documents: int) -> tuple[Float64, Int64]:
        """Return the largest values, descending, with counts that add up to at most so many documents.

        Exact where that many were gathered, else from the grid, the last value shared by as many as still fit.
        """
        if documents <= self.largest.size:
            values = self.largest[::-1][:documents]
            return values, np.ones(values.size, np.int64)
        values, counts = self.points()
        before = np.cumsum(counts[::-1]) - counts[::-1]
        taken = np.clip(documents - before, 0, counts[::-1])
        return values[::-1][taken > 0], taken[taken > 0]


def places(values: Float64, low: Float64 | np.float64, high: Float64 | np.float64, bins: int) -> Int64:
    """Return the nearest value of each number's own grid, int64[n]. low, high: of the grids, [n] or one for all."""
    width = high - low
    share = np.clip((values - low) / np.where(width > 0, width, 1.0), 0.0, 1.0)
    return np.where(width > 0, np.rint(share * (bins - 1)), 0.0).astype(np.int64)


def extremes(values: Float64, scopes: Int64) -> pa.Table:
    """Count documents and find the smallest and largest finite value of each scope.

    Args:
        values: float64[n], without NaN or +inf.
        scopes: of each, int64[n].

    Returns:
        One row per scope that occurs: scope, documents, low, high; inf and -inf where nothing is finite.
    """
    present, place, documents = np.unique(scopes, return_inverse=True, return_counts=True)
    low, high = np.full(present.size, np.inf), np.full(present.size, -np.inf)
    finite = np.isfinite(values)
    np.minimum.at(low, place[finite], values[finite])
    np.maximum.at(high, place[finite], values[finite])
    return pa.table({"scope": present, "documents": documents, "low": low, "high": high})


def merged_extremes(parts: pa.Table) -> pa.Table:
    """Merge rows of `extremes` to one per scope, ascending."""
    merged = parts.group_by("scope").aggregate([("documents", "sum"), ("low", "min"), ("high", "max")])
    names = {"scope": "scope", "documents_sum": "documents", "low_min": "low", "high_max": "high"}
    return merged.select(list(names)).rename_columns(list(names.values())).sort_by("scope")


def exponential_sums(values: Float64, scopes: Int64, high: Float64) -> pa.Table:
    """Add up exp(value - high) and its square per scope, exactly.

    Args:
        values: float64[n], without NaN, at most the `high` of their scope.
        scopes: int64[n].
        high: largest value of each scope, float64[scopes].

    Returns:
        One row per scope that occurs: scope, and each sum in units of 2**-20 and of 2**-40, int64.
    """
    present, place = np.unique(scopes, return_inverse=True)
    weights = np.exp(np.minimum(values - high[scopes], 0.0))
    columns = {"scope": present}
    for name, part in zip(SUMS, (*fixed_point_units(weights), *fixed_point_units(weights**2)), strict=True):
        columns[name] = np.bincount(place, part, present.size).astype(np.int64)  # exact below 2**53
    return pa.table(columns)


def merged_sums(parts: pa.Table, scopes: int) -> tuple[Float64, Float64]:
    """Merge rows of `exponential_sums`.

    Returns:
        Σ exp(value - high) and Σ of its square, float64[scopes] each; 0 for a scope without documents.
    """
    merged = parts.group_by("scope").aggregate([(name, "sum") for name in SUMS])
    whole = [merged[f"{name}_sum"].to_pylist() for name in SUMS]  # may exceed int64 when joined
    sums = np.zeros((2, scopes))
    at = merged["scope"].to_numpy()
    for number in (0, 1):
        pairs = zip(whole[2 * number], whole[2 * number + 1], strict=True)
        sums[number, at] = [((high << HALF) + low) / (1 << FRACTION_BITS) for high, low in pairs]
    return sums[0], sums[1]


def largest(values: Float64, scopes: Int64, lengths: Int64) -> pa.Table:
    """Gather the largest finite values of each scope; parts merge by concatenation and once more of this.

    Args:
        values: float64[n].
        scopes: int64[n].
        lengths: how many of each scope, int64[scopes].

    Returns:
        Rows of scope and value, by scope, values descending.
    """
    finite = np.isfinite(values)
    values, scopes = values[finite], scopes[finite]
    order = np.lexsort((-values, scopes))
    values, scopes = values[order], scopes[order]
    rank = np.arange(values.size) - np.searchsorted(scopes, scopes)
    taken = rank < lengths[scopes]
    return pa.table({"scope": scopes[taken], "value": values[taken]})
