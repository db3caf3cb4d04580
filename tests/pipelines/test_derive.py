"""Clusters in whole runs: from stored vectors, on any number of shards and workers, resumed, continued and verified."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("faiss")

from finished_run import RunRecipe, write_parquet
from tamis.connectors.errors import RecipeError
from tamis.connectors.keys import hash_bytes
from tamis.jobs.recipe import make_job, read_recipe
from tamis.pipelines.derive import _row_hashes, in_keyed_order
from tamis.pipelines.estimate import estimate
from tamis.pipelines.job import Quiet
from tamis.pipelines.rescore import rescore
from tamis.pipelines.runner import Engine
from tamis.scoring.vectors import vector_column
from tamis.selectors.allocate import allocate as allocate_units


@pytest.fixture
def recipe(tmp_path: Path, documents: pa.Table) -> dict[str, Any]:
    texts = documents["text"].to_pylist()
    texts[7] = "  "
    table = documents.set_column(documents.column_names.index("text"), "text", pa.array(texts))
    return {
        "corpus": {"format": "parquet", "paths": [write_parquet(table, tmp_path / "corpus", 3)], "id": "id"},
        "scores": {
            "topic": {"scorer": "clusters", "embedding": "vectors", "clusters": 6, "sample": 400},
            "vectors": {"scorer": "embedding", "dimension": 64},
        },
        "select": [{"method": "band", "by": "topic_distance", "keep": {"fraction": 0.5}}],
        "output": {"columns": ["topic", "topic_distance"]},
    }


def test_documents_are_clustered_and_the_middle_is_kept(recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
    run = run_recipe(recipe)
    decisions = run.decisions
    assert decisions["topic"].null_count == 1 and set(decisions["topic"].to_pylist()) - {None} == set(range(6))
    dropped = decisions.filter(pa.compute.equal(decisions["reason"], "no_score"))
    assert dropped["topic"].to_pylist() == [None]
    distances = np.sort(decisions["topic_distance"].drop_null().to_numpy())
    assert np.array_equal(
        np.sort(run.data["topic_distance"].to_numpy()), distances[len(distances) // 4 :][: len(run.data)]
    )
    assert (
        decisions["topic_second"].drop_null().to_numpy() >= decisions["topic_distance"].drop_null().to_numpy()
    ).all()
    assert "vectors" not in decisions.column_names


def test_shards_workers_and_repeated_bundles_change_nothing(
    recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path
) -> None:
    one = run_recipe(recipe, "one")
    many = {**recipe, "corpus": {**recipe["corpus"], "shard_bytes": 20_000}, "store": str(tmp_path / "other")}
    options = ["--direct_runner_bundle_repeat=1"]
    several = run_recipe(many, "several", workers=2, beam_options=options)
    assert len(several.manifest["files"]) > len(one.manifest["files"])
    columns = ["key", "kept", "topic", "topic_distance", "topic_second"]
    assert several.decisions.select(columns).equals(one.decisions.select(columns))


def balanced(**divided: Any) -> list[dict[str, Any]]:
    return [{"method": "bottom", "by": "topic_distance", "keep": {"documents": 120}, "name": "near", **divided}]


def test_a_total_is_split_over_clusters(recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
    allocate = {"by": "topic", "mode": "equal", "per_group": {"0": {"max": {"documents": 3}}}}
    run = run_recipe(recipe | {"select": balanced(allocate=allocate)})
    topic, distance = (run.decisions[name].to_numpy() for name in ("topic", "topic_distance"))
    kept = run.decisions["kept"].to_numpy()
    sizes = np.array([np.count_nonzero(topic == c) for c in range(6)])
    share = np.minimum(sizes, [3, *[10**9] * 5])
    budgets = allocate_units(sizes, 120, "equal", ceilings=share)
    for c in range(6):
        assert np.count_nonzero(kept & (topic == c)) == budgets[c]
        inside = distance[kept & (topic == c)]
        assert np.array_equal(np.sort(inside), np.sort(distance[topic == c])[: len(inside)])
    (step,) = run.manifest["steps"]
    assert [row["group"] for row in step["groups"]] == [str(c) for c in range(6)]
    assert [row["kept"] for row in step["groups"]] == budgets.tolist()


def test_each_cluster_has_a_budget(recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path) -> None:
    steps = balanced(within="topic", keep={"fraction": 0.2})
    run = run_recipe(recipe | {"select": steps}, "one")
    topic, kept = run.decisions["topic"].to_numpy(), run.decisions["kept"].to_numpy()
    for c in range(6):
        assert np.count_nonzero(kept & (topic == c)) == np.count_nonzero(topic == c) // 5
    weighed = balanced(allocate={"by": "topic", "mode": "score_weighted", "score": "topic_second"})
    assert run_recipe(recipe | {"select": weighed}, "weighed").manifest["totals"]["kept"]["documents"] == 120
    first = pa.parquet.read_table(tmp_path / "corpus" / "000.parquet")
    pa.parquet.write_table(first, tmp_path / "corpus" / "100.parquet")
    again = run_recipe(recipe | {"select": steps, "since": str(run.outcome.path)}, "two")
    assert again.decisions["kept"].equals(run.decisions["kept"][: len(first)])


def test_only_whole_numbers_divide(recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
    for divided, message in (
        ({"within": "topic_distance"}, r"select.0.within: `topic_distance` holds no whole numbers"),
        ({"allocate": {"by": "topics"}}, r"no scorer makes the column `topics` \(nearest: topic\)"),
    ):
        with pytest.raises(RecipeError, match=message):
            run_recipe(recipe | {"select": balanced(**divided)})


def test_other_clusters_read_no_document_again(recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path) -> None:
    run_recipe(recipe, "one")
    (vectors,) = tmp_path.glob("runs/.tamis/embedding-*")
    before = {path.name: path.stat().st_mtime_ns for path in vectors.iterdir()}
    shutil.copytree(vectors, tmp_path / "kept")
    more = {**recipe, "scores": {**recipe["scores"], "topic": {**recipe["scores"]["topic"], "clusters": 3}}}
    assert run_recipe(more, "two").decisions["topic"].drop_null().unique().sort().to_pylist() == [0, 1, 2]
    assert {path.name: path.stat().st_mtime_ns for path in vectors.iterdir()} == before
    assert len(list(tmp_path.glob("runs/.tamis/clusters-*"))) == 2


def test_damaged_scores_are_made_again(recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path) -> None:
    first = run_recipe(recipe, "one")
    (folder,) = tmp_path.glob("runs/.tamis/clusters-*")
    file = sorted(folder.iterdir())[0]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    again = run_recipe(recipe | {"seed": 1}, "two")
    assert file.read_bytes() == whole
    assert any("scored anew" in line for line in again.manifest["warnings"])
    assert again.decisions["topic"].equals(first.decisions["topic"])


def test_frozen_centroids_assign_new_files_alone(recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path) -> None:
    first = run_recipe(recipe, "one")
    new = pa.table(
        {"id": ["new-1", "new-2"], "text": ["Strings are sequences of characters.", ""], "group": ["a", "b"]}
    )
    pa.parquet.write_table(new, tmp_path / "corpus" / "100.parquet")
    second = run_recipe(recipe | {"since": str(first.outcome.path)}, "two")
    assert second.decisions["topic"].to_pylist()[1] is None and second.decisions["topic"].to_pylist()[0] in range(6)
    state = [dict(np.load(run.outcome.path / "fitted" / "topic.npz")) for run in (first, second)]
    assert np.array_equal(state[0]["centroids"], state[1]["centroids"])
    pinned = {**recipe["scores"]["topic"], "fitted": str(first.outcome.path / "fitted" / "topic.npz")}
    third = run_recipe({**recipe, "scores": {**recipe["scores"], "topic": pinned}}, "three")
    assert third.decisions["topic"][: len(first.decisions)].equals(first.decisions["topic"])


def test_a_run_can_be_verified_and_estimated(
    recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_recipe(recipe)
    job = make_job(read_recipe(tmp_path / "run.yaml", output=str(tmp_path / "runs" / "planned")))
    monkeypatch.setattr("tamis.pipelines.rescore.SHARE", 1.0)
    found = rescore(run.outcome.path, run.manifest, job, Engine(1), Quiet())
    assert not found.findings and found.documents == len(run.decisions)
    altered = np.load(run.outcome.path / "fitted" / "topic.npz")
    np.savez(run.outcome.path / "fitted" / "topic.npz", **{**altered, "centroids": altered["centroids"] * 0.99})
    found = rescore(run.outcome.path, run.manifest, job, Engine(1), Quiet())
    assert any("another `topic_distance` now" in line for line in found.findings)
    stages = [one.stage for one in estimate(job, Engine(1)).passes]
    assert stages[:3] == ["scoring", "fitting topic", "scoring topic"]


def test_what_lacks_its_vectors_is_refused_before_data_is_read(recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
    del recipe["scores"]["vectors"]
    with pytest.raises(RecipeError, match=r"scores.topic.embedding: no score is called `vectors`"):
        run_recipe(recipe)


def test_a_sample_has_each_document_once_in_an_order_of_its_own() -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 2**63, 30).astype(np.uint64)
    vectors = rng.normal(size=(30, 4)).astype(np.float16)
    keys[1], vectors[2], keys[2] = keys[0], vectors[0], keys[0]  # one key with other content, and a copy
    table = pa.table({"v": vector_column(vectors, np.ones(30, bool)), "key": keys})
    found = in_keyed_order(table)
    assert len(found) == 29 and set(found["key"].to_pylist()) == set(keys.tolist())
    for order in (rng.permutation(30), np.arange(30)[::-1]):
        assert in_keyed_order(table.take(pa.array(order))).equals(found)
    assert in_keyed_order(pa.concat_tables([table.slice(9), table, table.slice(0, 4)])).equals(found)
    assert len(in_keyed_order(table.slice(0, 0))) == 0


def test_rows_are_hashed_by_their_own_bytes() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float16)
    column = pa.chunked_array([vector_column(vectors, np.ones(5, bool))])
    wanted = hash_bytes(np.arange(6) * 6, vectors.view(np.uint8).reshape(-1))
    assert np.array_equal(_row_hashes(column), wanted)
    assert np.array_equal(_row_hashes(column.slice(2, 2)), wanted[2:4])
