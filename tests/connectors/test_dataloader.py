"""Feeding a run to PyTorch: the same documents in the same steps for any ranks and workers, and exact resuming."""

from __future__ import annotations

import copy
import itertools
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from finished_run import Finished, RunRecipe, write_parquet
from tamis.connectors.errors import TamisError

torch = pytest.importorskip("torch")
from tamis.connectors.dataloader import RunDataset, merge_states  # noqa: E402
from torch.utils.data import DataLoader, get_worker_info  # noqa: E402

Document = dict[str, Any]
Step = list[Document]

SETTINGS: dict[str, Any] = {"streams": 16, "buffer": 64}
LAYOUTS = [(ranks, 1, workers) for ranks in (1, 2, 4) for workers in (0, 1, 2)] + [(1, 4, 1), (2, 2, 0), (4, 2, 2)]
"""Ranks, batches in a step, workers."""

BATCH = 24


@pytest.fixture(scope="module")
def made() -> dict[str, Finished]:
    """Runs that tests of this module share."""
    return {}


@pytest.fixture
def run(
    made: dict[str, Finished],
    tmp_path: Path,
    run_recipe: RunRecipe,
    documents: pa.Table,
    monkeypatch: pytest.MonkeyPatch,
) -> Finished:
    """A run of some 550 documents with unlike weights, in row groups of 8 documents, as a large run has many."""
    if "run" not in made:
        made["run"] = make(run_recipe, documents, tmp_path / "corpus", "run", monkeypatch)
    return made["run"]


def make(
    run_recipe: RunRecipe, documents: pa.Table, folder: Path, name: str, patch: pytest.MonkeyPatch, **more: Any
) -> Finished:
    patch.setattr("tamis.pipelines.emit.ROW_GROUP_ROWS", 8)
    n = np.random.default_rng(0).normal(size=len(documents))
    corpus = write_parquet(documents.append_column("n", pa.array(n)), folder, files=3)
    recipe: dict[str, Any] = {
        "corpus": {"format": "parquet", "paths": [corpus], "id": "id", "group": "group", "shard_bytes": 50_000},
        "scores": {"quality": {"scorer": "column", "column": "n"}},
        "select": [{"method": "top", "by": "quality", "keep": {"fraction": 0.9}, "name": "best"}],
        "weigh": {"method": "importance", "by": "quality", "temperature": 2.0},
    }
    return run_recipe(recipe | more, name)


def loaded(run: Finished, ranks: int = 1, accumulate: int = 1, workers: int = 0, **more: Any) -> list[Step]:
    """All steps of an epoch over all ranks, each in the order of the ranks."""
    return by_step(
        [batches(dataset(run, ranks, rank, accumulate, **more), workers) for rank in range(ranks)], accumulate
    )


def dataset(run: Finished, ranks: int = 1, rank: int = 0, accumulate: int = 1, **more: Any) -> RunDataset:
    size = BATCH // (ranks * accumulate)
    given: dict[str, Any] = {"batch_size": size, "accumulate": accumulate, "rank": rank, "ranks": ranks}
    return RunDataset(run.outcome.path, **(SETTINGS | given | more))


def batches(of: RunDataset, workers: int = 0) -> list[Step]:
    return list(DataLoader(of, batch_size=of._share.size, num_workers=workers, collate_fn=list))


def by_step(ranks: list[list[Step]], accumulate: int) -> list[Step]:
    assert len({len(of_rank) for of_rank in ranks}) == 1, "ranks have the same number of batches"
    return [
        [document for of_rank in ranks for batch in of_rank[start : start + accumulate] for document in batch]
        for start in range(0, len(ranks[0]), accumulate)
    ]


def keys(steps: list[Step]) -> list[list[int]]:
    """The keys of each step, sorted; without what pads."""
    return [sorted(document["key"] for document in step if document["weight"] != 0) for step in steps]


