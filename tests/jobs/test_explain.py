"""`tamis explain` against the run's own files: places, standings, cuts, copies, and what it says of the unknown."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from finished_run import Finished, RunRecipe, write_jsonl, write_parquet
from hypothesis import given
from hypothesis import strategies as st
from tamis.connectors.decisions import compared, standings
from tamis.connectors.errors import TamisError
from tamis.connectors.keys import keyed_gumbel
from tamis.jobs.explain import as_text, explain_run
from tamis.jobs.recipe import Recipe, make_job, read_recipe
from tamis.pipelines import explain as explanations
from tamis.pipelines import run as runs
from tamis.pipelines import survey
from tamis.pipelines.explain import Explanation, explain
from tamis.pipelines.job import Quiet
from tamis.pipelines.run import Run
from tamis.pipelines.runner import Engine

TAMIS = str(Path(sys.executable).parent / "tamis")


def explained(run: Finished, wanted: object) -> Explanation:
    recipe = Recipe.model_validate(run.manifest["recipe"])
    return explain(run.outcome.path, run.manifest, str(wanted), recipe.select, recipe.corpus)


@pytest.fixture(scope="module")
def decided(
    tmp_path_factory: pytest.TempPathFactory, documents: pa.Table, target_documents: pa.Table
) -> Iterator[Finished]:
    """A run of all methods over three files of the language reference, with importance weights."""
    folder = tmp_path_factory.mktemp("explained")
    recipe: dict[str, Any] = {
        "corpus": {
            "format": "parquet",
            "paths": [write_parquet(documents, folder / "corpus", 3)],
            "id": "id",
            "group": "group",
        },
        "targets": {"wanted": {"format": "parquet", "paths": [write_parquet(target_documents, folder / "target", 1)]}},
        "scores": {"relevance": {"scorer": "dsir", "target": "wanted", "normalise": "tokens", "min_tokens": 20}},
        "select": [
            {"method": "threshold", "by": "relevance", "min": -9.5, "max": -6.0},
            {
                "method": "resample",
                "by": "relevance",
                "keep": {"fraction": 0.8},
                "temperature": 0.7,
                "within": "group",
                "name": "relevant",
            },
            {"method": "band", "by": "relevance", "keep": {"fraction": 0.8}},
            {"method": "bottom", "by": "relevance", "keep": {"fraction": 0.8}},
            {"method": "top", "by": "relevance", "keep": {"fraction": 0.8}},
            {"method": "sample", "keep": {"documents": 40}},
        ],
        "weigh": {"method": "importance", "by": "relevance", "temperature": 5},
        "output": {"path": str(folder / "run")},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    yield Finished(Run(make_job(read_recipe(path)), Engine(1), Quiet()).execute())


def rows_by_reason(run: Finished, each: int) -> list[dict[str, Any]]:
    rows: dict[str | None, list[dict[str, Any]]] = {}
    for row in run.decisions.to_pylist():
        rows.setdefault(row["reason"], []).append(row)
    assert len(rows) == 8  # no_score, six steps, and kept
    return [row for some in rows.values() for row in some[:: max(1, len(some) // each)]]


def test_every_document_has_the_fate_that_the_run_decided(decided: Finished, documents: pa.Table) -> None:
    texts = dict(zip(documents["id"].to_pylist(), documents["text"].to_pylist(), strict=True))
    ids = {text: name for name, text in texts.items()}
    data = {path.name: pq.read_table(path)["key"] for path in (decided.outcome.path / "data").iterdir()}
    for row in rows_by_reason(decided, 6):
        found = explained(decided, f"{row['key']:016x}")
        (copy,) = found.copies
        assert (found.key, found.group, found.tokens) == (row["key"], row["group"], row["tokens"])
        assert (copy.source, copy.row, copy.reason) == (row["source"], row["row"], row["reason"])
        assert (copy.kept, copy.weight) == (row["kept"], row["weight"])
        assert found.verdicts[-1].reason == row["reason"]
        assert all(verdict.reason is None for verdict in found.verdicts[:-1])
        assert found.text is not None
        assert explained(decided, ids[found.text]).key == row["key"]
        if row["kept"]:
            assert copy.output is not None
            path, place = copy.output
            assert data[Path(path).name][place].as_py() == row["key"]
        else:
            assert copy.output is None


def test_standings_are_those_of_all_documents(decided: Finished) -> None:
    rows = decided.decisions.to_pylist()
    for row in rows_by_reason(decided, 2):
        (score,) = explained(decided, f"{row['key']:016x}").scores
        assert (score.name, score.value, score.exact) == ("relevance", row["relevance"], True)
        if score.value is None:
            assert score.corpus is None
            continue
        everyone = [other for other in rows if other["relevance"] is not None]
        group = [other for other in everyone if other["group"] == row["group"]]
        for standing, others in ((score.corpus, everyone), (score.group, group)):
            assert standing is not None
            assert standing.documents == len(others)
            assert standing.below == sum(other["relevance"] < score.value for other in others)


def test_cuts_separate_what_a_step_kept_from_what_it_dropped(decided: Finished) -> None:
    group = "c"
    kept, dropped = [], []
    for row in decided.decisions.to_pylist():
        if row["group"] != group or row["reason"] in ("no_score", "threshold_relevance"):
            continue
        verdict = explained(decided, f"{row['key']:016x}").verdicts[1]
        (trial,) = verdict.trials
        assert verdict.within_group
        assert trial.score == row["relevance"]
        noise = keyed_gumbel(0, "relevant", np.array([row["key"]], dtype=np.uint64))[0]
        assert trial.value == pytest.approx(row["relevance"] / 0.7 + noise)
        assert trial.margin == pytest.approx(abs(trial.value - (trial.low or 0)))
        (dropped if row["reason"] == "relevant" else kept).append(trial)
    bounds = {trial.low for trial in [*kept, *dropped]}
    assert len(bounds) == 1
    assert max(trial.value for trial in dropped) == bounds.pop()  # the cut is the first one that is dropped
    assert min(trial.value for trial in kept) > max(trial.value for trial in dropped)


def test_text_says_which_step_decided_and_by_how_much(decided: Finished) -> None:
    lines = {}
    for row in rows_by_reason(decided, 1):
        lines[row["reason"]] = as_text(explained(decided, f"{row['key']:016x}")).splitlines()
    assert "  fate    dropped: it lacks a score (no_score)" in lines["no_score"]
    assert "dropped it: relevance " in lines["threshold_relevance"][-1]
    assert (
        "the maximum -6" in lines["threshold_relevance"][-1] or "the minimum -9.5" in lines["threshold_relevance"][-1]
    )
    assert "below the cut of its group at" in lines["relevant"][-1]
    assert "/ temperature 0.7 + noise" in lines["relevant"][-1]
    assert "above the cut at" in lines["bottom_relevance"][-1]
    assert "below the cut at" in lines["top_relevance"][-1]
    assert "above the cut at" in lines["sample"][-1]
    assert any(line.startswith("  fate    kept, weight ") for line in lines[None])
    assert sum(" passed it: " in line for line in lines[None]) == 6


def test_json_holds_the_same(decided: Finished) -> None:
    row = rows_by_reason(decided, 1)[0]
    content = json.loads(explain_run(decided.outcome.path, f"{row['key']:016x}", as_json=True))
    assert content["key"] == f"{row['key']:016x}"
    assert content["copies"][0]["reason"] == row["reason"]
    assert [verdict["reason"] for verdict in content["verdicts"]][-1] == row["reason"]
    assert content["verdicts"][-1]["says"]


def test_unknown_documents(decided: Finished) -> None:
    with pytest.raises(TamisError, match=r"no document of .* has the id `nobody`$"):
        explained(decided, "nobody")
    with pytest.raises(TamisError, match="has the key or id `0123456789abcdef`"):
        explained(decided, "0123456789abcdef")


def test_a_source_that_changed_or_is_gone_is_said(decided: Finished) -> None:
    row = decided.decisions.to_pylist()[0]
    path = Path(row["source"])
    times, aside = path.stat(), path.with_suffix(".aside")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    changed = explained(decided, f"{row['key']:016x}")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    path.rename(aside)
    gone = explained(decided, f"{row['key']:016x}")
    aside.rename(path)
    assert changed.text is None
    assert changed.text_missing == f"{path} has changed since the run"
    assert gone.text_missing == f"{path} is gone"
    assert gone.verdicts == changed.verdicts != []
    assert f"cannot be shown: {path} is gone" in as_text(gone)


def test_a_damaged_decision_file_is_named(decided: Finished) -> None:
    path = next((decided.outcome.path / "decisions").iterdir())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    try:
        with pytest.raises(TamisError, match=rf"{path.name}: .*tamis verify"):
            explained(decided, "doc-0001")
    finally:
        path.write_bytes(content)


def test_it_is_one_light_process(decided: Finished) -> None:
    probe = (
        "import sys\nfrom tamis.jobs.command import main\nsys.argv = ['tamis', 'explain', *sys.argv[1:]]\n"
        "try:\n    main()\nfinally:\n    print([n for n in ('apache_beam', 'pandas') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, str(decided.outcome.path), "doc-0003"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "(id `doc-0003`)" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
    unknown = subprocess.run([TAMIS, "explain", str(decided.outcome.path), "nobody"], capture_output=True, text=True)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("tamis: no document of ")
    nowhere = subprocess.run([TAMIS, "explain", "nowhere", "x"], capture_output=True, text=True)
    assert nowhere.returncode == 2


def sampling(**corpus: Any) -> dict[str, Any]:
    return {"corpus": corpus, "select": [{"method": "sample", "keep": {"fraction": 0.5}}]}


@pytest.mark.parametrize("compressed", [False, True])
def test_lines_are_found_in_their_file_and_shown_without_control_characters(
    compressed: bool, tmp_path: Path, run_recipe: RunRecipe
) -> None:
    rows = [{"id": n, "text": f"text {n} \x1b[31m\u202ered", "group": "\x07"} for n in range(30)]
    content = write_jsonl(pa.Table.from_pylist(rows), tmp_path / "corpus.jsonl")
    lines = content.replace(b'{"id": 7,', b'\n   \nno JSON, but about 999\n{"id": 7,')
    path = tmp_path / ("corpus.jsonl.gz" if compressed else "corpus.jsonl")
    path.write_bytes(gzip.compress(lines) if compressed else lines)
    run = run_recipe(sampling(format="jsonl", paths=[str(path)], id="id", group="group"))
    for number in (0, 6, 7, 29):
        found = explained(run, number)
        assert found.text == rows[number]["text"]
        assert found.copies[0].row == number + (3 if number >= 7 else 0)
    shown = as_text(found)
    assert "\\x1b[31m\\u202ered" in shown
    assert not any(character in shown for character in "\x1b\u202e\x07")
    with pytest.raises(TamisError, match=r"a dead letter holds these characters: .* row 9: .*line is not JSON"):
        explained(run, 999)
    with pytest.raises(TamisError, match="1 could not be read: see dead_letters/"):
        explained(run, "nobody")


def test_copies_are_told_each_with_its_fate(
    tmp_path: Path, run_recipe: RunRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["the same text"] * 5 + [f"text {n}" for n in range(5)]
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"text": texts, "number": [17] * 10}), path)
    run = run_recipe(sampling(format="parquet", paths=[str(path)]) | {"seed": 1})
    kept = [row["row"] for row in run.decisions.to_pylist() if row["kept"]]
    key = next(row["key"] for row in run.decisions.to_pylist() if row["row"] == 0)
    found = explained(run, f"{key:016x}")
    assert [(copy.row, copy.kept) for copy in found.copies] == [(n, n in kept) for n in range(5)]
    assert found.copies[found.chosen].kept == any(n in kept for n in range(5))
    assert "5 documents have this key" in as_text(found)
    monkeypatch.setattr(explanations, "COPIES", 2)
    few = explained(run, f"{key:016x}")
    assert (few.documents, len(few.copies)) == (5, 2)
    assert "5 documents have this key, of which the first 2 are" in as_text(few)
    with pytest.raises(TamisError, match="its recipe names no `id`, so documents are known by their keys"):
        explained(run, "nobody")


def test_an_integer_id_and_a_limit(tmp_path: Path, run_recipe: RunRecipe) -> None:
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(10)], "n": range(10, 20)}), path, row_group_size=3)
    run = run_recipe(sampling(format="parquet", paths=[str(path)], id="n"), limit=6)
    assert explained(run, 14).text == "text 4"
    with pytest.raises(TamisError, match="the run read only the first 6 rows"):
        explained(run, 17)


def test_many_documents_are_compared_by_a_keyed_sample(
    tmp_path: Path,
    documents: pa.Table,
    target_documents: pa.Table,
    run_recipe: RunRecipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "SAMPLE", 100)
    monkeypatch.setattr(survey, "SAMPLE", 100)
    recipe = sampling(
        format="parquet", paths=[write_parquet(documents, tmp_path / "corpus", 4)], id="id", group="group"
    )
    recipe["targets"] = {
        "wanted": {"format": "parquet", "paths": [write_parquet(target_documents, tmp_path / "target", 1)]}
    }
    recipe["scores"] = {"relevance": {"scorer": "dsir", "target": "wanted", "min_tokens": 20}}
    run = run_recipe(recipe)
    again = run_recipe(recipe, "again", workers=2)
    content = (run.outcome.path / "sample.parquet").read_bytes()
    assert (again.outcome.path / "sample.parquet").read_bytes() == content
    sample = pq.read_table(run.outcome.path / "sample.parquet")
    assert 50 < len(sample) < 200
    decisions = {row["key"]: row for row in run.decisions.to_pylist()}
    for row in sample.to_pylist():
        assert row == {name: decisions[row["key"]][name] for name in row}
    monkeypatch.setattr(explanations, "EXACT_VALUES", 0)
    wanted = next(row for row in run.decisions.to_pylist() if row["relevance"] is not None)
    (score,) = explained(run, f"{wanted['key']:016x}").scores
    scores = [row["relevance"] for row in sample.to_pylist() if row["relevance"] is not None]
    assert not score.exact
    assert score.corpus is not None
    assert (score.corpus.documents, score.corpus.below) == (len(scores), sum(s < wanted["relevance"] for s in scores))
    assert f"(in a sample of {len(scores)})" in as_text(explained(run, f"{wanted['key']:016x}"))


scored = st.lists(
    st.tuples(st.sampled_from([None, "", "a", "b"]), st.none() | st.floats(allow_nan=False)), min_size=1, max_size=30
)


@given(scored, st.sampled_from([None, "", "a", "absent"]), st.floats(allow_nan=False))
def test_compared_counts_as_one_by_one(rows: list[tuple[str | None, float | None]], group: str, value: float) -> None:
    table = pa.table(
        {
            "group": pa.array([name for name, _ in rows], pa.string()).dictionary_encode(),
            "score": pa.array([score for _, score in rows], pa.float64()),
        }
    )
    corpus, of_group = standings(["score"], compared(table, {"score": value}, group))
    for standing, others in (
        (corpus["score"], [score for _, score in rows]),
        (of_group["score"], [score for name, score in rows if name == group]),
    ):
        known = [score for score in others if score is not None]
        assert (standing.documents, standing.below) == (len(known), sum(score < value for score in known))
