"""What a training run loses on each document: Parquet files that `scorer: column` joins to the corpus by key."""

from __future__ import annotations

import os
import re
import sys
from operator import index
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .atomic import sweep, write_atomically
from .errors import TamisError
from .files import delete, is_local, local_path, names_in

SCHEMA = pa.schema([("key", pa.uint64()), ("loss", pa.float32()), ("step", pa.int64())])

_PART = re.compile(r"part-(\d{6,})-(\d{5,})\.parquet")


class LossLog:
    """Writes the losses of documents to FOLDER/part-NUMBER-RANK.parquet: key, loss, step.

        with LossLog("losses") as log:
            log.add(batch["key"], loss, step)

    A recipe reads them with `{scorer: column, file: "losses/*.parquet", join: key, column: loss}` and `take: mean` or
    `last`: files sort by number, and ranks fill them alike, so that the last row of a document is of its last epoch.
    A part is absent or whole; what a killed process held in its buffer is lost. Checkpoint `state_dict`: parts written
    after a checkpoint are deleted when it is loaded, and so no step is in the log twice.
    """

    def __init__(self, folder: str, buffer_rows: int = 100_000, rank: int | None = None) -> None:
        """Set up; nothing is read or written yet.

        Args:
            folder: path or URL; made when it is needed. All ranks share it.
            buffer_rows: rows per part, at least 1: 20 bytes each are held in memory.
            rank: of this process; None: as `torch.distributed` or the variable RANK says, else 0.

        Raises:
            ValueError: the buffer holds no row.
        """
        if buffer_rows < 1:
            raise ValueError(f"the buffer needs at least 1 row, not {buffer_rows}")
        self.folder = folder.rstrip("/")
        self.buffer_rows = buffer_rows
        self.rank = _rank() if rank is None else rank
        self._part: int | None = None
        self._rows = 0
        self._buffer: list[pa.RecordBatch] = []

    def add(self, keys: Any, losses: Any, step: int) -> None:
        """Log one batch; writes a part when the buffer is full.

        Args:
            keys: [m], as in the column `key` of a run's data: uint64, or int64 of the same 64 bits; an array, a tensor
                or a sequence of numbers.
            losses: [m], mean loss of each document in nats, before any weight; NaN is read back as no value.
            step: training step.

        Raises:
            ValueError: keys and losses are not equally many.
            TypeError: the keys are no integers.
            TamisError: the folder holds losses of this rank, and no checkpoint was loaded; or the disk is full.
        """
        if self._part is None:
            self._start()
        key, loss = _as_keys(keys), np.array(_on_host(losses), dtype=np.float32)
        if loss.shape != key.shape or loss.ndim != 1:
            raise ValueError(f"each key needs one loss: {key.shape} keys, {loss.shape} losses")
        self._buffer.append(pa.record_batch([key, loss, np.full(len(key), step, np.int64)], schema=SCHEMA))
        self._rows += len(key)
        if self._rows >= self.buffer_rows:
            self.flush()

    def flush(self) -> None:
        """Write what is in the buffer, as a part of its own."""
        if self._part is None or not self._rows:
            return
        table = pa.Table.from_batches(self._buffer, SCHEMA).combine_chunks()
        url = f"{self.folder}/part-{self._part:06d}-{self.rank:05d}.parquet"
        write_atomically(url, lambda file: pq.write_table(table, file, compression="zstd"))
        self._part += 1
        self._rows, self._buffer = 0, []

    def state_dict(self) -> dict[str, int]:
        """Write the buffer, and return what a checkpoint has to hold: for each rank its own."""
        self.flush()
        return {"part": self._part or 0}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a checkpoint: deletes the parts that this rank has written since, and forgets the buffer."""
        self._part = int(state["part"])
        self._rows, self._buffer = 0, []
        for number, name in self._own_parts():
            if number >= self._part:
                delete(f"{self.folder}/{name}")

    def close(self) -> None:
        """Write what is left in the buffer."""
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        if self._own_parts():
            raise TamisError(
                f"{self.folder} has losses of rank {self.rank} already; load the log's state from the checkpoint, or "
                "delete the folder"
            )
        if is_local(self.folder) and local_path(self.folder).is_dir():
            sweep(local_path(self.folder))
        self._part = 0

    def _own_parts(self) -> list[tuple[int, str]]:
        parts = [(found, name) for name in names_in(self.folder) if (found := _PART.fullmatch(name))]
        return [(int(found[1]), name) for found, name in parts if int(found[2]) == self.rank]


def _on_host(values: Any) -> Any:
    """Bring a tensor of any device and precision into NumPy."""
    if not hasattr(values, "detach"):
        return values
    values = values.detach().cpu()
    return (values.float() if values.is_floating_point() else values).numpy()


def _as_keys(keys: Any) -> NDArray[np.uint64]:
    keys = _on_host(keys)
    if not isinstance(keys, np.ndarray):
        keys = np.array([index(key) & 0xFFFF_FFFF_FFFF_FFFF for key in keys], np.uint64)
    if keys.dtype.kind not in "iu":
        raise TypeError(f"keys are integers of 64 bits, not {keys.dtype}")
    return np.array(keys).astype(np.int64 if keys.dtype.kind == "i" else np.uint64).view(np.uint64)


def _rank() -> int:
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_rank())
    return int(os.environ.get("RANK", "0"))
