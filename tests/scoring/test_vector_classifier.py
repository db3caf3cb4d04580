"""A classifier on stored vectors, in whole runs: what it tells apart, what it reads again, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from finished_run import Finished, RunRecipe, write_parquet
from tamis.connectors.errors import RecipeError
from tamis.jobs.verify import verify_run
from tamis.pipelines.job import Quiet
from tamis.pipelines.runner import Engine


@pytest.fixture
def recipe(tmp_path: Path, documents: pa.Table, target_documents: pa.Table) -> dict[str, Any]:
    texts = [*documents["text"].to_pylist()[:300], *target_documents["text"].to_pylist()[::4], "  "]
    table = pa.table({"id": [f"d{i}" for i in range(len(texts))], "text": texts})
    return {
        "corpus": {"format": "parquet", "paths": [write_parquet(table, tmp_path / "corpus", 3)], "id": "id"},
        "targets": {
            "wanted": {"format": "parquet", "paths": [write_parquet(target_documents, tmp_path / "target", 2)]},
        },
        "scores": {
            "vectors": {"scorer": "embedding", "dimension": 128},
            "quality": {"scorer": "classifier", "target": "wanted", "features": "vectors"},
        },
        "select": [{"method": "top", "by": "quality", "keep": {"documents": 20}}],
        "output": {"columns": ["quality"]},
    }


def odds(run: Finished) -> dict[int, float]:
    rows = run.decisions.to_pylist()
    return {row["key"]: row["quality"] for row in rows if row["quality"] is not None}


def test_documents_like_the_target_are_kept(recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path) -> None:
    run = run_recipe(recipe)
    like_target = sum(int(name[1:]) >= 300 for name in run.data["id"].to_pylist())
    assert like_target >= 10, "of 12 in 312"
    decisions = run.decisions.to_pylist()
    assert {row["reason"] for row in decisions if row["quality"] is None} == {"no_score"}, "no words, no vector"
    found = np.array(list(odds(run).values()))
    assert found.min() < -1 and found.max() > 1
    (line,) = [w for w in run.manifest["warnings"] if "told apart with AUC" in w]
    assert float(line.split("AUC ")[1].split(",")[0]) > 0.9
    assert verify_run(run.outcome.path, Engine(1), Quiet()).findings == []
    recipe["corpus"]["shard_bytes"] = 50_000
    several = run_recipe(recipe | {"store": str(tmp_path / "other")}, "several", workers=2)
    assert odds(several) == odds(run)
    store = Path(run.manifest["recipe"]["store"])
    before = {path: path.stat().st_mtime_ns for path in store.glob("embedding-*/*")}
    recipe["scores"]["quality"] |= {"l2": 0.01}
    recipe["corpus"].pop("shard_bytes")
    other = run_recipe(recipe, "other")
    assert before == {path: path.stat().st_mtime_ns for path in store.glob("embedding-*/*")}
    assert max(odds(other).values()) < max(odds(run).values()), "more regularised"
    saved = {"scorer": "classifier", "features": "vectors", "fitted": f"{other.outcome.path}/fitted/quality.npz"}
    again = run_recipe(recipe | {"scores": recipe["scores"] | {"quality": saved}}, "again")
    assert odds(again) == odds(other)
    with pytest.raises(RecipeError, match="fitted: classifier: the state in `fitted` was made with"):
        scores = {"vectors": {"scorer": "embedding", "dimension": 64}, "quality": saved}
        run_recipe(recipe | {"scores": scores}, "wrong")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"features": "vector"}, "scores.quality.features: no score is called `vector` .nearest: vectors"),
        ({"features": "words"}, "features: `words` is of the scorer `text_statistics`, where a score of vectors"),
        ({"ngrams": 3}, "`ngrams` is for n-grams only"),
        ({"features": None, "sample": 50}, "`sample` is for `features` only"),
        ({"target": None}, "classifier needs `target` or `fitted`"),
    ],
)
def test_refused(change: dict[str, Any], told: str, recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
    recipe["scores"]["words"] = {"scorer": "text_statistics", "columns": ["words"]}
    recipe["scores"]["quality"] = {k: v for k, v in (recipe["scores"]["quality"] | change).items() if v is not None}
    with pytest.raises(RecipeError, match=told):
        run_recipe(recipe)
