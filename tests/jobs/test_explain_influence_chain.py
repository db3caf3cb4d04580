"""`tamis explain --target` in a run that continues others: the documents of the whole chain are searched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_run import Finished

pytest.importorskip("torch")
pytest.importorskip("transformers")

import yaml
from tamis.connectors.errors import TamisError
from tamis.jobs.explain_influence import helpers_of
from tamis.jobs.recipe import make_job, read_recipe
from tamis.pipelines.explain_influence import RunInfluence
from tamis.pipelines.job import Quiet
from tamis.pipelines.run import Run
from tamis.pipelines.runner import Engine
from tiny_models import save_model

EXAMPLES = 4
"""Documents of the target, which are rows 2 to 5 of the corpus too: of the first run."""

Chain = list[Finished]


def executed(path: Path, *assign: str) -> Finished:
    return Finished(Run(make_job(read_recipe(path, assign)), Engine(1), Quiet()).execute())


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, documents: pa.Table) -> Chain:
    """Three runs, each over a file of ten more documents; each run has a score store of its own."""
    folder = tmp_path_factory.mktemp("chain")
    few = documents.slice(0, 30)
    save_model(folder / "model", few["text"].to_pylist()[:20], "llama")
    (folder / "corpus").mkdir()
    pq.write_table(few.slice(2, EXAMPLES), folder / "target.parquet")
    recipe: dict[str, Any] = {
        "corpus": {"format": "parquet", "paths": ["corpus/*.parquet"], "id": "id"},
        "targets": {"wanted": {"format": "parquet", "paths": ["target.parquet"], "id": "id"}},
        "scores": {
            "features": {"scorer": "gradients", "model": "model", "context": 64, "dimension": 100},
            "helps": {"scorer": "influence", "gradients": "features", "target": "wanted"},
        },
        "select": [{"method": "top", "by": "helps", "keep": {"fraction": 0.5}}],
        "output": {"path": "unused"},
    }
    runs: Chain = []
    for number in range(3):
        pq.write_table(few.slice(10 * number, 10), folder / "corpus" / f"{number}.parquet")
        path = folder / f"recipe{number}.yaml"
        since = {"since": str(runs[-1].outcome.path)} if runs else {}
        changed = {"output": {"path": f"run{number}"}, "store": f"store{number}"} | since
        path.write_text(yaml.safe_dump(recipe | changed, sort_keys=False))
        runs.append(executed(path))
    return runs


def helped(run: Finished, top: int) -> dict[str, Any]:
    (found,) = json.loads(helpers_of(run.outcome.path, "wanted:1", top, as_json=True))["helpers"]
    return found


def test_the_documents_of_all_runs_are_searched(chain: Chain) -> None:
    last = RunInfluence(chain[2].outcome.path, chain[2].manifest)
    state, number, every = last.state("helps"), np.array([last.find("helps", "wanted:1")]), {}
    for run in chain:
        influence = RunInfluence(run.outcome.path, run.manifest)
        for shard in influence.files.shards:
            vectors, there = influence.of_shard("helps", shard)
            assert there.all()
            keys = influence.files.read(shard, ["key"])["key"].to_pylist()
            every |= dict(zip(keys, state.on_examples(vectors, number)[:, 0].tolist(), strict=True))
    assert len(every) == 30
    ordered, rows = sorted(every, key=lambda key: -every[key]), _rows(chain)
    found = helped(chain[2], 4)
    assert found["searched"] == 30 and found["missing"] == []
    for part, expected in (("most", ordered[:4]), ("least", ordered[:-5:-1])):
        assert [int(one["key"], 16) for one in found[part]] == expected
        for one in found[part]:
            number_of_run, row = rows[int(one["key"], 16)]
            assert one["influence"] == pytest.approx(every[row["key"]], rel=1e-5)
            assert (one["source"], one["row"], one["kept"]) == (row["source"], row["row"], row["kept"])
            assert one["run"] == (None if number_of_run == 2 else str(chain[number_of_run].outcome.path))
            assert one["text"]
    assert [int(one["key"], 16) for one in helped(chain[2], 40)["most"]] == ordered


def _rows(chain: Chain) -> dict[int, tuple[int, dict[str, Any]]]:
    return {row["key"]: (i, row) for i, run in enumerate(chain) for row in run.decisions.to_pylist()}


def test_a_run_of_a_chain_does_not_know_later_ones(chain: Chain) -> None:
    assert [helped(run, 2)["searched"] for run in chain] == [10, 20, 30]
    line = helpers_of(chain[2].outcome.path, "wanted:1", 30, as_json=False)
    assert f"in {chain[0].outcome.path})" in line and f"in {chain[1].outcome.path})" in line


def test_missing_gradients_of_an_earlier_run_are_told_with_what_to_do(chain: Chain, tmp_path: Path) -> None:
    store = Path(chain[1].manifest["recipe"]["store"])
    (gone,) = store.glob("gradients-*")
    shutil.move(gone, tmp_path / "gradients")
    try:
        found = helped(chain[2], 30)
        lines = helpers_of(chain[2].outcome.path, "wanted:1", 2, as_json=False)
    finally:
        shutil.move(tmp_path / "gradients", gone)
    assert found["searched"] == 20 and {one["run"] for one in found["most"]} == {None, str(chain[0].outcome.path)}
    (line,) = found["missing"]
    assert line in lines
    assert f"of {chain[1].outcome.path} are not searched: {store} does not hold the gradients" in line
    assert line.endswith("run the recipe again, without `since` and to another --output")
    again = executed(chain[2].outcome.path / "recipe.yaml", "since=null", f"output.path={tmp_path / 'again'}")
    assert helped(again, 30)["searched"] == 30


def test_an_earlier_run_that_is_gone_is_told(chain: Chain, tmp_path: Path) -> None:
    path, aside = chain[1].outcome.path, tmp_path / "aside"
    shutil.move(path, aside)
    try:
        found = helped(chain[2], 30)
        assert found["searched"] == 10
        assert found["missing"] == [
            f"{path} and what it continues are not searched: it is gone, or another run now; put it back"
        ]
        shutil.copytree(chain[0].outcome.path, path)  # another run in its place
        assert helped(chain[2], 30)["searched"] == 10
        shutil.rmtree(path)
    finally:
        shutil.move(aside, path)
    source = Path(chain[0].decisions["source"][0].as_py())
    shutil.move(source, tmp_path / "source")
    try:
        found = helped(chain[2], 30)
        assert found["searched"] == 20 and "corpus's files are not those of the run" in found["missing"][0]
        with pytest.raises(TamisError, match="are not those of the run"):
            helped(chain[0], 30)
    finally:
        shutil.move(tmp_path / "source", source)
