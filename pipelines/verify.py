"""Checks of a finished run against itself: its files, its totals, and its decisions against its data.

Every finding is one line that names what is wrong. Read file by file: of decisions those of one shard are held, of
data files a batch of keys and weights.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from ..connectors.decisions import DATA, DecisionFiles
from ..connectors.errors import TamisError, one_line
from ..connectors.run_directory import EARLIER, LOG, MANIFEST, SEAL, seal

RECIPE = "recipe.yaml"
UNLISTED = {MANIFEST, RECIPE, LOG, "report.html"}
"""Files of a run that its manifest does not list."""

BATCH_ROWS = 1 << 17
UNITS = ("documents", "tokens")


@dataclass
class Counts:
    """What the decision files say: documents and tokens kept, dropped by reason, and by group."""

    kept: dict[str, int] = field(default_factory=lambda: dict.fromkeys(UNITS, 0))
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    groups: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, table: pa.Table) -> None:
        """Count the decisions of a shard."""
        plain = pa.table(
            {
                "group": table["group"].cast(pa.string()).fill_null(""),
                "reason": table["reason"].cast(pa.string()),
                "tokens": table["tokens"].cast(pa.int64()),
            }
        )
        counted = plain.group_by(["group", "reason"]).aggregate([("tokens", "count"), ("tokens", "sum")]).to_pylist()
        for row in counted:
            documents, tokens = row["tokens_count"], row["tokens_sum"]
            group = self.groups.setdefault(row["group"], dict.fromkeys((*UNITS, "kept", "kept_tokens"), 0))
            parts = [(group, "documents", "tokens")]
            if row["reason"] is None:
                parts += [(group, "kept", "kept_tokens"), (self.kept, *UNITS)]
            else:
                parts.append((self.reasons.setdefault(row["reason"], dict.fromkeys(UNITS, 0)), *UNITS))
            for counts, of_documents, of_tokens in parts:
                counts[of_documents] += documents
                counts[of_tokens] += tokens


def check_files(run: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Compare files with the manifest: all there, of the recorded bytes, rows and SHA-256, and none besides."""
    listed = manifest["files"]
    inside = [file for file in listed if ".." not in PurePosixPath(file["path"]).parts and file["path"][:1] != "/"]
    findings = [
        f"{file['path']}: the manifest lists a file outside of the run" for file in listed if file not in inside
    ]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        for lines in pool.map(lambda file: _check_file(run, file), inside):
            findings += lines
    known = {file["path"] for file in inside} | UNLISTED
    found = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if not path.is_dir())
    findings += [f"{path}: the manifest does not know this file" for path in found if path not in known]
    if seal(dict(manifest))[SEAL] != manifest.get(SEAL):
        findings.append(f"{MANIFEST}: its content is not what was written (another SHA-256)")
    return findings + _check_recipe(run, manifest)


def _check_file(run: Path, file: Mapping[str, Any]) -> list[str]:
    name, path = file["path"], run / file["path"]
    try:
        with path.open("rb") as content:
            size, digest = os.fstat(content.fileno()).st_size, hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        return [f"{name}: {'is missing' if isinstance(error, FileNotFoundError) else one_line(error)}"]
    if size != file["bytes"]:
        return [f"{name}: has {size:,} bytes where the manifest says {file['bytes']:,}"]
    if digest != file["sha256"]:
        return [f"{name}: its content is not what was written (another SHA-256)"]
    if name.endswith(".parquet"):
        try:
            rows = pq.read_metadata(path).num_rows
        except (pa.ArrowException, OSError) as error:
            return [f"{name}: is no Parquet file: {one_line(error)}"]
        if rows != file["rows"]:
            return [f"{name}: has {rows:,} rows where the manifest says {file['rows']:,}"]
    return []


def _check_recipe(run: Path, manifest: Mapping[str, Any]) -> list[str]:
    try:
        recipe = yaml.safe_load((run / RECIPE).read_bytes())
    except FileNotFoundError:
        return [f"{RECIPE}: is missing"]
    except (OSError, yaml.YAMLError, ValueError) as error:
        return [f"{RECIPE}: {one_line(error)}"]
    return [] if recipe == manifest["recipe"] else [f"{RECIPE}: is not the recipe of the manifest"]


