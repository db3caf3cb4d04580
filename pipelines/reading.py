"""Reads a shard as documents: with keys and groups, and cut into pieces where the recipe says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.corpus import Corpus, group_strings
from ..connectors.keys import hash_bytes
from ..connectors.records import DeadRow, one_array
from ..connectors.shards import Shard
from ..scoring.chunks import chunk_texts
from ..scoring.document import document_keys
from ..scoring.scorer import Documents

PARENT_KEY, POSITION = "parent_key", "position"
"""Columns of the pieces that documents are cut into: the key of the whole document, and the piece's place in it."""


@dataclass
class Batch:
    """Documents of one piece of a file.

    table: the corpus's columns, a row per document; rows: int64[n], number of each one's row or line; next_row, dead:
    see `Records`; parents: rows of the source that these are; parent_keys, positions: uint64[n] and int32[n] where
    documents are cut, else None.
    """

    table: pa.Table
    rows: NDArray[np.int64]
    next_row: int
    dead: list[DeadRow]
    documents: Documents
    parents: int
    parent_keys: NDArray[np.uint64] | None = None
    positions: NDArray[np.int32] | None = None


def read_documents(corpus: Corpus, shard: Shard, columns: list[str] | None) -> Iterator[tuple[int, Batch]]:
    """Read a shard; yields (number of the piece, batch). columns: those wanted beside what the recipe names.

    The same documents come whatever the columns. Raises TamisError when a file cannot be read on.
    """
    config = corpus.config
    if columns is not None and config.group is not None:
        columns = [*columns, config.group]
    for piece, records in corpus.read(shard, columns):
        table, rows, text = records.table, records.rows, records.text
        keys = document_keys(text, one_array(table.column(config.id)) if config.id else None)
        parents, parent_keys, positions = len(rows), None, None
        if config.chunk is not None and config.text is not None:
            text, parent = chunk_texts(text, config.chunk)
            first = np.searchsorted(parent, np.arange(len(rows)))
            positions = (np.arange(len(parent)) - first[parent]).astype(np.int32)
            rows, parent_keys = rows[parent], keys[parent]
            keys = piece_keys(parent_keys, positions)
            others = table.drop_columns([config.text]).take(pa.array(parent))
            # a table without columns has no rows that a column could be added to
            table = others.append_column(config.text, text) if others.num_columns else pa.table({config.text: text})
        documents = Documents(text, keys, group_strings(table, config), table)
        yield piece, Batch(table, rows, records.next_row, records.dead, documents, parents, parent_keys, positions)


def piece_keys(parent_keys: NDArray[np.uint64], positions: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Return the keys of pieces: XXH64 of the parent's key and the position, both as eight bytes, little-endian."""
    pairs = np.stack([parent_keys, positions.astype(np.uint64)], axis=1).astype("<u8")
    return hash_bytes(np.arange(len(pairs) + 1) * 16, pairs.reshape(-1).view(np.uint8))
