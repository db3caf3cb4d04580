"""Gradients in bytes and under PCA in whole runs: influence finds the same documents, and states are used again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from finished_run import Finished, RunRecipe, write_parquet
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tamis.connectors.run_directory import state_url
from tamis.jobs.progress import Lines
from tamis.jobs.verify import verify_run
from tamis.pipelines.runner import Engine
from tiny_models import save_model

CHOSEN = 17
"""The document of the corpus that is the target, too."""


@pytest.fixture
def recipe(tmp_path: Path, documents: pa.Table) -> dict[str, Any]:
    few = documents.slice(0, 24)
    save_model(tmp_path / "model", few["text"].to_pylist()[:20])
    gradients = {"scorer": "gradients", "model": str(tmp_path / "model"), "dimension": 512, "context": 64}
    scores: dict[str, Any] = {
        "plain": gradients,
        "bytes": gradients | {"storage": "int8"},
        "pca": gradients | {"storage": "int8", "projection": "pca"},
    }
    for name in list(scores):
        scores[f"by_{name}"] = {"scorer": "influence", "gradients": name, "target": "one"}
    return {
        "corpus": {"format": "parquet", "paths": [write_parquet(few, tmp_path / "corpus", 2)], "id": "id"},
        "targets": {
            "one": {"format": "parquet", "paths": [write_parquet(few.slice(CHOSEN, 1), tmp_path / "target", 1)]}
        },
        "scores": scores,
    }


def column(run: Finished, name: str) -> NDArray[np.float64]:
    rows = sorted(run.decisions.to_pylist(), key=lambda row: (row["source"], row["row"]))
    return np.array([row[name] for row in rows], np.float64)


def test_influence_works_on_bytes_and_on_pca(recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
    first = run_recipe(recipe, "first")
    plain, in_bytes, by_pca = (column(first, f"by_{name}") for name in ("plain", "bytes", "pca"))
    ranks = [np.argsort(np.argsort(one)) for one in (plain, in_bytes)]
    assert np.corrcoef(*ranks)[0, 1] > 0.99
    assert plain.argmax() == in_bytes.argmax() == by_pca.argmax()
    assert verify_run(first.outcome.path, Engine(1), Lines(as_json=False)).findings == []
    fitted = {"fitted": state_url(first.outcome.path, "pca")}
    scores = {"pca": recipe["scores"]["pca"] | fitted, "by_pca": recipe["scores"]["by_pca"]}
    second = run_recipe(recipe | {"scores": scores}, "second", workers=2)
    np.testing.assert_array_equal(column(second, "by_pca"), by_pca)
