"""`since`: frozen cuts decide about new files alone, weights keep their scale, a chain of runs is checked as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_run import Finished, RunRecipe, write_parquet
from tamis.connectors.errors import RecipeError
from tamis.jobs.explain import explain_run
from tamis.jobs.verify import verify_run
from tamis.pipelines.job import Quiet
from tamis.pipelines.runner import Engine

TEMPERATURE = 2.0


class Growing:
    """A corpus that files are added to. The score of a document stands beside it."""

    def __init__(self, folder: Path, run_recipe: RunRecipe, documents: pa.Table) -> None:
        self.folder, self.run_recipe, self.documents, self.added = folder, run_recipe, documents, 0
        (folder / "corpus").mkdir()
        score = {"scorer": "column", "column": "n"}
        self.recipe: dict[str, Any] = {
            "corpus": {
                "format": "parquet",
                "paths": [f"{folder}/corpus/*.parquet"],
                "id": "id",
                "group": "group",
                "shard_bytes": 20_000,
            },
            "scores": {"quality": score},
            "select": [
                {"method": "top", "by": "quality", "keep": {"fraction": 0.25}, "within": "group", "name": "best"}
            ],
            "weigh": {"method": "importance", "by": "quality", "temperature": TEMPERATURE},
        }

    def add(self, count: int, low: float, high: float, group: str | None = None) -> Path:
        """Add a file of documents with distinct scores in a range."""
        part = self.documents.slice(self.added, count).select(["id", "text", "group"])
        if group is not None:
            part = part.set_column(2, "group", pa.array([group] * count))
        scores = np.random.default_rng(count).permutation(np.linspace(low, high, count))
        path = self.folder / "corpus" / f"{self.added:04d}.parquet"
        pq.write_table(part.append_column("n", pa.array(scores)), path)
        self.added += count
        return path

    def run(self, name: str, since: Finished | None = None, **changes: Any) -> Finished:
        link = {"since": str(since.outcome.path)} if since is not None else {}
        return self.run_recipe(self.recipe | link | changes, name)


@pytest.fixture
def growing(tmp_path: Path, run_recipe: RunRecipe, documents: pa.Table) -> Growing:
    return Growing(tmp_path, run_recipe, documents)


def scored(run: Finished) -> list[dict[str, Any]]:
    return run.decisions.to_pylist()


def verified(run: Finished) -> list[str]:
    return verify_run(run.outcome.path, Engine(1), Quiet()).findings


def test_new_files_are_decided_by_the_old_cuts_and_weighed_on_the_old_scale(growing: Growing) -> None:
    growing.add(300, 0, 10)
    first = growing.run("first")
    growing.add(150, 0.01, 14)
    second = growing.run("second", since=first)
    best_dropped: dict[str, float] = {}
    for row in scored(first):
        if not row["kept"]:
            best_dropped[row["group"]] = max(row["quality"], best_dropped.get(row["group"], -np.inf))
    assert len(scored(second)) == 150
    assert second.data.num_rows == second.manifest["totals"]["kept"]["documents"]
    ids = set(growing.documents["id"].to_pylist()[300:450])
    assert set(second.data["id"].to_pylist()) <= ids
    for row in scored(second):
        assert row["kept"] == (row["quality"] > best_dropped[row["group"]])
    kept = [row for run in (first, second) for row in scored(run) if row["kept"]]
    assert max(row["quality"] for row in kept) > 13  # above all that the first run has weighed
    constant = [np.log(row["weight"]) - row["quality"] / TEMPERATURE for row in kept]
    np.testing.assert_allclose(constant, constant[0], rtol=1e-5)
    # the numbers of the shards go on, so that the decisions of a chain can lie in one folder
    names = [{p.name for p in (run.outcome.path / "decisions").iterdir()} for run in (first, second)]
    assert names[0] and names[1] and not names[0] & names[1]


def test_a_chain_of_three_is_the_whole_corpus_read_once(growing: Growing) -> None:
    growing.add(200, 0, 10)
    runs = [growing.run("0")]
    for number in (1, 2):
        growing.add(100, 0, 10)
        runs.append(growing.run(str(number), since=runs[-1]))
    keys = [key for run in runs for key in run.decisions["key"].to_pylist()]
    assert len(keys) == len(set(keys)) == 400
    assert verified(runs[2]) == []
    assert verify_run(runs[2].outcome.path, Engine(1), Quiet()).read == 400
    assert runs[2].manifest["steps"][0]["cut_share"] == runs[1].manifest["steps"][0]["cut_share"]
    oldest = growing.documents["id"][0].as_py()
    assert f"(id `{oldest}`)" in explain_run(runs[2].outcome.path, oldest, as_json=False)
    nothing = growing.run("3", since=runs[2])
    assert nothing.outcome.manifest is None
    assert nothing.outcome.path == runs[2].outcome.path
    assert not (growing.folder / "runs" / "3").exists()


def test_states_are_those_of_the_parent(growing: Growing, target_documents: pa.Table, tmp_path: Path) -> None:
    growing.recipe["targets"] = {
        "t": {"format": "parquet", "paths": [write_parquet(target_documents, tmp_path / "t", 1)]}
    }
    growing.recipe["scores"] = {"quality": {"scorer": "dsir", "target": "t", "min_tokens": 5}}
    growing.recipe["weigh"] = {"method": "uniform"}
    growing.add(200, 0, 1)
    first = growing.run("first")
    growing.add(200, 0, 1)
    second = growing.run("second", since=first)
    state = [(run.outcome.path / "fitted" / "quality.npz").read_bytes() for run in (first, second)]
    assert state[0] == state[1]
    assert first.manifest["scorers"] == second.manifest["scorers"]
    assert verified(second) == []


def test_groups_that_are_new_have_no_cut(growing: Growing) -> None:
    growing.add(200, 0, 10)
    first = growing.run("first")
    growing.add(50, 0, 10, group="new one")
    second = growing.run("second", since=first)
    assert {row["reason"] for row in scored(second)} == {"best"}
    assert any("`new one`" in line and "no cut" in line for line in second.manifest["warnings"])
    growing.add(50, 20, 30, group="new one")
    growing.add(50, 20, 30)
    third = growing.run("third", since=second)
    assert {row["group"] for row in scored(third) if row["kept"]} == {
        group for group in third.decisions["group"].to_pylist() if group != "new one"
    }
    assert verified(third) == []


def test_a_cut_that_has_drifted_is_told(growing: Growing) -> None:
    growing.add(200, 0, 10)
    first = growing.run("first")
    growing.add(100, 9, 10)
    alert = {"alert": {"cut_drift": 0.5}}
    drifted = growing.run("second", since=first, **alert)
    (line,) = drifted.outcome.alerts
    assert line.startswith("the drift of the frozen cut of best is ")
    assert any("the frozen cut keeps" in line for line in drifted.manifest["warnings"])
    growing.add(100, 0, 10)
    calm = growing.run("third", since=drifted, **alert)
    assert calm.outcome.alerts == []


def test_what_cannot_be_continued_is_refused(growing: Growing) -> None:
    file = growing.add(200, 0, 10)
    first = growing.run("first")
    with pytest.raises(RecipeError, match=r"since: .*nowhere holds no finished run"):
        growing.run_recipe(growing.recipe | {"since": str(growing.folder / "nowhere")}, "second")
    steps = [growing.recipe["select"][0] | {"keep": {"fraction": 0.5}}]
    with pytest.raises(RecipeError, match=r"`select.0.keep.fraction` is not what it was"):
        growing.run("second", since=first, select=steps)
    pq.write_table(pq.read_table(file).slice(0, 100), file)
    with pytest.raises(RecipeError, match=r"0000.parquet has changed since .* would be written twice"):
        growing.run("second", since=first)


def test_verify_finds_a_broken_chain(growing: Growing) -> None:
    growing.add(200, 0, 10)
    first = growing.run("first")
    growing.add(100, 0, 10)
    second = growing.run("second", since=first)
    path = first.outcome.path / "manifest.json"
    content = path.read_text()
    path.write_text(json.dumps(json.loads(content) | {"seed": 0, "limit": None}, indent=2))
    assert any("is not the run that was continued" in line for line in verified(second))
    path.write_text(content)
    twice = json.loads((second.outcome.path / "manifest.json").read_text())
    twice["sources"] += json.loads(content)["sources"]
    (second.outcome.path / "manifest.json").write_text(json.dumps(twice))
    assert any("1 files were read by two runs" in line for line in verified(second))
    first.outcome.path.rename(growing.folder / "elsewhere")
    assert any("is gone" in line for line in verified(second))
