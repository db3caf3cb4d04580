"""A corpus: where documents come from, which columns matter, and how its shards are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from . import jsonl, parquet, python_docs
from .errors import ChangedError, RecipeError, TamisError
from .files import absolute, compression_of, file_info, open_input
from .keys import text_buffers
from .records import RAW_BYTES, DeadRow, Piece, Records, one_array
from .schemas import is_text
from .settings import Settings
from .shards import Shard
from .utf8 import first_invalid

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
            _check_unchanged(piece)
            if not self.skip_unreadable:
                raise
            dead = DeadRow(next_row, "shard", str(error), b"")
            yield Records(self.schema.empty_table(), np.empty(0, dtype=np.int64), next_row + 1, [dead])
        _check_unchanged(piece)

    def _read_piece(self, piece: Piece, columns: list[str] | None) -> Iterator[Records]:
        if self.config.format == "python-docs":
            yield python_docs.read_python_docs(Path(piece.url))
        elif self.config.format == "parquet":
            yield from parquet.read(piece, columns)
        else:
            names = list(dict.fromkeys(self.config.named_columns.values()))
            compression = compression_of(piece.url)
            end = None if compression else piece.end
            with open_input(piece.url) as source:
                yield from jsonl.read_jsonl(
                    source, piece.start, end, names, extra=columns is None, compression=compression
                )


def _check_unchanged(piece: Piece) -> None:
    try:
        version = file_info(piece.url).version
    except FileNotFoundError as error:
        raise ChangedError(f"{piece.url} is gone since the run began; run again") from error
    if version != piece.version:
        raise ChangedError(f"{piece.url} changed while the run was reading it; run again")


def _without_dead(records: Records, config: CorpusConfig) -> Records:
    """Move rows whose text or id cannot be used to the dead, and bring the text to large_string."""
    table = records.table
    text = one_array(table.column(config.text)).cast(pa.large_binary())
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


def group_strings(table: pa.Table, config: CorpusConfig) -> pa.Array | None:
    """Return the group column of a batch as strings, or None when the recipe names no group.

    A file without the column, and a value that is not UTF-8, have the group null.
    """
    if config.group is None:
        return None
    if config.group not in table.column_names:
        return pa.nulls(len(table), pa.string())
    column = one_array(table.column(config.group))
    if not is_text(column.type):
        return column.cast(pa.string())
    values = column.cast(pa.large_binary())
    invalid = first_invalid(*text_buffers(values.fill_null(b""))) >= 0
    if invalid.any():
        values = pc.if_else(pa.array(invalid), pa.scalar(None, pa.large_binary()), values)
    return values.cast(pa.string())
