"""Figures outside of their limits are told, a line each, with exit code 4; wrong limits are refused before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from finished_run import RunRecipe, write_jsonl
from tamis.connectors.errors import RecipeError


@pytest.fixture
def recipe(tmp_path: Path, documents: pa.Table) -> dict[str, Any]:
    numbers = pa.array([float(i % 10) for i in range(len(documents))])
    write_jsonl(documents.append_column("n", numbers), tmp_path / "a.jsonl")
    return {
        "corpus": {"format": "jsonl", "paths": [str(tmp_path / "a.jsonl")]},
        "scores": {"n": {"scorer": "column", "column": "n"}},
        "select": [{"method": "top", "by": "n", "keep": {"fraction": 0.2}}],
    }


def test_each_limit(recipe: dict[str, Any], run_recipe: RunRecipe, tmp_path: Path) -> None:
    calm = {
        "kept_fraction": {"min": 0.1, "max": 0.3},
        "dead_fraction": {"max": 0},
        "effective_sample_size": {"min": 0.99},
        "mean_score": {"n": {"min": 4, "max": 5}},
    }
    first = run_recipe(recipe | {"alert": calm}, "first")
    assert first.outcome.alerts == []
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    changed = [line.replace('"n": ', '"n": 1') for line in lines] + ["no JSON"]
    (tmp_path / "a.jsonl").write_text("\n".join(changed) + "\n")
    loud = calm | {"kept_fraction": {"max": 0.1}, "drift": {"against": str(first.outcome.path), "max": 0.2}}
    alerts = run_recipe(recipe | {"alert": loud, "errors": {"max_dead_fraction": 1}}, "second").outcome.alerts
    told = ["kept share", "dead letters is 0.00", "the mean of n is 14.", "the drift of n against"]
    assert len(alerts) == len(told)
    assert all(any(part in line for line in alerts) for part in told)
    same = run_recipe(recipe | {"alert": {"drift": {"against": str(tmp_path / "runs" / "second")}}}, "third")
    assert same.outcome.alerts == []


@pytest.mark.parametrize(
    ("alert", "message"),
    [
        ({"mean_score": {"m": {"min": 0}}}, "alert.mean_score: no scorer makes the column `m`"),
        ({"drift": {"against": "nowhere"}}, "alert.drift.against: .*nowhere is no finished run"),
        ({"kept_fraction": {}}, "alert.kept_fraction.*needs `min`, `max` or both"),
        ({"kept_fraction": {"min": 2, "max": 1}}, "every run would be an alert"),
        ({"kept": {"min": 2}}, "kept"),
    ],
)
def test_wrong_limits(recipe: dict[str, Any], run_recipe: RunRecipe, alert: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        run_recipe(recipe | {"alert": alert})


def test_the_command_ends_with_four(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe |= {"alert": {"kept_fraction": {"min": 0.5}}, "output": {"path": "run"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    tamis = str(Path(sys.executable).with_name("tamis"))
    done = subprocess.run([tamis, "run", str(tmp_path / "recipe.yaml")], capture_output=True, text=True)
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].endswith("alert: the kept share of the documents is 0.2, below 0.5")
    assert (tmp_path / "run" / "manifest.json").exists()
