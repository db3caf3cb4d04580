"""Influence under a linear classifier on stored vectors, in whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from finished_run import Finished, RunRecipe, write_parquet
from numpy.typing import NDArray
from tamis.connectors.errors import RecipeError, TamisError
from tamis.jobs.explain_influence import helpers_of
from tamis.scoring.hashed_embedding import hashed_embeddings
from tamis.scoring.linear_head import softmax_residuals, with_bias
from tamis.scoring.tokenizer import tokenize

CLASSES, DIMENSION, TARGET = 3, 64, 5


@pytest.fixture
def recipe(tmp_path: Path, documents: pa.Table) -> dict[str, Any]:
    few = documents.slice(0, 60).append_column("topic", pa.array([i % CLASSES for i in range(60)]))
    few = few.set_column(1, "text", pa.array(["", *few["text"].to_pylist()[1:]]))
    random = np.random.default_rng(0)
    np.savez(tmp_path / "head.npz", weight=random.normal(size=(CLASSES, DIMENSION)), bias=random.normal(size=CLASSES))
    target = few.slice(TARGET, 1).select(["text", "topic"])
    return {
        "corpus": {"format": "parquet", "paths": [write_parquet(few, tmp_path / "corpus", 1)], "id": "id"},
        "targets": {"wanted": {"format": "parquet", "paths": [write_parquet(target, tmp_path / "target", 1)]}},
        "scores": {
            "vectors": {"scorer": "embedding", "model": "hashed", "dimension": DIMENSION},
            "topic_number": {"scorer": "column", "column": "topic"},
            "features": {
                "scorer": "head_gradients",
                "features": "vectors",
                "label": "topic_number",
                "head": str(tmp_path / "head.npz"),
            },
            "helps": {"scorer": "influence", "gradients": "features", "target": "wanted", "damping": 0.5},
            "plain": {
                "scorer": "influence",
                "gradients": "features",
                "target": "wanted",
                "curvature": "none",
                "normalise": "none",
            },
        },
        "select": [{"method": "top", "by": "helps", "keep": {"documents": 5}}],
        "store": str(tmp_path / "store"),
    }


def column(run: Finished, name: str) -> NDArray[np.float64]:
    return run.decisions[name].to_numpy(zero_copy_only=False).astype(np.float64)


def gradients(documents: pa.Table, head: Path) -> NDArray[np.float64]:
    """Whole gradients of the documents that have a text, float64[59, classes * (dimension + 1)]."""
    texts = documents.slice(0, 60)["text"].to_pylist()[1:]
    x = with_bias(hashed_embeddings(tokenize(pa.array(texts, pa.large_string())), 1, DIMENSION).astype(np.float16))
    arrays = np.load(head)
    weights = np.append(arrays["weight"], arrays["bias"][:, None], axis=1)
    residuals = softmax_residuals(x, np.arange(1, 60) % CLASSES, weights)
    return np.einsum("nc,nd->ncd", residuals, x).reshape(59, -1).astype(np.float64)


def test_scores_are_products_with_the_target(
    recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path, documents: pa.Table
) -> None:
    run, g = run_recipe(recipe), gradients(documents, tmp_path / "head.npz")
    query = g[TARGET - 1]
    plain, helps = column(run, "plain"), column(run, "helps")
    assert np.isnan(plain[0]) and np.isnan(column(run, "features_el2n")[0])
    np.testing.assert_allclose(plain[1:], g @ query, atol=2e-3 * np.abs(g @ query).max())
    np.testing.assert_allclose(column(run, "features_norm")[1:], np.linalg.norm(g, axis=1), rtol=2e-3)
    fisher = g.T @ g / len(g)
    damped = fisher + 0.5 * np.trace(fisher) / len(fisher) * np.eye(len(fisher))
    expected = g @ np.linalg.solve(damped, query) / np.linalg.norm(g, axis=1)
    assert np.corrcoef(helps[1:], expected)[0, 1] > 0.9999
    said = helpers_of(run.outcome.path, "0", 1, False)
    best = int(np.nanargmax(helps))
    assert f"{run.decisions['key'][best].as_py():016x}" in said.split("least")[0]


def test_a_projection_keeps_what_is_large(
    recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path, documents: pa.Table
) -> None:
    recipe["scores"]["features"] |= {"dimension": 100}
    g = gradients(documents, tmp_path / "head.npz")
    found, whole = column(run_recipe(recipe), "plain")[1:], g @ g[TARGET - 1]
    assert 0.6 < np.corrcoef(found, whole)[0, 1] < 0.9999


def test_what_does_not_fit_is_told(recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path) -> None:
    scores = recipe["scores"]
    for head, line in (
        ({"weight": np.ones(3)}, "needs `weight`"),
        ({"weight": np.full((3, DIMENSION), "1")}, "needs `weight`"),
        ({"weight": np.ones((3, DIMENSION)), "bias": np.ones(2)}, "needs `weight`"),
        ({"weight": np.full((3, DIMENSION), np.nan)}, "not finite"),
    ):
        np.savez(tmp_path / "wrong.npz", **head)
        changed = scores | {"features": scores["features"] | {"head": str(tmp_path / "wrong.npz")}}
        with pytest.raises(RecipeError, match=line):
            run_recipe(recipe | {"scores": changed})
    (tmp_path / "text.npz").write_text("weights")
    np.save(tmp_path / "one.npy", np.ones(3))
    for name in ("lacking.npz", "text.npz", "one.npy"):
        changed = scores | {"features": scores["features"] | {"head": str(tmp_path / name)}}
        with pytest.raises(RecipeError, match="cannot be read as an"):
            run_recipe(recipe | {"scores": changed})
    for head, line in (
        ({"weight": np.ones((3, 9))}, "9 dimensions"),
        ({"weight": np.ones((2, DIMENSION))}, "classes are 0 to 1"),
    ):
        np.savez(tmp_path / "wrong.npz", **head)
        changed = scores | {"features": scores["features"] | {"head": str(tmp_path / "wrong.npz")}}
        with pytest.raises(TamisError, match=line):
            run_recipe(recipe | {"scores": changed})
    with pytest.raises(RecipeError, match="class numbers"):
        run_recipe(recipe | {"scores": scores | {"features": scores["features"] | {"label": "vectors"}}})
