"""The passes of `deduplicate`, kind semantic: in each cluster, what is near an earlier document in meaning goes.

Vectors go by their cluster to buckets, where each document is compared with those before it in the order in which
copies stay; how near it came goes back to the shards, and into the score store: with another threshold no vector is
read again. Source: SemDeDup (Abbas et al. 2023, https://arxiv.org/abs/2303.09540).

On disk, while the run lasts: 2 bytes per dimension and 32 more per document; in the store 20 per document. In memory,
per worker: a bucket (see `exchange`), or a whole cluster where that is larger, and 4 bytes per dimension of a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.keys import keyed_bits
from ..connectors.score_store import Address
from ..connectors.shards import Shard
from ..scoring.nearest_earlier import nearest_earlier, unit_length
from ..scoring.scorer import digest
from ..selectors.deduplicate import Deduplicate
from ..selectors.duplicates import LOSS_RECORD
from .candidates import Candidates
from .exchange import Exchange
from .exchanging import Deduplicated, Exchanging, ranks
from .gathered_vectors import DimensionPass, VectorPass, VectorsOfShard, vector_record
from .losses import Losses, Numbering
from .passes import Control, Result, Work
from .score import document_address

VERSION = 1
"""Rises with every change of the numerics."""

NEAR_RECORD = np.dtype([*LOSS_RECORD.descr, ("similarity", "<f4")])
"""A document and the one before it that it is nearest to."""

NEAR_SCHEMA = pa.schema([("similarity", pa.float32()), ("winner", pa.int64()), ("winner_key", pa.uint64())])


def drop_near(step: Exchanging) -> Deduplicated:
    """Find what a step drops: what is at least as near to an earlier document as its threshold says."""
    address, columns = near_address(step), step.candidates.columns
    assert step.step.vectors is not None
    if set(step.numbering.fingerprints[step.numbering.new :]) - columns.store.stored(address):
        measured = step.over_shards(DimensionPass(step.candidates, step.step.vectors), step.stage)
        row = vector_record(int(measured["dimension"].max(initial=1)), ("rank", "<u8"))  # see `Deduplicate.rank`
        vectors = step.exchange("vectors", row, int(measured["vectors"][0]), step.shards)
        step.over_shards(RankedVectorPass(step.candidates, step.numbering, vectors, step.step.vectors), step.stage)
        near = Exchange(f"{step.folder}/near", NEAR_RECORD, len(step.shards), tuple(range(vectors.buckets)))
        step.over_buckets(NearPass(vectors, near, step.numbering), vectors)
        step.over_shards(StorePass(step.candidates, near, step.numbering, address), step.stage)
    losses = Losses.new(step.url, step.settled, 0)
    found = step.over_shards(LossPass(step.candidates, losses, address, step.step.similarity), step.stage)
    return Deduplicated(step.url, int(found["candidates"][0]), int(found["dropped"][0]))


def near_address(step: Exchanging) -> Address:
    """Return where it is stored how near documents are: for these documents, vectors, clusters and this order."""
    columns = step.candidates.columns
    steps = [stored.step for stored in (*step.candidates.earlier, step.candidates.current)]
    needs = {name for one in steps for name in one.needs} | {step.step.vectors or ""}
    used = {name: columns.columns[name][0].folder for name in sorted(needs)}
    recipe = [one.model_dump(mode="json", exclude={"threshold"} if one is step.step else None) for one in steps]
    corpus: list[object] = [document_address(columns.corpus).folder, *step.numbering.fingerprints]
    corpus += [step.numbering.settled] if step.numbering.settled else []
    return Address("near", digest(VERSION, recipe, step.candidates.seed, used, corpus))


@dataclass
class RankedVectorPass(VectorPass):
    """Sends them with their rank in the order in which copies stay."""

    def fill(self, records: NDArray[np.void], found: VectorsOfShard, first: int) -> None:
        """Enter the cluster and the rank."""
        step = self.candidates.current.step
        assert isinstance(step, Deduplicate) and step.clusters is not None
        clusters = found.rows.scores[step.clusters][found.chosen].view(np.uint64)
        records["cluster"] = keyed_bits(0, "cluster", clusters)
        records["rank"] = ranks(self.candidates, found.rows, found.chosen, first)


@dataclass
class NearPass(Work):
    """Finds for each document of a bucket's clusters the nearest one before it, and sends that to its shard."""

    vectors: Exchange
    near: Exchange
    numbering: Numbering

    def do(self, bucket: int, control: Control) -> Result:
        """Write what one bucket sends."""
        found = [np.zeros(0, NEAR_RECORD)]
        for part in self.vectors.parts(bucket, "cluster"):
            is_new = part["number"] >= self.numbering.settled
            order = np.lexsort((part["number"], part["key"], part["rank"], is_new, part["cluster"]))
            starts = np.flatnonzero(np.diff(part["cluster"][order])) + 1
            for cluster in np.split(order, starts):
                control.check()
                found.append(_near(part[cluster], int(np.count_nonzero(~is_new[cluster]))))
        whole = np.concatenate(found)
        self.near.write(bucket, whole, self.numbering.places(np.ascontiguousarray(whole["number"])))
        return {}


