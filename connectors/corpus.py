"""A corpus: where documents come from, which columns matter, and how its shards are read."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from . import jsonl, parquet, python_docs
from .errors import RecipeError, TamisError, nearest, one_line
from .files import FileInfo, absolute, compression_of, expand, local_info, open_input
from .keys import text_buffers
from .records import RAW_BYTES, DeadRow, Piece, Records
from .settings import Settings
from .shards import SHARD_BYTES, Shard, pack, with_fingerprints
from .utf8 import first_invalid

READER_VERSION = 1
"""Rises when a reader would yield other rows or text for the same file."""

ARCHIVE_RATIO = 4
"""Text is taken to be so many times larger than its .gz or .zst file, for packing and progress only."""

EXTRA = "extra"
"""Column of the data files that holds, as one JSON object, the fields of a JSON line that the recipe does not name."""


class CorpusConfig(Settings):
    """A source of documents, as the recipe names it."""

    format: Literal["parquet", "jsonl", "python-docs"]
    paths: list[str] = Field(default=[], description="paths, globs or fsspec URLs; for python-docs the parts to read")
    text: str = Field("text", description="column with the document's text")
    id: str | None = Field(None, description="column that identifies a document; without it the text does")
    group: str | None = Field(None, description="column for `within: group` and for reports")

    def resolved(self, name: str, base: Path) -> CorpusConfig:
        """Return the same with absolute paths, defaults of python-docs spelled out."""
        if self.format == "python-docs":
            parts = self.paths or ["standard-library", "packages"]
            return self.model_copy(update={"paths": parts, "id": self.id or "id", "group": self.group or "group"})
        if not self.paths:
            raise RecipeError(
                f"{name}: a corpus of format {self.format} needs `paths`, for example [data/*.{self.format}]"
            )
        return self.model_copy(update={"paths": [absolute(path, base) for path in self.paths]})

    @property
    def named_columns(self) -> dict[str, str]:
        """The columns that the recipe names, by role."""
        roles = {"text": self.text, "id": self.id, "group": self.group}
        return {role: name for role, name in roles.items() if name is not None}


@dataclass(frozen=True)
class Corpus:
    """An opened corpus: small, and sent to every worker.

    schema: the corpus's own columns as the data files will have them; skip_unreadable: what cannot be read on is left
    out with one dead row (stage `shard`), instead of failing.
    """

    name: str
    config: CorpusConfig
    schema: pa.Schema
    skip_unreadable: bool = False

    def read(self, shard: Shard, columns: list[str] | None) -> Iterator[tuple[int, Records]]:
        """Read a shard; yields (number of the piece, records). columns: those wanted, None for all of the schema.

        The text comes as large_string of valid UTF-8; rows without text or without an id (where one is named), or
        with text that is not UTF-8, are dead. The same rows come whatever the columns. Raises TamisError when a file
        cannot be read on.
        """
        always = {self.config.text} | ({self.config.id} if self.config.id else set())
        # damage may show in one column only, and every reading must break off at the same row
        needed = None if columns is None or self.skip_unreadable else sorted(always.union(columns))
        left = shard.limit
        for number, piece in enumerate(shard.pieces):
            for records in self._read_on(piece, needed):
                checked = _without_dead(records, self.config)
                if left is not None:
                    checked = _first_rows(checked, left)
                    left -= len(checked.rows) + len(checked.dead)
                yield number, checked
                if left == 0:
                    return

    def _read_on(self, piece: Piece, columns: list[str] | None) -> Iterator[Records]:
        next_row = 0
        try:
            for records in self._read_piece(piece, columns):
                next_row = records.next_row
                yield records
        except TamisError as error:
            if not self.skip_unreadable:
                raise
            dead = DeadRow(next_row, "shard", str(error), b"")
            yield Records(self.schema.empty_table(), np.empty(0, dtype=np.int64), next_row + 1, [dead])

    def _read_piece(self, piece: Piece, columns: list[str] | None) -> Iterator[Records]:
        if self.config.format == "python-docs":
            yield python_docs.read_python_docs(Path(piece.url))
        elif self.config.format == "parquet":
            yield from parquet.read(piece, columns)
        else:
            types = {name: self.schema.field(name).type for name in self.config.named_columns.values()}
            compression = compression_of(piece.url)
            end = None if compression else piece.end
            with open_input(piece.url) as source:
                yield from jsonl.read_jsonl(
                    source, piece.start, end, types, extra=columns is None, compression=compression
                )


def _without_dead(records: Records, config: CorpusConfig) -> Records:
    """Move rows whose text or id cannot be used to the dead, and bring the text to large_string."""
    table = records.table
    text = table.column(config.text).combine_chunks().cast(pa.large_binary())
    faults = dict.fromkeys(np.flatnonzero(text.is_null().to_numpy(zero_copy_only=False)), "text is null")
    offsets, data = text_buffers(text.fill_null(b"") if text.null_count else text)
    invalid = first_invalid(offsets, data)
    faults |= {row: f"text is not valid UTF-8 at byte {invalid[row]}" for row in np.flatnonzero(invalid >= 0)}
    if config.id is not None and table.column(config.id).null_count:
        nulls = table.column(config.id).is_null().to_numpy()
        faults = dict.fromkeys(np.flatnonzero(nulls), f"id column `{config.id}` is null") | faults
    if faults:
        dead = [
            DeadRow(int(records.rows[row]), "read", error, (text[row].as_py() or b"")[:RAW_BYTES])
            for row, error in faults.items()
        ]
        alive = np.ones(len(text), dtype=bool)
        alive[list(faults)] = False
        table, text = table.filter(pa.array(alive)), text.filter(pa.array(alive))
        merged = sorted([*records.dead, *dead], key=lambda row: row.row)
        records = replace(records, rows=records.rows[alive], dead=merged)
    position = table.column_names.index(config.text)
    return replace(records, table=table.set_column(position, config.text, text.view(pa.large_string())))


def _first_rows(records: Records, count: int) -> Records:
    """Keep the first `count` rows, readable and dead counted together."""
    dead_rows = [row.row for row in records.dead]
    numbers = np.sort(np.concatenate([records.rows, np.asarray(dead_rows, dtype=np.int64)]))
    if len(numbers) <= count:
        return records
    first_out = int(numbers[count])
    alive = int(np.searchsorted(records.rows, first_out))
    dead = [row for row in records.dead if row.row < first_out]
    return Records(records.table.slice(0, alive), records.rows[:alive], first_out, dead)


@dataclass(frozen=True)
class Opened:
    """A corpus with its shards. unreadable: a line for each file that could not be opened, with skip_unreadable."""

    corpus: Corpus
    shards: list[Shard]
    unreadable: list[str]


def open_corpus(
    name: str,
    config: CorpusConfig,
    *,
    limit: int | None = None,
    skip_unreadable: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Opened:
    """List a corpus's files, check its columns, and cut it into shards. Reads footers and first lines only.

    name: `corpus` or `targets.NAME`, for messages; limit: take only the first rows, in the order of paths.
    Raises RecipeError for missing columns, unfit types and patterns without files, TamisError for a file that cannot
    be opened, unless skip_unreadable.
    """
    if config.format == "python-docs":
        try:
            files = [local_info(path) for path in python_docs.list_files(config.paths)]
        except ValueError as error:
            raise RecipeError(f"{name}.paths: {error}") from error
        schema = pa.schema([(column, pa.string()) for column in python_docs.COLUMNS])
        pieces = [[Piece(f.url, f.version, 0, f.size, f.size)] for f in files]
        unreadable: list[str] = []
    elif config.format == "parquet":
        pieces, schema, unreadable = _open_parquet(name, config, skip_unreadable, shard_bytes)
    else:
        pieces, schema, unreadable = _open_jsonl(name, config, shard_bytes)
    _check_columns(name, config, schema)
    corpus = Corpus(name, config, schema, skip_unreadable)
    reader = {"version": READER_VERSION, "format": config.format, "text": config.text, "id": config.id}
    if config.format == "jsonl" and config.id is not None:  # found in the first file, and decides which lines are dead
        reader["id_type"] = str(schema.field(config.id).type)
    shards = pack(pieces, shard_bytes)
    if limit is not None:
        shards = _limited(corpus, shards, limit)
    return Opened(corpus, with_fingerprints(shards, reader), unreadable)


def _open_parquet(
    name: str, config: CorpusConfig, skip_unreadable: bool, shard_bytes: int
) -> tuple[list[list[Piece]], pa.Schema, list[str]]:
    files = expand(config.paths, f"{name}.paths")
    with ThreadPoolExecutor(16) as pool:
        footers = list(pool.map(_footer_or_error, files))
    unreadable = [str(footer) for footer in footers if isinstance(footer, TamisError)]
    if unreadable and not skip_unreadable:
        raise TamisError(f"{unreadable[0]} (`errors: {{unreadable_shards: skip}}` leaves such files out)")
    pieces, schemas = [], {}
    for file, metadata in zip(files, footers, strict=True):
        if not isinstance(metadata, TamisError):
            pieces.append(parquet.cut(file, metadata, shard_bytes))
            schemas[file.url] = metadata.schema.to_arrow_schema().remove_metadata()
    return pieces, _unified(name, schemas), unreadable


def _footer_or_error(file: FileInfo) -> parquet.pq.FileMetaData | TamisError:
    try:
        return parquet.footer(file.url)
    except TamisError as error:
        return error


def _unified(name: str, schemas: dict[str, pa.Schema]) -> pa.Schema:
    unified = pa.schema([])
    for url, schema in schemas.items():
        plain = pa.schema([field.remove_metadata().with_nullable(True) for field in schema])
        try:
            unified = pa.unify_schemas([unified, plain], promote_options="permissive")
        except pa.ArrowException as error:
            raise RecipeError(
                f"{name}: the columns of {url} do not fit those of the files before it: {one_line(error)}"
            ) from error
    return unified


def _open_jsonl(name: str, config: CorpusConfig, shard_bytes: int) -> tuple[list[list[Piece]], pa.Schema, list[str]]:
    files = expand(config.paths, f"{name}.paths")
    pieces = []
    for file in files:
        if compression_of(file.url):
            pieces.append([Piece(file.url, file.version, 0, file.size, file.size * ARCHIVE_RATIO)])
        else:
            starts = range(0, file.size, shard_bytes)
            pieces.append(
                [
                    Piece(file.url, file.version, s, min(s + shard_bytes, file.size), min(shard_bytes, file.size - s))
                    for s in starts
                ]
            )
    names = list(config.named_columns.values())
    types = _sniffed(name, files, names) | {config.text: pa.string()}
    schema = pa.schema([*((column, types[column]) for column in dict.fromkeys(names)), (EXTRA, pa.string())])
    return pieces, schema, []


def _sniffed(name: str, files: list[FileInfo], names: list[str]) -> dict[str, pa.DataType]:
    for file in files:
        if file.size:
            try:
                with open_input(file.url) as source:
                    types = jsonl.sniff_type(source, names, compression_of(file.url))
            except ValueError as error:
                raise RecipeError(f"{name}: {file.url}: {error}") from error
            return {n: pa.string() if pa.types.is_large_string(t) else t for n, t in types.items()}
    return dict.fromkeys(names, pa.string())


def _check_columns(name: str, config: CorpusConfig, schema: pa.Schema) -> None:
    for role, column in config.named_columns.items():
        if len(schema) and column not in schema.names:
            raise RecipeError(f"{name}.{role}: there is no column `{column}`{nearest(column, schema.names)}")
    if config.text in schema.names:
        kind = schema.field(config.text).type
        if not any(
            check(kind) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, _is_text_view)
        ):
            raise RecipeError(f"{name}.text: column `{config.text}` holds {kind}, not text")
    for role in ("id", "group"):
        plain = config.named_columns.get(role)
        if plain in schema.names and pa.types.is_nested(schema.field(plain).type):
            kind = schema.field(plain).type
            raise RecipeError(f"{name}.{role}: column `{plain}` holds {kind}; a plain value is needed")


def _is_text_view(kind: pa.DataType) -> bool:
    return pa.types.is_large_binary(kind) or pa.types.is_string_view(kind) or pa.types.is_dictionary(kind)


def _limited(corpus: Corpus, shards: list[Shard], limit: int) -> list[Shard]:
    """Return the first shards, the last one cut, so that together they have `limit` rows."""
    chosen: list[Shard] = []
    for shard in shards:
        if limit <= 0:
            break
        rows = shard.rows
        if rows is None:
            capped = replace(shard, limit=limit)
            rows = sum(len(records.rows) + len(records.dead) for _, records in corpus.read(capped, []))
        chosen.append(shard if rows < limit else replace(shard, limit=limit))
        limit -= rows
    return chosen


def group_strings(table: pa.Table, config: CorpusConfig) -> pa.Array | None:
    """Return the group column of a batch as strings, or None when the recipe names no group."""
    if config.group is None:
        return None
    return pc.cast(table.column(config.group).combine_chunks(), pa.string())
