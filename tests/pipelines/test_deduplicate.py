"""Runs that drop duplicates, against loops over all pairs; their laws, and what they refuse."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_run import Finished, RunRecipe, write_parquet
from tamis.connectors.errors import RecipeError
from tamis.connectors.score_store import Address, ScoreStore
from tamis.connectors.shards import Shard
from tamis.jobs.explain import explain_run
from tamis.jobs.recipe import make_job, read_recipe
from tamis.jobs.verify import verify_run
from tamis.pipelines import exchange
from tamis.pipelines.estimate import estimate
from tamis.pipelines.job import Quiet
from tamis.pipelines.passes import run_inline
from tamis.pipelines.run import Run
from tamis.pipelines.runner import Engine

FUZZY = {"method": "deduplicate", "kind": "fuzzy", "sketch": "near", "threshold": 0.5}
SEMANTIC = {
    "method": "deduplicate",
    "kind": "semantic",
    "vectors": "meaning",
    "clusters": "topic",
    "threshold": 0.9,
    "keep_copy": "highest",
    "by": "topic_distance",
}
EXACT = {"method": "deduplicate", "kind": "exact"}


def versions(documents: pa.Table) -> pa.Table:
    """The first 150 documents, and of every third one a copy, an edited version and one edited further."""
    table = documents.slice(0, 150).select(["id", "text"]).to_pylist()
    rng = np.random.default_rng(0)
    more = []
    for row in table[::3]:
        words = row["text"].split(" ")
        more.append({"id": row["id"] + "-copy", "text": row["text"]})
        for name in ("edited", "further"):
            words[int(rng.integers(len(words)))] = f"changed{rng.integers(99)}"
            more.append({"id": f"{row['id']}-{name}", "text": " ".join(words)})
    rows = [*table, *more]
    return pa.Table.from_pylist([rows[i] for i in rng.permutation(len(rows))])


@pytest.fixture(scope="module")
def corpus(documents: pa.Table) -> pa.Table:
    return versions(documents)


Make = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, corpus: pa.Table) -> Make:
    """Make recipes that share their score store, for what is scored is the same in all."""
    base = tmp_path_factory.mktemp("deduplicate")

    def make(*steps: dict[str, Any], files: int = 3) -> dict[str, Any]:
        folder = base / f"corpus-{files}"
        paths = str(folder / "*.parquet") if folder.exists() else write_parquet(corpus, folder, files)
        return {
            "corpus": {"format": "parquet", "paths": [paths], "id": "id", "shard_bytes": 1000},  # a shard of each file
            "scores": {
                "near": {"scorer": "minhash"},
                "stats": {"scorer": "text_statistics", "columns": ["words", "alphabetic", "duplicate_5_grams"]},
            },
            "select": list(steps),
            "store": str(base / "store"),
        }

    return make


@pytest.fixture
def run(tmp_path: Path) -> RunRecipe:
    """Run a recipe without Beam, which takes most of the time of so small a run."""

    def run(recipe: dict[str, Any], output: str = "run") -> Finished:
        path = tmp_path / f"{output}.yaml"
        path.write_text(json.dumps(recipe))
        job = make_job(read_recipe(path, output=str(tmp_path / "runs" / output)))
        return Finished(Run(job, Engine(1), Quiet(), passes=run_inline).execute())

    return run


def shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


@functools.lru_cache
def groups_of(ids: tuple[str, ...], texts: tuple[str, ...], threshold: float) -> list[list[str]]:
    """Ids of groups of texts that are alike through others, by comparing all pairs; threshold 0: of equal text."""
    sets = [shingles(text) for text in texts]
    group = list(range(len(texts)))
    for i, j in combinations(range(len(texts)), 2):
        a, b = sets[i], sets[j]
        alike = len(a & b) >= threshold * len(a | b) if threshold else texts[i] == texts[j]
        if alike and group[i] != group[j]:
            group = [group[i] if g == group[j] else g for g in group]
    # dict.fromkeys: groups in the order of their first documents
    return [[name for name, g in zip(ids, group, strict=True) if g == one] for one in dict.fromkeys(group)]


def expected_groups(rows: list[dict[str, Any]], threshold: float) -> list[list[dict[str, Any]]]:
    """Groups of rows, see `groups_of`."""
    by_id = {row["id"]: row for row in rows}
    found = groups_of(tuple(by_id), tuple(row["text"] for row in rows), threshold)
    return [[by_id[name] for name in group] for group in found]


def kept(finished: Finished) -> list[str]:
    return finished.data["id"].to_pylist()


@pytest.mark.parametrize("step", [EXACT, FUZZY, FUZZY | {"threshold": 0.9}], ids=["exact", "0.5", "0.9"])
def test_one_of_each_group_stays(step: dict[str, Any], recipe: Make, run: RunRecipe, corpus: pa.Table) -> None:
    finished = run(recipe(step))
    groups = expected_groups(corpus.to_pylist(), step.get("threshold", 0))
    assert 1 < len(groups) < len(corpus)
    assert kept(finished) == [group[0]["id"] for group in groups], "the first one of each, in the order of the corpus"
    (report,) = finished.manifest["steps"]
    assert (report["candidates"], report["kept"]) == (len(corpus), len(groups))
    name = f"deduplicate_{step['kind']}"
    assert finished.manifest["reasons"] == {
        name: {"documents": len(corpus) - len(groups), "tokens": finished.manifest["totals"]["dropped"]["tokens"]}
    }


def score_of(finished: Finished, column: str) -> dict[str, float]:
    """Scores by id, of all documents."""
    sources = finished.decisions.select(["source", "row", column]).to_pylist()
    ids = {source: pq.read_table(source)["id"].to_pylist() for source in {row["source"] for row in sources}}
    return {ids[row["source"]][row["row"]]: row[column] for row in sources}


@pytest.mark.parametrize(
    ("choice", "sign"),
    [
        ({"keep_copy": "highest", "by": "stats"}, -1),
        ({"keep_copy": "lowest", "by": "stats"}, 1),
        ({"keep_copy": "best", "by": "stats_alphabetic"}, -1),  # higher is better
        ({"keep_copy": "best", "by": "stats_duplicate_5_grams"}, 1),  # lower is better
        ({"keep_copy": "hardest", "by": "stats_alphabetic"}, 1),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_the_copy_that_stays_is_chosen_by_score(
    choice: dict[str, str], sign: int, recipe: Make, run: RunRecipe, corpus: pa.Table
) -> None:
    finished = run(recipe(FUZZY | choice))
    scores = score_of(finished, choice["by"])
    stayed = set(kept(finished))
    moved = 0
    for group in expected_groups(corpus.to_pylist(), 0.5):
        (winner,) = (row["id"] for row in group if row["id"] in stayed)
        assert scores[winner] == sign * min(sign * scores[row["id"]] for row in group)
        moved += winner != group[0]["id"]
    assert moved > 0


def test_random_copies_are_drawn_by_key(recipe: Make, run: RunRecipe, corpus: pa.Table) -> None:
    step = EXACT | {"keep_copy": "random"}
    one, same, other = (
        set(kept(run(recipe(step, files=files) | {"seed": seed}, f"run-{files}-{seed}")))
        for files, seed in ((3, 0), (5, 0), (3, 1))
    )
    assert one == same != other
    pairs = [group for group in expected_groups(corpus.to_pylist(), 0) if len(group) == 2]
    first = sum(group[0]["id"] in one for group in pairs)
    assert 0.25 < first / len(pairs) < 0.75


@pytest.mark.parametrize("step", [EXACT, FUZZY | {"keep_copy": "random"}], ids=["exact", "fuzzy"])
def test_sharding_workers_and_buckets_change_nothing(
    step: dict[str, Any], recipe: Make, run: RunRecipe, run_recipe: RunRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = run(recipe(step))
    repeated = run_recipe(recipe(step, files=1), "repeated", beam_options=["--direct_runner_bundle_repeat=1"])
    monkeypatch.setattr(exchange, "BUCKET_BYTES", 20_000)
    threads = run_recipe(recipe(step, files=7), "threads", workers=2)  # and many buckets
    counted = exchange.buckets_for
    monkeypatch.setattr(exchange, "BUCKET_BYTES", 10_000)
    monkeypatch.setattr("tamis.pipelines.exchanging.buckets_for", lambda rows, size: min(counted(rows, size), 2))
    parts = run(recipe(step), "parts")  # two buckets, in many parts
    shards = [len(list(one.outcome.path.glob("decisions/*.parquet"))) for one in (base, repeated, threads)]
    assert shards == [3, 1, 7]
    for other in (threads, repeated, parts):
        assert kept(other) == kept(base)


def test_steps_before_and_after(recipe: Make, run: RunRecipe, corpus: pa.Table) -> None:
    steps = [
        {"method": "threshold", "by": "stats", "min": 60},
        EXACT,
        FUZZY | {"threshold": 0.7},
        {"method": "top", "by": "stats", "keep": {"documents": 30}},
        {"method": "deduplicate", "kind": "exact", "name": "again"},
    ]
    finished = run(recipe(*steps))
    words = score_of(finished, "stats")
    alive = [row for row in corpus.to_pylist() if words[row["id"]] >= 60]
    for threshold in (0, 0.7):
        alive = [group[0] for group in expected_groups(alive, threshold)]
    lengths = sorted((words[row["id"]] for row in alive), reverse=True)
    assert sorted((words[name] for name in kept(finished)), reverse=True) == lengths[:30]
    assert finished.manifest["steps"][-1]["kept"] == 30


def test_another_threshold_scores_nothing(recipe: Make, run: RunRecipe) -> None:
    run(recipe(FUZZY), "a")

    def stored() -> dict[str, int]:
        store = Path(recipe()["store"])
        return {str(path): path.stat().st_mtime_ns for path in store.rglob("*.parquet")}

    before = stored()
    other = run(recipe(FUZZY | {"threshold": 0.9, "keep_copy": "random"}), "b")
    assert stored() == before
    assert "near" not in other.data.column_names
    assert "near" not in other.decisions.column_names, "sketches are no numbers"


def test_documents_without_words_are_like_no_other(tmp_path: Path, run: RunRecipe) -> None:
    table = pa.table({"text": ["...", "?!", "...", "one two", "One  TWO.", "one two three"]})
    paths = write_parquet(table, tmp_path / "few", files=1)
    recipe = {"corpus": {"paths": [paths], "format": "parquet"}, "scores": {"near": {"scorer": "minhash"}}}
    assert run(recipe | {"select": [FUZZY]}).data["text"].to_pylist() == [
        "...",
        "?!",
        "...",
        "one two",
        "one two three",
    ]
    exact = run(recipe | {"select": [EXACT]}, "exact")
    assert exact.data["text"].to_pylist() == table["text"].to_pylist()[:2] + table["text"].to_pylist()[3:]


def test_all_documents_are_copies(tmp_path: Path, run: RunRecipe) -> None:
    """A thousand copies make one group; without an id they share their key."""
    paths = write_parquet(pa.table({"text": ["the same words again and again"] * 1000}), tmp_path / "same", files=4)
    recipe = {"corpus": {"paths": [paths], "format": "parquet"}, "scores": {"near": {"scorer": "minhash"}}}
    finished = run(recipe | {"select": [FUZZY | {"keep_copy": "random"}]})
    assert finished.manifest["totals"]["kept"]["documents"] == 1


def with_meaning(recipe: dict[str, Any]) -> dict[str, Any]:
    scores = {
        "meaning": {"scorer": "embedding", "dimension": 64},
        "topic": {"scorer": "clusters", "embedding": "meaning", "clusters": 6},
    }
    return recipe | {"scores": recipe["scores"] | scores}


def stored_columns(finished: Finished, score: str) -> pa.ChunkedArray:
    """A score's primary column as the store has it, in the order of the decisions."""
    manifest = finished.manifest
    (address,) = (Address(s["scorer"], s["fingerprint"]) for s in manifest["scorers"] if s["name"] == score)
    store = ScoreStore(manifest["recipe"]["store"])
    tables = {shard: store.read_table(address, Shard(0, (), shard)) for shard in store.stored(address)}
    shards = list(tables)
    keys = {
        tuple(pq.read_table(path)["key"].to_pylist()): shard
        for folder in Path(manifest["recipe"]["store"]).glob("document-*")
        for shard in shards
        if (path := folder / f"{shard}.parquet").exists()
    }
    decisions = [pq.read_table(p) for p in sorted((finished.outcome.path / "decisions").glob("*.parquet"))]
    return pa.chunked_array([tables[keys[tuple(d["key"].to_pylist())]]["score"].combine_chunks() for d in decisions])