def _near(cluster: NDArray[np.void], known: int) -> NDArray[np.void]:
    """Compare the documents of one cluster, in their order. known: the first so many are of earlier runs."""
    records = np.empty(len(cluster) - known, NEAR_RECORD)
    if len(records):
        similarity, place = nearest_earlier(unit_length(cluster["vector"]), known)
        place = place[known:]
        records["similarity"], records["number"] = similarity[known:], cluster["number"][known:]
        records["winner"], records["winner_key"] = cluster["number"][place], cluster["key"][place]
    return records


@dataclass
class StorePass(Work):
    """Stores how near a shard's documents are to others; null for those that were not compared."""

    candidates: Candidates
    near: Exchange
    numbering: Numbering
    address: Address

    def do(self, shard: Shard, control: Control) -> Result:
        """Write one file of the score store, of a shard that is new."""
        if self.numbering.is_settled(shard.index):
            return {}
        place = self.numbering.place(shard.index)
        first, after = self.numbering.first[place : place + 2]
        found = self.near.read(place)
        row = found["number"] - first
        missing = np.ones(after - first, np.bool_)
        missing[row] = False
        arrays = []
        for field in NEAR_SCHEMA:
            values = np.zeros(after - first, NEAR_RECORD[field.name])
            values[row] = found[field.name]
            arrays.append(pa.array(values, mask=missing))
        table = pa.Table.from_arrays(arrays, schema=NEAR_SCHEMA)
        self.candidates.columns.store.write_table(self.address, shard, table, {})
        return {}


@dataclass
class LossPass(Work):
    """Writes what a shard loses at a threshold."""

    candidates: Candidates
    losses: Losses
    address: Address
    threshold: float

    def do(self, shard: Shard, control: Control) -> Result:
        """Write the losses of a shard that is new; return how many candidates and losses there are."""
        if self.losses.numbering.is_settled(shard.index):
            return {"candidates": np.array([0]), "dropped": np.array([0])}
        _, _, candidates = self.candidates.find(shard)
        table = self.candidates.columns.store.read_table(self.address, shard)
        similarity = table["similarity"].fill_null(0).to_numpy()
        gone = np.flatnonzero(similarity >= self.threshold)
        lost = np.empty(len(gone), LOSS_RECORD)
        numbering = self.losses.numbering
        lost["number"] = numbering.first[numbering.place(shard.index)] + gone
        lost["winner"] = table["winner"].fill_null(0).to_numpy()[gone]
        lost["winner_key"] = table["winner_key"].fill_null(0).to_numpy()[gone]
        self.losses.own(shard.index).write(shard.index, lost, np.zeros(len(lost), np.int64))
        return {"candidates": np.array([len(candidates)]), "dropped": np.array([len(lost)])}
