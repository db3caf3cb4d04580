"""Numbers of others: from the corpus whatever its format, and joined from files beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_run import Finished, RunRecipe, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.connectors.errors import RecipeError
from tamis.connectors.files import local_info
from tamis.connectors.keys import hash_column
from tamis.connectors.side_table import load_side_table
from tamis.scoring.catalogue import SCORERS

TEXTS = [f"document number {i}" for i in range(6)]
VALUES = [0.5, None, float("nan"), -3.0, 7.0, float("inf")]


def run_on(run_recipe: RunRecipe, corpus: dict[str, Any], output: str = "run", **scorer: Any) -> Finished:
    return run_recipe(
        {
            "corpus": corpus | {"text": "text"},
            "scores": {"s": {"scorer": "column"} | scorer},
            "select": [{"method": "top", "by": "s", "keep": {"documents": 3}}],
        },
        output,
    )


def test_a_column_of_the_corpus_in_any_format(tmp_path: Path, run_recipe: RunRecipe) -> None:
    table = pa.table({"text": TEXTS, "quality": VALUES})
    pq.write_table(table, tmp_path / "a.parquet")
    lines = [{"text": t, "quality": v} for t, v in zip(TEXTS, VALUES, strict=True)]
    lines[1]["quality"] = "none"
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("parquet", "jsonl"):
        run = run_on(run_recipe, {"format": name, "paths": [f"a.{name}"]}, name, column="quality")
        assert run.decisions["s"].to_pylist() == [0.5, None, None, -3.0, 7.0, float("inf")]
        assert run.data["text"].to_pylist() == [TEXTS[0], TEXTS[4], TEXTS[5]]
    # the field stays where it was
    assert json.loads(run.data["extra"].to_pylist()[0]) == {"quality": 0.5}


def test_a_file_beside_the_corpus_joined_by_id_or_key(tmp_path: Path, run_recipe: RunRecipe) -> None:
    ids = [str(i) for i in range(6)]
    write_jsonl(pa.table({"id": ids, "text": TEXTS}), tmp_path / "a.jsonl")
    keys = hash_column(pa.array(ids)).tolist()
    # numbers as ids; document 5 has no row, "9" is nobody's; 2 has three rows, one of them null
    rows = [(0, 1.0), (1, 2.0), (2, 5.0), (2, None), (2, 1.0), (3, 0.0), (4, -1.0), (9, 9.0)]
    side = {"id": [i for i, _ in rows], "loss": [v for _, v in rows]}
    pq.write_table(pa.table(side), tmp_path / "side.parquet")
    by_id = {"format": "jsonl", "paths": ["a.jsonl"], "id": "id"}
    mean = run_on(run_recipe, by_id, "mean", column="loss", file="side.parquet")
    assert mean.decisions["s"].to_pylist() == [1.0, 2.0, 3.0, 0.0, -1.0, None]
    last = run_on(run_recipe, by_id, "last", column="loss", file="side.parquet", take="last")
    assert last.decisions["s"].to_pylist()[2] == 1.0
    told = next(line for line in mean.manifest["warnings"] if line.startswith("s: "))
    assert "1 of 6 ids are of no document, and 1 documents have no row there" in told
    hex_keys = [f"{keys[i]:016x}" if i < 6 else "00" for i in side["id"]]
    pq.write_table(pa.table({"key": hex_keys, "loss": side["loss"]}), tmp_path / "keys.parquet")
    by_key = run_on(run_recipe, by_id, "key", column="loss", file="keys.parquet", join="key")
    assert by_key.decisions["s"].to_pylist() == mean.decisions["s"].to_pylist()
    # another state of the file is another score
    pq.write_table(pa.table({"id": side["id"], "loss": [1.0] * 8}), tmp_path / "side.parquet")
    again = run_on(run_recipe, by_id, "again", column="loss", file="side.parquet")
    assert again.decisions["s"].to_pylist() == [1.0] * 5 + [None]


@pytest.mark.parametrize(
    ("corpus", "scorer", "message"),
    [
        ({}, {"column": "qualty"}, r"scores.s: the corpus has no column `qualty` \(nearest: quality\)"),
        ({}, {"column": "text", "file": "a.parquet"}, "scores.s: `join: id` needs `corpus.id`"),
        ({"id": "text"}, {"column": "x", "file": "a.parquet"}, "scores.s: .*there is no column `id`"),
        ({"id": "text"}, {"column": "x", "file": "a.parquet", "on": "text"}, "there is no column `x`"),
        ({"id": "text"}, {"column": "text", "file": "a.parquet", "on": "text"}, "holds string, where numbers"),
        ({"id": "text"}, {"column": "quality", "file": "no.parquet"}, "no file matches"),
        (
            {"id": "text"},
            {"column": "quality", "file": "a.parquet", "on": "text", "max_bytes": 50},
            "6 rows need 0 MB of memory in each process, more than `max_bytes: 50`",
        ),
    ],
)
def test_what_cannot_be_joined_is_refused(
    tmp_path: Path, run_recipe: RunRecipe, corpus: dict[str, Any], scorer: dict[str, Any], message: str
) -> None:
    pq.write_table(pa.table({"text": TEXTS, "quality": VALUES}), tmp_path / "a.parquet")
    with pytest.raises(RecipeError, match=message):
        run_on(run_recipe, {"format": "parquet", "paths": ["a.parquet"]} | corpus, **scorer)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.floats(-5, 5))), max_size=30))
def test_side_tables_are_as_dictionaries(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    path = tmp_path_factory.mktemp("side") / "a.parquet"
    pq.write_table(
        pa.table({"id": pa.array([r[0] for r in rows], pa.int8()), "v": pa.array([r[1] for r in rows], pa.float64())}),
        path,
    )
    expected: dict[int, list[float]] = {}
    for key, value in rows:
        if value is not None:
            expected.setdefault(key, []).append(value)
    keys = hash_column(pa.array(range(12)))
    for take, reduce in (("mean", np.mean), ("last", lambda values: values[-1])):
        table = load_side_table((local_info(path),), "id", "v", take, False)  # type: ignore[arg-type]
        values, there = table.look_up(keys)
        assert there.tolist() == [i in expected for i in range(12)]
        np.testing.assert_allclose(values[there], [reduce(expected[i]) for i in sorted(expected)], atol=1e-12)


def test_it_is_in_the_catalogue() -> None:
    assert SCORERS["column"].columns
