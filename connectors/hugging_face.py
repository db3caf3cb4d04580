"""Data sets of Hugging Face on disk: Arrow streams listed in `state.json`, read without the library `datasets`."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from .corpus_config import CorpusConfig
from .errors import RecipeError, TamisError, one_line
from .files import FileInfo, is_local, local_info, local_path
from .format import Format, Listing
from .records import BATCH_BYTES, Piece, Records
from .schemas import features_of, plain_schema, unify

STATE = "state.json"


class HuggingFace(Format):
    """Folders that `Dataset.save_to_disk` wrote; `paths` names them. The columns keep their features."""

    def find(self, name: str, config: CorpusConfig, shard_bytes: int, skip_unreadable: bool) -> Listing:
        """List the Arrow files of the data sets and cut them by record batches."""
        files = [file for path in config.paths for file in _arrow_files(f"{name}.paths", path)]
        pieces, schemas, unreadable = [], {}, []
        for file in files:
            try:
                cut, schema = _cut(file, shard_bytes)
            except TamisError as error:
                if not skip_unreadable:
                    raise
                unreadable.append(str(error))
                continue
            pieces.append(cut)
            schemas[file.url] = schema
        plain = {url: plain_schema(f"{name}: {url}", schema) for url, schema in schemas.items()}
        unified = unify(name, plain).with_metadata(features_of(schemas.values()))
        return Listing(files, pieces, unified, unreadable)

    def read(self, config: CorpusConfig, piece: Piece, columns: Sequence[str] | None) -> Iterator[Records]:
        """Read record batches, in parts of bounded bytes."""
        done = 0
        try:
            with pa.memory_map(str(local_path(piece.url))) as source, pa.ipc.open_stream(source) as stream:
                names = [name for name in stream.schema.names if columns is None or name in columns]
                plain = plain_schema(piece.url, pa.schema([stream.schema.field(name) for name in names]))
                for number, batch in enumerate(stream):
                    if number >= piece.end:
                        break
                    if number < piece.start:
                        continue
                    table = pa.Table.from_batches([batch]).select(names).cast(plain)
                    step = max(1, int(BATCH_BYTES * table.num_rows / max(table.nbytes, 1)))
                    for start in range(0, table.num_rows, step):
                        part = table.slice(start, step)
                        rows = np.arange(done, done + part.num_rows, dtype=np.int64)
                        done += part.num_rows
                        yield Records(part.combine_chunks(), rows, done)
        except (pa.ArrowException, OSError) as error:
            raise TamisError(f"{piece.url}: damaged Arrow file, after {done} rows: {one_line(error)}") from error
        if piece.rows is not None and done != piece.rows:
            raise TamisError(f"{piece.url}: {done} rows read where {piece.rows} were counted; did the file change?")


def _arrow_files(where: str, pattern: str) -> list[FileInfo]:
    """Return the Arrow files of the data sets that a path or glob names, in their order."""
    if not is_local(pattern):
        raise RecipeError(
            f"{where}: {pattern} is remote; copy the saved data set, or read Parquet files there with `format: parquet`"
        )
    path = local_path(pattern)
    folders = [path] if path.is_dir() else [Path(p) for p in sorted(glob.glob(str(path)))]  # noqa: PTH207 - any base
    if not folders:
        raise RecipeError(f"{where}: no folder matches {pattern}; check the path (it is relative to the recipe)")
    return [file for folder in folders for file in _listed(where, folder)]


def _listed(where: str, folder: Path) -> list[FileInfo]:
    if (folder / "dataset_dict.json").exists():
        splits = ", ".join(sorted(child.name for child in folder.iterdir() if (child / STATE).exists()))
        raise RecipeError(f"{where}: {folder} holds several splits ({splits}); name one, for example {folder}/train")
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        names = [str(entry["filename"]) for entry in state["_data_files"]]
        return [local_info(folder / Path(name).name) for name in names]
    except FileNotFoundError as error:
        raise RecipeError(f"{where}: {folder} is no complete saved data set: {error.filename} is missing") from error
    except NotADirectoryError as error:
        raise RecipeError(f"{where}: {folder} is a file; name the folder that save_to_disk wrote") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{where}: {folder}/{STATE} is not as `datasets` writes it: {one_line(error)}") from error


def _cut(file: FileInfo, shard_bytes: int) -> tuple[list[Piece], pa.Schema]:
    """Cut a file into runs of record batches of at least `shard_bytes` (the last may be smaller)."""
    pieces: list[Piece] = []
    start = size = rows = first_row = number = 0
    try:
        with pa.memory_map(str(local_path(file.url))) as source, pa.ipc.open_stream(source) as stream:
            schema = stream.schema
            for number, batch in enumerate(stream, start=1):
                size, rows = size + batch.nbytes, rows + batch.num_rows
                if size >= shard_bytes:
                    pieces.append(Piece(file.url, file.version, start, number, size, first_row, rows))
                    first_row += rows
                    start, size, rows = number, 0, 0
    except (pa.ArrowException, OSError) as error:
        raise TamisError(f"{file.url}: cannot be read as an Arrow stream: {one_line(error)}") from error
    if number > start:
        pieces.append(Piece(file.url, file.version, start, number, size, first_row, rows))
    return pieces, schema
