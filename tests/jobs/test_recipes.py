"""The recipes that come with Tamis: each one is valid, and runs once its corpus, targets and models are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from finished_run import RunRecipe, write_parquet
from tamis.jobs.recipe import read_recipe

RECIPES = sorted((Path(__file__).parents[2] / "jobs" / "recipes").glob("*.yaml"))
OF_THIS_MACHINE = {"demo", "gopher", "c4"}  # read the documentation of Python, and are run elsewhere
LONG = {"color_filter", "d4"}  # in `make test`, rho_loss and prototypes run most of what these do


def test_all_are_found() -> None:
    assert len(RECIPES) > 10


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_is_valid_and_says_when_to_use_it(path: Path) -> None:
    read_recipe(path)
    if path.stem != "demo":
        assert "\n# To use: " in path.read_text()


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] if path.stem in LONG else [], id=path.stem)
        for path in RECIPES
        if path.stem not in OF_THIS_MACHINE
    ],
)
def test_runs(
    path: Path, tmp_path: Path, documents: pa.Table, target_documents: pa.Table, run_recipe: RunRecipe
) -> None:
    recipe: dict[str, Any] = yaml.safe_load(path.read_text())
    few = documents.take([*range(149), 0]).rename_columns({"group": "source"})  # one document is there twice
    few, target_documents = (
        table.append_column("class", pa.array([i % 2 for i in range(len(table))])) for table in (few, target_documents)
    )
    recipe["corpus"]["paths"] = [write_parquet(few, tmp_path / "data", 1)]
    for target in recipe.get("targets", {}).values():
        target["paths"] = [write_parquet(target_documents, tmp_path / "target", 1)]
    for score in recipe["scores"].values():
        if "model" in score or "reference" in score:
            pytest.importorskip("transformers")
            from tiny_models import save_model

            score |= {key: str(tmp_path / key) for key in ("model", "reference") if key in score}
            for number, key in enumerate(key for key in ("model", "reference") if key in score):
                save_model(tmp_path / key, few["text"].to_pylist()[:20], ("llama", "gpt2")[number])
            score["context"] = 64
        if score["scorer"] == "head_gradients":
            score["head"] = str(tmp_path / "head.npz")
            np.savez(score["head"], weight=np.random.default_rng(0).normal(size=(2, 32)))
        if score["scorer"] == "classifier":
            score |= {"fit_fraction": 1.0, "buckets": 4096}
        if score["scorer"] == "ngram_model":
            score["buckets"] = 1 << 14
    manifest = run_recipe(recipe).manifest
    totals = {name: count["documents"] for name, count in manifest["totals"].items()}
    assert totals["read"] == 150
    assert 0 < totals["kept"] < 150
    assert sum(reason["documents"] for reason in manifest["reasons"].values()) == totals["dropped"]
