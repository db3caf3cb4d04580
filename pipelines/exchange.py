"""The exchange: how rows of all shards that belong together come to one worker without crossing a stage.

Each writer of a pass (a shard, or a bucket of an earlier exchange) puts its rows into one file, sorted by bucket, with
the offset of each bucket at its beginning. An element of the next pass is a bucket, which reads its slice of every such
file. Results go back to the shards the same way: then the buckets are the shards.

On disk a row takes what its type takes, and a file 8 bytes per bucket besides. A worker holds one bucket: about
BUCKET_BYTES, since `buckets_for` makes as many as that needs; one that is larger is read in parts (see `parts`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors import files
from ..connectors.atomic import write_atomically
from ..connectors.errors import TamisError

BUCKET_BYTES = 32 << 20
"""Bytes of rows in one bucket, about."""

MAX_BUCKETS = 1 << 14

_MAGIC = int.from_bytes(b"tamis x1", "little")

Rows = NDArray[np.void]


def buckets_for(rows: int, row_bytes: int) -> int:
    """Return into how many buckets so many rows are best divided. rows: an upper bound will do."""
    return min(max(1, -(-rows * row_bytes // BUCKET_BYTES)), MAX_BUCKETS)


def bucket_of(hashes: NDArray[np.uint64], buckets: int) -> NDArray[np.int64]:
    """Return the bucket of each hash by its upper 32 bits, int64[n]. hashes: uint64[n], evenly spread."""
    return ((hashes >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32)).astype(np.int64)


@dataclass(frozen=True)
class Exchange:
    """One exchange: its files. Small; travels to workers.

    folder: where its files are, its own; row_type: of the rows; buckets: how many; writers: numbers of those who write,
    in the order in which their rows are read.
    """

    folder: str
    row_type: np.dtype[np.void]
    buckets: int
    writers: tuple[int, ...]

    def write(self, writer: int, rows: Rows, bucket: NDArray[np.int64]) -> None:
        """Write a writer's file; done again, it replaces the first one.

        rows: of `row_type`; bucket: int64, of each row.
        """
        order = np.argsort(bucket, kind="stable")
        counts = np.bincount(bucket, minlength=self.buckets)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype("<i8")
        content = np.ascontiguousarray(rows[order]).view(np.uint8)

        def write(file: IO[bytes]) -> None:
            file.write(self._head + offsets.tobytes())
            file.write(content.data)

        write_atomically(self._url(writer), write)

    def read(self, bucket: int) -> Rows:
        """Return all rows of a bucket: those of the first writer, of the second one, and so on, each in its order.

        Raises TamisError naming the file that is missing or damaged.
        """
        return self._joined(list(self.slices(bucket)))

    def parts(self, bucket: int, by: str) -> Iterator[Rows]:
        """Yield the rows of a bucket, in parts where it is larger than twice BUCKET_BYTES.

        by: a field of random bits, uint64; rows with the same value come in the same part. Each part is read for itself
        and holds about BUCKET_BYTES, or all rows of one value where these are more.
        """
        size = self.row_type.itemsize * sum(self._rows(writer, bucket) for writer in self.writers)
        count = 1 if size <= 2 * BUCKET_BYTES else -(-size // BUCKET_BYTES)
        for part in range(count):
            taken = []
            for rows in self.slices(bucket):
                # the lower bits: buckets are made by the upper ones
                inside = (rows[by] & np.uint64(0xFFFFFFFF)) * np.uint64(count) >> np.uint64(32) == part
                taken.append(rows[inside] if count > 1 else rows)
            yield self._joined(taken)

    def slices(self, bucket: int) -> Iterator[Rows]:
        """Yield each writer's rows of a bucket, in the order of the writers."""
        for writer in self.writers:
            url = self._url(writer)
            with self._open(url) as file:
                start, end = self._offsets(file, url, bucket)
                size = self.row_type.itemsize
                file.seek(8 * (4 + self.buckets) + start * size)
                content = file.read((end - start) * size)
                if len(content) != (end - start) * size:
                    raise TamisError(f"{url}: cut short; run again")
                yield np.frombuffer(content, self.row_type)

    def _rows(self, writer: int, bucket: int) -> int:
        """Return how many rows of a writer are in a bucket."""
        url = self._url(writer)
        with self._open(url) as file:
            start, end = self._offsets(file, url, bucket)
            return end - start

    def _offsets(self, file: pa.NativeFile, url: str, bucket: int) -> tuple[int, int]:
        """Return which rows of a file are a bucket's."""
        if file.read(24) != self._head:
            raise TamisError(f"{url}: not a file of this exchange; run again")
        file.seek(8 * (3 + bucket))  # the fourth number is 0, where the first bucket begins
        content = file.read(16)
        start, end = np.frombuffer(content, "<i8").tolist() if len(content) == 16 else (0, -1)
        if not 0 <= start <= end:
            raise TamisError(f"{url}: damaged; run again")
        return start, end

    @property
    def _head(self) -> bytes:
        """What each file begins with."""
        return np.array([_MAGIC, self.row_type.itemsize, self.buckets], "<i8").tobytes()

    def _open(self, url: str) -> pa.NativeFile:
        try:
            return files.open_input(url)
        except FileNotFoundError as error:
            raise TamisError(f"{url} is gone; run again") from error

    def _joined(self, parts: list[Rows]) -> Rows:
        return np.concatenate([np.zeros(0, self.row_type), *parts])

    def _url(self, writer: int) -> str:
        return f"{self.folder}/{writer:06d}.rows"
