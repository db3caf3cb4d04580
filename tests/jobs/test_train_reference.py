"""The command `train-reference`: what it prints, and what is wrong with a recipe in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from finished_run import write_parquet
from tamis.jobs.command import main
from tamis.jobs.recipe import make_job, read_recipe


@pytest.fixture
def recipe(tmp_path: Path, documents: pa.Table) -> Path:
    content: dict[str, Any] = {
        "corpus": {"format": "parquet", "paths": [write_parquet(documents, tmp_path / "corpus", 2)], "id": "id"},
        "reference": {
            "path": "models/m",
            "tokens": 500,
            "fraction": 0.2,
            "vocabulary": 300,
            "context": 32,
            "batch_tokens": 256,
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def tamis(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["tamis", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_it_trains_and_then_has_nothing_new(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tamis(monkeypatch, "train-reference", recipe, "--workers", "1") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == str(recipe.parent / "models" / "m")
    assert "validation loss" in out and "step 2, 512 tokens: training loss" in err
    assert tamis(monkeypatch, "train-reference", recipe, "--json") == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["new"] is False and told["training"]["steps"] == 2 and "nothing new" in err
    assert tamis(monkeypatch, "train-reference", recipe, "--set", "reference.tokens=100") == 2
    assert "use --overwrite" in capsys.readouterr().err


def test_mistakes_are_one_line(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(*assignments: str) -> str:
        assert tamis(monkeypatch, "train-reference", recipe, *(f"--set={a}" for a in assignments)) == 2
        (only,) = capsys.readouterr().err.splitlines()
        return only

    assert "reference: is missing; add it" in line("reference=null")
    assert "unknown key `sice` (nearest: size)" in line("reference.sice=1m")
    assert "takes '1m', '4m', '15m', '60m' or '125m'" in line("reference.size=2m")
    assert "must be below 1" in line("reference.fraction=1")
    assert "leave out `vocabulary` or `init`" in line("reference.init=x")
    assert "reference.target: there is no target `t`" in line("reference.target=t")
    assert "--set reference.target=t" in line("reference.target=t")


def test_a_resolved_recipe_spells_it_out_and_is_one_too(recipe: Path, tmp_path: Path) -> None:
    job = make_job(read_recipe(recipe))
    assert job.recipe["reference"] | {"path": "", "seed": 0} == {
        "path": "",
        "size": "1m",
        "tokens": 500,
        "fraction": 0.2,
        "vocabulary": 300,
        "context": 32,
        "batch_tokens": 256,
        "learning_rate": 0.003,
        "warmup": 0.05,
        "seed": 0,
        "device": "auto",
    }
    again = tmp_path / "elsewhere" / "recipe.yaml"
    again.parent.mkdir()
    again.write_text(yaml.safe_dump(job.recipe))
    assert make_job(read_recipe(again)).fingerprint == job.fingerprint
