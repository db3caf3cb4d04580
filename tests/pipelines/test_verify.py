"""`tamis verify`: a sound run passes, and each thing that somebody changed is found and named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from finished_run import RunRecipe, write_parquet
from hypothesis import given
from hypothesis import strategies as st
from tamis.connectors.atomic import Written, write_atomically
from tamis.connectors.errors import RecipeError
from tamis.connectors.run_directory import seal
from tamis.connectors.shards import Shard
from tamis.jobs.recipe import make_job, read_recipe
from tamis.jobs.verify import Verified, verify_run
from tamis.pipelines import rescore as rescoring
from tamis.pipelines.job import Quiet
from tamis.pipelines.rescore import differing, sampled
from tamis.pipelines.run import Run
from tamis.pipelines.runner import Engine


def verified(run: Path) -> Verified:
    return verify_run(run, Engine(1), Quiet())


@dataclass
class Copied:
    """A run that a test may change, and the folder of its sources, which it must leave as they were."""

    path: Path
    sources: Path

    def manifest(self) -> dict[str, Any]:
        return json.loads((self.path / "manifest.json").read_text())

    def edit(self, change: Callable[[dict[str, Any]], object]) -> None:
        content = self.manifest()
        change(content)
        (self.path / "manifest.json").write_text(json.dumps(seal(content)))

    def rewrite(self, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
        """Change a Parquet file and all that the manifest records of it."""
        table = change(pq.read_table(self.path / name))
        done: Written = write_atomically(str(self.path / name), lambda file: pq.write_table(table, file))

        def record(content: dict[str, Any]) -> None:
            entry = next(file for file in content["files"] if file["path"] == name)
            entry.update(rows=len(table), bytes=done.bytes, sha256=done.sha256)

        self.edit(record)


@pytest.fixture(scope="module")
def original(
    tmp_path_factory: pytest.TempPathFactory, documents: pa.Table, target_documents: pa.Table
) -> Iterator[Copied]:
    folder = tmp_path_factory.mktemp("verified")
    texts = [*documents["text"].to_pylist()[:-1], None]  # the last one is dead
    corpus = documents.set_column(1, "text", pa.array(texts))
    target = write_parquet(target_documents, folder / "target", 1)
    recipe = {
        "corpus": {
            "format": "parquet",
            "paths": [write_parquet(corpus, folder / "corpus", 3)],
            "id": "id",
            "group": "group",
        },
        "targets": {"wanted": {"format": "parquet", "paths": [target]}},
        "scores": {"relevance": {"scorer": "dsir", "target": "wanted", "min_tokens": 20}},
        "select": [{"method": "resample", "by": "relevance", "keep": {"fraction": 0.5}, "name": "relevant"}],
        "weigh": {"method": "importance", "by": "relevance", "temperature": 100},
        "output": {"path": str(folder / "run")},
        "errors": {"max_dead_fraction": 1},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    Run(make_job(read_recipe(path)), Engine(1), Quiet()).execute()
    yield Copied(folder / "run", folder / "corpus")


@pytest.fixture
def run(original: Copied, tmp_path: Path) -> Copied:
    """A copy of the run; its 550 documents are all scored anew rather than a hundredth."""
    shutil.copytree(original.path, tmp_path / "run")
    return Copied(tmp_path / "run", original.sources)


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescoring, "SHARE", 1.0)


def first(run: Copied, kind: str) -> str:
    return next(file["path"] for file in run.manifest()["files"] if file["path"].startswith(kind))


def test_a_sound_run(run: Copied, everything: None) -> None:
    found = verified(run.path)
    assert found.findings == []
    read = run.manifest()["totals"]
    assert found.documents == read["kept"]["documents"] + read["dropped"]["documents"]
    assert found.as_text().startswith(f"{run.path}: sound; ")
    assert json.loads(found.as_json())["sound"] is True


def test_about_a_hundredth_is_scored_anew(run: Copied) -> None:
    found = verified(run.path)
    assert found.findings == []
    assert 0 < found.documents < 25


def test_changed_missing_and_foreign_files_are_named(run: Copied) -> None:
    data, decisions, letters = first(run, "data"), first(run, "decisions"), first(run, "dead_letters")
    content = bytearray((run.path / data).read_bytes())
    content[len(content) // 2] ^= 1
    (run.path / data).write_bytes(content)
    (run.path / decisions).unlink()
    (run.path / letters).write_bytes((run.path / letters).read_bytes() + b"!")
    (run.path / "data" / "more.parquet").write_bytes(b"")
    (run.path / "recipe.yaml").write_text("seed: 5\n")
    (run.path / "log.jsonl").write_text("belongs to the run, but is not listed")
    found = verified(run.path).findings
    size = len((run.path / letters).read_bytes())
    for line in (
        f"{data}: its content is not what was written (another SHA-256)",
        f"{decisions}: is missing",
        f"{letters}: has {size:,} bytes where the manifest says {size - 1:,}",
        "data/more.parquet: the manifest does not know this file",
        "recipe.yaml: is not the recipe of the manifest",
    ):
        assert line in found
    assert not any("log.jsonl" in line for line in found)


def add(path: str, amount: int) -> Callable[[dict[str, Any]], object]:
    *parents, last = path.split(".")

    def change(content: dict[str, Any]) -> None:
        node: Any = content
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        node[last] += amount

    return change


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("totals.read.documents", "totals: "),
        ("totals.kept.tokens", "totals: "),
        ("totals.dropped.documents", "reasons: "),
        ("totals.dead.documents", "dead_letters: 2 rows|dead_letters: 1 rows"),
        ("reasons.relevant.tokens", "reason relevant: "),
        ("reasons.no_score.documents", "reason no_score: "),
        ("groups.0.documents", "group a: "),
        ("groups.1.kept_tokens", "group c: "),
    ],
)
def test_an_edited_total_is_named(run: Copied, place: str, told: str) -> None:
    run.edit(add(place, 1))
    found = verified(run.path).findings
    assert any(line.startswith(tuple(told.split("|"))) for line in found), found


def test_a_manifest_that_is_none(run: Copied) -> None:
    run.edit(lambda content: content.pop("totals"))
    assert verified(run.path).findings == ["manifest.json: totals: Field required"]
    run.edit(lambda content: content["files"].append({"path": "../x", "rows": None, "bytes": 1, "sha256": ""}))
    (run.path / "manifest.json").write_text("{")
    (line,) = verified(run.path).findings
    assert "manifest.json: cannot be read as JSON" in line
    with pytest.raises(RecipeError, match="holds no finished run"):
        verified(run.path / "data")


def test_a_file_outside_of_the_run_is_not_read(run: Copied) -> None:
    outside = {"path": "../outside", "rows": None, "bytes": 7, "sha256": ""}
    run.edit(lambda content: content["files"].append(outside))
    (run.path.parent / "outside").write_bytes(b"private")
    assert verified(run.path).findings == ["../outside: the manifest lists a file outside of the run"]


def test_data_that_are_not_what_was_decided(run: Copied) -> None:
    data = first(run, "data")

    def swap(table: pa.Table) -> pa.Table:
        return table.take(pa.array([1, 0, *range(2, len(table))]))

    run.rewrite(data, swap)
    (line,) = verified(run.path).findings
    assert line.startswith(f"{data}: 2 rows have other keys or weights than decisions/part-")
    run.rewrite(data, lambda table: swap(table).slice(0, len(table) - 1))
    found = verified(run.path).findings
    assert any(line.endswith("1 kept documents are in no data file") for line in found)
    assert any(line.startswith("data: ") and "in the totals" in line for line in found)


def replaced(table: pa.Table, column: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(column), column, pa.array(values, table.schema.field(column).type))


def test_decisions_that_contradict_themselves(run: Copied) -> None:
    name = first(run, "decisions")
    table = pq.read_table(run.path / name)
    weights = np.where(table["kept"].to_numpy(zero_copy_only=False), table["weight"].to_numpy(), 1).astype(np.float32)
    dropped = int(np.count_nonzero(~table["kept"].to_numpy(zero_copy_only=False)))
    run.rewrite(name, lambda table: replaced(table, "weight", weights))
    assert verified(run.path).findings == [f"{name}: {dropped} dropped documents have a weight"]
    kept = np.ones(len(table), dtype=bool)
    run.rewrite(name, lambda table: replaced(table, "kept", kept))
    assert f"{name}: {dropped} documents are kept with a reason, or dropped without" in verified(run.path).findings


@pytest.mark.parametrize("column", ["relevance", "tokens"])
def test_a_score_that_the_sources_do_not_give_is_named(run: Copied, everything: None, column: str) -> None:
    name = first(run, "decisions")

    def change(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        place = next(number for number, value in enumerate(values) if value is not None)
        values[place] = np.nextafter(values[place], np.inf) if column == "relevance" else values[place] + 1
        return replaced(table, column, values)

    run.rewrite(name, change)
    assert f"{name}: 1 sampled documents get another `{column}` now" in verified(run.path).findings


def test_other_documents_in_the_source_are_named(run: Copied, everything: None) -> None:
    name = first(run, "decisions")
    run.rewrite(name, lambda table: replaced(table, "key", [5, *table["key"].to_pylist()[1:]]))
    assert f"{name}: the source gives other documents than were decided about" in verified(run.path).findings


def test_sources_that_changed_are_gone_or_new_are_named(run: Copied) -> None:
    path = sorted(run.sources.iterdir())[0]
    times, aside, new = path.stat(), run.path.parent / "aside", run.sources / "zz.parquet"
    skipped = "no document was scored anew, since files of the corpus are not what they were"
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    changed = verified(run.path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    path.rename(aside)
    gone = verified(run.path)
    aside.rename(path)
    shutil.copyfile(path, new)
    more = verified(run.path)
    new.unlink()
    assert changed.findings == [f"source {path} has changed since the run", skipped]
    assert gone.findings == [f"source {path} is gone", skipped]
    assert more.findings == [] and more.documents  # a corpus may grow
    assert verified(run.path).findings == []


def test_a_fitted_state_that_is_gone_is_named(run: Copied) -> None:
    (run.path / "fitted" / "relevance.npz").unlink()
    found = verified(run.path).findings
    assert found[0] == "fitted/relevance.npz: is missing"
    assert found[-1].startswith("no document was scored anew: ")
    assert "relevance.npz" in found[-1]


def test_names_in_findings_are_safe_to_print(run: Copied) -> None:
    (run.path / "data" / "\x1b[31m\nx").write_bytes(b"")
    text = verified(run.path).as_text()
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2


def test_limit_chunks_and_lines(tmp_path: Path, run_recipe: RunRecipe, everything: None) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": f"one two three four {n}"}) + "\n\n" for n in range(20)))
    recipe = {
        "corpus": {"format": "jsonl", "paths": [str(path)], "chunk": 2},
        "select": [{"method": "sample", "keep": {"fraction": 0.5}}],
    }
    finished = run_recipe(recipe, limit=7)
    found = verified(finished.outcome.path)
    assert found.findings == []
    assert found.documents == 21


def test_a_changed_file_beside_the_corpus_is_named(tmp_path: Path, run_recipe: RunRecipe, everything: None) -> None:
    ids = [f"doc-{number}" for number in range(10)]
    side = tmp_path / "side.parquet"
    pq.write_table(pa.table({"id": ids, "text": ids}), tmp_path / "corpus.parquet")
    pq.write_table(pa.table({"id": ids, "quality": np.arange(10.0)}), side)
    recipe = {
        "corpus": {"format": "parquet", "paths": [str(tmp_path / "corpus.parquet")], "id": "id"},
        "scores": {"quality": {"scorer": "column", "file": str(side), "column": "quality", "join": "id"}},
        "select": [{"method": "top", "by": "quality", "keep": {"documents": 5}}],
    }
    run = run_recipe(recipe).outcome.path
    assert verified(run).findings == []
    pq.write_table(pa.table({"id": ids, "quality": np.append(np.arange(9.0), 10)}), side)
    assert verified(run).findings == [
        "decisions/part-000000.parquet: 1 sampled documents get another `quality` now",
        "scores.quality: its version, parameters, files or device are not those of the run",
    ]


def test_of_many_shards_some_are_read_and_always_the_same() -> None:
    shards = [Shard(number, (), f"{number:032x}") for number in range(1000)]
    chosen = sampled(shards)
    assert len(chosen) == rescoring.SHARDS
    assert [shard.index for shard in chosen] == sorted(shard.index for shard in chosen)
    assert sampled(shards[::-1]) == chosen
    assert sampled(shards[:50]) == shards[:50]
    assert len(sampled([Shard(number, (), f"{number:032x}") for number in range(20_000)])) == 200


number = st.none() | st.floats()


@given(st.lists(st.tuples(number, number), max_size=20), st.sampled_from([0.0, 1e-6, 0.1]))
def test_differing_counts_as_one_by_one(pairs: list[tuple[float | None, float | None]], tolerance: float) -> None:
    def differ(ours: float | None, theirs: float | None) -> bool:
        ours, theirs = (None if value is None or np.isnan(value) else value for value in (ours, theirs))
        if ours is None or theirs is None:
            return ours is not theirs
        if np.isinf(ours) or np.isinf(theirs):
            return ours != theirs
        return abs(ours - theirs) > tolerance * max(abs(theirs), 1)

    ours, theirs = (pa.array(values, pa.float64()) for values in ([p[0] for p in pairs], [p[1] for p in pairs]))
    assert differing(ours, theirs, tolerance) == sum(differ(*pair) for pair in pairs)
    assert differing(ours, ours, tolerance) == 0
