"""Chains of runs that deduplicate: copies of earlier documents lose to them, as in one run over everything."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_run import Finished
from tamis.connectors.errors import RecipeError
from tamis.jobs.explain import explain_run
from tamis.jobs.recipe import make_job, read_recipe
from tamis.jobs.verify import verify_run
from tamis.pipelines import exchange
from tamis.pipelines.estimate import estimate
from tamis.pipelines.job import Quiet
from tamis.pipelines.passes import run_inline
from tamis.pipelines.run import Run
from tamis.pipelines.runner import Engine

EXACT = {"method": "deduplicate", "kind": "exact"}
FUZZY = {"method": "deduplicate", "kind": "fuzzy", "sketch": "near", "threshold": 0.5}
SEMANTIC = {
    "method": "deduplicate",
    "kind": "semantic",
    "vectors": "meaning",
    "clusters": "topic",
    "threshold": 0.8,
}


def versions(documents: pa.Table) -> pa.Table:
    """120 documents, and of every third one a copy, an edited version and one edited further, in any order."""
    table = documents.slice(0, 120).select(["id", "text"]).to_pylist()
    rng = np.random.default_rng(1)
    more = []
    for row in table[::3]:
        words = row["text"].split(" ")
        more.append({"id": row["id"] + "-copy", "text": row["text"]})
        for name in ("edited", "further"):
            words[int(rng.integers(len(words)))] = f"changed{rng.integers(99)}"
            more.append({"id": f"{row['id']}-{name}", "text": " ".join(words)})
    rows = [*table, *more]
    return pa.Table.from_pylist([rows[i] for i in rng.permutation(len(rows))])


class Chain:
    """A corpus that grows by files, and runs over all of it or since others."""

    def __init__(self, folder: Path, steps: list[dict[str, Any]], meaning: bool = False) -> None:
        self.folder = folder
        (folder / "corpus").mkdir()
        scores: dict[str, Any] = {
            "near": {"scorer": "minhash"},
            "stats": {"scorer": "text_statistics", "columns": ["words"]},
        }
        if meaning:
            scores["meaning"] = {"scorer": "embedding", "dimension": 64}
            scores["topic"] = {"scorer": "clusters", "embedding": "meaning", "clusters": 6}
        self.recipe: dict[str, Any] = {
            "corpus": {"format": "parquet", "paths": [f"{folder}/corpus/*"], "id": "id", "shard_bytes": 1000},
            "scores": scores,
            "select": steps,
            "store": str(folder / "store"),
        }

    def add(self, table: pa.Table, name: str) -> None:
        pq.write_table(table, self.folder / "corpus" / f"{name}.parquet")

    def job(self, name: str, since: Finished | None = None, **changes: Any) -> Any:
        link = {"since": str(since.outcome.path)} if since is not None else {}
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(self.recipe | link | changes))
        return make_job(read_recipe(path, output=str(self.folder / "runs" / name)))

    def run(self, name: str, since: Finished | None = None, **changes: Any) -> Finished:
        return Finished(Run(self.job(name, since, **changes), Engine(1), Quiet(), passes=run_inline).execute())

    def grow(self, table: pa.Table, parts: int) -> list[Finished]:
        """Add a table file by file, with a run after every second one, each since the one before."""
        rows = -(-len(table) // (2 * parts))
        runs: list[Finished] = []
        for number in range(2 * parts):
            self.add(table.slice(number * rows, rows), f"{number:02d}")
            if number % 2:
                runs.append(self.run(f"run-{number}", runs[-1] if runs else None))
        return runs


def kept(*runs: Finished) -> list[str]:
    return [name for run in runs for name in run.data["id"].to_pylist()]


def lost_to(run: Finished, wanted: str) -> str:
    """Id of the document that stayed in the place of another one."""
    winner = json.loads(explain_run(run.outcome.path, wanted, as_json=True))["lost_to"]
    return pq.read_table(winner["source"])["id"].to_pylist()[winner["row"]]


@pytest.mark.parametrize(
    "steps",
    [
        [{"method": "threshold", "by": "stats", "min": 40}, EXACT],
        [EXACT, {"method": "threshold", "by": "stats", "min": 80}, FUZZY],
    ],
    ids=["exact", "both"],
)
def test_a_chain_keeps_what_one_run_over_everything_keeps(
    steps: list[dict[str, Any]], tmp_path: Path, documents: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(tmp_path, steps)
    runs = chain.grow(versions(documents), 3)
    whole = chain.run("whole")
    assert kept(*runs) == kept(whole)
    (last, *_) = sorted((runs[2].outcome.path / "fitted").glob("*.duplicates.parquet"), reverse=True)
    assert {part // 2 for part in pq.read_table(last)["winner_part"].to_pylist()} == {0, 1, 2}, "of all three runs"
    for name in ("candidates", "kept"):
        of_runs = [sum(run.manifest["steps"][number][name] or 0 for run in runs) for number in range(len(steps))]
        assert of_runs == [step[name] or 0 for step in whole.manifest["steps"]]
    monkeypatch.setattr(exchange, "BUCKET_BYTES", 3000)
    again = chain.run("again", runs[1])
    assert kept(again) == kept(runs[2])
    assert len(again.manifest["store_shards"]) == 6, "a store is not pruned of what the next run compares with"


def test_what_is_near_in_meaning_to_earlier_documents_goes(tmp_path: Path, documents: pa.Table) -> None:
    chain = Chain(tmp_path, [SEMANTIC], meaning=True)
    runs = chain.grow(versions(documents), 3)
    state = f"{runs[0].outcome.path}/fitted/topic.npz"
    topic = {"scorer": "clusters", "embedding": "meaning", "clusters": 6, "fitted": state}
    whole = chain.run("whole", scores=chain.recipe["scores"] | {"topic": topic})
    assert kept(*runs) == kept(whole)
    new = set(runs[2].decisions["key"].to_pylist())
    lost = {row["key"] for run in (runs[2], whole) for row in run.decisions.to_pylist() if row["reason"]} & new
    assert 10 < len(lost) < len(new)
    other = chain.run("again", runs[1])
    assert other.data.equals(runs[2].data), "by what is stored of how near they are"


def edited(text: str, *places: int) -> str:
    words = text.split(" ")
    for place in places:
        words[place] = f"changed{place}"
    return " ".join(words)


@pytest.fixture
def bridge(tmp_path: Path, documents: pa.Table) -> tuple[Chain, Finished, Finished, Finished]:
    """Two documents that are not alike, a copy of the second one, and later one that is like both; then one like it."""
    text = next(t for t in documents["text"].to_pylist() if 120 < len(t.split(" ")) < 140)
    texts = {"a": text, "b": edited(text, *range(0, 60, 5)), "c": edited(text, *range(0, 60, 5), 100)}
    texts |= {"d": edited(text, *range(0, 30, 5)), "e": edited(text, *range(0, 30, 5), 100), "f": text}
    chain = Chain(tmp_path, [FUZZY | {"threshold": 0.5, "keep_copy": "highest", "by": "n"}])
    chain.recipe["scores"]["n"] = {"scorer": "column", "column": "number"}
    runs: list[Finished] = []
    for name, ids in (("0", "abc"), ("1", "d"), ("2", "ef")):
        numbers = [{"a": 5, "b": 7, "c": 6, "d": 8, "e": 9, "f": 4}[i] for i in ids]
        chain.add(pa.table({"id": list(ids), "text": [texts[i] for i in ids], "number": numbers}), name)
        runs.append(chain.run(name, runs[-1] if runs else None))
    return chain, *runs


def test_earlier_documents_stand_and_the_better_one_is_named(
    bridge: tuple[Chain, Finished, Finished, Finished],
) -> None:
    _, *runs = bridge
    assert kept(runs[0]) == ["a", "b"]
    assert [run.manifest["totals"]["kept"]["documents"] for run in runs] == [2, 0, 0]
    assert lost_to(runs[0], "c") == "b"
    assert [lost_to(runs[1], "d"), lost_to(runs[2], "e"), lost_to(runs[2], "f")] == ["b", "b", "b"]
    assert "stays in its place" in explain_run(runs[2].outcome.path, "d", as_json=False)
    verified = verify_run(runs[2].outcome.path, Engine(1), Quiet())
    assert (verified.findings, verified.read) == ([], 6)


def test_an_explanation_needs_the_run_of_the_document_that_stayed(
    bridge: tuple[Chain, Finished, Finished, Finished],
) -> None:
    _, first, _, third = bridge
    first.outcome.path.rename(first.outcome.path.with_name("elsewhere"))
    with pytest.raises(Exception, match=r"runs/0.* is gone"):
        explain_run(third.outcome.path, "e", as_json=False)


def test_what_is_gone_is_told_before_documents_are_read(
    bridge: tuple[Chain, Finished, Finished, Finished], documents: pa.Table
) -> None:
    chain, first, second, third = bridge
    table = pa.table({"id": ["g"], "text": [documents["text"][0]], "number": [1]})
    chain.add(table, "3")
    elsewhere = {"store": str(chain.folder / "other")}
    with pytest.raises(RecipeError, match=r"since: the store .*other lacks `document` .* of 3 of 3 shards of earlier"):
        chain.run("3", third, **elsewhere)
    (folder,) = Path(chain.recipe["store"]).glob("minhash-*")
    shutil.move(folder, chain.folder)
    with pytest.raises(RecipeError, match=r"lacks `near` .*with which deduplicate_fuzzy compares; give the store"):
        chain.run("3", third)
    shutil.move(chain.folder / folder.name, folder)
    manifest = first.outcome.path / "manifest.json"
    content = manifest.read_text()
    manifest.write_text(content + "\n")
    with pytest.raises(RecipeError, match=r"runs/0, which .*runs/1 continues, is gone or another run now"):
        chain.run("3", third)
    manifest.write_text(content)
    shards = second.outcome.path / "shards.parquet"
    shards.unlink()
    with pytest.raises(RecipeError, match=r"runs/1/shards.parquet.* cannot be read .*; run without `since` once"):
        chain.run("3", third)
    assert not (chain.folder / "runs" / "3").exists()


def test_a_plan_of_a_run_that_continues_others(tmp_path: Path, documents: pa.Table) -> None:
    chain = Chain(tmp_path, [EXACT])
    (first,) = chain.grow(documents.slice(0, 40), 1)
    chain.add(documents.slice(40, 40), "05")
    found = estimate(replace(chain.job("next", first)), Engine(1))
    assert found.steps[0]["candidates"] == 40
    assert "copies were looked for among 40 sampled documents, and not in earlier runs" in found.warnings[-1]
