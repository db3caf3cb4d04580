"""`chunk:` makes documents of pieces; nothing of the whole ones is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from finished_run import RunRecipe, write_parquet
from tamis.connectors.keys import hash_column
from tamis.scoring.tokenizer import tokenize


def test_pieces_are_documents_and_parents_are_conserved(
    tmp_path: Path, documents: pa.Table, run_recipe: RunRecipe
) -> None:
    few = documents.slice(0, 60)
    texts = few["text"].to_pylist()
    texts[7] = None
    few = few.set_column(1, "text", pa.array(texts))
    paths = [write_parquet(few, tmp_path / "corpus", 2)]
    recipe = {
        "corpus": {"format": "parquet", "paths": paths, "id": "id", "group": "group", "chunk": 50},
        "select": [{"method": "sample", "keep": {"fraction": 1.0}}],
        "errors": {"max_dead_fraction": 0.1},
    }
    run = run_recipe(recipe)
    data = run.data.sort_by([("parent_key", "ascending"), ("position", "ascending")])
    counts = tokenize(data["text"].combine_chunks()).counts
    position = data["position"].to_numpy()
    last = np.append(position[1:] == 0, True)
    assert (counts[~last] == 50).all()
    assert (counts <= 50).all()
    joined: dict[int, str] = {}
    for parent, text in zip(data["parent_key"].to_pylist(), data["text"].to_pylist(), strict=True):
        joined[parent] = joined.get(parent, "") + text
    keys = hash_column(few["id"].combine_chunks()).tolist()
    assert joined == {key: text for key, text in zip(keys, texts, strict=True) if text is not None}
    assert len(set(data["key"].to_pylist())) == len(data)
    assert not set(data["key"].to_pylist()) & set(keys)
    read = run.manifest["totals"]["read"]
    assert read["documents"] == len(data) + 1
    assert sum(source["rows"] for source in run.manifest["sources"]) == 60
    decisions = run.decisions
    assert decisions.num_rows == len(data)
    assert {"parent_key", "position"} <= set(decisions.column_names)
