"""`tamis compare --influence` where the truth is known: some documents are of the target's kind, the others are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_run import write_parquet

pytest.importorskip("torch")
pytest.importorskip("transformers")

import yaml
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.errors import RecipeError
from tamis.connectors.keys import hash_column, keyed_bits
from tamis.jobs.compare_influence import InfluenceSettings, as_text, compare_influence
from tamis.pipelines.document_sample import sample_documents
from tamis.pipelines.job import Quiet
from tamis.pipelines.runner import Engine
from tiny_models import save_model

SETTINGS = InfluenceSettings("model", subsets=8, seeds=1, documents=16, tokens=800, context=32, learning_rate=3e-3)


def texts_of(words: list[str], count: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(words, 40)) + "." for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 documents, every second one in the target's words; `planted` knows which, and `turned` has it wrong."""
    folder = tmp_path_factory.mktemp("datamodelling")
    of_target, others = (
        ["river", "stone", "meadow", "willow", "heron"],
        ["ledger", "invoice", "tariff", "audit", "levy"],
    )
    pairs = zip(texts_of(of_target, 25, 0), texts_of(others, 25, 1), strict=True)
    texts = [text for pair in pairs for text in pair]
    planted = np.tile([1.0, 0.0], 25)
    table = pa.table({"id": [f"d{i}" for i in range(50)], "text": texts, "planted": planted, "turned": -planted})
    write_parquet(table, folder / "corpus", 2)
    write_parquet(pa.table({"text": texts_of(of_target, 5, 2)}), folder / "target", 1)
    save_model(folder / "model", texts)
    features = {
        "scorer": "gradients",
        "model": str(folder / "model"),
        "context": 64,
        "layers": ["head"],
        "dimension": 400,
    }
    influence = {"scorer": "influence", "gradients": "features", "target": "wanted"}
    recipe: dict[str, Any] = {
        "corpus": {"format": "parquet", "paths": [str(folder / "corpus" / "*.parquet")], "id": "id"},
        "targets": {"wanted": {"format": "parquet", "paths": [str(folder / "target" / "*.parquet")]}},
        "scores": {
            "features": features,
            "helps": influence,
            "plain": influence | {"curvature": "none", "normalise": "none"},
            "known": {"scorer": "column", "column": "planted"},
            "wrong": {"scorer": "column", "column": "turned"},
        },
        "select": [{"method": "top", "by": "helps", "keep": {"documents": 5}}],
    }
    (folder / "one.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    scores = {name: recipe["scores"][name] for name in ("known", "wrong")}
    (folder / "none.yaml").write_text(yaml.safe_dump(recipe | {"scores": scores, "select": []}))
    corpus = {"corpus": {"format": "parquet", "paths": [str(folder / "target" / "*.parquet")]}}
    (folder / "other.yaml").write_text(yaml.safe_dump(recipe | corpus))
    return folder


def measured(folder: Path, settings: InfluenceSettings = SETTINGS) -> dict[str, Any]:
    recipes, output = [folder / "one.yaml"], folder / "out"
    return json.loads(compare_influence(recipes, output, settings, [], Engine(1), Quiet(), as_json=True))


def test_what_is_planted_foretells_the_losses_and_influence_finds_it(folder: Path) -> None:
    found = measured(folder)
    methods = found["methods"]
    assert (found["documents"], found["subsets"], found["examples"], found["models_trained"]) == (16, 8, 5, 8)
    assert methods["known"]["low"] > 0.3
    assert methods["wrong"]["score"] == pytest.approx(-methods["known"]["score"])
    assert methods["wrong"]["high"] < -0.3
    for name in ("helps", "plain"):
        assert methods[name]["on_examples"] and methods[name]["score"] > 0.1, methods[name]
        assert methods[name]["seconds_per_1000_documents"] > 0
    assert methods["plain"]["score"] > 0.4  # what a document is divided by is no influence of a training on it
    assert not methods["known"]["on_examples"]
    assert all(row["low"] <= row["score"] <= row["high"] for row in methods.values())
    assert found["agreement_of_seeds"] is None and found["tokens"] == 800
    table = as_text(found)
    assert table.index("known (one") < table.index("wrong (one") and "8 halves of 16 documents" in table
    again = measured(folder)
    assert again["models_trained"] == 0
    for figures in (found, again):
        for row in (figures, *figures["methods"].values()):
            for key in ("seconds_per_1000_documents", "training_seconds", "models_trained"):
                row.pop(key, None)
    assert again == found
    assert not (folder / "out" / "work").exists()


def test_a_sample_is_of_the_documents_with_the_least_noise(folder: Path, tmp_path: Path) -> None:
    whole = pq.read_table(folder / "corpus")
    noise = keyed_bits(3, "document sample", hash_column(whole["id"].combine_chunks().cast(pa.large_string())))
    config = CorpusConfig(format="parquet", paths=[str(folder / "corpus" / "*.parquet")], id="id", shard_bytes=1)
    sample = sample_documents(config, 7, tmp_path / "sample", Engine(1), Quiet(), 3)
    found = pq.read_table(sample.paths[0])
    assert found.schema.names == whole.schema.names and sample.id == "id"
    assert found["id"].to_pylist() == [whole["id"][i].as_py() for i in np.sort(np.argsort(noise)[:7])]
    every = sample_documents(config, 99, tmp_path / "all", Engine(1), Quiet(), 3)
    assert pq.read_table(every.paths[0]).num_rows == 50


@pytest.mark.parametrize(
    ("names", "proxy", "message"),
    [
        (["none"], "model", "no score of `influence`"),
        (["one", "other"], "model", "another `corpus`"),
        (["one", "one"], "model", "two recipes"),
        (["one"], "7b", "no such size"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    folder: Path, tmp_path: Path, names: list[str], proxy: Any, message: str
) -> None:
    settings = InfluenceSettings(proxy, 4, 1, 20, 100, 32)
    recipes = [folder / f"{name}.yaml" for name in names]
    with pytest.raises(RecipeError, match=message):
        compare_influence(recipes, tmp_path / "out", settings, [], Engine(1), Quiet(), as_json=True)
