"""The passes that read score files only: fitting on a sample of stored columns, and scores made of other scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.corpus import Corpus
from ..connectors.errors import TamisError
from ..connectors.keys import hash_bytes, hash_column, keyed_bits, keyed_sample
from ..connectors.score_store import Address, ScoreStore
from ..connectors.shards import Shard
from ..scoring.derived_scorer import KEY, DerivedScorer
from ..scoring.scorer import Documents
from .passes import Control, Result, Work
from .score import PRIMARY, document_address, score_address

FIT = "fit"
"""Name of the keyed sample that derived scorers are fitted on."""


def input_addresses(scorer: DerivedScorer) -> dict[str, Address]:
    """Return where the columns that a scorer works on are stored, by score."""
    return {name: score_address(scorer.bound[name]) for name in scorer.inputs.values()}


def read_inputs(
    store: ScoreStore, corpus: Corpus, inputs: Mapping[str, Address], shard: Shard
) -> tuple[NDArray[np.uint64], pa.Table]:
    """Return the keys of a shard's documents, uint64[n], and the columns, each under its score's name.

    Raises TamisError where a file is missing, damaged, or of other documents.
    """
    keys = store.read_table(document_address(corpus), shard, [KEY])[KEY].to_numpy()
    columns = {}
    for name, address in inputs.items():
        columns[name] = store.read_table(address, shard, [PRIMARY])[PRIMARY]
        if len(columns[name]) != len(keys):
            rows = f"{len(columns[name])} scores for {len(keys)} documents"
            raise TamisError(f"{store.url(address, shard)}: {rows}; delete it and run again")
    return keys, pa.table(columns)


@dataclass
class SamplePass(Work):
    """Gathers a keyed sample of documents that have all of some columns. Holds the sample, once for each worker.

    inputs: where the columns are, by score; share: of the documents that are taken.
    """

    store: ScoreStore
    corpus: Corpus
    inputs: dict[str, Address]
    share: float

    def do(self, shard: Shard, control: Control) -> Result:
        """Return the shard's part of the sample."""
        control.check()
        keys, table = read_inputs(self.store, self.corpus, self.inputs, shard)
        chosen = keyed_sample(0, FIT, keys, self.share)
        for column in table.columns:
            chosen &= np.asarray(column.is_valid())
        rows = np.flatnonzero(chosen)
        return {"sample": table.take(pa.array(rows)).append_column(KEY, pa.array(keys[rows]))}


def in_keyed_order(sample: pa.Table) -> pa.Table:
    """Return a sample with each document once, in an order that is that of keyed noise.

    Documents of one key that differ stay, so that the result does not depend on the order of shards.
    """
    keys = sample[KEY].to_numpy()
    bits = keyed_bits(0, FIT, keys)
    columns = sample.drop_columns([KEY])
    hashes = [_row_hashes(column) for column in columns.columns]
    order = np.lexsort((*hashes, bits))
    together = np.stack([bits, *hashes])[:, order]
    first = np.append(True, (together[:, 1:] != together[:, :-1]).any(axis=0))[: len(order)]
    rows = order[first]
    return columns.take(pa.array(rows)).append_column(KEY, pa.array(keys[rows]))


def _row_hashes(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Hash each value: of numbers, or of lists of numbers without nulls."""
    whole = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if not pa.types.is_list(whole.type):
        return hash_column(whole.cast(pa.string()))
    values = whole.flatten()
    width = values.type.bit_width // 8
    data = np.frombuffer(values.buffers()[1] or b"", np.uint8)[values.offset * width :]
    ends = np.cumsum(np.diff(whole.offsets.to_numpy()).astype(np.int64)) * width
    return hash_bytes(np.append(0, ends), data)


@dataclass
class DerivePass(Work):
    """Scores the shards whose scores are not stored yet. Holds the input columns of one shard, for each worker.

    inputs: where the scorer's columns are, by score.
    """

    store: ScoreStore
    corpus: Corpus
    scorer: DerivedScorer
    inputs: dict[str, Address]

    def do(self, shard: Shard, control: Control) -> Result:
        """Store a shard's scores; returns which of its files was damaged."""
        control.check()
        address = score_address(self.scorer)
        wanted = self.store.read_metadata(document_address(self.corpus), shard)["keys"]
        damaged = []
        try:
            facts = self.store.checked(address, shard)
        except TamisError as error:
            facts = None
            damaged.append(str(error))
        if facts is None or facts.get("keys") != wanted:
            keys, table = read_inputs(self.store, self.corpus, self.inputs, shard)
            documents = Documents(pa.nulls(len(keys), pa.large_string()), keys, None, table)
            found = self.scorer.score(documents)
            columns = {c.suffix or PRIMARY: found[c.suffix].cast(c.type) for c in self.scorer.columns}
            self.store.write_table(address, shard, pa.table(columns), {"keys": wanted})
        return {"damaged": pa.table({"file": pa.array(damaged, pa.string())})}
