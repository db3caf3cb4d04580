"""Which documents a step dropped as copies of others: while the run decides, and as the finished run keeps it.

Imports no Beam, for `tamis explain` must be quick.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..connectors.atomic import Written, write_atomically
from ..connectors.errors import TamisError, one_line
from ..connectors.run_directory import cuts_url
from ..connectors.score_store import load_arrays, save_arrays
from ..connectors.shards import Shard
from ..selectors.duplicates import LOSS_RECORD
from .exchange import Exchange

Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]

SCHEMA = pa.schema(
    [
        ("part", pa.int32()),
        ("row", pa.int64()),
        ("winner_part", pa.int32()),
        ("winner_row", pa.int64()),
        ("winner_key", pa.uint64()),
    ]
)
"""What a run keeps of a step: a document that was dropped, as part and row of `decisions/`, and the one that stayed."""

ROW_GROUP_ROWS = 1 << 16


@dataclass(frozen=True)
class SettledRun:
    """A finished run of a chain. first: index of its first shard."""

    first: int
    folder: str


@dataclass(frozen=True)
class Numbering:
    """Numbers the documents of a corpus from 0 on, in its order. Holds 16 bytes per shard.

    shards: int64[m], indices, ascending; first: int64[m + 1], number of the first document of each, and of all;
    fingerprints: of the shards, not kept with losses; settled: the first so many documents are those of earlier runs,
    which stand as they are; runs: these, the oldest first.
    """

    shards: Int64
    first: Int64
    fingerprints: tuple[str, ...] = ()
    settled: int = 0
    runs: tuple[SettledRun, ...] = ()

    @classmethod
    def of(cls, shards: Sequence[Shard], counts: pa.Table) -> Numbering:
        """Number the documents of some shards, ascending. counts: `shard` and `documents` of all shards."""
        documents = dict(zip(counts["shard"].to_pylist(), counts["documents"].to_pylist(), strict=True))
        sizes = [documents[shard.index] for shard in shards]
        first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        fingerprints = tuple(shard.fingerprint for shard in shards)
        return cls(np.array([shard.index for shard in shards], np.int64), first, fingerprints)

    @property
    def documents(self) -> int:
        """How many there are."""
        return int(self.first[-1])

    @property
    def new(self) -> int:
        """Place of the first shard that is not of an earlier run."""
        return int(np.searchsorted(self.first[:-1], self.settled))

    def is_settled(self, shard: int) -> bool:
        """Whether a shard is one of an earlier run."""
        return self.place(shard) < self.new

    def place(self, shard: int) -> int:
        """Return the place of a shard among all."""
        return int(np.searchsorted(self.shards, shard))

    def places(self, numbers: Int64) -> Int64:
        """Return the place of the shard of each document."""
        return np.searchsorted(self.first, numbers, "right").astype(np.int64) - 1

    def positions(self, numbers: Int64) -> UInt64:
        """Return the position of each document: shard << 32 | row."""
        places = self.places(numbers)
        return (self.shards[places] << 32 | numbers - self.first[places]).astype(np.uint64)

    def numbers(self, parts: Int64, rows: Int64) -> Int64:
        """Return the number of each document. parts: indices of their shards."""
        return np.asarray(self.first[np.searchsorted(self.shards, parts)] + rows, np.int64)


@dataclass(frozen=True)
class SettledLosses:
    """What a step dropped in the runs before this one. files: of each run, see `losses_url`."""

    numbering: Numbering
    files: tuple[str, ...]

    def of_shard(self, shard: int) -> NDArray[np.void]:
        """Return the losses of a shard of an earlier run, LOSS_RECORD[m], in the order of its rows."""
        number = int(np.searchsorted([run.first for run in self.numbering.runs], shard, "right")) - 1
        return self._records(_read_kept(self.files[number], pc.field("part") == shard))

    def batches(self) -> Iterator[NDArray[np.void]]:
        """Yield all losses, run by run."""
        for file in self.files:
            yield self._records(_read_kept(file))

    def _records(self, table: pa.Table) -> NDArray[np.void]:
        found = np.empty(len(table), LOSS_RECORD)
        for field, prefix in (("number", ""), ("winner", "winner_")):
            parts, rows = (table[f"{prefix}{name}"].to_numpy() for name in ("part", "row"))
            found[field] = self.numbering.numbers(parts.astype(np.int64), rows)
        found["winner_key"] = table["winner_key"].to_numpy()
        return found


@dataclass(frozen=True)
class Losses:
    """What a step drops, while the run decides: LOSS_RECORDs by shard.

    folder: of their files; writers: buckets that have sent them to the shards; 0 where each shard has its own file;
    settled: what it dropped in earlier runs.
    """

    numbering: Numbering
    folder: str
    writers: int
    settled: SettledLosses

    @classmethod
    def new(cls, url: str, settled: SettledLosses, writers: int) -> Losses:
        """Describe losses that are yet to be found at a URL, which ends with .npz and is sent to workers."""
        numbering = settled.numbering
        arrays = {"shards": numbering.shards, "first": numbering.first, "writers": np.array([writers])}
        runs = {"settled": np.array([numbering.settled]), "runs": np.array([run.first for run in numbering.runs])}
        save_arrays(url, arrays | runs | {"files": np.array(settled.files, np.str_)})
        return cls.at(url)

    @classmethod
    def at(cls, url: str) -> Losses:
        """Return what `new` has described at a URL."""
        arrays = load_arrays(url)
        runs = tuple(SettledRun(first, "") for first in arrays["runs"].tolist())
        numbering = Numbering(arrays["shards"], arrays["first"], (), int(arrays["settled"][0]), runs)
        settled = SettledLosses(numbering, tuple(arrays["files"].tolist()))
        return cls(numbering, f"{url.removesuffix('.npz')}/losses", int(arrays["writers"][0]), settled)

    @property
    def exchange(self) -> Exchange:
        """What buckets write, and shards read."""
        return Exchange(self.folder, LOSS_RECORD, len(self.numbering.shards), tuple(range(self.writers)))

    def own(self, shard: int) -> Exchange:
        """Return what one shard writes and reads."""
        return Exchange(self.folder, LOSS_RECORD, 1, (shard,))

    def of_shard(self, shard: int) -> NDArray[np.void]:
        """Return the losses of a shard, LOSS_RECORD[m], in the order of its rows."""
        if self.numbering.is_settled(shard):
            return self.settled.of_shard(shard)
        rows = self.exchange.read(self.numbering.place(shard)) if self.writers else self.own(shard).read(0)
        return rows[np.argsort(rows["number"])]

    def winners(self, positions: UInt64) -> UInt64:
        """Return who stays in the place of each document; see `selectors.deduplicate.Duplicates`."""
        if not len(positions):
            return positions
        shard = int(positions[0] >> np.uint64(32))
        lost = self.of_shard(shard)
        rows = self.numbering.positions(lost["number"])
        place = np.searchsorted(rows, positions)
        inside = np.append(rows, ~np.uint64(0))[place] == positions
        winners = positions.copy()
        winners[inside] = self.numbering.positions(lost["winner"][place[inside]])
        return winners


def losses_url(run: Path | str, number: int, step: str) -> str:
    """Return where a run keeps what a step has dropped. number: the step's place in `select`."""
    return cuts_url(run, number, step).removesuffix(".npz") + ".duplicates.parquet"


