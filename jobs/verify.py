"""What `tamis verify` does and prints: all checks of a finished run, a line per finding."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ..connectors.errors import RecipeError, TamisError, one_line, printable
from ..connectors.run_directory import read_manifest
from ..pipelines.job import Reporter
from ..pipelines.rescore import SHARE, rescore
from ..pipelines.runner import Engine
from ..pipelines.verify import check_decisions, check_files
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


class _Manifest(BaseModel):
    """What the checks rely on."""

    totals: _Totals
    reasons: dict[str, _Counts]
    groups: list[_Group] | str
    files: list[_File]
    sources: list[_Source]
    recipe: Recipe
    limit: int | None


@dataclass
class Verified:
    """What was found. documents, shards: scored anew."""

    run: Path
    read: int
    files: int
    findings: list[str] = field(default_factory=list)
    documents: int = 0
    shards: int = 0

    def as_text(self) -> str:
        """Return a line per finding, and one that sums up."""
        lines = [printable(finding) for finding in self.findings]
        checked = (
            f"{self.files:,} files and {self.read:,} documents checked, {self.documents:,} documents "
            f"of {self.shards:,} shards scored anew ({SHARE:.0%} of all)"
        )
        verdict = f"{len(lines):,} findings" if len(lines) != 1 else "1 finding"
        return "\n".join([*lines, f"{printable(str(self.run))}: {verdict if lines else 'sound'}; {checked}"])

    def as_json(self) -> str:
        """Return one JSON object."""
        content = {"run": str(self.run), "sound": not self.findings, "findings": self.findings}
        counts = {
            "files": self.files,
            "documents": self.read,
            "scored_anew": self.documents,
            "shards_read": self.shards,
        }
        return json.dumps(content | {"checked": counts})


def verify_run(run: Path, engine: Engine, reporter: Reporter) -> Verified:
    """Check a finished run; raises RecipeError where there is none."""
    try:
        manifest = read_manifest(run)
    except TamisError as error:
        return Verified(run, 0, 0, [one_line(error)])
    if manifest is None:
        raise RecipeError(f"{run} holds no finished run: there is no manifest.json in it")
    try:
        recipe = _Manifest.model_validate(manifest).recipe
    except ValidationError as error:
        return Verified(run, 0, 0, [f"manifest.json: {_first(error)}"])
    findings = check_files(run, manifest)
    findings += check_decisions(run, manifest)
    found = rescore(run, manifest, make_job(recipe, manifest["limit"]), engine, reporter)
    return Verified(
        run=run,
        read=manifest["totals"]["read"]["documents"],
        files=len(manifest["files"]),
        findings=findings + found.findings,
        documents=found.documents,
        shards=found.shards,
    )


def _first(error: ValidationError) -> str:
    first: Any = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
