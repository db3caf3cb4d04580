"""Reads the streams of a loader, each shuffled within windows, the next window while the present one is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from .records import one_array
from .row_groups import Permuted, Source
from .streams import window_order

Document = dict[str, Any]


@dataclass(frozen=True)
class Stream:
    """One sequence of documents: [first, end) of the permuted ones of a group.

    lane: number of the group, 0 where groups do not matter; label: keys its shuffles, unlike those of other streams;
    endless: it begins again when it ends.
    """

    permuted: Permuted
    first: int
    end: int
    lane: int
    label: str
    endless: bool

    @property
    def length(self) -> int:
        """Documents in the stream, before it begins again."""
        return self.end - self.first


class StreamReader:
    """Gives the documents of a stream by their ordinals; asking in ascending order costs least.

    Holds two windows, one of them as Python objects, and what Arrow needs to decode a row group page by page. Ordinals
    from the stream's length on are those of its next rounds, in other orders.
    """

    def __init__(
        self, source: Source, stream: Stream, epoch: int, seed: int, window: int, pool: ThreadPoolExecutor
    ) -> None:
        """Set up. window: documents that are shuffled together; pool: of one thread, which reads ahead."""
        self._source, self._stream, self._epoch, self._seed, self._pool = source, stream, epoch, seed, pool
        self._window = min(window, stream.length)
        self._windows = -(-stream.length // self._window)
        self._rows: list[Document] = []
        self._begin = 0
        self._next: tuple[int, Future[pa.Table]] | None = None
        self._reading: tuple[int, Iterator[pa.Table]] | None = None

    def document(self, ordinal: int) -> Document:
        """Return one document."""
        at = ordinal - self._begin
        if not 0 <= at < len(self._rows):
            turn, place = divmod(ordinal, self._stream.length)
            number, at = divmod(place, self._window)
            self._load(turn * self._windows + number)
            self._begin = ordinal - at
        return self._rows[at]

    def _load(self, number: int) -> None:
        ahead, self._next = self._next, None
        if ahead is not None:
            table = ahead[1].result()
        if ahead is None or ahead[0] != number:
            table = self._pool.submit(self._read, number).result()
        if self._stream.endless or number + 1 < self._windows:
            self._next = (number + 1, self._pool.submit(self._read, number + 1))
        self._rows = documents_of(table, self._source.constants)

    def _read(self, number: int) -> pa.Table:
        """Return a window, shuffled; goes on where it stands, and otherwise starts at the row group of the window."""
        turn, place = divmod(number, self._windows)
        if self._reading is None or self._reading[0] != number:
            self._reading = (number, self._tables(place))
        table = next(self._reading[1])
        self._reading = (number + 1, self._reading[1]) if place + 1 < self._windows else None
        return table.take(pa.array(window_order(self._seed, f"{self._stream.label} {turn}", place, table.num_rows)))

    def _tables(self, place: int) -> Iterator[pa.Table]:
        """Yield the windows from one on, in the order of the row groups."""
        stream = self._stream
        pending: list[pa.Table] = []
        count = 0
        for unit, first, end in stream.permuted.pieces(stream.first + place * self._window, stream.end):
            for table in self._source.read(unit, first, end, stream.lane, self._epoch, self._window):
                pending.append(table)
                count += table.num_rows
                while count >= self._window:
                    joined = pa.concat_tables(pending)
                    yield joined.slice(0, self._window)
                    pending, count = [joined.slice(self._window)], count - self._window
        if count:
            yield pa.concat_tables(pending)


def documents_of(table: pa.Table, constants: Mapping[str, Any]) -> list[Document]:
    """Return the rows of a table as dictionaries. constants: what all of them have, instead of a column."""
    columns = {name: _values(one_array(table.column(name))) for name in table.column_names if name not in constants}
    columns |= {name: [value] * table.num_rows for name, value in constants.items()}
    names = list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _values(column: pa.Array) -> list[Any]:
    """Return a column's values as Python objects; through NumPy where that gives the same and is faster."""
    kind = column.type
    plain = pt.is_integer(kind) or pt.is_floating(kind)
    if pt.is_string(kind) or pt.is_large_string(kind) or (plain and not column.null_count):
        values: list[Any] = np.asarray(column.to_numpy(zero_copy_only=False)).tolist()
        return values
    listed: list[Any] = column.to_pylist()
    return listed
