"""What a reader yields: rows of one file that could be read, and those that could not."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

RAW_BYTES = 64 * 1024
"""At most so many bytes of an unreadable document are kept in its dead letter."""

BATCH_BYTES = 2 << 20
"""Readers cut batches at about this size: small enough for the caches, and work on a batch copies it several times."""


@dataclass(frozen=True)
class Piece:
    """The part of one file that one shard reads.

    start, end: row groups of Parquet, else bytes; first_row: number of its first row in the file where a footer tells,
    else None; rows: its number of rows where a footer tells, else None; bytes: uncompressed size, estimated for
    archives; version: the file's state (see `files.FileInfo`).
    """

    url: str
    version: str
    start: int
    end: int
    bytes: int
    first_row: int | None = None
    rows: int | None = None


@dataclass(frozen=True)
class DeadRow:
    """A document that could not be read or scored.

    row: number of the row or line, counted like `Records.rows`; stage: `read`, `shard` (this row and all that follow
    in the file are lost) or the scorer's name; error: one line; raw: the first bytes of the document as they stand in
    the file.
    """

    row: int
    stage: str
    error: str
    raw: bytes


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, without a copy where it is one already."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


@dataclass
class Records:
    """A batch of rows read from one piece of a file.

    table: the readable rows, columns named as in the corpus; rows: int64[len(table)], number of each row or line,
    from 0 at the start of the piece, strictly increasing; dead: the unreadable rows between them; next_row: the
    number that the row after the last one read would have (blank lines are counted, though they are no rows); text:
    large_string[len(table)], the documents' text, which the corpus makes of the columns that the recipe names.
    """

    table: pa.Table
    rows: NDArray[np.int64]
    next_row: int
    dead: list[DeadRow] = field(default_factory=list)
    text: pa.Array | None = None
