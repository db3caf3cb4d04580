"""Runs that continue a run: its states and cuts, frozen, decide about the files that came since."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..connectors.errors import RecipeError, TamisError, one_line
from ..connectors.files import FileInfo
from ..connectors.opening import Ranges
from ..connectors.run_directory import EARLIER, MANIFEST, cuts_url, read_manifest, weights_url
from ..connectors.score_store import Address, load_arrays
from ..connectors.shards import Shard
from ..selectors.budget import GROUP
from ..selectors.cuts import Cuts
from ..selectors.decide import DecidedStep, Pick, decide, picked, with_scores
from ..selectors.drift import cut_drift
from ..selectors.steps import RankStep, Step
from ..selectors.vector_steps import Cover
from ..selectors.weigh import Uniform
from ..selectors.weigher import Weigher
from ..selectors.weighing import Weighing
from .candidates import RunPass, StoredStep, store_step
from .job import Job
from .passes import Control, Result, Work
from .score_columns import ScoreColumns
from .select import StepReport

DRIFT = 0.25
"""Change of the share that a frozen cut keeps, relative to that share, above which a run warns."""

END = 1 << 62
"""Row behind the last one of any file."""

BROKEN_OFF = re.compile(r"(truncated|damaged) \w+ stream")
"""What the dead letter of a compressed file that breaks off says."""

_FROZEN = ("seed", "corpus", "targets", "scores", "select", "weigh", "output")
"""Parts of the recipe that decide what a document is worth and how it is written, and may not change in a chain."""

_FREE = {"corpus": {"paths", "shard_bytes"}, "output": {"path"}}


@dataclass(frozen=True)
class Parent:
    """A run that is continued.

    manifest_sha256: of its manifest as it was read; read: state of every file that it or a run before it has read, by
    path; first_shard: number of the next shard, so that those of a chain count on.
    """

    path: Path
    manifest: dict[str, Any]
    manifest_sha256: str
    read: dict[str, str]
    first_shard: int

    def is_new(self, file: FileInfo) -> bool:
        """Return whether no run of the chain has read a file; raises RecipeError where it has changed since."""
        if file.url not in self.read:
            return True
        if self.read[file.url] != file.version:
            raise RecipeError(
                f"since: {file.url} has changed since {self.path} read it, and would be written twice; "
                "put new documents into new files, or run without `since`"
            )
        return False

    def earlier(self) -> pa.Table:
        """Return `read` as a table, to be kept with the run that continues this one."""
        return pa.table({"path": list(self.read), "fingerprint": list(self.read.values())})

    @property
    def groups(self) -> pa.Array:
        """Names of the groups, as its cuts number them."""
        return pq.read_table(self.path / "fitted" / "groups.parquet")["group"].combine_chunks()

    @property
    def made(self) -> dict[str, Address]:
        """Where the columns are that its steps have made, by name; scorers too, whose names none of these has."""
        return {one["name"]: Address(one["scorer"], one["fingerprint"]) for one in self.manifest["scorers"]}

    def weighing(self, weigher: Uniform | Weigher) -> Weighing | None:
        """Return what is fitted of its weights, which are those of the same weigher; None where all are 1."""
        url = Path(weights_url(self.path))
        return Weighing.from_json(weigher, url.read_text()) if url.exists() else None


def parent_of(job: Job) -> Parent | None:
    """Return the run that a job continues; raises RecipeError where it cannot."""
    if job.since is None:
        return None
    path = job.since
    manifest = read_manifest(path)
    if manifest is None:
        raise RecipeError(f"since: {path} holds no finished run; name one, or leave `since` out")
    if "shards" not in manifest:
        raise RecipeError(f"since: {path} was made by an older Tamis; run without `since` once")
    if job.limit is not None or manifest["limit"] is not None:
        raise RecipeError("since: goes with whole runs only, not with --limit")
    if key := changed_key(manifest["recipe"], job.recipe):
        raise RecipeError(f"since: `{key}` is not what it was in {path}; run without `since`", place=key)
    try:
        read: dict[str, str] = {}
        if manifest["since"] is not None:
            earlier = pq.read_table(path / EARLIER)
            read = dict(zip(earlier["path"].to_pylist(), earlier["fingerprint"].to_pylist(), strict=True))
        read |= {s["path"]: s["fingerprint"] for s in manifest["sources"] if s["corpus"] == "corpus"}
        digest = hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
    except (OSError, pa.ArrowException) as error:
        raise TamisError(f"since: {path}: {one_line(error)}; `tamis verify` checks all files") from error
    return Parent(path, manifest, digest, read, manifest["shards"]["end"])


def dead_rows(run: Path) -> dict[str, Ranges]:
    """Return the rows of each file that are dead letters of a run; where a file broke off, all from there on.

    Holds some 100 bytes per dead letter. Raises TamisError when they cannot be read.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    try:
        for path in sorted((run / "dead_letters").glob("part-*.parquet")):
            table = pq.read_table(path, columns=["source", "row", "stage", "error"])
            for row in table.to_pylist():
                lost = row["stage"] == "shard" or bool(BROKEN_OFF.search(row["error"]))
                found.setdefault(row["source"], []).append((row["row"], END if lost else row["row"] + 1))
    except (pa.ArrowException, OSError) as error:
        raise TamisError(f"since: {run}: {one_line(error)}; `tamis verify` checks all files") from error
    return {url: tuple(sorted(ranges)) for url, ranges in found.items()}


