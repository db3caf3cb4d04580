"""The passes that find which documents are alike: the groups of `deduplicate`, kind fuzzy.

Bands of signatures go to buckets, where documents that share one make a pair; pairs go to buckets, where each is
compared once, by its sketches; and what is alike is joined into groups.

On disk, while the run lasts, in bytes: per document 24 per band and the sketch (25 bands at the threshold 0.7, so 600
+ 1,280 at most) and 8 for the links; per pair to compare 24. In memory, per worker: a bucket (see `exchange`), and the
sketches of BLOCK_PAIRS pairs (42 MB); the links are mapped from their file, of which only what is touched is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..connectors import files
from ..connectors.atomic import write_atomically
from ..connectors.records import one_array
from ..connectors.score_store import load_arrays, save_arrays
from ..connectors.shards import Shard
from ..scoring.minhash import Bands, Sketches, band_hashes, jaccard
from ..selectors.components import flatten, join, spanning_forest
from ..selectors.deduplicate import Deduplicate
from ..selectors.duplicates import BAND_RECORD, PAIR_RECORD, candidate_pairs, distinct_pairs
from .candidates import Candidates
from .exchange import Exchange, bucket_of
from .exchanging import Exchanging
from .losses import Numbering, SettledLosses
from .passes import Control, Result, Work

BLOCK_PAIRS = 1 << 14
"""Pairs whose sketches are in memory together."""

Int64 = NDArray[np.int64]


def join_alike(step: Exchanging) -> Links:
    """Find the documents that are alike, and join them."""
    sketches, edges, documents = f"{step.folder}/sketches", f"{step.folder}/edges", step.numbering.documents
    bands = Bands.for_threshold(step.step.similarity)
    records = step.exchange("bands", BAND_RECORD, documents * bands.count, step.shards)
    step.over_shards(BandPass(step.candidates, step.numbering, bands, records, sketches), step.stage)
    pairs = step.exchange("pairs", PAIR_RECORD, documents, tuple(range(records.buckets)))
    step.over_buckets(PairPass(records, pairs, step.numbering.settled), records)
    verify = VerifyPass(pairs, sketches, step.numbering, step.step.similarity, edges)
    step.over_buckets(verify, pairs)
    found = [verify.edges_url(bucket) for bucket in range(pairs.buckets)]
    return _joined(f"{step.folder}/links.int64", documents, found, step.settled)


def _joined(url: str, documents: int, edges: list[str], settled: SettledLosses) -> Links:
    """Join the ends of all edges, in a file, and what earlier runs found to be copies."""
    mapped = np.memmap(files.local_path(url), np.int64, "w+", shape=(max(documents, 1),))
    links = mapped.view(np.ndarray)
    for lost in settled.batches():
        join(links, np.ascontiguousarray(lost["number"]), np.ascontiguousarray(lost["winner"]))
    for found in edges:
        arrays = load_arrays(found)
        join(links, arrays["first"], arrays["second"])
    joined = flatten(links)
    mapped.flush()
    return Links(url, joined)


@dataclass(frozen=True)
class Links:
    """The links of `selectors.components` in a file. joined: documents that are joined with others."""

    url: str
    joined: int

    @staticmethod
    def part(url: str, first: int, documents: int) -> Int64:
        """Read the links of consecutive documents."""
        return np.fromfile(Path(files.local_path(url)), np.int64, documents, offset=8 * first)


@dataclass
class BandPass(Work):
    """Sends the bands of a shard's candidates to buckets, and puts their sketches where they can be found by row."""

    candidates: Candidates
    numbering: Numbering
    bands: Bands
    records: Exchange
    sketches: str

    def do(self, shard: Shard, control: Control) -> Result:
        """Write both files of a shard."""
        rows, current, candidates = self.candidates.find(shard)
        step = current.step
        assert isinstance(step, Deduplicate) and step.sketch is not None
        column = self.candidates.columns.stored(shard, [step.sketch], len(rows))[step.sketch]
        sketches = Sketches.of(one_array(column)).checked(step.sketch)
        first = self.numbering.first[self.numbering.place(shard.index)]
        with_words = candidates[sketches.offsets[candidates + 1] > sketches.offsets[candidates]]
        chosen = sketches.take(with_words)
        records = np.empty((len(with_words), self.bands.count), BAND_RECORD)
        records["band"] = band_hashes(chosen, self.bands)
        records["key"] = rows.keys[with_words][:, None]
        records["number"] = first + with_words[:, None]
        flat = records.reshape(-1)
        self.records.write(shard.index, flat, bucket_of(flat["band"], self.records.buckets))
        sizes = np.zeros(len(rows) + 1, np.int64)
        sizes[with_words + 1] = np.diff(chosen.offsets)
        write_sketches(f"{self.sketches}/{shard.index:06d}", Sketches(np.cumsum(sizes), chosen.data))
        return {}


