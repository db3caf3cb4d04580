"""Whole runs on real text: what is kept does not depend on formats, files, workers or retries, and adds up."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from finished_run import Finished, RunRecipe, write_jsonl, write_parquet
from tamis.connectors.errors import RecipeError, TamisError
from tamis.connectors.opening import open_corpus

RESAMPLE = {"method": "resample", "by": "relevance", "keep": {"fraction": 0.3}, "name": "relevant"}


@pytest.fixture
def target(tmp_path: Path, target_documents: pa.Table) -> dict[str, Any]:
    path = tmp_path / "target.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in target_documents.to_pylist()))
    return {"format": "jsonl", "paths": [str(path)]}


@pytest.fixture
def recipe(tmp_path: Path, documents: pa.Table, target: dict[str, Any]) -> dict[str, Any]:
    paths = write_parquet(documents, tmp_path / "corpus", files=3)
    return {
        "corpus": {"format": "parquet", "paths": [paths], "id": "id", "group": "group"},
        "targets": {"docstrings": target},
        "scores": {"relevance": {"scorer": "dsir", "target": "docstrings"}},
        "select": [RESAMPLE],
        "output": {"columns": ["relevance"]},
    }


def by_key(table: pa.Table, columns: list[str]) -> list[dict[str, Any]]:
    return table.select(["key", *columns]).sort_by("key").to_pylist()


class TestSameResult:
    def test_whatever_the_format_and_the_files(
        self, recipe: dict[str, Any], run_recipe: RunRecipe, documents: pa.Table, tmp_path: Path
    ) -> None:
        expected = by_key(run_recipe(recipe).data, ["text", "weight", "relevance"])
        assert len(expected) > 50
        content = write_jsonl(documents, tmp_path / "a.jsonl")
        (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
        (tmp_path / "a.jsonl.zst").write_bytes(pa.compress(content, codec="zstd", asbytes=True))
        for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst"):
            other = recipe | {"corpus": recipe["corpus"] | {"format": "jsonl", "paths": [str(tmp_path / name)]}}
            assert by_key(run_recipe(other, name).data, ["text", "weight", "relevance"]) == expected
        thirty = write_parquet(documents, tmp_path / "thirty", files=30)
        other = recipe | {"corpus": recipe["corpus"] | {"paths": [thirty]}}
        assert by_key(run_recipe(other, "thirty").data, ["text", "weight", "relevance"]) == expected

    def test_to_the_byte_for_workers_and_repeated_bundles(
        self, recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path
    ) -> None:
        importance = {"method": "importance", "by": "relevance", "temperature": 50}
        recipe = recipe | {"weigh": importance, "store": str(tmp_path / "s1")}
        expected = run_recipe(recipe, workers=1).data_bytes
        assert expected
        two = run_recipe(recipe | {"store": str(tmp_path / "s2")}, "two", workers=2)
        assert two.data_bytes == expected
        repeated = run_recipe(
            recipe | {"store": str(tmp_path / "s3")}, "again", beam_options=["--direct_runner_bundle_repeat=1"]
        )
        assert repeated.data_bytes == expected
        assert repeated.manifest["totals"] == two.manifest["totals"]
        assert repeated.manifest["similarity"] == two.manifest["similarity"]

    def test_with_large_shards_cut_by_bytes(
        self, recipe: dict[str, Any], run_recipe: RunRecipe, documents: pa.Table, tmp_path: Path, monkeypatch: Any
    ) -> None:
        expected = by_key(run_recipe(recipe).decisions, ["kept", "reason", "relevance"])
        write_jsonl(documents, tmp_path / "a.jsonl")
        monkeypatch.setitem(open_corpus.__kwdefaults__, "shard_bytes", 20_000)
        other = recipe | {"corpus": recipe["corpus"] | {"format": "jsonl", "paths": [str(tmp_path / "a.jsonl")]}}
        finished = run_recipe(other, "small")
        assert len(list((finished.outcome.path / "decisions").iterdir())) > 10
        assert by_key(finished.decisions, ["kept", "reason", "relevance"]) == expected
        assert finished.decisions["row"].to_pylist() == list(range(documents.num_rows))

    def test_a_larger_budget_contains_a_smaller_one(self, recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
        steps = [RESAMPLE | {"keep": {"fraction": share}} for share in (0.1, 0.3)]
        small, large = (
            set(run_recipe(recipe | {"select": [step]}, f"run-{i}").data["key"].to_pylist())
            for i, step in enumerate(steps)
        )
        assert small < large


class TestSteps:
    def run_step(self, recipe: dict[str, Any], run_recipe: RunRecipe, *steps: dict[str, Any]) -> dict[str, Any]:
        table = run_recipe(recipe | {"select": list(steps)}).decisions
        columns = {name: table[name].to_numpy() for name in ("relevance", "kept", "key", "tokens")}
        return columns | {"reason": table["reason"].to_pylist(), "group": table["group"].to_pylist()}

    def test_top_bottom_and_null(self, recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
        seen = self.run_step(
            recipe,
            run_recipe,
            {"method": "top", "by": "relevance", "keep": {"documents": 100}},
            {"method": "bottom", "by": "relevance", "keep": {"documents": 10}},
        )
        order = np.argsort(-seen["relevance"])  # NaN last
        reasons = np.array(seen["reason"], dtype=object)
        assert np.isnan(seen["relevance"]).sum() > 10
        assert set(reasons[np.isnan(seen["relevance"])]) == {"no_score"}
        assert set(reasons[order[:90]]) == {"bottom_relevance"}
        assert seen["kept"][order[90:100]].all()
        assert seen["kept"].sum() == 10

    def test_band_lies_around_the_median(self, recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
        seen = self.run_step(recipe, run_recipe, {"method": "band", "by": "relevance", "keep": {"documents": 21}})
        scores = np.sort(seen["relevance"][~np.isnan(seen["relevance"])])
        start = int(np.floor(len(scores) / 2 - 21 / 2 + 0.5))
        np.testing.assert_array_equal(np.sort(seen["relevance"][seen["kept"]]), scores[start : start + 21])

    def test_threshold_bounds_are_included(self, recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
        scores = np.sort(run_recipe(recipe | {"select": []}, "all").decisions["relevance"].drop_null().to_numpy())
        bounds = {"min": float(scores[50]), "max": float(scores[200])}
        seen = self.run_step(recipe, run_recipe, {"method": "threshold", "by": "relevance"} | bounds)
        np.testing.assert_array_equal(np.sort(seen["relevance"][seen["kept"]]), scores[50:201])

    def test_tokens_within_groups(self, recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
        step = {"method": "top", "by": "relevance", "keep": {"tokens": 3000}, "within": "group"}
        seen = self.run_step(recipe, run_recipe, step)
        groups = np.array(seen["group"], dtype=object)
        for group in set(groups):
            inside = (groups == group) & ~np.isnan(seen["relevance"])
            order = np.argsort(-seen["relevance"][inside])
            tokens = seen["tokens"][inside][order]
            expected = np.cumsum(tokens) <= 3000
            np.testing.assert_array_equal(seen["kept"][inside][order], expected)
            assert not expected.all()

    def test_sample_needs_no_score_and_differs_by_seed(self, recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
        recipe = {"corpus": recipe["corpus"], "select": [{"method": "sample", "keep": {"fraction": 0.5}}]}
        one = run_recipe(recipe, "one")
        two = run_recipe(recipe | {"seed": 1}, "two")
        assert one.data.num_rows == two.data.num_rows == one.decisions.num_rows // 2
        shared = set(one.data["key"].to_pylist()) & set(two.data["key"].to_pylist())
        assert 0.3 < len(shared) / one.data.num_rows < 0.7

    def test_separate_targets_take_turns(
        self, recipe: dict[str, Any], run_recipe: RunRecipe, documents: pa.Table, tmp_path: Path
    ) -> None:
        write_jsonl(documents.slice(0, 40), tmp_path / "other.jsonl")
        targets = recipe["targets"] | {"other": {"format": "jsonl", "paths": [str(tmp_path / "other.jsonl")]}}
        by = ["relevance_docstrings", "relevance_other"]
        step = {"method": "resample", "by": by, "proportions": [3, 1], "keep": {"documents": 100}, "name": "both"}
        # almost no temperature: the draw is the plain order, so the oracle needs no noise
        step["temperature"] = 1e-6
        scores = {"relevance": {"scorer": "dsir", "target": ["docstrings", "other"]}}
        table = run_recipe(recipe | {"targets": targets, "scores": scores, "select": [step]}).decisions
        first, second = (table[name].to_numpy() for name in by)
        taken = list(np.argsort(-first)[:75])
        rest = [i for i in np.argsort(-second) if i not in taken]
        assert set(np.flatnonzero(table["kept"].to_numpy())) == {*taken, *rest[:25]}

    def test_effective_sample_size_finds_the_temperature(self, recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
        step = {**RESAMPLE, "effective_sample_size": 0.4}
        finished = run_recipe(recipe | {"select": [step]})
        report = finished.manifest["steps"][0]
        scores = finished.decisions["relevance"].drop_null().to_numpy()
        weights = np.exp((scores - scores.max()) / report["temperature"])
        assert weights.sum() ** 2 / (weights**2).sum() == pytest.approx(0.4 * report["candidates"], rel=0.01)

    def test_a_budget_above_the_corpus_keeps_all_and_says_so(
        self, recipe: dict[str, Any], run_recipe: RunRecipe, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recipe = {"corpus": recipe["corpus"], "select": [{"method": "sample", "keep": {"documents": 10**6}}]}
        finished = run_recipe(recipe)
        assert finished.data.num_rows == finished.decisions.num_rows
        assert "fewer than 1000000 documents are left" in capsys.readouterr().err

    def test_a_budget_of_nothing_writes_no_data_file(self, recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
        finished = run_recipe(recipe | {"select": [RESAMPLE | {"keep": {"documents": 0}}]})
        assert not (finished.outcome.path / "data").exists()
        assert finished.manifest["totals"]["kept"] == {"documents": 0, "tokens": 0}
        assert finished.decisions.num_rows > 500


class TestWeights:
    def test_importance_is_the_normalised_exponential(self, recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
        select = [{"method": "sample", "keep": {"fraction": 0.5}}]
        weigh = {"method": "importance", "by": "relevance", "temperature": 100}
        finished = run_recipe(recipe | {"select": select, "weigh": weigh})
        data = finished.data
        scored = data.filter(pa.compute.is_valid(data["relevance"]))
        expected = np.exp(scored["relevance"].to_numpy() / 100)
        expected /= expected.mean()
        np.testing.assert_allclose(scored["weight"].to_numpy(), expected, rtol=1e-6)
        unscored = data.filter(pa.compute.is_null(data["relevance"]))
        assert set(unscored["weight"].to_pylist()) == {1.0}
        ordered = np.sort(data["weight"].to_numpy().astype(np.float64))[::-1]
        summary = finished.manifest["weights"]
        assert summary["effective_sample_size"] == pytest.approx(ordered.sum() ** 2 / (ordered**2).sum())
        assert summary["max_over_mean"] == pytest.approx(ordered[0])
        heaviest = -(-len(ordered) // 100)
        assert summary["top_1_percent_share"] == pytest.approx(ordered[:heaviest].sum() / ordered.sum())
        dropped = finished.decisions.filter(pa.compute.invert(finished.decisions["kept"]))
        assert set(dropped["weight"].to_pylist()) == {0.0}

    def test_warnings_of_published_dsir(
        self, recipe: dict[str, Any], run_recipe: RunRecipe, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run_recipe(recipe | {"weigh": {"method": "importance", "by": "relevance"}})
        told = capsys.readouterr().err
        assert "`relevance` mostly follows length: rank correlation -0" in told
        assert "are simply the highest scores" in told
        assert "its importance is counted twice" in told
        assert "weights (critical): 140 weighted documents say as much as" in told


class TestStore:
    def test_a_changed_step_scores_nothing_and_a_changed_group_only_documents(
        self, recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path
    ) -> None:
        def stored() -> dict[str, int]:
            files = (tmp_path / "runs" / ".tamis").glob("*-*/*")
            return {str(path.relative_to(tmp_path)): path.stat().st_mtime_ns for path in files}

        run_recipe(recipe)
        first = stored()
        run_recipe(recipe | {"select": [RESAMPLE | {"keep": {"documents": 7}}], "seed": 3}, "other")
        assert stored() == first
        run_recipe(recipe | {"corpus": recipe["corpus"] | {"group": "id"}}, "regrouped")
        added = {name.split("/")[2].split("-")[0] for name in stored().keys() - first.keys()}
        assert added == {"document"}
        assert {name: when for name, when in stored().items() if name in first} == first  # no score is written again

    def test_a_pinned_state_gives_the_same_scores_on_a_grown_corpus(
        self, recipe: dict[str, Any], run_recipe: RunRecipe, documents: pa.Table, tmp_path: Path
    ) -> None:
        first = run_recipe(recipe)
        state = first.outcome.path / "fitted" / "relevance.npz"
        scores = {"relevance": {"scorer": "dsir", "fitted": str(state)}}
        grown = tmp_path / "corpus" / "zzz.parquet"
        pq.write_table(documents.slice(0, 50).set_column(0, "id", pa.array([f"new-{i}" for i in range(50)])), grown)
        second = run_recipe(recipe | {"scores": scores, "targets": {}}, "pinned")
        assert second.decisions.num_rows == first.decisions.num_rows + 50
        old = {row["key"]: row["relevance"] for row in first.decisions.to_pylist()}
        new = {row["key"]: row["relevance"] for row in second.decisions.to_pylist()}
        assert {key: new[key] for key in old} == old

    def test_a_state_of_other_ngrams_is_refused(self, recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
        state = run_recipe(recipe).outcome.path / "fitted" / "relevance.npz"
        scores = {"relevance": {"scorer": "dsir", "fitted": str(state), "ngrams": 3}}
        with pytest.raises(RecipeError, match="state in `fitted` was made with"):
            run_recipe(recipe | {"scores": scores}, "other")

    def test_targets_in_another_order_are_another_score(
        self, recipe: dict[str, Any], run_recipe: RunRecipe, documents: pa.Table, tmp_path: Path
    ) -> None:
        write_jsonl(documents.slice(0, 40), tmp_path / "other.jsonl")
        targets = recipe["targets"] | {"other": {"format": "jsonl", "paths": [str(tmp_path / "other.jsonl")]}}
        runs = []
        for i, names in enumerate((["docstrings", "other"], ["other", "docstrings"])):
            scores = {"relevance": {"scorer": "dsir", "target": names, "proportions": [0.9, 0.1]}}
            runs.append(run_recipe(recipe | {"targets": targets, "scores": scores}, f"run-{i}").decisions)
        assert runs[0]["relevance_other"].to_pylist() == runs[1]["relevance_other"].to_pylist()
        assert runs[0]["relevance"].to_pylist() != runs[1]["relevance"].to_pylist()

    def test_what_broke_off_is_read_again(self, recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path) -> None:
        bad = tmp_path / "corpus" / "001.parquet"
        content, status = bad.read_bytes(), bad.stat()
        bad.write_bytes(content[:100] + b"\xff" * 3900 + content[4000:])
        skip = {"errors": {"unreadable_shards": "skip"}}
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(bad, ns=times)  # as after a passing fault of the disk: nothing tells that the file is another
        assert run_recipe(recipe | skip).manifest["unreadable"]
        bad.write_bytes(content)
        os.utime(bad, ns=times)
        healed = run_recipe(recipe | {"seed": 1}, "healed")
        assert healed.manifest["totals"]["dead"]["documents"] == 0
        assert healed.decisions.num_rows == run_recipe(recipe | skip | {"seed": 2}, "other").decisions.num_rows

    def test_nothing_new(self, recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
        path = run_recipe(recipe).outcome.path
        before = (path / "manifest.json").stat().st_mtime_ns
        assert run_recipe(recipe).outcome.manifest is None
        assert (path / "manifest.json").stat().st_mtime_ns == before
        with pytest.raises(RecipeError, match="run of another recipe"):
            run_recipe(recipe | {"seed": 5})
        assert run_recipe(recipe | {"seed": 5}, overwrite=True).manifest["seed"] == 5


class TestColumns:
    def test_own_output_can_be_read_again(self, recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path) -> None:
        first = run_recipe(recipe)
        corpus = {"format": "parquet", "paths": [str(first.outcome.path / "data" / "*.parquet")], "id": "id"}
        second = run_recipe({"corpus": corpus}, "again").data
        assert second["source_key"].to_pylist() == first.data["key"].to_pylist()
        assert second["key"].to_pylist() == first.data["key"].to_pylist()  # the same id
        assert second.column_names[-2:] == ["key", "weight"]

    def test_a_chain_of_runs_keeps_every_column(self, recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
        finished = run_recipe({"corpus": recipe["corpus"]})
        for i in range(3):
            corpus = {"format": "parquet", "paths": [str(finished.outcome.path / "data" / "*.parquet")], "id": "id"}
            finished = run_recipe({"corpus": corpus}, f"again-{i}")
        names = finished.data.column_names
        assert len(set(names)) == len(names) == 3 + 2 * 4

    def test_a_group_of_any_plain_type_is_text(self, run_recipe: RunRecipe, tmp_path: Path) -> None:
        columns = {
            "bytes": pa.array([b"a", b"\xff", None]),
            "flag": pa.array([True, False, None]),
            "day": pa.array([0, 1, None], pa.date32()),
            "kind": pa.array(["x", "y", None]).dictionary_encode(),
        }
        pq.write_table(pa.table({"text": ["one", "two", "three"], **columns}), tmp_path / "a.parquet")
        expected = {"bytes": ["a", None], "flag": ["true", "false"], "day": ["1970-01-01", "1970-01-02"]}
        for name in columns:
            corpus = {"format": "parquet", "paths": [str(tmp_path / "a.parquet")], "group": name}
            groups = run_recipe({"corpus": corpus}, name).decisions["group"].to_pylist()
            assert groups == [*expected.get(name, ["x", "y"]), None]

    def test_schemas_unify_or_the_plan_fails(self, run_recipe: RunRecipe, documents: pa.Table, tmp_path: Path) -> None:
        def write(name: str, column: str, values: pa.Array) -> None:
            pq.write_table(documents.slice(0, 5).append_column(column, values), tmp_path / name)

        write("a.parquet", "n", pa.array(range(5), pa.int32()))
        write("b.parquet", "n", pa.array(range(5), pa.int64()))
        write("c.parquet", "m", pa.array(range(5), pa.int64()))
        recipe = {"corpus": {"format": "parquet", "paths": [str(tmp_path / "*.parquet")]}}
        data = run_recipe(recipe).data
        assert data.schema.field("n").type == pa.int64()
        assert data["n"].to_pylist() == [*range(5), *range(5), *[None] * 5]
        write("d.parquet", "n", pa.array(["a"] * 5))
        with pytest.raises(RecipeError, match=r"columns of .*d\.parquet do not fit"):
            run_recipe(recipe, "other")

    def test_other_json_fields_are_kept_as_they_are(self, run_recipe: RunRecipe, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text('{"text": "one two", "score": 1.50, "tags": ["a", {"b": null}]}\n{"text": "three"}\n')
        data = run_recipe({"corpus": {"format": "jsonl", "paths": [str(path)]}}).data
        assert [json.loads(extra) for extra in data["extra"].to_pylist()] == [
            {"score": 1.5, "tags": ["a", {"b": None}]},
            {},
        ]
        assert "1.50" in data["extra"][0].as_py()

    def test_clashing_and_missing_names_are_refused(self, recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
        scorer = recipe["scores"]["relevance"]
        for scores, message in (
            ({"text": scorer}, "`text` is a column of the corpus"),
            ({"weight": scorer}, "`weight` is a column of Tamis"),
        ):
            with pytest.raises(RecipeError, match=message):
                run_recipe(recipe | {"scores": scores, "select": [], "output": {}})
        with pytest.raises(RecipeError, match=r"select.0: no scorer makes the column `relevanse` \(nearest: relevance"):
            run_recipe(recipe | {"select": [RESAMPLE | {"by": "relevanse"}]})
        with pytest.raises(RecipeError, match=r"no target `docstring` in `targets` \(nearest: docstrings"):
            run_recipe(recipe | {"scores": {"relevance": scorer | {"target": "docstring"}}})
        with pytest.raises(RecipeError, match=r"corpus.text: there is no column `txet` \(nearest: text"):
            run_recipe(recipe | {"corpus": recipe["corpus"] | {"text": "txet"}})
        without = {key: value for key, value in recipe["corpus"].items() if key != "group"}
        with pytest.raises(RecipeError, match=r"select.0.within: the corpus has no `group`"):
            run_recipe(recipe | {"corpus": without, "select": [RESAMPLE | {"within": "group"}]})

    def test_a_store_in_the_output_is_refused(
        self, recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path
    ) -> None:
        with pytest.raises(RecipeError, match="lies in the output path"):
            run_recipe(recipe | {"store": str(tmp_path / "runs" / "run" / "store")})


class TestFaults:
    def test_bad_lines_are_dead_letters_and_the_rest_survives(
        self, recipe: dict[str, Any], run_recipe: RunRecipe, documents: pa.Table, tmp_path: Path
    ) -> None:
        lines = write_jsonl(documents.slice(0, 60), tmp_path / "a.jsonl").splitlines(keepends=True)
        lines.insert(5, b"{not json}\n")
        lines.insert(10, b'{"id": "x", "text": null}\n')
        lines.insert(20, b'{"id": "y", "text": "\xff\xfe"}\n')
        lines.insert(30, b'{"id": null, "text": "some words"}\n')
        lines.insert(40, b'{"id": "empty", "text": "", "group": "a"}\n')
        lines.insert(50, b"\n")
        (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
        other = {"format": "jsonl", "paths": [str(tmp_path / "a.jsonl")], "id": "id", "group": "group"}
        finished = run_recipe(recipe | {"corpus": other})
        dead = {row["row"]: row["error"] for row in finished.dead_letters}
        assert set(dead) == {5, 10, 20, 30}
        assert "JSON" in dead[5]
        assert "null" in dead[10]
        assert "UTF-8" in dead[20]
        assert "id" in dead[30]
        assert finished.dead_letters[0]["raw"].startswith(b"{not json}")
        totals = finished.manifest["totals"]
        assert totals["read"]["documents"] == 65
        assert totals["dead"]["documents"] == 4
        assert finished.decisions.num_rows == 61
        assert finished.outcome.too_many_dead
        assert run_recipe(recipe | {"corpus": other}).outcome.too_many_dead  # also where nothing is new
        rows = finished.decisions.filter(pa.compute.equal(finished.decisions["row"], 41)).to_pylist()
        assert [row["key"] for row in rows] == [xxhash.xxh64_intdigest(json.loads(lines[41])["id"].encode())]

    def test_bad_rows_of_parquet(self, run_recipe: RunRecipe, tmp_path: Path) -> None:
        texts = pa.array([b"one", None, b"\xc3(", "zwölf".encode(), b""])
        pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
        finished = run_recipe({"corpus": {"format": "parquet", "paths": [str(tmp_path / "a.parquet")]}})
        assert [(row["row"], row["raw"]) for row in finished.dead_letters] == [(1, b""), (2, b"\xc3(")]
        assert finished.data["text"].to_pylist() == [b"one", "zwölf".encode(), b""]
        assert finished.decisions["row"].to_pylist() == [0, 3, 4]

    def test_a_truncated_archive_is_one_dead_row(
        self, recipe: dict[str, Any], run_recipe: RunRecipe, documents: pa.Table, tmp_path: Path
    ) -> None:
        content = gzip.compress(write_jsonl(documents, tmp_path / "a.jsonl"))
        (tmp_path / "a.jsonl.gz").write_bytes(content[: len(content) // 2])
        corpus = recipe["corpus"] | {"format": "jsonl", "paths": [str(tmp_path / "a.jsonl.gz")]}
        finished = run_recipe(recipe | {"corpus": corpus})
        assert len(finished.dead_letters) == 1
        assert "gzip" in finished.dead_letters[0]["error"]
        kept_ids = [f"doc-{i:04d}" for i in range(finished.decisions.num_rows)]
        assert len(kept_ids) > 100

    @pytest.mark.parametrize("damage", ["footer", "page"])
    def test_a_damaged_parquet_file_fails_or_is_left_out(
        self, damage: str, recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path
    ) -> None:
        bad = tmp_path / "corpus" / "001.parquet"
        content = bytearray(bad.read_bytes())
        if damage == "footer":
            content[-12:] = b"\0" * 12
        else:
            content[100:4000] = b"\xff" * 3900
        bad.write_bytes(content)
        with pytest.raises(TamisError, match=r"001\.parquet"):
            run_recipe(recipe)
        finished = run_recipe(recipe | {"errors": {"unreadable_shards": "skip"}})
        assert 300 < finished.decisions.num_rows < 400
        assert "001.parquet" in json.dumps(finished.manifest["unreadable"])

    def test_an_empty_corpus_and_an_empty_target(
        self, recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path
    ) -> None:
        (tmp_path / "empty.jsonl").write_text("")
        empty = {"format": "jsonl", "paths": [str(tmp_path / "empty.jsonl")]}
        with pytest.raises(TamisError, match="corpus: there is no readable document"):
            run_recipe({"corpus": empty})
        with pytest.raises(RecipeError, match="docstrings"):
            run_recipe(recipe | {"targets": {"docstrings": empty}})

    def test_a_file_that_changes_during_the_run_is_noticed(
        self, recipe: dict[str, Any], run_recipe: RunRecipe, documents: pa.Table, tmp_path: Path, monkeypatch: Any
    ) -> None:
        from tamis.pipelines.select import Decider

        decide = Decider.decide

        def rewrite_then_decide(self: Decider, step: Any) -> None:
            pq.write_table(documents.slice(0, 100), tmp_path / "corpus" / "001.parquet")
            decide(self, step)

        monkeypatch.setattr(Decider, "decide", rewrite_then_decide)
        with pytest.raises(TamisError, match=r"001\.parquet"):
            run_recipe(recipe)
        assert not (tmp_path / "runs" / "run").exists()
        assert not (tmp_path / "runs" / ".run.partial").exists()

    def test_limit_takes_the_first_rows(
        self, recipe: dict[str, Any], run_recipe: RunRecipe, documents: pa.Table, tmp_path: Path
    ) -> None:
        write_jsonl(documents, tmp_path / "a.jsonl")
        corpus = {"format": "jsonl", "paths": [str(tmp_path / "a.jsonl")], "id": "id"}
        for name, source in (("parquet", recipe["corpus"]), ("jsonl", corpus)):
            table = run_recipe({"corpus": source}, name, limit=250).data
            assert table["id"].to_pylist() == documents["id"].to_pylist()[:250]


def test_the_ecosystem_reads_the_result(recipe: dict[str, Any], run_recipe: RunRecipe) -> None:
    import datasets
    import duckdb
    import pandas
    import polars

    finished = run_recipe(recipe)
    data, rows = finished.outcome.path / "data", finished.data.num_rows
    weight = float(np.sum(finished.data["weight"].to_numpy()))
    loaded = datasets.load_dataset("parquet", data_files=f"{data}/*.parquet", cache_dir=str(data.parent.parent / "hf"))
    assert loaded["train"].num_rows == rows
    query = f"select count(*), sum(weight) from '{data}/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(rows, weight)]
    assert pandas.read_parquet(data)["weight"].sum() == weight
    assert polars.read_parquet(f"{data}/*.parquet")["key"].to_list() == finished.data["key"].to_pylist()
    decisions = finished.outcome.path / "decisions"
    assert pandas.read_parquet(decisions)["kept"].sum() == rows
    assert duckdb.sql(f"select count(*) from '{decisions}/*.parquet' where reason is null").fetchall() == [(rows,)]


class TestDamagedStore:
    """A damaged file of the store is scored anew, with a warning, and the result is the same to the byte."""

    @pytest.mark.parametrize(
        ("kind", "damage"),
        [
            ("document", "flipped"),
            ("document", "swapped"),
            ("dsir", "flipped"),
            ("dsir", "emptied"),
            ("dsir-statistic", "flipped"),
            ("dsir-statistic", "truncated"),
        ],
    )
    def test_it_is_mended(self, recipe: dict[str, Any], run_recipe: RunRecipe, kind: str, damage: str) -> None:
        first = run_recipe(recipe)
        store = first.outcome.path.parent / ".tamis"
        folder = next(f for f in store.iterdir() if f.name.rsplit("-", 1)[0] == kind)
        file = max(folder.iterdir(), key=lambda path: path.stat().st_size)
        content = bytearray(file.read_bytes())
        if damage == "flipped":
            content[len(content) // 3] ^= 16
        elif damage == "swapped":
            run_recipe(recipe, "other", limit=100)
            (other,) = [path for path in folder.iterdir() if path not in (file, *_targets(folder, first))]
            content = bytearray(other.read_bytes())
        else:
            del content[len(content) // 2 if damage == "truncated" else 0 :]
        file.write_bytes(content)
        again = run_recipe(recipe, "again")
        assert again.data_bytes == first.data_bytes
        (told,) = [line for line in again.manifest["warnings"] if file.name in line]
        assert told.endswith("; scored anew")
        assert file.name not in " ".join(run_recipe(recipe, "after").manifest["warnings"])


def _targets(folder: Path, run: Finished) -> list[Path]:
    """The files of the target's shard: they are there when the corpus is not."""
    rows = {path: pq.read_metadata(path).num_rows for path in folder.glob("*.parquet")}
    read = run.manifest["totals"]["read"]["documents"]
    return [path for path, count in rows.items() if count not in (read, 100)]
