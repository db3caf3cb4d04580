"""A byte changed, or the end cut off, in any file of a run or of the score store: it is noticed, in every file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from finished_run import write_parquet
from tamis.jobs.recipe import make_job, read_recipe
from tamis.jobs.verify import verify_run
from tamis.pipelines.job import Quiet
from tamis.pipelines.run import Outcome, Run
from tamis.pipelines.runner import Engine


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def cut_off(content: bytes) -> bytes:
    return content[:-1]


DAMAGES = pytest.mark.parametrize("damage", [flipped, cut_off])
Damage = Callable[[bytes], bytes]


class Place:
    """A folder with a recipe, the run that it made, and the store."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.store = folder, folder / "runs" / "run", folder / "runs" / ".tamis"

    def execute(self, output: str) -> Outcome:
        recipe = read_recipe(self.folder / "recipe.yaml", output=str(self.folder / "runs" / output))
        return Run(make_job(recipe), Engine(1), Quiet()).execute()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, documents: pa.Table, target_documents: pa.Table) -> Place:
    folder = tmp_path_factory.mktemp("damage")
    texts = [*documents["text"].to_pylist()[:-1], None]  # the last one is dead
    corpus = write_parquet(documents.set_column(1, "text", pa.array(texts)), folder / "corpus", 2)
    target = write_parquet(target_documents, folder / "target", 1)
    recipe: dict[str, Any] = {
        "corpus": {"format": "parquet", "paths": [corpus], "id": "id", "group": "group"},
        "targets": {"wanted": {"format": "parquet", "paths": [target]}},
        "scores": {"relevance": {"scorer": "dsir", "target": "wanted", "buckets": 500, "min_tokens": 20}},
        "select": [{"method": "top", "by": "relevance", "keep": {"fraction": 0.5}}],
        "errors": {"max_dead_fraction": 1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    made = Place(folder)
    made.execute("run")
    return made


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@DAMAGES
def test_of_a_run_is_found_by_verify(place: Place, tmp_path: Path, damage: Damage) -> None:
    shutil.copytree(place.run, tmp_path / "run")
    kinds = set()
    for path in files_in(tmp_path / "run"):
        if path.name == "log.jsonl":  # for people; nothing is read from it
            continue
        content = path.read_bytes()
        path.write_bytes(damage(content))
        found = verify_run(tmp_path / "run", Engine(1), Quiet()).findings
        # a last line end, or a comma that is a blank, says nothing
        assert found or content.strip() == damage(content).strip(), path
        path.write_bytes(content)
        kinds.add(path.relative_to(tmp_path / "run").parts[0])
    assert kinds == {"data", "decisions", "dead_letters", "fitted", "manifest.json", "recipe.yaml"}
    assert verify_run(tmp_path / "run", Engine(1), Quiet()).findings == []


@DAMAGES
def test_of_the_store_is_scored_anew(place: Place, tmp_path: Path, damage: Damage) -> None:
    data = [path.read_bytes() for path in files_in(place.run / "data")]
    stored = [path for path in files_in(place.store) if path.parent.name != "uses"]
    assert len({path.parent for path in stored}) == 6  # documents and statistics of both, dead letters, scores
    for number, path in enumerate(stored):
        content = path.read_bytes()
        path.write_bytes(damage(content))
        outcome = place.execute(f"{damage.__name__}-{number}")
        assert outcome.manifest is not None
        assert [path.read_bytes() for path in files_in(outcome.path / "data")] == data
        assert path.read_bytes() == content
        told = [line for line in outcome.manifest["warnings"] if str(path) in line and "scored anew" in line]
        assert told, path
