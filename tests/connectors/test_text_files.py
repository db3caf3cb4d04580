from __future__ import annotations

import gzip
import io
import tracemalloc
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.connectors import text_files
from tamis.connectors.records import BATCH_BYTES, RAW_BYTES, DeadRow
from tamis.connectors.text_files import read_text

BIG = 1 << 20


def read(
    data: bytes,
    start: int = 0,
    end: int | None = None,
    split: Literal["file", "blank_lines"] = "blank_lines",
    **options: Any,
) -> tuple[dict[int, str], list[DeadRow]]:
    """Read all batches; returns the documents by number, and the dead rows."""
    documents: dict[int, str] = {}
    dead: list[DeadRow] = []
    next_row = 0
    for records in read_text(pa.BufferReader(data), start, end, split=split, **options):
        numbers = sorted([*records.rows.tolist(), *(d.row for d in records.dead)])
        assert numbers == list(range(next_row, records.next_row))
        assert [d.row for d in records.dead] == sorted(d.row for d in records.dead)
        next_row = records.next_row
        records.table.validate(full=True)
        assert records.table.schema == pa.schema([("text", pa.large_string())])
        documents.update(zip(records.rows.tolist(), records.table["text"].to_pylist(), strict=True))
        dead += records.dead
    return documents, dead


def test_documents_are_what_stands_between_blank_lines() -> None:
    data = "\ufeff\r\n \t\n  one\ntwo \r\n\x0b\r\n\n\r\nthree\r\r\nfour\r\n\n\u00a0\n\nfive".encode()
    documents, dead = read(data)
    assert list(documents.values()) == ["  one\ntwo ", "three\r\r\nfour", "\u00a0", "five"]
    assert not dead


@pytest.mark.parametrize("data", [b"", b"\n", b" \r\n\n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n\n"])
def test_blank_lines_alone_are_no_document(data: bytes) -> None:
    assert read(data) == ({}, [])


@pytest.mark.parametrize("data", [b"", b"\n", b"a\n\nb\r\n\n", "é".encode()])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("block_bytes", [1, BIG])
def test_a_file_is_one_document_as_it_stands(data: bytes, mark: bytes, block_bytes: int) -> None:
    assert read(mark + data, split="file", block_bytes=block_bytes) == ({0: data.decode()}, [])


def test_another_name_for_the_column() -> None:
    (records,) = read_text(pa.BufferReader(b"a"), 0, None, split="file", column="body")
    assert records.table.to_pydict() == {"body": ["a"]}


def test_a_document_that_is_not_utf8_is_dead_and_its_neighbours_survive() -> None:
    documents, dead = read(b"a\n\nb\xff\nc\n\nd\n\n\xed\xa0\x80")
    assert documents == {0: "a", 2: "d"}
    assert [(d.row, d.stage, d.error, d.raw) for d in dead] == [
        (1, "read", "not valid UTF-8 at byte 1", b"b\xff\nc"),
        (3, "read", "not valid UTF-8 at byte 0", b"\xed\xa0\x80"),
    ]
    assert read(b"a\n\xff", split="file")[1] == [DeadRow(0, "read", "not valid UTF-8 at byte 2", b"a\n\xff")]


def test_raw_bytes_of_a_dead_row_are_limited() -> None:
    for split in ("file", "blank_lines"):
        _, (dead,) = read(b"\xff" * (RAW_BYTES + 10), split=split)
        assert dead.raw == b"\xff" * RAW_BYTES


def oracle(data: bytes) -> list[bytes]:
    documents: list[list[bytes]] = []
    inside = False
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if line.strip(b" \t\r\x0b\x0c"):
            if not inside:
                documents.append([])
            documents[-1].append(line)
        inside = bool(line.strip(b" \t\r\x0b\x0c"))
    joined = [b"\n".join(lines) for lines in documents]
    at_end = joined and data.endswith(joined[-1])  # the last line has no line end that could be taken off
    return [document if at_end and document is joined[-1] else document.removesuffix(b"\r") for document in joined]


PARTS = [
    b"\n",
    b"\n\n",
    b"\r\n",
    b"\r",
    b" ",
    b"\t",
    b"\x0c",
    b"word",
    b"longer words here",
    b"\xc3\xa9",
    b"\xff",
    b"\0",
]
BYTES = st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(PARTS), max_size=40).map(b"".join))
SIZES = st.sampled_from([1, 2, 7, 64, BIG])


@settings(max_examples=400, deadline=None)
@given(data=BYTES, mark=st.booleans(), block_bytes=SIZES)
def test_arbitrary_bytes_are_documents_and_dead_rows_in_blocks_of_any_size(
    data: bytes, mark: bool, block_bytes: int
) -> None:
    data = b"\xef\xbb\xbf" + data if mark else data
    documents, dead = read(data, block_bytes=block_bytes)
    found = {row: text.encode() for row, text in documents.items()} | {d.row: d.raw for d in dead}
    assert [found[row] for row in sorted(found)] == oracle(data)
    assert all(d.raw.decode(errors="replace").encode() != d.raw for d in dead)


@settings(max_examples=300, deadline=None)
@given(data=BYTES, mark=st.booleans(), cuts=st.lists(st.integers(0, 200), max_size=6), block_bytes=SIZES)
def test_any_cutting_into_byte_ranges_gives_the_same_documents(
    data: bytes, mark: bool, cuts: list[int], block_bytes: int
) -> None:
    data = b"\xef\xbb\xbf" + data if mark else data
    documents, dead = read(data)
    whole = [documents.get(row) or dead for row in range(len(documents) + len(dead))]
    parts: list[Any] = []
    for start, end in pairwise([0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]):
        some, some_dead = read(data, start, end, block_bytes=block_bytes)
        parts += [some.get(row) or dead for row in range(len(some) + len(some_dead))]
        assert {(d.error, d.raw) for d in some_dead} <= {(d.error, d.raw) for d in dead}
    assert parts == whole


