"""The documents that a step of vectors is concerned with in a run that continues others: see `vector_since`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..connectors.score_store import Address
from ..connectors.shards import Shard
from ..selectors.decide import DecidedStep, Rows, picked
from ..selectors.vector_steps import Cover, VectorStep
from .candidates import Candidates, StoredStep
from .gathered_vectors import read_vectors
from .losses import Numbering
from .passes import Control, Result, Work
from .score_columns import ScoreColumns
from .vector_clusters import Clusters, cluster_numbers, load_clusters, tally

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Chain:
    """What earlier runs have made of a step. frozen: it, with the parent's cuts; column: where the parent's column is.

    numbering: of all documents; idle: indices of shards that take no part.
    """

    frozen: StoredStep
    column: Address
    numbering: Numbering
    idle: frozenset[int] = frozenset()

    @property
    def step(self) -> VectorStep:
        """The step."""
        assert isinstance(self.frozen.step, VectorStep)
        return self.frozen.step

    def is_first(self, shard: int) -> bool:
        """Whether a shard is one of the first run."""
        numbering = self.numbering
        return numbering.is_settled(shard) and (len(numbering.runs) < 2 or shard < numbering.runs[1].first)

    def earlier(self, columns: ScoreColumns, seed: int, shard: Shard) -> tuple[Rows, Int64, NDArray[np.bool_]]:
        """Return an earlier shard's rows, which of them have a value, and, for `cover`, which of these were kept."""
        step = self.step
        rows = columns.with_made(step, self.column).rows(shard, [step.name, *step.gathers])
        there = np.flatnonzero(~np.isnan(rows.scores[step.name]))
        if not isinstance(step, Cover):
            return rows, there, np.zeros(len(there), np.bool_)
        return rows, there, picked(rows, self.frozen.load(), there, seed)


@dataclass
class ChainCandidates(Candidates):
    """New documents that a step chooses from, and earlier ones that it compares them with.

    clusters_url: see `load_clusters`; before these are known, all earlier documents whose cluster matters.
    """

    chain: Chain
    clusters_url: str | None = None

    def find(self, shard: Shard) -> tuple[Rows, DecidedStep, Int64]:
        """Return the shard's rows, the step, and the numbers of the rows."""
        chain = self.chain
        if not chain.numbering.is_settled(shard.index):
            rows, current, found = super().find(shard)
            return rows, current, found[:0] if shard.index in chain.idle else found
        rows, there, kept = chain.earlier(self.columns, self.seed, shard)
        if shard.index in chain.idle:
            there = there[:0]
        elif self.clusters_url is not None:
            there = there[kept] if isinstance(chain.step, Cover) else there
            there = there[
                _compared(chain.step, load_clusters(self.clusters_url))[cluster_numbers(rows, chain.step, there)]
            ]
        return rows, self.current.load(), there


@dataclass
class OfFirstRun(Candidates):
    """What the first run of a chain chose from: its documents that have a value."""

    chain: Chain

    def find(self, shard: Shard) -> tuple[Rows, DecidedStep, Int64]:
        """Return the shard's rows, the step, and the numbers of the rows."""
        step = self.chain.step
        if not self.chain.is_first(shard.index):
            return self.columns.rows(shard, step.gathers), DecidedStep(step), np.zeros(0, np.int64)
        rows, there, _ = self.chain.earlier(self.columns, self.seed, shard)
        return rows, DecidedStep(step), there


def _compared(step: VectorStep, clusters: Clusters) -> NDArray[np.bool_]:
    """Return of which clusters earlier documents are compared with new ones, bool[clusters]."""
    some = clusters.free > 0
    return some & (clusters.budgets > 0) if isinstance(step, Cover) else some


@dataclass
class ChainCountPass(Work):
    """Counts documents and their measure by cluster, int64[2, clusters] each.

    first: of the first run; all: of all runs; kept: by earlier runs, for `cover`; free: new ones.
    """

    candidates: ChainCandidates
    clusters: int

    def do(self, shard: Shard, control: Control) -> Result:
        """Count the documents of a shard."""
        chain = self.candidates.chain
        nothing = np.zeros(0, np.int64)
        if chain.numbering.is_settled(shard.index):
            rows, there, kept = chain.earlier(self.candidates.columns, self.candidates.seed, shard)
            lengths = np.zeros(0, np.uint64)
            chosen = {"all": there, "kept": there[kept], "free": nothing}
            chosen["first"] = there if chain.is_first(shard.index) else nothing
        else:
            found = read_vectors(self.candidates, shard, chain.step.vectors)
            rows, lengths = found.rows, found.lengths
            chosen = {"all": found.chosen, "kept": nothing, "free": found.chosen, "first": nothing}
        counts = {name: tally(rows, chain.step, of, self.clusters) for name, of in chosen.items()}
        return {**counts, "dimension": lengths}
