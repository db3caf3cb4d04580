"""Reads the score files of a shard as the rows that decisions are made on."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..connectors import files
from ..connectors.corpus import Corpus
from ..connectors.errors import TamisError
from ..connectors.score_store import Address, ScoreStore
from ..connectors.shards import Shard
from ..scoring.scorer import Scorer
from ..selectors.decide import Rows
from .score import PRIMARY, document_address, score_address


@dataclass(frozen=True)
class ScoreColumns:
    """Where a run's columns are. Small: sent to every worker.

    columns: for each score column of the run, the address and the column's name in the score files;
    groups_url: an Arrow file with the group names, sorted; a group's number is its place there.
    """

    store: ScoreStore
    corpus: Corpus
    columns: dict[str, tuple[Address, str]]
    groups_url: str

    def rows(self, shard: Shard, names: Iterable[str]) -> Rows:
        """Read a shard's rows with some score columns."""
        document = self.store.read_table(document_address(self.corpus), shard, ["key", "tokens", "group"])
        scores = {name: self._floats(shard, name, len(document)) for name in dict.fromkeys(names)}
        return Rows(
            keys=document["key"].to_numpy(),
            positions=np.uint64(shard.index << 32) + np.arange(len(document), dtype=np.uint64),
            groups=group_numbers(document["group"], load_groups(self.groups_url)),
            tokens=document["tokens"].to_numpy().astype(np.int64),
            scores=scores,
        )

    def stored(self, shard: Shard, name: str, rows: int) -> pa.ChunkedArray:
        """Read a score column as it is stored; rows: how many the shard has."""
        address, column = self.columns[name]
        values = self.store.read_table(address, shard, [column])[column]
        if len(values) != rows:
            url = self.store.url(address, shard)
            raise TamisError(f"{url}: {len(values)} scores for {rows} documents; delete it and run again")
        return values

    def _floats(self, shard: Shard, name: str, rows: int) -> NDArray[np.float64]:
        values = self.stored(shard, name, rows).cast(pa.float64())
        return values.to_numpy() if not values.null_count else values.fill_null(np.nan).to_numpy()


def score_columns(scorers: dict[str, Scorer]) -> dict[str, tuple[Address, str]]:
    """Return, for each column that the scorers of a recipe add, where it is stored."""
    return {
        column.named(score): (score_address(scorer), column.suffix or PRIMARY)
        for score, scorer in scorers.items()
        for column in scorer.columns
    }


def save_groups(url: str, names: Sequence[str]) -> None:
    """Write the sorted group names for `load_groups`."""
    table = pa.table({"group": pa.array(names, pa.string())})

    def write(file: object) -> None:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    files.write_atomically(url, write)


@functools.lru_cache(maxsize=4)
def load_groups(url: str) -> pa.Array:
    """Read the group names; kept in memory by each process, about the names' bytes."""
    with files.open_input(url) as source:
        return pa.ipc.open_file(source).read_all()["group"].combine_chunks()


def group_numbers(groups: pa.ChunkedArray, names: pa.Array) -> NDArray[np.int64]:
    """Return the number of each document's group, int64[n]; documents without a group are in the group ""."""
    encoded = groups.combine_chunks()
    if len(encoded) == 0:
        return np.zeros(0, dtype=np.int64)
    numbers = pc.index_in(encoded.dictionary.fill_null(""), names).fill_null(-1).to_numpy()
    none = pc.index_in(pa.array([""]), names)[0].as_py()
    codes = encoded.indices.fill_null(-1).to_numpy()
    known = numbers if len(numbers) else np.zeros(1, dtype=np.int64)
    return np.where(codes < 0, -1 if none is None else none, known[codes]).astype(np.int64)
