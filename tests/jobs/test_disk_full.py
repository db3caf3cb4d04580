"""A full disk, while scoring and while writing: one clear line and exit code 1; with space the same command resumes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from finished_run import write_parquet

TAMIS = str(Path(sys.executable).with_name("tamis"))

SCRIPT = """
mount -t tmpfs -o size="$SIZE" tmpfs "$DISK" || exit 99
"$TAMIS" run "$RECIPE" --workers 2 || echo "code $?" >&2
mount -o remount,size=200m "$DISK"
"$TAMIS" run "$RECIPE" --workers 2 >&2 || exit
"$TAMIS" verify "$RUN" >&2 || exit
cat "$RUN/manifest.json"
find "$DISK" -name ".*.tmp-*" -o -name "*.partial"
"""
"""Runs a recipe on a small disk, gives it space, runs it again; a name space of its own needs no rights to mount."""


MORE = [pytest.param("store", "64k", marks=pytest.mark.slow), pytest.param("run", "16k", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("full", "size"), [("store", "160k"), ("run", "96k"), *MORE])
def test_a_full_disk(tmp_path: Path, documents: pa.Table, target_documents: pa.Table, full: str, size: str) -> None:
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    disk.mkdir()
    run, store = (elsewhere / "run", disk / "store") if full == "store" else (disk / "run", elsewhere / "store")
    recipe = {
        "corpus": {
            "format": "parquet",
            "paths": [write_parquet(documents, tmp_path / "corpus", 10)],
            "id": "id",
            "shard_bytes": 20_000,
        },
        "targets": {"t": {"format": "parquet", "paths": [write_parquet(target_documents, tmp_path / "target", 1)]}},
        "scores": {"relevance": {"scorer": "dsir", "target": "t", "buckets": 2000}},
        "select": [{"method": "resample", "by": "relevance", "keep": {"fraction": 0.5}}],
        "output": {"path": str(run)},
        "store": str(store),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    paths = {"DISK": disk, "RECIPE": tmp_path / "recipe.yaml", "RUN": run}
    environment = {name: str(path) for name, path in paths.items()} | {"TAMIS": TAMIS, "SIZE": size}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", SCRIPT],
        capture_output=True,
        text=True,
        env=environment | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    if done.returncode == 99 or "unshare:" in done.stderr:
        pytest.skip(f"this machine lets nobody mount a small disk: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("tamis: ")]
    assert line.startswith(f"tamis: {disk}/")
    assert line.endswith("No space left on device; make space and run the same command: it resumes")
    assert "code 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert "sound" in done.stderr
    manifest, end = json.JSONDecoder().raw_decode(done.stdout)
    assert done.stdout[end:].strip() == ""  # nothing half-written is left
    assert manifest["totals"]["read"]["documents"] == len(documents)