def test_what_is_near_in_meaning_goes(recipe: Make, run: RunRecipe, corpus: pa.Table) -> None:
    finished = run(with_meaning(recipe({"method": "threshold", "by": "stats", "min": 30}, SEMANTIC)))
    decisions = finished.decisions
    x = np.array(stored_columns(finished, "meaning").to_pylist(), np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    alive = np.flatnonzero(decisions["stats"].to_numpy() >= 30)
    order = sorted(alive, key=lambda i: (-decisions["topic_distance"][i].as_py(), decisions["key"][i].as_py(), i))
    goes = {
        j
        for place, j in enumerate(order)
        if any(decisions["topic"][i] == decisions["topic"][j] and x[i] @ x[j] >= 0.9 for i in order[:place])
    }
    assert 20 < len(goes) < len(alive)
    reasons = decisions["reason"].cast(pa.string()).to_pylist()
    assert {i for i, reason in enumerate(reasons) if reason == "deduplicate_semantic"} == goes
    assert finished.manifest["steps"][1]["kept"] == len(alive) - len(goes)
    lost = pq.read_table(finished.outcome.path / "fitted" / "1-deduplicate_semantic.duplicates.parquet").to_pylist()
    first = np.cumsum([0, *(c for c in np.unique([r["source"] for r in decisions.to_pylist()], return_counts=True)[1])])
    for row in lost:
        i, j = first[row["winner_part"]] + row["winner_row"], first[row["part"]] + row["row"]
        assert x[i] @ x[j] >= 0.9


def test_how_near_documents_are_is_stored_once(recipe: Make, run: RunRecipe, run_recipe: RunRecipe) -> None:
    def stored() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in Path(recipe()["store"]).glob("near-*/*.parquet")}

    before = stored()
    one = run(with_meaning(recipe(SEMANTIC, files=7)), "a")
    after = stored()
    assert len(after) == len(before) + 7
    other = run_recipe(with_meaning(recipe(SEMANTIC | {"threshold": 0.8}, files=7)), "b", workers=2)
    assert stored() == after
    assert set(kept(other)) < set(kept(one))
    run(with_meaning(recipe({"method": "top", "by": "stats", "keep": {"fraction": 0.5}}, SEMANTIC, files=7)), "c")
    assert len(stored()) == len(after) + 7, "what an earlier step leaves are other documents"


