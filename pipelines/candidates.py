"""The documents that a step may choose from, and what is measured of their scores before it chooses."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.errors import TamisError
from ..connectors.score_store import load_arrays, save_arrays
from ..connectors.shards import Shard
from ..selectors.decide import (
    DecidedStep,
    Rows,
    decide,
    group_numbers,
    picked,
    ranked_rows,
    with_scores,
)
from ..selectors.deduplicate import Deduplicate
from ..selectors.diagnostics import temperature_for_ess
from ..selectors.fixed_point import fixed_point_units
from ..selectors.q_tuning import Distribution, Plane, QTuning
from ..selectors.steps import RankStep, Step
from .losses import Losses
from .passes import Control, Result, Work
from .score_columns import ScoreColumns

HISTOGRAM_BINS = 1 << 18
"""Bins of equal width in which scores are counted to find a temperature, or the quantiles of q_tuning."""

MOST_NUMBERS = 1 << 20
"""Groups that a column may divide documents into."""

RunPass = Callable[[Any, str], Result]
"""Runs a pass over all shards of the corpus; the second argument says what it is for."""


@dataclass(frozen=True)
class StoredStep:
    """A decided step in a form that travels: its cuts stay in a file. url: of the cuts, None without any."""

    step: Step
    temperature: float
    url: str | None

    def load(self) -> DecidedStep:
        """Return the step with its cuts, kept in memory by each process."""
        if isinstance(self.step, Deduplicate):
            return DecidedStep(self.step, duplicates=None if self.url is None else load_losses(self.url))
        return DecidedStep.from_arrays(self.step, self.temperature, {} if self.url is None else _load_cuts(self.url))


def store_step(decided: DecidedStep, url: str) -> StoredStep:
    """Write a step's cuts and return what workers need to find them."""
    if not isinstance(decided.step, RankStep):
        return StoredStep(decided.step, 1.0, None)
    save_arrays(url, decided.to_arrays())
    return StoredStep(decided.step, decided.temperature, url)


@functools.lru_cache(maxsize=64)
def load_losses(url: str) -> Losses:
    """Return what a step drops as copies; kept in memory by each process, 16 bytes per shard."""
    return Losses.at(url)


@functools.lru_cache(maxsize=64)
def _load_cuts(url: str) -> dict[str, NDArray[Any]]:
    return load_arrays(url)


@dataclass
class Candidates:
    """Finds the rows of a shard that a step may choose from: alive after the steps before it, with the scores it needs.

    earlier: the steps before; current: the step with the picks made so far.
    """

    columns: ScoreColumns
    seed: int
    earlier: list[StoredStep]
    current: StoredStep

    def find(self, shard: Shard) -> tuple[Rows, DecidedStep, NDArray[np.int64]]:
        """Return the shard's rows, the step, and the numbers of the candidate rows."""
        earlier, current = [stored.load() for stored in self.earlier], self.current.load()
        needs = [name for decided in (*earlier, current) for name in decided.step.needs]
        rows = self.columns.rows(shard, needs)
        candidates = with_scores(rows, current.step, decide(rows, earlier, self.seed))
        if current.strata is not None:  # the hardest are dropped
            candidates = candidates[ranked_rows(rows, current, candidates, self.seed, 0).group >= 0]
        return rows, current, candidates[~picked(rows, current, candidates, self.seed)]


@dataclass
class RangePass(Work):
    """Finds the smallest and the largest finite value of a score of the candidates, and counts them."""

    candidates: Candidates
    score: str

    def do(self, shard: Shard, control: Control) -> Result:
        """Return one row: low, high, documents."""
        rows, _, candidates = self.candidates.find(shard)
        scores = rows.scores[self.score][candidates]
        finite = scores[np.isfinite(scores)]
        low, high = (finite.min(), finite.max()) if len(finite) else (np.inf, -np.inf)
        return {"range": pa.table({"low": [float(low)], "high": [float(high)], "documents": [len(candidates)]})}


@dataclass
class HistogramPass(Work):
    """Counts the candidates' finite values of a score in bins of equal width."""

    candidates: Candidates
    score: str
    low: float
    high: float

    def do(self, shard: Shard, control: Control) -> Result:
        """Return counts int64[bins]."""
        rows, _, candidates = self.candidates.find(shard)
        scores = rows.scores[self.score][candidates]
        place = (scores[np.isfinite(scores)] - self.low) * (HISTOGRAM_BINS / (self.high - self.low))
        bins = np.minimum(place.astype(np.int64), HISTOGRAM_BINS - 1)
        return {"counts": np.bincount(bins, minlength=HISTOGRAM_BINS)}


