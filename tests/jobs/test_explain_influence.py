"""`tamis explain` on influence: sums are the score's, the best are those of all products, and spans add up."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_run import Finished, write_parquet

pytest.importorskip("torch")
pytest.importorskip("transformers")

import yaml
from hypothesis import given
from hypothesis import strategies as st
from tamis.connectors.errors import RecipeError, TamisError
from tamis.connectors.score_store import load_arrays
from tamis.jobs.explain import explain_run
from tamis.jobs.explain_influence import helpers_of
from tamis.jobs.recipe import make_job, read_recipe
from tamis.pipelines.explain_influence import RunInfluence
from tamis.pipelines.job import Quiet
from tamis.pipelines.run import Run
from tamis.pipelines.runner import Engine
from tamis.scoring import influence_examples
from tamis.scoring.feature_products import feature_products
from tamis.scoring.influence_examples import InfluenceState, add_examples, examples_of, trimmed_examples
from tamis.scoring.spans import sentence_spans, span_of_tokens
from tiny_models import save_model

TAMIS = str(Path(sys.executable).parent / "tamis")
EXAMPLES = 6
"""Documents of each target, which are documents of the corpus too: rows 10 to 15, and 30 to 35."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, documents: pa.Table) -> Path:
    """A corpus of 60 documents in three shards, one without text, two targets, and two checkpoints."""
    folder = tmp_path_factory.mktemp("influence")
    few = documents.slice(0, 60)
    for name, kind in (("first", "llama"), ("later", "gpt2")):
        save_model(folder / name, few["text"].to_pylist()[:20], kind)
    few = few.set_column(1, "text", pa.array([*few["text"].to_pylist()[:59], ""]))
    write_parquet(few, folder / "corpus", 3)
    write_parquet(few.slice(10, EXAMPLES), folder / "one", 1)
    write_parquet(few.slice(30, EXAMPLES).select(["text"]), folder / "two", 1)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Finished:
    features = {"scorer": "gradients", "context": 64, "dimension": 300}
    influence = {"scorer": "influence", "gradients": "features", "target": ["one", "two"]}
    recipe: dict[str, Any] = {
        "corpus": {"format": "parquet", "paths": [str(folder / "corpus" / "*.parquet")], "id": "id"},
        "targets": {
            "one": {"format": "parquet", "paths": [str(folder / "one" / "*.parquet")], "id": "id"},
            "two": {"format": "parquet", "paths": [str(folder / "two" / "*.parquet")]},
        },
        "scores": {
            "features": features | {"model": str(folder / "first")},
            "later": features | {"model": str(folder / "later"), "layers": ["all", "head"]},
            "helps": influence,
            "plain": influence | {"curvature": "none", "normalise": "none"},
            "whitened": influence | {"normalise": "self_influence", "curvature": "fisher", "target": "two"},
            "both": influence | {"gradients": ["features", "later"], "rates": [3e-4, 1e-4]},
        },
        "select": [{"method": "top", "by": "helps", "keep": {"documents": 5}}],
        "output": {"path": str(folder / "run")},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return Finished(Run(make_job(read_recipe(path)), Engine(1), Quiet()).execute())


def told(run: Finished, document: str, **arguments: Any) -> dict[str, Any]:
    return json.loads(explain_run(run.outcome.path, document, as_json=True, **arguments))


def test_the_mean_over_examples_is_the_score(run: Finished) -> None:
    influence = RunInfluence(run.outcome.path, run.manifest)
    rows = run.decisions.to_pylist()
    for score in ("helps", "plain", "whitened", "both"):
        state = influence.state(score)
        for row in (0, 17, 33, 58):
            place = influence.files.find([rows[row]["key"]])[0]
            on_examples = state.on_examples(influence.vectors(score, place))[0]
            means = [np.average(on_examples[state.targets == i]) for i in range(len(state.names))]
            stored = [rows[row].get(f"{score}_{name}", rows[row][score]) for name in state.names]
            np.testing.assert_allclose(means, stored, rtol=2e-4, atol=2e-5 * np.abs(on_examples).max(), err_msg=score)
            np.testing.assert_allclose(max(stored), rows[row][score], rtol=1e-6)


def test_a_document_helps_itself_most_and_is_told_by_its_place(run: Finished) -> None:
    own = told(run, "doc-0032", top=3)["influence"][0]
    assert own["score"] == "helps" and own["kept"] == own["documents"] == 2 * EXAMPLES
    first = own["most"][0]["example"]
    assert (first["target"], first["number"]) == ("two", 2)
    text = run_text(run, 32)
    assert first["text"] == text[:100]
    values = [one["influence"] for one in own["most"]] + [one["influence"] for one in own["least"][::-1]]
    assert len(values) == 6 and values == sorted(values, reverse=True)
    only = told(run, "doc-0032", target="two:2")["influence"][0]
    assert [one["example"]["number"] for one in only["most"]] == [2] and only["least"] == []
    assert only["most"][0]["influence"] == own["most"][0]["influence"]


def run_text(run: Finished, row: int) -> str:
    corpus = run.manifest["recipe"]["corpus"]["paths"][0]
    return pq.read_table(Path(corpus).parent)["text"][row].as_py()


@pytest.mark.parametrize(("wanted", "row"), [("doc-0011", 11), ("one:1", 11), ("two:3", 33)])
def test_the_documents_that_help_an_example_are_the_best_of_all(run: Finished, wanted: str, row: int) -> None:
    found = json.loads(helpers_of(run.outcome.path, wanted, 4, as_json=True))["helpers"]
    assert ("whitened" in [one["score"] for one in found]) == (row == 33)  # which is on the target `two` alone
    by_score = {one["score"]: one for one in found}
    influence, rows = RunInfluence(run.outcome.path, run.manifest), run.decisions.to_pylist()
    for score in ("helps", "both"):
        state, number = influence.state(score), np.array([influence.find(score, wanted)])
        every = {
            one["key"]: state.on_examples(influence.vectors(score, influence.files.find([one["key"]])[0]), number)[0, 0]
            for one in rows[:59]
        }
        ordered = sorted(every, key=lambda key: -every[key])
        ours = by_score[score]
        assert ours["searched"] == 59  # one has no text
        assert [int(one["key"], 16) for one in ours["most"]] == ordered[:4]
        assert [int(one["key"], 16) for one in ours["least"]] == ordered[:-5:-1]
        assert ours["most"][0]["text"] == run_text(run, row)[:100]
        assert ours["most"][0]["row"] == row % 20


def test_no_more_is_held_than_the_best_of_each_shard(run: Finished) -> None:
    one = json.loads(helpers_of(run.outcome.path, "one:0", 1, as_json=True))["helpers"][0]
    every = json.loads(helpers_of(run.outcome.path, "one:0", 100, as_json=True))["helpers"][0]
    assert len(every["most"]) == 59 and every["least"] == []
    assert one["most"] == every["most"][:1] and one["least"] == every["most"][-1:]


@pytest.mark.parametrize("kind", ["sentences", "tokens"])
@pytest.mark.parametrize("target", [None, "two:4"])
def test_spans_add_up_to_the_influence(run: Finished, kind: str, target: str | None) -> None:
    found = told(run, "doc-0017", spans=kind, target=target)
    influence, row = RunInfluence(run.outcome.path, run.manifest), run.decisions.to_pylist()[17]
    place = influence.files.find([row["key"]])[0]
    for spans in found["spans"]:
        score = spans["score"]
        state, vectors = influence.state(score), influence.vectors(score, place)
        number = int(np.argmax(state.on_targets(vectors)[0])) if target is None else influence.find(score, target)
        queries = [(state.queries if target is None else state.examples)[i][number] for i in range(len(vectors))]
        products = [
            share * feature_products(rows, query[None])[0][0, 0]
            for share, rows, query in zip(state.shares, vectors, queries, strict=True)
        ]
        scale = max(abs(one["product"]) for one in spans["spans"])
        assert spans["product"] == pytest.approx(sum(products), rel=1e-3, abs=5e-3 * scale)
        assert spans["product"] == pytest.approx(sum(one["product"] for one in spans["spans"]), abs=1e-5 * scale)
        if target is None:
            assert spans["influence"] == pytest.approx(row[score], rel=2e-2, abs=2e-3)
        text = run_text(run, 17)
        assert all(one["text"] == text[one["begin"] : one["end"]] for one in spans["spans"])
        assert len({one["influence"] for one in spans["spans"]}) > 5
        if kind == "sentences":
            assert "".join(one["text"] for one in spans["spans"]) == text


def test_the_command_prints_lines(run: Finished) -> None:
    arguments = [TAMIS, "explain", str(run.outcome.path), "doc-0012", "--top", "2"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "helps most" in done.stdout and "one:2" in done.stdout
    spans = explain_run(run.outcome.path, "doc-0012", as_json=False, spans="sentences")
    assert "together" in spans and f"  {run_text(run, 12)[:10]}" in spans
    assert "help most" in helpers_of(run.outcome.path, "one:2", 2, as_json=False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("one:99", "has 6 documents"),
        ("three:1", "no target `three`"),
        ("doc-0001", "not among the examples"),
    ],
)
def test_an_example_that_is_not_there_is_told(run: Finished, wrong: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        helpers_of(run.outcome.path, wrong, 2, as_json=False)
    with pytest.raises(RecipeError, match=message):
        told(run, "doc-0012", target=wrong)
    with pytest.raises(RecipeError, match="several targets; say one:4"):
        RunInfluence(run.outcome.path, run.manifest).find("helps", "4")


def test_what_is_gone_is_told(run: Finished, folder: Path, tmp_path: Path) -> None:
    model, aside = folder / "first", tmp_path / "model"
    shutil.move(model, aside)
    try:
        with pytest.raises(TamisError, match=r"--spans: helps: .*first"):
            told(run, "doc-0012", spans="tokens")
        assert told(run, "doc-0012")["influence"][0]["most"]  # without spans no model is needed
    finally:
        shutil.move(aside, model)
    files, kept = folder / "corpus", tmp_path / "corpus"
    shutil.move(files, kept)
    try:
        with pytest.raises(TamisError):
            helpers_of(run.outcome.path, "one:1", 2, as_json=True)
        assert told(run, "doc-0012")["influence"][0]["missing"]
    finally:
        shutil.move(kept, files)
    store = Path(run.manifest["recipe"]["store"])
    (gone,) = store.glob(f"gradients-{RunInfluence(run.outcome.path, run.manifest).state('helps').gradients[0]}")
    shutil.move(gone, tmp_path / "gradients")
    try:
        assert "run the recipe again" in told(run, "doc-0012")["influence"][0]["missing"]
        with pytest.raises(TamisError, match="run the recipe again"):
            helpers_of(run.outcome.path, "one:1", 2, as_json=True)
    finally:
        shutil.move(tmp_path / "gradients", gone)


def test_runs_without_influence_and_states_without_examples_are_told(run: Finished, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    recipe = run.manifest["recipe"]
    plain = {
        "corpus": {"format": "parquet", "paths": recipe["corpus"]["paths"]},
        "output": {"path": str(tmp_path / "r")},
    }
    other.write_text(yaml.safe_dump(plain))
    path = Run(make_job(read_recipe(other)), Engine(1), Quiet()).execute().path
    with pytest.raises(RecipeError, match="no score of the scorer `influence`"):
        helpers_of(path, "1", 2, as_json=False)
    state = load_arrays(f"{run.outcome.path}/fitted/helps.npz")
    with pytest.raises(TamisError, match="fit it again"):
        InfluenceState.of_arrays({name: array for name, array in state.items() if not name.startswith("example")})


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_examples_of_parts_are_those_of_the_whole(keys: list[int], cut: int, seed: int) -> None:
    """However a target is cut into shards, the same examples are kept, and copies of one count as often."""
    random, known = np.random.default_rng(seed), np.array(keys, np.uint64)
    vectors = random.normal(size=(31, 3)).astype(np.float16)[known.astype(int)]
    before, influence_examples.EXAMPLES = influence_examples.EXAMPLES, 7
    try:
        parts: list[dict[str, Any]] = [{"sum 0": np.zeros(3, np.int64)} for _ in range(3)]
        for statistic, part in zip(parts, (slice(0, cut), slice(cut, None), slice(None)), strict=True):
            for row in range(len(known))[part]:
                add_examples(statistic, 0, known[row : row + 1], vectors[row : row + 1])
        merged = {
            name: sum((part[name] for part in parts[:2] if name in part), start=np.int64(0))
            for name in parts[0].keys() | parts[1].keys()
        }
        ours, whole = (examples_of(trimmed_examples(one), 1, of_length_one=False) for one in (merged, parts[2]))
    finally:
        influence_examples.EXAMPLES = before
    assert len(whole.keys) == min(7, len(set(keys)))
    np.testing.assert_array_equal(ours.keys, whole.keys)
    np.testing.assert_array_equal(ours.gradients[0], whole.gradients[0])
    assert whole.counts.tolist() == [keys.count(int(key)) for key in whole.keys]


@given(st.text(alphabet="ab .!?\n\"'。", max_size=40))
def test_sentences_cover_a_text(text: str) -> None:
    spans = sentence_spans(text)
    assert "".join(text[begin:end] for begin, end in spans) == text
    assert all(begin < end for begin, end in spans)


def test_sentences_end_with_their_marks_and_lines() -> None:
    text = 'He said "no." Then 3.14 came! A heading\n\nAnother line'
    spans = sentence_spans(text)
    assert [text[a:b] for a, b in spans] == ['He said "no." ', "Then 3.14 came! ", "A heading\n\n", "Another line"]
    tokens = np.array([[0, 0], [0, 2], [13, 18], [29, 31], [43, 50]])
    assert span_of_tokens(tokens, spans).tolist() == [0, 0, 1, 2, 3]