def test_each_document_comes_once_and_in_the_same_step_on_any_ranks_and_workers(run: Finished) -> None:
    steps = loaded(run)
    given = {document["key"]: document for step in steps for document in step}
    wanted = run.data.select(["text", "key", "weight", "group"]).to_pylist()
    assert sorted(itertools.chain(*keys(steps))) == sorted(document["key"] for document in wanted)
    assert [given[document["key"]] for document in wanted] == wanted
    assert len({round(document["weight"], 6) for document in wanted}) > 100
    for layout in LAYOUTS:
        assert keys(loaded(run, *layout)) == keys(steps), layout


def test_what_does_not_divide_the_streams_has_the_same_order_too(run: Finished) -> None:
    assert keys(loaded(run, ranks=3, workers=3)) == keys(loaded(run)) == keys(loaded(run, ranks=8, workers=1))


def test_epochs_seeds_and_neighbours_are_shuffled(run: Finished) -> None:
    of = dataset(run)
    first = [document["key"] for document in of]
    of.set_epoch(1)
    second = [document["key"] for document in of]
    other = [document["key"] for document in dataset(run, seed=1)]
    assert sorted(first) == sorted(second) == sorted(other)
    place = {key: number for number, key in enumerate(run.data["key"].to_pylist())}
    for order in (first, second, other):
        ranks = np.array([place[key] for key in order])
        assert abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) < 0.3
        assert np.mean(np.abs(np.diff(ranks)) <= 8) < 0.15, "neighbours in the run are none in the loader"
    assert len({tuple(order) for order in (first, second, other)}) == 3
    of.set_epoch(0)
    assert [document["key"] for document in of] == first


@pytest.mark.parametrize("layout", [(1, 1, 2), (2, 2, 0)])
def test_what_is_resumed_goes_on_exactly_on_any_ranks_and_workers(run: Finished, layout: tuple[int, int, int]) -> None:
    whole = keys(loaded(run))
    ranks, accumulate, workers = layout
    for done in (0, 1, 7, len(whole) - 1, len(whole)):
        states = []
        for rank in range(ranks):
            of = dataset(run, ranks, rank, accumulate)
            loader = iter(DataLoader(of, batch_size=of._share.size, num_workers=workers, collate_fn=list))
            consumed = sum(1 for _ in itertools.islice(loader, done * accumulate))
            states.append(json.loads(json.dumps(of.state_dict(consumed))))
        state = merge_states(states)
        for ranks_then, accumulate_then, workers_then in ((1, 1, 0), (4, 2, 1)):
            rest = []
            for rank in range(ranks_then):
                of = dataset(run, ranks_then, rank, accumulate_then)
                of.load_state_dict(state)
                rest.append(batches(of, workers_then))
            assert keys(by_step(rest, accumulate_then)) == whole[done:]


