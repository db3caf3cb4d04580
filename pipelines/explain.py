"""What a finished run did with one document, and why.

Reads the run directory; imports no Beam, for it must be quick.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..connectors.corpus_config import CorpusConfig
from ..connectors.decisions import DecisionFiles, Place, Standing, compared, standings
from ..connectors.errors import TamisError, one_line
from ..connectors.keys import hash_bytes
from ..connectors.run_directory import cuts_url, read_manifest
from ..connectors.score_store import load_arrays
from ..selectors.decide import DecidedStep
from ..selectors.deduplicate import Deduplicate
from ..selectors.steps import RankStep, Step
from ..selectors.verdicts import Document, Verdict
from ..selectors.verdicts import verdicts as verdicts_of
from .losses import KeptLosses, losses_url
from .read_again import read_again
from .reading import PARENT_KEY

KEY = re.compile(r"[0-9a-f]{16}", re.IGNORECASE)

EXACT_VALUES = 2_000_000
"""Up to so many stored scores all are compared (0.2 s), of more only the sample that the run keeps."""

COPIES = 20
"""Copies of a document that are told one by one."""

DEAD_ROWS = 10_000
"""Dead letters that are searched for an id."""


class UnknownDocumentError(TamisError):
    """A run has no document with a key or id."""


@dataclass(frozen=True)
class Score:
    """One score of a document. corpus, group: where it stands; exact: among all documents, else among a sample."""

    name: str
    value: float | None
    unit: str
    direction: str
    corpus: Standing | None
    group: Standing | None
    exact: bool


@dataclass(frozen=True)
class Copy:
    """One document with the key that was asked for. output: data file and row there, None when dropped."""

    source: str
    row: int
    kept: bool
    reason: str | None
    weight: float
    output: tuple[str, int] | None


@dataclass(frozen=True)
class Winner:
    """The document that stayed in the place of a copy, or of one that is alike; a later step may have dropped it."""

    key: int
    source: str
    row: int
    kept: bool
    reason: str | None


@dataclass(frozen=True)
class Explanation:
    """What a run did with a document.

    id: what was asked for, where that was no key; copies: of the document, at most COPIES of `documents`; the other
    fields are about the first copy that was kept, else the first one: key, its place in `copies`, group, tokens, text,
    text_missing: why there is no text; scores; verdicts: of the steps, to the one that dropped it; lost_to: of what was
    dropped as a copy, the document that stayed instead.
    """

    id: str | None
    documents: int
    copies: list[Copy]
    key: int
    chosen: int
    group: str | None
    tokens: int
    text: str | None
    text_missing: str | None
    scores: list[Score]
    verdicts: list[Verdict]
    lost_to: Winner | None


def explain(
    run: Path, manifest: dict[str, Any], wanted: str, steps: Sequence[Step], corpus: CorpusConfig
) -> Explanation:
    """Explain what a run did with a document.

    wanted: its key in 16 hex digits, or its id; steps, corpus: of the run's recipe. Reads 8 bytes per document of the
    run, and as many per score where these are few. Raises TamisError when no document has that key or id.
    """
    files = DecisionFiles(run, manifest)
    keys = [_key_of(wanted)]
    if KEY.fullmatch(wanted):
        keys.insert(0, int(wanted, 16))
    places = files.find(keys, ["key"] if corpus.chunk is None else ["key", PARENT_KEY])
    if not places:
        raise UnknownDocumentError(_unknown(run, wanted, manifest, corpus))
    rows = [files.row(place) for place in places[:COPIES]]
    chosen = next((number for number, row in enumerate(rows) if row["kept"]), 0)
    row, place = rows[chosen], places[chosen]
    text, missing = _text(manifest, corpus, row)
    verdicts = _verdicts(run, manifest, steps, place, row)
    return Explanation(
        id=None if row["key"] == keys[0] and len(keys) > 1 else wanted,
        documents=len(places),
        copies=[_copy(files, *pair) for pair in zip(places, rows, strict=False)],
        key=row["key"],
        chosen=chosen,
        group=row["group"],
        tokens=row["tokens"],
        text=text,
        text_missing=missing,
        scores=_scores(run, manifest, files, row),
        verdicts=verdicts,
        lost_to=_winner(files, manifest, verdicts),
    )


def _winner(files: DecisionFiles, manifest: dict[str, Any], verdicts: Sequence[Verdict]) -> Winner | None:
    position = verdicts[-1].lost_to if verdicts else None
    if position is None:
        return None
    place = Place(position >> 32, position & 0xFFFFFFFF)
    while place.shard < manifest["shards"]["first"]:  # of a run that this one continues
        run = Path(manifest["since"]["run"])
        earlier = read_manifest(run)
        if earlier is None:
            raise TamisError(f"since: {run}, which holds the document that stayed, is gone")
        files, manifest = DecisionFiles(run, earlier), earlier
    row = files.row(place)
    return Winner(row["key"], row["source"], row["row"], row["kept"], row["reason"])


def _key_of(name: str) -> int:
    """Return the key of an id. Without an Arrow array: to make one of a list, Arrow imports pandas (0.4 s)."""
    content = np.frombuffer(name.encode(), np.uint8)
    return int(hash_bytes(np.array([0, len(content)]), content)[0])


def _copy(files: DecisionFiles, place: Place, row: dict[str, Any]) -> Copy:
    output = files.output(place) if row["kept"] else None
    return Copy(row["source"], row["row"], row["kept"], row["reason"], row["weight"], output)


def _text(manifest: dict[str, Any], corpus: CorpusConfig, row: dict[str, Any]) -> tuple[str | None, str | None]:
    versions = {s["path"]: s["fingerprint"] for s in manifest["sources"] if s["corpus"] == "corpus"}
    try:
        return read_again(corpus, row["source"], versions.get(row["source"], ""), row["row"], row["key"]), None
    except (TamisError, OSError) as error:
        return None, one_line(error)


def _scores(run: Path, manifest: dict[str, Any], files: DecisionFiles, row: dict[str, Any]) -> list[Score]:
    columns = [column for scorer in manifest["scorers"] for column in scorer["columns"] if column["name"] in row]
    values = {column["name"]: row[column["name"]] for column in columns}
    known = {name: float(value) for name, value in values.items() if value is not None}
    exact = len(known) * files.documents <= EXACT_VALUES or not (run / "sample.parquet").exists()
    if exact:
        corpus, group = files.standings(known, row["group"])
    else:
        sample = pq.read_table(run / "sample.parquet", columns=["group", *known])
        corpus, group = standings(known, compared(sample, known, row["group"] or ""))
    return [
        Score(name, value, column["unit"], column["direction"], corpus.get(name), group.get(name), exact)
        for column, (name, value) in zip(columns, values.items(), strict=True)
    ]


def _verdicts(
    run: Path, manifest: dict[str, Any], steps: Sequence[Step], place: Place, row: dict[str, Any]
) -> list[Verdict]:
    """Decide a document anew with the cuts that the run keeps."""
    names = pq.read_table(run / "fitted" / "groups.parquet")["group"]
    number = pc.index(names, row["group"] or "").as_py()
    needs = {column for step in steps for column in step.needs}
    scores = {name: np.array([np.nan if row[name] is None else row[name]], dtype=np.float64) for name in needs}

    def one(value: int, kind: type) -> NDArray[Any]:
        return np.array([value], dtype=kind)

    document = Document(
        keys=one(row["key"], np.uint64),
        positions=one(place.position, np.uint64),
        groups=one(number, np.int64),
        tokens=one(row["tokens"], np.int64),
        scores=scores,
    )
    decided = []
    for index, (step, report) in enumerate(zip(steps, manifest["steps"], strict=True)):
        if isinstance(step, Deduplicate):
            decided.append(DecidedStep(step, duplicates=KeptLosses(losses_url(run, index, step.name))))
            continue
        url = cuts_url(run, index, step.name)
        arrays = load_arrays(url) if isinstance(step, RankStep) else {}
        decided.append(DecidedStep.from_arrays(step, report["temperature"] or 1.0, arrays))
    return verdicts_of(document, decided, manifest["seed"])


def _unknown(run: Path, wanted: str, manifest: dict[str, Any], corpus: CorpusConfig) -> str:
    """Say in one line that there is no such document, and where it may have gone."""
    parts = [f"no document of {run} has the {'key or ' if KEY.fullmatch(wanted) else ''}id `{wanted}`"]
    if corpus.id is None:
        parts.append("its recipe names no `id`, so documents are known by their keys (16 hex digits, in decisions/)")
    dead = manifest["totals"]["dead"]["documents"]
    if dead:
        found = _dead(run, wanted)
        parts.append(found or f"{dead:,} could not be read: see dead_letters/ for their sources, rows and errors")
    if manifest["limit"] is not None:
        parts.append(f"the run read only the first {manifest['limit']:,} rows")
    return "; ".join(parts)


def _dead(run: Path, wanted: str) -> str | None:
    """Look for an id in what is kept of unreadable documents."""
    left = DEAD_ROWS
    for path in sorted((run / "dead_letters").glob("part-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=["source", "row", "error", "raw"]):
            hits = pc.match_substring(batch["raw"], wanted).fill_null(False)
            if pc.any(hits).as_py():
                row = batch.filter(hits).to_pylist()[0]
                return f"a dead letter holds these characters: {row['source']} row {row['row']}: {row['error']}"
            left -= len(batch)
            if left <= 0:
                return None
    return None
