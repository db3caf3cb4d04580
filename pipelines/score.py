"""The passes that read documents: statistics for fitting, and scores, one file per shard in the score store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..connectors import files
from ..connectors.corpus import Corpus
from ..connectors.errors import TamisError
from ..connectors.keys import hash_bytes
from ..connectors.records import DeadRow
from ..connectors.score_store import Address, ScoreStore
from ..connectors.shards import Shard
from ..scoring.document import document_columns, document_fingerprint
from ..scoring.scorer import FittedScorer, Scorer, Statistic, digest
from .passes import Control, Result, Work, merge_results
from .reading import PARENT_KEY, POSITION, Batch, read_documents

DEAD_SCHEMA = pa.schema(
    [("piece", pa.int32()), ("row", pa.int64()), ("stage", pa.string()), ("error", pa.string()), ("raw", pa.binary())]
)
DOCUMENT_SCHEMA = pa.schema(
    [
        ("piece", pa.int32()),
        ("row", pa.int64()),
        ("key", pa.uint64()),
        ("text_hash", pa.uint64()),
        ("tokens", pa.int32()),
        ("bytes", pa.int64()),
        ("group", pa.dictionary(pa.int32(), pa.string())),
    ]
)
MAIN = "corpus"
"""Name of the corpus that is selected from, among the corpora of a run."""

PRIMARY = "score"
"""Name of a scorer's primary column in its score files, where the recipe's name for it is not known."""


def document_address(corpus: Corpus) -> Address:
    """Return where the `document` columns of a corpus are stored."""
    return Address("document", _document_fingerprint(corpus))


def dead_address(corpus: Corpus) -> Address:
    """Return where the unreadable documents of a corpus are stored; a shard without any has no file."""
    return Address("dead", _document_fingerprint(corpus))


def _document_fingerprint(corpus: Corpus) -> str:
    return document_fingerprint(corpus.config.id, corpus.config.group, corpus.config.chunk)


def document_schema(corpus: Corpus) -> pa.Schema:
    """Return the columns that are stored of every document, in any corpus and of pieces."""
    pieces = [(PARENT_KEY, pa.uint64()), (POSITION, pa.int32())] if corpus.config.chunk is not None else []
    return pa.schema([*DOCUMENT_SCHEMA, *pieces])


def score_address(scorer: Scorer) -> Address:
    """Return where a scorer's columns are stored."""
    return Address(scorer.name, scorer.fingerprint)


def statistic_address(scorer: FittedScorer, corpus: Corpus) -> Address:
    """Return where a fitted scorer's statistics of shards are stored; apart of a target, of which none is sampled."""
    return Address(f"{scorer.name}-statistic", digest(scorer.statistic_fingerprint, corpus.name == MAIN))


@dataclass
class ScorePass(Work):
    """Reads shards and stores what is asked for and not stored yet.

    corpora: by name, `corpus` or `targets.NAME`; an element is (name of its corpus, shard). statistics, scorers: by
    name of the score; targets are read only for the statistics of the scorers that name them.
    """

    store: ScoreStore
    corpora: dict[str, Corpus]
    statistics: dict[str, FittedScorer] = field(default_factory=dict)
    scorers: Mapping[str, Scorer] = field(default_factory=dict)

    def do(self, element: tuple[str, Shard], control: Control) -> Result:
        """Store what the shard lacks; return its counts, its groups, and its statistics by score and corpus."""
        name, shard = element
        corpus = self.corpora[name]
        statistics = {
            score: scorer
            for score, scorer in self.statistics.items()
            if (scorer.fits_corpus if name == MAIN else name.removeprefix("targets.") in scorer.targets)
        }
        reading = _Reading(self.store, corpus, shard, list(statistics.values()), self._scorers_for(name))
        if reading.lacks_something:
            reading.run(control)
        result = stored_counts(self.store, corpus, shard)
        result["damaged"] = pa.table({"file": pa.array(reading.damaged, pa.string())})
        for score, scorer in statistics.items():
            arrays = self.store.read_arrays(statistic_address(scorer, corpus), shard)
            result |= {f"statistic {score} {name} {key}": value for key, value in arrays.items()}
        return result

    def merge(self, results: list[Result]) -> Result:
        """Add statistics, concatenate the shards' counts, and add up groups."""
        merged = merge_results(results)
        for score, scorer in self.statistics.items():
            for name in self.corpora:
                if statistic := merged_statistic(merged, score, name):
                    small = scorer.trimmed(statistic)
                    merged |= {f"statistic {score} {name} {key}": value for key, value in small.items()}
        return merged | {"groups": add_up(merged["groups"], "group")}

    def _scorers_for(self, name: str) -> list[Scorer]:
        return list(self.scorers.values()) if name == MAIN else []


