"""Parquet files: cut by row groups, read in batches of bounded bytes, whatever the size of a row group."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .errors import TamisError, one_line
from .files import FileInfo, open_input
from .records import BATCH_BYTES, Piece, Records

READ_BUFFER = 64 * 1024
"""With a buffered stream a column chunk is never held whole: 39 MB instead of 429 MB for a row group of 740 MB."""

MAX_BATCH_ROWS = 8192
"""A batch has no more rows, however short they are."""

_HIDDEN_BATCHES = 8
"""Dictionaries whose repeats may add less than so many batches to one are decoded by Arrow, which is faster."""

_PAGE_HEADER_BYTES = 64
"""Enough for the header of a dictionary page, which is five small integers in Thrift's compact form."""


def footer(url: str) -> pq.FileMetaData:
    """Read the footer of a Parquet file; raises TamisError naming the file when it is damaged."""
    try:
        with open_input(url) as source:
            return pq.read_metadata(source)
    except (pa.ArrowException, OSError) as error:
        raise TamisError(f"{url}: cannot be read as Parquet: {one_line(error)}") from error


def cut(file: FileInfo, metadata: pq.FileMetaData, shard_bytes: int) -> list[Piece]:
    """Cut a file into runs of row groups of at least `shard_bytes` uncompressed bytes (the last may be smaller)."""
    pieces: list[Piece] = []
    start = size = rows = first_row = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        size += group.total_byte_size
        rows += group.num_rows
        if size >= shard_bytes or index == metadata.num_row_groups - 1:
            pieces.append(Piece(file.url, file.version, start, index + 1, size, first_row, rows))
            first_row += rows
            start, size, rows = index + 1, 0, 0
    return pieces


def read(piece: Piece, columns: Sequence[str] | None, batch_bytes: int = BATCH_BYTES) -> Iterator[Records]:
    """Read a piece; columns: names to read (those that the file has), None for all.

    A batch holds about batch_bytes, at most twice as many (or one row), whatever the encoding; dictionary columns
    come as their values. Raises TamisError when the file cannot be decoded or holds another number of rows than its
    footer said.
    """
    done = 0
    try:
        with open_input(piece.url) as source:
            for batch in _batches(source, piece, columns, batch_bytes):
                rows = np.arange(done, done + batch.num_rows, dtype=np.int64)
                done += batch.num_rows
                yield Records(pa.Table.from_batches([batch]), rows, done)
    except (pa.ArrowException, OSError) as error:
        raise TamisError(f"{piece.url}: damaged Parquet file, after {done} rows: {one_line(error)}") from error
    if piece.rows is not None and done != piece.rows:
        raise TamisError(f"{piece.url}: {done} rows read where the footer says {piece.rows}; did the file change?")


