"""The share of the corpus that trains the reference model, and is not selected from."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..connectors.keys import keyed_uniform
from .steps import Step

SPLIT: Final = "reference_split"
"""Keys the noise that draws the share, and is the reason of what it drops."""

VALIDATION = "reference_validation"
"""Keys the noise that draws those documents of the share that the model is not trained on."""

VALIDATION_SHARE = 0.05


def in_reference_split(keys: NDArray[np.uint64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Return which documents are the reference model's: a pure function of each key, and more with a larger fraction.

    Args:
        keys: document keys, uint64[n]; copies of a document share theirs, and are all in or all out.
        fraction: probability of each, 0 to 1.
        seed: of the reference model.

    Returns:
        bool[n].

    Source: the two disjoint splits of Ankner et al. 2024, "Perplexed by Perplexity" (https://arxiv.org/abs/2405.20541).
    """
    return keyed_uniform(seed, SPLIT, keys) < fraction


def in_validation(keys: NDArray[np.uint64], seed: int) -> NDArray[np.bool_]:
    """Return which of the reference model's documents it is not trained on, but measured with; see the above."""
    return keyed_uniform(seed, VALIDATION, keys) < VALIDATION_SHARE


class ReferenceSplit(Step):
    """Drop the documents that the reference model was trained on or measured with."""

    method: Literal["reference_split"]
    fraction: float = Field(gt=0, lt=1, description="share of the corpus; that of `reference`")
    seed: int = Field(description="of the split; that of `reference`")

    def passes(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which documents are not the reference model's, bool[n]. keys: uint64[n]."""
        return ~in_reference_split(keys, self.fraction, self.seed)

    def draw(self, keys: NDArray[np.uint64]) -> float:
        """Return what the first document drew, from 0 to 1; below `fraction` it is the reference model's."""
        return float(keyed_uniform(self.seed, SPLIT, keys[:1])[0])
