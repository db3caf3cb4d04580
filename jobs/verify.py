"""What `tamis verify` does and prints: all checks of a finished run, a line per finding."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ..connectors.errors import RecipeError, TamisError, one_line, printable
from ..connectors.run_directory import MANIFEST, read_manifest
from ..pipelines.job import Reporter
from ..pipelines.rescore import SHARE, rescore
from ..pipelines.runner import Engine
from ..pipelines.verify import check_decisions, check_files, check_link
from .recipe import Recipe, make_job


class _Counts(BaseModel):
    documents: int
    tokens: int


class _Totals(BaseModel):
    read: _Counts
    kept: _Counts
    dropped: _Counts
    dead: _Counts


class _Group(_Counts):
    group: str
    kept: int
    kept_tokens: int


class _File(BaseModel):
    path: str
    rows: int | None
    bytes: int
    sha256: str


class _Source(BaseModel):
    corpus: str
    path: str
    fingerprint: str


class _Since(BaseModel):
    run: str
    manifest_sha256: str


class _Shards(BaseModel):
    first: int
    end: int


class _Manifest(BaseModel):
    """What the checks rely on."""

    totals: _Totals
    reasons: dict[str, _Counts]
    groups: list[_Group] | str
    files: list[_File]
    sources: list[_Source]
    recipe: Recipe
    limit: int | None
    since: _Since | None
    shards: _Shards


@dataclass
class Verified:
    """What was found. documents, shards: scored anew; earlier: runs that this one continues, all of them checked."""

    run: Path
    read: int
    files: int
    findings: list[str] = field(default_factory=list)
    documents: int = 0
    shards: int = 0
    earlier: int = 0

    def as_text(self) -> str:
        """Return a line per finding, and one that sums up."""
        lines = [printable(finding) for finding in self.findings]
        checked = (
            f"{self.files:,} files and {self.read:,} documents checked, {self.documents:,} documents "
            f"of {self.shards:,} shards scored anew ({SHARE:.0%} of all)"
        )
        verdict = f"{len(lines):,} findings" if len(lines) != 1 else "1 finding"
        chain = f", with {self.earlier} before it that it continues" if self.earlier else ""
        return "\n".join([*lines, f"{printable(str(self.run))}{chain}: {verdict if lines else 'sound'}; {checked}"])

    def as_json(self) -> str:
        """Return one JSON object."""
        content = {"run": str(self.run), "sound": not self.findings, "findings": self.findings}
        counts = {
            "files": self.files,
            "documents": self.read,
            "scored_anew": self.documents,
            "shards_read": self.shards,
            "runs": 1 + self.earlier,
        }
        return json.dumps(content | {"checked": counts})


def verify_run(run: Path, engine: Engine, reporter: Reporter) -> Verified:
    """Check a finished run, and those that it continues; raises RecipeError where there is none."""
    verified, manifest = _verify_one(run, engine, reporter)
    link = (manifest or {}).get("since")
    if manifest is None or link is None:
        return verified
    parent = Path(link["run"])
    if not (parent / MANIFEST).exists():
        verified.findings.append(f"since: {parent}, which it continues, is gone")
        return verified
    before = verify_run(parent, engine, reporter)
    named = [f"{parent}: {finding}" for finding in before.findings]
    if not before.findings:
        verified.findings += check_link(run, manifest, parent, read_manifest(parent) or {})
    return replace(
        verified,
        read=verified.read + before.read,
        files=verified.files + before.files,
        findings=verified.findings + named,
        documents=verified.documents + before.documents,
        shards=verified.shards + before.shards,
        earlier=before.earlier + 1,
    )


def _verify_one(run: Path, engine: Engine, reporter: Reporter) -> tuple[Verified, dict[str, Any] | None]:
    """Check one run; returns its manifest too, None where that cannot be relied on."""
    try:
        manifest = read_manifest(run)
    except TamisError as error:
        return Verified(run, 0, 0, [one_line(error)]), None
    if manifest is None:
        raise RecipeError(f"{run} holds no finished run: there is no manifest.json in it")
    try:
        recipe = _Manifest.model_validate(manifest).recipe
    except ValidationError as error:
        return Verified(run, 0, 0, [f"manifest.json: {_first(error)}"]), None
    findings = check_files(run, manifest)
    findings += check_decisions(run, manifest)
    found = rescore(run, manifest, make_job(recipe, manifest["limit"]), engine, reporter)
    verified = Verified(
        run=run,
        read=manifest["totals"]["read"]["documents"],
        files=len(manifest["files"]),
        findings=findings + found.findings,
        documents=found.documents,
        shards=found.shards,
    )
    return verified, manifest


def _first(error: ValidationError) -> str:
    first: Any = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