def _batches(
    source: pa.NativeFile, piece: Piece, columns: Sequence[str] | None, batch_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Read a piece in runs of row groups of which the same columns must be read as dictionaries."""
    plain = pq.ParquetFile(source, pre_buffer=False, buffer_size=READ_BUFFER)
    types = {field.name: field.type for field in plain.schema_arrow if columns is None or field.name in columns}
    groups = range(piece.start, piece.end)
    costs = [_cost(source, plain.metadata.row_group(group), types, batch_bytes) for group in groups]
    for hidden, run in groupby(zip(groups, costs, strict=True), lambda item: item[1].hidden):
        chosen, run_costs = zip(*run, strict=True)
        size, rows = sum(cost.bytes for cost in run_costs), sum(cost.rows for cost in run_costs)
        file = _with_dictionaries(source, plain.metadata, hidden) if hidden else plain
        batches = file.iter_batches(
            batch_size=min(_batch_rows(rows, size, batch_bytes), *(cost.most_rows for cost in run_costs)),
            row_groups=list(chosen),
            columns=list(types),
            use_threads=False,
        )
        for batch in batches:
            yield from _bounded(batch, types, batch_bytes)


def _with_dictionaries(source: pa.NativeFile, metadata: pq.FileMetaData, names: Sequence[str]) -> pq.ParquetFile:
    return pq.ParquetFile(
        source, metadata=metadata, read_dictionary=list(names), pre_buffer=False, buffer_size=READ_BUFFER
    )


@dataclass(frozen=True)
class _Cost:
    """What a row group costs to read.

    bytes: of its columns, those in `hidden` as indices; most_rows: that a batch should have for what stands in its
    dictionaries; hidden: columns whose dictionary may hide so many repeats that they must be read as dictionaries.
    """

    rows: int
    bytes: int
    most_rows: int
    hidden: tuple[str, ...]


def _cost(source: pa.NativeFile, group: pq.RowGroupMetaData, types: dict[str, pa.DataType], batch_bytes: int) -> _Cost:
    """Find the columns of which Arrow would make much more than the footer says: it counts repeated text once.

    Only a column chunk that is all dictionary can be read as one at no cost. After a dictionary that overflowed into
    plain values Arrow would hold all of them; there the mean length of the dictionary's entries limits the rows.
    """
    chunks = [chunk for c in range(group.num_columns) if _is_within(chunk := group.column(c), types)]
    size = sum(chunk.total_uncompressed_size for chunk in chunks)
    rows = _batch_rows(group.num_rows, size, batch_bytes)
    most_rows, hidden, limit = MAX_BATCH_ROWS, [], _HIDDEN_BATCHES * batch_bytes
    for chunk in chunks:
        name, count, stored = chunk.path_in_schema, chunk.num_values, chunk.total_uncompressed_size
        if rows * stored <= limit or not _is_text(types.get(name)) or not _DICTIONARIES.intersection(chunk.encodings):
            continue
        entries, entry_bytes = _dictionary_page(source, chunk)
        if stored - entry_bytes > 8 * count + READ_BUFFER:  # more than indices and page headers
            most_rows = min(most_rows, max(1, limit * entries // max(entry_bytes, 1)))
            continue
        nulls = chunk.statistics.null_count if chunk.statistics is not None else None
        repeats = count - (nulls or 0) - entries
        longest = entry_bytes - 4 * (entries - 1)
        if min(repeats, rows) * longest * max(1, rows / count) > limit:
            hidden.append(name)
            size += 4 * count - stored
    return _Cost(group.num_rows, size, most_rows, tuple(hidden))


_DICTIONARIES = {"PLAIN_DICTIONARY", "RLE_DICTIONARY"}


def _is_within(chunk: pq.ColumnChunkMetaData, names: Collection[str]) -> bool:
    path = chunk.path_in_schema
    return path in names or any(path.startswith(f"{name}.") for name in names)


def _is_text(kind: pa.DataType | None) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def _dictionary_page(source: pa.NativeFile, chunk: pq.ColumnChunkMetaData) -> tuple[int, int]:
    """Return the number of entries in a chunk's dictionary and their bytes, from the header of its first page.

    Returns (0, 0) where that is no dictionary page. The header is Thrift's compact form of PageHeader in
    parquet.thrift: each field is a byte (distance to the last field's number << 4 | type) and a value.
    """
    source.seek(min(offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset))
    header = iter(source.read(_PAGE_HEADER_BYTES))
    found: dict[int, int] = {}
    number = 0
    try:
        while (field := next(header)) & 15 == _THRIFT_I32:
            number += field >> 4
            found[number] = _zigzag(header)
        number += field >> 4
        is_dictionary = found.get(1) == 2 and (number, field & 15) == (7, _THRIFT_STRUCT)
        if is_dictionary and next(header) == 1 << 4 | _THRIFT_I32:
            return _zigzag(header), found[2]
    except StopIteration:
        pass
    return 0, 0


_THRIFT_I32, _THRIFT_STRUCT = 5, 12


def _zigzag(data: Iterator[int]) -> int:
    value = shift = 0
    while (byte := next(data)) & 128:
        value |= (byte & 127) << shift
        shift += 7
    value |= byte << shift
    return value >> 1 ^ -(value & 1)


def _batch_rows(rows: int, size: int, batch_bytes: int) -> int:
    return max(1, min(MAX_BATCH_ROWS, int(batch_bytes * rows / max(size, 1))))


def _bounded(batch: pa.RecordBatch, types: dict[str, pa.DataType], batch_bytes: int) -> Iterator[pa.RecordBatch]:
    """Decode the dictionary columns of a batch, in parts of at most batch_bytes if all is more than twice as much."""
    fits = batch.get_total_buffer_size() <= 2 * batch_bytes or batch.nbytes <= 2 * batch_bytes  # the first is quicker
    if fits and not any(map(pa.types.is_dictionary, batch.schema.types)):
        yield batch
        return
    ends = np.cumsum(np.sum([_row_bytes(column) for column in batch.columns], axis=0))
    start = 0
    while start < batch.num_rows:
        before = ends[start - 1] if start else 0
        stop = batch.num_rows
        if ends[-1] > 2 * batch_bytes:
            stop = max(start + 1, int(np.searchsorted(ends, before + batch_bytes, side="right")))
        yield _decoded(batch.slice(start, stop - start), types)
        start = stop


def _row_bytes(column: pa.Array) -> NDArray[np.float64]:
    """Bytes of each row once decoded: exact for text, the mean for other types."""
    if pa.types.is_dictionary(column.type):
        entries = np.append(_row_bytes(column.dictionary), 0)
        return entries[column.indices.fill_null(len(entries) - 1).to_numpy()]
    if _is_text(column.type):
        lengths: NDArray[np.float64] = pc.binary_length(column).fill_null(0).to_numpy().astype(np.float64)
        return lengths
    return np.full(len(column), column.nbytes / max(len(column), 1))


def _decoded(batch: pa.RecordBatch, types: dict[str, pa.DataType]) -> pa.RecordBatch:
    for index, field in enumerate(batch.schema):
        if pa.types.is_dictionary(field.type):
            kind = types[field.name]
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            column = batch.column(index).dictionary_decode().cast(kind)
            batch = batch.set_column(index, field.with_type(kind), column)
    return batch
