"""Two linear heads, each trained on one half of the documents, so that all are scored by one that has not seen them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.errors import RecipeError
from .classifier import area_under_curve
from .scorer import ScoreColumn

WEIGHTS, HELD_OUT, DOCUMENTS, SETTINGS = "weights", "held out", "documents", "settings"
FEW = 50
"""Documents of a class, from each half, below which a head says little."""

LOG_ODDS = ScoreColumn("", pa.float64(), "nats", "higher", "log-odds of target against corpus")
PROBABILITY = ScoreColumn("probability", pa.float64(), "probability", "higher", "of the target, were both as likely")

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def cross_fitted(
    positive: Bools,
    folds: Bools,
    train: Callable[[Bools], Floats],
    odds: Callable[[Bools, Floats], Floats],
    kind: str = "",
    remedy: str = "",
) -> dict[str, NDArray[Any]]:
    """Train on each half and measure on the other.

    Args:
        positive: bool[n], the documents of the target.
        folds: bool[n], the half that each is in.
        train: returns the weights of a head, float64[m], from the documents that are True, bool[n].
        odds: returns their log-odds by such weights, float64[n], 0 for the others.
        kind, remedy: of the documents, for the message that there are too few, and what mends it for the corpus.

    Returns:
        WEIGHTS float64[2, m], by half; HELD_OUT float64[2], area under the curve and balanced accuracy; DOCUMENTS
        int64[2, 2], by half and class, corpus first.

    Raises:
        RecipeError: a half lacks documents of a class.
    """
    documents = np.array([[np.count_nonzero((positive == c) & (folds == f)) for c in (0, 1)] for f in (0, 1)])
    for name, number in (("corpus", documents[:, 0].min()), ("target", documents[:, 1].min())):
        if not number:
            mended = remedy if name == "corpus" else ""
            raise RecipeError(f"classifier: the {name} has too few documents {kind}to be halved{mended}")
    heads, found = [], np.zeros(len(folds))
    for half in (False, True):
        heads.append(train(folds == half))
        found += odds(folds != half, heads[-1])
    right = [np.mean(found[positive] > 0), np.mean(found[~positive] < 0)]
    held_out = np.array([area_under_curve(found[positive], found[~positive]), np.mean(right)])
    return {WEIGHTS: np.stack(heads), HELD_OUT: held_out, DOCUMENTS: documents}


def with_settings(state: Mapping[str, NDArray[Any]], settings: Mapping[str, object]) -> dict[str, NDArray[Any]]:
    """Return heads with what they were trained on, for `checked_heads`. settings: JSON."""
    return {**state, SETTINGS: np.frombuffer(json.dumps(settings, sort_keys=True).encode(), np.uint8)}


def checked_heads(
    state: Mapping[str, NDArray[Any]], settings: Mapping[str, object], width: int | None = None
) -> dict[str, NDArray[Any]]:
    """Return a saved state that fits; raises RecipeError for others. width: of the weights; None: any."""
    try:
        saved = json.loads(state[SETTINGS].tobytes())
        weights, *others = (state[name].shape for name in (WEIGHTS, HELD_OUT, DOCUMENTS))
    except (KeyError, ValueError) as error:
        raise RecipeError("classifier: the file in `fitted` is not a state of classifier") from error
    if saved != settings:
        raise RecipeError(f"classifier: the state in `fitted` was made with {saved}, the recipe has {settings}")
    if len(weights) != 2 or weights[0] != 2 or width not in (None, weights[1]) or others != [(2,), (2, 2)]:
        raise RecipeError("classifier: the file in `fitted` does not hold the weights of a classifier")
    return dict(state)


def odds_columns(odds: Floats, there: Bools) -> dict[str, pa.Array]:
    """Return log-odds, and the probabilities that they stand for, as columns; null where not `there`."""
    tail = np.exp(-np.abs(odds))
    probability = np.where(odds >= 0, 1.0, tail) / (1 + tail)
    return {"": pa.array(odds, mask=~there), PROBABILITY.suffix: pa.array(probability, mask=~there)}


def held_out_lines(state: Mapping[str, NDArray[Any]]) -> list[str]:
    """Say how well held-out documents are told apart, and when there were few to learn from."""
    area, accuracy = state[HELD_OUT].tolist()
    corpus, target = state[DOCUMENTS].sum(axis=0).tolist()
    told = f"AUC {area:.3f}, balanced accuracy {accuracy:.3f}"
    lines = [f"held out, {target:,} documents of the target and {corpus:,} of the corpus are told apart with {told}"]
    for name, number in zip(("corpus", "target"), state[DOCUMENTS].min(axis=0).tolist(), strict=True):
        if number < FEW:
            lines.append(f"one half of the {name} had only {number} documents to train on")
    return lines
