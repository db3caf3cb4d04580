"""The scorer `head_gradients`: a document's loss gradient under a linear classifier on stored vectors."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from ..connectors import files
from ..connectors.corpus_config import CorpusConfig
from ..connectors.errors import RecipeError, TamisError, one_line
from .derived_scorer import DerivedScorer
from .gradient_features import LARGEST, GradientFeatures
from .gradient_projection import BLOW_UP, LayerProjection, layer_projections
from .linear_head import el2n, grand, head_gradients, logistic_residuals, softmax_residuals, with_bias
from .scorer import Documents, LearnedScorer, ScoreColumn, Scorer, ScorerParameters, digest_arrays
from .vectors import VECTORS, vector_column, vectors_of, widened

WEIGHT, BIAS = "weight", "bias"

_NUMBERS = 1 << 20
"""Of gradients, before what is stored is added up of them, that are in memory at a time: 4 MB, and 8 for their sums."""


class HeadGradientsParameters(ScorerParameters):
    """Parameters of `scorer: head_gradients`."""

    path_keys: ClassVar[tuple[str, ...]] = ("head",)

    scorer: Literal["head_gradients"]
    features: str = Field(description="a score of vectors, as of `embedding`, which the classifier reads")
    label: str = Field(description="a score of class numbers from 0, as of `column`; targets have that column too")
    head: str = Field(
        description=".npz with `weight` [classes, dimensions] and, if there is one, `bias` [classes]; one row is of "
        "class 1 against 0"
    )
    dimension: int = Field(4096, ge=1, le=1 << 16, description="numbers in all, stored in 2 bytes each")
    seed: int = Field(0, ge=0, lt=1 << 31, description="of the projection; the same for all that is compared")


class HeadGradients(DerivedScorer, GradientFeatures):
    """Gradient of a document's loss by the weights of a linear classifier that is given, projected to a vector.

    The gradient is (p - y) xᵀ, in closed form: of softmax regression, or logistic where the head has one row. `norm` is
    that of the whole of it, GraNd of the last layer, and `el2n` is |p - y| (Paul et al. 2021,
    https://arxiv.org/abs/2107.07075). As good as the classifier: train it first, with weights and vectors as stored.
    """

    name = "head_gradients"
    version = 1
    Parameters = HeadGradientsParameters
    requires = "a score of vectors; one of class numbers; the weights of a linear classifier"
    primary = ScoreColumn("", VECTORS, "nats per unit of weight", "none", "projected gradient of the loss")
    is_given = True
    parameters: HeadGradientsParameters

    @property
    def tolerance(self) -> float:  # type: ignore[override]
        """float16 keeps eleven bits; vectors that differ give other probabilities."""
        return 2e-3 + 5 * sum(scorer.tolerance for scorer in self.bound.values())

    @property
    def columns(self) -> list[ScoreColumn]:
        """The vector, the norm of the whole gradient, and that of the error."""
        return [
            self.primary,
            ScoreColumn("norm", pa.float32(), "nats per unit of weight", "higher", "of the gradient: GraNd"),
            ScoreColumn("el2n", pa.float32(), "probability", "higher", "norm of the error: hard, or mislabelled"),
        ]

    @property
    def inputs(self) -> dict[str, str]:
        """Vectors and classes."""
        return {"features": self.parameters.features, "label": self.parameters.label}

    def accepts(self, key: str, scorer: Scorer) -> str | None:
        """What can be made of a target's documents alone."""
        learned = isinstance(scorer, LearnedScorer)
        if key == "features":
            return None if scorer.primary.type == VECTORS and not learned else "a score of vectors, as of `embedding`,"
        return None if scorer.primary.is_number and not learned else "a score of class numbers, as of `column`,"

    @property
    def target_needs(self) -> list[str]:
        """What vectors and classes need."""
        return sorted({name for scorer in self.bound.values() for name in scorer.needs})

    @property
    def numerics(self) -> Mapping[str, object]:
        """Vectors, classes, head and projection."""
        p = self.parameters
        return {
            **self.input_fingerprints,
            "head": digest_arrays(self.state),
            "projection": [p.dimension, BLOW_UP, p.seed],
        }

    @property
    def blocks(self) -> list[int]:
        """One layer."""
        return [self._projection().size]

    def prepare(self, corpus: CorpusConfig) -> None:
        """Read the head; raises RecipeError where it is none."""
        url = self.parameters.head
        try:
            with np.load(io.BytesIO(files.read_bytes(url)), allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
        except (OSError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise RecipeError(f"head: {url} cannot be read as an .npz file: {one_line(error)}") from error
        self.restore(found)

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Use the weights of a head; raises RecipeError for what is none."""
        weight = np.asarray(state.get(WEIGHT, np.zeros(0)))
        bias = np.asarray(state.get(BIAS, np.zeros(weight.shape[:1])))
        numbers = weight.dtype.kind in "fiu" and bias.dtype.kind in "fiu"
        if not numbers or weight.ndim != 2 or not weight.size or bias.shape != weight.shape[:1]:
            shapes = {name: array.shape for name, array in state.items()}
            raise RecipeError(f"head: needs `weight` [classes, dimensions], and `bias` [classes], and has {shapes}")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise RecipeError("head: a weight is not finite")
        self.state = {WEIGHT: weight.astype(np.float64), BIAS: bias.astype(np.float64)}

    def score(self, documents: Documents) -> dict[str, pa.Array]:
        """Return the columns; null for documents without a vector or a class.

        Memory: 2 bytes a dimension and document, and some 12 MB.
        """
        assert documents.table is not None
        p = self.parameters
        return self._scored(documents.table[p.features], documents.table[p.label])

    def of_target(self, documents: Documents) -> pa.Array:
        """Return the vectors of a target's documents, which have their classes in the corpus's column."""
        p = self.parameters
        found = [self.bound[name].score(documents)[""] for name in (p.features, p.label)]
        return self._scored(*found)[""]

    def _scored(self, features: pa.Array | pa.ChunkedArray, label: pa.Array | pa.ChunkedArray) -> dict[str, pa.Array]:
        vectors, has = vectors_of(features)
        labels = np.asarray(label.cast(pa.float64()).fill_null(np.nan).to_numpy(), np.float64)
        there = has & ~np.isnan(labels)
        rows, projection = np.flatnonzero(there[has]), self._projection()
        classes = self._classes(labels[there])
        norms, errors = np.zeros(len(there), np.float32), np.zeros(len(there), np.float32)
        found = np.zeros((len(there), projection.size), np.float16)
        places = np.flatnonzero(there)
        step = max(1, _NUMBERS // (projection.inputs.kept * projection.outputs.kept))
        for begin in range(0, len(rows), step):
            part = slice(begin, begin + step)
            inputs = with_bias(self._checked(vectors[rows[part]]))
            residuals = self._residuals(inputs, classes[part])
            projected = head_gradients(inputs, residuals, projection)
            found[places[part]] = np.clip(projected, -LARGEST, LARGEST)
            norms[places[part]], errors[places[part]] = grand(inputs, residuals), el2n(residuals)
        return {
            "": vector_column(found, there),
            "norm": pa.array(norms, mask=~there),
            "el2n": pa.array(errors, mask=~there),
        }

    def _residuals(self, inputs: NDArray[np.float32], classes: NDArray[np.int64]) -> NDArray[np.float32]:
        weights = np.append(self.state[WEIGHT], self.state[BIAS][:, None], axis=1)
        if len(weights) == 1:
            return logistic_residuals(inputs, classes, weights[0])
        return softmax_residuals(inputs, classes, weights)

    def _checked(self, vectors: NDArray[np.float16]) -> NDArray[np.float32]:
        wanted = self.state[WEIGHT].shape[1]
        if vectors.shape[1] != wanted:
            raise TamisError(f"head: it reads {wanted:,} dimensions, and vectors have {vectors.shape[1]:,}")
        return widened(vectors)

    def _classes(self, labels: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return class numbers; raises TamisError for what is none of the head's."""
        count = max(2, len(self.state[WEIGHT]))
        wrong = labels[(labels != np.floor(labels)) | (labels < 0) | (labels >= count)]
        if len(wrong):
            raise TamisError(f"label: the head's classes are 0 to {count - 1}, and a document has {wrong[0]:g}")
        return labels.astype(np.int64)

    def _projection(self) -> LayerProjection:
        outputs, inputs = self.state[WEIGHT].shape
        p = self.parameters
        return layer_projections({"head": (inputs + 1, outputs)}, p.dimension, "random", p.seed)["head"]
