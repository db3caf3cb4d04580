"""What a scorer is: a turn of a batch of documents into columns, with a fingerprint that names its numerics."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.corpus_config import CorpusConfig
from ..connectors.files import absolute
from ..connectors.settings import Settings
from .tokenizer import Tokens, tokenize

Statistic = dict[str, NDArray[Any]]
"""Mergeable statistics of documents: int64 arrays are merged by adding them, uint64 arrays are sets, and united."""


TOKENIZER = "tokenizer"
"""Key of the metadata of a column with an entry for each token."""

KEYS_SAMPLE = "duplicates"
"""Name of the keyed sample in which documents are compared by key (all of them, where they are few)."""


class Documents:
    """One batch as scorers see it; what several of them need is computed once.

    text: large_string[n], valid UTF-8; keys: uint64[n]; groups: string[n] or None where the recipe names none; table:
    columns of the corpus, with at least those that a scorer `needs`.
    """

    def __init__(
        self,
        text: pa.Array,
        keys: NDArray[np.uint64],
        groups: pa.Array | None = None,
        table: pa.Table | None = None,
    ) -> None:
        self.text, self.keys, self.groups, self.table = text, keys, groups, table
        self._tokens: Tokens | None = None

    def __len__(self) -> int:
        return len(self.text)

    @property
    def tokens(self) -> Tokens:
        """The words of the DSIR tokenizer."""
        if self._tokens is None:  # not a cached_property: Python 3.11 computes those of all workers under one lock
            self._tokens = tokenize(self.text)
        return self._tokens


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type holds one number for each document, and not a list or bytes."""
    return not pa.types.is_nested(kind) and not pa.types.is_large_binary(kind)


@dataclass(frozen=True)
class ScoreColumn:
    """A column that a scorer adds.

    suffix: empty for the primary column, which carries the score's name, else the column is `<name>_<suffix>`;
    direction: which way the documents lie that the method would keep; tokenizer: fingerprint of that of a list with an
    entry for each token; jumps: whether the least change of what it is made from may give quite another value.
    """

    suffix: str
    type: pa.DataType
    unit: str
    direction: Literal["higher", "lower", "none"]
    summary: str
    tokenizer: str = ""
    jumps: bool = False

    def field(self, name: str) -> pa.Field:
        """Return the column for a file: its metadata name the tokenizer."""
        return pa.field(name, self.type, metadata={TOKENIZER: self.tokenizer} if self.tokenizer else None)

    @property
    def is_number(self) -> bool:
        """Whether it holds one number for each document, and not a list or bytes."""
        return is_number(self.type)

    def named(self, score: str) -> str:
        """Return the column's name for a score of this name."""
        return f"{score}_{self.suffix}" if self.suffix else score


