"""WEIGH: the passes over score files that fit weights to the kept documents, and measure what they are like."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..connectors.atomic import write_text
from ..connectors.errors import TamisError
from ..selectors import histograms
from ..selectors.spread import (
    Grid,
    Spread,
    bins_of,
    merged_sums,
)
from ..selectors.stabilise import FOLDS, MONOTONE_BINS, Monotone
from ..selectors.tail import tail_length
from ..selectors.weigh import ClassBalanced, Uniform
from ..selectors.weigher import Fitted, Weigher
from ..selectors.weighing import OfScopes, Weighing
from ..selectors.weight_summary import WeightSummary, equal_weights, summarise
from .candidates import RunPass
from .decided import Decisions
from .weight_passes import CalibratedBy, ExtremesPass, Final, MomentsPass, Numbers, SpreadPass, log_weights, signal

GROUPS_DESCRIBED = 1000
"""With more groups than that, weights are described for the whole run only."""

STAGE = "weighing"

_MOMENTS_BYTES = 64 << 20
_MOMENTS_OF_A_BIN = FOLDS * 9 * 8


@dataclass(frozen=True)
class Weights:
    """What the weights of a run are like.

    of_groups: by number of the group, None for one without a kept document; empty where they are not described;
    unscored: kept documents that lack what is weighed by, and weigh 1; mean: of all weights.
    """

    run: WeightSummary
    of_groups: list[WeightSummary | None]
    unscored: int
    mean: float = 1.0


class Weigh:
    """Fits the weights of a run. kept: kept documents of each group, int64[groups]; folder: for what is fitted."""

    def __init__(
        self, decisions: Decisions, kept: NDArray[np.int64], run_pass: RunPass, new_url: Callable[[], str]
    ) -> None:
        self.decisions, self.kept, self.run_pass, self.new_url = decisions, kept, run_pass, new_url

    def frozen(self, weighing: Weighing | None) -> tuple[Decisions, Weights]:
        """Return decisions with the weights of an earlier run, None where all are 1, and what they are like."""
        if weighing is None or not self.kept.sum():
            return self.decisions, self._equal()
        decisions = self._with(weighing)
        scored = self.run_pass(ExtremesPass(decisions, log_weights), STAGE)["extremes"]["documents"].to_pylist()
        return decisions, self._described(decisions, int(self.kept.sum()) - sum(scored))

    def fitted(self) -> tuple[Decisions, Weights]:
        """Return decisions with weights, and what they are like."""
        repeats, total = self.decisions.repeats(), int(self.kept.sum())
        weigher = self.decisions.weigher
        if not total or (isinstance(weigher, Uniform) and repeats is None):
            return self.decisions, self._equal()
        weighing = Weighing(weigher)
        scopes = len(self.kept) if isinstance(weigher, Weigher) and weigher.within is not None else 1
        if isinstance(weigher, Weigher):
            weighing = self._stages(weighing, weigher, scopes)
        decisions = self._with(weighing)
        spreads = self._spreads(decisions, log_weights, scopes, weights=True)
        weighing = replace(
            weighing,
            high=[spread.grid.high if spread is not None else -math.inf for spread in spreads],
            scale=[spread.documents / spread.total if spread is not None else 1.0 for spread in spreads],
        )
        unscored = total - sum(spread.documents for spread in spreads if spread is not None)
        decisions = self._with(weighing)
        weights = self._described(decisions, unscored)
        if repeats is not None:
            decisions = self._with(replace(weighing, factor=1 / weights.mean))
        return decisions, weights

    def _stages(self, weighing: Weighing, weigher: Weigher, scopes: int) -> Weighing:
        """Fit the weigher, and then each stabiliser to the weights before it."""
        if isinstance(weigher, ClassBalanced):
            weighing = weighing.with_stage(list(weigher.fit_groups(self.kept)))
        elif weigher.fits:
            spreads = self._spreads(self._with(weighing), signal, scopes, weights=False)
            weighing = weighing.with_stage(_of_each(spreads, weigher.fit))
        else:
            weighing = weighing.with_stage([{}] * scopes)
        for stabiliser in weigher.stabilise:
            decisions = self._with(weighing)
            spreads = self._spreads(decisions, log_weights, scopes, weights=True)
            if isinstance(stabiliser, Monotone):
                weighing = weighing.with_stage(self._calibrated(decisions, stabiliser, spreads))
            else:
                weighing = weighing.with_stage(_of_each(spreads, stabiliser.fit))
        return weighing

    def _spreads(self, decisions: Decisions, numbers: Numbers, scopes: int, weights: bool) -> list[Spread | None]:
        """Return how a number is spread in each scope, None where nothing is finite."""
        table = self.run_pass(ExtremesPass(decisions, numbers), STAGE)["extremes"]
        documents, low, high = np.zeros(scopes, np.int64), np.full(scopes, np.inf), np.full(scopes, -np.inf)
        at = table["scope"].to_numpy()
        for column, values in (("documents", documents), ("low", low), ("high", high)):
            values[at] = table[column].to_numpy()
        bins = bins_of(scopes)
        lengths = np.array([tail_length(n) + 1 if n else 0 for n in documents.tolist()]) if weights else None
        found = self.run_pass(SpreadPass(decisions, numbers, low, high, bins, lengths), STAGE)
        tables = {name: found.pop(name) for name in ("sums", "largest") if name in found}
        counts = histograms.dense(found, (scopes, bins), weighted=False)["counts"]
        total, squares = merged_sums(tables["sums"], scopes) if weights else (np.zeros(scopes), np.zeros(scopes))
        ends = np.zeros(scopes + 1, np.int64)
        if weights:
            ends = np.searchsorted(tables["largest"]["scope"].to_numpy(), np.arange(scopes + 1))
        heavy = tables["largest"]["value"].to_numpy() if weights else np.empty(0)
        return [
            Spread(
                int(documents[s]),
                Grid(float(low[s]), float(high[s]), bins),
                counts[s],
                float(total[s]),
                float(squares[s]),
                heavy[ends[s] : ends[s + 1]][::-1],
            )
            if high[s] > -np.inf
            else None
            for s in range(scopes)
        ]

    def _calibrated(self, decisions: Decisions, stabiliser: Monotone, spreads: list[Spread | None]) -> OfScopes:
        table = self.run_pass(ExtremesPass(decisions, CalibratedBy(stabiliser.by)), STAGE)["extremes"]
        grids: list[Grid | None] = [None] * len(spreads)
        bins = max(min(MONOTONE_BINS, _MOMENTS_BYTES // (_MOMENTS_OF_A_BIN * len(spreads))), 10)
        for row in table.to_pylist():
            if row["high"] > -np.inf:
                grids[row["scope"]] = Grid(row["low"], row["high"], bins)
        high = np.array([spread.grid.high if spread is not None else 0.0 for spread in spreads])
        if not any(grids):
            raise TamisError(f"weigh.stabilise: no kept document has `{stabiliser.by}`")
        moments = self.run_pass(MomentsPass(decisions, stabiliser, grids, high), STAGE)["moments"]
        try:
            return [
                None if grid is None else stabiliser.calibrate(moments[scope], grid, float(high[scope]))
                for scope, grid in enumerate(grids)
            ]
        except ValueError as error:
            raise TamisError(f"weigh.stabilise: monotone by `{stabiliser.by}`: {error}") from error

    def _described(self, decisions: Decisions, unscored: int) -> Weights:
        groups = len(self.kept) if len(self.kept) <= GROUPS_DESCRIBED else None
        spreads = self._spreads(decisions, Final(groups), (groups or 0) + 1, weights=True)
        *of_groups, whole = spreads
        if whole is None:
            raise TamisError("weigh: all weights are zero")
        described = [None if spread is None else summarise(spread) for spread in of_groups]
        return Weights(summarise(whole), described, unscored, math.exp(whole.grid.high) * whole.total / whole.documents)

    def _equal(self) -> Weights:
        of_groups = self.kept.tolist() if len(self.kept) <= GROUPS_DESCRIBED else []
        return Weights(equal_weights(int(self.kept.sum())), [equal_weights(n) if n else None for n in of_groups], 0)

    def _with(self, weighing: Weighing) -> Decisions:
        url = self.new_url()
        write_text(url, weighing.to_json())
        return replace(self.decisions, weighing_url=url)


def _of_each(spreads: list[Spread | None], fit: Callable[[Spread], Fitted]) -> OfScopes:
    try:
        return [None if spread is None else fit(spread) for spread in spreads]
    except ValueError as error:
        raise TamisError(f"weigh: {error}") from error
