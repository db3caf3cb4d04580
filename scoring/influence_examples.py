"""Single examples of the targets of influence: gathered while it is fitted, kept in its state, asked about later."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ..connectors.errors import TamisError
from ..connectors.keys import keyed_bits
from .feature_products import feature_products
from .gradient_covariance import self_influence, slices_of
from .less import shares_of, unit_rows
from .scorer import Statistic

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
UInt64 = NDArray[np.uint64]

EXAMPLES = 256
"""Of each target, a keyed choice where it has more: 4 bytes a dimension and checkpoint each in the state, 4 MB for
4,096 dimensions, and twice that in the statistics."""

STEPS = 2.0**24
"""What gradients are counted in, so that sums are of integers: every float16 is a whole number of 2⁻²⁴."""

QUERIES, WHITENING, SETTINGS, DOCUMENTS = "queries", "whitening", "settings", "documents"
KEPT, KEYS, TARGETS, COUNTS, NAMES = (
    "examples",
    "example keys",
    "example targets",
    "example counts",
    "example target names",
)
BLOCKS = "blocks"
"""Names of arrays in the state; those of checkpoints end with their number."""

_PREFIX = "example "


def add_examples(statistic: Statistic, checkpoint: int, keys: UInt64, vectors: NDArray[np.float16]) -> None:
    """Add the gradients of a target's documents to its statistic, which keeps EXAMPLES of them.

    Args:
        statistic: gets an array for each example, int64[d + 1]: its gradient in STEPS, and how often it was added.
        checkpoint: number of the model.
        keys: uint64[m], of the documents.
        vectors: float16[m, d].
    """
    chosen = np.argsort(keyed_bits(0, KEPT, keys), kind="stable")[:EXAMPLES]
    steps = (vectors[chosen].astype(np.float64) * STEPS).astype(np.int64)
    rows = np.append(steps, np.ones((len(steps), 1), np.int64), axis=1)
    for key, row in zip(keys[chosen].tolist(), rows, strict=True):
        name = _name(checkpoint, key)
        statistic[name] = statistic[name] + row if name in statistic else row
    kept = trimmed_examples(statistic)
    for name in statistic.keys() - kept.keys():
        del statistic[name]


def trimmed_examples(statistic: Statistic) -> Statistic:
    """Return a merged statistic with EXAMPLES of its examples: those whose keys' noise is least."""
    names = [name for name in statistic if name.startswith(_PREFIX)]
    found = np.unique(np.array([int(name.rsplit(" ", 1)[1], 16) for name in names], np.uint64))
    kept = found[np.argsort(keyed_bits(0, KEPT, found), kind="stable")[:EXAMPLES]]
    ends = {f"{key:016x}" for key in kept.tolist()}
    return {name: a for name, a in statistic.items() if name not in names or name.rsplit(" ", 1)[1] in ends}


class Examples(NamedTuple):
    """keys: uint64[m], ascending; counts: int64[m], documents of each key; gradients: float64[m, d], by checkpoint."""

    keys: UInt64
    counts: NDArray[np.int64]
    gradients: list[Float64]


def examples_of(statistic: Statistic, checkpoints: int, of_length_one: bool) -> Examples:
    """Return the examples of a target that have a gradient at every checkpoint."""
    by_checkpoint = [
        {int(name.rsplit(" ", 1)[1], 16) for name in statistic if name.startswith(f"{_PREFIX}{i} ")}
        for i in range(checkpoints)
    ]
    keys = sorted(set.intersection(*by_checkpoint))
    counts, gradients = np.zeros(len(keys), np.int64), []
    for i in range(checkpoints):
        width = len(statistic[f"sum {i}"])
        rows = np.array([statistic[_name(i, key)] for key in keys], np.int64).reshape(-1, width + 1)
        counts = rows[:, -1]
        mean = rows[:, :-1] / (STEPS * np.maximum(counts, 1)[:, None])
        gradients.append(unit_rows(mean) if of_length_one else mean)
    return Examples(np.array(keys, np.uint64), counts, gradients)


def _name(checkpoint: int, key: int) -> str:
    return f"{_PREFIX}{checkpoint} {key:016x}"


def example_arrays(names: Sequence[str], by_target: Sequence[Examples]) -> dict[str, NDArray[Any]]:
    """Return what a state keeps of the examples of its targets, in order. names: of these."""
    numbers = np.repeat(np.arange(len(by_target)), [len(one.keys) for one in by_target])
    arrays: dict[str, NDArray[Any]] = {
        NAMES: np.array(names),
        KEYS: np.concatenate([one.keys for one in by_target]),
        COUNTS: np.concatenate([one.counts for one in by_target]),
        TARGETS: numbers,
    }
    for i, parts in enumerate(zip(*(one.gradients for one in by_target), strict=True)):
        arrays[f"{KEPT} {i}"] = np.concatenate(parts).astype(np.float32)
    return arrays


