"""Runs that split one budget over groups: exact totals, bounds, repetition by weight, and the report of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from finished_run import Finished, RunRecipe, write_jsonl, write_parquet
from tamis.connectors.errors import RecipeError, TamisError
from tamis.jobs.summary import summary
from tamis.selectors.allocate import allocate


@pytest.fixture
def recipe(tmp_path: Path, documents: pa.Table, target_documents: pa.Table) -> dict[str, Any]:
    write_jsonl(target_documents, tmp_path / "target.jsonl")
    paths = write_parquet(documents, tmp_path / "corpus", files=3)
    return {
        "corpus": {"format": "parquet", "paths": [paths], "id": "id", "group": "group"},
        "targets": {"docstrings": {"format": "jsonl", "paths": [str(tmp_path / "target.jsonl")]}},
        "scores": {"relevance": {"scorer": "dsir", "target": "docstrings"}},
    }


def by_group(table: pa.Table, *sums: str) -> dict[str, dict[str, int]]:
    counted = table.group_by("group").aggregate([([], "count_all"), *((name, "sum") for name in sums)])
    return {row.pop("group"): row for row in counted.to_pylist()}


def step_groups(finished: Finished, step: int = 0) -> dict[str, dict[str, Any]]:
    return {row["group"]: row for row in finished.manifest["steps"][step]["groups"]}


def test_floors_ceilings_and_repetition(recipe: dict[str, Any], run_recipe: RunRecipe, documents: pa.Table) -> None:
    there = {group: row["count_all"] for group, row in by_group(documents).items()}
    wanted = 3 * there["e"] / 200
    bounds = {"e": {"min": round(wanted, 3)}, "other": {"max": 0.25}, "z": {"min": 0.01}}
    step = {
        "method": "sample",
        "keep": {"documents": 200},
        "allocate": {"mode": "proportional", "per_group": bounds, "repeat": 2},
    }
    weigh = {"method": "importance", "by": "relevance", "temperature": 200}
    finished = run_recipe(recipe | {"select": [step], "weigh": weigh, "output": {"columns": ["relevance"]}})
    data, manifest, groups = finished.data, finished.manifest, step_groups(finished)

    kept = {group: row["count_all"] for group, row in by_group(data).items()}
    assert sum(kept.values()) == manifest["totals"]["kept"]["documents"] == 200
    assert kept["e"] == there["e"]
    assert kept["other"] == 50 < there["other"]
    sizes = np.array([there[group] for group in sorted(there)])
    floors = np.array([groups[group]["floor"] for group in sorted(there)])
    ceilings = np.array([50 if group == "other" else 999 for group in sorted(there)])
    expected = allocate(sizes, 200, "proportional", None, floors, ceilings)
    assert [kept[group] for group in sorted(there)] == expected.tolist()
    assert {group: row["kept"] for group, row in groups.items()} == kept

    # repeated by weight, on top of the importance, with mean one over all that is kept
    assert groups["e"]["repeated"] == 2.0
    assert {row["repeated"] for group, row in groups.items() if group != "e"} == {1.0}
    weights, scores = data["weight"].to_numpy().astype(np.float64), data["relevance"].to_numpy(zero_copy_only=False)
    importance = np.where(np.isnan(scores), np.nan, np.exp(scores / 200))
    importance = np.where(np.isnan(scores), np.nanmean(importance), importance)
    importance *= np.where(np.array(data["group"].to_pylist()) == "e", 2.0, 1.0)
    assert np.isnan(scores).any()
    np.testing.assert_allclose(weights, importance / importance.mean(), rtol=1e-6)
    of_decisions = finished.decisions.filter(finished.decisions["kept"])
    assert of_decisions.select(["key", "weight"]).to_pylist() == data.select(["key", "weight"]).to_pylist()
    figures, heaviest = manifest["weights"], np.sort(weights)[::-1]
    assert figures["effective_sample_size"] == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert figures["max_over_mean"] == pytest.approx(heaviest[0])
    assert figures["top_1_percent_share"] == pytest.approx(heaviest[:2].sum() / weights.sum())

    # what could not be met is told
    assert groups["e"]["unmet"].endswith(f"the group has only {there['e']}, which count 2 times")
    assert f"sample: e: {groups['e']['unmet']}" in summary(manifest).splitlines()
    assert any("names `z`, which is no group of the corpus" in line for line in manifest["warnings"])


def test_equal_tokens_in_steps_with_uniform_weights(recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
    split = {
        "method": "resample",
        "by": "relevance",
        "temperature": 100,
        "keep": {"tokens": 36_000},
        "allocate": {"mode": "equal", "default": {"min": {"tokens": 6_000}}, "repeat": 3},
    }
    band = {
        "method": "band",
        "by": "relevance",
        "keep": {"fraction": 0.5},
        "allocate": {"mode": "round_robin"},
        "name": "middle",
    }
    finished = run_recipe(
        recipe | {"select": [split, band]}, workers=2, beam_options=["--direct_runner_bundle_repeat=1"]
    )
    decisions, groups = finished.decisions, step_groups(finished)
    drawn = decisions.filter(pc.is_in(pc.fill_null(decisions["reason"], ""), pa.array(["", "middle"])))
    tokens = {group: row["tokens_sum"] for group, row in by_group(drawn, "tokens").items()}
    longest = pc.max(decisions["tokens"]).as_py()
    assert sum(row["budget"] for row in groups.values()) == 36_000
    for group, row in groups.items():
        assert row["unit"] == "tokens"
        assert tokens[group] == row["kept_tokens"] <= row["budget"]
        assert row["kept_tokens"] > row["budget"] - longest  # whole documents
    small = {group: row for group, row in groups.items() if row["available"] < 6_000}
    assert small
    assert all(row["kept_tokens"] == row["available"] for row in small.values())

    # in turns: all groups are equal but for those that have less
    kept = {group: row["kept"] for group, row in step_groups(finished, 1).items()}
    assert sum(kept.values()) == decisions["kept"].to_pylist().count(True) == len(drawn) // 2
    most = max(kept.values())
    for group, row in step_groups(finished, 1).items():
        assert kept[group] >= most - 1 or kept[group] == row["available"]

    repeated = np.array([groups[group]["repeated"] for group in finished.data["group"].to_pylist()])
    for row in small.values():
        assert row["repeated"] == pytest.approx(min(3, 6_000 / row["available"]))
    np.testing.assert_allclose(finished.data["weight"].to_numpy(), repeated / repeated.mean(), rtol=1e-6)
    assert finished.manifest["weights"]["max_over_mean"] == pytest.approx(repeated.max() / repeated.mean())


def test_budgets_like_the_mean_of_a_score(run_recipe: RunRecipe, documents: pa.Table, tmp_path: Path) -> None:
    groups = np.array(documents["group"].to_pylist())
    difficulty = np.random.default_rng(0).random(len(groups)) * np.where(groups == "c", 3.0, 1.0)
    missing = np.arange(len(groups)) % 7 == 0
    table = documents.append_column("difficulty", pa.array(difficulty, mask=missing))
    paths = write_parquet(table.append_column("balance", pa.array(difficulty - 0.5)), tmp_path / "corpus", files=5)
    step = {
        "method": "top",
        "by": "hard",
        "keep": {"documents": 60},
        "allocate": {"mode": "score_weighted", "score": "hard"},
    }
    corpus = {"format": "parquet", "paths": [paths], "id": "id", "group": "group"}
    scores = {"hard": {"scorer": "column", "column": "difficulty"}}
    recipe = {"corpus": corpus, "scores": scores, "select": [step], "output": {"columns": ["hard"]}}
    finished = run_recipe(recipe)
    names = sorted(set(groups))
    values = [difficulty[(groups == name) & ~missing] for name in names]
    sizes, means = np.array([len(v) for v in values]), np.array([v.mean() for v in values])
    expected = allocate(sizes, 60, "score_weighted", means)
    kept = {group: row["count_all"] for group, row in by_group(finished.data).items()}
    assert [kept[name] for name in names] == expected.tolist()
    assert kept["c"] > 1.5 * kept["t"]
    for name, there, count in zip(names, values, expected, strict=True):
        of_group = finished.data.filter(pc.equal(finished.data["group"], name))["hard"].to_numpy()
        np.testing.assert_array_equal(np.sort(of_group), np.sort(there)[-count:])
    with pytest.raises(TamisError, match=r"top_hard: allocate by `hard` needs scores of 0 or more, and one is -0\.4"):
        run_recipe(recipe | {"scores": {"hard": {"scorer": "column", "column": "balance"}}}, "negative")


def test_a_corpus_without_groups_is_refused(recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
    corpus = {key: value for key, value in recipe["corpus"].items() if key != "group"}
    step = {"method": "sample", "keep": {"documents": 5}, "allocate": {"mode": "equal"}}
    with pytest.raises(RecipeError, match=r"select\.0\.allocate: the corpus has no `group`"):
        run_recipe(recipe | {"corpus": corpus, "select": [step]})
