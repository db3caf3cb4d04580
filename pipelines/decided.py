"""What is decided for a whole run, applied to one shard: reasons and weights. Used by every pass after SELECT."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..connectors.errors import TamisError
from ..connectors.shards import Shard
from ..selectors.decide import Rows, decide
from ..selectors.weigh import Importance, Uniform
from ..selectors.weighers import importance_weights, mean_one
from .candidates import StoredStep
from .score_columns import ScoreColumns


@dataclass(frozen=True)
class Normaliser:
    """What makes weights relative to a run, and then their mean one.

    Attributes:
        maximum: the largest score of a kept document; None where no score weighs.
        unscored: relative weight of a kept document without the score: the mean of the others.
        repeated: how often documents count at most; relative weights are divided by it.
        total: the sum of the relative weights, in units of 2**-40; of a run that continues another one, that of the run
            that made it.
        documents: how many documents are kept.
    """

    maximum: float | None = None
    unscored: float = 1.0
    repeated: float = 1.0
    total: int | float = 0
    documents: int = 0

    def raised(self, maximum: float | None, temperature: float) -> Normaliser:
        """Return one that gives the same weights, for scores up to a new maximum.

        Raises TamisError where that is so far up that the old weights vanish beside it.
        """
        if self.maximum is None or maximum is None or maximum <= self.maximum:
            return self
        factor = float(np.exp((self.maximum - maximum) / temperature))
        if self.total * factor < 1:
            raise TamisError(f"weigh: a new document's score of {maximum:g} is out of proportion; run without `since`")
        return replace(self, maximum=maximum, unscored=self.unscored * factor, total=self.total * factor)


@dataclass
class Decisions:
    """The decisions of a run. seed: of the recipe; normaliser: None until known, and where all weights are 1."""

    columns: ScoreColumns
    seed: int
    steps: list[StoredStep]
    weigher: Uniform | Importance
    normaliser: Normaliser | None = None

    def weighed_as(self, frozen: Normaliser | None) -> Decisions:
        """Return the decisions with weights relative to those of an earlier run. frozen: None where all were 1."""
        if frozen is None or self.normaliser is None:
            return self
        temperature = self.weigher.temperature if isinstance(self.weigher, Importance) else 1.0
        return replace(self, normaliser=frozen.raised(self.normaliser.maximum, temperature))

    def rows(self, shard: Shard, more: list[str] | None = None) -> tuple[Rows, NDArray[np.int16]]:
        """Return a shard's rows with the scores that decide, and `more`, and the reasons (see `decide`)."""
        steps = [stored.load() for stored in self.steps]
        needs = [name for decided in steps for name in decided.step.needs]
        rows = self.columns.rows(shard, [*needs, *self.weigher.needs, *(more or [])])
        return rows, decide(rows, steps, self.seed)

    def repeats(self) -> NDArray[np.float64] | None:
        """Return how often the documents of each group count, float64[groups]; None where all count once.

        Of several steps that repeat a group, the largest counts: one that kept it repeated has met its floor.
        """
        of_steps = [step.repeats for step in (stored.load() for stored in self.steps) if step.repeats is not None]
        return np.maximum.reduce(of_steps) if of_steps else None

    def relative_weights(self, rows: Rows, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return weights from 0 to 1 of the kept documents, float64[m], by the normaliser's first three figures."""
        assert self.normaliser is not None
        weights = np.ones(int(kept.sum()))
        if self.normaliser.maximum is not None:
            scores = rows.scores[self.weigher.needs[0]][kept]
            scored = ~np.isnan(scores)
            weights[scored] = self._importance(scores[scored], self.normaliser.maximum)
            weights[~scored] = self.normaliser.unscored
        repeats = self.repeats() if self.normaliser.repeated > 1 else None
        return weights if repeats is None else weights * (repeats[rows.groups[kept]] / self.normaliser.repeated)

    def _importance(self, scores: NDArray[np.float64], maximum: float) -> NDArray[np.float64]:
        assert isinstance(self.weigher, Importance)
        try:
            return importance_weights(scores, maximum, self.weigher.temperature)
        except ValueError as error:
            raise TamisError(f"weigh: {self.weigher.by}: {error}") from error

    def weights(self, rows: Rows, reason: NDArray[np.int16]) -> NDArray[np.float32]:
        """Return float32[n]: 0 for a dropped document, mean one over the kept ones."""
        kept = reason < 0
        weights = kept.astype(np.float32)
        if self.normaliser is not None:
            relative = self.relative_weights(rows, kept)
            weights[kept] = mean_one(relative, self.normaliser.total, self.normaliser.documents)
        return weights