def keep_losses(losses: Losses, url: str) -> tuple[Written, int]:
    """Write the losses of all new shards into a file of the run, in their order; returns it and its rows."""
    rows = 0

    def write(file: object) -> None:
        nonlocal rows
        with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
            waiting: list[pa.Table] = []
            for shard in losses.numbering.shards[losses.numbering.new :].tolist():
                waiting.append(_table(losses.of_shard(shard), losses.numbering))
                rows += len(waiting[-1])
                if sum(map(len, waiting)) >= ROW_GROUP_ROWS:
                    writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP_ROWS)
                    waiting = []
            writer.write_table(pa.concat_tables([SCHEMA.empty_table(), *waiting]), row_group_size=ROW_GROUP_ROWS)

    return write_atomically(url, write), rows


def _table(lost: NDArray[np.void], numbering: Numbering) -> pa.Table:
    columns = {}
    for prefix, numbers in (("", lost["number"]), ("winner_", lost["winner"])):
        positions = numbering.positions(numbers)
        columns[f"{prefix}part"] = positions >> np.uint64(32)
        columns[f"{prefix}row"] = positions & np.uint64(0xFFFFFFFF)
    columns["winner_key"] = np.ascontiguousarray(lost["winner_key"])
    return pa.table([columns[name] for name in SCHEMA.names], names=SCHEMA.names).cast(SCHEMA)


@dataclass(frozen=True)
class KeptLosses:
    """What a step dropped, as a finished run keeps it. url: see `losses_url`."""

    url: str

    def winners(self, positions: UInt64) -> UInt64:
        """Return who stays in the place of each document, one look-up each; see `selectors.deduplicate.Duplicates`."""
        return np.array([self._winner(int(position)) for position in positions], np.uint64)

    def _winner(self, position: int) -> int:
        wanted = (pc.field("part") == position >> 32) & (pc.field("row") == position & 0xFFFFFFFF)
        found = _read_kept(self.url, wanted).to_pylist()
        return found[0]["winner_part"] << 32 | found[0]["winner_row"] if found else position


def _read_kept(url: str, wanted: pc.Expression | None = None) -> pa.Table:
    """Read what a run keeps of a step's losses; raises TamisError where that cannot be read."""
    try:
        return pq.read_table(url, filters=wanted)
    except (OSError, pa.ArrowException) as error:
        raise TamisError(f"{url}: {one_line(error)}; `tamis verify` checks all files") from error
