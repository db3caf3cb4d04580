"""Runs whose order comes from vectors or strata, against the same choice in memory; laws, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_run import Finished, RunRecipe, write_parquet
from numpy.typing import NDArray
from tamis.connectors.errors import RecipeError
from tamis.connectors.keys import keyed_gumbel
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
from tamis.scoring.neighbours import neighbour_graph
from tamis.scoring.vectors import vectors_of
from tamis.selectors import in_cluster
from tamis.selectors.allocate import allocate
from tamis.selectors.density import inverse_density, kernel_density, median_distances, typicality
from tamis.selectors.facility_location import FacilityLocation, facility_value, neighbours_for
from tamis.selectors.greedy import greedy
from tamis.selectors.k_means_plus_plus import KMeansPlusPlus
from tamis.selectors.stratified import coverage_sample

RULES = ("k_center", "k_means_plus_plus", "facility_location")


def cover(rule: str, **more: Any) -> dict[str, Any]:
    step = {"method": "cover", "rule": rule, "vectors": "meaning", "clusters": "topic", "keep": {"documents": 60}}
    return {key: value for key, value in (step | more).items() if value is not None}


Make = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def corpus(documents: pa.Table) -> pa.Table:
    """300 documents, among them two without text, which have no embedding."""
    texts = documents["text"].to_pylist()[:300]
    texts[17] = texts[170] = " "
    return documents.slice(0, 300).set_column(1, "text", pa.array(texts))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, corpus: pa.Table) -> Make:
    """Make recipes that share their score store, for what is scored is the same in all."""
    base = tmp_path_factory.mktemp("cover")

    def make(*steps: dict[str, Any], files: int = 3) -> dict[str, Any]:
        folder = base / f"corpus-{files}"
        paths = str(folder / "*.parquet") if folder.exists() else write_parquet(corpus, folder, files)
        shards = {"id": "id", "group": "group", "shard_bytes": 1000}  # a shard of each file
        return {
            "corpus": {"format": "parquet", "paths": [paths], **shards},
            "scores": {
                "meaning": {"scorer": "embedding", "dimension": 64},
                "topic": {"scorer": "clusters", "embedding": "meaning", "clusters": 5},
                "stats": {"scorer": "text_statistics", "columns": ["words", "mean_word_length"]},
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


class InMemory:
    """A finished run's documents in the order of the corpus, for choices without a pipeline; vectors: of length one."""

    def __init__(self, finished: Finished, store: str) -> None:
        manifest = finished.manifest
        (found,) = (s["fingerprint"] for s in manifest["scorers"] if s["name"] == "meaning")
        address = Address("embedding", found)
        by_keys = {
            tuple(pq.read_table(path)["key"].to_pylist()): path.stem
            for path in Path(store).glob("document-*/*.parquet")
        }
        parts = [pq.read_table(path) for path in sorted((finished.outcome.path / "decisions").glob("*.parquet"))]
        vectors, has = [], []
        for part in parts:
            shard = by_keys[tuple(part["key"].to_pylist())]
            stored, there = vectors_of(ScoreStore(store).read_table(address, Shard(0, (), shard))["score"])
            vectors.append(np.zeros((len(there), 64), np.float32))
            vectors[-1][there] = stored
            has.append(there)
        self.decisions = finished.decisions
        self.has, self.vectors = np.concatenate(has), np.concatenate(vectors)
        self.vectors[self.has] /= np.linalg.norm(self.vectors[self.has], axis=1, keepdims=True)
        self.keys = self.decisions["key"].to_numpy()
        self.kept = self.decisions["kept"].to_numpy(zero_copy_only=False)

    def column(self, name: str) -> NDArray[Any]:
        return self.decisions[name].to_numpy()

    def clusters(self, by: str | None, alive: NDArray[np.bool_] | None = None) -> dict[Any, NDArray[np.int64]]:
        """Documents of each cluster that have a vector, in the order of their keys."""
        rows = np.flatnonzero(self.has if alive is None else self.has & alive)
        rows = rows[np.argsort(self.keys[rows], kind="stable")]
        of = np.zeros(len(self.keys), int) if by is None else np.array(self.decisions[by].to_pylist())
        return {name: rows[of[rows] == name] for name in sorted(set(of[rows].tolist()))}


