"""The examples train on a real run: its weights and those of the losses count, and the losses are logged."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from finished_run import RunRecipe, write_parquet
from tiny_models import save_model
from transformers import AutoModelForCausalLM, AutoTokenizer

EXAMPLES = Path(__file__).parents[2] / "jobs" / "examples"
LENGTH, ROWS, BATCH = 40, 30, 8

Train = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture(params=["train_plain", "train_trainer"])
def example(request: pytest.FixtureRequest) -> str:
    if request.param == "train_trainer":
        pytest.importorskip("accelerate")
    return str(request.param)


@pytest.fixture
def run(tmp_path: Path, documents: pa.Table, run_recipe: RunRecipe) -> Path:
    """A run that has kept 30 documents; one is a single token long, and so has nothing to predict."""
    some = pa.concat_tables([documents.slice(0, ROWS - 1), pa.table({"id": ["x"], "text": ["a"], "group": ["a"]})])
    corpus = {"format": "parquet", "paths": [write_parquet(some, tmp_path / "corpus", 2)], "text": "text", "id": "id"}
    path = run_recipe({"corpus": corpus, "select": [{"method": "sample", "keep": {"documents": ROWS}}]}).outcome.path
    save_model(tmp_path / "model", documents["text"].to_pylist()[:60])
    return path


def weigh(run: Path, *weights_in_turn: float) -> None:
    """Give the documents of a run these weights."""
    for path in (run / "data").glob("*.parquet"):
        table = pq.read_table(path)
        weights = pa.array(np.resize(np.array(weights_in_turn, np.float32), table.num_rows))
        pq.write_table(table.set_column(table.schema.get_field_index("weight"), "weight", weights), path)


@pytest.fixture
def train(run: Path, tmp_path: Path, example: str) -> Train:
    def run_it(output: str, *more: str) -> dict[str, torch.Tensor]:
        folder = tmp_path / output
        options = ["--length", str(LENGTH), "--batch-size", str(BATCH), "--output", str(folder), *more]
        torch.manual_seed(0)
        main = runpy.run_path(str(EXAMPLES / f"{example}.py"))["main"]
        main([str(run), "--model", str(tmp_path / "model"), *options])
        AutoTokenizer.from_pretrained(folder / "model")
        return parameters(folder / "model")

    return run_it


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())


def logged(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted((folder / "losses").glob("*.parquet"))])


def own_losses(run: Path, folder: Path) -> dict[int, float]:
    """Compute the mean loss of each document without any padding."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    data = pa.concat_tables([pq.read_table(path) for path in sorted((run / "data").glob("*.parquet"))])
    losses = {}
    for key, text in zip(data["key"].to_pylist(), data["text"].to_pylist(), strict=True):
        tokens = torch.tensor([tokenizer(text)["input_ids"][:LENGTH]])
        with torch.no_grad():
            losses[key] = float(model(input_ids=tokens, labels=tokens).loss) if tokens.shape[1] > 1 else np.nan
    return losses


@pytest.mark.parametrize("example", ["train_plain"], indirect=True)
def test_training_makes_the_losses_smaller(train: Train, tmp_path: Path) -> None:
    trained = train("a", "--epochs", "4", "--warm-up", "6")
    log = logged(tmp_path / "a")
    assert sorted(log["step"].unique().to_pylist()) == list(range(16))
    by_epoch = log["loss"].to_numpy().reshape(4, ROWS)
    assert np.nanmean(by_epoch[3]) < np.nanmean(by_epoch[0]) - 0.02
    assert log["key"].value_counts().field("counts").to_pylist() == [4] * ROWS
    assert all(torch.isfinite(values).all() for values in trained.values())


@pytest.mark.slow
def test_documents_that_weigh_nothing_teach_nothing_and_are_logged(train: Train, tmp_path: Path, run: Path) -> None:
    weigh(run, 0.0)
    trained = train("a", "--warm-up", "1")
    for name, before in parameters(tmp_path / "model").items():
        torch.testing.assert_close(trained[name], before, rtol=1e-4, atol=0)  # AdamW decays a little by itself
    expected = own_losses(run, tmp_path / "model")
    found = {row["key"]: row["loss"] for row in logged(tmp_path / "a").to_pylist()}
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(list(found.values()), [expected[key] for key in found], rtol=1e-3)


@pytest.mark.parametrize("example", ["train_plain"], indirect=True)
def test_weights_say_which_documents_teach(train: Train, run: Path) -> None:
    weigh(run, 3.0, 3.0)
    equal = train("a", "--warm-up", "9")
    weigh(run, 1.0)
    ones = train("b", "--warm-up", "9")
    weigh(run, 2.0, 0.0)
    unlike = train("c", "--warm-up", "9")
    for name in ones:
        torch.testing.assert_close(equal[name], ones[name], rtol=1e-3, atol=1e-5)
    assert max(float((ones[name] - unlike[name]).abs().max()) for name in ones) > 1e-4


@pytest.mark.slow
def test_losses_weigh_after_the_warm_up(train: Train) -> None:
    in_warm_up = train("a", "--warm-up", "4")
    after_it = train("b", "--warm-up", "3", "--temperature", "0.1")
    assert any(not torch.equal(values, after_it[name]) for name, values in in_warm_up.items())


@pytest.mark.parametrize(
    "example", ["train_plain", pytest.param("train_trainer", marks=pytest.mark.slow)], indirect=True
)
def test_the_same_command_goes_on_exactly_from_the_middle_of_an_epoch(
    train: Train, tmp_path: Path, example: str
) -> None:
    settings = ("--warm-up", "2", "--epochs", "2", "--save-every", "3")
    whole = train("a", *settings)
    log = logged(tmp_path / "a")
    assert log["step"].value_counts().field("counts").to_pylist() == [8, 8, 8, 6] * 2
    if example == "train_trainer":  # which has one more at the end; what stays is that of step 6 of 8
        shutil.rmtree(tmp_path / "a" / "checkpoint-8")
    shutil.rmtree(tmp_path / "a" / "model")
    resumed = train("a", *settings)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    for name in ("key", "loss", "step"):  # one loss is NaN
        np.testing.assert_array_equal(logged(tmp_path / "a")[name], log[name])