def test_explain_names_the_document_that_stayed(recipe: Make, run: RunRecipe, corpus: pa.Table) -> None:
    finished = run(recipe(EXACT, FUZZY, {"method": "top", "by": "stats", "keep": {"documents": 5}}))
    groups = expected_groups([g[0] for g in expected_groups(corpus.to_pylist(), 0)], 0.5)
    alike = next(group for group in groups if len(group) > 1)
    told = json.loads(explain_run(finished.outcome.path, alike[1]["id"], as_json=True))
    winner = told["lost_to"]
    assert pq.read_table(winner["source"])["id"].to_pylist()[winner["row"]] == alike[0]["id"]
    assert told["verdicts"][-1]["reason"] == told["copies"][0]["reason"] == "deduplicate_fuzzy"
    text = explain_run(finished.outcome.path, alike[1]["id"], as_json=False)
    assert f"dropped it: {winner['key']} ({winner['source']} row {winner['row']}) stays in its place" in text
    assert ("dropped by top_stats then" in text) == (not winner["kept"])
    first = json.loads(explain_run(finished.outcome.path, alike[0]["id"], as_json=True))
    assert first["lost_to"] is None
    assert [verdict["reason"] for verdict in first["verdicts"][:2]] == [None, None]


def test_the_run_keeps_who_lost_to_whom(recipe: Make, run: RunRecipe, corpus: pa.Table) -> None:
    finished = run(recipe(FUZZY))
    path = finished.outcome.path
    lost = pq.read_table(path / "fitted" / "0-deduplicate_fuzzy.duplicates.parquet").to_pylist()
    parts = {int(p.stem[5:]): pq.read_table(p).to_pylist() for p in (path / "decisions").glob("*.parquet")}
    groups = expected_groups(corpus.to_pylist(), 0.5)
    assert len(lost) == sum(len(group) - 1 for group in groups)
    assert [(row["part"], row["row"]) for row in lost] == sorted((row["part"], row["row"]) for row in lost)
    for row in lost:
        assert not parts[row["part"]][row["row"]]["kept"]
        winner = parts[row["winner_part"]][row["winner_row"]]
        assert winner["kept"]
        assert winner["key"] == row["winner_key"]
    assert verify_run(path, Engine(1), Quiet()).findings == []


