"""A corpus: where documents come from, and how its shards are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from .contents import document_text
from .corpus_config import CorpusConfig, FormatName
from .csv_files import CSV
from .errors import ChangedError, TamisError
from .files import file_info
from .format import Format
from .hugging_face import HuggingFace
from .jsonl import JSONLines
from .keys import text_buffers
from .parquet import Parquet
from .python_docs import PythonDocs
from .records import RAW_BYTES, DeadRow, Piece, Records, one_array
from .schemas import is_text
from .shards import Shard
from .text_files import TextFiles
from .utf8 import first_invalid

FORMATS: dict[FormatName, Format] = {
    "parquet": Parquet(),
    "jsonl": JSONLines(),
    "text": TextFiles(),
    "csv": CSV(),
    "huggingface": HuggingFace(),
    "python-docs": PythonDocs(),
}


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

        `Records.text` is set, to large_string of valid UTF-8; rows without text or without an id (where one is named),
        or with text that is not UTF-8, are dead. The same rows come whatever the columns. Raises TamisError when a file
        cannot be read on.
        """
        always = {*self.config.content_columns.values()} | ({self.config.id} if self.config.id else set())
        # damage may show in one column only, and every reading must break off at the same row
        of_all = columns is None or (self.skip_unreadable and FORMATS[self.config.format].typed)
        needed = None if of_all else sorted(always.union(columns or ()))
        left = shard.limit
        for number, piece in enumerate(shard.pieces):
            for records in self._read_on(piece, needed):
                checked = _without_dead(records, self.config)
                if shard.only is not None:
                    checked = _rows_in(checked, shard.only)
                if left is not None:
                    checked = _first_rows(checked, left)
                    left -= len(checked.rows) + len(checked.dead)
                yield number, checked
                if left == 0:
                    return

    def _read_on(self, piece: Piece, columns: list[str] | None) -> Iterator[Records]:
        next_row = 0
        try:
            for records in FORMATS[self.config.format].read(self.config, piece, columns):
                next_row = records.next_row
                yield records
        except TamisError as error:
            _check_unchanged(piece)
            if not self.skip_unreadable:
                raise
            dead = DeadRow(next_row, "shard", str(error), b"")
            yield Records(self.schema.empty_table(), np.empty(0, dtype=np.int64), next_row + 1, [dead])
        _check_unchanged(piece)


def _check_unchanged(piece: Piece) -> None:
    try:
        version = file_info(piece.url).version
    except FileNotFoundError as error:
        raise ChangedError(f"{piece.url} is gone since the run began; run again") from error
    if version != piece.version:
        raise ChangedError(f"{piece.url} changed while the run was reading it; run again")


def _without_dead(records: Records, config: CorpusConfig) -> Records:
    """Set the text, and move rows whose text or id cannot be used to the dead."""
    table = records.table
    text, faults = document_text(table, config)
    offsets, data = text_buffers(text.fill_null(b"") if text.null_count else text)
    invalid = first_invalid(offsets, data)
    faults |= {row: f"text is not valid UTF-8 at byte {invalid[row]}" for row in np.flatnonzero(invalid >= 0).tolist()}
    if config.id is not None and table.column(config.id).null_count:
        nulls = table.column(config.id).is_null().to_numpy()
        faults = dict.fromkeys(np.flatnonzero(nulls).tolist(), f"id column `{config.id}` is null") | faults
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
    return replace(records, table=table, text=text.view(pa.large_string()))


def _first_rows(records: Records, count: int) -> Records:
    """Keep the first `count` rows, readable and dead counted together."""
    dead_rows = [row.row for row in records.dead]
    numbers = np.sort(np.concatenate([records.rows, np.asarray(dead_rows, dtype=np.int64)]))
    if len(numbers) <= count:
        return records
    first_out = int(numbers[count])
    alive = int(np.searchsorted(records.rows, first_out))
    dead = [row for row in records.dead if row.row < first_out]
    text = None if records.text is None else records.text.slice(0, alive)
    return Records(records.table.slice(0, alive), records.rows[:alive], first_out, dead, text)


def _rows_in(records: Records, ranges: Sequence[tuple[int, int]]) -> Records:
    """Keep the rows in ranges (first, end), readable and dead, and what says that all further rows are lost."""

    def inside(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.logical_or.reduce([(rows >= first) & (rows < end) for first, end in ranges])

    alive = inside(records.rows)
    chosen = inside(np.array([row.row for row in records.dead], dtype=np.int64))
    dead = [row for row, wanted in zip(records.dead, chosen, strict=True) if wanted or row.stage == "shard"]
    text = None if records.text is None else records.text.filter(pa.array(alive))
    table = records.table.filter(pa.array(alive))
    return replace(records, table=table, rows=records.rows[alive], dead=dead, text=text)


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