def check_decisions(run: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Check that totals add up, that the decisions give these totals, and that the data files hold what was kept."""
    files, counts = DecisionFiles(run, manifest), Counts()
    data = _DataFiles(run, [file["path"] for file in manifest["files"] if DATA.fullmatch(file["path"])])
    findings: list[str] = []
    for shard in files.shards:
        try:
            table = files.read(shard)
            counts.add(table)
            findings += _check_shard(table, f"decisions/part-{shard:06d}.parquet", data)
        except (TamisError, pa.ArrowException, OSError, KeyError) as error:
            return [
                *findings,
                *_check_sums(run, manifest),
                f"decisions could not be compared further: {one_line(error)}",
            ]
    left = data.rows_left()
    findings += [f"{data.name}: {left:,} rows are left over when all kept documents are found"] if left else []
    return findings + _check_sums(run, manifest) + _check_counts(run, manifest, counts)


def _check_shard(table: pa.Table, name: str, data: _DataFiles) -> list[str]:
    """Check one shard's decisions in themselves, and against the next rows of the data files."""
    kept = table["kept"].combine_chunks()
    weights = table["weight"].to_numpy()
    findings = []
    reasoned = int(pc.sum(pc.equal(kept, table["reason"].is_valid().combine_chunks())).as_py() or 0)
    if reasoned:
        findings.append(f"{name}: {reasoned:,} documents are kept with a reason, or dropped without")
    weighed = np.count_nonzero((weights != 0) & ~kept.to_numpy(zero_copy_only=False))
    if weighed:
        findings.append(f"{name}: {weighed:,} dropped documents have a weight")
    return findings + data.compare(table.filter(kept), name)


class _DataFiles:
    """The rows of all data files, one after another. name: of the file that was read last."""

    def __init__(self, run: Path, names: Sequence[str]) -> None:
        self.run, self.names, self.name = run, sorted(names), "data"
        self._batches = self._read()
        self._rest: pa.Table | None = None

    def _read(self) -> Iterator[pa.Table]:
        for name in self.names:
            self.name = name
            with pq.ParquetFile(self.run / name, pre_buffer=False) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=["key", "weight"], use_threads=False):
                    yield pa.Table.from_batches([batch])

    def compare(self, kept: pa.Table, decisions: str) -> list[str]:
        """Compare the kept documents of a decision file with as many rows, in order; returns at most one finding."""
        done = wrong = 0
        while done < len(kept):
            if self._rest is None or not len(self._rest):
                self._rest = next(self._batches, None)
            if self._rest is None:
                return [f"{decisions}: {len(kept) - done:,} kept documents are in no data file"]
            part = self._rest.slice(0, len(kept) - done)
            self._rest = self._rest.slice(len(part))
            ours = kept.slice(done, len(part))
            same = [ours[column].to_numpy() == part[column].to_numpy() for column in ("key", "weight")]
            wrong += len(part) - int(np.count_nonzero(same[0] & same[1]))
            done += len(part)
        return [f"{self.name}: {wrong:,} rows have other keys or weights than {decisions}"] if wrong else []

    def rows_left(self) -> int:
        """Return how many rows were not compared."""
        return (len(self._rest) if self._rest is not None else 0) + sum(len(batch) for batch in self._batches)


