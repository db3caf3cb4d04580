"""The implicit scorer of every run: key, text hash, tokens, bytes and group of each document."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.keys import hash_bytes, hash_column, text_buffers
from .scorer import Documents, digest
from .tokenizer import TOKENIZER_VERSION

VERSION = 1
COLUMNS = ("key", "text_hash", "tokens", "bytes", "group")


def document_fingerprint(id_column: str | None, group_column: str | None, chunk: int | None = None) -> str:
    """Return hex digits over what changes the columns; `group` is part of these and of no other score."""
    return digest("document", VERSION, TOKENIZER_VERSION, id_column, group_column, chunk)


def document_keys(text: pa.Array, ids: pa.Array | None) -> NDArray[np.uint64]:
    """Return the document keys: uint64[n], hash of the id where the corpus has one, else of the text (XXH64)."""
    return hash_column(ids) if ids is not None else hash_bytes(*text_buffers(text))


def document_columns(documents: Documents, text_is_key: bool) -> dict[str, pa.Array]:
    """Return the columns of COLUMNS for a batch.

    text_is_key: the keys already are the hash of the text, which then need not be computed again.
    """
    offsets, data = text_buffers(documents.text)
    hashes = documents.keys if text_is_key else hash_bytes(offsets, data)
    groups = documents.groups if documents.groups is not None else pa.nulls(len(documents), pa.string())
    return {
        "key": pa.array(documents.keys),
        "text_hash": pa.array(hashes),
        "tokens": pa.array(documents.tokens.counts),
        "bytes": pa.array(np.diff(offsets)),
        "group": groups.dictionary_encode(),
    }
