"""Token weights in the data files: those of the method for each kept document, with the tokenizer they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("transformers")

from finished_run import RunRecipe, write_parquet
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.connectors.errors import RecipeError
from tamis.selectors import weigh_tokens as weighing
from tamis.selectors.weigh_tokens import Rho1, SatImp, weigh_tokens
from tiny_models import save_model

LOSSES = st.lists(st.none() | st.lists(st.none() | st.floats(0, 20, width=16), max_size=9), max_size=12)


@pytest.fixture
def recipe(tmp_path: Path, documents: pa.Table) -> dict[str, Any]:
    few = documents.slice(0, 60)
    for kind in ("llama", "gpt2"):
        save_model(tmp_path / kind, few["text"].to_pylist()[:20], kind)
    model = {"scorer": "language_model", "token_nll": True, "context": 64}
    return {
        "corpus": {"format": "parquet", "paths": [write_parquet(few, tmp_path / "corpus", 2)], "id": "id"},
        "scores": {
            "now": {**model, "model": str(tmp_path / "llama")},
            "good": {**model, "model": str(tmp_path / "gpt2")},
        },
        "select": [{"method": "bottom", "by": "now", "keep": {"fraction": 0.5}}],
        "output": {"columns": ["now_token_nll", "good_token_nll"]},
    }


def test_rho_1_keeps_the_highest_excess_of_each_document(recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
    recipe["output"]["token_weights"] = {
        "method": "rho_1",
        "by": "now_token_nll",
        "reference": "good_token_nll",
        "share": 0.6,
    }
    run = run_recipe(recipe)
    assert run.data.num_rows == 30
    for row in run.data.to_pylist():
        now, good, weights = row["now_token_nll"], row["good_token_nll"], row["token_weights"]
        excess = np.float32(now) - np.float32(good)
        assert set(weights) <= {0.0, 1.0}
        kept = np.array(weights) == 1
        assert kept.sum() == np.ceil(0.6 * len(now))
        assert excess[kept].min() >= excess[~kept].max()
    schema = pq.read_schema(next((run.outcome.path / "data").glob("*.parquet")))
    metadata = schema.field("token_weights").metadata
    assert b"rho_1" in metadata[b"token_weights"]
    units = [column["unit"] for column in run.manifest["scorers"][0]["columns"]]
    assert metadata[b"tokenizer"].decode() in units[-1]


def test_q_tuning_masks_quadrant_2_alone(recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
    recipe["select"] = [{"method": "q_tuning", "by": "now", "keep": {"fraction": 0.5}, "name": "triage"}]
    recipe["output"]["columns"] += ["now", "now_entropy"]
    mask = {"method": "q_tuning", "by": "now_token_nll", "share": 0.5}
    recipe["output"]["token_weights"] = mask | {"triage": "triage"}
    triaged = run_recipe(recipe)
    recipe["output"]["token_weights"] = mask
    masked = run_recipe(recipe, "all").data.to_pylist()
    decisions = triaged.decisions
    loss, entropy = (np.median(decisions[name].to_numpy()) for name in ("now", "now_entropy"))
    quadrants = set()
    for row, of_all in zip(triaged.data.to_pylist(), masked, strict=True):
        second = row["now"] >= loss and row["now_entropy"] <= entropy
        quadrants.add(second)
        assert row["token_weights"] == (of_all["token_weights"] if second else [1.0] * len(row["now_token_nll"]))
        assert sum(of_all["token_weights"]) == np.ceil(0.5 * len(row["now_token_nll"]))
    assert quadrants == {True, False}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"method": "prior", "by": "now_perplexity"}, "no scorer makes the list `now_perplexity`"),
        (
            {"method": "rho_1", "by": "now_token_nll", "reference": "god_token_nll", "share": 0.6},
            r"nearest: good_token_nll",
        ),
        ({"method": "rho_1", "by": "now_token_nll", "share": 0.6}, "reference"),
        (
            {"method": "q_tuning", "by": "now_token_nll", "share": 0.6, "triage": "bottom_now"},
            "`bottom_now` is no step of the method q_tuning",
        ),
    ],
)
def test_what_cannot_be_weighed_is_refused(
    recipe: dict[str, Any], run_recipe: RunRecipe, weights: dict[str, Any], message: str
) -> None:
    recipe["output"]["token_weights"] = weights
    with pytest.raises(RecipeError, match=message):
        run_recipe(recipe)


def test_other_tokenizers_are_refused(recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path) -> None:
    save_model(tmp_path / "gpt2", ["quite another text, of which other tokens are made"], "gpt2")
    recipe["output"]["token_weights"] = {"method": "sstoken", "by": "now_token_nll", "history": "good_token_nll"}
    with pytest.raises(RecipeError, match="of different tokenizers"):
        run_recipe(recipe)


def test_a_list_of_losses_ranks_nothing(recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
    recipe["select"][0]["by"] = "now_token_nll"
    with pytest.raises(RecipeError, match="is a list for each document, not a number"):
        run_recipe(recipe)


@settings(deadline=None)
@given(LOSSES)
def test_a_document_does_not_depend_on_those_beside_it(losses: list[list[float | None] | None]) -> None:
    lists = pa.array(losses, pa.list_(pa.float16()))
    for weigher in (
        SatImp(method="satimp", by="a", saturation=5, importance=0.1),
        Rho1(method="rho_1", by="a", reference="b", share=0.5),
    ):
        columns = dict.fromkeys(weigher.needs, lists)
        whole = weigh_tokens(weigher, columns)
        alone = [weigh_tokens(weigher, {name: lists.slice(i, 1) for name in columns}) for i in range(len(lists))]
        assert whole.to_pylist() == [row for one in alone for row in one.to_pylist()]
        cells, weighing.CELLS = weighing.CELLS, 8
        try:
            assert weigh_tokens(weigher, columns).to_pylist() == whole.to_pylist()
        finally:
            weighing.CELLS = cells
        for row, weights in zip(losses, whole.to_pylist(), strict=True):
            assert (row is None) == (weights is None)
            if row is not None:
                assert len(weights) == len(row)
                assert all(weight == 0 for loss, weight in zip(row, weights, strict=True) if loss is None)
