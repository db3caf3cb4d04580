"""Recipes: every mistake is one line that says where it is, and what is resolved says the same again."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.connectors.errors import RecipeError
from tamis.jobs.recipe import Recipe, make_job, read_recipe
from tamis.jobs.recipe_source import RecipeSource

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
        ({"corpus": {"format": "json"}}, r"corpus\.format: takes .*'jsonl'.* \(nearest: jsonl\)"),
        ({"corpus": {"format": "jsonl"}}, r"corpus: .* needs `paths`"),
        ({"scores": {"r": DSIR | {"bucket": 5}}}, r"scores\.r: unknown key `bucket` \(nearest: buckets\)"),
        ({"scores": {"r": {"scorer": "dsri"}}}, r"scores\.r: there is no scorer `dsri` \(nearest: dsir\)"),
        ({"scores": {"r": {"scorer": ["dsir"]}}}, r"scores\.r: there is no such scorer; one of .*dsir"),
        ({"scores": {"r": {"target": "wanted"}}}, r"scores\.r: a mapping with `scorer` is needed; one of .*dsir"),
        ({"scores": {"r": DSIR | {"ngrams": 0}}}, r"scores\.r\.ngrams: must be at least 1$"),
        ({"scores": {"r": {"scorer": "dsir"}}}, r"scores\.r: dsir needs `target` or `fitted`"),
        ({"scores": {"a b": DSIR}}, r"scores\.a b: `a b` is not a name"),
        ({"select": [STEP, STEP | {"metod": 1}]}, r"select\.1: unknown key `metod` \(nearest: method\)"),
        ({"select": [STEP | {"method": "topp"}]}, r"select\.0: there is no method `topp` \(nearest: top\)"),
        ({"select": [STEP | {"method": {"top": 1}}]}, r"select\.0: there is no such method; one of band, "),
        ({"select": ["top"]}, r"select\.0: a mapping with `method` is needed; one of band, bottom, "),
        ({"select": [{"method": "top", "keep": {"documents": 1}}]}, r"select\.0\.by: is missing; add it"),
        ({"select": [STEP | {"keep": {"part": 0.1}}]}, r"select\.0\.keep: unknown key `part` "),
        ({"select": [STEP, STEP]}, r"select: two steps are called `top_relevance`; give one of them another `name`"),
        ({"select": STEP}, r"select: .*list"),
        ({"weigh": {"method": "importnace"}}, r"weigh: there is no method `importnace` \(nearest: importance\)"),
        ({"weigh": {"method": "importance"}}, r"weigh\.by: is missing; add it"),
        ({"weigh": "uniform"}, r"weigh: a mapping with `method` is needed"),
        ({"output": {"column": []}}, r"output: unknown key `column` \(nearest: columns\)"),
        ({"output": {"path": "s3://bucket/run"}}, r"output\.path: s3://bucket/run is not a local path"),
        ({"errors": {"max_dead_fraction": -1}}, r"errors\.max_dead_fraction: must be at least 0$"),
        ({"errors": {"unreadable_shards": "ignore"}}, r"errors\.unreadable_shards: .*'skip'"),
        ({"select": [STEP | {"by": 5}]}, r"select\.0\.by: needs text"),
        ({"scores": {"r": {"scorer": "dsir", "target": 5}}}, r"scores\.r\.target: needs text or needs a list$"),
        ({"scores": {"r": {"scorer": "dsir", "target": ["a", 5]}}}, r"scores\.r\.target\.1: needs text; quote it"),
        ({"scores": {5: DSIR}}, r"scores\.5: a name must be text; quote it$"),
        ({"targets": {"wanted": "x"}}, r"targets\.wanted: needs a mapping of keys$"),
        ({"select": [STEP | {"name": "no score"}]}, r"select\.0\.name: `no score` is not a name; letters"),
        ({"errors": {"max_dead_fraction": float("nan")}}, r"errors\.max_dead_fraction: needs a finite number$"),
        ({"output": {"columns": [None]}}, r"output\.columns\.0: needs text"),
        ({"seed": "x"}, r"seed: needs a whole number$"),
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
        ("corpus: {format: jsonl\n  paths: [a]\n", "2: is not YAML: "),
        ("seed: 1\ncorpus: a: b", "2: is not YAML"),
        ("a: \x00", "1: is not YAML"),
        ("!!python/object/apply:os.getcwd []", "1: the tag "),
        ("seed: 1\nseed: 2", "2: the key `seed` comes twice; leave one out"),
        ("x" * (1 << 21), " has more than "),
        ("", " a recipe is a mapping"),
        ("- corpus", " a recipe is a mapping"),
    ],
    ids=lambda value: value[:20],
)
def test_files_that_are_no_recipes(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(RecipeError, match=rf"recipe\.yaml:{message}") as caught:
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


LINES = """\
seed: 1
corpus:
  format: jsonl
  paths: [a.jsonl]