def _compress(data: bytes, compression: str) -> bytes:
    return gzip.compress(data, mtime=0) if compression == "gzip" else pa.Codec("zstd").compress(data, asbytes=True)


def _corpus(count: int) -> bytes:
    words = np.random.default_rng(0).integers(0, 10**6, size=(count, 20)).tolist()
    return b"".join(" ".join(map(str, row[:10])).encode() + b"\n%d\n\n" % sum(row) for row in words)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("lost", [1, 20_000])
def test_truncated_stream_keeps_its_documents_and_ends_in_one_dead_row(compression: str, lost: int) -> None:
    data = _corpus(2500)
    packed = _compress(data, compression)
    whole, _ = read(data)
    assert read(packed, compression=compression, block_bytes=5000) == (whole, [])
    documents, (dead,) = read(packed[:-lost], compression=compression)
    assert len(documents) > 300
    assert documents == {number: whole[number] for number in range(len(documents))}
    assert (dead.row, dead.stage) == (len(documents), "read")
    assert dead.error == f"truncated {compression} stream after {len(documents)} documents"
    kept = "".join(text + "\n\n" for text in documents.values()).encode()
    assert data.startswith((kept + dead.raw, kept.removesuffix(b"\n") + dead.raw))
    documents, (dead,) = read(packed[:-lost], compression=compression, split="file")
    assert (documents, dead.row, dead.error) == ({}, 0, f"truncated {compression} stream after 0 documents")
    assert data.startswith(dead.raw)
    assert len(dead.raw) == RAW_BYTES


@pytest.mark.parametrize("block_bytes", [1, 16, BIG])
def test_document_above_the_limit_is_dead_and_reading_goes_on(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(text_files, "MAX_DOCUMENT_BYTES", 100)
    line = b"x" * 24 + b"\n"
    data = b"\n\n".join([b"y" * 100, b"z" * 101, b"a", line * 4 + b"x", b"b", b"u" * 1000 + b"\n" + line, b"\r\nc"])
    documents, dead = read(data, block_bytes=block_bytes)
    assert [(row, text[0]) for row, text in documents.items()] == [(0, "y"), (2, "a"), (4, "b"), (6, "c")]
    assert [(d.row, d.error, d.raw[:3]) for d in dead] == [
        (row, "document of more than 100 bytes", raw) for row, raw in ((1, b"zzz"), (3, b"xxx"), (5, b"uuu"))
    ]
    assert all(len(d.raw) > 100 and data.find(d.raw) >= 0 for d in dead)
    for size, alive in ((100, 1), (101, 0)):
        documents, dead = read(b"\xef\xbb\xbf" + b"x" * size, split="file", block_bytes=block_bytes)
        assert (len(documents), len(dead)) == (alive, 1 - alive)


@pytest.mark.parametrize("split", ["file", "blank_lines"])
@pytest.mark.parametrize("part", [b"x" * (1 << 16), b"x" * 1000 + b"\n"])
def test_a_file_without_blank_lines_holds_a_bounded_part_of_itself(
    monkeypatch: pytest.MonkeyPatch, split: Literal["file", "blank_lines"], part: bytes
) -> None:
    monkeypatch.setattr(text_files, "MAX_DOCUMENT_BYTES", 1 << 20)

    class Endless(io.RawIOBase):
        position = 0

        def readable(self) -> bool:
            return True

        def seekable(self) -> bool:
            return True

        def seek(self, offset: int, whence: int = 0) -> int:
            self.position = offset
            return offset

        def read(self, size: int = -1) -> bytes:
            self.position += size
            return (part * (size // len(part) + 1))[:size] if self.position < 32 << 20 else b""

    read(b"compiled before memory is traced")
    tracemalloc.start()
    source = pa.PythonFile(Endless(), mode="r")
    (records,) = read_text(source, 0, None, split=split, block_bytes=1 << 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [d.error for d in records.dead] == ["document of more than 1,048,576 bytes"]
    assert len(records.dead[0].raw) == RAW_BYTES
    assert peak < 8 << 20


def test_batches_are_about_two_megabytes() -> None:
    data = (b"x" * 1000 + b"\n\n") * 10_000
    sizes = [r.table.nbytes for r in read_text(pa.BufferReader(data), 0, None, split="blank_lines")]
    assert len(sizes) > 4
    assert max(sizes) < 1.1 * BATCH_BYTES


@pytest.mark.parametrize(("split", "compression"), [("file", None), ("file", "gzip"), ("blank_lines", "zstd")])
def test_what_is_one_piece_has_no_byte_ranges(split: Literal["file", "blank_lines"], compression: str | None) -> None:
    with pytest.raises(ValueError, match="byte range"):
        list(read_text(pa.BufferReader(b""), 0, 5, split=split, compression=compression))


def test_real_text_in_any_shape(documents: pa.Table) -> None:
    texts = [text.strip().replace("\n\n", "\n") for text in documents["text"].to_pylist()]
    texts = [text for text in texts if text and not any(not line.strip() for line in text.split("\n"))]
    assert len(texts) > 300
    for end in ("\n", "\r\n"):
        data = f"{end}{end}".join(text.replace("\n", end) for text in texts).encode()
        found, dead = read(data, block_bytes=10_000)
        assert not dead
        assert [text.replace("\r\n", "\n") for text in found.values()] == texts
