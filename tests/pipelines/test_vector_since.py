"""Steps of vectors in runs that continue others: what new documents are worth beside those that came before them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_run import Finished
from numpy.typing import NDArray
from tamis.connectors.errors import RecipeError
from tamis.connectors.score_store import Address, ScoreStore
from tamis.connectors.shards import Shard
from tamis.jobs.explain import explain_run
from tamis.jobs.recipe import make_job, read_recipe
from tamis.jobs.verify import verify_run
from tamis.pipelines import exchange
from tamis.pipelines.estimate import estimate
from tamis.pipelines.job import Job, Quiet
from tamis.pipelines.passes import run_inline
from tamis.pipelines.run import Run
from tamis.pipelines.runner import Engine
from tamis.scoring.nearest_earlier import unit_length
from tamis.scoring.neighbours import neighbour_graph
from tamis.scoring.vectors import vectors_of
from tamis.selectors import in_cluster
from tamis.selectors.facility_location import FacilityLocation, neighbours_for
from tamis.selectors.greedy import greedy
from tamis.selectors.k_means_plus_plus import KMeansPlusPlus

RULES = ("k_center", "k_means_plus_plus", "facility_location")
COMMON = {"vectors": "meaning", "clusters": "topic"}
DENSITIES: list[dict[str, Any]] = [
    COMMON | {"method": "typicality", "neighbours": 7, "keep": {"fraction": 0.8}},
    COMMON | {"method": "inverse_density", "keep": {"fraction": 0.8}},
    COMMON | {"method": "moderate", "keep": {"fraction": 0.8}},
]


def cover(rule: str = "k_center", **more: Any) -> dict[str, Any]:
    return COMMON | {"method": "cover", "rule": rule, "keep": {"fraction": 0.2}, "name": "covering"} | more


class Chain:
    """A corpus that grows by files, and runs since others."""

    def __init__(self, folder: Path, documents: pa.Table, *steps: dict[str, Any]) -> None:
        self.folder, self.documents, self.added = folder, documents, 0
        (folder / "corpus").mkdir()
        self.recipe: dict[str, Any] = {
            "corpus": {
                "format": "parquet",
                "paths": [f"{folder}/corpus/*"],
                "id": "id",
                "group": "group",
                "shard_bytes": 1000,  # a shard of each file
            },
            "scores": {
                "meaning": {"scorer": "embedding", "dimension": 64},
                "topic": {"scorer": "clusters", "embedding": "meaning", "clusters": 4},
                "stats": {"scorer": "text_statistics", "columns": ["words", "mean_word_length"]},
            },
            "select": list(steps),
            "store": str(folder / "store"),
        }

    def add(self, count: int, table: pa.Table | None = None) -> Path:
        if table is None:
            table = self.documents.slice(self.added, count)
            self.added += count
        path = self.folder / "corpus" / f"{len(list((self.folder / 'corpus').iterdir())):03d}.parquet"
        pq.write_table(table, path)
        return path

    def job(self, name: str, since: Finished | None = None, **changes: Any) -> Job:
        link = {"since": str(since.outcome.path)} if since is not None else {}
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(self.recipe | link | changes))
        return make_job(read_recipe(path, output=str(self.folder / "runs" / name)))

    def run(self, name: str, since: Finished | None = None, **changes: Any) -> Finished:
        return Finished(Run(self.job(name, since, **changes), Engine(1), Quiet(), passes=run_inline).execute())

    def stored(self, run: Finished, name: str, of: Finished | None = None) -> list[Path]:
        """Files of the column that a step made; only of the shards of one run, if that is given."""
        found = sorted((Path(self.recipe["store"]) / address(run, name).folder).glob("*.parquet"))
        if of is None:
            return found
        shards = pq.read_table(of.outcome.path / "shards.parquet")["fingerprint"].to_pylist()
        return [path for path in found if path.stem in shards]

    def grow(self, *counts: int, since: Finished | None = None) -> list[Finished]:
        """Run after each file of so many documents, since the run before."""
        runs: list[Finished] = [] if since is None else [since]
        for count in counts:
            self.add(count)
            runs.append(self.run(f"run-{self.added}", runs[-1] if runs else None))
        return runs


def kept(*runs: Finished) -> list[str]:
    return [name for run in runs for name in run.data["id"].to_pylist()]


def address(run: Finished, name: str) -> Address:
    (found,) = (s for s in run.manifest["scorers"] if s["name"] == name)
    return Address(found["scorer"], found["fingerprint"])


class InMemory:
    """The documents of a chain in its order; vectors: of length one, zero where there is none."""

    def __init__(self, chain: Chain, runs: Sequence[Finished]) -> None:
        store = ScoreStore(chain.recipe["store"])
        table = pa.concat_tables([run.decisions for run in runs], promote_options="permissive")
        self.table, self.keys = table, table["key"].to_numpy()
        self.run = np.repeat(np.arange(len(runs)), [len(run.decisions) for run in runs])
        self.kept = table["kept"].to_numpy(zero_copy_only=False)
        by_key: dict[int, NDArray[np.float32]] = {}
        document = next(Path(chain.recipe["store"]).glob("document-*"))
        for path in document.glob("*.parquet"):
            shard = Shard(0, (), path.stem)
            vectors, there = vectors_of(store.read_table(address(runs[0], "meaning"), shard)["score"])
            keys = pq.read_table(path)["key"].to_numpy()[there]
            by_key |= dict(zip(keys.tolist(), vectors.astype(np.float32), strict=True))
        self.vectors = np.stack([by_key.get(key, np.zeros(64, np.float32)) for key in self.keys.tolist()])
        self.has = np.array([key in by_key for key in self.keys.tolist()])
        self.vectors = unit_length(self.vectors)

    def column(self, name: str) -> NDArray[Any]:
        return self.table[name].to_numpy()

    def clusters(self, by: str | None = "topic") -> list[NDArray[np.int64]]:
        """Documents of each cluster that have a vector, in the order of their keys."""
        rows = np.flatnonzero(self.has)
        rows = rows[np.argsort(self.keys[rows], kind="stable")]
        of = np.zeros(len(self.keys), int) if by is None else self.column(by)
        return [rows[of[rows] == name] for name in np.unique(of[rows])]


def brute_force(step: dict[str, Any], x: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """What each vector would be worth as the only one beside others."""
    x, others = x.astype(float), others.astype(float)
    distances = np.linalg.norm(x[:, None] - others[None], axis=2)
    if step["method"] == "typicality":
        k = min(step["neighbours"], len(others) // 2)
        return 1 / (np.sort(distances, axis=1)[:, :k].mean(1) + 1e-5) if len(others) > 5 else np.zeros(len(x))
    if step["method"] == "inverse_density":
        return -np.log(np.exp(-(distances**2) / (2 * 0.5**2)).sum(1) + 1)
    return np.linalg.norm(x - np.median(others, axis=0), axis=1)


def test_new_documents_are_compared_with_those_of_the_first_run(tmp_path: Path, documents: pa.Table) -> None:
    chain = Chain(tmp_path, documents, *DENSITIES)
    runs = chain.grow(150, 50, 40)
    x = InMemory(chain, runs)
    alive = x.has.copy()
    for step in DENSITIES:
        name = step["method"]
        value = x.column(name)
        assert np.array_equal(~np.isnan(value), alive), "what the steps before leave has a value"
        for rows in x.clusters():
            first, new = rows[alive[rows] & (x.run[rows] == 0)], rows[alive[rows] & (x.run[rows] > 0)]
            if not len(new):
                continue
            expected = brute_force(step, x.vectors[new], x.vectors[first])
            assert np.allclose(value[new], expected, rtol=1e-3, atol=1e-5)
        assert np.count_nonzero(alive & (x.run > 0)) > 40
        alive &= x.table["reason"].to_numpy(zero_copy_only=False) != name
        if name == "typicality":
            lowest, highest = value[alive & (x.run == 0)].min(), value[~alive & x.has & (x.run == 0)].max()
            new = (x.run > 0) & x.has
            assert value[new & alive].min() > highest, "by the cut of the first run"
            assert value[new & ~alive].max() < lowest
        assert len({address(run, name) for run in runs}) == 1
    assert 0 < x.kept[x.run > 0].sum() < 90


def test_values_do_not_depend_on_what_else_is_new(
    tmp_path: Path, documents: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_cluster, "PART", 30)
    exact = {"method": "deduplicate", "kind": "exact", "keep_copy": "highest", "by": "stats"}
    chain = Chain(tmp_path, documents, {"method": "threshold", "by": "stats", "min": 20}, exact, *DENSITIES)
    runs = chain.grow(150, 40, 30)
    names = [step["method"] for step in DENSITIES]
    columns = {path: path.read_bytes() for name in names for path in chain.stored(runs[0], name)}
    assert len(columns) == 9
    times = {path: path.stat().st_mtime_ns for path in columns}
    assert kept(chain.run("again", runs[0])) == kept(*runs[1:])
    assert {path: path.stat().st_mtime_ns for path in columns} == times, "no value is computed again"
    for path in set(columns) - {path for name in names for path in chain.stored(runs[0], name, runs[0])}:
        path.unlink()
    assert kept(chain.run("anew", runs[0])) == kept(*runs[1:])
    for path, content in columns.items():
        ours, theirs = (pq.read_table(source)["score"] for source in (path, pa.BufferReader(content)))
        assert np.array_equal(ours.to_numpy(), theirs.to_numpy(), equal_nan=True), "next to any other documents"


def picks(rule: str, x: InMemory, rows: NDArray[np.int64], given: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """Pick by all distances, or by the rule alone. rows: in the order of keys; given: places in these."""
    if rule == "k_center":
        vectors = x.vectors[rows].astype(float)
        distances = ((vectors[:, None] - vectors[None]) ** 2).sum(2)
        taken = given.tolist()
        for _ in range(budget):
            nearest = distances[taken].min(0) if taken else np.r_[np.inf, np.zeros(len(rows) - 1)]
            nearest[taken] = -1
            taken.append(int(np.argmax(nearest)))
        return np.array(taken[len(given) :], np.int64)
    if rule == "k_means_plus_plus":
        return greedy(KMeansPlusPlus(x.vectors[rows], x.keys[rows], 0, "covering"), budget, given).items
    graph = neighbour_graph(x.vectors[rows], neighbours_for(len(rows), len(given) + budget))
    return greedy(FacilityLocation(graph), budget, given).items


@pytest.mark.parametrize("rule", RULES)
def test_new_documents_cover_what_earlier_ones_do_not(rule: str, tmp_path: Path, documents: pa.Table) -> None:
    chain = Chain(tmp_path, documents, cover(rule))
    runs = chain.grow(150, 60, 70, 50)
    x = InMemory(chain, runs)
    number, expected = x.column("covering"), np.zeros(len(x.keys), bool)
    for rows in x.clusters():
        run = x.run[rows]
        first, given = int((run == 0).sum()), rows[(run == 0) & x.kept[rows]]
        expected[given] = True
        for now in (1, 2, 3):
            whole = int((run <= now).sum())
            budget = len(rows[(run == 0) & x.kept[rows]]) * whole // first - len(given)
            taking = rows[np.isin(rows, given) | (run == now)]
            found = taking[picks(rule, x, taking, np.flatnonzero(np.isin(taking, given)), budget)]
            assert (x.run[found] == now).all()
            assert number[found].tolist() == list(range(len(given), len(given) + budget))
            others = np.setdiff1d(rows[run == now], found)
            assert (number[others] == whole).all()
            given = np.concatenate([given, found])
            expected[found] = True
    assert np.array_equal(x.kept, expected)
    assert x.kept[x.run > 0].sum() > 25
    for run in runs[1:]:
        report = run.manifest["steps"][0]
        assert report["kept"] == run.manifest["totals"]["kept"]["documents"]
        assert report["cut_share"] == pytest.approx(0.2, abs=0.01)


def test_small_batches_add_up_to_the_share_of_each_cluster(tmp_path: Path, documents: pa.Table) -> None:
    chain = Chain(tmp_path, documents, cover(keep={"fraction": 0.1}, allocate={"by": "topic", "mode": "equal"}))
    runs = chain.grow(200, 7, 6, 9, 8, 10)
    x = InMemory(chain, runs)
    for rows in x.clusters():
        first = x.run[rows] == 0
        budget = int(x.kept[rows[first]].sum())
        assert x.kept[rows].sum() == budget * len(rows) // first.sum()
    assert not any("frozen cut" in line for run in runs for line in run.manifest["warnings"]), "it is but rounding"
    assert x.kept[x.run > 0].sum() >= 2


def test_budgets_in_tokens_are_met_over_the_chain(tmp_path: Path, documents: pa.Table) -> None:
    chain = Chain(tmp_path, documents, cover("facility_location", keep={"tokens": 3000}))
    runs = chain.grow(150, 3, 60, 40)
    x = InMemory(chain, runs)
    tokens = x.column("tokens").astype(np.int64)
    names = [group["group"] for group in runs[0].manifest["steps"][0]["groups"]]
    budgets = {int(group["group"]): group["budget"] for group in runs[0].manifest["steps"][0]["groups"]}
    assert len(names) == 4
    for rows in x.clusters():
        budget, first = budgets[int(x.column("topic")[rows[0]])], x.run[rows] == 0
        whole = budget * int(tokens[rows].sum()) // int(tokens[rows[first]].sum())
        used = int(tokens[rows[x.kept[rows]]].sum())
        assert whole - tokens[rows].max() < used <= whole
        number = np.sort(x.column("covering")[rows[x.kept[rows]]])
        assert number.tolist() == list(range(len(number)))
    assert x.kept[x.run > 0].sum() > 5


@pytest.mark.parametrize("rule", ["k_center", "facility_location"])
def test_workers_buckets_and_what_is_stored_change_nothing(
    rule: str, tmp_path: Path, documents: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_cluster, "PART", 25)  # clusters are in parts
    chain = Chain(tmp_path, documents, cover(rule))
    runs = chain.grow(150, 60, 50)
    x = InMemory(chain, runs)
    for rows in x.clusters():
        first = x.run[rows] == 0
        assert x.kept[rows].sum() == int(x.kept[rows[first]].sum()) * len(rows) // first.sum()
    stored = chain.stored(runs[2], "covering")
    column = {path: path.read_bytes() for path in stored}
    assert len(column) == 3, "a run's column is of all documents of the chain"
    assert kept(chain.run("again", runs[1])) == kept(runs[2])
    stored[1].unlink()
    monkeypatch.setattr(exchange, "BUCKET_BYTES", 5000)
    job = chain.job("anew", runs[1])
    if rule == "k_center":
        anew = Run(job, Engine(2, ["--direct_runner_bundle_repeat=1"]), Quiet())
    else:
        anew = Run(job, Engine(1), Quiet(), passes=run_inline)
    assert kept(Finished(anew.execute())) == kept(runs[2])
    assert {path: path.read_bytes() for path in stored} == column


def test_how_files_are_cut_changes_nothing(tmp_path: Path, documents: pa.Table) -> None:
    chain = Chain(tmp_path, documents, cover("k_means_plus_plus"), *DENSITIES)
    runs = chain.grow(150, 50)
    for part in (documents.slice(200, 35), documents.slice(235, 25)):
        chain.add(0, part)
    in_two = chain.run("in-two", runs[1])
    for path in sorted((tmp_path / "corpus").iterdir())[2:]:
        path.unlink()
    chain.add(0, documents.slice(200, 60))
    assert kept(chain.run("in-one", runs[1])) == kept(in_two)
    assert len(kept(in_two)) > 3


def test_two_rounds_keep_away_from_what_is_kept(
    tmp_path: Path, documents: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of all that the first run kept, which are in the parts of these, come with documents that are not."""
    monkeypatch.setattr(in_cluster, "PART", 40)
    chain = Chain(tmp_path, documents, cover(clusters=None, keep={"fraction": 0.2}))
    chain.recipe["corpus"].pop("id")
    first = chain.grow(200)[0]
    copies = first.data.select(["id", "text", "group"]).to_pylist()
    copies = [row | {"id": f"{row['id']}-copy"} for row in copies]
    chain.add(0, pa.Table.from_pylist([*copies, *documents.slice(300, 60).to_pylist()]))
    second = chain.run("second", first)
    assert len(kept(second)) == 20 and not any(name.endswith("-copy") for name in kept(second))


