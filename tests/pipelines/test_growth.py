"""A corpus that grows: only what is new is scored, the decision is over all, and it is said when all must be scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_run import RunRecipe, write_parquet

FILES, MORE = 100, 3


class Corpus:
    """Files of one document each, which are shards of their own: row groups are not cut."""

    def __init__(self, folder: Path, documents: pa.Table, target: pa.Table) -> None:
        self.folder, self.documents = folder, documents
        (folder / "corpus").mkdir()
        self.add(range(FILES))
        self.recipe: dict[str, Any] = {
            "corpus": {"format": "parquet", "paths": [f"{folder}/corpus/*.parquet"], "id": "id", "shard_bytes": 1},
            "targets": {"t": {"format": "parquet", "paths": [write_parquet(target, folder / "target", 1)]}},
            "scores": {"relevance": {"scorer": "dsir", "target": "t", "buckets": 500, "min_tokens": 5}},
            "select": [{"method": "top", "by": "relevance", "keep": {"fraction": 0.3}}],
        }

    def add(self, numbers: range) -> None:
        for number in numbers:
            pq.write_table(self.documents.slice(number, 1), self.folder / "corpus" / f"{number:04d}.parquet")


@pytest.fixture
def corpus(tmp_path: Path, documents: pa.Table, target_documents: pa.Table) -> Corpus:
    return Corpus(tmp_path, documents, target_documents)


@pytest.mark.slow
def test_three_shards_more(corpus: Corpus, run_recipe: RunRecipe, capfd: pytest.CaptureFixture[str]) -> None:
    first = run_recipe(corpus.recipe, "first")
    corpus.add(range(FILES, FILES + MORE))
    pinned = {"scorer": "dsir", "fitted": str(first.outcome.path / "fitted" / "relevance.npz")}
    pinned |= {"buckets": 500, "min_tokens": 5}
    recipe = corpus.recipe | {"targets": {}, "scores": {"relevance": pinned}}
    capfd.readouterr()
    grown = run_recipe(recipe, "grown")
    assert f"scoring: {FILES} of {FILES + MORE} shards are in the store already" in capfd.readouterr().err
    assert grown.manifest["totals"]["read"]["documents"] == FILES + MORE
    alone = run_recipe(recipe | {"store": str(corpus.folder / "store of its own")}, "alone")
    assert grown.data_bytes == alone.data_bytes  # the decision is over all of them


@pytest.mark.slow
def test_it_is_said_when_all_must_be_scored(
    corpus: Corpus, run_recipe: RunRecipe, capfd: pytest.CaptureFixture[str]
) -> None:
    run_recipe(corpus.recipe, "first")
    assert "fitted anew" not in capfd.readouterr().err
    corpus.add(range(FILES, FILES + MORE))
    run_recipe(corpus.recipe, "grown")
    told = capfd.readouterr().err
    assert f"fitting: {FILES} of {FILES + MORE} shards are in the store already" in told
    assert "relevance: fitted anew, on another corpus than before, so all shards are scored" in told
