"""`tamis store`: what runs note, what a kept run protects, and that pruning costs time and never a result."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from tamis.connectors.errors import RecipeError
from tamis.connectors.store_use import USES
from tamis.jobs.command import main
from tamis.jobs.store import age, store_of

DAY = 86_400


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Two files that make two shards, a target, a fitted score; one line that is no JSON."""
    for name in "ab":
        lines = [json.dumps({"text": f"document {n} of {name}, " + "some words and more " * 9}) for n in range(5)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    with (tmp_path / "b.jsonl").open("a") as file:
        file.write("\n{not JSON\n")
    (tmp_path / "target.jsonl").write_text(json.dumps({"text": "other words and more of them than nine " * 3}))
    content = {
        "corpus": {"format": "jsonl", "paths": ["a.jsonl"]},
        "targets": {"wanted": {"format": "jsonl", "paths": ["target.jsonl"]}},
        "scores": {"relevance": {"scorer": "dsir", "target": "wanted", "min_tokens": 0}},
        "select": [{"method": "top", "by": "relevance", "keep": {"documents": 3}}],
        "output": {"path": "runs/a"},
        "errors": {"max_dead_fraction": 0.5},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


Told = pytest.CaptureFixture[str]


class Tamis:
    """Runs the command in this process."""

    def __init__(self, patch: pytest.MonkeyPatch, told: Told) -> None:
        self.patch, self.told = patch, told

    def __call__(self, *arguments: object, code: int = 0) -> str:
        self.patch.setattr(sys, "argv", ["tamis", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        told = self.told.readouterr()
        assert int(left.value.code or 0) == code, told.err
        return told.out if code == 0 else told.err

    def pruned(self, *arguments: object) -> dict[str, int]:
        """Prune; returns how many shards went of each scorer that lost some."""
        found = json.loads(self("store", *arguments, "--prune", "--json"))
        gone: Counter[str] = Counter()
        for address in found["addresses"]:
            gone[address["name"]] += address["pruned"]["shards"]
        return dict(+gone)


@pytest.fixture
def tamis(monkeypatch: pytest.MonkeyPatch, capsys: Told) -> Tamis:
    return Tamis(monkeypatch, capsys)


def grow_old(store: Path, days: float) -> None:
    """Make all that is in a store so many days older."""
    for path in store.rglob("*.*"):
        written = path.stat().st_mtime - days * DAY
        os.utime(path, (written, written))


def results(store: Path) -> set[Path]:
    return {path for path in store.rglob("*.*") if path.is_file() and path.parent.name != USES}


def test_runs_note_their_use_and_the_rest_is_pruned(recipe: Path, tamis: Tamis) -> None:
    store = recipe.parent / "runs" / ".tamis"
    tamis("run", recipe)
    grow_old(store, 40)
    tamis("run", recipe, "--output", recipe.parent / "runs" / "b", "--set", "corpus.paths=[b.jsonl]")
    # the target is read by both; the other run's shard, and the scores with its fitted state, by none since
    gone = {"document": 1, "dsir": 1, "dsir-statistic": 1}
    before = results(store)
    assert tamis.pruned(recipe) == tamis.pruned(store) == gone
    assert results(store) == before
    assert tamis.pruned(store, "--older-than", "6w") == {}
    assert tamis.pruned(store, "--yes") == gone
    assert len(before - results(store)) == 3
    assert tamis.pruned(store, "--older-than", "0d", "--keep", recipe.parent / "runs" / "b") == {}


def test_what_kept_runs_used_stays(recipe: Path, tamis: Tamis) -> None:
    runs = recipe.parent / "runs"
    tamis("run", recipe)
    tamis("run", recipe, "--output", runs / "b", "--set", "corpus.paths=[b.jsonl]")
    grow_old(runs / ".tamis", 40)
    assert tamis.pruned(recipe, "--keep", runs) == {}
    assert tamis.pruned(recipe, "--keep", runs / "a", "--keep", runs / "b") == {}
    assert tamis.pruned(recipe, "--keep", runs / "a") == {"dead": 1, "document": 1, "dsir": 1, "dsir-statistic": 1}
    # notes go with their time: the manifest knows what was used
    tamis("store", recipe, "--prune", "--yes", "--keep", runs)
    assert not (runs / ".tamis" / USES).exists()
    assert tamis.pruned(recipe, "--keep", runs) == {}


def test_nothing_new_and_a_failed_run_note_their_use(recipe: Path, tamis: Tamis) -> None:
    store = recipe.parent / "runs" / ".tamis"
    tamis("run", recipe)
    grow_old(store, 40)
    assert sum(tamis.pruned(store).values()) == 5
    tamis("run", recipe)
    assert tamis.pruned(store) == {}
    grow_old(store, 40)
    (recipe.parent / "empty.jsonl").write_text(json.dumps({"text": ""}))
    failing = ["--output", recipe.parent / "runs" / "c", "--set", "targets.wanted.paths=[empty.jsonl]"]
    tamis("run", recipe, *failing, code=2)
    assert tamis.pruned(store) == {"document": 1, "dsir": 1, "dsir-statistic": 1}  # those of the other target


def test_what_was_pruned_is_scored_again_to_the_same_result(recipe: Path, tamis: Tamis) -> None:
    runs = recipe.parent / "runs"
    both = ["--set", "corpus.paths=[a.jsonl, b.jsonl]"]
    tamis("run", recipe, *both)
    tamis("store", recipe, "--prune", "--older-than", "0d", "--yes")
    assert results(runs / ".tamis") == set()
    tamis("verify", runs / "a")
    tamis("run", recipe, *both, "--output", runs / "again")
    for part in ("data/part-000000.parquet", "dead_letters/part-000000.parquet"):
        assert (runs / "a" / part).read_bytes() == (runs / "again" / part).read_bytes()


def test_a_store_without_place_for_notes_serves(recipe: Path, tamis: Tamis) -> None:
    store = recipe.parent / "runs" / ".tamis"
    store.mkdir(parents=True)
    (store / USES).write_text("in the way")
    tamis("run", recipe)
    assert "cannot be written" in (recipe.parent / "runs" / "a" / "log.jsonl").read_text()
    assert (store / USES).read_text() == "in the way"


def test_what_is_shown(recipe: Path, tamis: Tamis) -> None:
    tamis("run", recipe, "--set", "corpus.paths=[a.jsonl, b.jsonl]")
    store = recipe.parent / "runs" / ".tamis"
    (store / "mine.txt").touch()
    text = tamis("store", recipe)
    today = time.strftime("%Y-%m-%d")
    for name in ("dead", "document", "dsir", "dsir-statistic"):
        assert re.search(rf"^{name} +[0-9a-f]{{16}} +\d+ +\d+\.\d +{today} \d\d:\d\d *$", text, re.MULTILINE)
    assert "1 entry is not of the store" in text
    shown = json.loads(tamis("store", store, "--json"))
    assert shown["store"] == str(store) and "pruned" not in shown and shown["notes"] == 1
    assert sum(a["bytes"] for a in shown["addresses"]) == sum(path.stat().st_size for path in results(store))
    text = tamis("store", recipe, "--prune", "--older-than", "0d")
    assert "nothing is deleted without --yes" in text
    assert "deleted: " in tamis("store", recipe, "--prune", "--older-than", "0d", "--yes")


def test_mistakes_in_one_line(recipe: Path, tamis: Tamis) -> None:
    runs = recipe.parent / "runs"
    assert "there is no store" in tamis("store", recipe, code=2)
    tamis("run", recipe)
    assert "is not a score store" in tamis("store", runs, code=2)
    assert "go with --prune" in tamis("store", recipe, "--yes", code=2)
    assert "write 30d" in tamis("store", recipe, "--prune", "--older-than", "30", code=2)
    before = results(runs / ".tamis")
    manifest = runs / "a" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "store_shards": None}))
    prune = ["store", recipe, "--prune", "--yes", "--older-than", "0d", "--keep"]
    assert str(runs / "a") in tamis(*prune, runs, code=1)
    assert "no finished run" in tamis(*prune, recipe.parent / "nothing", code=2)
    assert results(runs / ".tamis") == before


def test_ages_and_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [age(text).total_seconds() for text in ("12h", "30d", "2w", "0d")] == [43_200, 30 * DAY, 14 * DAY, 0]
    for text in ("", "d", "-1d", "1.5d", "30 d", "30m", "1" * 9 + "d"):
        with pytest.raises(RecipeError):
            age(text)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store.yaml").mkdir()
    assert store_of("store.yaml") == str(tmp_path / "store.yaml")
    assert store_of("s3://bucket/store") == "s3://bucket/store"