def test_groups_and_clusters_that_are_new_get_nothing(tmp_path: Path, documents: pa.Table) -> None:
    grouped = cover(clusters=None, within="group", keep={"fraction": 0.25})
    later = {"method": "typicality", "vectors": "meaning", "clusters": "group", "keep": {"fraction": 0.9}}
    chain = Chain(tmp_path, documents, grouped, later)
    first = chain.grow(150)[0]
    strange = documents.slice(200, 40).set_column(2, "group", pa.array(["strange"] * 40))
    chain.add(0, pa.concat_tables([strange, documents.slice(300, 40)]))
    second = chain.run("second", first)
    rows = second.decisions.to_pylist()
    assert {row["reason"] for row in rows if row["group"] == "strange"} == {"covering"}
    assert any(row["kept"] for row in rows)
    assert any("new since" in line and "`strange`" in line for line in second.manifest["warnings"])
    assert verified(second) == []


def test_clusters_of_which_the_first_run_had_nothing_are_told(tmp_path: Path, documents: pa.Table) -> None:
    by_length = {"by": "topic", "mode": "score_weighted", "score": "stats_mean_word_length"}
    chain = Chain(tmp_path, documents, cover(allocate=by_length))
    first = chain.grow(150)[0]
    topics = first.decisions["topic"].to_numpy()
    assert set(topics) == {0, 1, 2, 3}
    few = documents.slice(0, 150).filter(pa.array(topics != 3))
    (chain.folder / "corpus" / "000.parquet").unlink()
    fitted = {"topic": chain.recipe["scores"]["topic"] | {"fitted": f"{first.outcome.path}/fitted/topic.npz"}}
    chain.recipe["scores"] |= fitted
    chain.add(0, few)
    lacking = chain.run("lacking")
    chain.added = 150
    second = chain.grow(100, since=lacking)[1]
    x = InMemory(chain, [lacking, second])
    strange = (x.column("topic") == 3) & x.has
    (told,) = (line for line in second.manifest["warnings"] if "the first run had nothing" in line)
    assert told.endswith(f"none of their {strange.sum()} new documents is kept: 3")
    assert strange.sum() > 3 and not x.kept[strange].any()
    for group in lacking.manifest["steps"][0]["groups"]:
        rows = np.flatnonzero((x.column("topic") == int(group["group"])) & x.has)
        assert x.kept[rows].sum() == group["kept"] * len(rows) // (x.run[rows] == 0).sum()
    dropped = int(x.keys[np.flatnonzero(strange)[0]])
    assert "covering" in explain_run(second.outcome.path, f"{dropped:016x}", as_json=False)


