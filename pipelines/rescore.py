"""Scores a sample of a finished run's documents anew, from their sources, and compares with what the run decided on."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.corpus import Corpus
from ..connectors.decisions import DecisionFiles
from ..connectors.errors import TamisError, one_line
from ..connectors.files import file_info
from ..connectors.keys import keyed_uniform
from ..connectors.opening import open_corpus
from ..connectors.run_directory import state_url
from ..connectors.score_store import load_arrays
from ..connectors.shards import Shard
from ..scoring.derived_scorer import DerivedScorer, derived_in_order
from ..scoring.scorer import Documents, Scorer
from .fit_and_score import learned_scorers
from .job import Job, Reporter
from .passes import Control, Result, Work, run_pass
from .reading import read_documents
from .runner import Engine
from .score import MAIN
from .since import dead_rows

SHARE = 0.01
"""Share of the documents that is scored anew, a keyed sample."""

SHARDS = 64
"""Shards that are read for it, of a larger corpus: about 2 GB, or 1 % of the shards where that is more. Of each shard
then as many documents are scored as make SHARE of the corpus."""


@dataclass
class Rescored:
    """What was found. documents: how many were scored anew, in so many shards."""

    findings: list[str] = field(default_factory=list)
    documents: int = 0
    shards: int = 0


@dataclass
class RescorePass(Work):
    """Scores sampled documents of shards and compares.

    run, manifest: of the finished run; share: of each shard's documents.
    """

    run: str
    manifest: Mapping[str, Any]
    corpus: Corpus
    scorers: Mapping[str, Scorer]
    share: float

    def do(self, shard: Shard, control: Control) -> Result:
        """Return the findings of one shard, and the number of its documents that were scored."""
        files = DecisionFiles(Path(self.run), self.manifest)
        name = f"decisions/part-{shard.index:06d}.parquet"
        findings: dict[str, int] = {}
        done = scored = 0
        decided = files.read(shard.index) if shard.index in files.shards else None
        columns = list(dict.fromkeys(column for scorer in self.scorers.values() for column in scorer.needs))
        for _, batch in read_documents(self.corpus, shard, columns):
            control.check()
            control.advance(size=batch.table.nbytes)
            keys = batch.documents.keys
            stored = None if decided is None else decided.slice(done, len(keys))
            done += len(keys)
            if stored is None or not np.array_equal(stored["key"].to_numpy(), keys):
                findings["keys"] = findings.get("keys", 0) + 1
                continue
            rows = np.flatnonzero(keyed_uniform(0, "verify", keys) < self.share)
            scored += len(rows)
            if len(rows):
                self._compare(batch.documents, stored, rows, findings)
        return {"findings": pa.table({"finding": _lines(name, findings, done, decided)}), "scored": np.array([scored])}

    def _compare(
        self, documents: Documents, stored: pa.Table, rows: NDArray[np.int64], findings: dict[str, int]
    ) -> None:
        """Score some documents of a batch and count, by column, those whose values differ from the stored ones."""
        chosen = pa.array(rows)
        table = None if documents.table is None else documents.table.take(chosen)
        groups = None if documents.groups is None else documents.groups.take(chosen)
        sample = Documents(documents.text.take(chosen), documents.keys[rows], groups, table)
        before = stored.take(chosen)
        compared = {"tokens": (pa.array(sample.tokens.counts), 0.0)}
        for score, scorer, arrays in _scored(self.scorers, sample):
            for column in (c for c in scorer.columns if c.is_number and not c.jumps):
                compared[column.named(score)] = (arrays[column.suffix], scorer.tolerance)
        for name, (values, tolerance) in compared.items():
            wrong = differing(values, before[name], tolerance)
            if wrong:
                findings[name] = findings.get(name, 0) + wrong


def _scored(scorers: Mapping[str, Scorer], documents: Documents) -> Iterator[tuple[str, Scorer, dict[str, pa.Array]]]:
    """Yield every score with its scorer and its columns; a derived one is given those that it works on."""
    derived = derived_in_order(scorers)
    primary: dict[str, pa.Array] = {}
    for score in [*(name for name in scorers if name not in derived), *derived]:
        scorer, given = scorers[score], documents
        if isinstance(scorer, DerivedScorer):
            table = pa.table({name: primary[name] for name in scorer.inputs.values()})
            given = Documents(documents.text, documents.keys, None, table)
        arrays = scorer.score(given)
        primary[score] = arrays[""]
        yield score, scorer, arrays


def differing(values: pa.Array, stored: pa.Array | pa.ChunkedArray, tolerance: float) -> int:
    """Count values that differ: by more than the tolerance, relative to the stored value where that is above 1.

    values, stored: numbers [n]; null equals null, and NaN NaN.
    """
    ours, theirs = (array.cast(pa.float64()).to_numpy(zero_copy_only=False) for array in _plain(values, stored))
    there = ~np.isnan(theirs)
    known = there & ~np.isnan(ours)
    other = known & (ours != theirs)
    finite = other & np.isfinite(ours) & np.isfinite(theirs)
    near = np.abs(ours[finite] - theirs[finite]) <= tolerance * np.maximum(np.abs(theirs[finite]), 1)
    return int(np.count_nonzero(other) - np.count_nonzero(near) + np.count_nonzero(there != ~np.isnan(ours)))


def _plain(*arrays: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return [pa.concat_arrays(a.chunks) if isinstance(a, pa.ChunkedArray) and a.num_chunks else a for a in arrays]


def _lines(name: str, findings: dict[str, int], read: int, decided: pa.Table | None) -> pa.Array:
    lines = [
        f"{name}: the source gives other documents than were decided about"
        if column == "keys"
        else f"{name}: {count:,} sampled documents get another `{column}` now"
        for column, count in findings.items()
    ]
    rows = 0 if decided is None else len(decided)
    if read != rows and "keys" not in findings:
        lines.append(f"{name}: {read:,} documents are read now where {rows:,} were decided about")
    return pa.array(lines, pa.string())


def check_sources(manifest: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Return a line for each source that is gone or is not what it was, by corpus and path."""
    findings = {}
    for source in manifest["sources"]:
        path = source["path"]
        try:
            line = "has changed since the run" if file_info(path).version != source["fingerprint"] else None
        except FileNotFoundError:
            line = "is gone"
        except (OSError, TamisError) as error:
            line = f"cannot be looked at: {one_line(error)}"
        if line is not None:
            findings[source["corpus"], path] = f"source {path} {line}"
    return findings