class ScorerParameters(Settings):
    """Base of every scorer's parameters; unknown keys are errors."""

    path_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that hold paths; in a recipe these are relative to it."""

    scorer: str

    def resolved(self, base: Path) -> Self:
        """Return the same with absolute paths. base: folder that they are relative to."""
        paths = {key: getattr(self, key) for key in self.path_keys}
        return self.model_copy(update={key: absolute(url, base) for key, url in paths.items() if url is not None})


class Scorer(ABC):
    """Turns documents into columns. Subclasses set `name`, `version` and `Parameters`."""

    name: ClassVar[str]
    version: ClassVar[int]
    """Rises with every change of the numerics."""
    Parameters: ClassVar[type[ScorerParameters]]
    requires: ClassVar[str]
    """One line for `tamis list`: what must be there."""
    primary: ClassVar[ScoreColumn]
    sized: ClassVar[str | None] = None
    """Suffix of the column that counts the tokens to be scored, where a document may have some and yet no score: when
    it does not fit into the memory of the device. A run counts and names these."""
    tolerance: ClassVar[float] = 0.0
    """How far a document's score may be from the one before, relative to scores above 1; text scorers are exact."""

    def __init__(self, parameters: Any) -> None:
        self.parameters = parameters

    @classmethod
    def of(cls, parameters: Any) -> Scorer:
        """Return the scorer that a recipe asks for: of this class, or of one that parameters choose in its place."""
        return cls(parameters)

    @property
    @abstractmethod
    def columns(self) -> list[ScoreColumn]:
        """The columns that it adds, `primary` first."""

    @property
    def needs(self) -> list[str]:
        """Columns of the corpus that it reads, beside the text."""
        return []

    @abstractmethod
    def score(self, documents: Documents) -> dict[str, pa.Array]:
        """Return the columns by suffix, each of the documents' length; null where a document could not be scored."""

    def prepare(self, corpus: CorpusConfig) -> None:  # noqa: B027 - most read nothing else
        """Look at what it reads besides the corpus, once, before documents are read; raises RecipeError."""

    def findings(self, keys: NDArray[np.uint64], share: float) -> list[str]:
        """Return what the user should know after a run, a line each.

        keys: uint64[m], of the documents that `keyed_sample` takes with `share` under the name KEYS_SAMPLE.
        """
        return []

    @property
    def counted(self) -> list[str]:
        """Suffixes of columns for which a run counts the documents above zero, read and kept."""
        return []

    @property
    def fingerprint(self) -> str:
        """Hex digits over everything that changes the values."""
        return digest(self.name, self.version, self.numerics)

    @property
    def numerics(self) -> Mapping[str, object]:
        """What else changes the values, besides name and version: by default the parameters."""
        return dict(self.parameters.model_dump(mode="json"))


class LearnedScorer(Scorer):
    """A scorer with a state, which a run learns and keeps, or an earlier one has learnt."""

    is_given: ClassVar[bool] = False
    """Whether the state is there once it is prepared, and no run learns it."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self.state: dict[str, NDArray[Any]] = {}

    @abstractmethod
    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Set `state` to a saved one; raises RecipeError when it was fitted with other parameters."""


def is_learning(scorer: Scorer) -> bool:
    """Whether a run has to learn a scorer's state, unless it uses a saved one."""
    return isinstance(scorer, LearnedScorer) and not scorer.is_given


class FittedScorer(LearnedScorer):
    """A scorer that learns from statistics of the corpus and its targets before it can score.

    The statistics are sums of integers and sets, so that any order and any cutting into shards gives the same state.
    """

    describes_selection: ClassVar[bool] = False
    """Whether `describe_selection` says something, for which statistics of the kept documents are made."""
    fits_first: ClassVar[bool] = False
    """Whether others use it while they are fitted, so that the corpus is read for it alone before them."""

    @property
    def fits_corpus(self) -> bool:
        """Whether it needs statistics of the corpus besides those of the targets."""
        return True

    @property
    @abstractmethod
    def targets(self) -> list[str]:
        """Names of the target corpora that it is fitted on; none when a saved state is given."""

    @property
    def target_needs(self) -> list[str]:
        """Columns of a target that it reads, beside the text and a response."""
        return []

    @property
    @abstractmethod
    def statistic_fingerprint(self) -> str:
        """Hex digits over everything that changes the statistics of a shard."""

    @abstractmethod
    def start(self) -> Statistic:
        """Return the statistics of no documents."""

    @abstractmethod
    def update(self, statistic: Statistic, documents: Documents, of_corpus: bool) -> None:
        """Add a batch of documents to the statistics; of_corpus: they are the corpus's, which may be sampled."""

    def trimmed(self, statistic: Statistic) -> Statistic:
        """Return merged statistics without what `finish` would not use: sets that have grown beyond a bound."""
        return statistic

    @abstractmethod
    def finish(self, corpus: Statistic, targets: Mapping[str, Statistic]) -> None:
        """Set `state` from the merged statistics; raises RecipeError when they do not suffice."""

    def describe_selection(self, selected: Statistic) -> dict[str, float]:
        """Return figures for the manifest that compare the kept documents with corpus and targets."""
        return {}


def digest(*content: object) -> str:
    """Return 16 hex digits over JSON-like content."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_arrays(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return 16 hex digits over named arrays: names, types, shapes and values."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name}:{array.dtype.str}:{array.shape}:".encode())
        state.update(array.tobytes())
    return state.hexdigest()[:16]
