"""`tamis diff` of real runs against a join of their decisions by pandas, and the laws that hold for any two runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from finished_run import Finished, RunRecipe, write_parquet
from tamis.connectors.errors import RecipeError, TamisError
from tamis.connectors.key_ranges import KeyRanges, range_bits
from tamis.jobs.diff import Diff, as_text, diff, diff_runs
from tamis.jobs.recipe import make_job, read_recipe
from tamis.pipelines import diff as diffs
from tamis.pipelines import run as runs
from tamis.pipelines import survey
from tamis.pipelines.job import Quiet
from tamis.pipelines.run import Run
from tamis.pipelines.runner import Engine
from tamis.selectors.changes import ROW, Fate
from tamis.selectors.drift import population_stability_index

Runs = dict[str, Finished]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, documents: pa.Table, target_documents: pa.Table) -> Runs:
    """Runs over the language reference: `base`, and others with one thing changed."""
    folder = tmp_path_factory.mktemp("diff")
    write_parquet(documents, folder / "files", 6)
    target = write_parquet(target_documents, folder / "target", 1)

    def run(
        name: str, files: str = "00[0-4]", minimum: float = -9.0, weigh: str = "uniform", seed: int = 0
    ) -> Finished:
        recipe: dict[str, Any] = {
            "seed": seed,
            "corpus": {
                "format": "parquet",
                "paths": [str(folder / "files" / f"{files}.parquet")],
                "id": "id",
                "group": "group",
            },
            "targets": {"wanted": {"format": "parquet", "paths": [target]}},
            "scores": {"relevance": {"scorer": "dsir", "target": "wanted", "normalise": "tokens", "min_tokens": 20}},
            "select": [
                {"method": "threshold", "by": "relevance", "min": minimum, "name": "floor"},
                {"method": "sample", "keep": {"fraction": 0.7}, "within": "group"},
            ],
            "weigh": {"method": weigh} | ({"by": "relevance", "temperature": 5} if weigh == "importance" else {}),
            "output": {"path": str(folder / name)},
            "store": str(folder / "store"),
        }
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return Finished(Run(make_job(read_recipe(path)), Engine(1), Quiet()).execute())

    return {
        "base": run("base"),
        "threshold": run("threshold", minimum=-8.0),
        "corpus": run("corpus", files="00[1-5]", seed=1),
        "weights": run("weights", weigh="importance"),
        "weights too": run("weights-too", files="00[1-5]", weigh="importance"),
    }


def diffed(made: Runs, old: str, new: str, show: int = 5) -> Diff:
    return diff(made[old].outcome.path, made[new].outcome.path, show)


def joined(old: Finished, new: Finished) -> pd.DataFrame:
    """One row per key of either run, with the columns of both; fates as text."""
    sides = []
    for run in (old, new):
        side = run.decisions.to_pandas().astype({"group": str, "reason": object})
        side["fate"] = side["reason"].where(side["reason"].notna(), "kept")
        sides.append(side[["key", "group", "tokens", "weight", "fate"]])
        assert side["key"].is_unique
    both = sides[0].merge(sides[1], on="key", how="outer", suffixes=("", "_new"))
    return both.fillna({"fate": "not read", "fate_new": "not read"})


def name(fate: Fate) -> str:
    return fate.reason or fate.fate


PAIRS = [
    ("base", "threshold"),
    ("base", "corpus"),
    ("base", "weights"),
    ("corpus", "weights"),
    ("weights", "weights too"),
]


@pytest.mark.parametrize("pair", PAIRS)
def test_documents_are_counted_as_pandas_joins_them(made: Runs, pair: tuple[str, str]) -> None:
    changes = diffed(made, *pair).documents
    both = joined(made[pair[0]], made[pair[1]])
    was, now = both["fate"] == "kept", both["fate_new"] == "kept"
    entered, left = both[~was & now], both[was & ~now]
    other = both[was & now & (both["weight"] != both["weight_new"])]
    assert asdict(changes.entered) == {"documents": len(entered), "tokens": entered["tokens_new"].sum()}
    assert asdict(changes.left) == {"documents": len(left), "tokens": left["tokens"].sum()}
    weighed = changes.reweighted
    assert (weighed.documents, weighed.tokens) == (len(other), other["tokens_new"].sum())
    ratio = (other["weight_new"].astype(float) / other["weight"].astype(float)).to_numpy()
    assert (weighed.raised, weighed.lowered) == ((ratio > 1).sum(), (ratio < 1).sum())
    assert weighed.noticed == (np.maximum(ratio, 1 / ratio) > 1.01).sum()
    if len(ratio):
        assert (weighed.least, weighed.most) == (ratio.min(), ratio.max())
    assert changes.same == ((both["fate"] == both["fate_new"]) & ~both.index.isin(other.index)).sum()
    assert (changes.regrouped, changes.recounted) == (0, 0)
    moved = both[both["fate"] != both["fate_new"]].groupby(["fate", "fate_new"], observed=True)
    expected = {
        fates: (len(some), some["tokens"].sum(), some["tokens_new"].sum()) for fates, some in moved if len(some)
    }
    assert {
        (name(t.old), name(t.new)): (t.documents, t.old_tokens, t.new_tokens) for t in changes.transitions
    } == expected
    assert changes.groups
    for group in changes.groups:
        for count, some, side in (
            (group.old, both[was], ""),
            (group.new, both[now], "_new"),
            (group.entered, entered, "_new"),
            (group.left, left, ""),
            (group.reweighted, other, "_new"),
        ):
            of_group = some[some[f"group{side}"] == group.group]
            assert (count.documents, count.tokens) == (len(of_group), of_group[f"tokens{side}"].sum())
    for kind, some in (("entered", entered), ("left", left), ("reweighted", other)):
        assert sum(getattr(group, kind).documents for group in changes.groups) == len(some)
        assert [shown.key for shown in changes.shown[kind]] == sorted(some["key"])[:5]
        for shown in changes.shown[kind]:
            row = some[some["key"] == shown.key].iloc[0]
            assert (name(shown.old), name(shown.new)) == (row["fate"], row["fate_new"])


def test_each_pair_changes_what_it_is_about(made: Runs) -> None:
    threshold, corpus, weights = (diffed(made, "base", other) for other in ("threshold", "corpus", "weights"))
    assert [(c.key, c.old, c.new) for c in threshold.recipe] == [("select.floor.min", -9.0, -8.0)]
    assert threshold.documents.left.documents > threshold.documents.entered.documents
    assert {change.key for change in corpus.recipe} == {"corpus.paths", "seed"}
    assert asdict(corpus.sources) == {"added": 1, "removed": 1, "changed": 0}
    fates = {(name(t.old), name(t.new)) for t in corpus.documents.transitions}
    assert {("not read", "kept"), ("kept", "not read"), ("floor", "not read"), ("sample", "kept")} <= fates
    assert [(c.key, c.old, c.new) for c in weights.recipe][:2] == [
        ("weigh.by", None, "relevance"),
        ("weigh.method", "uniform", "importance"),
    ]
    assert weights.documents.transitions == []
    assert weights.documents.reweighted.documents > 100


@pytest.mark.parametrize("run", ["base", "weights"])
def test_a_run_does_not_differ_from_itself(made: Runs, run: str) -> None:
    found = diffed(made, run, run)
    changes = asdict(found.documents)
    assert found.recipe == []
    assert changes.pop("same") == made[run].decisions.num_rows
    assert changes.pop("shown") == {"entered": [], "left": [], "reweighted": []}
    counts = [value for part in changes.values() for value in (part.values() if isinstance(part, dict) else [part])]
    assert not any(counts)
    assert [(drift.stability, drift.distance) for drift in found.drift] == [(0, 0)]


@pytest.mark.parametrize("pair", PAIRS)
def test_backwards_is_the_mirror(made: Runs, pair: tuple[str, str]) -> None:
    forth, back = diffed(made, *pair), diffed(made, *reversed(pair))
    ours, theirs = forth.documents, back.documents
    assert (ours.entered, ours.left, ours.same) == (theirs.left, theirs.entered, theirs.same)
    assert ours.reweighted.documents == theirs.reweighted.documents
    assert (ours.reweighted.raised, ours.reweighted.noticed) == (theirs.reweighted.lowered, theirs.reweighted.noticed)
    assert {(t.new, t.old, t.documents, t.new_tokens, t.old_tokens) for t in ours.transitions} == {
        (t.old, t.new, t.documents, t.old_tokens, t.new_tokens) for t in theirs.transitions
    }
    assert [(g.group, g.old, g.new, g.entered, g.left) for g in ours.groups] == [
        (g.group, g.new, g.old, g.left, g.entered) for g in theirs.groups
    ]
    assert [(s.key, s.old, s.new) for s in ours.shown["left"]] == [
        (s.key, s.new, s.old) for s in theirs.shown["entered"]
    ]
    assert [(c.key, c.old, c.new) for c in forth.recipe] == [(c.key, c.new, c.old) for c in back.recipe]
    assert [(d.distance, d.old, d.new) for d in forth.drift] == [(d.distance, d.new, d.old) for d in back.drift]
    assert forth.totals == {"old": back.totals["new"], "new": back.totals["old"]}


@pytest.mark.parametrize("memory", [1, 20_000])
def test_key_ranges_change_nothing(made: Runs, monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    whole = diffed(made, "base", "corpus", show=20)
    monkeypatch.setattr(diffs, "MEMORY", max(memory, diffs.BYTES_PER_DOCUMENT))
    assert diffed(made, "base", "corpus", show=20) == whole


def test_rows_are_parted_by_their_keys() -> None:
    generator = np.random.default_rng(5)
    blocks = [np.zeros(size, ROW) for size in (0, 1, 1000, 20_000, 3)]
    for block in blocks:
        block["key"] = generator.integers(0, 2**64, block.size, np.uint64)
        block["tokens"] = generator.integers(0, 100, block.size)
    for bits in (0, 1, 5):
        with KeyRanges(ROW, bits) as ranges:
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(ranges.add, blocks))
            parts = [ranges.read(number) for number in range(ranges.ranges)]
        for number, part in enumerate(parts):
            assert all(int(key) >> (64 - bits) == number for key in part["key"][:200])
        assert Counter(np.concatenate(parts).tolist()) == Counter(np.concatenate(blocks).tolist())


def test_so_many_ranges_that_one_fits() -> None:
    assert [range_bits(rows, 100) for rows in (0, 1, 100, 101, 200, 201, 400, 10**9)] == [0, 0, 0, 1, 1, 2, 2, 12]


def test_drift_is_that_of_the_stored_scores(made: Runs) -> None:
    (drift,) = diffed(made, "base", "corpus").drift
    sides = [made[run].decisions["relevance"].to_numpy() for run in ("base", "corpus")]
    assert (drift.score, drift.sample, drift.same_scorer) == ("relevance", False, False)  # fitted on another corpus
    assert [drift.old, drift.new] == [np.count_nonzero(~np.isnan(side)) for side in sides]
    assert [drift.old_missing, drift.new_missing] == [np.count_nonzero(np.isnan(side)) for side in sides]
    assert drift.stability == population_stability_index(*sides)
    assert diffed(made, "base", "weights").drift[0].same_scorer


def of_texts(texts: list[str], path: Path, minimum: int = 0) -> dict[str, Any]:
    """A recipe over documents that their texts name, scored by their place."""
    path.parent.mkdir(exist_ok=True)
    groups = [None if place % 3 == 0 else f"g{place % 3}" for place in range(len(texts))]
    pq.write_table(pa.table({"text": texts, "number": range(len(texts)), "group": groups}), path)
    return {
        "corpus": {"format": "parquet", "paths": [str(path)], "group": "group"},
        "scores": {"place": {"scorer": "column", "column": "number"}},
        "select": [{"method": "threshold", "by": "place", "min": minimum}],
    }


@pytest.fixture
def of_copies(tmp_path: Path, run_recipe: RunRecipe) -> Callable[..., Finished]:
    def run(output: str, texts: list[str], minimum: int = 0) -> Finished:
        return run_recipe(of_texts(texts, tmp_path / output / "corpus.parquet", minimum), output)

    return run


def test_copies_of_a_document_are_compared_by_their_counts(of_copies: Callable[..., Finished]) -> None:
    old = of_copies("old", ["a", "b", "a", "c", "a", "a", "b"], minimum=2)  # a: 1 dropped, 3 kept; b: 1, 1; c: 0, 1
    new = of_copies("new", ["b", "a", "d", "a", "b", "b", "e", "e"], minimum=3)  # a: 1, 1; b: 1, 2; d: 1, 0; e: 0, 2
    changes = diff(old.outcome.path, new.outcome.path, 9).documents
    assert {(name(t.old), name(t.new)): t.documents for t in changes.transitions} == {
        ("kept", "not read"): 3,  # two a, one c
        ("not read", "kept"): 3,  # one b, two e
        ("not read", "threshold_place"): 1,  # d
    }
    assert changes.same == 4
    assert len({shown.key for shown in changes.shown["entered"]}) == 2
    assert "(none)" in as_text(diff(old.outcome.path, new.outcome.path, 9))


def test_scores_that_are_no_numbers_do_not_drift(tmp_path: Path, run_recipe: RunRecipe) -> None:
    recipe = of_texts(["one two three"] * 5, tmp_path / "corpus.parquet")
    recipe["scores"] |= {"sketch": {"scorer": "minhash"}, "vectors": {"scorer": "embedding", "model": "hashed"}}
    old, new = run_recipe(recipe, "old"), run_recipe(recipe | {"seed": 1}, "new")
    drifts = {drift.score for drift in diff(old.outcome.path, new.outcome.path, 0).drift}
    assert "place" in drifts and not drifts & {"sketch", "vectors"}


def test_many_documents_drift_by_the_sample(
    of_copies: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (runs, survey):
        monkeypatch.setattr(module, "SAMPLE", 100)
    texts = [f"text {n}" for n in range(400)]
    old, new = of_copies("old", texts), of_copies("new", texts[::-1])
    (drift,) = diff(old.outcome.path, new.outcome.path, 0).drift
    sample = pq.read_table(old.outcome.path / "sample.parquet")
    assert drift.sample
    assert drift.old == drift.new == len(sample) < 200
    assert "a keyed sample of" in as_text(diff(old.outcome.path, new.outcome.path, 0))


def test_text_and_json_say_the_same(made: Runs) -> None:
    old, new = made["base"].outcome.path, made["corpus"].outcome.path
    content, text = json.loads(diff_runs(old, new, 2, as_json=True)), diff_runs(old, new, 2, as_json=False)
    for kind in ("entered", "left"):
        counts = content["documents"][kind]
        assert f"{kind:12}{counts['documents']:,} documents, {counts['tokens']:,} tokens" in text
        assert len(content["documents"]["shown"][kind]) == 2
        for shown in content["documents"]["shown"][kind]:
            assert f"  {shown['key']}, group `{shown['group']}`: " in text
    for change in content["recipe"]:
        assert f"  {change['key']}: {json.dumps(change['old'])[:50]}" in text
    for transition in content["documents"]["transitions"]:
        assert f": {transition['documents']:,} documents" in text
    totals = [content["totals"][side]["kept"]["documents"] for side in ("old", "new")]
    assert f"kept    {totals[0]:,} -> {totals[1]:,} documents" in text
    assert f"stability index {content['drift'][0]['stability']:.4f} ({content['drift'][0]['reading']};" in text
    assert "not read -> kept" in text
    assert "kept -> dropped by sample" in text


def test_runs_with_other_keys_are_warned_of(made: Runs, of_copies: Callable[..., Finished]) -> None:
    found = diff(made["base"].outcome.path, of_copies("texts", ["a", "b"]).outcome.path, 1)
    assert "warning: the runs make their keys of other things" in as_text(found)
    assert found.documents.entered.documents == 2
    assert diffed(made, "base", "corpus").warnings == []


def test_it_is_one_light_process(made: Runs) -> None:
    probe = (
        "import sys\nfrom tamis.jobs.command import main\nsys.argv = ['tamis', 'diff', *sys.argv[1:]]\n"
        "try:\n    main()\nfinally:\n    print([n for n in ('apache_beam', 'pandas') if n in sys.modules])"
    )
    paths = [str(made[run].outcome.path) for run in ("base", "threshold")]
    done = subprocess.run([sys.executable, "-c", probe, *paths], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  select.floor.min: -9.0 -> -8.0" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_is_no_run_and_what_is_damaged_is_named(made: Runs, tmp_path: Path) -> None:
    base = made["base"].outcome.path
    with pytest.raises(RecipeError, match="nowhere holds no finished run"):
        diff(base, tmp_path / "nowhere", 1)
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    path = next((copy / "decisions").iterdir())
    table = pq.read_table(path)
    pq.write_table(table.set_column(3, "group", pa.array(["unheard of"] * len(table))), path)
    with pytest.raises(TamisError, match=rf"{path.name} has groups or reasons that its manifest lacks"):
        diff(base, copy, 1)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TamisError, match=rf"{path.name}: .*tamis verify"):
        diff(copy, base, 1)
