"""Readers against the library underneath, on one core: `python reading.py FORMAT --corpus 'corpus/*.parquet'`.

    csv      against pyarrow.csv, which reads the same columns with newlines in values
    text     against reading, bytes.split at empty lines and an Arrow array of the parts
    jsonl    against pyarrow.json, block by block, which reads the same columns
    parquet  against pyarrow.parquet, row groups in batches of the same size
    huggingface  against `datasets`, which iterates over a saved data set as Arrow tables of 1,000 rows

The texts of the corpus are written out in the format first, into a temporary folder; all is in the page cache. Readings
alternate, and medians are compared. Ours also numbers rows, checks UTF-8 and finds dead rows. With --extra (csv, jsonl)
ours puts all other columns into one JSON column as well, and the library reads them as columns.
"""

from __future__ import annotations

import argparse
import csv
import functools
import glob
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from tamis.connectors import parquet
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.csv_files import read_csv
from tamis.connectors.files import local_info
from tamis.connectors.hugging_face import HuggingFace
from tamis.connectors.jsonl import read_jsonl
from tamis.connectors.lines import line_blocks, range_chunks
from tamis.connectors.opening import open_corpus
from tamis.connectors.records import Piece
from tamis.connectors.text_files import read_text

BLOCK_BYTES = 8 << 20
Reading = Callable[[], int]
"""Reads a file to its end; returns the number of rows."""


def write(table: pa.Table, format: str, text: str, path: Path) -> None:
    if format == "parquet":
        pq.write_table(table, path, row_group_size=5000)
        return
    if format == "huggingface":
        datasets.Dataset(table).save_to_disk(path)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if format == "csv":
            writer = csv.writer(file)
            writer.writerow(table.column_names)
            writer.writerows(zip(*(column.to_pylist() for column in table.columns), strict=True))
        elif format == "jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
        else:
            file.writelines(value + "\n\n" for value in table[text].to_pylist())


def ours(path: Path, format: str, columns: Sequence[str], extra: bool) -> int:
    if format == "parquet":
        (piece,) = parquet.cut(local_info(path), pq.read_metadata(path), 1 << 50)
        return sum(len(records.rows) for records in parquet.read(piece, columns))
    if format == "huggingface":
        config, pieces = open_set(path)
        read = (HuggingFace().read(config, piece, columns) for piece in pieces)
        return sum(len(records.rows) for piece in read for records in piece)
    with pa.OSFile(str(path), "rb") as source:
        if format == "csv":
            batches = read_csv(source, columns, delimiter=",", extra=extra)
        elif format == "jsonl":
            batches = read_jsonl(source, 0, None, columns, extra=extra)
        else:
            batches = read_text(source, 0, None, split="blank_lines")
        return sum(len(records.rows) + len(records.dead) for records in batches)


@functools.cache
def open_set(path: Path) -> tuple[CorpusConfig, list[Piece]]:
    config = CorpusConfig(format="huggingface", paths=[str(path)])
    return config, [piece for shard in open_corpus("corpus", config).shards for piece in shard.pieces]


@functools.cache
def loaded(path: Path) -> datasets.Dataset:
    return datasets.load_from_disk(path)


def theirs(path: Path, format: str, columns: Sequence[str]) -> int:
    if format == "parquet":
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        rows = max(1, file.metadata.num_rows * (2 << 20) // sum(map(_group_bytes(columns), _groups(file))))
        return sum(len(batch) for batch in file.iter_batches(rows, columns=list(columns), use_threads=False))
    if format == "huggingface":
        saved = loaded(path).select_columns(list(columns)).with_format("arrow")
        return sum(len(batch) for batch in saved.iter(1000))
    with pa.OSFile(str(path), "rb") as source:
        if format == "csv":
            return sum(map(len, arrow_csv(source, columns)))
        if format == "jsonl":
            blocks = line_blocks(range_chunks(source, 0, None, BLOCK_BYTES), BLOCK_BYTES)
            return sum(len(arrow_json(block, columns)) for block in blocks)
        return sum(map(len, split_text(source)))


def _groups(file: pq.ParquetFile) -> Iterator[pq.RowGroupMetaData]:
    return (file.metadata.row_group(i) for i in range(file.num_row_groups))


def _group_bytes(columns: Sequence[str]) -> Callable[[pq.RowGroupMetaData], int]:
    def size(group: pq.RowGroupMetaData) -> int:
        chunks = [group.column(i) for i in range(group.num_columns)]
        return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in columns)

    return size


def arrow_csv(source: pa.NativeFile, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    return iter(
        pyarrow.csv.open_csv(
            source,
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=list(columns), column_types=dict.fromkeys(columns, pa.large_string())
            ),
        )
    )


def arrow_json(block: bytes, columns: Sequence[str]) -> pa.Table:
    schema = pa.schema([(name, pa.large_string()) for name in columns])
    return pyarrow.json.read_json(
        pa.BufferReader(block),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )


def split_text(source: pa.NativeFile) -> Iterator[pa.Array]:
    rest = b""
    while chunk := source.read(BLOCK_BYTES):
        *parts, rest = (rest + chunk).split(b"\n\n")
        yield pa.array(parts, pa.large_binary()).cast(pa.large_string())
    if rest:
        yield pa.array([rest], pa.large_binary()).cast(pa.large_string())


def seconds(readings: Sequence[Reading], times: int) -> list[list[float]]:
    """Wall times of readings in turn, after one that compiles and warms up."""
    rows = [reading() for reading in readings]
    print(f"{rows[0]:,} rows" if len(set(rows)) == 1 else f"DIFFERENT numbers of rows: {rows}")
    laps: list[list[float]] = [[] for _ in readings]
    for _ in range(times):
        for lap, reading in zip(laps, readings, strict=True):
            start = time.perf_counter()
            reading()
            lap.append(time.perf_counter() - start)
    return laps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=["csv", "text", "jsonl", "parquet", "huggingface"])
    parser.add_argument("--corpus", required=True, help="glob of Parquet files")
    parser.add_argument("--text", default="text", help="column with the text")
    parser.add_argument("--columns", nargs="*", default=[], help="columns to read besides, such as id and group")
    parser.add_argument("--extra", action="store_true", help="with all other columns")
    parser.add_argument("--times", type=int, default=7)
    options = parser.parse_args()
    paths = sorted(glob.glob(options.corpus))  # noqa: PTH207 (the pattern may be absolute)
    if not paths:
        raise SystemExit(f"no Parquet file matches {options.corpus}")
    table = pa.concat_tables([pq.read_table(path) for path in paths])
    columns = list(dict.fromkeys([options.text, *options.columns]))
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"corpus.{options.format}")
        write(table, options.format, options.text, path)
        megabytes = path.stat().st_size / 1e6
        their_columns = table.column_names if options.extra else columns
        readings = [
            functools.partial(ours, path, options.format, columns, options.extra),
            functools.partial(theirs, path, options.format, their_columns),
        ]
        del table
        mine, other = (statistics.median(laps) for laps in seconds(readings, options.times))
    print(
        f"{options.format}, {megabytes:.0f} MB: ours {megabytes / mine:.0f} MB/s, library {megabytes / other:.0f} MB/s"
    )
    print(f"ratio ours / library {mine / other:.2f}")


if __name__ == "__main__":
    main()