def verified(run: Finished) -> list[str]:
    return verify_run(run.outcome.path, Engine(1), Quiet()).findings


def test_a_chain_of_all_steps(tmp_path: Path, documents: pa.Table) -> None:
    """Copies lose to documents that `cover` kept in an earlier run, and to none that it dropped."""
    exact = {"method": "deduplicate", "kind": "exact", "name": "copies"}
    chain = Chain(tmp_path, documents, DENSITIES[0], cover(keep={"fraction": 0.7}), exact)
    first = chain.grow(160)[0]
    assert {row["reason"] for row in first.decisions.to_pylist()} == {None, "typicality", "covering"}
    again = [row | {"id": f"{row['id']}-again"} for row in documents.slice(0, 120).to_pylist()]
    path = chain.add(0, pa.Table.from_pylist(again))
    second = chain.run("second", first)
    there = set(kept(first))
    reasons = dict(zip(pq.read_table(path)["id"].to_pylist(), second.decisions["reason"].to_pylist(), strict=True))
    told = {name: reason for name, reason in reasons.items() if reason in (None, "copies")}
    assert all((reason == "copies") == (name.removesuffix("-again") in there) for name, reason in told.items())
    assert len(set(told.values())) == 2
    lost = next(name for name, reason in told.items() if reason == "copies")
    winner = json.loads(explain_run(second.outcome.path, lost, as_json=True))["lost_to"]
    assert pq.read_table(winner["source"])["id"].to_pylist()[winner["row"]] == lost.removesuffix("-again")
    chain.added = 200
    third = chain.grow(60, since=second)[1]
    for run in (second, third):
        assert verified(run) == []
        assert explain_run(run.outcome.path, documents["id"][3].as_py(), as_json=False)
    notes = [path.read_text() for path in Path(f"{chain.recipe['store']}/uses").iterdir()]
    assert any(address(third, "covering").folder in note for note in notes), "a store is not pruned of what a run needs"


