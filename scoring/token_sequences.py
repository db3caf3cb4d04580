"""Documents as tokens of a model's tokenizer."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


@dataclass(frozen=True)
class TokenSequences:
    """The tokens of n documents, each with the token for the beginning of a text before it, where there is one.

    tokens: int32[t]; offsets: int64[n + 1], document i has tokens[offsets[i]:offsets[i + 1]]; first_scored: int64[n],
    position in its sequence of the first token to be predicted, at least 1; past the end where there is none.
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    first_scored: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first_scored)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document, the one for the beginning included."""
        return np.diff(self.offsets)

    @property
    def scored(self) -> NDArray[np.int64]:
        """How many tokens of each document are to be predicted, int64[n]."""
        return np.maximum(self.lengths - self.first_scored, 0)

    @property
    def documents(self) -> NDArray[np.int64]:
        """Number of each token's document, int64[t]."""
        return np.repeat(np.arange(len(self)), self.lengths)


def tokenise(
    tokenizer: Tokenizer, beginning: int | None, text: pa.Array, prompts: NDArray[np.int64] | None = None
) -> TokenSequences:
    """Turn texts into tokens; the interpreter's lock is free meanwhile.

    No special tokens are added but `beginning`. Holds about 100 bytes a token until it returns.

    Args:
        tokenizer: without truncation and padding.
        beginning: token to stand before each text; None: none, then a text's first token cannot be predicted.
        text: n texts (large_string) without nulls.
        prompts: int64[n], characters at the start of each text that are given and not to be predicted. A token counts
            as predicted when it holds at least one character after them. None: all tokens count.
    """
    texts = text.to_pylist()
    if prompts is None:
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        given = np.zeros(len(texts), np.int64)
    else:
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
        pairs = zip(encodings, prompts.tolist(), strict=True)
        given = np.fromiter((_tokens_within(encoding, end) for encoding, end in pairs), np.int64, len(texts))
    head = [] if beginning is None else [beginning]
    lengths = np.fromiter((len(head) + len(encoding) for encoding in encodings), np.int64, len(texts))
    parts = [np.array(head + encoding.ids, np.int32) for encoding in encodings]
    tokens = np.concatenate([np.zeros(0, np.int32), *parts])
    return TokenSequences(tokens, np.concatenate([[0], np.cumsum(lengths)]), np.maximum(given + len(head), 1))


def _tokens_within(encoding: Encoding, end: int) -> int:
    """Count the tokens at the start that end by this character."""
    ends = np.array(encoding.offsets, np.int64).reshape(-1, 2)[:, 1]
    after = ends > end
    return int(np.argmax(after)) if after.any() else len(ends)


def text_slices(sizes: NDArray[np.int64], limit: int) -> list[slice]:
    """Cut n texts into runs of neighbours of about `limit` bytes each. sizes: int64[n], bytes."""
    run = np.cumsum(sizes) // limit
    bounds = [0, *(np.flatnonzero(np.diff(run)) + 1).tolist(), len(sizes)]
    return [slice(begin, end) for begin, end in itertools.pairwise(bounds) if end > begin]
