"""The manifest: what a run read, decided and wrote, in numbers that add up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..connectors.atomic import write_atomically
from ..connectors.errors import TamisError
from ..connectors.opening import Opened
from ..connectors.score_store import Address
from ..scoring.scorer import ScoreColumn
from ..selectors.decide import reasons_of
from .job import Job
from .passes import Result
from .score_columns import made_columns
from .select import StepReport
from .since import Parent
from .store_use import store_use
from .survey import KEYS_EXACT
from .weighing import Weights

GROUPS_IN_MANIFEST = 1000
"""More groups than that are written to a Parquet file instead."""

OF_GROUPS = ("effective_sample_size", "coefficient_of_variation", "pareto_k", "hill_index", "top_1_percent_share")
"""Figures of the weights that are given for each group."""


@dataclass
class Findings:
    """All that a run has found out.

    read: counts of all shards, targets too; shards: those of the main corpus; survey: the result of its pass; written:
    entries of `files`; similarity: figures of fitted scorers by score; counted: score columns, see `SurveyPass`;
    parent: the run that is continued; settled: fingerprints of shards of earlier runs that were needed; made: where the
    columns are that steps have made.
    """

    opened: dict[str, Opened]
    read: pa.Table
    shards: pa.Table
    group_names: pa.Array
    survey: Result
    written: list[dict[str, Any]]
    reports: Sequence[StepReport]
    weights: Weights
    similarity: dict[str, dict[str, float]]
    warnings: list[str]
    counted: list[str]
    parent: Parent | None
    settled: Sequence[str] = ()
    made: Mapping[str, Address] = field(default_factory=dict)


def totals(shards: pa.Table, survey: Result) -> dict[str, dict[str, int]]:
    """Return documents and tokens read, kept, dropped and dead; raises TamisError when they do not add up."""
    counted = survey["shards"]
    read = {
        "documents": _sum(shards, "documents") + _sum(shards, "dead"),
        "tokens": _sum(shards, "tokens"),
    }
    kept = {"documents": _sum(counted, "kept"), "tokens": _sum(counted, "kept_tokens")}
    dropped = {
        "documents": int(survey["reason_documents"].sum()),
        "tokens": int(survey["reason_tokens"].sum()),
    }
    dead = {"documents": _sum(shards, "dead"), "tokens": 0}
    for unit in ("documents", "tokens"):
        if read[unit] != kept[unit] + dropped[unit] + dead[unit]:
            parts = f"kept {kept[unit]}, dropped {dropped[unit]}, dead {dead[unit]}"
            raise TamisError(f"{unit} do not add up: read {read[unit]}, {parts}")
    return {"read": read, "kept": kept, "dropped": dropped, "dead": dead}


def check_written(totals: dict[str, dict[str, int]], found: Findings) -> None:
    """Raise TamisError unless the files hold exactly the kept, decided and dead documents, of each shard and in all."""
    rows: dict[str, int] = {}
    by_path = {}
    for file in found.written:
        by_path[file["path"]] = file["rows"]
        if file["rows"] is not None:
            kind = file["path"].split("/", 1)[0]
            rows[kind] = rows.get(kind, 0) + file["rows"]
    for shard in found.shards.select(["shard", "documents", "dead"]).to_pylist():
        for kind, count in (("decisions", shard["documents"]), ("dead_letters", shard["dead"])):
            name = f"{kind}/part-{shard['shard']:06d}.parquet"
            if by_path.get(name, 0) != count:
                raise TamisError(f"{name}: {by_path.get(name, 0)} rows were written where {count} were read")
    documents = {name: counts["documents"] for name, counts in totals.items()}
    expected = {
        "data": documents["kept"],
        "decisions": documents["kept"] + documents["dropped"],
        "dead_letters": documents["dead"],
    }
    for kind, count in expected.items():
        if rows.get(kind, 0) != count:
            raise TamisError(f"{kind}: {rows.get(kind, 0)} rows were written where {count} were decided")


def manifest(job: Job, found: Findings, folder: str, sources: str, timings: dict[str, float]) -> dict[str, Any]:
    """Return the manifest; with many groups, also write `groups.parquet`."""
    summed = totals(found.shards, found.survey)
    check_written(summed, found)
    groups = _groups(found)
    written = list(found.written)
    if groups.num_rows > GROUPS_IN_MANIFEST:
        done = write_atomically(f"{folder}/groups.parquet", lambda file: pq.write_table(groups, file))
        written.append({"path": "groups.parquet", "rows": groups.num_rows, **asdict(done)})
    reasons = reasons_of(job.steps)
    first = found.parent.first_shard if found.parent else 0
    use = store_use(job, found.opened, job.scorers.values(), found.settled, found.made.values())
    return {
        "tamis_version": version("tamis"),
        "recipe": job.recipe,
        "recipe_fingerprint": job.fingerprint,
        "sources_fingerprint": sources,
        "seed": job.seed,
        "limit": job.limit,
        "totals": summed,
        "reasons": {
            reason: {"documents": int(documents), "tokens": int(tokens)}
            for reason, documents, tokens in zip(
                reasons, found.survey["reason_documents"], found.survey["reason_tokens"], strict=True
            )
            if documents
        },
        "groups": groups.to_pylist() if groups.num_rows <= GROUPS_IN_MANIFEST else "groups.parquet",
        "steps": [asdict(report) for report in found.reports],
        "similarity": found.similarity,
        "above_zero": {
            name: {"read": int(read), "kept": int(kept)}
            for name, (read, kept) in zip(found.counted, found.survey["above_zero"].tolist(), strict=True)
        },
        "weights": found.weights.run.figures(),
        "duplicate_keys": _duplicate_keys(found.survey, summed),
        "warnings": found.warnings,
        "files": sorted(written, key=lambda file: str(file["path"])),
        "sources": _sources(found),
        "unreadable": [
            *(line for opened in found.opened.values() for line in opened.unreadable),
            *(error for errors in found.shards["unreadable"].to_pylist() for error in errors),
        ],
        "scorers": [
            *(_scorer(score, scorer.name, scorer.fingerprint, scorer.columns) for score, scorer in job.scorers.items()),
            *(
                _scorer(name, found.made[name].name, found.made[name].fingerprint, [column])
                for name, column in made_columns(job.steps).items()
            ),
        ],
        "since": found.parent and {"run": str(found.parent.path), "manifest_sha256": found.parent.manifest_sha256},
        "shards": {"first": first, "end": first + len(found.opened["corpus"].shards)},
        "store_addresses": use.addresses,
        "store_shards": use.shards,
        "timings": {name: round(seconds, 3) for name, seconds in timings.items()},
    }


def _scorer(score: str, name: str, fingerprint: str, columns: Iterable[ScoreColumn]) -> dict[str, Any]:
    """Return the entry of a scorer, or of a step that makes a column."""
    described = [
        {"name": c.named(score), "type": str(c.type), "unit": c.unit, "direction": c.direction} for c in columns
    ]
    return {"name": score, "scorer": name, "fingerprint": fingerprint, "columns": described}


def _sum(table: pa.Table, column: str) -> int:
    return int(np.sum(table[column].to_numpy(), dtype=np.int64))


def _groups(found: Findings) -> pa.Table:
    counts = found.survey["groups"].sort_by("group")
    numbers = counts["group"].combine_chunks()
    for name in OF_GROUPS if found.weights.of_groups else ():
        of_groups = [found.weights.of_groups[number] for number in numbers.to_pylist()]
        figures = [None if summary is None else summary.figures()[name] for summary in of_groups]
        counts = counts.append_column(name, pa.array(figures, pa.float64()))
    return counts.set_column(0, "group", found.group_names.take(numbers))


def _duplicate_keys(survey: Result, summed: dict[str, dict[str, int]]) -> dict[str, Any]:
    """Documents whose key occurs in an earlier one; estimated where there are too many keys to gather."""
    keys = np.sort(survey["keys"]["key"].to_numpy())
    alive = summed["kept"]["documents"] + summed["dropped"]["documents"]
    duplicates = np.count_nonzero(keys[1:] == keys[:-1])
    exact = alive <= KEYS_EXACT
    scale = 1.0 if exact or not len(keys) else alive / len(keys)
    return {"documents": round(duplicates * scale), "exact": exact}


def _sources(found: Findings) -> list[dict[str, Any]]:
    """One entry per file of each corpus, with its state and the rows that were read of it."""
    entries = {
        (name, file.url): {"corpus": name, "path": file.url, "fingerprint": file.version, "rows": 0}
        for name, opened in found.opened.items()
        for file in opened.files
    }
    counts = {(row["corpus"], row["shard"]): row for row in found.read.to_pylist()}
    for name, opened in found.opened.items():
        for shard in opened.shards:
            counted = counts[name, shard.index]
            piece_rows = counted["piece_rows"] if shard.only is None else [counted["parents"] + counted["dead"]]
            for piece, rows in zip(shard.pieces, piece_rows, strict=True):
                entries[name, piece.url]["rows"] += rows
    return list(entries.values())
