"""The passes that make the column of a step of vectors (`cover`, `typicality`, `inverse_density`, `moderate`).

A first pass counts the documents of each cluster, from which budgets follow, and into how many parts it is cut. Vectors
go by their part to buckets, where what they are worth is computed (`in_cluster`), and goes back to the shards and into
the score store; from there on the step is a rank step on that column. What covers a cluster in parts is chosen in two
rounds: what the parts propose goes on, by its cluster, to buckets of a second exchange, where the cluster's are picked.

On disk, while the run lasts: 2 bytes per dimension and 40 more per document, and again for what is proposed; in the
store 8 per document. In memory, per worker: a bucket (see `exchange`), or a part where that is larger, with 4 bytes per
dimension of its vectors; for facility location its graph too, up to 32 bytes per document and neighbour. In the second
round a part is all that the parts of one cluster propose: as much as a part, or twice what is picked of the cluster
where that is more. The driver holds some 50 bytes per cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.keys import keyed_bits
from ..connectors.score_store import Address
from ..connectors.shards import Shard
from ..scoring.nearest_earlier import unit_length
from ..scoring.scorer import digest
from ..selectors import in_cluster
from ..selectors.in_cluster import Members, cover, numbered, part_of, stand_for, values
from ..selectors.vector_steps import Cover, VectorStep
from .candidates import Candidates
from .exchange import Exchange, bucket_of
from .exchanging import Exchanging
from .gathered_vectors import VectorPass, VectorsOfShard, vector_record
from .losses import Numbering
from .passes import Control, Result, Work
from .score import PRIMARY, document_address
from .score_columns import made_column
from .vector_clusters import cluster_numbers, count, load_clusters, measures_of

VERSION = 1
"""Rises with every change of the numerics."""

VALUE_RECORD = np.dtype([("number", "<i8"), ("value", "<f8")])

Records = NDArray[np.void]


def make_column(gathering: Exchanging, step: VectorStep) -> Address:
    """Make a step's column, unless the store has it. gathering: of its candidates. Returns where the column is."""
    address, columns = column_address(gathering, step), gathering.candidates.columns
    if not set(gathering.numbering.fingerprints) - columns.store.stored(address):
        return address
    clusters, dimension = count(gathering, step)
    url = clusters.save(f"{gathering.folder}/clusters.npz")
    rounds = compare(gathering, step, gathering.candidates, url, dimension)
    gathering.over_shards(StorePass(rounds, gathering.candidates, address), gathering.stage)
    return address


def compare(
    gathering: Exchanging, step: VectorStep, candidates: Candidates, clusters_url: str, dimension: int
) -> Rounds:
    """Compute what documents are worth.

    Args:
        gathering: runs the passes.
        step: says how.
        candidates: documents whose vectors are compared.
        clusters_url: see `load_clusters`.
        dimension: of the vectors.

    Returns:
        The rounds, in whose `values` shards read what their documents are worth.
    """
    clusters = load_clusters(clusters_url)
    record = vector_record(dimension, ("part", "<i8"), ("measure", "<i4"), ("weight", "<f4"))
    vectors = gathering.exchange("vectors", record, int(clusters.sent.sum()), gathering.shards)
    sending = PartPass(candidates, gathering.numbering, vectors, step.vectors, step, clusters_url)
    gathering.over_shards(sending, gathering.stage)
    rounds = Rounds.of(gathering, vectors, step, clusters_url)
    gathering.over_buckets(FirstRound(rounds), vectors)
    if rounds.proposals is not None:
        gathering.over_buckets(SecondRound(rounds), rounds.proposals)
    return rounds


def column_address(gathering: Exchanging, step: VectorStep) -> Address:
    """Return where a step's column is stored: for these documents, vectors, clusters and options."""
    candidates, columns = gathering.candidates, gathering.candidates.columns
    earlier = [stored.step for stored in candidates.earlier]
    needs = {name for one in earlier for name in one.needs} | {*step.gathers, step.vectors}
    used = {name: columns.columns[name][0].folder for name in sorted(needs)}
    recipe = [*(one.model_dump(mode="json") for one in earlier), step.column_options]
    corpus = [document_address(columns.corpus).folder, *gathering.numbering.fingerprints]
    sizes = [in_cluster.PART, in_cluster.OVERSUPPLY]
    return Address(step.method, digest(VERSION, sizes, recipe, candidates.seed, used, corpus))


@dataclass
class PartPass(VectorPass):
    """Sends vectors by the part of their cluster. clusters_url: see `load_clusters`."""

    step: VectorStep
    clusters_url: str

    def fill(self, records: NDArray[np.void], found: VectorsOfShard, first: int) -> None:
        """Enter the part and the measure."""
        first_part = load_clusters(self.clusters_url).first_part
        numbers = cluster_numbers(found.rows, self.step, found.chosen)
        parts = np.diff(first_part)[numbers]
        records["part"] = first_part[numbers] + part_of(np.ascontiguousarray(records["key"]), parts)
        records["cluster"] = keyed_bits(0, "part", records["part"].astype(np.uint64))
        records["measure"] = measures_of(found.rows, self.step, found.chosen)
        records["weight"] = 1


