"""The passes over score files that WEIGH is made of: extremes, spreads and moments of numbers of kept documents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.errors import TamisError
from ..connectors.keys import keyed_uniform
from ..connectors.shards import Shard
from ..selectors import histograms
from ..selectors.decide import Rows
from ..selectors.monotone import bin_moments
from ..selectors.spread import (
    Grid,
    exponential_sums,
    extremes,
    largest,
    merged_extremes,
    places,
)
from ..selectors.stabilise import FOLDS, Monotone
from .decided import Decisions
from .passes import Control, Result, Work, merge_results

Numbers = Callable[[Decisions, Rows, NDArray[np.bool_]], tuple[NDArray[np.float64], NDArray[np.int64]]]
"""A number of each kept document, NaN where there is none, and its scope."""


def signal(decisions: Decisions, rows: Rows, kept: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return what documents are weighed by, in the weigher's scopes."""
    groups, weighing = rows.groups[kept], decisions.weighing()
    return weighing.signal(decisions.kept_scores(rows, kept), groups), weighing.scopes(groups)


def log_weights(
    decisions: Decisions, rows: Rows, kept: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return log weights as far as they are fitted, in the weigher's scopes."""
    groups, weighing = rows.groups[kept], decisions.weighing()
    return weighing.log_weights(decisions.kept_scores(rows, kept), groups), weighing.scopes(groups)


@dataclass(frozen=True)
class CalibratedBy:
    """Numbers: a score, of the documents that have a log weight."""

    score: str

    def __call__(
        self, decisions: Decisions, rows: Rows, kept: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the score, in the weigher's scopes."""
        values, scopes = log_weights(decisions, rows, kept)
        return np.where(np.isnan(values), np.nan, rows.scores[self.score][kept]), scopes


@dataclass(frozen=True)
class Final:
    """Numbers: logarithms of the weights of the run, once in each group's scope and once in that of the run, the last.

    groups: how many there are; None for the scope of the run alone.
    """

    groups: int | None

    def __call__(
        self, decisions: Decisions, rows: Rows, kept: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return them, twice as many as are kept."""
        with np.errstate(divide="ignore"):
            values = np.log(decisions.kept_weights(rows, kept))
        if self.groups is None:
            return values, np.zeros(len(values), np.int64)
        whole = np.full(len(values), self.groups, np.int64)
        return np.tile(values, 2), np.concatenate([rows.groups[kept], whole])


@dataclass
class ExtremesPass(Work):
    """Finds how many kept documents of each scope have a number, and its smallest and largest value."""

    decisions: Decisions
    numbers: Numbers

    def do(self, shard: Shard, control: Control) -> Result:
        """Return rows of `spread.extremes`."""
        return {"extremes": extremes(*_known(self.decisions, self.numbers, shard))}

    def merge(self, results: list[Result]) -> Result:
        """Merge to one row per scope."""
        return {"extremes": merged_extremes(merge_results(results)["extremes"])}


@dataclass
class SpreadPass(Work):
    """Counts a number on the grid of its scope; with `lengths`, as of log weights, also gathers and adds up.

    low, high: of each scope, float64[scopes]; bins: of each; lengths: how many of the largest to gather, int64[scopes].
    """

    decisions: Decisions
    numbers: Numbers
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    bins: int
    lengths: NDArray[np.int64] | None

    def do(self, shard: Shard, control: Control) -> Result:
        """Return a histogram of `histograms`, and rows of `spread.exponential_sums` and `spread.largest`."""
        values, scopes = _known(self.decisions, self.numbers, shard)
        finite = np.isfinite(values)
        of = scopes[finite]
        flat = of * self.bins + places(values[finite], self.low[of], self.high[of], self.bins)
        counted: Result = dict(histograms.histogram(flat, None, (len(self.low), self.bins)))
        if self.lengths is not None:
            high = np.where(np.isfinite(self.high), self.high, 0.0)
            counted["sums"] = exponential_sums(values, scopes, high)
            counted["largest"] = largest(values, scopes, self.lengths)
        return counted

    def merge(self, results: list[Result]) -> Result:
        """Merge histograms, add up sums, keep the largest of all."""
        tables = merge_results([{n: t for n, t in result.items() if isinstance(t, pa.Table)} for result in results])
        counted = [{n: a for n, a in result.items() if not isinstance(a, pa.Table)} for result in results]
        if self.lengths is not None:
            gathered = tables["largest"]
            tables["largest"] = largest(gathered["value"].to_numpy(), gathered["scope"].to_numpy(), self.lengths)
        return dict(histograms.merge(*counted)) | tables


@dataclass
class MomentsPass(Work):
    """Adds up what monotone calibration needs to know of each scope, see `monotone.bin_moments`.

    grids: of the score, by scope; high: largest log weight of each scope.
    """

    decisions: Decisions
    stabiliser: Monotone
    grids: list[Grid | None]
    high: NDArray[np.float64]

    def do(self, shard: Shard, control: Control) -> Result:
        """Return float64[scopes, folds, bins, 3, 3]."""
        rows, reason = self.decisions.rows(shard)
        kept = reason < 0
        values, scopes = log_weights(self.decisions, rows, kept)
        columns = [rows.scores[name][kept] for name in self.stabiliser.needs]
        known = ~np.isnan(values) & ~np.isnan(columns).any(axis=0)
        folds = (keyed_uniform(self.decisions.seed, "monotone", rows.keys[kept]) * FOLDS).astype(np.int64)
        bins = max(grid.bins for grid in self.grids if grid is not None)
        total = np.zeros((len(self.grids), FOLDS, bins, 3, 3))
        for scope in np.unique(scopes[known]).tolist():
            of, grid = known & (scopes == scope), self.grids[scope]
            if grid is not None:
                weights = np.exp(values[of] - self.high[scope])
                reward = columns[1][of] if len(columns) > 1 else None
                total[scope] = bin_moments(weights, grid.place(columns[0][of]), folds[of], (FOLDS, bins), reward)
        return {"moments": total}


def _known(decisions: Decisions, numbers: Numbers, shard: Shard) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rows, reason = decisions.rows(shard)
    try:
        values, scopes = numbers(decisions, rows, reason < 0)
    except ValueError as error:
        raise TamisError(f"weigh: {error}") from error
    known = ~np.isnan(values)
    return values[known], scopes[known]
