"""What scorers have in common whose columns are projected gradients, on which `influence` works."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import pyarrow as pa

from .scorer import Documents, Scorer

LARGEST = float(np.finfo(np.float16).max)
"""Magnitude up to which gradients are stored; larger ones are cut to it."""


class GradientFeatures(Scorer):
    """A scorer whose primary column is each document's loss gradient, projected."""

    @property
    @abstractmethod
    def blocks(self) -> list[int]:
        """How many numbers of the vector belong to each layer, in order."""

    @property
    def target_needs(self) -> list[str]:
        """Columns of a target that it reads, beside the text and a response."""
        return []

    @abstractmethod
    def of_target(self, documents: Documents) -> pa.Array:
        """Return the vectors of documents whose loss is to fall, as the primary column. documents: with their text."""