targets:
  wanted: {format: jsonl, paths: [b.jsonl]}
scores:
  relevance:
    scorer: dsir
    target: wanted
select:
  - method: top
    by: relevance
    keep:
      fraction: 0.5
  - {method: sample,
     keep: {documents: 10}}
output:
  path: runs/today
"""


class TestPlaces:
    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("seed: 1", "seed: x", "recipe.yaml:1: seed: "),
            ("  paths: [a.jsonl]", "  path: [a.jsonl]", "recipe.yaml:4: corpus: unknown key `path` "),
            ("  paths: [a.jsonl]\n", "", "recipe.yaml:2: corpus: a corpus of format jsonl needs `paths`, "),
            ("[b.jsonl]", "[b.jsonl, {}]", "recipe.yaml:6: targets.wanted.paths.1: "),
            ("scorer: dsir", "scorer: dsri", "recipe.yaml:9: scores.relevance: there is no scorer `dsri` "),
            ("    target: wanted\n", "", "recipe.yaml:8: scores.relevance: dsir needs "),
            ("    by: relevance\n", "", "recipe.yaml:12: select.0.by: is missing; add it"),
            ("fraction: 0.5", "fraction: 5", "recipe.yaml:14: select.0.keep: "),
            ("fraction: 0.5", "fractoin: 5", "recipe.yaml:15: select.0.keep: unknown key `fractoin` "),
            ("documents: 10", "documents: ten", "recipe.yaml:17: select.1.keep.documents: "),
            ("method: sample,", "method: top, by: relevance,", "recipe.yaml:16: select: two steps are called "),
            ("seed", "sede", "recipe.yaml:1: unknown key `sede` (nearest: seed)"),
            ("corpus:", "corpora:", "recipe.yaml:2: unknown key `corpora` "),
            ("runs/today", "s3://bucket/run", "recipe.yaml:19: output.path: s3://bucket/run is not a local path; "),
        ],
    )
    def test_of_a_mistake_is_its_line(self, tmp_path: Path, old: str, new: str, message: str) -> None:
        with pytest.raises(RecipeError) as caught:
            read(tmp_path, LINES.replace(old, new, 1))
        assert str(caught.value).startswith(f"{tmp_path}/{message}")

    @pytest.mark.parametrize(
        ("assignments", "output", "message"),
        [
            (["seed=x"], None, "--set seed=x: seed: needs a whole number"),
            (["select.-1.keep.documents=x"], None, "--set select.-1.keep.documents=x: select.1.keep.documents: "),
            (["select.1={method: sample}"], None, "--set select.1={method: sample}: select.1.keep: is missing"),
            (["weigh.method=importance"], None, "--set weigh.method=importance: weigh.by: is missing"),
            (["corpus={}", "corpus.format=x"], None, "--set corpus.format=x: corpus.format: takes "),
            (["select.0.keep.tokens=5"], None, "{}:14 with --set select.0.keep.tokens=5: select.0.keep: "),
            (["select.0.keep={fraction: 5}"], None, "--set select.0.keep={fraction: 5}: select.0.keep: "),
            (["output.path=runs/x", "seed=x"], None, "--set seed=x: seed: "),
            ([], "gs://bucket/run", "--output gs://bucket/run: output.path: gs://bucket/run is not a local path; "),
        ],
    )
    def test_of_a_mistake_is_the_option_that_made_it(
        self, tmp_path: Path, assignments: list[str], output: str | None, message: str
    ) -> None:
        with pytest.raises(RecipeError) as caught:
            read(tmp_path, LINES, *assignments, output=output)
        assert str(caught.value).startswith(message.replace("{}:", f"{tmp_path}/recipe.yaml:"))

    def test_are_put_before_what_is_found_later(self, tmp_path: Path) -> None:
        (tmp_path / "recipe.yaml").write_text(LINES)
        source = RecipeSource(tmp_path / "recipe.yaml", ["corpus.id=x"])

        def told(error: RecipeError) -> str:
            with pytest.raises(RecipeError) as caught, source.located():
                raise error
            return str(caught.value)

        path = f"{tmp_path}/recipe.yaml"
        assert told(RecipeError("select.1: nothing")) == f"{path}:16: select.1: nothing"
        assert told(RecipeError("corpus.text: no column")) == f"{path}:2: corpus.text: no column"
        assert told(RecipeError("corpus.id: no column")) == "--set corpus.id=x: corpus.id: no column"
        assert told(RecipeError("select.0: no score", place="select.0.by")) == f"{path}:13: select.0: no score"
        for elsewhere in ("Beam has no option --x", "/data/x.jsonl: gone: really", "corpusx: no key"):
            assert told(RecipeError(elsewhere)) == elsewhere


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, part in pairs for found in paths_of(part, (*path, key)))]


WORDS = st.sampled_from(["top", "dsir", "group", "sample", "keep", "method", "", "a b", "é\n\x1b", "x" * 5000, "1e9"])
NUMBERS = st.sampled_from([0, -1, 1, 2**63, 2**64, 10**390, 0.5, -0.0, 1e308, float("inf"), float("nan")])
ODD = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS | st.dates() | st.binary(max_size=3) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.integers(), inner, max_size=3),
    max_leaves=5,
)
MUTABLE = RECIPE | {
    "weigh": {"method": "importance", "by": "relevance"},
    "output": {"path": "out", "columns": ["relevance"]},
    "errors": {"max_dead_fraction": 0.1, "unreadable_shards": "skip"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one folder for all examples, as Hypothesis wants it."""
    return tmp_path_factory.mktemp("recipes")