def normalised_products(
    vectors: NDArray[np.float16], queries: Float32, normalise: str, whitening: Sequence[Float32]
) -> Float32:
    """Multiply stored gradients with preconditioned queries, and divide by what a document is divided by.

    Args:
        vectors: float16[n, d].
        queries: float32[q, d].
        normalise: `none`; `norm`: by a vector's length; `self_influence`: by the root of its self-influence.
        whitening: of `GradientCovariance.whitening`, for that.

    Returns:
        float32[n, q].
    """
    products, lengths = feature_products(vectors, queries)
    if normalise == "self_influence":
        lengths = np.sqrt(self_influence(vectors, whitening))
    if normalise != "none":
        products /= np.where(lengths > 0, lengths, 1)[:, None]
    return products


@dataclass(frozen=True)
class InfluenceState:
    """The fitted state of the scorer `influence`, for questions about single examples; needs no model.

    gradients: fingerprints of the gradients of each checkpoint; normalise: see `normalised_products`; shares: of the
    checkpoints; queries, examples: float32[targets, d] and [m, d], by checkpoint, preconditioned; whitening: by
    checkpoint; keys, targets, counts: of the m examples, see `Examples`, and the number of each one's target;
    documents: int64[targets], of which the queries are the means; names: of the targets.
    """

    gradients: list[str]
    normalise: str
    shares: Float64
    queries: list[Float32]
    examples: list[Float32]
    whitening: list[list[Float32]]
    keys: UInt64
    targets: NDArray[np.int64]
    counts: NDArray[np.int64]
    documents: NDArray[np.int64]
    names: list[str]

    @classmethod
    def of_arrays(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        """Return a state as `Influence` keeps it; raises TamisError for one without examples, of an older Tamis."""
        if KEYS not in state:
            raise TamisError("its state holds no examples of the target (an older Tamis made it); fit it again")
        settings = json.loads(state[SETTINGS].tobytes())
        inputs = {key: value for key, value in settings.items() if key.split(".")[0] == "gradients"}
        ordered = sorted(inputs, key=lambda key: int(key.partition(".")[2] or 0))
        numbers, documents = range(len(inputs)), state[DOCUMENTS]
        whitening = []
        for i in numbers:
            flat = state[f"{WHITENING} {i}"]
            sizes = state[f"{BLOCKS} {i}"].tolist() if len(flat) else []
            slices = slices_of([size * size for size in sizes])
            whitening.append([flat[part].reshape(size, size) for part, size in zip(slices, sizes, strict=True)])
        return cls(
            gradients=[inputs[key] for key in ordered],
            normalise=settings["normalise"],
            shares=shares_of(settings["rates"] or [1.0] * len(inputs)),
            queries=[state[f"{QUERIES} {i}"].reshape(len(documents), -1) for i in numbers],
            examples=[state[f"{KEPT} {i}"] for i in numbers],
            whitening=whitening,
            keys=state[KEYS],
            targets=state[TARGETS],
            counts=state[COUNTS],
            documents=documents,
            names=state[NAMES].tolist(),
        )

    def on_examples(self, vectors: Sequence[NDArray[np.float16]], examples: NDArray[np.int64] | None = None) -> Float32:
        """Return the influence of documents on examples of the targets, positive: helpful.

        The mean over a target's examples, each as often as it counts, is the document's score for the target, where
        all of its documents are kept.

        Args:
            vectors: for each checkpoint float16[n, d].
            examples: which are asked for; None: all.

        Returns:
            float32[n, m].
        """
        return self._summed(vectors, self.examples, slice(None) if examples is None else examples)

    def on_targets(self, vectors: Sequence[NDArray[np.float16]]) -> Float32:
        """Return the influence of documents on the targets, their scores: float32[n, targets]."""
        return self._summed(vectors, self.queries, slice(None))

    def divisors(self, vectors: Sequence[NDArray[np.float16]]) -> list[Float32]:
        """Return what the products of documents are divided by at each checkpoint, float32[n]."""
        if self.normalise == "none":
            return [np.ones(len(rows), np.float32) for rows in vectors]
        if self.normalise == "norm":
            return [np.linalg.norm(rows.astype(np.float32), axis=1) for rows in vectors]
        return [np.sqrt(self_influence(*pair)) for pair in zip(vectors, self.whitening, strict=True)]

    def _summed(self, vectors: Sequence[NDArray[np.float16]], queries: Sequence[Float32], which: Any) -> Float32:
        parts = zip(self.shares, vectors, queries, self.whitening, strict=True)
        return sum(
            (
                np.float32(share) * normalised_products(rows, of_checkpoint[which], self.normalise, whitening)
                for share, rows, of_checkpoint, whitening in parts
            ),
            start=np.zeros((), np.float32),
        )
