"""SIGKILL at any moment of the real command: the same command again ends with the same bytes and no leftovers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from finished_run import write_parquet

TAMIS = str(Path(sys.executable).with_name("tamis"))
OF_THE_RUN = ("data", "decisions", "dead_letters", "fitted")


class Job:
    """A recipe of some twenty shards in a folder of its own."""

    def __init__(self, folder: Path, documents: pa.Table, targets: pa.Table) -> None:
        self.folder = folder
        recipe = {
            "corpus": {
                "format": "parquet",
                "paths": [write_parquet(documents, folder / "corpus", 20)],
                "id": "id",
                "group": "group",
                "shard_bytes": 20_000,
            },
            "targets": {"t": {"format": "parquet", "paths": [write_parquet(targets, folder / "target", 1)]}},
            "scores": {"relevance": {"scorer": "dsir", "target": "t"}},
            "select": [{"method": "resample", "by": "relevance", "keep": {"fraction": 0.3}, "within": "group"}],
            "output": {"path": "runs/run"},
        }
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def command(self) -> subprocess.Popen[str]:
        arguments = [TAMIS, "run", str(self.folder / "recipe.yaml"), "--workers", "2"]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self) -> tuple[str, str]:
        with self.command() as process:
            out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out, err

    def files(self) -> int:
        return sum(len(names) for _, _, names in os.walk(self.folder / "runs"))

    def kill_at(self, files: int) -> bool:
        """Start the command and kill it once so many files are there; whether it was still going on."""
        with self.command() as process:
            while process.poll() is None and self.files() < files:
                os.sched_yield()
            process.kill()
            process.communicate()
        return process.returncode == -9

    def outcome(self) -> dict[str, str]:
        run = self.folder / "runs" / "run"
        paths = [path for kind in OF_THE_RUN for path in sorted((run / kind).glob("*"))]
        return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    def check_whole(self, expected: dict[str, str]) -> None:
        assert self.outcome() == expected
        manifest = json.loads((self.folder / "runs" / "run" / "manifest.json").read_text())
        totals = {name: count["documents"] for name, count in manifest["totals"].items()}
        assert totals["read"] == totals["kept"] + totals["dropped"] + totals["dead"]
        assert sorted(path.name for path in (self.folder / "runs").iterdir()) == [".tamis", "run"]
        assert not list((self.folder / "runs").rglob(".*.tmp-*"))


def killed_everywhere(job: Job, points: int) -> None:
    job.finish()
    expected, whole = job.outcome(), job.files()
    assert len(expected) > 20
    killed = 0
    for point in range(points):
        shutil.rmtree(job.folder / "runs")
        killed += job.kill_at(1 + whole * point // points)
        job.finish()
        job.check_whole(expected)
    assert killed > points // 2


def test_killed_at_a_few_points(tmp_path: Path, documents: pa.Table, target_documents: pa.Table) -> None:
    killed_everywhere(Job(tmp_path, documents, target_documents), 2)


@pytest.mark.slow
def test_killed_at_fifty_points(tmp_path: Path, documents: pa.Table, target_documents: pa.Table) -> None:
    killed_everywhere(Job(tmp_path, documents, target_documents), 50)


def test_what_is_scored_is_used_again(tmp_path: Path, documents: pa.Table, target_documents: pa.Table) -> None:
    job = Job(tmp_path, documents, target_documents)
    while not job.kill_at(30):
        shutil.rmtree(job.folder / "runs")
    _, err = job.finish()
    assert "shards are in the store already" in err
    assert "taking over from process " in err
