"""Influence in whole runs: scores are those of stored gradients, and a new target takes no new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_run import Finished, RunRecipe, write_parquet
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tamis.connectors.errors import RecipeError
from tamis.connectors.packed_vectors import unpacked
from tamis.connectors.run_directory import state_url
from tamis.jobs.progress import Lines
from tamis.jobs.verify import verify_run
from tamis.pipelines.runner import Engine
from tamis.scoring.datainf import datainf_queries
from tamis.scoring.gradient_model import GradientModel
from tamis.scoring.gradients_scorer import Gradients, GradientsParameters
from tamis.scoring.vectors import vectors_of
from tiny_models import save_model

CHOSEN = {"one": 7, "two": 41}
"""Documents of the corpus that are targets of their own."""


@pytest.fixture
def recipe(tmp_path: Path, documents: pa.Table) -> dict[str, Any]:
    few = documents.slice(0, 50)
    save_model(tmp_path / "model", few["text"].to_pylist()[:20])
    few = few.set_column(1, "text", pa.array(["", *few["text"].to_pylist()[1:]]))
    targets = {name: few.slice(row, 1).select(["text"]) for name, row in CHOSEN.items()}
    return {
        "corpus": {"format": "parquet", "paths": [write_parquet(few, tmp_path / "corpus", 1)], "id": "id"},
        "targets": {
            name: {"format": "parquet", "paths": [write_parquet(table, tmp_path / name, 1)]}
            for name, table in targets.items()
        },
        "scores": {
            "features": {"scorer": "gradients", "model": str(tmp_path / "model"), "context": 64, "dimension": 300},
            "helps": {"scorer": "influence", "gradients": "features", "target": "one"},
        },
        "select": [{"method": "top", "by": "helps", "keep": {"documents": 5}}],
        "store": str(tmp_path / "store"),
    }


def with_influence(recipe: dict[str, Any], **settings: Any) -> dict[str, Any]:
    scores = recipe["scores"]
    return recipe | {"scores": scores | {"helps": scores["helps"] | settings}}


def column(run: Finished, name: str = "helps") -> NDArray[np.float64]:
    """Return a score in the order of the corpus, which is one file; NaN where it is null."""
    return run.decisions[name].to_numpy(zero_copy_only=False).astype(np.float64)


def stored_gradients(recipe: dict[str, Any]) -> NDArray[np.float64]:
    """Return all vectors in the store, float64[n, d], in the order of the corpus; zeros where there is none."""
    (file,) = Path(recipe["store"]).glob("**/gradients*/**/*.parquet")
    vectors, there = vectors_of(unpacked(pq.read_table(file))["score"])
    found = np.zeros((len(there), vectors.shape[1]))
    found[there] = vectors
    return found


def by_hand(known: NDArray[np.float64], query: NDArray[np.float64], settings: dict[str, Any]) -> NDArray[np.float64]:
    """Scores of documents [n, 300] for one that is the target, from explicit inverses."""
    curvature, normalise = settings.get("curvature", "fisher"), settings.get("normalise", "norm")
    if normalise != "none":
        query = query / np.linalg.norm(query)
    blocks = [300] if settings.get("blocks") == "all" else [22] * 6 + [21] * 8
    damping = settings.get("damping", 0.1)
    inverse = np.eye(300)
    if curvature == "fisher":
        fisher, begin = known.T @ known / len(known), 0
        for size in blocks:
            block = (slice(begin, begin + size),) * 2
            level = damping * np.trace(fisher[block]) / size
            inverse[block] = np.linalg.inv(fisher[block] + level * np.eye(size))
            begin += size
    if curvature == "diagonal":
        squares, begin = np.square(known).mean(axis=0), 0
        for size in blocks:
            part = slice(begin, begin + size)
            inverse[part, part] = np.diag(1 / (squares[part] + damping * squares[part].mean()))
            begin += size
    moved = datainf_queries(known, query[None], blocks, damping)[0] if curvature == "datainf" else inverse @ query
    if normalise != "none":
        moved = moved / np.sqrt(moved @ query)
    products = known @ moved
    if normalise == "norm":
        return products / np.linalg.norm(known, axis=1)
    return products / np.sqrt((known @ inverse * known).sum(axis=1)) if normalise == "self_influence" else products


def test_scores_are_those_of_stored_gradients(
    recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path, documents: pa.Table
) -> None:
    ways: dict[str, dict[str, Any]] = {
        "dot": {"curvature": "none", "normalise": "none"},
        "cosine": {"curvature": "none"},
        "helps": {},
        "trak": {"blocks": "all", "damping": 0.5, "normalise": "none"},
        "whitened": {"normalise": "self_influence"},
        "datainf": {"curvature": "datainf"},
        "diagonal": {"curvature": "diagonal", "damping": 0.3},
    }
    influence = recipe["scores"]["helps"]
    scores = {"features": recipe["scores"]["features"]} | {name: influence | way for name, way in ways.items()}
    run = run_recipe(recipe | {"scores": scores})
    features = stored_gradients(recipe)
    there = features.any(axis=1)
    assert not there[0] and there[1:].all()
    for name, way in ways.items():
        expected, found = by_hand(features[there], features[CHOSEN["one"]], way), column(run, name)
        assert np.isnan(found[0])
        np.testing.assert_allclose(found[1:], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max(), err_msg=name)
    for name in ("cosine", "whitened"):
        assert np.nanargmax(column(run, name)) == CHOSEN["one"]
        assert np.nanmax(column(run, name)) == pytest.approx(1, abs=2e-3)


def test_a_new_target_takes_no_new_gradients(
    recipe: dict[str, Any], run_recipe: RunRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    differentiated: list[int] = []
    whole = GradientModel.gradients

    def counted(self: GradientModel, sequences: Any, *rest: Any) -> Any:
        differentiated.append(len(sequences))
        return whole(self, sequences, *rest)

    monkeypatch.setattr(GradientModel, "gradients", counted)
    first = run_recipe(recipe, "first")
    assert sum(differentiated) == 50 + 1
    differentiated.clear()
    scores = recipe["scores"]
    saved = scores["helps"] | {"fitted": state_url(first.outcome.path, "helps"), "target": None}
    both = scores["helps"] | {"target": ["one", "two"], "curvature": "none"}
    other = {"features": scores["features"], "helps": both, "saved": saved}
    second = run_recipe(recipe | {"scores": other}, "second", workers=2)
    assert sum(differentiated) == 1  # of the target that is new
    np.testing.assert_array_equal(column(second, "saved"), column(first))
    best = np.fmax(column(second, "helps_one"), column(second, "helps_two"))
    np.testing.assert_array_equal(column(second), best)
    assert set(np.argsort(-np.nan_to_num(best))[:2].tolist()) == set(CHOSEN.values())
    assert verify_run(second.outcome.path, Engine(1), Lines(as_json=False)).findings == []
    with pytest.raises(RecipeError, match="was made with"):
        run_recipe(recipe | {"scores": other | {"saved": saved | {"damping": 0.3}}}, "third")


def test_checkpoints_are_summed_with_their_rates_and_responses_come_after_prompts(
    recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path, documents: pa.Table
) -> None:
    pairs = documents.slice(100, 20).rename_columns(["id", "answer", "asked"])
    names = {"prompt": "asked", "response": "answer"}
    corpus = {"format": "parquet", "paths": [write_parquet(pairs, tmp_path / "pairs", 1)], "id": "id", **names}
    wanted = {"format": "parquet", "paths": [write_parquet(pairs.slice(3, 1), tmp_path / "wanted", 1)], **names}
    recipe |= {"corpus": corpus, "targets": {"one": wanted}}
    save_model(tmp_path / "later", documents["text"].to_pylist()[:20], "gpt2")
    later = recipe["scores"]["features"] | {"model": str(tmp_path / "later")}
    scores = {"features": recipe["scores"]["features"], "later": later}
    for name, settings in {
        "first": {"gradients": "features"},
        "second": {"gradients": "later"},
        "helps": {"gradients": ["features", "later"], "rates": [3e-4, 1e-4]},
    }.items():
        scores[name] = {"scorer": "influence", "target": "one", "curvature": "none"} | settings
    run = run_recipe(recipe | {"scores": scores})
    expected = 0.75 * column(run, "first") + 0.25 * column(run, "second")
    assert column(run)[3] == pytest.approx(1, abs=2e-3)  # were the target's prompt predicted too, it would be less
    np.testing.assert_allclose(column(run), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("influence", "message"),
    [
        ({"gradients": "feature"}, "no score is called `feature`"),
        ({"gradients": "language"}, "where one of the scorer `gradients` or `head_gradients` is needed"),
        ({"rates": [1.0, 2.0]}, "2 `rates` for 1 checkpoints"),
        ({"rates": [-1.0]}, "positive"),
        ({"target": ["one", "one"]}, "each score or target once"),
        ({"curvature": "none", "normalise": "self_influence"}, "is of `curvature: fisher`"),
        ({"target": "three"}, "no target `three`"),
    ],
)
def test_misuse_is_told_before_anything_is_read(
    recipe: dict[str, Any], run_recipe: RunRecipe, influence: dict[str, Any], message: str
) -> None:
    wrong = with_influence(recipe, **influence)
    wrong["scores"]["language"] = {"scorer": "language_model", "model": recipe["scores"]["features"]["model"]}
    with pytest.raises(RecipeError, match=message):
        run_recipe(wrong)


def test_a_target_without_gradients_is_told(recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path) -> None:
    empty = {"format": "parquet", "paths": [write_parquet(pa.table({"text": ["", ""]}), tmp_path / "empty", 1)]}
    with pytest.raises(RecipeError, match="no document of the target `one` has a gradient"):
        run_recipe(recipe | {"targets": {"one": empty}})


def test_parameters_of_gradients_that_contradict_are_refused() -> None:
    for wrong in ({"update": "adam"}, {"optimizer": "x"}, {"update": "sign", "projection": "random"}):
        with pytest.raises(ValueError, match="`update"):
            GradientsParameters(scorer="gradients", model="x", **wrong)
    with pytest.raises(RuntimeError, match="prepared before"):
        Gradients(GradientsParameters(scorer="gradients", model="x"))._ready()
