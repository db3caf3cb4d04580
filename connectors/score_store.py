"""The score store: one Parquet file per (shard, scorer), found by fingerprint and never changed."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from . import files
from .atomic import Written, write_atomically
from .errors import TamisError, one_line
from .packed_vectors import packed, unpacked
from .shards import Shard

METADATA_KEY = b"tamis"


@dataclass(frozen=True)
class Address:
    """Names one kind of result: a scorer's columns or a fitted scorer's statistics.

    name: for people who look into the store; fingerprint: hex digits over all that changes the values.
    """

    name: str
    fingerprint: str

    @property
    def folder(self) -> str:
        """Name of the folder in the store."""
        return f"{self.name}-{self.fingerprint}"


@dataclass(frozen=True)
class ScoreStore:
    """Score files under `root`: ROOT/<scorer>-<fingerprint>/<shard fingerprint>.parquet.

    A file that is there is whole (writes are atomic); its rows are the readable rows of the shard, in order.
    """

    root: str

    def url(self, address: Address, shard: Shard, suffix: str = "parquet") -> str:
        """Return where the result for a shard is, or will be."""
        return f"{self.root}/{address.folder}/{shard.fingerprint}.{suffix}"

    def stored(self, address: Address) -> set[str]:
        """Return the fingerprints of the shards whose results are stored."""
        names = files.names_in(f"{self.root}/{address.folder}")
        return {name.split(".", 1)[0] for name in names if name.endswith((".parquet", ".npz")) and name[0] != "."}

    def has(self, address: Address, shard: Shard, suffix: str = "parquet") -> bool:
        """Whether the result for a shard is stored."""
        return files.exists(self.url(address, shard, suffix))

    def write_table(self, address: Address, shard: Shard, table: pa.Table, metadata: dict[str, Any]) -> None:
        """Store a table of scores with `metadata` (JSON) in its footer."""
        content = {"shard": shard.fingerprint, "scorer": address.folder, "rows": table.num_rows, **metadata}
        table = packed(table).replace_schema_metadata({METADATA_KEY: json.dumps(content).encode()})
        plain = [field.name for field in table.schema if not pa.types.is_dictionary(field.type)]
        codecs = {field.name: "none" if _incompressible(field.type) else "zstd" for field in table.schema}
        write_atomically(
            self.url(address, shard),
            lambda file: pq.write_table(
                table,
                file,
                compression=codecs,
                use_dictionary=[name for name in table.column_names if name not in plain],
                row_group_size=max(table.num_rows, 1),
                write_page_checksum=True,
            ),
        )

    def read_table(self, address: Address, shard: Shard, columns: list[str] | None = None) -> pa.Table:
        """Read columns of a score file; raises TamisError naming the file when it is damaged."""
        with self._open(address, shard) as source:
            try:
                file = pq.ParquetFile(source, pre_buffer=False, page_checksum_verification=True)
                return unpacked(file.read(columns=columns, use_threads=False)).replace_schema_metadata(None)
            except (pa.ArrowException, OSError) as error:
                raise self._damaged(address, shard, error) from error

    def read_metadata(self, address: Address, shard: Shard) -> dict[str, Any]:
        """Read the metadata that `write_table` was given, with `rows`."""
        with self._open(address, shard) as source:
            try:
                return dict(json.loads(pq.read_metadata(source).metadata[METADATA_KEY]))
            except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
                raise self._damaged(address, shard, error) from error

    def checked(self, address: Address, shard: Shard) -> dict[str, Any] | None:
        """Read a whole score file and return its metadata, None where there is none.

        Raises TamisError when any byte that matters is damaged, or the file is of another shard or scorer.
        """
        if not self.has(address, shard):
            return None
        facts = self.read_metadata(address, shard)
        if (facts.get("shard"), facts.get("scorer")) != (shard.fingerprint, address.folder):
            raise self._damaged(address, shard, ValueError("it is of another shard or scorer"))
        if len(self.read_table(address, shard)) != facts["rows"]:
            raise self._damaged(address, shard, ValueError("rows are missing"))
        return facts

    def write_arrays(self, address: Address, shard: Shard, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store the statistics of a shard."""
        save_arrays(self.url(address, shard, "npz"), arrays)

    def read_arrays(self, address: Address, shard: Shard) -> dict[str, NDArray[Any]]:
        """Read the statistics of a shard."""
        return load_arrays(self.url(address, shard, "npz"))

    def _open(self, address: Address, shard: Shard) -> pa.NativeFile:
        try:
            return files.open_input(self.url(address, shard))
        except FileNotFoundError as error:
            raise TamisError(f"{self.url(address, shard)} is gone; run again to score this shard anew") from error

    def _damaged(self, address: Address, shard: Shard, error: Exception) -> TamisError:
        url = self.url(address, shard)
        return TamisError(f"{url}: damaged score file ({one_line(error)}); delete it and run again")


def _incompressible(kind: pa.DataType) -> bool:
    plain = (pa.types.is_floating, pa.types.is_uint64, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(is_of(kind) for is_of in plain)


def save_arrays(url: str, arrays: Mapping[str, NDArray[Any]]) -> Written:
    """Write named arrays to an .npz file, atomically; no pickle."""
    return write_atomically(url, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def load_arrays(url: str) -> dict[str, NDArray[Any]]:
    """Read the arrays of an .npz file; raises TamisError naming it when it is missing or damaged."""
    try:
        with np.load(io.BytesIO(files.read_bytes(url)), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TamisError(f"{url}: cannot be read as saved arrays: {one_line(error)}") from error
