"""What is stored comes back, and what is damaged or gone says which file it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tamis.connectors.errors import TamisError
from tamis.connectors.records import Piece
from tamis.connectors.score_store import Address, ScoreStore, load_arrays, save_arrays
from tamis.connectors.shards import Shard

ADDRESS = Address("dsir", "0123abcd")
SHARD = Shard(3, (Piece("/a", "1", 0, 1, 1),), "f" * 32)
OTHER = Shard(4, (Piece("/b", "1", 0, 1, 1),), "e" * 32)


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ScoreStore:
    return ScoreStore(str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}-{id(request)}")


@pytest.fixture
def table() -> pa.Table:
    groups = pa.array(["b", None, "a", "b"]).dictionary_encode()
    score = pa.array([0.5, None, float("-inf"), -0.0])
    return pa.table({"score": score, "key": pa.array([2**64 - 1, 0, 1, 2], pa.uint64()), "group": groups})


def test_tables_come_back(store: ScoreStore, table: pa.Table) -> None:
    assert not store.has(ADDRESS, SHARD)
    store.write_table(ADDRESS, SHARD, table, {"dead": 2})
    assert store.has(ADDRESS, SHARD)
    assert not store.has(ADDRESS, OTHER)
    read = store.read_table(ADDRESS, SHARD)
    assert read.equals(table)
    assert np.signbit(read["score"][3].as_py())
    assert store.read_table(ADDRESS, SHARD, ["key"]).column_names == ["key"]
    facts = store.read_metadata(ADDRESS, SHARD)
    assert facts == {"shard": SHARD.fingerprint, "scorer": ADDRESS.folder, "rows": 4, "dead": 2}


def test_tables_without_rows_keep_their_types(store: ScoreStore, table: pa.Table) -> None:
    store.write_table(ADDRESS, SHARD, table.slice(0, 0), {})
    assert store.read_table(ADDRESS, SHARD).schema == table.schema
    assert store.read_metadata(ADDRESS, SHARD)["rows"] == 0


def test_arrays_come_back(store: ScoreStore) -> None:
    arrays = {"counts": np.arange(5), "odd name/../x": np.array([[0.5, np.nan]])}
    store.write_arrays(ADDRESS, SHARD, arrays)
    read = store.read_arrays(ADDRESS, SHARD)
    assert {name: value.dtype for name, value in read.items()} == {name: value.dtype for name, value in arrays.items()}
    np.testing.assert_equal(read, arrays)


def test_the_same_table_is_the_same_file(store: ScoreStore, table: pa.Table) -> None:
    from tamis.connectors.files import read_bytes

    store.write_table(ADDRESS, SHARD, table, {"dead": 2})
    first = read_bytes(store.url(ADDRESS, SHARD))
    store.write_table(ADDRESS, SHARD, table, {"dead": 2})
    assert read_bytes(store.url(ADDRESS, SHARD)) == first


def test_stored_lists_whole_files_of_one_address(store: ScoreStore, table: pa.Table) -> None:
    assert store.stored(ADDRESS) == set()
    store.write_table(ADDRESS, SHARD, table, {})
    store.write_arrays(ADDRESS, OTHER, {"counts": np.zeros(1)})
    store.write_table(Address("dsir", "ffff"), Shard(0, (), "d" * 32), table, {})
    assert store.stored(ADDRESS) == {SHARD.fingerprint, OTHER.fingerprint}


def test_stored_ignores_what_a_killed_process_left(tmp_path: Path) -> None:
    folder = tmp_path / ADDRESS.folder
    folder.mkdir()
    for name in (f".{SHARD.fingerprint}.parquet.tmp-1-2", ".parquet", "notes.txt"):
        (folder / name).touch()
    assert ScoreStore(str(tmp_path)).stored(ADDRESS) == set()


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        pq.write_table(pa.table({"other": [1]}), path, store_schema=False)


@pytest.mark.parametrize("kind", ["truncated", "empty", "foreign"])
def test_damage_names_the_file(tmp_path: Path, table: pa.Table, kind: str) -> None:
    store = ScoreStore(str(tmp_path))
    store.write_table(ADDRESS, SHARD, table, {})
    damage(Path(store.url(ADDRESS, SHARD)), kind)
    message = rf"{SHARD.fingerprint}\.parquet: damaged score file .*delete it and run again"
    with pytest.raises(TamisError, match=message):
        store.read_metadata(ADDRESS, SHARD)
    if kind != "foreign":
        with pytest.raises(TamisError, match=message):
            store.read_table(ADDRESS, SHARD, ["score"])


def test_a_file_that_is_gone_is_named(store: ScoreStore) -> None:
    with pytest.raises(TamisError, match=rf"{SHARD.fingerprint}\.parquet is gone; run again"):
        store.read_table(ADDRESS, SHARD)
    with pytest.raises(TamisError, match=rf"{SHARD.fingerprint}\.npz: cannot be read as saved arrays"):
        store.read_arrays(ADDRESS, SHARD)


def test_arrays_of_another_kind_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.npz"
    save_arrays(str(whole), {"counts": np.arange(1000)})
    np.save(tmp_path / "one.npy", np.arange(3))
    np.savez(tmp_path / "objects.npz", counts=np.array([{"a": 1}], dtype=object))
    (tmp_path / "short.npz").write_bytes(whole.read_bytes()[:-30])
    flipped = bytearray(whole.read_bytes())
    flipped[4000] ^= 1
    (tmp_path / "flipped.npz").write_bytes(flipped)
    (tmp_path / "text.npz").write_text(json.dumps({"counts": [1]}))
    for name in ("one.npy", "objects.npz", "short.npz", "flipped.npz", "text.npz"):
        with pytest.raises(TamisError, match=f"{name}: cannot be read as saved arrays"):
            load_arrays(str(tmp_path / name))
