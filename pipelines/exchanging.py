"""What the passes of one step need that compares documents with each other: where things are, and how passes run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..selectors.decide import Rows
from ..selectors.deduplicate import Deduplicate
from .candidates import Candidates, RunPass
from .exchange import Exchange, buckets_for
from .losses import Numbering, SettledLosses, losses_url
from .passes import Result, Work

RunOver = Callable[[Work, Sequence[Any], str], Result]
"""Runs a pass over any elements; the last argument says what it is for."""


@dataclass(frozen=True)
class Deduplicated:
    """What a step found: documents it chose from, and how many of these it drops. url: see `losses.Losses.at`."""

    url: str
    candidates: int
    dropped: int


@dataclass
class Exchanging:
    """The deciding of one step.

    candidates: of the step; numbering: of all documents, those of earlier runs first; url: new, ends with .npz: the
    folder of that name without the ending holds all files; over_shards, run_over: run passes, the first one over the
    shards of earlier runs too.
    """

    candidates: Candidates
    numbering: Numbering
    url: str
    over_shards: RunPass
    run_over: RunOver

    def exchange(self, name: str, row_type: np.dtype[np.void], rows: int, writers: tuple[int, ...]) -> Exchange:
        """Return a new exchange. rows: how many there will be, at most."""
        return Exchange(f"{self.folder}/{name}", row_type, buckets_for(rows, row_type.itemsize), writers)

    def over_buckets(self, work: Work, exchange: Exchange) -> Result:
        """Run a pass over the buckets of an exchange."""
        return self.run_over(work, list(range(exchange.buckets)), self.stage)

    @property
    def step(self) -> Deduplicate:
        """The step that is decided."""
        step = self.candidates.current.step
        assert isinstance(step, Deduplicate)
        return step

    @property
    def settled(self) -> SettledLosses:
        """What the step dropped in the runs that this one continues."""
        number = len(self.candidates.earlier)
        files = tuple(losses_url(run.folder, number, self.step.name) for run in self.numbering.runs)
        return SettledLosses(self.numbering, files)

    @property
    def stage(self) -> str:
        """What its passes are for."""
        return f"deciding {self.candidates.current.step.name}"

    @property
    def folder(self) -> str:
        """Where its files are."""
        return self.url.removesuffix(".npz")

    @property
    def shards(self) -> tuple[int, ...]:
        """Indices of all shards, which write exchanges."""
        return tuple(self.numbering.shards.tolist())


def ranks(candidates: Candidates, rows: Rows, chosen: NDArray[np.int64], first: int) -> NDArray[np.uint64]:
    """Return the order in which copies stay, uint64[m]. chosen: int64[m], rows; first: number of the first row."""
    step = candidates.current.step
    assert isinstance(step, Deduplicate)
    scores = {name: rows.scores[name][chosen] for name in step.needs}
    direction = candidates.columns.directions.get(step.by or "", "")
    return step.rank(scores, rows.keys[chosen], first + chosen, direction, candidates.seed)
