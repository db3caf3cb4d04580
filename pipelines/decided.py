"""What is decided for a whole run, applied to one shard: reasons and weights. Used by every pass after SELECT."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..connectors.errors import TamisError
from ..connectors.shards import Shard
from ..selectors.decide import Rows, decide
from ..selectors.weigh import Importance, Uniform
from ..selectors.weighers import importance_weights, mean_one
from .score_columns import ScoreColumns
from .select import StoredStep


@dataclass(frozen=True)
class Normaliser:
    """What makes weights relative to a run: the largest score of a kept document, the sum of exp((score - maximum) /
    temperature) over the kept documents that have a score, in units of 2**-40, and how many these are."""

    maximum: float
    total: int
    documents: int


@dataclass
class Decisions:
    """The decisions of a run. seed: of the recipe; normaliser: None until known, and for uniform weights."""

    columns: ScoreColumns
    seed: int
    steps: list[StoredStep]
    weigher: Uniform | Importance
    normaliser: Normaliser | None = None

    def rows(self, shard: Shard, more: list[str] | None = None) -> tuple[Rows, NDArray[np.int16]]:
        """Return a shard's rows with the scores that decide, and `more`, and the reasons (see `decide`)."""
        steps = [stored.load() for stored in self.steps]
        needs = [name for decided in steps for name in decided.step.needs]
        rows = self.columns.rows(shard, [*needs, *self.weigher.needs, *(more or [])])
        return rows, decide(rows, steps, self.seed)

    def relative_weights(self, rows: Rows, kept: NDArray[np.bool_], maximum: float) -> NDArray[np.float64]:
        """Return weights from 0 to 1 of the kept documents that have a score, float64[m]."""
        assert isinstance(self.weigher, Importance)
        scores = rows.scores[self.weigher.by][kept]
        try:
            return importance_weights(scores[~np.isnan(scores)], maximum, self.weigher.temperature)
        except ValueError as error:
            raise TamisError(f"weigh: {self.weigher.by}: {error}") from error

    def weights(self, rows: Rows, reason: NDArray[np.int16]) -> NDArray[np.float32]:
        """Return float32[n]: 0 for a dropped document, mean one over the kept ones."""
        kept = reason < 0
        weights = kept.astype(np.float32)
        if isinstance(self.weigher, Uniform) or self.normaliser is None or not self.normaliser.total:
            return weights
        scored = kept & ~np.isnan(rows.scores[self.weigher.by])
        relative = self.relative_weights(rows, kept, self.normaliser.maximum)
        weights[scored] = mean_one(relative, self.normaliser.total, self.normaliser.documents)
        return weights
