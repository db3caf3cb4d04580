"""The step q_tuning in whole runs: the same on any shards and workers, frozen for files that came since, explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_run import Finished, RunRecipe
from tamis.connectors.errors import RecipeError
from tamis.jobs.explain import explain_run

SCORE = {"scorer": "column"}


@pytest.fixture
def scored(documents: pa.Table) -> pa.Table:
    """Documents with a loss and an entropy, whole in quadrants that follow from their numbers."""
    rng = np.random.default_rng(1)
    loss, entropy = rng.normal(3, 1, 400), rng.normal(2, 0.5, 400)
    loss[7] = np.nan
    few = documents.slice(0, 400)
    columns = {"loss": pa.array(loss, from_pandas=True), "entropy": pa.array(entropy)}
    return few.append_column("loss", columns["loss"]).append_column("entropy", columns["entropy"])


def recipe_for(folder: Path, shard_bytes: int, **step: Any) -> dict[str, Any]:
    return {
        "corpus": {"format": "parquet", "paths": [f"{folder}/*.parquet"], "id": "id", "shard_bytes": shard_bytes},
        "scores": {"lm": {**SCORE, "column": "loss"}, "lm_entropy": {**SCORE, "column": "entropy"}},
        "select": [{"method": "q_tuning", "by": "lm", "name": "triage", "keep": {"fraction": 0.25}} | step],
    }


def written(table: pa.Table, folder: Path, files: int) -> Path:
    folder.mkdir()
    rows = -(-len(table) // files)
    for i in range(files):
        pq.write_table(table.slice(i * rows, rows), folder / f"{i}.parquet")
    return folder


def kept_ids(run: Finished) -> list[str]:
    return sorted(run.data["id"].to_pylist())


def test_keeps_the_corners_on_any_shards_and_workers(tmp_path: Path, scored: pa.Table, run_recipe: RunRecipe) -> None:
    one = run_recipe(recipe_for(written(scored, tmp_path / "one", 1), 1 << 25), "one")
    many = recipe_for(written(scored, tmp_path / "many", 5), 10_000)
    two = run_recipe(many, "two", workers=2, beam_options=["--direct_runner_bundle_repeat=1"])
    assert kept_ids(one) == kept_ids(two)
    assert one.data.num_rows == 399 // 4
    assert one.manifest["reasons"].keys() == {"no_score", "triage"}
    known = scored.filter(pa.compute.is_valid(scored["loss"]))
    loss, entropy = known["loss"].to_numpy(), known["entropy"].to_numpy()
    # with nearly independent scores a quarter of all is within the quadrants, of which the farthest corners are kept
    above = np.array([[(v > v[i]).sum() for i in range(399)] for v in (loss, entropy)]) / 399
    alpha = np.minimum(np.maximum(above[0], 1 - above[1]), np.maximum(1 - above[0], above[1]))
    order = np.array(known["id"].to_pylist())[np.argsort(alpha)]
    assert len(set(order[:99].tolist()) ^ set(kept_ids(one))) <= 4  # ties at the cut
    assert not one.manifest["warnings"]


def test_says_when_it_fills(tmp_path: Path, scored: pa.Table, run_recipe: RunRecipe) -> None:
    follows = scored.set_column(scored.column_names.index("entropy"), "entropy", scored["loss"])
    run = run_recipe(recipe_for(written(follows, tmp_path / "corpus", 2), 10_000))
    assert run.data.num_rows == 99
    assert any("beyond them is from 1 and 3" in line for line in run.manifest["warnings"])


def test_files_that_came_since_meet_the_same_plane(tmp_path: Path, scored: pa.Table, run_recipe: RunRecipe) -> None:
    corpus = written(scored.slice(0, 300), tmp_path / "corpus", 2)
    recipe = recipe_for(corpus, 10_000)
    first = run_recipe(recipe, "first")
    later = scored.slice(300)
    unlike = later.set_column(later.column_names.index("loss"), "loss", pa.array([50.0] * 100))
    pq.write_table(unlike, corpus / "later.parquet")
    second = run_recipe(recipe | {"since": str(first.outcome.path)}, "second")
    # all are of the highest loss there was: what was kept of such documents had low entropy
    entropy = dict(zip(later["id"].to_pylist(), later["entropy"].to_pylist(), strict=True))
    kept = set(kept_ids(second))
    assert 0 < len(kept) < 100
    assert max(entropy[i] for i in kept) <= min(value for i, value in entropy.items() if i not in kept)


def test_explains_a_document_by_its_quadrant(tmp_path: Path, scored: pa.Table, run_recipe: RunRecipe) -> None:
    run = run_recipe(recipe_for(written(scored, tmp_path / "corpus", 2), 10_000))
    rows = {row["id"]: row for row in scored.to_pylist() if row["loss"] is not None}
    noise = max(rows, key=lambda i: min(rows[i]["loss"] - 3, 2 * (rows[i]["entropy"] - 2)))
    misconception = max(rows, key=lambda i: min(rows[i]["loss"] - 3, 2 * (2 - rows[i]["entropy"])))
    for wanted, quadrant, kept in ((noise, 1, False), (misconception, 2, True)):
        (verdict,) = json.loads(explain_run(run.outcome.path, wanted, as_json=True))["verdicts"]
        assert (verdict["reason"] is None) == kept
        assert f"its place in quadrant {quadrant} " in verdict["says"]


def test_no_documents_are_no_mistake(tmp_path: Path, scored: pa.Table, run_recipe: RunRecipe) -> None:
    none = scored.set_column(scored.column_names.index("loss"), "loss", pa.nulls(400, pa.float64()))
    run = run_recipe(recipe_for(written(none, tmp_path / "corpus", 1), 10_000))
    assert run.manifest["totals"]["kept"]["documents"] == 0


def test_needs_the_entropy(tmp_path: Path, scored: pa.Table, run_recipe: RunRecipe) -> None:
    recipe = recipe_for(written(scored, tmp_path / "corpus", 1), 10_000)
    recipe["scores"]["other"] = recipe["scores"].pop("lm_entropy")
    with pytest.raises(RecipeError, match="no scorer makes the column `lm_entropy`"):
        run_recipe(recipe)