@pytest.mark.slow
@pytest.mark.parametrize("ranks_then", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_any_ranks_and_workers_resume_on_any_other_ranks(
    run: Finished, ranks: int, workers: int, ranks_then: int
) -> None:
    whole = keys(loaded(run))
    for done in (1, len(whole) // 2):
        states = []
        for rank in range(ranks):
            of = dataset(run, ranks, rank)
            loader = iter(DataLoader(of, batch_size=of._share.size, num_workers=workers, collate_fn=list))
            states.append(of.state_dict(sum(1 for _ in itertools.islice(loader, done))))
        rest = []
        for rank in range(ranks_then):
            of = dataset(run, ranks_then, rank)
            of.load_state_dict(merge_states(states))
            rest.append(batches(of, (workers + 1) % 3))
        assert keys(by_step(rest, 1)) == whole[done:]


def test_without_workers_the_dataset_counts_itself(run: Finished) -> None:
    of = dataset(run)
    of.set_epoch(3)
    loader = iter(DataLoader(of, batch_size=BATCH, collate_fn=list))
    given = [next(loader) for _ in range(4)]
    resumed = dataset(run)
    resumed.load_state_dict(of.state_dict())
    resumed.set_epoch(3)
    again = dataset(run)
    again.set_epoch(3)
    assert given + batches(resumed) == batches(again)
    with pytest.raises(TamisError, match="call set_epoch"):
        list(resumed)
    resumed.set_epoch(4)
    assert len(batches(resumed)) == len(batches(again))


def test_a_resumed_epoch_is_not_iterated_twice_by_workers(run: Finished) -> None:
    of = dataset(run)
    of.load_state_dict(dataset(run).state_dict(3))
    loader = DataLoader(of, batch_size=BATCH, num_workers=2, collate_fn=list, persistent_workers=True)
    first = len(list(loader))
    of.set_epoch(1)
    assert len(list(loader)) == first + 3
    of.load_state_dict(dataset(run).state_dict(2))
    assert len(list(loader)) == first + 1
    with pytest.raises(TamisError, match="call set_epoch"):
        list(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_torchdata_keeps_the_state_itself(run: Finished, workers: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def loader() -> Any:
        return stateful.StatefulDataLoader(dataset(run), batch_size=BATCH, num_workers=workers, collate_fn=list)

    whole = list(loader())
    for done in (1, 4, 7):
        first = loader()
        given = list(itertools.islice(iter(first), done))
        second = loader()
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        assert given + list(second) == whole
        state = merge_states([first.state_dict()])
        merged = dataset(run)
        merged.load_state_dict(state)
        assert given + batches(merged) == whole
        ranks = [dataset(run, 2, rank) for rank in range(2)]
        for of in ranks:
            of.load_state_dict(state)
        assert keys(by_step([batches(of) for of in ranks], 1)) == keys(whole[done:])


def test_states_that_do_not_fit_are_refused(run: Finished) -> None:
    state = dataset(run).state_dict(3)
    with pytest.raises(TamisError, match="24 documents over all ranks, and has 48 now"):
        dataset(run, batch_size=48).load_state_dict(state)
    with pytest.raises(TamisError, match="other data or settings"):
        dataset(run, seed=1).load_state_dict(state)
    with pytest.raises(TamisError, match="within a step"):
        dataset(run).load_state_dict(dataset(run, accumulate=2).state_dict(3))
    with pytest.raises(TamisError, match="one worker among several"):
        dataset(run).load_state_dict(state | {"workers": 2})
    with pytest.raises(TamisError, match="2 ranks"):
        merge_states([dataset(run, ranks=2).state_dict(3)])
    with pytest.raises(TamisError, match="unlike numbers"):
        merge_states([dataset(run, 2, 0).state_dict(3), dataset(run, 2, 1).state_dict(4)])
    with pytest.raises(TamisError, match="no state"):
        merge_states([{"model": 1}])


def test_without_the_last_step_all_are_whole(run: Finished) -> None:
    kept = loaded(run)
    dropped = loaded(run, ranks=2, workers=1, drop_last=True)
    assert len(kept[-1]) < BATCH
    assert {len(step) for step in dropped} == {BATCH}
    assert keys(dropped) == keys(kept)[:-1]


def test_a_filter_takes_what_it_says_and_resumes(run: Finished) -> None:
    chosen = (pc.field("n") > 0.2) & (pc.field("group") != "a")
    wanted = run.data.filter(chosen)["key"].to_pylist()
    steps = loaded(run, filter=chosen)
    assert 100 < len(wanted) < 300
    assert sorted(itertools.chain(*keys(steps))) == sorted(wanted)
    assert {len(step) for step in steps[:-1]} == {BATCH}
    assert "n" not in steps[0][0], "what only decides is not given"
    assert keys(loaded(run, ranks=2, workers=2, filter=chosen)) == keys(steps)
    of = dataset(run, filter=chosen)
    of.load_state_dict(dataset(run, filter=chosen).state_dict(2))
    assert keys(batches(of)) == keys(steps)[2:]
    with pytest.raises(TamisError, match=r"filter: .*no_such"):
        dataset(run, filter=pc.field("no_such") > 1)
    with pytest.raises(TamisError, match=r"filter: give an expression.*not 'n > 1'"):
        dataset(run, filter="n > 1")
    with pytest.raises(TamisError, match="no document is left"):
        dataset(run, filter=pc.field("n") > 100)


@pytest.mark.slow
def test_samples_are_in_proportion_to_the_weights(run: Finished) -> None:
    weights = dict(zip(run.data["key"].to_pylist(), run.data["weight"].to_pylist(), strict=True))
    of, copies, epochs = dataset(run, use_weights="sample"), Counter[int](), 25
    for epoch in range(epochs):
        of.set_epoch(epoch)
        given = list(of)
        found = Counter(document["key"] for document in given)
        assert {document["weight"] for document in given} == {1.0}
        assert len(given) == len(of)
        assert all(np.floor(weight) <= found[key] <= np.ceil(weight) for key, weight in weights.items())
        copies += found
    expected = np.array([weights[key] for key in weights])
    deviation = np.sqrt(np.maximum(expected % 1 * (1 - expected % 1), 1e-12) / epochs)
    distance = (np.array([copies[key] for key in weights]) / epochs - expected) / deviation
    assert np.abs(distance).max() < 5
    assert abs(distance.sum() / np.sqrt(len(distance))) < 4
    whole = [Counter(document["key"] for document in step) for step in loaded(run, use_weights="sample")]
    again = [Counter(d["key"] for d in step) for step in loaded(run, 2, 1, 2, use_weights="sample")]
    assert again == whole


SHARES = {"a": 0.5, "t": 0.3, "other": 0.2}


def groups(steps: list[Step]) -> list[Counter[str]]:
    return [Counter(document["group"] for document in step) for step in steps]


def test_groups_have_their_shares_whatever_their_sizes(run: Finished) -> None:
    steps = loaded(run, shares=SHARES)
    for found in groups(steps):
        assert all(abs(found[name] - BATCH * share) <= 5 for name, share in SHARES.items())
    total = sum(groups(steps), Counter())
    assert total.keys() == SHARES.keys()
    assert all(abs(total[name] / total.total() - share) < 0.02 for name, share in SHARES.items())
    copies = Counter(document["key"] for step in steps for document in step if document["group"] == "a")
    assert max(copies.values()) - min(copies.values()) <= 1, "a group that begins again gives each document as often"
    assert len(copies) == run.data["group"].to_pylist().count("a")
    for layout in ((2, 1, 2), (4, 2, 0), (1, 2, 1)):
        assert keys(loaded(run, *layout, shares=SHARES)) == keys(steps)


def changed(run: Finished, ranks: int, workers: int, start: Any = None) -> list[Step]:
    found = []
    for rank in range(ranks):
        of = dataset(run, ranks, rank, shares=SHARES)
        if start is not None:
            of.load_state_dict(start)
        else:
            of.set_shares({"e": 1}, step=9)
        loader = iter(DataLoader(of, batch_size=of._share.size, num_workers=workers, collate_fn=list))
        begin = list(itertools.islice(loader, 2 if start is None else 0))
        of.set_shares({"e": 1, "i": 1}, step=16)
        found.append([*begin, *loader])
    return by_step(found, 1)


def test_shares_change_at_the_same_step_everywhere_and_resume(run: Finished) -> None:
    steps = changed(run, 1, 0)
    assert [set(found) for found in groups(steps)] == [{*SHARES}] * 9 + [{"e"}] * 7 + [{"e", "i"}] * (len(steps) - 16)
    assert keys(changed(run, 2, 2)) == keys(steps)
    of = dataset(run, shares=SHARES)
    of.set_shares({"e": 1}, step=9)
    assert keys(changed(run, 2, 1, of.state_dict(12))) == keys(steps)[12:]


def test_shares_change_with_the_next_step_or_are_refused(run: Finished) -> None:
    of = dataset(run, shares=SHARES)
    loader = iter(DataLoader(of, batch_size=BATCH, collate_fn=list))
    steps = [next(loader) for _ in range(3)]
    of.set_shares({"e": 1})
    steps += loader
    assert [set(found) for found in groups(steps)] == [{*SHARES}] * 3 + [{"e"}] * (len(steps) - 3)
    resumed = dataset(run, shares=SHARES)
    resumed.load_state_dict(of.state_dict(3) | {"shares": dataset(run, shares=SHARES).state_dict()["shares"]})
    loader = iter(resumed)
    resumed.set_shares({"e": 1})
    assert keys([list(loader)]) == keys([[document for step in steps[3:] for document in step]])
    of.set_epoch(1)
    assert {document["group"] for document in of} == {"e"}
    of.set_epoch(2)
    loader = iter(DataLoader(of, batch_size=BATCH, num_workers=1, collate_fn=list))
    next(loader)
    with pytest.raises(TamisError, match="from which `step`"):
        of.set_shares(SHARES)
    with pytest.raises(TamisError, match="too early"):
        of.set_shares(SHARES, step=0)
    for shares, message in (({"x": 1}, "no group `x`"), ({"a": -1}, "not shares"), ({}, "not shares")):
        with pytest.raises(TamisError, match=message):
            of.set_shares(shares, step=20)
    with pytest.raises(TamisError, match="without `shares`"):
        dataset(run).set_shares(SHARES)


@pytest.mark.slow
def test_a_chain_of_runs_is_read_as_one(
    tmp_path: Path, run_recipe: RunRecipe, documents: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(run_recipe, documents.slice(0, 300), tmp_path / "corpus", "first", monkeypatch)
    rest = documents.slice(300, 150)
    rest = rest.append_column("n", pa.array(np.random.default_rng(1).normal(size=len(rest))))
    pq.write_table(rest, tmp_path / "corpus" / "new.parquet")
    recipe = first.manifest["recipe"]
    second = run_recipe({**recipe, "since": str(first.outcome.path), "output": {}}, "second")
    both = sorted(first.data["key"].to_pylist() + second.data["key"].to_pylist())
    assert sorted(d["key"] for d in dataset(second)) == sorted(second.data["key"].to_pylist())
    assert sorted(d["key"] for d in dataset(second, chain=True)) == both
    listed = RunDataset([first.outcome.path, second.outcome.path], batch_size=BATCH, **SETTINGS)
    assert sorted(d["key"] for d in listed) == both


def test_a_run_that_fsspec_opens_reads_as_it_does_from_here(run: Finished) -> None:
    settings: dict[str, Any] = SETTINGS | {"batch_size": BATCH, "columns": ["id"], "filter": pc.field("n") > 0}
    there, here = (list(RunDataset(url, **settings)) for url in (f"local://{run.outcome.path}", run.outcome.path))
    assert len(here) > 200
    assert there == here


@pytest.mark.parametrize("form", ["prompt", "messages"])
def test_documents_have_the_parts_of_their_text(
    form: str, tmp_path: Path, run_recipe: RunRecipe, documents: pa.Table
) -> None:
    text = documents["text"].to_pylist()[:50]
    chats = [[{"role": "user", "content": one}, {"role": "assistant", "content": "yes"}] for one in text]
    table = pa.table({"ask": text, "reply": text[::-1], "chat": chats, "weight": ["heavy"] * 50, "key": range(50)})
    corpus = {"format": "parquet", "paths": [write_parquet(table, tmp_path / "corpus", 2)], "id": "key"}
    named = {"prompt": "ask", "response": "reply"} if form == "prompt" else {"messages": "chat"}
    run = run_recipe({"corpus": corpus | named, "select": []})
    given = sorted(dataset(run, columns=["source_weight", "source_key"]), key=lambda document: document["source_key"])
    parts = {"prompt": "ask", "response": "reply"} if form == "prompt" else {"messages": "chat"}
    for row, document in zip(table.to_pylist(), given, strict=True):
        assert {part: document[part] for part in parts} == {part: row[column] for part, column in parts.items()}
        assert (document["weight"], document["source_weight"], document["group"]) == (1.0, "heavy", None)


def lengths(document: Document) -> Document:
    info = get_worker_info()
    return {"input_ids": [len(document["text"])], "worker": -1 if info is None else info.id}


def test_a_transform_runs_in_the_workers_and_keeps_weight_and_key(run: Finished) -> None:
    plain = {document["key"]: document for document in dataset(run)}
    given = [document for step in batches(dataset(run, transform=lengths), 2) for document in step]
    assert {document["worker"] for document in given} == {0, 1}
    for document in given:
        whole = plain[document["key"]]
        assert document["input_ids"] == [len(whole["text"])]
        assert (document["weight"], document["group"]) == (whole["weight"], whole["group"])


def test_wrong_arguments_and_damaged_runs_are_told_in_one_line(run: Finished, tmp_path: Path) -> None:
    for arguments, message in (
        ({"columns": ["idd"]}, "no column `idd` .nearest: id"),
        ({"columns": ["text"]}, "there in any case"),
        ({"use_weights": "losses"}, "use_weights: `losses` is not known .nearest: loss"),
        ({"batch_size": 0}, "batch_size: 0 is too small"),
        ({"rank": 2, "ranks": 2}, "rank: 2 is not one of 2"),
    ):
        with pytest.raises(TamisError, match=message):
            dataset(run, **arguments)
    with pytest.raises(TamisError, match="holds no finished run"):
        RunDataset(tmp_path / "nothing", batch_size=1)
    with pytest.raises(TamisError, match="there is no run in the list"):
        RunDataset([], batch_size=1)
    damaged = tmp_path / "damaged"
    shutil.copytree(run.outcome.path, damaged)
    part = sorted((damaged / "data").glob("*.parquet"))[0]
    of = RunDataset(damaged, batch_size=1)
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 3] + b"\0" * (len(content) // 3) + content[-(len(content) // 3) :])
    with pytest.raises(TamisError, match=part.name):
        list(of)
    part.unlink()
    with pytest.raises(TamisError, match=part.name):
        RunDataset(damaged, batch_size=1)


def test_ranks_are_those_of_the_environment(run: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = SETTINGS | {"batch_size": BATCH // 2}
    expected = list(dataset(run, ranks=2, rank=1))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert list(RunDataset(run.outcome.path, **given)) == expected


def write_run(folder: Path, row_groups: int) -> Path:
    """Write a directory as a run leaves it, with documents of 4 KB in row groups of 1 MB."""
    (folder / "data").mkdir(parents=True)
    rows = 256 * row_groups
    text = np.random.default_rng(0).integers(97, 123, (rows, 4096), dtype=np.uint8)
    table = pa.table(
        {
            "text": [bytes(row).decode() for row in text],
            "key": np.arange(rows, dtype=np.uint64),
            "weight": np.ones(rows, np.float32),
        }
    )
    pq.write_table(table, folder / "data" / "part-000000.parquet", row_group_size=256)
    file = {"path": "data/part-000000.parquet", "rows": rows, "sha256": str(row_groups)}
    manifest = {"files": [file], "groups": [], "recipe": {"corpus": {"text": "text"}}, "since": None}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.slow
def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    peaks = []
    for row_groups in (32, 96):  # both enough for 8 streams
        before = pa.total_allocated_bytes()
        of = RunDataset(write_run(tmp_path / str(row_groups), row_groups), batch_size=32, streams=8, buffer=512)
        held = 0
        for number, _ in enumerate(of):
            if number % 64 == 0:
                held = max(held, pa.total_allocated_bytes() - before)
        peaks.append(held)
    assert peaks[1] < 1.25 * peaks[0]
    assert peaks[1] < 8 * 6e6, "8 streams, each with two windows of 64 documents and some pages of 1 MB"