def rescore(run: Path, manifest: Mapping[str, Any], job: Job, engine: Engine, reporter: Reporter) -> Rescored:
    """Score a keyed sample of a run's documents anew, with its fitted states, and compare.

    Reads at most max(64, 1 % of all) shards of the corpus. When a file of the corpus changed, is gone or is new, the
    shards are others than those of the run: then nothing is scored, and a finding says so.
    """
    changed = check_sources(manifest)
    found = Rescored(findings=list(changed.values()))
    if any(corpus == MAIN for corpus, _ in changed):
        found.findings.append("no document was scored anew, since files of the corpus are not what they were")
        return found
    try:
        only = dead_rows(Path(manifest["since"]["run"])) if job.retry_dead else None
        known = {source["path"] for source in manifest["sources"] if source["corpus"] == MAIN}
        opened = open_corpus(
            MAIN,
            job.corpus,
            limit=job.limit,
            skip_unreadable=job.skip_unreadable,
            chosen=lambda file: file.url in known,  # a corpus may grow
            first_shard=manifest["shards"]["first"],
            only=only,
        )
        restore(run, job)
        shards = sampled(opened.shards)
        share = min(1.0, SHARE * len(opened.shards) / max(len(shards), 1))
        work = RescorePass(str(run), manifest, opened.corpus, job.scorers, share)
        reporter.begin("scoring anew", len(shards), sum(shard.bytes for shard in shards))
        try:
            with tempfile.TemporaryDirectory() as exchange:
                result = run_pass(work, shards, engine, exchange, reporter.update)
        finally:
            reporter.end()
    except TamisError as error:
        found.findings.append(f"no document was scored anew: {one_line(error)}")
        return found
    if result:
        lines = sorted(result["findings"]["finding"].to_pylist())
        found.findings += lines + (_other_scorers(manifest, job) if lines else [])
        found.documents, found.shards = int(result["scored"][0]), len(shards)
    return found


def _other_scorers(manifest: Mapping[str, Any], job: Job) -> list[str]:
    """Return a line for each scorer that is not what it was, which may be why scores differ."""
    then = {scorer["name"]: scorer["fingerprint"] for scorer in manifest["scorers"]}
    return [
        f"scores.{score}: its version, parameters, files or device are not those of the run"
        for score, scorer in job.scorers.items()
        if scorer.fingerprint != then.get(score)
    ]


def restore(run: Path, job: Job) -> None:
    """Prepare scorers, with the states that the run keeps; raises TamisError for what is gone or does not fit."""
    for scorer in job.scorers.values():
        scorer.prepare(job.corpus)
    for score, learned in learned_scorers(job).items():
        learned.restore(load_arrays(state_url(run, score)))


def sampled(shards: list[Shard]) -> list[Shard]:
    """Return the shards to be read: all of up to SHARDS, else a keyed choice."""
    wanted = max(SHARDS, -(-len(shards) // 100))
    if len(shards) <= wanted:
        return shards
    by_hash = sorted(shards, key=lambda shard: hashlib.sha256(f"verify:{shard.fingerprint}".encode()).digest())
    return sorted(by_hash[:wanted], key=lambda shard: shard.index)
