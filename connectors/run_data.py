"""What a finished run, or several, give to a loader: data files and their columns, groups, and what identifies them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .decisions import DATA
from .errors import TamisError, nearest, one_line
from .files import open_input, read_bytes
from .parquet import footer
from .row_groups import DataFile, RowGroups
from .run_directory import MANIFEST

_ROLES = ("text", "prompt", "response", "messages")
OWN = ("key", "weight", "group")
"""What every document has besides its text."""

_RENAMED = ("key", "weight", "token_weights", "parent_key", "position")
"""Columns of Tamis for which a corpus's own of that name is called `source_…` in the data files."""


@dataclass(frozen=True)
class RunData:
    """Data files of runs. names: of what a document has, by the names that a loader gives; schema: of the data files;
    group_names: all, sorted; fingerprint: of the files' content.
    """

    groups: RowGroups
    names: list[str]
    schema: pa.Schema
    group_names: list[str]
    fingerprint: str


def open_runs(run: str | Path | Sequence[str | Path], columns: Sequence[str], chain: bool) -> RunData:
    """Read the manifests and footers of runs.

    Args:
        run: a run directory, or several, local or anywhere fsspec reaches.
        columns: further columns of the data files.
        chain: with each run also those that it continues (`since`), the oldest first.

    Raises:
        TamisError: a run is not there or not finished, a column is missing, or a file is not as the manifest says.
    """
    urls = [str(one) for one in ([run] if isinstance(run, str | Path) else run)]
    if not urls:
        raise TamisError("there is no run in the list of runs to load")
    manifests: dict[str, dict[str, Any]] = {}
    for url in urls:
        for one, manifest in _chain(url.rstrip("/"), chain):
            manifests.setdefault(one, manifest)
    files, contents, groups = [], [], set()
    schema = pa.schema([])
    for one, manifest in manifests.items():
        listed = [file for file in manifest["files"] if DATA.fullmatch(file["path"])]
        groups |= set(_group_names(one, manifest))
        contents += [(file["path"], file["sha256"]) for file in listed]
        if listed:
            schema = footer(f"{one}/{listed[0]['path']}").schema.to_arrow_schema()
            named = _columns(manifest["recipe"]["corpus"], schema.names) | _more(columns, schema.names)
            files += [DataFile(f"{one}/{file['path']}", file["rows"], named) for file in listed]
    if not files:
        raise TamisError(f"{', '.join(urls)}: no document is kept, there is nothing to load")
    names = list(files[0].columns)
    other = next((file.url for file in files if list(file.columns) != names), None)
    if other is not None:
        raise TamisError(f"{other}: has not the columns {', '.join(names)} that {files[0].url} has; load them apart")
    content = hashlib.sha256(json.dumps(contents).encode()).hexdigest()
    return RunData(RowGroups.of(files), names, schema, sorted(groups), content)


def _chain(url: str, chain: bool) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    next_url: str | None = url
    while next_url is not None:
        manifest = _manifest(next_url)
        found.insert(0, (next_url, manifest))
        since = manifest.get("since")
        next_url = str(since["run"]) if chain and since else None
        if any(next_url == one for one, _ in found):
            raise TamisError(f"{next_url} continues itself; `tamis verify` checks a chain of runs")
    return found


def _manifest(url: str) -> dict[str, Any]:
    try:
        return dict(json.loads(read_bytes(f"{url}/{MANIFEST}")))
    except FileNotFoundError as error:
        raise TamisError(f"{url} holds no finished run; check the path") from error
    except ValueError as error:
        raise TamisError(f"{url}/{MANIFEST}: cannot be read as JSON: {one_line(error)}") from error


def _group_names(url: str, manifest: Mapping[str, Any]) -> list[str]:
    if isinstance(manifest["groups"], str):
        with open_input(f"{url}/{manifest['groups']}") as source:
            names = pq.read_table(source, columns=["group"])["group"].to_pylist()
    else:
        names = [group["group"] for group in manifest["groups"]]
    return [name for name in names if name is not None]


def _columns(corpus: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """Return the columns of the text by role, then key and weight, and group where there is one."""
    roles = {role: _written(corpus[role], names) for role in _ROLES if corpus.get(role) is not None}
    group = {"group": _written(corpus["group"], names)} if corpus.get("group") is not None else {}
    return roles | {"key": "key", "weight": "weight"} | group


def _written(column: str, names: Sequence[str]) -> str:
    """Return the name of a column of the corpus in the data files, where Tamis may have a column of that name."""
    while f"source_{column}" in names and column.split("source_")[-1] in _RENAMED:
        column = f"source_{column}"
    return column


def _more(columns: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    for column in columns:
        if column in (*_ROLES, *OWN):
            raise TamisError(f"columns: `{column}` is there in any case, or names a part of the text; leave it out")
        if column not in names:
            raise TamisError(f"columns: the data files have no column `{column}`{nearest(column, names)}")
    return {column: column for column in columns}


def columns_of(filter: pc.Expression, schema: pa.Schema) -> tuple[str, ...]:
    """Return the columns that an expression names: those without which it cannot be applied.

    Raises TamisError where it does not fit the columns that there are.
    """
    if not isinstance(filter, pc.Expression):
        raise TamisError(f"filter: give an expression, as pyarrow.compute.field('weight') > 1, not {filter!r}")
    try:
        schema.empty_table().filter(filter)
    except (pa.ArrowException, TypeError) as error:
        raise TamisError(f"filter: {one_line(error)}; the data files have {', '.join(schema.names)}") from error
    return tuple(name for name in schema.names if not _applies(filter, schema.remove(schema.get_field_index(name))))


def _applies(filter: pc.Expression, schema: pa.Schema) -> bool:
    try:
        schema.empty_table().filter(filter)
    except pa.ArrowInvalid:
        return False
    return True
