"""Rows on disk, parted by ranges of their document keys, so that one range after the other fits into memory."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import TamisError

MOST_RANGES = 1 << 12
"""A finer split would make the slices of a shard too small to be read well."""


def range_bits(rows: int, rows_per_range: int) -> int:
    """Return how many upper bits of the key part so many rows into ranges of about that size.

    Keys are hashes, so ranges are equally full, unless many rows share one key.
    """
    ranges = min(max(1, -(-rows // rows_per_range)), MOST_RANGES)
    return (ranges - 1).bit_length()


class KeyRanges:
    """A temporary file of rows, each block of them sorted by key range.

    Holds 8 bytes per block and range; the rows are on disk, in the folder for temporary files (TMPDIR), and are gone
    when this is closed. Blocks may be added by several threads at once.

    Args:
        kind: of a row; has a field `key`, uint64.
        bits: upper bits of the key that number its range.
    """

    def __init__(self, kind: np.dtype[Any], bits: int) -> None:
        self.kind, self.ranges = kind, 1 << bits
        self._shift = np.uint64(64 - bits) if bits else None
        self._file = tempfile.TemporaryFile(prefix="tamis-")  # noqa: SIM115  closed by `close`
        self._lock = threading.Lock()
        self._end = 0
        self._blocks: list[NDArray[np.int64]] = []

    def add(self, rows: NDArray[Any]) -> None:
        """Write a block of rows. Raises TamisError when the disk is full."""
        bounds = np.array([0, rows.size])
        if self._shift is not None:
            place = (rows["key"] >> self._shift).astype(np.uint16)  # of 16 bits NumPy makes a radix sort
            rows = rows[np.argsort(place, kind="stable")]
            bounds = np.concatenate([[0], np.cumsum(np.bincount(place, minlength=self.ranges))])
        with self._lock:
            try:
                self._file.write(np.ascontiguousarray(rows).data)
            except OSError as error:
                raise TamisError(f"{tempfile.gettempdir()}: {error.strerror}; set TMPDIR to a larger disk") from error
            self._blocks.append(bounds * self.kind.itemsize + self._end)
            self._end += rows.nbytes

    def read(self, number: int) -> NDArray[Any]:
        """Return all rows of a range, in no particular order."""
        self._file.flush()
        spans: Sequence[tuple[int, int]] = [(int(block[number]), int(block[number + 1])) for block in self._blocks]
        rows = np.empty(sum(end - start for start, end in spans) // self.kind.itemsize, self.kind)
        content, done = rows.view(np.uint8).data, 0
        for start, end in spans:
            while start < end:
                got = os.preadv(self._file.fileno(), [content[done : done + end - start]], start)
                if not got:
                    raise TamisError("a temporary file was cut short")
                start, done = start + got, done + got
        return rows

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

    def __enter__(self) -> KeyRanges:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
