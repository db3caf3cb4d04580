"""`tamis compare`: the same model on each choice; what is held out trains none, and differences are tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from finished_run import write_parquet

pytest.importorskip("transformers")

from tamis.connectors.keys import keyed_uniform
from tamis.jobs.compare import as_text, compare_recipes
from tamis.pipelines.compare_texts import HELD_OUT_SHARE
from tamis.pipelines.job import Quiet
from tamis.pipelines.runner import Engine
from tamis.scoring.held_out_loss import mean_difference

TAMIS = str(Path(sys.executable).with_name("tamis"))


def compare(folder: Path, *arguments: str, code: int = 0) -> str:
    command = [TAMIS, "compare", *arguments, "--output", str(folder / "out"), "--tokens", "2000", "--context", "32"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, documents: pa.Table, target_documents: pa.Table) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    corpus = {"format": "parquet", "paths": [write_parquet(documents, folder / "corpus", 2)], "id": "id"}
    recipe: dict[str, Any] = {
        "corpus": corpus | {"group": "group"},
        "targets": {"t": {"format": "parquet", "paths": [write_parquet(target_documents, folder / "target", 1)]}},
    }
    for name, share in (("half", 0.5), ("tenth", 0.1)):
        steps = [{"method": "sample", "keep": {"fraction": share}}]
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe | {"select": steps}))
    weighted = {
        "scores": {"relevance": {"scorer": "dsir", "target": "t", "normalise": "tokens"}},
        "select": [{"method": "sample", "keep": {"fraction": 0.5}}],
        "weigh": {"method": "importance", "by": "relevance"},
    }
    (folder / "weighted.yaml").write_text(yaml.safe_dump(recipe | weighted))
    (folder / "other.yaml").write_text(yaml.safe_dump(recipe | {"corpus": corpus}))
    return folder


@pytest.mark.slow
def test_figures_for_each_domain_and_target(folder: Path, documents: pa.Table) -> None:
    arguments = (str(folder / "half.yaml"), str(folder / "tenth.yaml"), "--seeds", "2")
    found = json.loads(compare(folder, *arguments, "--json"))
    methods = found["methods"]
    assert list(methods) == ["random", "half", "tenth"]
    domains = set(methods["random"]["domains"])
    assert "target t" in domains
    assert domains - {"target t"} <= set(documents["group"].to_pylist())
    for method in methods.values():
        for row in method["domains"].values():
            assert len(row["by_seed"]) == 2
            assert 0 < row["loss"] < 2 * np.log(4096)
            assert "difference" not in row or row["low"] <= row["difference"] <= row["high"]
    for name in ("half", "tenth"):
        manifest = json.loads((folder / "out" / "runs" / name / "manifest.json").read_text())
        share = methods[name]["documents"] / manifest["totals"]["kept"]["documents"]
        assert 0.8 < share < 1  # without what is held out
    # the same again trains nothing, and says the same
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "out" / "losses").iterdir()}
    assert json.loads(compare(folder, *arguments, "--json")) == found
    assert stamps == {path: path.stat().st_mtime_ns for path in (folder / "out" / "losses").iterdir()}
    table = as_text(found)
    assert "target t" in table and "95 % intervals" in table
    assert not (folder / "out" / "work").exists()


@pytest.mark.slow
def test_weights_of_a_run_weigh_in_the_loss(folder: Path) -> None:
    recipes = [folder / "half.yaml", folder / "weighted.yaml"]
    settings: tuple[Any, ...] = ("1m", 1, 1000, 32, ["corpus.paths=" + json.dumps([f"{folder}/corpus/000.parquet"])])
    told = compare_recipes(recipes, folder / "weighted", *settings, Engine(1), Quiet(), as_json=True)
    figures = json.loads(told)
    found = figures["methods"]
    assert [method["weighted"] for method in found.values()] == [False, False, True]
    # both keep the same documents, so that only the weights can tell the models apart
    assert found["half"]["tokens"] == found["weighted"]["tokens"]
    losses = [[row["loss"] for row in found[name]["domains"].values()] for name in ("half", "weighted")]
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)
    assert [line.split()[-3:] for line in as_text(figures).splitlines() if "weights in the loss" in line] == [
        ["no", "no", "yes"]
    ]


def test_what_cannot_be_compared_is_refused(folder: Path) -> None:
    half = str(folder / "half.yaml")
    assert "another `corpus`" in compare(folder, half, str(folder / "other.yaml"), code=2)
    assert "two recipes are called `half`" in compare(folder, half, half, code=2)
    assert "there is no such size" in compare(folder, half, "--proxy", "7b", code=2)


def test_held_out_share_is_what_it_says() -> None:
    keys = np.arange(100_000, dtype=np.uint64)
    assert abs((keyed_uniform(0, "compare", keys) < HELD_OUT_SHARE).mean() - HELD_OUT_SHARE) < 0.003


def test_intervals_cover_and_tell_apart() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        hard = generator.normal(4, 0.5, 120)  # sequences differ, in the same way for both sides
        losses, baseline = (hard + generator.normal(0, 0.1, (3, 120)) for _ in range(2))
        difference, low, high = mean_difference(losses, baseline)
        assert low <= difference <= high
        covered += low <= 0 <= high
    assert covered >= 52
    difference, low, high = mean_difference(losses - 0.2, baseline)
    assert -0.25 < low < difference < high < -0.15
