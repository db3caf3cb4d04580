"""The `token_weights:` part of a recipe: what each token of a kept document weighs in the loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from ..connectors.settings import Settings
from .token_weights import keep_highest, prior, q_tuning, rho_1, satimp, sstoken_score

CELLS = 1 << 20
"""Tokens, padding included, of the documents that are weighed together."""

Floats = NDArray[np.float32]


class TokenWeigher(Settings):
    """Base of the methods. by: column with the loss of every token, `NAME_token_nll` of a language model."""

    method: str
    by: str

    @property
    def needs(self) -> list[str]:
        """The columns with token losses, all by the same tokenizer."""
        return [self.by]

    @abstractmethod
    def weights(self, losses: Mapping[str, Floats], labelled: NDArray[np.bool_]) -> NDArray[np.floating | np.bool_]:
        """Return [n, t]. losses: float32[n, t] by column, NaN where there is none; labelled: where all have one."""


class SatImp(TokenWeigher):
    """p ** saturation · (1 - p) ** importance, see `token_weights.satimp`."""

    method: Literal["satimp"]
    saturation: float = Field(ge=0, description="5 in both published uses")
    importance: float = Field(ge=0, description="the authors recommend 0.1, their later code 1.0")

    def weights(self, losses: Mapping[str, Floats], labelled: NDArray[np.bool_]) -> NDArray[np.floating | np.bool_]:
        """From 0 to 1."""
        return np.asarray(satimp(losses[self.by], self.saturation, self.importance))


class Prior(TokenWeigher):
    """1 - p of a model that does not see the context, mean one in each document, see `token_weights.prior`."""

    method: Literal["prior"]

    def weights(self, losses: Mapping[str, Floats], labelled: NDArray[np.bool_]) -> NDArray[np.floating | np.bool_]:
        """Mean one."""
        return np.asarray(prior(losses[self.by], labelled))


class Rho1(TokenWeigher):
    """The tokens with the highest excess over a reference, see `token_weights.rho_1`."""

    method: Literal["rho_1"]
    reference: str = Field(description="column with the token losses of the reference")
    share: float = Field(gt=0, le=1, description="of the tokens of each document that are kept; 0.6 to 0.7 is reported")

    @property
    def needs(self) -> list[str]:
        """Both columns."""
        return [self.by, self.reference]

    def weights(self, losses: Mapping[str, Floats], labelled: NDArray[np.bool_]) -> NDArray[np.floating | np.bool_]:
        """A mask."""
        return np.asarray(rho_1(losses[self.by], losses[self.reference], labelled, self.share))


class SsToken(TokenWeigher):
    """The tokens whose loss has fallen most since an earlier model: ssToken's loss part."""

    method: Literal["sstoken"]
    history: str = Field(description="column with the token losses of the model before fine-tuning")
    share: float = Field(0.6, gt=0, le=1, description="of the tokens of each document that are kept")

    @property
    def needs(self) -> list[str]:
        """Both columns."""
        return [self.by, self.history]

    def weights(self, losses: Mapping[str, Floats], labelled: NDArray[np.bool_]) -> NDArray[np.floating | np.bool_]:
        """A mask."""
        score = sstoken_score(losses[self.by], losses[self.history], labelled)
        return np.asarray(keep_highest(score, labelled, self.share))


class QTuningMask(TokenWeigher):
    """The tokens of lowest smoothed perplexity, of all documents: Q-Tuning's mask for those of its quadrant 2.

    As published with `triage`: only documents of quadrant 2 are masked; of the others that are kept, all tokens count.
    """

    method: Literal["q_tuning"]
    share: float = Field(gt=0, le=1, description="of the tokens of each document that are kept; published: 0.5 to 0.7")
    neighbours: float = Field(0.5, ge=0, le=1)
    triage: str | None = Field(None, description="name of the step q_tuning, whose quadrant 2 alone is masked")

    def weights(self, losses: Mapping[str, Floats], labelled: NDArray[np.bool_]) -> NDArray[np.floating | np.bool_]:
        """A mask."""
        return np.asarray(q_tuning(losses[self.by], labelled, self.share, self.neighbours))


AnyTokenWeigher = Annotated[SatImp | Prior | Rho1 | SsToken | QTuningMask, Field(discriminator="method")]


def weigh_tokens(
    weigher: TokenWeigher, losses: Mapping[str, pa.Array], whole: NDArray[np.bool_] | None = None
) -> pa.Array:
    """Return the weights of the tokens of n documents, list<float16>[n].

    losses: list<float16>[n] by column; whole: bool[n], documents whose tokens all weigh 1. A token without a loss
    weighs 0; a document that lacks a list has null. Raises ValueError when a document's lists are of different lengths.
    """
    if whole is None:
        whole = np.zeros(len(losses[weigher.by]), np.bool_)
    parts = [
        _weigh_slice(weigher, {name: lists.slice(*part) for name, lists in losses.items()}, whole[part[0] : sum(part)])
        for part in _slices(losses)
    ]
    return pa.concat_arrays([pa.array([], pa.list_(pa.float16())), *parts])


def _slices(losses: Mapping[str, pa.Array]) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of runs of documents that make at most CELLS tokens when padded."""
    lengths = np.maximum.reduce([_lengths(lists) for lists in losses.values()])
    begin = longest = 0
    for row, length in enumerate(lengths.tolist()):
        if row > begin and max(longest, length) * (row + 1 - begin) > CELLS:
            yield begin, row - begin
            begin, longest = row, 0
        longest = max(longest, length)
    if len(lengths) > begin:
        yield begin, len(lengths) - begin


def _lengths(lists: pa.Array) -> NDArray[np.int64]:
    return np.asarray(pa.compute.list_value_length(lists).fill_null(0), np.int64)


def _weigh_slice(weigher: TokenWeigher, losses: Mapping[str, pa.Array], whole: NDArray[np.bool_]) -> pa.Array:
    there = np.logical_and.reduce([np.asarray(lists.is_valid()) for lists in losses.values()])
    lengths = np.where(there, _lengths(next(iter(losses.values()))), 0)
    padded = {}
    for name, lists in losses.items():
        if not np.array_equal(np.where(there, _lengths(lists), 0), lengths):
            raise ValueError(f"token_weights: `{name}` has other numbers of tokens than `{weigher.by}`")
        padded[name] = _padded(lists, there, lengths)
    labelled = np.logical_and.reduce([np.isfinite(values) for values in padded.values()])
    inside = np.arange(labelled.shape[1]) < lengths[:, None]
    weights = np.where(whole[:, None], 1, weigher.weights(padded, labelled))
    weights = np.where(labelled, weights, 0)[inside]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(weights.astype(np.float16)), mask=pa.array(~there))


def _padded(lists: pa.Array, there: NDArray[np.bool_], lengths: NDArray[np.int64]) -> Floats:
    """Return float32[n, longest], NaN behind the end of each list and for nulls."""
    whole = np.full((len(lists), int(lengths.max(initial=1))), np.nan, np.float32)
    flat = lists.filter(pa.array(there)).flatten()
    values = flat.cast(pa.float32()).fill_null(np.nan)
    whole[np.arange(whole.shape[1]) < lengths[:, None]] = values.to_numpy(zero_copy_only=False)
    return whole
