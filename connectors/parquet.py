"""Parquet files: cut by row groups, read in batches of bounded bytes, whatever the size of a row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .corpus_config import CorpusConfig
from .errors import RecipeError, TamisError, one_line
from .files import FileInfo, expand, open_input
from .format import Format, Listing
from .records import BATCH_BYTES, Piece, Records
from .schemas import features_of, plain_schema, plain_type, unify

READ_BUFFER = 64 * 1024
"""With a buffered stream a column chunk is never held whole: 39 MB instead of 429 MB for a row group of 740 MB."""

MAX_BATCH_ROWS = 2048
"""A footer counts repeated values of a dictionary once, so that bytes per row may be far more than it says: this many
rows bound what that can cost (16 MB for documents of 8 KB that are all the same)."""


class Parquet(Format):
    """Parquet files, whose columns unify without loss."""

    def find(self, name: str, config: CorpusConfig, shard_bytes: int, skip_unreadable: bool) -> Listing:
        """Read all footers."""
        files = expand(config.paths, f"{name}.paths")
        with ThreadPoolExecutor(16) as pool:
            footers = [*pool.map(_footer_or_error, files)]
        unreadable = [str(footer) for footer in footers if isinstance(footer, TamisError)]
        if unreadable and not skip_unreadable:
            raise TamisError(f"{unreadable[0]} (`errors: {{unreadable_shards: skip}}` leaves such files out)")
        pieces, schemas, given = [], {}, []
        for file, metadata in zip(files, footers, strict=True):
            if not isinstance(metadata, TamisError):
                pieces.append(cut(file, metadata, shard_bytes))
                given.append(metadata.schema.to_arrow_schema().with_metadata(metadata.metadata))
                schemas[file.url] = plain_schema(f"{name}: {file.url}", given[-1])
        unified = unify(name, schemas).with_metadata(features_of(given))
        if set(config.content_columns.values()) <= set(unified.names):
            for url, schema in schemas.items():
                for column in unified.names:
                    if column not in schema.names:
                        _check_missing(name, config, url, unified.field(column))
        return Listing(files, pieces, unified, unreadable)

    def read(self, config: CorpusConfig, piece: Piece, columns: Sequence[str] | None) -> Iterator[Records]:
        """Read row groups in batches."""
        return read(piece, columns)


def _check_missing(name: str, config: CorpusConfig, url: str, field: pa.Field) -> None:
    if field.name in (*config.content_columns.values(), config.id):
        raise RecipeError(f"{name}: {url} has no column `{field.name}`, unlike other files; leave it out of `paths`")
    if pa.types.is_fixed_size_list(field.type):  # Arrow 25 writes missing ones so that they cannot be read again
        raise RecipeError(f"{name}: {url} lacks the column `{field.name}` of {field.type}; leave it out of `paths`")


def _footer_or_error(file: FileInfo) -> pq.FileMetaData | TamisError:
    try:
        return footer(file.url)
    except TamisError as error:
        return error


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

    A batch holds about batch_bytes, or one row; dictionary columns come as their values, views as what they view.
    Raises TamisError when the file cannot be decoded or holds another number of rows than its footer said.
    """
    done = 0
    try:
        with open_input(piece.url) as source:
            file = pq.ParquetFile(source, pre_buffer=False, buffer_size=READ_BUFFER)
            names = [c for c in file.schema_arrow.names if columns is None or c in columns]
            batches = file.iter_batches(
                batch_size=_batch_rows(file.metadata, piece, set(names), batch_bytes),
                row_groups=list(range(piece.start, piece.end)),
                columns=names,
                use_threads=False,
            )
            for table in (part for batch in batches for part in _parts(batch, batch_bytes)):
                rows = np.arange(done, done + table.num_rows, dtype=np.int64)
                done += table.num_rows
                yield Records(table, rows, done)
    except (pa.ArrowException, OSError) as error:
        raise TamisError(f"{piece.url}: damaged Parquet file, after {done} rows: {one_line(error)}") from error
    if piece.rows is not None and done != piece.rows:
        raise TamisError(f"{piece.url}: {done} rows read where the footer says {piece.rows}; did the file change?")


def _batch_rows(metadata: pq.FileMetaData, piece: Piece, names: set[str], batch_bytes: int) -> int:
    size = rows = 0
    for index in range(piece.start, piece.end):
        group = metadata.row_group(index)
        rows += group.num_rows
        for c in range(group.num_columns):
            chunk = group.column(c)
            path = chunk.path_in_schema
            # nested columns are stored as `column.part`, and the name of a plain column may have a dot
            if path in names or path.split(".", 1)[0] in names:
                size += chunk.total_uncompressed_size
    return max(1, min(MAX_BATCH_ROWS, int(batch_bytes * rows / max(size, 1))))


def _parts(batch: pa.RecordBatch, batch_bytes: int) -> Iterator[pa.Table]:
    """Cut a batch that came larger than expected, and bring its columns to plain types."""
    table = pa.Table.from_batches([batch])
    for number, field in enumerate(table.schema):
        if plain_type(field.type) != field.type:
            table = table.set_column(number, field.name, table.column(number).cast(plain_type(field.type)))
    fits = table.nbytes <= 2 * batch_bytes
    rows = MAX_BATCH_ROWS if fits else max(1, table.num_rows * batch_bytes // table.nbytes)
    for start in range(0, table.num_rows, rows):
        yield table.slice(start, rows)
