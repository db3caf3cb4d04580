"""Scores of language models in whole runs: documents that do not fit into memory, and the tokenizer of token lists."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("transformers")

import torch
from finished_run import RunRecipe, write_parquet
from tamis.connectors.corpus_config import CorpusConfig
from tamis.scoring.causal_model import causal_model
from tamis.scoring.language_model_scorer import LanguageModel, LanguageModelParameters
from tiny_models import save_model

CONTEXT = 60


@pytest.fixture
def recipe(tmp_path: Path, documents: pa.Table) -> dict[str, Any]:
    few = documents.slice(0, 40)
    texts = few["text"].to_pylist()
    texts[3:6] = ["short", "", "also short"]
    few = few.set_column(few.column_names.index("text"), "text", pa.array(texts))
    save_model(tmp_path / "model", [*texts[:20], str(tmp_path)])
    model = {"scorer": "language_model", "model": str(tmp_path / "model"), "context": CONTEXT, "token_nll": True}
    return {
        "corpus": {"format": "parquet", "paths": [write_parquet(few, tmp_path / "corpus", 2)], "id": "id"},
        "scores": {"lm": model},
        "select": [{"method": "bottom", "by": "lm", "keep": {"fraction": 1}, "name": "all"}],
        "output": {"columns": ["lm", "lm_token_nll"]},
    }


@pytest.fixture
def small_device(recipe: dict[str, Any]) -> Iterator[None]:
    """The model on a device without memory for a window of the whole context."""
    scorer = LanguageModel(LanguageModelParameters(**recipe["scores"]["lm"]))
    scorer.prepare(CorpusConfig(format="parquet", paths=["x"], text="text"))
    assert scorer._prepared is not None
    model = causal_model(scorer._prepared.key)
    network = model.network

    def small(tokens: torch.Tensor) -> torch.Tensor:
        if tokens.numel() >= CONTEXT:
            raise torch.OutOfMemoryError("out of memory")
        return network(tokens)

    model.network = small
    yield
    model.network = network


@pytest.mark.usefixtures("small_device")
def test_documents_that_do_not_fit_are_dropped_counted_and_named(recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
    run = run_recipe(recipe)
    decided = {row["key"]: row for row in run.decisions.to_pylist()}
    # BOS is read too, so that a document of as many tokens as the context fills a window
    unfit = {key for key, row in decided.items() if row["lm_tokens"] >= CONTEXT}
    assert 0 < len(unfit) < 38
    for key, row in decided.items():
        assert (row["lm"] is None) == (key in unfit or row["lm_tokens"] == 0)
        assert row["reason"] == ("no_score" if row["lm"] is None else None)
    (line,) = [line for line in run.manifest["warnings"] if "do not fit" in line]
    assert line.startswith(f"lm: {len(unfit)} documents do not fit into the memory")
    assert f"{min(unfit):016x}" in line
    # the same is said when the scores are stored already
    again = run_recipe(recipe | {"seed": 1}, "again")
    assert line in again.manifest["warnings"]


def test_lists_of_tokens_name_their_tokenizer_in_the_store_and_in_the_data(
    recipe: dict[str, Any], run_recipe: RunRecipe
) -> None:
    recipe["output"]["token_weights"] = {"method": "satimp", "by": "lm_token_nll", "saturation": 5, "importance": 0.1}
    run = run_recipe(recipe)
    data = pq.read_schema(next((run.outcome.path / "data").glob("*.parquet")))
    stored = [pq.read_schema(path) for path in (run.outcome.path.parent / ".tamis").glob("language_model-*/*.parquet")]
    tokenizer = data.field("token_weights").metadata[b"tokenizer"]
    assert len(tokenizer) >= 16
    assert stored
    for field in (data.field("lm_token_nll"), *(schema.field("token_nll") for schema in stored)):
        assert field.metadata[b"tokenizer"] == tokenizer
    assert b"tokenizer" not in (data.field("lm").metadata or {})
