"""The scorer `column`: numbers that somebody else has computed, in the corpus or in a file beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from ..connectors.corpus_config import CorpusConfig
from ..connectors.errors import RecipeError, TamisError
from ..connectors.files import FileInfo, expand
from ..connectors.keys import hash_column, keyed_sample
from ..connectors.records import one_array
from ..connectors.schemas import is_text
from ..connectors.side_table import SideTable, Take, check_side_files, is_number, load_side_table
from .scorer import KEYS_SAMPLE, Documents, ScoreColumn, Scorer, ScorerParameters


class ColumnParameters(ScorerParameters):
    """Parameters of `scorer: column`."""

    path_keys: ClassVar[tuple[str, ...]] = ("file",)

    scorer: Literal["column"]
    column: str = Field(description="of the corpus, or of `file`; numbers, or true and false as 1 and 0")
    file: str | None = Field(None, description="Parquet file or glob beside the corpus, which has the column")
    join: Literal["id", "key"] = Field("id", description="how rows of `file` find documents")
    on: str | None = Field(None, description="column of `file` with the ids or keys; default: `id` or `key`")
    take: Take = Field("mean", description="of several rows for one document")
    max_bytes: int = Field(1 << 30, gt=0, description="memory for `file` in each process, 16 bytes a row")


class Column(Scorer):
    """Number from a column of the corpus, or of a Parquet file beside it that is joined by id or key."""

    name = "column"
    version = 1
    Parameters = ColumnParameters
    requires = "a column of the corpus with numbers, or `file`"
    primary = ScoreColumn("", pa.float64(), "as given", "none", "the number; null where there is none")

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self._files: tuple[FileInfo, ...] = ()
        self._id: str | None = None
        self._joins_pieces = False

    @property
    def columns(self) -> list[ScoreColumn]:
        """The one column."""
        return [self.primary]

    @property
    def needs(self) -> list[str]:
        """The column of the corpus."""
        return [self.parameters.column] if self.parameters.file is None else []

    @property
    def numerics(self) -> Mapping[str, object]:
        """The parameters that change values, and the state of the files."""
        chosen = self.parameters.model_dump(mode="json", exclude={"max_bytes"})
        return chosen | {"files": [astuple(file) for file in self._files], "id": self._id}

    def prepare(self, corpus: CorpusConfig) -> None:
        """Look at the files beside the corpus; raises RecipeError for what cannot be joined."""
        settings = self.parameters
        if settings.file is None:
            return
        if settings.join == "id":
            if corpus.id is None:
                raise RecipeError("`join: id` needs `corpus.id`; name the column, or join by key")
            self._id = corpus.id
        self._joins_pieces = corpus.chunk is not None and settings.join == "id"
        self._files = tuple(expand([settings.file], "file"))
        check_side_files(self._files, self._on, settings.column, settings.max_bytes)

    def score(self, documents: Documents) -> dict[str, pa.Array]:
        """Return the numbers as float64."""
        if not self._files:
            return {"": self._from_corpus(documents)}
        keys = documents.keys
        if self._id is not None and documents.table is not None:  # of the whole document, where it is cut
            keys = hash_column(one_array(documents.table.column(self._id)))
        values, there = self._side_table().look_up(keys)
        return {"": pa.array(values, mask=~there)}

    def findings(self, keys: NDArray[np.uint64], share: float) -> list[str]:
        """Say how many rows of the file and how many documents found no partner."""
        if not self._files or self._joins_pieces:
            return []
        side = self._side_table()
        sampled = side.keys[keyed_sample(0, KEYS_SAMPLE, side.keys, share)]
        unmatched = int(np.count_nonzero(~np.isin(sampled, keys)))
        without = int(np.count_nonzero(~side.look_up(keys)[1]))
        if not unmatched and not without:
            return []
        about = "" if share >= 1 else "about "
        joined = f"{self.parameters.join}s"
        return [
            f"{self.parameters.file}: {about}{round(unmatched / share):,} of {len(side.keys):,} {joined} are "
            f"of no document, and {about}{round(without / share):,} documents have no row there (their score is null)"
        ]

    @property
    def _on(self) -> str:
        return str(self.parameters.on or self.parameters.join)

    def _side_table(self) -> SideTable:
        settings = self.parameters
        return load_side_table(self._files, self._on, settings.column, settings.take, settings.join == "key")

    def _from_corpus(self, documents: Documents) -> pa.Array:
        assert documents.table is not None
        name = self.parameters.column
        if name not in documents.table.column_names:
            return pa.nulls(len(documents), pa.float64())
        column = one_array(documents.table.column(name))
        if is_text(column.type):
            return _parsed(column)
        if not is_number(column.type) and not pa.types.is_null(column.type):
            raise TamisError(f"corpus: column `{name}` holds {column.type}, where numbers are needed")
        values = column.cast(pa.float64())
        return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)


def _parsed(column: pa.Array) -> pa.Array:
    """Read numbers from text, as formats without types give them; what is none is null."""
    try:
        return column.cast(pa.float64())
    except pa.ArrowInvalid:
        return pa.array([_number(value) for value in column.to_pylist()], pa.float64())


def _number(value: str | None) -> float | None:
    if value in ("true", "false"):
        return float(value == "true")
    try:
        number = float(value) if value is not None else None
    except ValueError:
        return None
    return None if number is None or np.isnan(number) else number
