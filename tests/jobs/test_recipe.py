"""Recipes: every mistake is one line that says where it is, and what is resolved says the same again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tamis.connectors.errors import RecipeError
from tamis.jobs.recipe import Recipe, make_job, read_recipe

DSIR = {"scorer": "dsir", "target": "wanted"}
STEP = {"method": "top", "by": "relevance", "keep": {"fraction": 0.1}}
RECIPE: dict[str, Any] = {
    "corpus": {"format": "jsonl", "paths": ["data/*.jsonl"], "id": "id"},
    "targets": {"wanted": {"format": "parquet", "paths": ["../target.parquet"]}},
    "scores": {"relevance": DSIR},
    "select": [{"method": "threshold", "by": "relevance", "min": 0}, STEP],
}


def read(folder: Path, recipe: Any, *assignments: str, output: str | None = None) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(recipe if isinstance(recipe, str) else yaml.safe_dump(recipe))
    return read_recipe(path, assignments, output)


def fingerprint(folder: Path, recipe: Any, *assignments: str, limit: int | None = None) -> str:
    return make_job(read(folder, recipe, *assignments), limit).fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corups": {}}, r"unknown key `corups` \(nearest: corpus\)"),
        ({"corpus": {"format": "jsonl", "path": ["a"]}}, r"corpus: unknown key `path` \(nearest: paths\)"),
        ({"targets": {"x": {"format": "jsonl", "txt": "a"}}}, r"targets\.x: unknown key `txt` \(nearest: text\)"),
        ({"corpus": {"format": "json"}}, r"corpus\.format: .*'jsonl'"),
        ({"corpus": {"format": "jsonl"}}, r"corpus: .* needs `paths`"),
        ({"scores": {"r": DSIR | {"bucket": 5}}}, r"scores: r: unknown key `bucket` \(nearest: buckets\)"),
        ({"scores": {"r": {"scorer": "dsri"}}}, r"scores: r: there is no scorer `dsri` \(nearest: dsir\)"),
        ({"scores": {"r": {"scorer": ["dsir"]}}}, r"scores: r: there is no scorer"),
        ({"scores": {"r": {"target": "wanted"}}}, r"scores: r: a mapping with `scorer` is needed; one of dsir"),
        ({"scores": {"r": DSIR | {"ngrams": 0}}}, r"scores: r: ngrams: .*greater than or equal to 1"),
        ({"scores": {"r": {"scorer": "dsir"}}}, r"scores: r: dsir needs `target` or `fitted`"),
        ({"scores": {"a b": DSIR}}, r"scores: `a b` is not a name"),
        ({"select": [STEP, STEP | {"metod": 1}]}, r"select\.1: unknown key `metod` \(nearest: method\)"),
        ({"select": [STEP | {"method": "topp"}]}, r"select\.0: there is no method `topp` \(nearest: top\)"),
        ({"select": [STEP | {"method": {"top": 1}}]}, r"select\.0: there is no method"),
        ({"select": ["top"]}, r"select\.0: a mapping with `method` is needed; one of band, bottom, "),
        ({"select": [{"method": "top", "keep": {"documents": 1}}]}, r"select\.0: by: is missing"),
        ({"select": [STEP | {"keep": {"part": 0.1}}]}, r"select\.0: keep: unknown key `part` "),
        ({"select": [STEP, STEP]}, r"select: two steps are called `top_relevance`; give one of them another `name`"),
        ({"select": STEP}, r"select: .*list"),
        ({"weigh": {"method": "importnace"}}, r"weigh: there is no method `importnace` \(nearest: importance\)"),
        ({"weigh": {"method": "importance"}}, r"weigh: by: is missing"),
        ({"weigh": "uniform"}, r"weigh: a mapping with `method` is needed"),
        ({"output": {"column": []}}, r"output: unknown key `column` \(nearest: columns\)"),
        ({"output": {"path": "s3://bucket/run"}}, r"output\.path: s3://bucket/run is not a local path"),
        ({"errors": {"max_dead_fraction": -1}}, r"errors\.max_dead_fraction: .*greater than or equal to 0"),
        ({"errors": {"unreadable_shards": "ignore"}}, r"errors\.unreadable_shards: .*'skip'"),
        ({"seed": "x"}, r"seed: .*integer"),
    ],
    ids=str,
)
def test_mistakes_are_named_with_their_place(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        read(tmp_path, RECIPE | change)
    assert "\n" not in str(caught.value)


def test_several_mistakes_are_counted(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"\(and 1 more\)"):
        read(tmp_path, RECIPE | {"seed": "x", "store": 5})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("corpus: {format: jsonl\n  paths: [a]\n", "is not YAML"),
        ("corpus: a: b", "is not YAML"),
        ("seed: 2020-13-45", "is not YAML"),
        ("a: \x00", "is not YAML"),
        ("!!python/object/apply:os.getcwd []", "is not YAML"),
        ("", "a recipe is a mapping"),
        ("- corpus", "a recipe is a mapping"),
    ],
)
def test_files_that_are_no_recipes(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(RecipeError, match=rf"recipe\.yaml: {message}") as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("corpus: ä".encode("latin-1"))
    for name, message in (("none.yaml", "No such file"), (".", "directory"), ("latin.yaml", "is not UTF-8 text")):
        with pytest.raises(RecipeError, match=message):
            read_recipe(tmp_path / name)


class TestSet:
    def test_changes_nested_listed_and_new_keys(self, tmp_path: Path) -> None:
        assignments = [
            "seed=7",
            "select.0.min=-1.5",
            "select.-1.keep={tokens: 100}",
            "corpus.paths.0=other/*.jsonl",
            "errors.max_dead_fraction=0.5",
            "targets.new.format=jsonl",
            "targets.new.paths=[a=b.jsonl]",
            "corpus.id=null",
        ]
        recipe = read(tmp_path, RECIPE, *assignments)
        assert recipe.seed == 7
        assert recipe.select[0].min == -1.5
        assert recipe.select[1].keep.tokens == 100
        assert recipe.corpus.paths == [f"{tmp_path}/other/*.jsonl"]
        assert recipe.errors.max_dead_fraction == 0.5
        assert recipe.targets["new"].paths == [f"{tmp_path}/a=b.jsonl"]
        assert recipe.corpus.id is None

    @pytest.mark.parametrize(
        ("assignment", "message"),
        [
            ("seed", "--set seed: write KEY=VALUE"),
            ("=1", "--set =1: write KEY=VALUE"),
            ("select.2.min=1", "no place `select.2.min`"),
            ("select.last.min=1", "no place `select.last.min`"),
            ("corpus.format.x=1", "no place `corpus.format.x`"),
            ("select.5=1", "no place `select.5`"),
            ("seed=[1", r"--set seed=\[1: `\[1` is not YAML"),
            ("seeed=1", r"unknown key `seeed` \(nearest: seed\)"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, assignment: str, message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            read(tmp_path, RECIPE, assignment)


class TestResolved:
    def test_paths_are_relative_to_the_recipe(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "recipes"
        folder.mkdir()
        monkeypatch.chdir(tmp_path)
        scores = {"relevance": {"scorer": "dsir", "fitted": "../old/fitted.npz"}}
        recipe = read(folder, RECIPE | {"output": {"path": "../out/run"}, "scores": scores})
        assert recipe.corpus.paths == [f"{folder}/data/*.jsonl"]
        assert recipe.targets["wanted"].paths == [f"{tmp_path}/target.parquet"]
        assert recipe.scores["relevance"].fitted == f"{tmp_path}/old/fitted.npz"
        assert recipe.output.path == f"{tmp_path}/out/run"
        assert recipe.store == f"{tmp_path}/out/.tamis"
        assert read(folder, RECIPE | {"store": "s"}).store == f"{folder}/s"
        assert read(folder, RECIPE | {"store": "s3://bucket/s"}).store == "s3://bucket/s"
        # what stands on the command line is relative to the working directory
        assert read(folder, RECIPE, output="here").output.path == f"{tmp_path}/here"
        assert read(folder, RECIPE, output="here").store == f"{tmp_path}/.tamis"
        assert read(folder, RECIPE).output.path == f"{folder}/runs/latest"

    def test_defaults_are_spelled_out(self, tmp_path: Path) -> None:
        minimal = {"corpus": {"format": "python-docs"}, "select": [{"method": "sample", "keep": {"documents": 5}}]}
        content = make_job(read(tmp_path, minimal)).recipe
        assert content["seed"] == 0
        assert content["corpus"] == {
            "format": "python-docs",
            "paths": ["standard-library", "packages"],
            "text": "text",
            "id": "id",
            "group": "group",
        }
        assert content["select"] == [{"method": "sample", "name": "sample", "keep": {"documents": 5}}]
        assert content["weigh"] == {"method": "uniform"}
        assert content["errors"] == {"max_dead_fraction": 0.001, "unreadable_shards": "fail"}
        scores = make_job(read(tmp_path, RECIPE)).recipe["scores"]
        assert scores["relevance"]["buckets"] == 10_000
        assert scores["relevance"]["min_tokens"] == 100

    def test_is_a_recipe_that_says_the_same(self, tmp_path: Path) -> None:
        scores = {"relevance": DSIR, "pinned": {"scorer": "dsir", "fitted": "f.npz"}}
        weigh = {"method": "importance", "by": "relevance"}
        job = make_job(read(tmp_path, RECIPE | {"scores": scores, "weigh": weigh, "output": {"columns": ["pinned"]}}))
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        again = make_job(read(elsewhere, job.recipe))
        assert again.fingerprint == job.fingerprint
        assert again.recipe == job.recipe
        assert (again.output, again.store) == (job.output, job.store)


class TestFingerprint:
    def test_leaves_out_where_results_go(self, tmp_path: Path) -> None:
        plain = fingerprint(tmp_path, RECIPE)
        assert fingerprint(tmp_path, RECIPE | {"store": "other"}) == plain
        assert fingerprint(tmp_path, RECIPE | {"output": {"path": "other"}}) == plain
        assert make_job(read(tmp_path, RECIPE, output="x")).fingerprint == plain
        assert fingerprint(tmp_path, dict(reversed(RECIPE.items()))) == plain
        assert fingerprint(tmp_path, RECIPE | {"seed": 0, "weigh": {"method": "uniform"}}) == plain

    def test_follows_all_else(self, tmp_path: Path) -> None:
        others = [
            fingerprint(tmp_path, RECIPE),
            fingerprint(tmp_path, RECIPE, limit=5),
            fingerprint(tmp_path, RECIPE, limit=6),
            fingerprint(tmp_path, RECIPE, "seed=1"),
            fingerprint(tmp_path, RECIPE, "select.0.min=0.5"),
            fingerprint(tmp_path, RECIPE, "select.0.name=other"),
            fingerprint(tmp_path, RECIPE, "scores.relevance.buckets=9999"),
            fingerprint(tmp_path, RECIPE, "corpus.group=g"),
            fingerprint(tmp_path, RECIPE, "targets.wanted.paths=[b.parquet]"),
            fingerprint(tmp_path, RECIPE, "output.columns=[relevance]"),
            fingerprint(tmp_path, RECIPE, "errors.unreadable_shards=skip"),
            fingerprint(tmp_path, RECIPE | {"select": RECIPE["select"][::-1]}),
        ]
        assert len(set(others)) == len(others)
        assert fingerprint(tmp_path, RECIPE, "seed=1") == fingerprint(tmp_path, RECIPE | {"seed": 1})


def test_the_recipes_of_readme_and_package_are_valid(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    (block,) = re.findall(r"```yaml\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    (tmp_path / "readme.yaml").write_text(block)
    for path in [tmp_path / "readme.yaml", *(root / "jobs" / "recipes").glob("*.yaml")]:
        assert make_job(read_recipe(path)).scorers