def test_what_is_gone_is_told_before_documents_are_read(tmp_path: Path, documents: pa.Table) -> None:
    chain = Chain(tmp_path, documents, cover())
    runs = chain.grow(100, 30)
    chain.add(30)
    (folder,) = Path(chain.recipe["store"]).glob("embedding-*")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(RecipeError, match=r"lacks `meaning` .* of 2 of 2 shards .*with which covering compares"):
        chain.run("third", runs[1])
    (tmp_path / "elsewhere").rename(folder)
    chain.stored(runs[1], "covering")[0].unlink()
    with pytest.raises(RecipeError, match=r"lacks `covering` .cover-.* of 1 of 2 shards"):
        chain.run("third", runs[1])
    (runs[0].outcome.path / "shards.parquet").unlink()
    with pytest.raises(RecipeError, match=r"shards.parquet.* cannot be read .*; run without `since` once"):
        chain.run("third", runs[1])
    assert not (tmp_path / "runs" / "third").exists()


def test_a_plan_foresees_the_share(tmp_path: Path, documents: pa.Table) -> None:
    chain = Chain(tmp_path, documents, *DENSITIES, cover(keep={"documents": 20}))
    first = chain.grow(100)[0]
    chain.add(60)
    found = estimate(chain.job("next", first), Engine(1))
    assert found.steps[0]["candidates"] == 60
    for before, step in zip(found.steps, found.steps[1:], strict=False):
        assert before["kept"] == step["candidates"]
    for share, step in zip([0.8, 0.8, 0.8, 20 / 51], found.steps, strict=True):
        assert abs(step["kept"] - share * step["candidates"]) <= 1
    assert sum("and with none of earlier runs" in line for line in found.warnings) == 4