def changed_key(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Return the first key, dotted, in which two resolved recipes differ that may not differ in a chain."""
    for part in _FROZEN:
        free = _FREE.get(part, set())
        sides = [content.get(part) for content in (old, new)]
        plain = [{k: v for k, v in s.items() if k not in free} if isinstance(s, Mapping) else s for s in sides]
        if found := _difference(plain[0], plain[1], part):
            return found
    return None


def _difference(old: Any, new: Any, place: str) -> str | None:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        pairs = [(str(key), old.get(key), new.get(key)) for key in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(number), a, b) for number, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return None if old == new else place
    return next((found for key, a, b in pairs if (found := _difference(a, b, f"{place}.{key}"))), None)


def all_groups(parent: Parent, found: Sequence[str]) -> pa.Array:
    """Return the parent's groups as its cuts number them, and behind them those that are new."""
    known = parent.groups
    return pa.concat_arrays([known, pa.array(sorted(set(found) - set(known.to_pylist())), pa.string())])


def frozen_steps(
    parent: Parent, steps: Sequence[Step], groups: int, new_url: Callable[[], str]
) -> tuple[list[StoredStep], list[StepReport]]:
    """Return the steps as the parent has decided them. groups: how many there are now; new ones have no cut.

    The reports lack what is counted by `FrozenPass`.
    """
    decided, reports = [], []
    for number, (step, report) in enumerate(zip(steps, parent.manifest["steps"], strict=True)):
        reports.append(StepReport(step.name, step.method, temperature=report["temperature"]))
        if not isinstance(step, RankStep):
            decided.append(StoredStep(step, 1.0, None))
            continue
        reports[-1].cut_share = report["cut_share"]
        if report["cut_share"] is None and report["candidates"]:
            reports[-1].cut_share = report["kept"] / report["candidates"]
        arrays = load_arrays(cuts_url(parent.path, number, step.name))
        frozen = DecidedStep.from_arrays(step, report["temperature"] or 1.0, arrays)
        if step.divided_by == GROUP:
            frozen.picks = [Pick(_widened(p.take, groups), p.skip and _widened(p.skip, groups)) for p in frozen.picks]
            frozen.repeats = None if frozen.repeats is None else _padded(frozen.repeats, groups, 1)
        decided.append(store_step(frozen, new_url()))
    return decided, reports


def _widened(cuts: Cuts, groups: int) -> Cuts:
    """Return cuts for more groups, of which the new ones have nothing inside."""
    return Cuts(**{name: _padded(values, groups, 0) for name, values in cuts.to_arrays().items()})


def _padded(values: NDArray[Any], length: int, value: int) -> NDArray[Any]:
    return np.concatenate([values, np.full(length - len(values), value, values.dtype)])


@dataclass
class FrozenPass(Work):
    """Counts what each step sees and keeps."""

    columns: ScoreColumns
    seed: int
    steps: list[StoredStep]

    def do(self, shard: Shard, control: Control) -> Result:
        """Return candidates and kept documents of each step, int64[steps, 2]; zero for thresholds."""
        steps = [stored.load() for stored in self.steps]
        rows = self.columns.rows(shard, [name for decided in steps for name in decided.step.needs])
        counts = np.zeros((len(steps), 2), dtype=np.int64)
        for number, decided in enumerate(steps):
            if isinstance(decided.step, RankStep):
                candidates = with_scores(rows, decided.step, decide(rows, steps[:number], self.seed))
                counts[number] = len(candidates), np.count_nonzero(picked(rows, decided, candidates, self.seed))
        return {"counts": counts}


def count_frozen(
    columns: ScoreColumns, seed: int, steps: list[StoredStep], reports: list[StepReport], run_pass: RunPass
) -> None:
    """Enter into the reports what the frozen steps see and keep of the new documents."""
    counts = run_pass(FrozenPass(columns, seed, steps), "deciding as before")["counts"]
    for stored, report, (candidates, kept) in zip(steps, reports, counts.tolist(), strict=True):
        if isinstance(stored.step, RankStep):
            report.candidates, report.kept = candidates, kept
            if cut_drift(candidates, kept, report.cut_share) > DRIFT and not _is_rounding(stored, report):
                report.notes.append(drift_line(report))


def _is_rounding(stored: StoredStep, report: StepReport) -> bool:
    """Whether a step that keeps its share of each cluster over the whole chain misses it by what it rounds down."""
    if not isinstance(stored.step, Cover):
        return False
    clusters = len(stored.load().picks[0].take.kept)
    return abs((report.kept or 0) - (report.cut_share or 0) * (report.candidates or 0)) <= clusters


def drift_line(report: StepReport) -> str:
    """Say what a frozen cut keeps now, and what it kept when it was made."""
    now = (report.kept or 0) / max(report.candidates or 0, 1)
    return (
        f"{report.name}: the frozen cut keeps {now:.2%} of the new documents, where it kept "
        f"{report.cut_share or 0:.2%} when it was made; a run without `since` decides anew"
    )


def new_group_lines(parent: Parent, steps: Sequence[Step], groups: pa.Array) -> list[str]:
    """Warn of groups that came since and have no cut."""
    by_group = next((step.name for step in steps if isinstance(step, RankStep) and step.divided_by == GROUP), None)
    new = groups[len(parent.groups) :].to_pylist()
    if by_group is None or not new:
        return []
    named = ", ".join(f"`{name}`" for name in new[:5]) + (", …" if len(new) > 5 else "")
    return [
        f"{by_group}: groups that are new since {parent.path} have no cut, and none of their documents is kept: {named}"
    ]
