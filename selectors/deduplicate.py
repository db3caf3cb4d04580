"""The step `deduplicate`: of documents that are copies of each other, or alike, one stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..connectors.keys import keyed_bits
from .ordering import ascending, descending
from .steps import Step

UInt64 = NDArray[np.uint64]

BY_SCORE = ("best", "hardest", "highest", "lowest")
"""Values of `keep_copy` that need a score."""

_OF_KINDS = {
    "sketch": (["fuzzy"], "the name of a score of `scorer: minhash`"),
    "vectors": (["semantic"], "the name of a score of `scorer: embedding`"),
    "clusters": (["semantic"], "the name of a score of `scorer: clusters`"),
    "threshold": (["fuzzy", "semantic"], ""),
}
"""Keys that only some kinds take, and what they name."""


class Duplicates(Protocol):
    """Which documents a decided step drops, and for which others."""

    def winners(self, positions: UInt64) -> UInt64:
        """Return for each document the position of the one that stays in its place: its own where it stays itself.

        positions: uint64[n], of documents of one shard (see `decide.Rows`).
        """
        ...


class Deduplicate(Step):
    """Keep one document of each group of copies: of equal text, similar words (fuzzy) or near meaning (semantic).

    Fuzzy: texts are alike from a Jaccard similarity of their word n-grams on; what is alike through others is one
    group. Candidates are found by MinHash LSH, and their similarity is then measured on the sketches of `scorer:
    minhash`; a pair at the threshold is found with a probability of 0.98, a more similar one with a higher one.

    Semantic: of each cluster, in the order of `keep_copy`, a document goes that is near an earlier one, as in SemDeDup,
    whose default is `keep_copy: highest` by the distance from the centroid.
    """

    method: Literal["deduplicate"]
    kind: Literal["exact", "fuzzy", "semantic"]
    sketch: str | None = Field(None, description="fuzzy: a score of `scorer: minhash`")
    vectors: str | None = Field(None, description="semantic: a score that holds vectors, as of `scorer: embedding`")
    clusters: str | None = Field(None, description="semantic: a score of cluster numbers, as of `scorer: clusters`")
    threshold: float | None = Field(
        None, gt=0, le=1, description="similarity from which on texts are copies; Jaccard (0.7), or cosine (0.95)"
    )
    keep_copy: Literal["first", "random", "best", "hardest", "highest", "lowest"] = Field(
        "first", description="which document of a group stays; best and hardest go by the direction of `by`"
    )
    by: str | None = Field(None, description="score by which a copy is best, hardest, highest or lowest")

    @property
    def needs(self) -> list[str]:
        """The score that chooses among copies, and the clusters."""
        return [name for name in (self.by, self.clusters) if name is not None]

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: object) -> object:
        if isinstance(values, dict) and not values.get("name"):
            return values | {"name": f"deduplicate_{values.get('kind', '')}"}
        return values

    @model_validator(mode="after")
    def _fits(self) -> Deduplicate:
        if (self.by is not None) != (self.keep_copy in BY_SCORE):
            why = "`by`, the score that says which" if self.by is None else "no `by`: best, hardest, highest, lowest do"
            raise ValueError(f"keep_copy: {self.keep_copy} takes {why}")
        for key, (kinds, what) in _OF_KINDS.items():
            given, fits = getattr(self, key) is not None, self.kind in kinds
            if given and not fits:
                raise ValueError(f"deduplicate: {self.kind} takes no `{key}`")
            if fits and not given and key != "threshold":
                raise ValueError(f"deduplicate: {self.kind} needs `{key}`, {what}")
        return self

    @property
    def similarity(self) -> float:
        """The threshold, or its default."""
        return self.threshold if self.threshold is not None else {"fuzzy": 0.7, "semantic": 0.95}.get(self.kind, 1.0)

    def rank(
        self,
        scores: Mapping[str, NDArray[np.float64]],
        keys: UInt64,
        numbers: NDArray[np.int64],
        direction: str,
        seed: int,
    ) -> UInt64:
        """Return an order of documents in which the first one of a group stays, uint64[n], small first.

        Args:
            scores: float64[n] by column, without NaN.
            keys: uint64[n]; they decide between equal ranks, and between equal keys the numbers.
            numbers: int64[n], places in the corpus.
            direction: of the score, `higher` or `lower`, for best and hardest.
            seed: of the run.
        """
        if self.by is None:
            return keyed_bits(seed, self.name, keys) if self.keep_copy == "random" else numbers.astype(np.uint64)
        best_is_high = direction == "higher"
        highest = {"best": best_is_high, "hardest": not best_is_high}.get(self.keep_copy, self.keep_copy == "highest")
        return descending(scores[self.by]) if highest else ascending(scores[self.by])
