"""The column of a step of vectors in a run that continues others: see `vector_column` for how it is made.

`typicality`, `inverse_density` and `moderate` compare new documents with those of the first run of the chain alone, as
if each were the only one that came since: its value is a pure function of these and its own vector, so the column stays
where the first run has put it, and only shards that lack it are made. For that reason a value is given to every new
document that the steps before leave, but for steps that know what else is there (`deduplicate` and `cover`).

`cover` keeps of each cluster the share that the first run kept: budgets grow with the documents of all runs. What the
earlier runs kept is given, and new documents are picked that cover what these do not. Its column is a new one, of all
shards of the chain; there what an earlier run has kept keeps its number, and nothing else of its documents is kept.

In the store 8 bytes per document: of the new ones, or of the chain for `cover`. On disk and in memory: as a first run
of as many documents as are compared, which are the new ones and, of clusters that have some, those of the first run or,
for `cover`, those that were kept. A part is one of the first run's with what is new in it; in the second round of
`cover` it holds all that is kept of a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.score_store import Address
from ..connectors.shards import Shard
from ..scoring.scorer import digest
from ..selectors.budget import GROUP
from ..selectors.cuts import Cuts
from ..selectors.deduplicate import Deduplicate
from ..selectors.in_cluster import grown, parts_of
from ..selectors.ordering import ascending
from ..selectors.vector_steps import Cover, VectorStep
from .candidates import StoredStep
from .exchanging import Exchanging
from .passes import Control, Result, Work
from .score import PRIMARY
from .score_columns import ScoreColumns, made_column
from .vector_chain import Chain, ChainCandidates, ChainCountPass, OfFirstRun
from .vector_clusters import (
    Clusters,
    cluster_names,
    cluster_numbers,
    cover_budgets,
    dimension_of,
    load_clusters,
    numbered_parts,
    tally,
)
from .vector_column import StorePass, column_address, compare

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Continued:
    """A step of vectors in a run that continues others.

    column: where its column is; cuts: of `cover`, None where the parent's stay; notes: what the user should know, a
    line each.
    """

    column: Address
    cuts: Cuts | None = None
    notes: list[str] = field(default_factory=list)


def continue_column(gathering: Exchanging, frozen: StoredStep, column: Address) -> Continued:
    """Make a step's column in a run that continues others, where the store lacks it.

    Args:
        gathering: of the step's candidates.
        frozen: the step with the cuts of the parent.
        column: where the parent's column is.
    """
    chain = Chain(frozen, column, gathering.numbering)
    return _cover_more(gathering, chain) if isinstance(chain.step, Cover) else _add_values(gathering, chain)


def _add_values(gathering: Exchanging, chain: Chain) -> Continued:
    """Give new documents the values that they have beside those of the first run."""
    numbering, candidates, step = gathering.numbering, gathering.candidates, chain.step
    stored = candidates.columns.store.stored(chain.column)
    lacking = {
        index
        for index, fingerprint in zip(numbering.shards.tolist(), numbering.fingerprints, strict=True)
        if fingerprint not in stored and not numbering.is_settled(index)
    }
    if not lacking:
        return Continued(chain.column)
    idle = frozenset(index for index in gathering.shards if index not in lacking and not chain.is_first(index))
    pure = [one for one in candidates.earlier if not isinstance(one.step, Deduplicate | Cover)]
    taking = ChainCandidates(candidates.columns, candidates.seed, pure, candidates.current, replace(chain, idle=idle))
    names = cluster_names(gathering, step, taking)
    counted = _count(gathering, taking, len(names))
    first, free = counted["first"], counted["free"]
    sent = free[0] + np.where(free[0] > 0, first[0], 0)
    parts = numbered_parts(np.maximum(parts_of(first[0]), 1))
    clusters = Clusters(first[0], np.zeros_like(sent), free[0], free[1], sent, parts)
    url = clusters.save(f"{gathering.folder}/clusters.npz")
    rounds = compare(gathering, step, replace(taking, clusters_url=url), url, dimension_of(counted))
    gathering.over_shards(AddPass(rounds, candidates, chain.column, frozenset(lacking)), gathering.stage)
    return Continued(chain.column)


def _cover_more(gathering: Exchanging, chain: Chain) -> Continued:
    """Pick of the new documents what covers each cluster beside what is kept of it already."""
    candidates, step, numbering = gathering.candidates, chain.step, gathering.numbering
    assert isinstance(step, Cover)
    own = column_address(gathering, step).fingerprint
    address = Address(step.method, digest(own, chain.column.folder, numbering.settled))
    taking = ChainCandidates(candidates.columns, candidates.seed, candidates.earlier, candidates.current, chain)
    names = cluster_names(gathering, step, taking)
    counted = _count(gathering, taking, len(names))
    first, kept, free = counted["first"], counted["kept"], counted["free"]
    of_first = OfFirstRun(candidates.columns, candidates.seed, [], candidates.current, chain)
    budgets = cover_budgets(gathering, step, of_first, names, first[0], first[1])
    budgets = np.maximum(grown(budgets, first[1], counted["all"][1]) - kept[1], 0)
    sent = free[0] + np.where((budgets > 0) & (free[0] > 0), kept[0], 0)
    parts = numbered_parts(parts_of(sent))
    clusters = Clusters(counted["all"][0], budgets, free[0], free[1], sent, parts)
    url = clusters.save(f"{gathering.folder}/clusters.npz")
    if set(numbering.fingerprints) - candidates.columns.store.stored(address):
        rounds = compare(gathering, step, replace(taking, clusters_url=url), url, dimension_of(counted))
        gathering.over_shards(ExtendPass(rounds, candidates, address, chain), gathering.stage)
    counting = KeptPass(candidates.columns.with_made(step, address), step, url)
    cuts = _cuts(clusters.sizes, gathering.over_shards(counting, gathering.stage)["kept"])
    return Continued(address, cuts, _new_cluster_lines(step, first[0], free[0]))


def _new_cluster_lines(step: Cover, first: Int64, free: Int64) -> list[str]:
    """Warn of clusters that came since and have no budget; of groups the run warns itself.

    first, free: documents of the first run and new ones, int64[clusters].
    """
    new = np.flatnonzero((first == 0) & (free > 0))
    if step.divides_vectors in (None, GROUP) or not len(new):
        return []
    named = ", ".join(map(str, new[:5].tolist())) + (", …" if len(new) > 5 else "")
    return [
        f"{step.name}: of some clusters the first run had nothing to keep a share of, and none of their "
        f"{int(free[new].sum()):,} new documents is kept: {named}"
    ]


def _cuts(sizes: Int64, kept: Int64) -> Cuts:
    """Return cuts that hold exactly what is picked: what is not has the size of its cluster, int64[clusters].

    Not cuts by budget: where new documents are too few or too large to use it up, what an earlier run has dropped would
    come next. kept: documents and their measure, int64[2, clusters].
    """
    nothing = np.zeros(len(sizes), np.uint64)
    everything = np.zeros(len(sizes), np.bool_)
    return Cuts(ascending(sizes.astype(np.float64)), nothing, nothing, everything, kept[0], kept[1])


def _count(gathering: Exchanging, taking: ChainCandidates, clusters: int) -> Result:
    """Return counts of clusters, see `ChainCountPass`, and the length of vectors."""
    counted = gathering.over_shards(ChainCountPass(taking, clusters), gathering.stage)
    return {name: np.zeros((2, clusters), np.int64) for name in ("first", "kept", "all", "free")} | counted


@dataclass
class AddPass(StorePass):
    """Stores the column of some shards. lacking: their indices."""

    lacking: frozenset[int]

    def do(self, shard: Shard, control: Control) -> Result:
        """Write one file of the score store."""
        return super().do(shard, control) if shard.index in self.lacking else {}


@dataclass
class ExtendPass(StorePass):
    """Stores the column of `cover`: of an earlier shard the parent's, with the present size where nothing is kept."""

    chain: Chain

    def do(self, shard: Shard, control: Control) -> Result:
        """Write one file of the score store."""
        if not self.rounds.numbering.is_settled(shard.index):
            return super().do(shard, control)
        columns, step = self.candidates.columns, self.chain.step
        rows, there, kept = self.chain.earlier(columns, self.candidates.seed, shard)
        sizes = load_clusters(self.rounds.clusters_url).sizes[cluster_numbers(rows, step, there)]
        values, missing = np.zeros(len(rows)), np.ones(len(rows), np.bool_)
        # below the size also where documents of no tokens were kept beyond the picks
        values[there] = np.where(kept, np.minimum(rows.scores[step.name][there], sizes - 1), sizes)
        missing[there] = False
        column = pa.array(values, mask=missing).cast(made_column(step).type)
        columns.store.write_table(self.address, shard, pa.table({PRIMARY: column}), {})
        return {}


@dataclass
class KeptPass(Work):
    """Counts what is picked of each cluster. columns: with the step's; clusters_url: see `load_clusters`."""

    columns: ScoreColumns
    step: VectorStep
    clusters_url: str

    def do(self, shard: Shard, control: Control) -> Result:
        """Return documents and their measure, int64[2, clusters]."""
        sizes = load_clusters(self.clusters_url).sizes
        rows = self.columns.rows(shard, [self.step.name, *self.step.gathers])
        number = rows.scores[self.step.name]
        there = np.flatnonzero(~np.isnan(number))
        numbers = cluster_numbers(rows, self.step, there)
        return {"kept": tally(rows, self.step, there[number[there] < sizes[numbers]], len(sizes))}
