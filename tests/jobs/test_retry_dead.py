"""`tamis retry-dead`: what was mended is read, decided as the run did, and nothing else is read twice."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

TAMIS = str(Path(sys.executable).with_name("tamis"))
BROKEN = "{this is no JSON"


def tamis(*arguments: object, code: int = 0) -> str:
    done = subprocess.run([TAMIS, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def lines_of(documents: pa.Table) -> list[str]:
    return [json.dumps(row | {"n": number}) for number, row in enumerate(documents.to_pylist())]


@pytest.fixture
def folder(tmp_path: Path, documents: pa.Table) -> Path:
    """Two plain files, of which one has broken lines, and an archive that breaks off."""
    lines = lines_of(documents.slice(0, 450))
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:100], BROKEN, BROKEN, *lines[102:150]]) + "\n")
    (tmp_path / "b.jsonl").write_text("\n".join(lines[150:300]) + "\n")
    whole = gzip.compress("\n".join(lines[300:]).encode())
    (tmp_path / "c.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    recipe = {
        "corpus": {"format": "jsonl", "paths": ["*.jsonl*"], "id": "id", "shard_bytes": 20_000},
        "scores": {"n": {"scorer": "column", "column": "n"}},
        "select": [{"method": "top", "by": "n", "keep": {"fraction": 0.5}}],
        "errors": {"max_dead_fraction": 0.01},
        "output": {"path": "runs/first"},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def table(run: Path, kind: str) -> list[dict[str, Any]]:
    return [row for path in sorted((run / kind).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.mark.slow
def test_what_is_mended_is_read_and_nothing_else(folder: Path, documents: pa.Table) -> None:
    first, again = folder / "runs" / "first", folder / "runs" / "first-retried"
    tamis("run", folder / "recipe.yaml")
    cut = min(row["n"] for row in table(first, "decisions") if row["kept"])
    in_archive = sum(row["source"].endswith(".gz") for row in table(first, "decisions"))
    assert 0 < in_archive < 150
    assert len(table(first, "dead_letters")) == 3
    lines = lines_of(documents.slice(0, 450))
    (folder / "a.jsonl").write_text("\n".join([*lines[:101], BROKEN, *lines[102:150]]) + "\n")
    (folder / "c.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[300:]).encode()))
    tamis("retry-dead", first, code=3)  # one of them is dead still
    read = {row["n"]: row for row in table(again, "decisions")}
    assert sorted(read) == [100, *range(300 + in_archive, 450)]
    # rows are those of the file, and the cut is that of the run
    assert read[100]["row"] == 100
    assert read[449]["row"] == 149
    assert {n for n, row in read.items() if row["kept"]} == {n for n in read if n > cut - 1}
    assert [(Path(row["source"]).name, row["row"]) for row in table(again, "dead_letters")] == [("a.jsonl", 101)]
    assert [row["n"] for row in table(again, "decisions")] == sorted(read)
    assert sorted(json.loads(row["extra"])["n"] for row in table(again, "data")) == sorted(
        n for n, row in read.items() if row["kept"]
    )
    assert "nothing new" in tamis("retry-dead", first, code=3)
    # the chain goes on from there: with the last line mended, with new files, and with nothing left
    (folder / "a.jsonl").write_text("\n".join(lines[:150]) + "\n")
    tamis("retry-dead", again, "--output", folder / "runs" / "third")
    assert [row["n"] for row in table(folder / "runs" / "third", "decisions")] == [101]
    (folder / "d.jsonl").write_text("\n".join(lines_of(documents.slice(450, 50))) + "\n")
    tamis("run", folder / "recipe.yaml", "--output", folder / "runs" / "4", "--set", f"since={folder}/runs/third")
    chain = ["first", "first-retried", "third", "4"]
    ids = [row["key"] for run in chain for row in table(folder / "runs" / run, "decisions")]
    assert len(ids) == len(set(ids)) == 500
    assert "has no dead letters" in tamis("retry-dead", folder / "runs" / "4")


@pytest.mark.slow
def test_a_retried_run_is_verified_with_the_one_it_continues(folder: Path, documents: pa.Table) -> None:
    (folder / "c.jsonl.gz").unlink()
    lines = lines_of(documents.slice(0, 450))
    path = folder / "a.jsonl"
    broken = path.read_text()
    tamis("run", folder / "recipe.yaml", "--set", "errors.max_dead_fraction=1")
    path.write_text(broken.replace(BROKEN, lines[100], 1))
    tamis("retry-dead", folder / "runs" / "first")
    # the file is not what the first run read, which is said; of the second all is well
    found = tamis("verify", folder / "runs" / "first-retried", code=1)
    told = [line for line in found.splitlines() if line.startswith(("source", "no document", str(folder)))]
    assert all(line.startswith(f"{folder}/runs/first: ") for line in told[:-1])
    assert len(told) == 3


def test_needs_a_run(folder: Path) -> None:
    assert "holds no finished run" in tamis("retry-dead", folder / "runs" / "nowhere", code=2)
    assert "needs `since`" in tamis("run", folder / "recipe.yaml", "--set", "retry_dead=true", code=2)