@dataclass(frozen=True)
class Rounds:
    """What the passes over buckets share.

    numbering: of the documents; vectors, proposals: what the first and the second round read, None without a second
    one; values: what both write, and shards read.
    """

    step: VectorStep
    seed: int
    clusters_url: str
    numbering: Numbering
    vectors: Exchange
    proposals: Exchange | None
    values: Exchange

    @classmethod
    def of(cls, gathering: Exchanging, vectors: Exchange, step: VectorStep, clusters_url: str) -> Rounds:
        """Describe them; a second one is needed where `cover` has a cluster in parts."""
        clusters, folder = load_clusters(clusters_url), gathering.folder
        cut = np.diff(clusters.first_part) > 1
        proposals, writers = None, vectors.buckets
        if isinstance(step, Cover) and cut.any():
            most = int(clusters.sent[cut].sum())
            proposals = gathering.exchange("proposals", vectors.row_type, most, tuple(range(vectors.buckets)))
            writers += proposals.buckets
        found = Exchange(f"{folder}/values", VALUE_RECORD, len(gathering.shards), tuple(range(writers)))
        seed = gathering.candidates.seed
        return cls(step, seed, clusters_url, gathering.numbering, vectors, proposals, found)

    def members(self, exchange: Exchange, bucket: int, control: Control) -> Iterator[tuple[int, Records, Members]]:
        """Yield what belongs together of a bucket, in the order of (key, place): cluster, records, and members."""
        clusters = load_clusters(self.clusters_url)
        for records in exchange.parts(bucket, "cluster"):
            order = np.lexsort((records["number"], records["key"], records["cluster"]))
            starts = np.flatnonzero(np.diff(records["cluster"][order])) + 1
            for rows in np.split(order, starts) if len(order) else []:
                control.check()
                part = records[rows]
                cluster = clusters.of_part(int(part["part"][0]))
                keys, measure = np.ascontiguousarray(part["key"]), part["measure"].astype(np.int64)
                weights = None if exchange == self.vectors else np.ascontiguousarray(part["weight"])
                size, vectors = int(clusters.sizes[cluster]), unit_length(part["vector"])
                given = np.flatnonzero(part["number"] < self.numbering.settled) if self.numbering.settled else None
                yield cluster, part, Members(vectors, keys, measure, size, weights, given)

    def write(self, writer: int, records: list[Records], values: list[NDArray[np.float64]]) -> None:
        """Send values to the shards of their documents, but for those of earlier runs, which have theirs."""
        found = np.empty(sum(map(len, values)), VALUE_RECORD)
        found["number"] = np.concatenate([np.zeros(0, np.int64), *(part["number"] for part in records)])
        found["value"] = np.concatenate([np.zeros(0), *values])
        found = found[found["number"] >= self.numbering.settled]
        self.values.write(writer, found, self.numbering.places(np.ascontiguousarray(found["number"])))


@dataclass
class FirstRound(Work):
    """Computes what documents are worth, of a whole cluster or a part; of a part in `cover`, what it proposes."""

    rounds: Rounds

    def do(self, bucket: int, control: Control) -> Result:
        """Write the values of one bucket, and what it proposes."""
        rounds, clusters = self.rounds, load_clusters(self.rounds.clusters_url)
        sent, records, found = [np.zeros(0, rounds.vectors.row_type)], [], []
        for cluster, part, members in rounds.members(rounds.vectors, bucket, control):
            if isinstance(rounds.step, Cover) and clusters.in_parts(cluster):
                items = cover(rounds.step, members, clusters.proposed(cluster), rounds.seed)
                if members.given is not None:
                    items = np.concatenate([members.given, items])
                proposed = part[items]
                proposed["weight"] = stand_for(members.vectors, items)
                proposed["cluster"] = keyed_bits(0, "cluster", np.full(len(items), cluster, np.uint64))
                sent.append(proposed)
                records.append(np.delete(part[["number"]], items))
                found.append(np.delete(numbered(np.zeros(0, np.int64), members), items))
            else:
                records.append(part[["number"]])
                found.append(values(rounds.step, members, int(clusters.budgets[cluster]), rounds.seed))
        rounds.write(bucket, records, found)
        if rounds.proposals is not None:
            whole = np.concatenate(sent)
            rounds.proposals.write(bucket, whole, bucket_of(whole["cluster"], rounds.proposals.buckets))
        return {}


@dataclass
class SecondRound(Work):
    """Picks what covers a cluster of what its parts propose."""

    rounds: Rounds

    def do(self, bucket: int, control: Control) -> Result:
        """Write the values of one bucket of proposals."""
        rounds, clusters = self.rounds, load_clusters(self.rounds.clusters_url)
        assert rounds.proposals is not None and isinstance(rounds.step, Cover)
        records, found = [], []
        for cluster, part, members in rounds.members(rounds.proposals, bucket, control):
            records.append(part[["number"]])
            found.append(values(rounds.step, members, int(clusters.budgets[cluster]), rounds.seed))
        rounds.write(rounds.vectors.buckets + bucket, records, found)
        return {}


@dataclass
class StorePass(Work):
    """Stores the column of a shard; null for documents that are no candidates or have no vector."""

    rounds: Rounds
    candidates: Candidates
    address: Address

    def do(self, shard: Shard, control: Control) -> Result:
        """Write one file of the score store."""
        numbering = self.rounds.numbering
        place = numbering.place(shard.index)
        first, after = numbering.first[place : place + 2]
        found = self.rounds.values.read(place)
        row = found["number"] - first
        values, missing = np.zeros(after - first), np.ones(after - first, np.bool_)
        values[row], missing[row] = found["value"], False
        column = pa.array(values, mask=missing).cast(made_column(self.rounds.step).type)
        self.candidates.columns.store.write_table(self.address, shard, pa.table({PRIMARY: column}), {})
        return {}