def _check_sums(run: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Check that the manifest's own figures add up."""
    totals, findings = manifest["totals"], []
    rows: dict[str, int] = {}
    for file in manifest["files"]:
        kind = file["path"].split("/", 1)[0]
        rows[kind] = rows.get(kind, 0) + (file["rows"] or 0)
    for unit in UNITS:
        read, kept, dropped, dead = (totals[name][unit] for name in ("read", "kept", "dropped", "dead"))
        if read != kept + dropped + dead:
            findings.append(f"totals: {read:,} {unit} read, but {kept:,} kept + {dropped:,} dropped + {dead:,} dead")
        by_reason = sum(reason[unit] for reason in manifest["reasons"].values())
        if by_reason != dropped:
            findings.append(f"reasons: {by_reason:,} {unit} by reason, but {dropped:,} dropped in the totals")
    groups = _groups(run, manifest)
    for name, total in (("documents", "alive"), ("tokens", "alive"), ("kept", "kept"), ("kept_tokens", "kept")):
        unit = "tokens" if "tokens" in name else "documents"
        expected = totals["kept"][unit] + (totals["dropped"][unit] if total == "alive" else 0)
        found = sum(group[name] for group in groups.values())
        if found != expected:
            findings.append(f"groups: {found:,} by group ({name}), but {expected:,} in the totals")
    documents = {name: counts["documents"] for name, counts in totals.items()}
    wanted = {"data": documents["kept"], "decisions": documents["read"] - documents["dead"]}
    for kind, expected in (wanted | {"dead_letters": documents["dead"]}).items():
        if rows.get(kind, 0) != expected:
            findings.append(f"{kind}: {rows.get(kind, 0):,} rows in its files, but {expected:,} in the totals")
    return findings


def _check_counts(run: Path, manifest: Mapping[str, Any], counts: Counts) -> list[str]:
    """Compare the manifest's figures with those of the decision files."""
    findings = []
    kept = manifest["totals"]["kept"]
    if counts.kept != {unit: kept[unit] for unit in UNITS}:
        findings.append(f"totals: kept {_figures(kept)}, but {_figures(counts.kept)} in the decisions")
    of_manifest = {"reason": manifest["reasons"], "group": _groups(run, manifest)}
    for what, of_decisions in (("reason", counts.reasons), ("group", counts.groups)):
        named = of_manifest[what]
        for name in sorted(named.keys() | of_decisions.keys()):
            ours, theirs = named.get(name, {}), of_decisions.get(name, {})
            if any(ours.get(key) != value for key, value in theirs.items()) or (not theirs and any(ours.values())):
                findings.append(f"{what} {name or '(none)'}: {_figures(ours)}, but {_figures(theirs)} in the decisions")
    return findings


def _groups(run: Path, manifest: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    groups = manifest["groups"]
    rows = pq.read_table(run / "groups.parquet").to_pylist() if isinstance(groups, str) else groups
    return {row["group"]: {key: value for key, value in row.items() if isinstance(value, int)} for row in rows}


def _figures(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{key} {value:,}" for key, value in counts.items()) or "none"


def check_link(run: Path, manifest: Mapping[str, Any], parent: Path, earlier: Mapping[str, Any]) -> list[str]:
    """Check that a run goes on where the run that it names left off. earlier: manifest of that, at `parent`."""
    findings = []
    if hashlib.sha256((parent / MANIFEST).read_bytes()).hexdigest() != manifest["since"]["manifest_sha256"]:
        findings.append(f"since: {parent} is not the run that was continued (its manifest is another)")
    if manifest["shards"]["first"] != earlier["shards"]["end"]:
        findings.append(f"since: the numbers of the shards do not go on where those of {parent} end")
    try:
        ours, theirs = _read_before(run, manifest), _read_before(parent, earlier) | _sources(earlier)
    except (pa.ArrowException, OSError) as error:
        return [*findings, f"since: {one_line(error)}"]
    if ours != theirs:
        findings.append(f"{EARLIER}: is not the list of the files that {parent} and the runs before it have read")
    twice = sorted(ours.keys() & _sources(manifest).keys())
    if twice and not manifest["recipe"]["retry_dead"]:
        findings.append(f"since: {len(twice):,} files were read by two runs, for example {twice[0]}")
    states = {f"fitted/{scorer['name']}.npz" for scorer in manifest["scorers"]}
    of_parent = {file["path"]: file["sha256"] for file in earlier["files"]}
    findings += [
        f"{file['path']}: is not the state of {parent}"
        for file in manifest["files"]
        if file["path"] in states and file["sha256"] != of_parent.get(file["path"])
    ]
    return findings


def _sources(manifest: Mapping[str, Any]) -> dict[str, str]:
    return {source["path"]: source["fingerprint"] for source in manifest["sources"] if source["corpus"] == "corpus"}


def _read_before(run: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the files, with their state, that the runs before this one have read."""
    if manifest["since"] is None:
        return {}
    earlier = pq.read_table(run / EARLIER)
    return dict(zip(earlier["path"].to_pylist(), earlier["fingerprint"].to_pylist(), strict=True))