def merged_statistic(result: Result, score: str, corpus: str) -> Statistic:
    """Return the statistics of one corpus for one score from a merged result."""
    prefix = f"statistic {score} {corpus} "
    return {key.removeprefix(prefix): value for key, value in result.items() if key.startswith(prefix)}


def add_up(table: pa.Table, by: str) -> pa.Table:
    """Add up all other columns of a table for each value of one."""
    others = [name for name in table.column_names if name != by]
    sums = table.group_by(by, use_threads=False).aggregate([(name, "sum") for name in others])
    return sums.select([by, *(f"{name}_sum" for name in others)]).rename_columns([by, *others])


def stored_counts(store: ScoreStore, corpus: Corpus, shard: Shard) -> Result:
    """Return a stored shard's counts (table `shards`, one row) and its groups (table `groups`)."""
    address = document_address(corpus)
    facts = store.read_metadata(address, shard)
    counted = facts["parents"] + facts["dead"]
    if shard.rows is not None and counted != shard.rows and not facts["unreadable"]:
        raise TamisError(f"{shard.pieces[0].url}: {counted} rows were read where the footer says {shard.rows}")
    columns = store.read_table(address, shard, ["group", "tokens", "bytes"])
    groups = pa.table(
        {
            "group": columns["group"].cast(pa.string()).fill_null(""),
            "documents": pa.repeat(pa.scalar(1, pa.int64()), len(columns)),
            "tokens": columns["tokens"].cast(pa.int64()),
        }
    )
    shards = pa.table(
        {
            "corpus": [corpus.name],
            "shard": pa.array([shard.index], pa.int64()),
            "documents": pa.array([len(columns)], pa.int64()),
            "parents": pa.array([facts["parents"]], pa.int64()),
            "tokens": pa.array([pc.sum(columns["tokens"]).as_py() or 0], pa.int64()),
            "bytes": pa.array([pc.sum(columns["bytes"]).as_py() or 0], pa.int64()),
            "dead": pa.array([facts["dead"]], pa.int64()),
            "piece_rows": pa.array([facts["piece_rows"]], pa.list_(pa.int64())),
            "unreadable": pa.array([facts["unreadable"]], pa.list_(pa.string())),
        }
    )
    return {"shards": shards, "groups": add_up(groups, "group")}