def test_plan(tmp_path: Path, recipe: Make, corpus: pa.Table) -> None:
    (tmp_path / "r.json").write_text(json.dumps(recipe(EXACT, FUZZY)))
    found = estimate(make_job(read_recipe(tmp_path / "r.json", output=str(tmp_path / "out"))), Engine(1))
    groups = [len(expected_groups(corpus.to_pylist(), threshold)) for threshold in (0, 0.5)]
    assert [step["kept"] for step in found.steps] == groups
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sketch": "nera"}, "`nera` is no score of `scorer: minhash` .nearest: near"),
        ({"sketch": "stats"}, "select.0.sketch: `stats` is no score of `scorer: minhash`"),
        ({"keep_copy": "best"}, "best takes `by`, the score that says which"),
        ({"by": "stats"}, "first takes no `by`"),
        ({"keep_copy": "best", "by": "stats"}, "`stats` has no better end; say highest or lowest"),
        ({"keep_copy": "highest", "by": "near"}, "`near` is a list for each document, not a number"),
        ({"kind": "exact"}, "exact takes no `sketch`"),
        ({"sketch": None}, "fuzzy needs `sketch`, the name of a score"),
        ({"vectors": "near"}, "fuzzy takes no `vectors`"),
        (
            SEMANTIC | {"sketch": None, "vectors": "near", "clusters": "stats", "by": "stats"},
            "`near` is no score of `scorer: embedding`; add `near: ",
        ),
        (SEMANTIC | {"sketch": None, "vectors": None}, "semantic needs `vectors`"),
        ({"threshold": 0}, "threshold: must be above 0"),
    ],
)
def test_refused(change: dict[str, Any], told: str, recipe: Make, run: RunRecipe) -> None:
    step = {key: value for key, value in (FUZZY | change).items() if value is not None}
    with pytest.raises(RecipeError, match=told):
        run(recipe(step))


def test_a_missing_scorer_is_named(recipe: Make, run: RunRecipe) -> None:
    without = recipe(FUZZY) | {"scores": {}}
    with pytest.raises(RecipeError, match=r"add `near: \{scorer: minhash\}` to `scores`"):
        run(without)
