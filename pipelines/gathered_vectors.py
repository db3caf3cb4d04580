"""The pass that sends the vectors of a step's candidates to buckets, where those that belong together are compared.

On disk, while the run lasts: 2 bytes per dimension of a document, and the other fields of the step's records.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..connectors.shards import Shard
from ..scoring.vectors import vectors_of
from .candidates import Candidates
from .exchange import Exchange, bucket_of
from .losses import Numbering
from .passes import Control, Result, Work


def vector_record(dimension: int, *fields: tuple[str, str]) -> np.dtype[np.void]:
    """Return the type of a row with a vector. cluster: random bits, the same for what is compared; fields: more."""
    own = [("cluster", "<u8"), ("key", "<u8"), ("number", "<i8"), *fields]
    return np.dtype([*own, ("vector", "<f2", (dimension,))])


@dataclass
class VectorsOfShard:
    """A shard's candidates that have a vector. chosen: int64[m], rows; vectors: float16[m, d]."""

    rows: Any
    candidates: NDArray[np.int64]
    chosen: NDArray[np.int64]
    vectors: NDArray[np.float16]

    @property
    def lengths(self) -> NDArray[np.uint64]:
        """Length of the vectors, as a set: none where there is no vector."""
        return np.array([self.vectors.shape[1]] if len(self.chosen) else [], np.uint64)


def read_vectors(candidates: Candidates, shard: Shard, score: str) -> VectorsOfShard:
    """Read the vectors of a shard's candidates. score: that holds them."""
    rows, _, found = candidates.find(shard)
    if not len(found):
        return VectorsOfShard(rows, found, found, np.zeros((0, 0), np.float16))
    vectors, there = vectors_of(candidates.columns.stored(shard, [score], len(rows))[score])
    has = there[found]
    return VectorsOfShard(rows, found, found[has], vectors[(np.cumsum(there) - 1)[found[has]]])


@dataclass
class DimensionPass(Work):
    """Counts vectors, and finds their length. vectors: the score that holds them."""

    candidates: Candidates
    vectors: str

    def do(self, shard: Shard, control: Control) -> Result:
        """Return the number of vectors, and their lengths as a set."""
        found = read_vectors(self.candidates, shard, self.vectors)
        return {"vectors": np.array([len(found.chosen)]), "dimension": found.lengths}


@dataclass
class VectorPass(Work):
    """Sends the vectors of a shard's candidates to buckets by their cluster. vectors: the score that holds them."""

    candidates: Candidates
    numbering: Numbering
    exchange: Exchange
    vectors: str

    @abstractmethod
    def fill(self, records: NDArray[np.void], found: VectorsOfShard, first: int) -> None:
        """Enter the cluster, and what else the step needs. first: number of the shard's first document."""

    def do(self, shard: Shard, control: Control) -> Result:
        """Write the records of one shard."""
        found = read_vectors(self.candidates, shard, self.vectors)
        first = int(self.numbering.first[self.numbering.place(shard.index)])
        records = np.empty(len(found.chosen), self.exchange.row_type)
        records["key"], records["number"] = found.rows.keys[found.chosen], first + found.chosen
        if len(records):  # the vectors of no document have no length
            records["vector"] = found.vectors
        self.fill(records, found, first)
        self.exchange.write(shard.index, records, bucket_of(records["cluster"], self.exchange.buckets))
        return {}