def k_center(vectors: NDArray[np.float32], budget: int) -> list[int]:
    """Gonzalez, by all distances."""
    if not budget:
        return []
    distances = ((vectors[:, None].astype(float) - vectors[None].astype(float)) ** 2).sum(2)
    picked = [0]
    while len(picked) < budget:
        picked.append(int(np.argmax(distances[picked].min(0))))
    return picked


def picks(rule: str, x: InMemory, rows: NDArray[np.int64], budget: int, name: str) -> list[int]:
    vectors = x.vectors[rows]
    if rule == "k_center":
        return k_center(vectors, budget)
    if rule == "k_means_plus_plus":
        return greedy(KMeansPlusPlus(vectors, x.keys[rows], 0, name), budget).items.tolist()
    graph = neighbour_graph(vectors, neighbours_for(len(rows), budget))
    return greedy(FacilityLocation(graph), budget).items.tolist()


@pytest.mark.parametrize("rule", RULES)
def test_each_cluster_is_covered_as_in_memory(rule: str, recipe: Make, run: RunRecipe) -> None:
    finished = run(recipe(cover(rule)))
    x = InMemory(finished, recipe()["store"])
    clusters = x.clusters("topic")
    sizes = np.array([len(rows) for rows in clusters.values()])
    expected: set[int] = set()
    for rows, budget in zip(clusters.values(), allocate(sizes, 60, "proportional").tolist(), strict=True):
        found = rows[picks(rule, x, rows, budget, f"cover_{rule}")]
        assert x.column(f"cover_{rule}")[found].tolist() == list(range(budget))
        expected |= set(found.tolist())
    assert set(np.flatnonzero(x.kept).tolist()) == expected
    assert len(expected) == 60
    reasons = {name: counts["documents"] for name, counts in finished.manifest["reasons"].items()}
    assert reasons == {"no_score": 2, f"cover_{rule}": 300 - 62}
    (report,) = finished.manifest["steps"]
    assert (report["candidates"], report["kept"]) == (298, 60)


def test_without_clusters_the_corpus_is_one(recipe: Make, run: RunRecipe) -> None:
    x = InMemory(run(recipe(cover("k_center", clusters=None))), recipe()["store"])
    (rows,) = x.clusters(None).values()
    assert set(np.flatnonzero(x.kept)) == set(rows[k_center(x.vectors[rows], 60)])