def write_sketches(url: str, sketches: Sketches) -> None:
    """Write sketches so that single ones can be read: offsets int64[n + 1], then the bytes."""
    write_atomically(url, lambda file: [file.write(array.data) for array in (sketches.offsets, sketches.data)])


def read_sketches(url: str, documents: int, rows: Int64) -> Sketches:
    """Read the sketches of some rows. documents: how many the file has; rows: int64[m]."""
    mapped = np.memmap(Path(files.local_path(url)), np.uint8, "r").view(np.ndarray)
    offsets = mapped[: 8 * (documents + 1)].view(np.int64)
    return Sketches(offsets, mapped[8 * (documents + 1) :]).take(rows)


@dataclass
class PairPass(Work):
    """Pairs the documents that share a band. settled: so many documents are not compared with each other."""

    records: Exchange
    pairs: Exchange
    settled: int

    def do(self, bucket: int, control: Control) -> Result:
        """Write the pairs of one bucket of bands."""
        found = [candidate_pairs(with_new(part, self.settled)) for part in self.records.parts(bucket, "band")]
        pairs = distinct_pairs(np.concatenate(found))
        pairs = pairs[pairs["second"] >= self.settled]
        self.pairs.write(bucket, pairs, bucket_of(pairs["hash"], self.pairs.buckets))
        return {}


def with_new(records: NDArray[np.void], settled: int) -> NDArray[np.void]:
    """Return the bands that a document has whose number is `settled` or more. records: BAND_RECORD[n]."""
    return records[np.isin(records["band"], records["band"][records["number"] >= settled])] if settled else records


@dataclass
class VerifyPass(Work):
    """Compares the documents of each pair, and keeps as many pairs that are alike as connect what is alike."""

    pairs: Exchange
    sketches: str
    numbering: Numbering
    threshold: float
    edges: str

    def do(self, bucket: int, control: Control) -> Result:
        """Write the edges of one bucket of pairs."""
        alike = []
        for part in self.pairs.parts(bucket, "hash"):
            pairs = distinct_pairs(part)
            for start in range(0, len(pairs), BLOCK_PAIRS):
                control.check()
                block = pairs[start : start + BLOCK_PAIRS]
                alike.append(block[self._similarity(block) >= self.threshold])
        edges = np.concatenate([np.zeros(0, PAIR_RECORD), *alike])
        first, second = (np.ascontiguousarray(edges[name]) for name in ("first", "second"))
        needed = spanning_forest(first, second)
        save_arrays(self.edges_url(bucket), {"first": first[needed], "second": second[needed]})
        return {}

    def edges_url(self, bucket: int) -> str:
        """Return where the edges of a bucket are: `first` and `second`, int64 each."""
        return f"{self.edges}/{bucket:06d}.npz"

    def _similarity(self, pairs: NDArray[np.void]) -> NDArray[np.float64]:
        numbers, ends = np.unique(np.concatenate([pairs["first"], pairs["second"]]), return_inverse=True)
        places = self.numbering.places(numbers)
        read = []
        for place in np.unique(places):
            first, after = self.numbering.first[place : place + 2]
            url = f"{self.sketches}/{self.numbering.shards[place]:06d}"
            read.append(read_sketches(url, int(after - first), numbers[places == place] - first))
        sizes = np.concatenate([[0], *(np.diff(one.offsets) for one in read)])
        sketches = Sketches(np.cumsum(sizes), np.concatenate([one.data for one in read]))
        return jaccard(sketches, ends[: len(pairs)], ends[len(pairs) :])
