"""Parquet pieces cover a file, batches are bounded whatever the row groups, damage names the file."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tamis.connectors import parquet
from tamis.connectors.errors import TamisError
from tamis.connectors.files import local_info
from tamis.connectors.records import Piece


def letters(rows: int, length: int) -> pa.Array:
    """Random text that no encoding makes small: string[rows], each of so many letters."""
    data = np.random.default_rng(0).integers(97, 123, rows * length, dtype=np.uint8)
    offsets = np.arange(rows + 1, dtype=np.int32) * length
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(data))


def cut(path: Path, shard_bytes: int) -> list[Piece]:
    return parquet.cut(local_info(path), parquet.footer(str(path)), shard_bytes)


@pytest.fixture
def grouped(tmp_path: Path) -> Path:
    """Row groups of 100 rows of about 20 kB, the last of 50."""
    path = tmp_path / "a.parquet"
    table = pa.table({"n": range(1050), "text": letters(1050, 200)})
    pq.write_table(table, path, row_group_size=100, use_dictionary=False, compression="none")
    return path


class TestCut:
    @pytest.mark.parametrize("shard_bytes", [1, 30_000, 50_000, 10**9])
    def test_pieces_cover_the_file(self, grouped: Path, shard_bytes: int) -> None:
        pieces = cut(grouped, shard_bytes)
        groups = [index for piece in pieces for index in range(piece.start, piece.end)]
        assert groups == list(range(11))
        assert [piece.first_row for piece in pieces] == [piece.start * 100 for piece in pieces]
        assert sum(piece.rows or 0 for piece in pieces) == 1050
        assert all(piece.bytes >= shard_bytes for piece in pieces[:-1])
        for piece in pieces:  # no larger than needed
            assert piece.bytes * (piece.end - piece.start - 1) / (piece.end - piece.start) < shard_bytes + 1000

    def test_a_piece_reads_its_own_rows(self, grouped: Path) -> None:
        for piece in cut(grouped, 50_000):
            read = list(parquet.read(piece, ["n"]))
            assert piece.first_row is not None
            numbers = [n for records in read for n in records.table["n"].to_pylist()]
            assert numbers == list(range(piece.first_row, piece.first_row + (piece.rows or 0)))
            rows = np.concatenate([records.rows for records in read])
            np.testing.assert_array_equal(rows, np.arange(piece.rows))
            assert read[-1].next_row == piece.rows

    def test_an_empty_file_has_no_pieces(self, tmp_path: Path) -> None:
        pq.ParquetWriter(tmp_path / "a.parquet", pa.schema([("text", pa.string())])).close()
        assert cut(tmp_path / "a.parquet", 1000) == []


class TestRead:
    @pytest.mark.parametrize("name", ["text", "text.body"])
    @pytest.mark.parametrize("rows", [40, 4000])
    def test_batches_are_bounded_by_bytes(self, tmp_path: Path, name: str, rows: int) -> None:
        table = pa.table({"n": range(rows), name: letters(rows, 4_000_000 // rows)})
        pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False)
        (piece,) = cut(tmp_path / "a.parquet", 1 << 30)
        sizes = [records.table.nbytes for records in parquet.read(piece, [name], batch_bytes=500_000)]
        assert max(sizes) <= 600_000
        assert 8 <= len(sizes) <= 12

    def test_text_that_a_dictionary_hides_is_bounded_by_rows(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"text": ["the same words " * 20] * 50_000}), tmp_path / "a.parquet")
        (piece,) = cut(tmp_path / "a.parquet", 1 << 30)
        assert piece.bytes < 100_000
        assert max(len(records.rows) for records in parquet.read(piece, None)) <= parquet.MAX_BATCH_ROWS

    def test_only_columns_that_are_wanted_and_there(self, grouped: Path) -> None:
        (piece,) = cut(grouped, 10**9)
        assert next(parquet.read(piece, ["text", "other"])).table.column_names == ["text"]
        assert next(parquet.read(piece, None)).table.column_names == ["n", "text"]

    def test_another_number_of_rows_than_planned_is_an_error(self, grouped: Path) -> None:
        (piece,) = cut(grouped, 10**9)
        with pytest.raises(TamisError, match=r"a\.parquet: 1050 rows read where the footer says 1051"):
            list(parquet.read(replace(piece, rows=1051), None))

    def test_damage_names_the_file_and_the_place(self, grouped: Path, tmp_path: Path) -> None:
        (piece,) = cut(grouped, 10**9)
        content = bytearray(grouped.read_bytes())
        metadata = parquet.footer(str(grouped))
        start = metadata.row_group(7).column(1).data_page_offset
        content[start : start + 2000] = b"\xff" * 2000
        grouped.write_bytes(content)
        with pytest.raises(TamisError, match=r"a\.parquet: damaged Parquet file, after \d+ rows"):
            list(parquet.read(piece, None, batch_bytes=20_000))
        for damaged in (bytes(content[:-1]), b"PAR1", b""):
            grouped.write_bytes(damaged)
            with pytest.raises(TamisError, match=r"a\.parquet: cannot be read as Parquet"):
                parquet.footer(str(grouped))
        with pytest.raises(TamisError, match=r"b\.parquet: cannot be read as Parquet"):
            parquet.footer(str(tmp_path / "b.parquet"))


READ_AND_TELL_PEAK = """
import sys, pathlib, pyarrow as pa
from tamis.connectors import files, parquet
path = sys.argv[1]
(piece,) = parquet.cut(files.local_info(pathlib.Path(path)), parquet.footer(path), 1 << 40)
rows = sum(len(records.rows) for records in parquet.read(piece, None))
print(rows, pa.default_memory_pool().max_memory())
"""


@pytest.mark.slow
def test_a_large_row_group_is_read_in_little_memory(tmp_path: Path) -> None:
    table = pa.table({"text": letters(100_000, 2000)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100_000, use_dictionary=False, compression="none")
    assert parquet.footer(str(tmp_path / "a.parquet")).row_group(0).total_byte_size > 200_000_000
    command = [sys.executable, "-c", READ_AND_TELL_PEAK, str(tmp_path / "a.parquet")]
    rows, peak = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert rows == 100_000
    assert peak < 48 << 20