def test_each_group_is_covered(recipe: Make, run: RunRecipe) -> None:
    step = cover("k_center", clusters=None, within="group", keep={"fraction": 0.3})
    x = InMemory(run(recipe({"method": "threshold", "by": "stats", "min": 30}, step)), recipe()["store"])
    clusters = x.clusters("group", x.column("stats") >= 30)
    assert len(clusters) > 3
    expected = {i for rows in clusters.values() for i in rows[k_center(x.vectors[rows], 3 * len(rows) // 10)]}
    assert set(np.flatnonzero(x.kept)) == expected


def test_budgets_in_tokens_end_where_the_next_pick_exceeds_them(recipe: Make, run: RunRecipe) -> None:
    x = InMemory(run(recipe(cover("k_center", keep={"tokens": 4000}))), recipe()["store"])
    clusters, tokens = x.clusters("topic"), x.column("tokens").astype(np.int64)
    sizes = np.array([tokens[rows].sum() for rows in clusters.values()])
    expected: set[int] = set()
    for rows, budget in zip(clusters.values(), allocate(sizes, 4000, "proportional"), strict=True):
        order = rows[k_center(x.vectors[rows], len(rows))]
        expected |= set(order[np.cumsum(tokens[order]) <= budget].tolist())
    assert set(np.flatnonzero(x.kept).tolist()) == expected
    assert 5 < len(expected) < 100


def test_budgets_may_follow_a_score(recipe: Make, run: RunRecipe) -> None:
    allocated = {"by": "topic", "mode": "score_weighted", "score": "stats_mean_word_length"}
    finished = run(recipe(cover("k_center", allocate=allocated)))
    x = InMemory(finished, recipe()["store"])
    for group in finished.manifest["steps"][0]["groups"]:
        rows = x.clusters("topic")[int(group["group"])]
        assert group["kept"] == group["budget"]
        assert set(rows[x.kept[rows]]) == set(rows[k_center(x.vectors[rows], group["budget"])])


@pytest.mark.parametrize("rule", RULES)
def test_sharding_workers_and_buckets_change_nothing(
    rule: str, recipe: Make, run: RunRecipe, run_recipe: RunRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_cluster, "PART", 40)  # some clusters are in parts
    base = run(recipe(cover(rule)), "base")
    monkeypatch.setattr(exchange, "BUCKET_BYTES", 5_000)
    others = [run(recipe(cover(rule), files=7), "many-buckets")]
    if rule == "k_center":
        options = ["--direct_runner_bundle_repeat=1"]
        others.append(run_recipe(recipe(cover(rule), files=4), "threads", workers=2, beam_options=options))
    counted = exchange.buckets_for
    monkeypatch.setattr("tamis.pipelines.exchanging.buckets_for", lambda rows, size: min(counted(rows, size), 2))
    others.append(run(recipe(cover(rule), files=1), "parts"))  # two buckets, read in many parts
    for other in others:
        assert other.data["id"].to_pylist() == base.data["id"].to_pylist()


def test_two_rounds_lose_little_and_keep_the_budgets(
    recipe: Make, run: RunRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = cover("facility_location", clusters=None, keep={"documents": 30})
    whole = InMemory(run(recipe(step), "whole"), recipe()["store"])
    monkeypatch.setattr(in_cluster, "PART", 75)
    (rows,) = whole.clusters(None).values()
    split = InMemory(run(recipe(step | {"name": "split"}), "split"), recipe()["store"])
    chance = np.arange(30)
    one, two, random = (
        facility_value(whole.vectors[rows], np.asarray(items))
        for items in (np.flatnonzero(whole.kept[rows]), np.flatnonzero(split.kept[rows]), chance)
    )
    assert split.kept.sum() == whole.kept.sum() == 30
    assert not np.array_equal(split.kept, whole.kept)
    assert one >= two > one - 0.5 * (one - random), (one, two, random)


def test_what_a_step_made_is_stored_once_and_may_be_used(recipe: Make, run: RunRecipe) -> None:
    def stored() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in Path(recipe()["store"]).glob("typicality-*/*.parquet")}

    step = {
        "method": "typicality",
        "vectors": "meaning",
        "clusters": "topic",
        "keep": {"fraction": 0.5},
        "name": "typical",
    }
    before = stored()
    first = run(recipe(step, files=5), "first")
    after = stored()
    assert len(after) == len(before) + 5
    later = {"method": "bottom", "by": "typical", "keep": {"documents": 20}}
    second = recipe(step | {"keep": {"fraction": 0.4}}, later, files=5)
    made = run(second | {"output": {"columns": ["typical"]}}, "second")
    assert stored() == after, "another budget compares nothing again"
    values = made.data["typical"].to_numpy()
    assert len(values) == 20
    assert (np.diff(np.sort(values)) >= 0).all()
    typical = np.sort(first.decisions["typical"].drop_null().to_numpy())[::-1]
    assert np.array_equal(np.sort(values), np.sort(typical[: int(0.4 * 298)])[:20])


def test_a_store_that_lacks_a_part_gives_the_same(recipe: Make, run: RunRecipe) -> None:
    """As a run that was killed while it stored the column leaves it."""
    step = cover("k_center", keep={"documents": 51})
    first = run(recipe(step), "first")
    (folder,) = (f"{s['scorer']}-{s['fingerprint']}" for s in first.manifest["scorers"] if s["scorer"] == "cover")
    whole = {path: path.read_bytes() for path in (Path(recipe()["store"]) / folder).glob("*.parquet")}
    next(iter(whole)).unlink()
    assert run(recipe(step), "second").data["id"].to_pylist() == first.data["id"].to_pylist()
    assert {path: path.read_bytes() for path in whole} == whole


def test_density_steps_are_their_formulas(recipe: Make, run: RunRecipe) -> None:
    common = {"vectors": "meaning", "keep": {"documents": 80}}
    steps = {
        "typicality": common | {"method": "typicality", "clusters": "topic", "neighbours": 7},
        "inverse_density": common | {"method": "inverse_density", "clusters": "topic", "temperature": 0.5},
        "moderate": common | {"method": "moderate", "clusters": "group"},
    }
    runs = {name: InMemory(run(recipe(step), name), recipe()["store"]) for name, step in steps.items()}
    order: dict[str, NDArray[np.float64]] = {}
    for name, x in runs.items():
        value = np.full(300, np.nan)
        for rows in x.clusters(steps[name]["clusters"]).values():
            vectors = x.vectors[rows]
            value[rows] = {
                "typicality": lambda v: typicality(v, 7),
                "inverse_density": lambda v: inverse_density(len(v) * kernel_density(v, 0.5)),
                "moderate": lambda v: median_distances(v, np.zeros(len(v), np.int64)),
            }[name](vectors)
        assert np.allclose(x.column(name), value, rtol=1e-5, equal_nan=True)
        order[name] = x.column(name)
    x = runs["typicality"]
    assert set(np.flatnonzero(x.kept)) == set(np.argsort(-np.nan_to_num(order["typicality"], nan=-1))[:80])
    x = runs["inverse_density"]
    perturbed = order["inverse_density"] / 0.5 + keyed_gumbel(0, "inverse_density", x.keys)
    assert set(np.flatnonzero(x.kept)) == set(np.argsort(-np.nan_to_num(perturbed, nan=-1e9))[:80])
    x = runs["moderate"]
    assert set(np.flatnonzero(x.kept)) == set(np.argsort(order["moderate"], kind="stable")[109:189])


@pytest.mark.parametrize(
    ("change", "budget"),
    [
        ({"keep": {"documents": 60}}, 60),
        ({"keep": {"fraction": 0.1}, "drop": 0.29}, 30),
        ({"keep": {"documents": 250}, "drop": 0.29}, 250),
        ({"keep": {"documents": 60}, "drop": 0.2, "hardness": "stats", "strata": 7}, 60),
    ],
)
def test_strata_are_chosen_as_in_memory(change: dict[str, Any], budget: int, recipe: Make, run: RunRecipe) -> None:
    step = {"method": "stratified", "by": "stats_mean_word_length"} | change
    finished = run(recipe(step))
    decisions = finished.decisions
    hardness = decisions[change.get("hardness", step["by"])].to_numpy().astype(float)
    options = (hardness, change.get("drop", 0.0), change.get("strata", 50))
    scores, keys = decisions[step["by"]].to_numpy(), decisions["key"].to_numpy()
    expected = coverage_sample(scores, keys, budget, 0, f"stratified_{step['by']}", *options)
    assert np.array_equal(decisions["kept"].to_numpy(zero_copy_only=False), expected)
    (report,) = finished.manifest["steps"]
    assert (report["candidates"], report["kept"]) == (300, expected.sum())
    assert any("fewer than 250" in warning for warning in finished.manifest["warnings"]) == (budget == 250)


def test_strata_do_not_depend_on_shards_and_may_be_in_tokens(recipe: Make, run: RunRecipe) -> None:
    step = {"method": "stratified", "by": "stats", "drop": 0.1, "strata": 10, "keep": {"tokens": 5000}}
    one = run(recipe(step), "one")
    other = run(recipe(step, files=7), "other")
    assert one.data["id"].to_pylist() == other.data["id"].to_pylist()
    assert 3000 < one.manifest["totals"]["kept"]["tokens"] <= 5000


def test_strata_stay_as_they_were_for_new_documents(tmp_path: Path, corpus: pa.Table, run: RunRecipe) -> None:
    folder = tmp_path / "growing"
    write_parquet(corpus.slice(0, 200), folder, 1)
    step = {"method": "stratified", "by": "stats", "drop": 0.2, "strata": 5, "keep": {"fraction": 0.3}}
    made = {
        "corpus": {"format": "parquet", "paths": [str(folder / "*.parquet")], "id": "id"},
        "scores": {"stats": {"scorer": "text_statistics", "columns": ["words"]}},
        "select": [step],
        "store": str(tmp_path / "store"),
    }
    first = run(made, "first")
    pq.write_table(corpus.slice(200), folder / "new.parquet")
    second = run(made | {"since": str(first.outcome.path)}, "second")
    words = second.decisions["stats"].to_numpy()
    cut = first.decisions.filter(first.decisions["kept"])["stats"].to_numpy().max()
    assert second.manifest["totals"]["read"]["documents"] == 100
    kept = second.decisions["kept"].to_numpy(zero_copy_only=False)
    assert 5 < kept.sum() < 60
    easiest = np.sort(first.decisions["stats"].to_numpy())[160]
    assert words[kept].max() <= easiest and cut <= easiest, "the hardest are dropped by the same cut"


def test_explain_verify_and_plan(tmp_path: Path, recipe: Make, run: RunRecipe) -> None:
    strata = {
        "method": "stratified",
        "by": "stats",
        "drop": 0.1,
        "strata": 4,
        "keep": {"fraction": 0.8},
        "name": "even",
    }
    steps = [strata, cover("k_center", keep={"documents": 40}, name="covering")]
    finished = run(recipe(*steps))
    path = finished.outcome.path
    assert verify_run(path, Engine(1), Quiet()).findings == []
    rows = finished.decisions.to_pylist()
    told = {}
    for reason in (None, "even", "covering"):
        row = next(row for row in rows if row["reason"] == reason)
        explained = json.loads(explain_run(path, f"{row['key']:016x}", as_json=True))
        assert explained["verdicts"][-1]["reason"] == reason
        told[reason] = explained["verdicts"][-1]["says"]
        assert ("covering" in {score["name"] for score in explained["scores"]}) is True
    assert "its number among the picks of its cluster" in told[None]
    assert "below the cut of its group" in told[None]
    assert "above the cut of its group" in told["covering"]
    hardest = max(rows, key=lambda row: row["stats"])
    assert "among the hardest: stats" in explain_run(path, f"{hardest['key']:016x}", as_json=False)
    (tmp_path / "r.json").write_text(json.dumps(recipe(*steps)))
    found = estimate(make_job(read_recipe(tmp_path / "r.json", output=str(tmp_path / "out"))), Engine(1))
    assert [step["kept"] for step in found.steps] == [240, 40]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"vectors": "meanin"}, "select.0.vectors: `meanin` is no score of `scorer: embedding` .nearest: meaning"),
        ({"vectors": "topic"}, "`topic` is no score of `scorer: embedding`"),
        ({"clusters": "topics"}, "select.0.clusters: `topics` is no score of `scorer: clusters` .nearest: topic"),
        ({"clusters": "stats_mean_word_length"}, "is no score of `scorer: clusters`"),
        ({"within": "group"}, "name the same in both, or leave `clusters` out"),
        ({"name": "topic"}, "select.0.name: topic makes a column of its name, and there is one"),
        ({"name": "tokens"}, "choose another name"),
        ({"rule": "kcenter"}, "rule"),
        ({"vectors": None}, "vectors"),
        ({"method": "stratified", "by": "stats", "within": "group"}, "takes no `within` or `allocate`"),
        ({"method": "stratified", "by": "stats", "drop": 1.5}, "not a number between 0 and 1"),
        ({"method": "stratified", "by": "stats", "hardness": "hard"}, "no scorer makes the column `hard`"),
        ({"method": "top", "by": "cover_k_center"}, "no scorer makes the column `cover_k_center`"),
    ],
)
def test_refused(change: dict[str, Any], told: str, recipe: Make, run: RunRecipe) -> None:
    step = cover("k_center") | change
    if change.get("method", "cover") != "cover":
        step = {"keep": {"documents": 5}} | change
    with pytest.raises(RecipeError, match=told):
        run(recipe({key: value for key, value in step.items() if value is not None}))


def test_missing_scores_and_groups_are_named(recipe: Make, run: RunRecipe) -> None:
    made = recipe(cover("k_center"))
    with pytest.raises(RecipeError, match=r"add `meaning: \{scorer: embedding\}` to `scores`"):
        run(made | {"scores": {}})
    step = {"method": "moderate", "vectors": "meaning", "clusters": "group", "keep": {"fraction": 0.5}}
    corpus = {key: value for key, value in made["corpus"].items() if key != "group"}
    with pytest.raises(RecipeError, match=r"select.0.clusters: the corpus has no `group`"):
        run(recipe(step) | {"corpus": corpus})
