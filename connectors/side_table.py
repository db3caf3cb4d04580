"""Values that lie beside a corpus: a Parquet file of ids or keys and numbers, held in memory, sorted by key."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .errors import RecipeError, TamisError, nearest, one_line
from .files import FileInfo, open_input
from .keys import hash_column
from .schemas import is_text, plain_type

ROW_BYTES = 16
"""Memory per row once it is read; about three times as much while it is read and sorted."""

Take = Literal["mean", "last"]


@dataclass(frozen=True)
class SideTable:
    """keys: uint64[m], strictly ascending; values: float64[m]."""

    keys: NDArray[np.uint64]
    values: NDArray[np.float64]

    def look_up(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the value of each key, float64[n], and whether it has one, bool[n]."""
        if not len(self.keys):
            return np.zeros(len(keys)), np.zeros(len(keys), dtype=bool)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return self.values[place], self.keys[place] == keys


def check_side_files(files: Sequence[FileInfo], on: str, column: str, max_bytes: int) -> None:
    """Raise RecipeError unless all files have both columns in fitting types, and fit into memory together."""
    rows = 0
    for file in files:
        try:
            with open_input(file.url) as source:
                metadata = pq.read_metadata(source)
        except (pa.ArrowException, OSError) as error:
            raise RecipeError(f"{file.url}: cannot be read as Parquet: {one_line(error)}") from error
        schema = metadata.schema.to_arrow_schema()
        for name in (on, column):
            if name not in schema.names:
                raise RecipeError(f"{file.url}: there is no column `{name}`{nearest(name, schema.names)}")
        kind, value = (plain_type(schema.field(name).type) for name in (on, column))
        if not (is_text(kind) or pa.types.is_integer(kind)):
            raise RecipeError(f"{file.url}: column `{on}` holds {kind}, where text or integers are needed")
        if not is_number(value):
            raise RecipeError(f"{file.url}: column `{column}` holds {value}, where numbers are needed")
        rows += metadata.num_rows
    if rows * ROW_BYTES > max_bytes:
        raise RecipeError(
            f"{files[0].url}: {rows:,} rows need {rows * ROW_BYTES / 1e6:,.0f} MB of memory in each process, more than "
            f"`max_bytes: {max_bytes}`; raise it, or join the column to the corpus before"
        )


def is_number(kind: pa.DataType) -> bool:
    """Whether values of this type can be a score."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


@functools.lru_cache(maxsize=4)
def load_side_table(files: tuple[FileInfo, ...], on: str, column: str, take: Take, by_key: bool) -> SideTable:
    """Read the files, in order; kept in memory by each process.

    take: of several rows with the same key, the mean of their values or the last one; null and NaN count as no row.
    by_key: `on` holds document keys (uint64, or 16 hex digits), else ids, which are hashed as those of a corpus.
    Raises TamisError when a file cannot be read.
    """
    parts: list[tuple[NDArray[np.uint64], NDArray[np.float64]]] = []
    for file in files:
        try:
            with open_input(file.url) as source:
                reader = pq.ParquetFile(source, pre_buffer=False)
                for batch in reader.iter_batches(columns=[on, column], use_threads=False):
                    parts.append(_numbers(batch.column(on), batch.column(column), by_key))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise TamisError(f"{file.url}: column `{on}` or `{column}` cannot be read: {one_line(error)}") from error
    keys = np.concatenate([np.zeros(0, np.uint64), *(part[0] for part in parts)])
    values = np.concatenate([np.zeros(0), *(part[1] for part in parts)])
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else np.zeros(0, np.int64)
    if take == "last":
        ends = np.append(starts[1:], len(keys)) - 1
        return SideTable(keys[starts], values[ends[: len(starts)]])
    counts = np.diff(np.append(starts, len(keys)))
    return SideTable(keys[starts], np.add.reduceat(values, starts) / counts if len(starts) else values)


def _numbers(on: pa.Array, column: pa.Array, by_key: bool) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
    values = column.cast(plain_type(column.type)).cast(pa.float64()).to_numpy(zero_copy_only=False)
    there = ~np.isnan(values) & on.is_valid().to_numpy(zero_copy_only=False)
    on = on.cast(plain_type(on.type)).filter(pa.array(there))
    if not by_key:
        return hash_column(on), values[there]
    if is_text(on.type):
        return np.array([int(key, 16) for key in on.to_pylist()], dtype=np.uint64), values[there]
    return on.to_numpy().astype(np.uint64), values[there]
