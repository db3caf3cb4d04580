"""The log of losses: whole parts, no step twice after a restart, and read back by a recipe's `scorer: column`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from finished_run import RunRecipe, write_parquet
from tamis.connectors.errors import TamisError
from tamis.connectors.loss_log import SCHEMA, LossLog

KEYS = np.array([2**64 - 1, 5, 2**63, 0], dtype=np.uint64)


def rows(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])


def test_a_recipe_reads_the_losses_of_a_training_run(
    tmp_path: Path, documents: pa.Table, run_recipe: RunRecipe
) -> None:
    some = documents.slice(0, 60)
    corpus = {"format": "parquet", "paths": [write_parquet(some, tmp_path / "corpus", 3)], "text": "text"}
    first = run_recipe({"corpus": corpus | {"id": "id"}, "select": [{"method": "sample", "keep": {"documents": 40}}]})
    keys = first.data["key"].to_numpy()
    by_epoch = np.random.default_rng(0).gamma(2, 1, (2, len(keys))).astype(np.float32)
    by_epoch[1, 7] = np.nan
    with LossLog(str(tmp_path / "losses"), buffer_rows=7) as log:
        for epoch, losses in enumerate(by_epoch):
            for start in range(0, len(keys), 4):
                some_rows = slice(start, start + 4)
                log.add(keys[some_rows], torch.from_numpy(losses[some_rows]), epoch * 10 + start // 4)
    column = {"scorer": "column", "file": str(tmp_path / "losses" / "*.parquet"), "join": "key", "column": "loss"}
    second = run_recipe(
        {
            "corpus": corpus | {"id": "id"},
            "scores": {"mean": column, "last": column | {"take": "last"}},
            "select": [{"method": "top", "by": "last", "keep": {"documents": 10}}],
        },
        "second",
    )
    found = {row["key"]: (row["mean"], row["last"]) for row in second.decisions.to_pylist()}
    mean = np.nanmean(by_epoch.astype(np.float64), axis=0)
    last = np.where(np.isnan(by_epoch[1]), by_epoch[0], by_epoch[1])
    assert len(found) == 60
    for i, key in enumerate(keys.tolist()):
        assert found.pop(key) == (pytest.approx(mean[i], rel=1e-12), float(last[i]))
    assert set(found.values()) == {(None, None)}
    assert set(second.data["key"].to_pylist()) == set(keys[np.argsort(-last)[:10]].tolist())


def test_parts_are_as_large_as_the_buffer_and_keep_all_rows_in_order(tmp_path: Path) -> None:
    with LossLog(str(tmp_path), buffer_rows=8) as log:
        for step in range(5):
            log.add(KEYS, [float(step), 1.0, 2.0, 3.0], step)
            assert len(list(tmp_path.iterdir())) == (step + 1) // 2
    assert [pq.read_metadata(path).num_rows for path in sorted(tmp_path.iterdir())] == [8, 8, 4]
    table = rows(tmp_path)
    assert table.schema.equals(SCHEMA)
    assert table["key"].to_pylist() == KEYS.tolist() * 5
    assert table["step"].to_pylist() == np.repeat(np.arange(5), 4).tolist()


@pytest.mark.parametrize(
    "keys", [KEYS, KEYS.tolist(), torch.from_numpy(KEYS.view(np.int64)), torch.from_numpy(KEYS), [2**64 - 1, 5, 1, 0]]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_keys_and_losses_of_any_container_are_kept(tmp_path: Path, keys: object, dtype: torch.dtype) -> None:
    losses = torch.tensor([0.5, 1.0, 2.0, float("inf")], dtype=dtype, requires_grad=True)
    with LossLog(str(tmp_path)) as log:
        log.add(keys, losses, 3)
    table = rows(tmp_path)
    assert table["key"].to_pylist()[:2] == [2**64 - 1, 5]
    assert table["loss"].to_pylist() == [0.5, 1.0, 2.0, float("inf")]


def test_what_the_caller_does_with_its_arrays_afterwards_does_not_matter(tmp_path: Path) -> None:
    key, loss = torch.tensor([1, 2]), torch.tensor([0.5, 0.25])
    with LossLog(str(tmp_path)) as log:
        log.add(key, loss, 0)
        key.zero_(), loss.zero_()
    assert rows(tmp_path).to_pylist() == [{"key": 1, "loss": 0.5, "step": 0}, {"key": 2, "loss": 0.25, "step": 0}]


@pytest.mark.parametrize(
    ("keys", "losses", "message"),
    [
        (KEYS, [1.0], "one loss"),
        (KEYS, np.ones((4, 1)), "one loss"),
        ([0.5], [1.0], "integer"),
        (torch.ones(1), torch.ones(1), "integer"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, keys: Any, losses: Any, message: str) -> None:
    with LossLog(str(tmp_path)) as log, pytest.raises((TypeError, ValueError), match=message):
        log.add(keys, losses, 0)
    assert not list(tmp_path.iterdir())


def test_a_killed_run_that_goes_on_from_its_checkpoint_logs_each_step_once(tmp_path: Path) -> None:
    def train(log: LossLog, steps: range) -> None:
        for step in steps:
            log.add(KEYS, np.full(4, step), step)

    log, other = (LossLog(str(tmp_path), 8, rank) for rank in (0, 1))
    train(log, range(3))
    train(other, range(9))
    checkpoint = log.state_dict()
    train(log, range(3, 8))  # killed: nothing is closed
    log = LossLog(str(tmp_path), 12, rank=0)
    log.load_state_dict(checkpoint)
    train(log, range(3, 9))
    log.close()
    other.close()
    steps = rows(tmp_path)["step"].to_numpy()
    assert np.bincount(steps).tolist() == [8] * 9


def test_a_folder_with_losses_is_not_mixed_with_those_of_another_run(tmp_path: Path) -> None:
    with LossLog(str(tmp_path), rank=2) as log:
        log.add([1], [0.5], 0)
    with LossLog(str(tmp_path), rank=3) as log:
        log.add([1], [0.5], 0)
    with LossLog(str(tmp_path), rank=2) as log, pytest.raises(TamisError, match="losses of rank 2"):
        log.add([1], [0.75], 0)
    assert rows(tmp_path)["loss"].to_pylist() == [0.5, 0.5]


def test_the_rank_is_that_of_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    with LossLog(str(tmp_path)) as log:
        log.add([1], [0.5], 0)
    assert [path.name for path in tmp_path.iterdir()] == ["part-000000-00003.parquet"]


def test_parts_go_to_other_file_systems(tmp_path: Path) -> None:
    with LossLog("memory://losses/a") as log:
        log.add([1], [0.5], 0)
        checkpoint = log.state_dict()
        log.add([1], [0.25], 1)
        log.flush()
    log = LossLog("memory://losses/a")
    log.load_state_dict(checkpoint)
    log.add([1], [0.125], 1)
    log.close()
    files = fsspec.filesystem("memory").glob("/losses/a/*.parquet")
    found = [pq.read_table(fsspec.filesystem("memory").open(file)).to_pylist() for file in sorted(files)]
    assert found == [[{"key": 1, "loss": 0.5, "step": 0}], [{"key": 1, "loss": 0.125, "step": 1}]]
