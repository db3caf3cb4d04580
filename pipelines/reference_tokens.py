"""The documents of a small model: read from the corpus once, then a tokenizer, then a file of their tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.atomic import write_atomically
from ..connectors.corpus import Corpus
from ..connectors.keys import keyed_sample, text_buffers
from ..connectors.score_store import load_arrays, save_arrays
from ..connectors.shards import Shard
from ..scoring.reference_model import train_tokenizer
from ..scoring.token_sequences import text_slices, tokenise
from ..selectors.reference_split import in_validation
from .passes import Control, Result, Work
from .reading import read_documents

TOKENIZER_BYTES = 32 << 20
"""Text that the tokenizer is trained on, about: a keyed sample of the training documents where they are more. It takes
some 15 seconds and 500 MB."""

SLICE_BYTES = 2 << 20
"""Text that is tokenised together."""

TEXT_SCHEMA = pa.schema([("key", pa.uint64()), ("text", pa.large_string()), ("group", pa.string())])
"""Of the copies of documents."""

Chosen = Callable[[NDArray[np.uint64]], NDArray[np.bool_]]
"""Tells by their keys which documents are wanted; a function that can be sent to workers."""


@dataclass
class TextPass(Work):
    """Copies documents with their groups to one Arrow file per shard. chosen: None for all documents."""

    corpus: Corpus
    folder: str
    chosen: Chosen | None = None

    def do(self, shard: Shard, control: Control) -> Result:
        """Copy a shard's documents; returns how many rows are dead."""
        dead = 0

        def write(file: IO[bytes]) -> None:
            nonlocal dead
            with pa.ipc.new_file(file, TEXT_SCHEMA) as writer:
                for _, batch in read_documents(self.corpus, shard, []):
                    control.check()
                    dead += len(batch.dead)
                    documents = batch.documents
                    groups = documents.groups if documents.groups is not None else pa.nulls(len(documents))
                    columns = [pa.array(documents.keys), documents.text, groups.cast(pa.string())]
                    rows = pa.record_batch(columns, schema=TEXT_SCHEMA)
                    if self.chosen is not None:
                        rows = rows.filter(pa.array(self.chosen(documents.keys)))
                    if len(rows):
                        writer.write_batch(rows)

        write_atomically(text_file(self.folder, shard), write)
        control.advance(size=shard.bytes)
        return {"dead": np.array([dead])}


def text_file(folder: str, shard: Shard) -> str:
    """Return where a shard's documents are copied to."""
    return f"{folder}/{shard.index:06d}.arrow"


def copied(folder: Path) -> Iterator[pa.RecordBatch]:
    """Yield what was copied to a folder, TEXT_SCHEMA, in the corpus's order; memory-mapped."""
    for path in sorted(folder.glob("*.arrow")):
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)


def _texts(folder: Path) -> Iterator[tuple[NDArray[np.uint64], pa.Array]]:
    """Yield keys and texts."""
    for batch in copied(folder):
        yield batch.column("key").to_numpy(), batch.column("text")


def tokenizer_of(folder: Path, vocabulary: int, seed: int) -> Any:
    """Train a tokenizer on copied documents, without those for validation."""
    size = sum(int(text_buffers(text)[0][-1] - text_buffers(text)[0][0]) for _, text in _texts(folder))
    share = TOKENIZER_BYTES / max(size, 1)

    def batches() -> Iterator[list[str]]:
        for keys, text in _texts(folder):
            chosen = keyed_sample(seed, "reference_tokenizer", keys, share) & ~in_validation(keys, seed)
            yield text.filter(pa.array(chosen)).to_pylist()

    return train_tokenizer(batches(), vocabulary)


@dataclass(frozen=True)
class TokenFile:
    """Documents as tokens: one file of them all, memory-mapped, and where each document's are.

    tokens: uint16 or uint32 [t]; starts, lengths: int64[n]; keys: uint64[n]. A document's tokens begin with the token
    for the beginning of a text, where there is one, and end with that for its end, where that is another one.
    """

    tokens: NDArray[Any]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    keys: NDArray[np.uint64]


def write_tokens(folder: Path, tokenizer: Any, url: str) -> None:
    """Turn copied documents into tokens, in `url`.bin; once all are there, `url`.npz says whose they are.

    Holds 16 bytes a document, and one slice of the text with its tokens.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    beginning, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    dtype = np.uint16 if backend.get_vocab_size(with_added_tokens=True) <= 1 << 16 else np.uint32
    keys: list[NDArray[np.uint64]] = []
    lengths: list[NDArray[np.int64]] = []

    def write(file: IO[bytes]) -> None:
        for of_batch, text in _texts(folder):
            keys.append(of_batch.copy())  # the file that it is mapped from is closed and deleted
            for part in text_slices(np.diff(text_buffers(text)[0]), SLICE_BYTES):
                found = tokenise(backend, beginning, text[part.start : part.stop])
                tokens, counts = found.tokens, found.lengths
                if end is not None and end != beginning:
                    tokens, counts = np.insert(tokens, found.offsets[1:], end), counts + 1
                file.write(tokens.astype(dtype).tobytes())
                lengths.append(counts)

    write_atomically(f"{url}.bin", write)
    arrays = {"keys": np.concatenate([np.zeros(0, np.uint64), *keys])}
    arrays["lengths"] = np.concatenate([np.zeros(0, np.int64), *lengths])
    save_arrays(f"{url}.npz", arrays | {"width": np.array([np.dtype(dtype).itemsize])})


def read_tokens(url: str) -> TokenFile | None:
    """Return what `write_tokens` has written, None where that is not finished."""
    if not Path(f"{url}.npz").exists():
        return None
    arrays = load_arrays(f"{url}.npz")
    lengths = arrays["lengths"]
    tokens: NDArray[Any] = np.zeros(0, np.uint16)
    if lengths.sum():
        tokens = np.memmap(f"{url}.bin", f"u{arrays['width'][0]}", "r")
    return TokenFile(tokens, np.cumsum(lengths) - lengths, lengths, arrays["keys"])
