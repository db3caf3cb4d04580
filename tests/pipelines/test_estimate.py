"""A plan foretells what a run does, writes nothing, sees what is stored, and refuses what cannot work."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from finished_run import RunRecipe, write_jsonl, write_parquet
from tamis.connectors import shards
from tamis.connectors.errors import RecipeError
from tamis.jobs.forecast import forecast
from tamis.jobs.recipe import make_job, read_recipe
from tamis.pipelines import shard_sample
from tamis.pipelines.estimate import Estimate, estimate
from tamis.pipelines.runner import Engine


@pytest.fixture
def recipe(tmp_path: Path, documents: pa.Table, target_documents: pa.Table) -> dict[str, Any]:
    write_jsonl(target_documents, tmp_path / "target.jsonl")
    return {
        "corpus": {
            "format": "parquet",
            "paths": [write_parquet(documents, tmp_path / "corpus", 3)],
            "id": "id",
            "group": "group",
        },
        "targets": {"t": {"format": "jsonl", "paths": ["target.jsonl"]}},
        "scores": {"relevance": {"scorer": "dsir", "target": "t", "normalise": "tokens"}},
        "select": [
            {"method": "top", "by": "relevance", "keep": {"fraction": 0.5}, "within": "group"},
            {"method": "sample", "keep": {"documents": 40}},
        ],
        "store": str(tmp_path / "store"),
    }


def planned(tmp_path: Path, recipe: dict[str, Any]) -> Estimate:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return estimate(make_job(read_recipe(path, output=str(tmp_path / "runs" / "planned"))), Engine(2))


def test_a_small_corpus_is_foretold_exactly(tmp_path: Path, recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
    found = planned(tmp_path, recipe)
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "store").exists()
    run = run_recipe(recipe)
    manifest = run.manifest
    assert found.corpora["corpus"]["documents"] == manifest["totals"]["read"]["documents"]
    assert found.corpora["corpus"]["tokens"] == manifest["totals"]["read"]["tokens"]
    assert [step["kept"] for step in found.steps] == [step["kept"] for step in manifest["steps"]]
    kept = {group["group"]: group["kept"] for group in manifest["groups"]}
    assert {group["group"]: group["kept"] for group in found.groups} == kept
    assert found.warnings == manifest["warnings"]
    assert [one.stage for one in found.passes] == [stage for stage in manifest["timings"] if stage != "total"]
    assert set(found.stored.values()) == {0}
    again = planned(tmp_path, recipe)
    shard_count = again.corpora["corpus"]["shards"]
    assert again.stored == {"document": shard_count, "relevance (statistics)": shard_count}
    assert next(one for one in again.passes if one.stage == "fitting").share == 0
    text = forecast(again)
    assert f"document {shard_count}, relevance (statistics) {shard_count}" in text
    assert "sample: keeps about 40 of" in text


def test_a_larger_corpus_is_sampled(
    tmp_path: Path,
    recipe: dict[str, Any],
    documents: pa.Table,
    run_recipe: RunRecipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies = [documents.set_column(0, "id", pa.array([f"{i}-{j}" for j in range(len(documents))])) for i in range(20)]
    paths = write_parquet(pa.concat_tables(copies), tmp_path / "large", 40)
    monkeypatch.setattr(shard_sample, "SAMPLE_BYTES", 60_000)
    monkeypatch.setattr(shards, "SHARD_BYTES", 1 << 20)
    large = recipe | {"corpus": recipe["corpus"] | {"paths": [paths]}}
    found = planned(tmp_path, large)
    manifest = run_recipe(large).manifest
    assert found.sampled < 0.3 * 20 * len(documents)
    assert found.corpora["corpus"]["documents"] == 20 * len(documents)
    assert found.corpora["corpus"]["tokens"] == pytest.approx(manifest["totals"]["read"]["tokens"], rel=0.15)
    for step, real in zip(found.steps, manifest["steps"], strict=True):
        assert step["kept"] == pytest.approx(real["kept"], rel=0.25)


def test_what_cannot_work_is_refused(tmp_path: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = recipe | {"select": [{"method": "top", "by": "quality", "keep": {"fraction": 0.5}}]}
    with pytest.raises(RecipeError, match="no scorer makes the column `quality`"):
        planned(tmp_path, wrong)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 90, 10))
    with pytest.raises(RecipeError, match=r"the disk of .*store.* has 0.0 GB free, about .* GB are needed"):
        planned(tmp_path, recipe)
