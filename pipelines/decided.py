"""What is decided for a whole run, applied to one shard: reasons and weights. Used by every pass after SELECT."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..connectors import files
from ..connectors.errors import TamisError
from ..connectors.shards import Shard
from ..selectors.decide import Rows, decide
from ..selectors.weigh import Uniform
from ..selectors.weigher import Weigher
from ..selectors.weighing import Weighing
from .candidates import StoredStep
from .score_columns import ScoreColumns


@dataclass
class Decisions:
    """The decisions of a run. seed: of the recipe; weighing_url: of what is fitted of the weights; None: all are 1."""

    columns: ScoreColumns
    seed: int
    steps: list[StoredStep]
    weigher: Uniform | Weigher
    weighing_url: str | None = None

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
        repeats = np.maximum.reduce(of_steps) if of_steps else np.ones(0)
        return repeats if (repeats > 1).any() else None

    def weighing(self) -> Weighing:
        """Return the weights as far as they are fitted."""
        if self.weighing_url is None:
            return Weighing(self.weigher)
        return Weighing.from_json(self.weigher, _read(self.weighing_url))

    def kept_scores(self, rows: Rows, kept: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
        """Return the scores that weigh, float64[m], of the kept documents."""
        return {name: rows.scores[name][kept] for name in self.weigher.needs}

    def kept_weights(self, rows: Rows, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the weights of the kept documents, float64[m]."""
        return self.weighing().weights(self.kept_scores(rows, kept), rows.groups[kept], self.repeats())

    def weights(self, rows: Rows, reason: NDArray[np.int16]) -> NDArray[np.float32]:
        """Return float32[n]: 0 for a dropped document, mean one over the kept ones."""
        kept = reason < 0
        weights = kept.astype(np.float32)
        if self.weighing_url is not None:
            with np.errstate(over="ignore"):
                weights[kept] = self.kept_weights(rows, kept).astype(np.float32)
            if not np.isfinite(weights).all():
                raise TamisError("weigh: the weight of a new document is out of proportion; run without `since`")
        return weights


@functools.lru_cache(maxsize=4)
def _read(url: str) -> str:
    with files.open_input(url) as source:
        return source.read().decode()