class _Reading:
    """One reading of a shard, in which all that it lacks is computed."""

    def __init__(
        self, store: ScoreStore, corpus: Corpus, shard: Shard, statistics: list[FittedScorer], scorers: list[Scorer]
    ) -> None:
        self.store, self.corpus, self.shard = store, corpus, shard
        self.document = document_address(corpus)
        self.damaged: list[str] = []
        facts = self._stored(self.document)
        # what broke off may have healed since: it is read again in every run
        broken = facts is not None and bool(facts["unreadable"])
        self.lacks_document = broken or facts is None or not self._has_dead(facts["dead"])
        keys = None if facts is None or broken else facts["keys"]
        addressed_statistics = {statistic_address(scorer, corpus): scorer for scorer in statistics}
        addressed_scores = {score_address(scorer): scorer for scorer in scorers}
        self.statistics = {a: s for a, s in addressed_statistics.items() if broken or not self._has_arrays(a)}
        self.scorers = addressed_scores
        self.unsure: list[Scorer] = []  # whose stored scores fit, if the keys turn out to be those that they are of
        if keys is not None:
            self.scorers = {a: s for a, s in addressed_scores.items() if not self._fits(a, keys)}
        elif not broken:
            self.scorers = {a: s for a, s in addressed_scores.items() if self._stored(a) is None}
            self.unsure = [s for a, s in addressed_scores.items() if a not in self.scorers]
        self.keys: list[NDArray[np.uint64]] = []
        self.sums = {address: scorer.start() for address, scorer in self.statistics.items()}
        self.columns: dict[Address, list[dict[str, pa.Array]]] = {address: [] for address in self.scorers}
        self.document_columns: list[dict[str, pa.Array]] = []
        self.dead: list[tuple[int, DeadRow]] = []
        self.piece_rows = [0] * len(shard.pieces)
        self.parents = 0

    def _stored(self, address: Address) -> dict[str, Any] | None:
        """Return a stored file's facts; a damaged one counts as none, and is noted."""
        try:
            return self.store.checked(address, self.shard)
        except TamisError as error:
            self.damaged.append(str(error))
            return None

    def _has_dead(self, count: int) -> bool:
        """Whether so many dead letters are stored."""
        if not count:
            return True
        facts = self._stored(dead_address(self.corpus))
        return facts is not None and facts["rows"] == count

    def _fits(self, address: Address, keys: str) -> bool:
        """Whether scores are stored, for the documents with these keys."""
        facts = self._stored(address)
        if facts is not None and facts.get("keys") != keys:
            self.damaged.append(f"{self.store.url(address, self.shard)}: of other documents than those of the shard")
            return False
        return facts is not None

    def _has_arrays(self, address: Address) -> bool:
        if not self.store.has(address, self.shard, "npz"):
            return False
        try:
            self.store.read_arrays(address, self.shard)
        except TamisError as error:
            self.damaged.append(str(error))
            return False
        return True

    @property
    def lacks_something(self) -> bool:
        return self.lacks_document or bool(self.statistics) or bool(self.scorers)

    def run(self, control: Control) -> None:
        """Read the shard and store what it lacks; the `document` columns last, for they stand for the shard."""
        needs = [name for scorer in self.scorers.values() for name in scorer.needs]
        response = self.corpus.config.response  # a target may be of plain texts
        needs += [name for scorer in self.statistics.values() for name in scorer.needs if name == response]
        if self.corpus.name != MAIN:
            needs += [name for scorer in self.statistics.values() for name in scorer.target_needs]
        for piece, batch in read_documents(self.corpus, self.shard, needs):
            control.check()
            self._add(piece, batch)
            control.advance(size=batch.table.nbytes)
        self._store()
        if self.unsure:
            again = _Reading(self.store, self.corpus, self.shard, [], self.unsure)
            self.damaged += again.damaged
            if again.lacks_something:
                again.run(control)

    def _add(self, piece: int, batch: Batch) -> None:
        self.piece_rows[piece] = batch.next_row
        self.parents += batch.parents
        self.dead += [(piece, row) for row in batch.dead]
        documents = batch.documents
        self.keys.append(documents.keys)
        for address, statistic_scorer in self.statistics.items():
            statistic_scorer.update(self.sums[address], documents, of_corpus=self.corpus.name == MAIN)
        for address, scorer in self.scorers.items():
            self.columns[address].append(scorer.score(documents))
        if self.lacks_document:
            place = {"piece": pa.repeat(pa.scalar(piece, pa.int32()), len(documents)), "row": pa.array(batch.rows)}
            if batch.positions is not None:
                place |= {PARENT_KEY: pa.array(batch.parent_keys), POSITION: pa.array(batch.positions)}
            text_is_key = self.corpus.config.id is None and batch.positions is None
            self.document_columns.append(place | document_columns(documents, text_is_key))

    def _store(self) -> None:
        for address, sums in self.sums.items():
            self.store.write_arrays(address, self.shard, sums)
        keys = keys_digest(self.keys)
        for address, batches in self.columns.items():
            schema = pa.schema([column.field(column.suffix or PRIMARY) for column in self.scorers[address].columns])
            named = [{suffix or PRIMARY: array for suffix, array in batch.items()} for batch in batches]
            self.store.write_table(address, self.shard, _table(named, schema), {"keys": keys})
        if not self.lacks_document:
            return
        files.delete(self.store.url(dead_address(self.corpus), self.shard))  # of a reading that broke off
        if self.dead:
            rows = [{"piece": piece, **asdict(row)} for piece, row in self.dead]
            self.store.write_table(dead_address(self.corpus), self.shard, pa.Table.from_pylist(rows, DEAD_SCHEMA), {})
        table = _table(self.document_columns, document_schema(self.corpus))
        unreadable = [row.error for _, row in self.dead if row.stage == "shard"]
        counts = {"parents": self.parents, "dead": len(self.dead), "piece_rows": self.piece_rows}
        facts = {**counts, "unreadable": unreadable, "keys": keys}
        self.store.write_table(self.document, self.shard, table, facts)


def keys_digest(keys: list[NDArray[np.uint64]]) -> str:
    """Return 16 hex digits over the keys of documents in their order."""
    joined = np.concatenate([np.zeros(0, np.uint64), *keys]).astype("<u8")
    (value,) = hash_bytes(np.array([0, joined.nbytes]), joined.view(np.uint8))
    return f"{value:016x}"


def _table(batches: list[dict[str, pa.Array]], schema: pa.Schema) -> pa.Table:
    """Put batches of columns together, in the schema's order and types."""
    tables = [pa.table([batch[name] for name in schema.names], names=schema.names).cast(schema) for batch in batches]
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks() if tables else schema.empty_table()
