"""Reads the score files of a shard as the rows that decisions are made on."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..connectors import files
from ..connectors.atomic import write_atomically
from ..connectors.corpus import Corpus
from ..connectors.errors import TamisError
from ..connectors.score_store import Address, ScoreStore
from ..connectors.shards import Shard
from ..scoring.scorer import ScoreColumn, Scorer
from ..selectors.steps import Step
from ..selectors.vector_steps import Cover, VectorStep
from .score import PRIMARY, document_address, score_address


@dataclass(frozen=True)
class ScoreColumns:
    """Where a run's columns are. Small: sent to every worker.

    columns: for each score column of the run, the address and the column's name in the score files;
    groups_url: an Arrow file with the group names, sorted; a group's number is its place there; directions: of columns.
    """

    store: ScoreStore
    corpus: Corpus
    columns: dict[str, tuple[Address, str]]
    groups_url: str
    directions: Mapping[str, str] = field(default_factory=dict)

    def with_made(self, step: VectorStep, address: Address) -> ScoreColumns:
        """Return these and the column that a step has made."""
        made = self.columns | {step.name: (address, PRIMARY)}
        return replace(self, columns=made, directions={**self.directions, step.name: step.direction})

    def rows(self, shard: Shard, names: Iterable[str]) -> StoredRows:
        """Return a shard's rows with some score columns; what is not looked at is not read."""
        return StoredRows(self, shard, names)

    def stored(self, shard: Shard, names: Iterable[str], rows: int) -> dict[str, pa.ChunkedArray]:
        """Read score columns, each file once; rows: how many the shard has."""
        by_address: dict[Address, list[str]] = {}
        for name in dict.fromkeys(names):
            by_address.setdefault(self.columns[name][0], []).append(name)
        found: dict[str, pa.ChunkedArray] = {}
        for address, wanted in by_address.items():
            table = self.store.read_table(address, shard, [self.columns[name][1] for name in wanted])
            if len(table) != rows:
                url = self.store.url(address, shard)
                raise TamisError(f"{url}: {len(table)} scores for {rows} documents; delete it and run again")
            found |= {name: table[self.columns[name][1]] for name in wanted}
        return found


class StoredRows:
    """A shard's rows as `selectors.decide.Rows`; columns are read when they are looked at first."""

    def __init__(self, columns: ScoreColumns, shard: Shard, names: Iterable[str]) -> None:
        self._columns, self._shard = columns, shard
        self._address = document_address(columns.corpus)
        self._read: dict[str, pa.ChunkedArray] = {}
        self._rows = int(columns.store.read_metadata(self._address, shard)["rows"])
        stored = columns.stored(shard, names, self._rows)
        self.scores = {name: _floats(values) for name, values in stored.items()}

    def __len__(self) -> int:
        return self._rows

    @property
    def keys(self) -> NDArray[np.uint64]:
        """The documents' keys."""
        return self._document("key").to_numpy()

    @property
    def positions(self) -> NDArray[np.uint64]:
        """Shard and row."""
        return np.uint64(self._shard.index << 32) + np.arange(self._rows, dtype=np.uint64)

    @property
    def groups(self) -> NDArray[np.int64]:
        """Numbers of the groups."""
        return group_numbers(self._document("group"), load_groups(self._columns.groups_url))

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Tokens of the documents."""
        return self._document("tokens").to_numpy().astype(np.int64)

    def _document(self, column: str) -> pa.ChunkedArray:
        if column not in self._read:
            self._read[column] = self._columns.store.read_table(self._address, self._shard, [column])[column]
        return self._read[column]


def _floats(stored: pa.ChunkedArray) -> NDArray[np.float64]:
    values = stored.cast(pa.float64())
    return values.to_numpy() if not values.null_count else values.fill_null(np.nan).to_numpy()


def score_columns(scorers: dict[str, Scorer]) -> dict[str, tuple[Address, str]]:
    """Return, for each column that the scorers of a recipe add, where it is stored."""
    return {
        column.named(score): (score_address(scorer), column.suffix or PRIMARY)
        for score, scorer in scorers.items()
        for column in scorer.columns
    }


def made_column(step: VectorStep) -> ScoreColumn:
    """Return the column that a step makes; its name is the step's."""
    kind = pa.int64() if isinstance(step, Cover) else pa.float64()
    return ScoreColumn("", kind, step.unit, step.direction, f"made by the step {step.name}")


def made_columns(steps: Iterable[Step]) -> dict[str, ScoreColumn]:
    """Return the columns that steps make, by name."""
    return {step.name: made_column(step) for step in steps if isinstance(step, VectorStep)}


def save_groups(url: str, names: Sequence[str]) -> None:
    """Write the sorted group names for `load_groups`."""
    table = pa.table({"group": pa.array(names, pa.string())})

    def write(file: object) -> None:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    write_atomically(url, write)


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
