"""A finished run as tests look at it, and the writing of corpora for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tamis.pipelines.run import Outcome


@dataclass
class Finished:
    """A run that came to its end, with its files read back."""

    outcome: Outcome

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.outcome.path / "manifest.json").read_text())

    @property
    def data(self) -> pa.Table:
        return self._table("data")

    @property
    def decisions(self) -> pa.Table:
        return self._table("decisions")

    @property
    def dead_letters(self) -> list[dict[str, Any]]:
        return self._table("dead_letters").to_pylist()

    @property
    def data_bytes(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((self.outcome.path / "data").glob("*.parquet"))}

    def _table(self, kind: str) -> pa.Table:
        files = sorted((self.outcome.path / kind).glob("*.parquet"))
        return pa.concat_tables([pq.read_table(file) for file in files], promote_options="permissive")


RunRecipe = Callable[..., Finished]


def write_parquet(table: pa.Table, folder: Path, files: int) -> str:
    """Write a table into so many files; returns their glob."""
    folder.mkdir(parents=True)
    rows = -(-table.num_rows // files)
    for i in range(files):
        pq.write_table(table.slice(i * rows, rows), folder / f"{i:03d}.parquet")
    return str(folder / "*.parquet")


def write_jsonl(table: pa.Table, path: Path) -> bytes:
    """Write a table as JSON lines; returns the bytes."""
    content = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
    path.write_bytes(content)
    return content
