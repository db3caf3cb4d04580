"""The exchange: every row arrives once, in order, and damage is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.connectors.errors import TamisError
from tamis.pipelines import exchange
from tamis.pipelines.exchange import BUCKET_BYTES, MAX_BUCKETS, Exchange, bucket_of, buckets_for

ROW = np.dtype([("hash", "<u8"), ("value", "<i4")])


def rows_of(writer: int, count: int) -> np.ndarray:
    rows = np.zeros(count, ROW)
    rows["hash"] = np.random.default_rng([writer, count]).integers(0, 1 << 64, count, np.uint64)
    rows["value"] = 1000 * writer + np.arange(count)
    return rows


def written(folder: Path, counts: list[int], buckets: int) -> tuple[Exchange, list[np.ndarray]]:
    made = Exchange(str(folder / "x"), ROW, buckets, tuple(range(len(counts))))
    rows = [rows_of(writer, count) for writer, count in enumerate(counts)]
    for writer, of_writer in enumerate(rows):
        made.write(writer, of_writer, bucket_of(of_writer["hash"], buckets))
    return made, rows


@pytest.mark.parametrize("counts", [[40, 0, 7], [0, 0], [1]])
@pytest.mark.parametrize("buckets", [1, 5])
def test_each_row_comes_to_its_bucket_once_and_in_order(tmp_path: Path, counts: list[int], buckets: int) -> None:
    made, rows = written(tmp_path, counts, buckets)
    all_rows = np.concatenate(rows)
    for bucket in range(buckets):
        expected = all_rows[bucket_of(all_rows["hash"], buckets) == bucket]
        np.testing.assert_array_equal(made.read(bucket), expected)


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    made, rows = written(tmp_path, [20, 20], 3)
    before = [path.read_bytes() for path in sorted((tmp_path / "x").iterdir())]
    made.write(1, rows[1], bucket_of(rows[1]["hash"], 3))
    assert [path.read_bytes() for path in sorted((tmp_path / "x").iterdir())] == before


def test_a_large_bucket_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, rows = written(tmp_path, [300, 200], 2)
    whole = [made.read(bucket) for bucket in range(2)]
    rows[0]["hash"][:50] = rows[0]["hash"][0]
    made.write(0, rows[0], bucket_of(rows[0]["hash"], 2))
    whole = [made.read(bucket) for bucket in range(2)]
    monkeypatch.setattr(exchange, "BUCKET_BYTES", 40 * ROW.itemsize)
    for bucket in range(2):
        parts = list(made.parts(bucket, "hash"))
        assert len(parts) > 3
        assert max(len(part) for part in parts) < 40 + 50 + 30
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.sort(whole[bucket]))
        hashes = [set(part["hash"].tolist()) for part in parts]
        assert sum(map(len, hashes)) == len(set().union(*hashes)), "a value comes in one part"


@settings(deadline=None)
@given(st.integers(0, 1 << 50), st.integers(1, 100))
def test_buckets_for(rows: int, row_bytes: int) -> None:
    buckets = buckets_for(rows, row_bytes)
    assert 1 <= buckets <= MAX_BUCKETS
    assert buckets == MAX_BUCKETS or rows * row_bytes <= buckets * BUCKET_BYTES


@settings(deadline=None)
@given(st.lists(st.integers(0, (1 << 64) - 1)), st.integers(1, MAX_BUCKETS))
def test_bucket_of(hashes: list[int], buckets: int) -> None:
    found = bucket_of(np.array(hashes, np.uint64), buckets)
    assert found.tolist() == [(h >> 32) * buckets >> 32 for h in hashes]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "000001.rows is gone"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "000001.rows: cut short"),
        (lambda path: path.write_bytes(path.read_bytes()[:20]), "000001.rows: not a file of this exchange"),
        (lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]), "000001.rows: not a file of this exchange"),
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "000001.rows: damaged"),
    ],
)
def test_damage_is_told(tmp_path: Path, damage: object, told: str) -> None:
    made, _ = written(tmp_path, [20, 20], 2)
    damage(tmp_path / "x" / "000001.rows")  # type: ignore[operator]
    with pytest.raises(TamisError, match=told):
        made.read(1)


def test_files_of_another_exchange_are_told(tmp_path: Path) -> None:
    made, _ = written(tmp_path, [20], 2)
    with pytest.raises(TamisError, match="not a file of this exchange"):
        Exchange(made.folder, ROW, 3, made.writers).read(0)