class TestNeverATraceback:
    """Whatever the file holds, reading it ends with a job or with one line."""

    def read(self, folder: Path, content: bytes, *assignments: str) -> bool:
        path = folder / "recipe.yaml"
        path.write_bytes(content)
        try:
            job = make_job(read_recipe(path, assignments))
        except RecipeError as error:
            line = str(error)
            assert line.isprintable()
            assert line.startswith((f"{path}:", "--set"))
            assert len(line) < 2000
            return False
        again = folder / "again.yaml"
        again.write_text(yaml.safe_dump(job.recipe))
        assert make_job(read_recipe(again)).fingerprint == job.fingerprint
        return True

    @settings(max_examples=250, deadline=None)
    @given(st.data())
    def test_for_a_recipe_with_something_else_in_it(self, folder: Path, data: st.DataObject) -> None:
        recipe = copy.deepcopy(MUTABLE)
        for _ in range(data.draw(st.integers(1, 2))):
            *parents, last = data.draw(st.sampled_from([path for path in paths_of(recipe) if path]))
            node: Any = recipe
            for part in parents:
                node = node[part]
            what = data.draw(st.sampled_from(["replace", "remove", "rename"]))
            value = node[last] if what == "rename" else data.draw(ODD) if what == "replace" else None
            if what == "replace":
                node[last] = value
                continue
            del node[last]
            if what == "rename" and isinstance(node, dict):
                node[data.draw(WORDS | st.integers())] = value
        self.read(folder, yaml.safe_dump(recipe, allow_unicode=data.draw(st.booleans())).encode())

    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), st.integers(0, 400))
    def test_for_any_bytes_in_a_recipe(self, folder: Path, noise: bytes, where: int) -> None:
        text = yaml.safe_dump(MUTABLE).encode()
        self.read(folder, text[:where] + noise + text[where:])
        self.read(folder, noise)

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from([".".join(map(str, path)) for path in paths_of(MUTABLE) if path]), st.text(max_size=20))
    def test_for_any_assignment(self, folder: Path, place: str, text: str) -> None:
        self.read(folder, yaml.safe_dump(MUTABLE).encode(), f"{place}={text}")
        self.read(folder, yaml.safe_dump(MUTABLE).encode(), text, f"{text}={place}")

    def test_and_the_recipe_that_they_change_is_valid(self, folder: Path) -> None:
        assert self.read(folder, yaml.safe_dump(MUTABLE).encode())


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
            "split": "file",
            "shard_bytes": 32 << 20,
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
    block, cover, weigh, step = re.findall(r"```yaml\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    (tmp_path / "readme.yaml").write_text(block)
    changed = yaml.safe_load(weigh) | {"select": yaml.safe_load(step)}
    (tmp_path / "step.yaml").write_text(yaml.safe_dump(yaml.safe_load(block) | changed))
    assert make_job(read_recipe(tmp_path / "step.yaml")).steps[0].name == "top_relevance"
    covering = yaml.safe_load(block) | yaml.safe_load(cover) | {"output": {"path": "runs/today"}}
    (tmp_path / "cover.yaml").write_text(yaml.safe_dump(covering))
    for path in [tmp_path / "readme.yaml", tmp_path / "cover.yaml", *(root / "jobs" / "recipes").glob("*.yaml")]:
        assert make_job(read_recipe(path)).scorers
