"""The scorer `overlap`: the share of a document that stands in benchmarks too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator

from ..connectors.errors import RecipeError
from ..connectors.keys import united
from .overlap import covered_tokens, ngram_filter, ngram_hashes
from .scorer import Documents, FittedScorer, ScoreColumn, ScorerParameters, Statistic, digest, digest_arrays
from .tokenizer import TOKENIZER_VERSION

BENCHMARK_PREFIX = "benchmark "
SETTINGS = "settings"


class OverlapParameters(ScorerParameters):
    """Parameters of `scorer: overlap`."""

    path_keys: ClassVar[tuple[str, ...]] = ()

    scorer: Literal["overlap"]
    benchmarks: list[str] = Field(min_length=1, description="names in `targets`")
    ngrams: int = Field(13, ge=1, le=1000, description="tokens in a row that must be the same")
    max_ngrams: int = Field(50_000_000, ge=1, description="of all benchmarks; 10 bytes each in every process")

    @field_validator("benchmarks")
    @classmethod
    def _once(cls, names: list[str]) -> list[str]:
        if len(set(names)) != len(names):
            raise ValueError("overlap names a benchmark twice; keep one of them")
        return names


class Overlap(FittedScorer):
    """Share of a document's tokens that lie in an n-gram of a benchmark: 0 where none is shared.

    The primary column is for all benchmarks together, `<name>_<benchmark>` for each where there are several. Documents
    of fewer than `ngrams` tokens share none.
    """

    name = "overlap"
    version = 1
    Parameters = OverlapParameters
    requires = "text; benchmarks among the targets"
    primary = ScoreColumn("", pa.float64(), "share of the tokens", "lower", "tokens in n-grams of the benchmarks")
    parameters: OverlapParameters

    def __init__(self, parameters: OverlapParameters) -> None:
        super().__init__(parameters)
        self._sets: dict[str, tuple[NDArray[np.uint64], NDArray[np.uint64]]] = {}

    @property
    def fits_corpus(self) -> bool:
        """It knows all that it needs from the benchmarks."""
        return False

    @property
    def targets(self) -> list[str]:
        """The benchmarks."""
        return self.parameters.benchmarks

    @property
    def columns(self) -> list[ScoreColumn]:
        """All benchmarks, then each one where there are several."""
        suffixes = ["", *(self.targets if len(self.targets) > 1 else [])]
        return [replace(self.primary, suffix=suffix) for suffix in suffixes]

    @property
    def counted(self) -> list[str]:
        """All columns: how many documents share something."""
        return [column.suffix for column in self.columns]

    @property
    def numerics(self) -> Mapping[str, object]:
        """N-grams of the benchmarks, their length, and the tokenizer."""
        return self._counting() | {"state": digest_arrays(self.state), "benchmarks": self.targets}

    @property
    def statistic_fingerprint(self) -> str:
        """Depends on the length of the n-grams only."""
        return digest(self.name, self.version, self._counting())

    def _counting(self) -> dict[str, object]:
        return {"tokenizer": TOKENIZER_VERSION, "ngrams": self.parameters.ngrams}

    def start(self) -> Statistic:
        """No n-grams; documents, and those too short to have one."""
        return {"ngrams": np.zeros(0, np.uint64), "documents": np.zeros(2, np.int64)}

    def update(self, statistic: Statistic, documents: Documents, of_corpus: bool) -> None:
        """Add the n-grams of a batch of a benchmark."""
        tokens = documents.tokens
        found = ngram_hashes(tokens.offsets, tokens.hashes, self.parameters.ngrams)
        statistic["ngrams"] = united(statistic["ngrams"], found)
        short = np.count_nonzero(tokens.counts < self.parameters.ngrams)
        statistic["documents"] = statistic["documents"] + np.array([len(documents), short])

    def finish(self, corpus: Statistic, targets: Mapping[str, Statistic]) -> None:
        """Keep the n-grams; raises RecipeError for a benchmark without any, and for more than `max_ngrams`."""
        total = sum(len(targets[name]["ngrams"]) for name in self.targets)
        if total > self.parameters.max_ngrams:
            raise RecipeError(f"overlap: the benchmarks have {total:,} n-grams; raise `max_ngrams` if memory allows")
        state: dict[str, NDArray[Any]] = {}
        for name in self.targets:
            if not len(targets[name]["ngrams"]):
                n = self.parameters.ngrams
                raise RecipeError(
                    f"overlap: no document of `{name}` has {n} tokens; lower `ngrams`, or is it another file?"
                )
            state[BENCHMARK_PREFIX + name] = targets[name]["ngrams"]
            state[f"documents {name}"] = targets[name]["documents"]
        state[SETTINGS] = np.frombuffer(json.dumps(self._counting(), sort_keys=True).encode(), dtype=np.uint8)
        self.restore(state)

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Use a saved state."""
        self.state = dict(state)
        sets = {name: np.asarray(state[BENCHMARK_PREFIX + name], np.uint64) for name in self.targets}
        if len(sets) > 1:
            sets[""] = united(*sets.values())
        else:
            sets = {"": next(iter(sets.values()))}
        self._sets = {name: (ngrams, ngram_filter(ngrams)) for name, ngrams in sets.items()}

    def score(self, documents: Documents) -> dict[str, pa.Array]:
        """Shares from 0 to 1."""
        tokens = documents.tokens
        lengths = np.maximum(tokens.counts, 1)
        n = self.parameters.ngrams
        return {
            column.suffix: pa.array(
                covered_tokens(tokens.offsets, tokens.hashes, n, *self._sets[column.suffix]) / lengths
            )
            for column in self.columns
        }

    def findings(self, keys: NDArray[np.uint64], share: float) -> list[str]:
        """Say which benchmarks have documents that are too short to be looked for."""
        lines = []
        for name in self.targets:
            documents, short = self.state[f"documents {name}"].tolist()
            if short:
                n = self.parameters.ngrams
                lines.append(
                    f"{short:,} of {documents:,} documents of {name} have fewer than {n} tokens: not looked for"
                )
        return lines