@dataclass
class GroupSumsPass(Work):
    """Adds up the candidates' finite scores, from 0 to `high`, by group, in integers: the same on any sharding."""

    candidates: Candidates
    score: str
    high: float
    groups: int

    def do(self, shard: Shard, control: Control) -> Result:
        """Return documents int64[groups], and units int64[groups, 2] of high / 2**40 (see `fixed_point_units`)."""
        rows, current, candidates = self.candidates.find(shard)
        step = current.step
        assert isinstance(step, RankStep)
        scores = rows.scores[self.score][candidates]
        finite = np.isfinite(scores)
        groups = group_numbers(rows, step, candidates)[finite]
        units = [
            np.bincount(groups, part, minlength=self.groups)  # of whole numbers below 2**53: exact
            for part in fixed_point_units(scores[finite] / self.high)
        ]
        documents = np.bincount(groups, minlength=self.groups)
        return {"documents": documents, "units": np.stack(units, axis=1).astype(np.int64)}


def numbers_in(candidates: Candidates, column: str, run_pass: RunPass, stage: str) -> int:
    """Return how many groups a column divides candidates into: its greatest number, and one.

    Raises TamisError where a number is negative or too large for a cut of each.
    """
    low, high, _ = score_range(candidates, column, run_pass, stage)
    if low > high:
        return 1
    if low < 0 or high >= MOST_NUMBERS:
        wrong = low if low < 0 else high
        raise TamisError(f"`{column}` divides documents by whole numbers from 0 to {MOST_NUMBERS - 1:,}, not {wrong:g}")
    return int(high) + 1


def score_range(candidates: Candidates, score: str, run_pass: RunPass, stage: str) -> tuple[float, float, int]:
    """Return the smallest and the largest finite value of a score, and how many candidates there are."""
    ranges = run_pass(RangePass(candidates, score), stage).get("range")
    if ranges is None:  # of no shard
        return np.inf, -np.inf, 0
    low, high = min(ranges["low"].to_pylist()), max(ranges["high"].to_pylist())
    return low, high, sum(ranges["documents"].to_pylist())


def find_temperature(
    candidates: Candidates, score: str, effective_sample_size: float, run_pass: RunPass, stage: str
) -> float:
    """Return the temperature at which the weights exp(score / temperature) are worth this share of the candidates."""
    low, high, documents = score_range(candidates, score, run_pass, stage)
    if low >= high:  # no score, or all the same: every temperature gives the same
        return 1.0
    counts = run_pass(HistogramPass(candidates, score, low, high), stage)["counts"]
    return temperature_for_ess(counts, low, high, effective_sample_size * documents)


def find_plane(candidates: Candidates, step: QTuning, run_pass: RunPass, stage: str) -> Plane:
    """Return how loss and entropy are distributed over the candidates; four passes, 4 MB."""

    def distribution(score: str) -> Distribution:
        low, high, _ = score_range(candidates, score, run_pass, stage)
        if low > high:  # no score at all
            return Distribution.of(0.0, 1.0, np.zeros(1, np.int64))
        high = high if high > low else low + 1.0
        return Distribution.of(low, high, run_pass(HistogramPass(candidates, score, low, high), stage)["counts"])

    return Plane(*map(distribution, step.ranked_by))


def group_means(candidates: Candidates, score: str, groups: int, run_pass: RunPass, stage: str) -> NDArray[np.float64]:
    """Return the mean of a score by group relative to the largest score, float64[groups]; 0 where there is none.

    Infinite scores do not count. Raises TamisError where a score is negative: a mean of such scores is no share.
    """
    low, high, _ = score_range(candidates, score, run_pass, stage)
    if low < 0:
        raise TamisError(
            f"{candidates.current.step.name}: allocate by `{score}` needs scores of 0 or more, and one is {low:g}"
        )
    if high <= 0:  # no score, or all of them 0: equal shares
        return np.ones(groups)
    sums = run_pass(GroupSumsPass(candidates, score, high, groups), stage)
    upper, lower = sums["units"].T.astype(np.float64)
    return (upper * 2.0**20 + lower) / 2.0**40 / np.maximum(sums["documents"], 1)
