"""The clusters of a step of vectors: what is in them, their budgets, and into how many parts they are cut.

In memory, on the driver and per worker: some 50 bytes per cluster.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.score_store import load_arrays, save_arrays
from ..connectors.shards import Shard
from ..selectors.budget import GROUP, budget
from ..selectors.decide import DecidedStep, Rows
from ..selectors.group_budgets import group_budgets
from ..selectors.in_cluster import parts_of, proposed
from ..selectors.vector_steps import Cover, VectorStep
from .candidates import Candidates, group_means, numbers_in
from .exchanging import Exchanging
from .gathered_vectors import read_vectors
from .passes import Control, Result, Work
from .score_columns import load_groups

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Clusters:
    """The clusters of a step, int64[clusters] each.

    sizes: documents, in the sense of `Members.size`; budgets: of each, for `cover`, else 0; free: documents that get a
    value or may be picked; measures: their measure; sent: documents whose vectors are compared; first_part:
    [clusters + 1], number of the first part of each, and of all parts. Unless a run continues others, sizes, free and
    sent are the same.
    """

    sizes: Int64
    budgets: Int64
    free: Int64
    measures: Int64
    sent: Int64
    first_part: Int64

    @classmethod
    def of(cls, sizes: Int64, measures: Int64, budgets: Int64) -> Clusters:
        """Cut clusters into parts, in a run that continues none."""
        return cls(sizes, budgets, sizes, measures, sizes, numbered_parts(parts_of(sizes)))

    def of_part(self, part: int) -> int:
        """Return which cluster a part is of."""
        return int(np.searchsorted(self.first_part, part, "right")) - 1

    def in_parts(self, cluster: int) -> bool:
        """Whether a cluster is cut."""
        return self._parts(cluster) > 1

    def proposed(self, cluster: int) -> int:
        """Return the budget of each part of a cluster in the first of two rounds."""
        whole, free = int(self.measures[cluster]), int(self.free[cluster])
        return proposed(int(self.budgets[cluster]), whole, free, self._parts(cluster))

    def _parts(self, cluster: int) -> int:
        return int(self.first_part[cluster + 1] - self.first_part[cluster])

    def save(self, url: str) -> str:
        """Write them for `load_clusters`; returns the URL."""
        save_arrays(url, vars(self))
        return url


def numbered_parts(parts: Int64) -> Int64:
    """Return the number of the first part of each cluster, and of all parts, int64[clusters + 1]."""
    return np.concatenate([[0], np.cumsum(parts)])


@functools.lru_cache(maxsize=4)
def load_clusters(url: str) -> Clusters:
    """Read what `Clusters.save` wrote; kept in memory by each process."""
    return Clusters(**load_arrays(url))


def count(gathering: Exchanging, step: VectorStep) -> tuple[Clusters, int]:
    """Return the clusters of a step in a run that continues none, and the dimension of its vectors."""
    candidates = gathering.candidates
    names = cluster_names(gathering, step, candidates)
    counted = gathering.over_shards(CountPass(candidates, step, len(names)), gathering.stage)
    sizes, measures = counted.get("counts", np.zeros((2, len(names)), np.int64))
    budgets = np.zeros_like(sizes)
    if isinstance(step, Cover):
        with_vectors = CandidatesWithVectors(
            candidates.columns, candidates.seed, candidates.earlier, candidates.current, step
        )
        budgets = cover_budgets(gathering, step, with_vectors, names, sizes, measures)
    return Clusters.of(sizes, measures, budgets), dimension_of(counted)


def cluster_names(gathering: Exchanging, step: VectorStep, candidates: Candidates) -> pa.Array:
    """Return the names of the clusters of some candidates, string[clusters]; numbers where a score divides them."""
    by = step.divides_vectors
    if by is None:
        return pa.array([""])
    if by == GROUP:
        return load_groups(candidates.columns.groups_url)
    return pa.array(map(str, range(numbers_in(candidates, by, gathering.over_shards, gathering.stage))), pa.string())


def cover_budgets(
    gathering: Exchanging, step: Cover, candidates: Candidates, names: pa.Array, sizes: Int64, measures: Int64
) -> Int64:
    """Return the budget of each cluster, int64[clusters].

    Args:
        gathering: runs the passes.
        step: says how much.
        candidates: those with vectors, for means of a score that budgets follow.
        names: of the clusters, string[clusters].
        sizes, measures: documents of the clusters and their measure, int64[clusters].
    """
    if step.allocate is None:
        return budget(step.keep, sizes, measures)
    weights = None
    if step.allocate.score is not None:
        score = step.allocate.score
        weights = group_means(candidates, score, len(names), gathering.over_shards, gathering.stage)
    return group_budgets(step.keep, step.allocate, names, sizes, measures, weights).budgets


def dimension_of(counted: Result) -> int:
    """Return the length of the vectors that were counted, 1 where there were none."""
    return int(counted.get("dimension", np.zeros(0, np.uint64)).max(initial=1))


@dataclass
class CandidatesWithVectors(Candidates):
    """What a step will choose from when it has its column: candidates that have a vector."""

    step: VectorStep

    def find(self, shard: Shard) -> tuple[Rows, DecidedStep, Int64]:
        """Return the shard's rows, the step, and the numbers of the rows."""
        rows, _, found = super().find(shard)
        vectors = self.columns.stored(shard, [self.step.vectors], len(rows))[self.step.vectors]
        return rows, DecidedStep(self.step), found[vectors.is_valid().to_numpy()[found]]


def cluster_numbers(rows: Rows, step: VectorStep, chosen: Int64) -> Int64:
    """Return the cluster of some rows. chosen: their numbers, int64[m]. Returns int64[m]."""
    by = step.divides_vectors
    if by is None:
        return np.zeros(len(chosen), np.int64)
    return rows.groups[chosen] if by == GROUP else rows.scores[by][chosen].astype(np.int64)


def measures_of(rows: Rows, step: VectorStep, chosen: Int64) -> Int64:
    """Return what some rows take of a budget. chosen: their numbers, int64[m]. Returns int64[m]."""
    return rows.tokens[chosen] if step.keep.weighted else np.ones(len(chosen), np.int64)


def tally(rows: Rows, step: VectorStep, chosen: Int64, clusters: int) -> Int64:
    """Return documents and their measure by cluster, int64[2, clusters]. chosen: rows, int64[m]."""
    numbers = cluster_numbers(rows, step, chosen)
    measures = np.bincount(numbers, measures_of(rows, step, chosen), minlength=clusters)
    return np.stack([np.bincount(numbers, minlength=clusters), measures.astype(np.int64)])


@dataclass
class CountPass(Work):
    """Counts the documents of each cluster that have a vector, and finds the length of the vectors."""

    candidates: Candidates
    step: VectorStep
    clusters: int

    def do(self, shard: Shard, control: Control) -> Result:
        """Return documents and measures of the clusters, and lengths of vectors as a set."""
        found = read_vectors(self.candidates, shard, self.step.vectors)
        return {"counts": tally(found.rows, self.step, found.chosen, self.clusters), "dimension": found.lengths}
