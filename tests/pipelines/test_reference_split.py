"""A recipe with a reference model: the documents that it is trained on are dropped, by key, and `explain` says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from finished_run import RunRecipe, write_parquet
from tamis.connectors.errors import RecipeError
from tamis.jobs.explain import explain_run
from tamis.selectors.reference_split import SPLIT, in_reference_split


@pytest.fixture
def recipe(tmp_path: Path, documents: pa.Table) -> dict[str, Any]:
    return {
        "seed": 5,
        "corpus": {"format": "parquet", "paths": [write_parquet(documents, tmp_path / "corpus", 2)], "id": "id"},
        "select": [{"method": "sample", "keep": {"fraction": 0.5}, "name": "half"}],
        "reference": {"path": "model", "fraction": 0.2},
    }


def test_what_trains_the_model_is_not_selected_from(recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
    run = run_recipe(recipe)
    keys = run.decisions["key"].to_numpy()
    split = in_reference_split(keys, 0.2, 5)
    reasons = np.array(run.decisions["reason"].to_pylist(), dtype=object)
    assert 0.1 < split.mean() < 0.3
    assert np.array_equal(reasons == SPLIT, split)
    assert run.manifest["reasons"][SPLIT]["documents"] == split.sum()
    assert run.manifest["totals"]["kept"]["documents"] == (~split).sum() // 2  # the steps see what is left
    told = explain_run(run.outcome.path, f"{keys[split][0]:016x}", as_json=False)
    assert f"dropped by {SPLIT}" in told and "below the cut at 0.2" in told
    # the resolved recipe spells it out, and means the same
    resolved = yaml.safe_load((run.outcome.path / "recipe.yaml").read_text())
    again = run_recipe(resolved, "again")
    assert again.data_bytes == run.data_bytes
    assert len(again.manifest["steps"]) == 2


def test_a_model_of_a_target_takes_nothing_from_the_corpus(
    recipe: dict[str, Any], run_recipe: RunRecipe, target_documents: pa.Table, tmp_path: Path
) -> None:
    target = write_parquet(target_documents, tmp_path / "target", 1)
    recipe["targets"] = {"t": {"format": "parquet", "paths": [target]}}
    recipe["reference"] |= {"target": "t"}
    assert SPLIT not in run_recipe(recipe).manifest["reasons"]


def test_how_the_model_is_trained_does_not_make_another_run(recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
    first = run_recipe(recipe)
    for key, value in (("size", "4m"), ("tokens", 7), ("path", "other")):
        recipe["reference"][key] = value
    assert run_recipe(recipe).outcome.manifest is None  # nothing new
    for key, value in (("fraction", 0.3), ("seed", 6)):
        with pytest.raises(RecipeError, match="another recipe"):
            run_recipe(recipe | {"reference": recipe["reference"] | {key: value}})
    assert first.outcome.path.is_dir()
