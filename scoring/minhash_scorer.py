"""The scorer `minhash`: a sketch of each text, by which the step `deduplicate` finds those that are alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pyarrow as pa
from pydantic import Field

from .scorer import Documents, ScoreColumn, Scorer, ScorerParameters
from .shingles import PERMUTATIONS, SAMPLE, sketches
from .tokenizer import TOKENIZER_VERSION


class MinHashParameters(ScorerParameters):
    """Parameters of `scorer: minhash`."""

    scorer: Literal["minhash"]
    words: int = Field(5, ge=1, le=100, description="in a row, that are one shingle")


class MinHash(Scorer):
    """Sketch of a text's word n-grams, for `method: deduplicate, kind: fuzzy`: 4 bytes each, at most 1,280.

    With sketches in the store, another threshold or another choice of the copy that stays reads no text.
    """

    name = "minhash"
    version = 1
    Parameters = MinHashParameters
    requires = "text"
    primary = ScoreColumn("", pa.large_binary(), "smallest hashes", "none", "sketch of the word n-grams")
    parameters: MinHashParameters

    @property
    def columns(self) -> list[ScoreColumn]:
        """The sketch."""
        return [self.primary]

    @property
    def numerics(self) -> Mapping[str, object]:
        """Parameters, the definition of a word, and the sizes of a sketch."""
        return {**super().numerics, "tokenizer": TOKENIZER_VERSION, "sizes": [SAMPLE, PERMUTATIONS]}

    def score(self, documents: Documents) -> dict[str, pa.Array]:
        """Return the sketch; null for a text without words, which is like no other."""
        return {"": sketches(documents.text, self.parameters.words)}
