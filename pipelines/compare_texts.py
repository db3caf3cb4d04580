"""The documents of a comparison, as tokens: those of each choice, and those that are held out to measure with."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..connectors import files
from ..connectors.contents import document_text
from ..connectors.corpus_config import CorpusConfig
from ..connectors.errors import TamisError
from ..connectors.keys import keyed_uniform
from ..connectors.opening import Opened, open_corpus
from ..connectors.run_directory import read_manifest
from ..scoring.model_files import load_tokenizer
from ..scoring.packed_tokens import PackedTokens
from .emit import source_names
from .job import Reporter
from .passes import run_pass
from .reference_tokens import TEXT_SCHEMA, TextPass, TokenFile, copied, read_tokens, tokenizer_of, write_tokens
from .runner import Engine

HELD_OUT_SHARE = 0.05
"""Of the corpus, drawn by key: measured with, and trained on by none."""

HELD_OUT_TOKENS = 32_768
"""That the loss of one domain is computed on, at most."""

DOMAINS = 40
"""Groups that are reported one by one; further ones are the domain `others`."""

POOL = 4
"""The random choice is made from so many times the tokens that are trained on, where the corpus has them."""

BYTES_PER_TOKEN = 3
"""Fewer than a tokenizer of this size makes of ordinary text: how much text a number of tokens needs, at most."""


def drawn(keys: NDArray[np.uint64], low: float, high: float) -> NDArray[np.bool_]:
    """Return which documents' draw, a pure function of the key, lies from low to below high, bool[n]."""
    draw = keyed_uniform(0, "compare", keys)
    return (draw >= low) & (draw < high)


@dataclass(frozen=True)
class Choice:
    """What a model is trained on. weights: float32[documents], in its loss; None where all are 1."""

    tokens: TokenFile
    weights: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class ComparisonTexts:
    """Reads and tokenises what is compared. work: folder for it; wanted: tokens that each model is trained on."""

    corpus: CorpusConfig
    limit: int | None
    work: Path
    wanted: int
    context: int
    engine: Engine
    reporter: Reporter

    def tokenizer(self, vocabulary: int) -> Any:
        """Train the tokenizer of all models on the random choice."""
        folder, pool = self._new("tokenizer"), self._new("for the tokenizer")
        self._copy(self._opened(), pool, *self._pool_range())
        tokenizer_of(pool, vocabulary, 0).save_pretrained(folder)
        files.remove_tree(pool)
        return load_tokenizer(folder)

    def random(self, tokenizer: Any) -> Choice:
        """Return documents chosen at random; what is held out is not among them."""
        folder = self._new("pool")
        self._copy(self._opened(), folder, *self._pool_range())
        return Choice(self._tokens("the random choice", folder, tokenizer))

    def kept(self, name: str, run: Path, tokenizer: Any) -> Choice:
        """Return what a run keeps, without what is held out."""
        manifest = read_manifest(run)
        assert manifest is not None
        folder = self._new(f"kept {name}")
        parts = [np.zeros(0, np.float32)]
        with pa.OSFile(str(folder / "kept.arrow"), "wb") as file, pa.ipc.new_file(file, TEXT_SCHEMA) as writer:
            for path in sorted(file["path"] for file in manifest["files"] if file["path"].startswith("data/")):
                for batch, weights in _data_batches(run / path, self.corpus):
                    chosen = drawn(batch["key"].to_numpy(), HELD_OUT_SHARE, 1.0)
                    writer.write_batch(batch.filter(pa.array(chosen)))
                    parts.append(weights[chosen])
        weights = np.concatenate(parts)
        return Choice(self._tokens(name, folder, tokenizer), None if (weights == 1).all() else weights)

    def held_out(self, tokenizer: Any, targets: Mapping[str, CorpusConfig]) -> dict[str, PackedTokens]:
        """Return held-out sequences by domain and target."""
        folder = self._new("held out")
        self._copy(self._opened(), folder, 0.0, HELD_OUT_SHARE)
        found = {
            domain or "(none)": self._measured(f"domain-{number}", parts, tokenizer)
            for number, (domain, parts) in enumerate(_by_group(folder))
        }
        for number, (name, config) in enumerate(sorted(targets.items())):
            folder = self._new(f"target-{number}-text")
            self._copy(open_corpus(f"targets.{name}", config), folder)
            found[f"target {name}"] = self._measured(f"target-{number}", list(copied(folder)), tokenizer)
        for domain in [domain for domain, packed in found.items() if not len(packed)]:
            self.reporter.warn(f"{domain}: too little held-out text for one sequence; it is not measured")
            del found[domain]
        if not found:
            raise TamisError("no domain has enough held-out text for one sequence; lower --context, or give more text")
        return found

    def _new(self, name: str) -> Path:
        folder = self.work / name
        folder.mkdir(parents=True)
        return folder

    def _opened(self) -> Opened:
        return open_corpus("corpus", self.corpus, limit=self.limit)

    def _pool_range(self) -> tuple[float, float]:
        """Return the range of the draw that makes the random choice: what is held out lies below it."""
        size = sum(shard.bytes for shard in self._opened().shards)
        share = POOL * self.wanted * BYTES_PER_TOKEN / max(size, 1)
        return HELD_OUT_SHARE, min(1.0, HELD_OUT_SHARE + max(share, 0.05))

    def _copy(self, opened: Opened, folder: Path, low: float = 0.0, high: float = 1.0) -> None:
        """Copy documents whose draw lies in a range."""
        work = TextPass(opened.corpus, str(folder), functools.partial(drawn, low=low, high=high))
        shards = opened.shards
        self.reporter.begin(f"copying {folder.name}", len(shards), sum(shard.bytes for shard in shards))
        try:
            run_pass(work, shards, self.engine, str(self.work / "exchange"), self.reporter.update)
        finally:
            self.reporter.end()

    def _tokens(self, name: str, folder: Path, tokenizer: Any) -> TokenFile:
        """Return copied documents as tokens."""
        found = self._tokenised(folder, tokenizer)
        if found.lengths.sum() <= self.context:
            raise TamisError(f"{name}: {found.lengths.sum():,} tokens are left to train on, too few for one sequence")
        return found

    def _tokenised(self, folder: Path, tokenizer: Any) -> TokenFile:
        url = f"{folder}-tokens"
        write_tokens(folder, tokenizer, url)
        files.remove_tree(folder)
        found = read_tokens(url)
        assert found is not None
        return found

    def _measured(self, name: str, parts: Sequence[pa.RecordBatch], tokenizer: Any) -> PackedTokens:
        """Return the sequences of one domain."""
        folder = self._new(name)
        with pa.OSFile(str(folder / "all.arrow"), "wb") as file, pa.ipc.new_file(file, TEXT_SCHEMA) as writer:
            for part in parts:
                writer.write_batch(part)
        tokens = self._tokenised(folder, tokenizer)
        order = np.argsort(tokens.keys, kind="stable")
        few = order[: np.searchsorted(np.cumsum(tokens.lengths[order]), HELD_OUT_TOKENS, "right") + 1]
        return PackedTokens(tokens.tokens, tokens.starts[few], tokens.lengths[few], tokens.keys[few], self.context, 0)


def _data_batches(path: Path, corpus: CorpusConfig) -> Iterator[tuple[pa.RecordBatch, NDArray[np.float32]]]:
    """Yield key, text and no group of a data file, and the weights."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        names = source_names(list(corpus.content_columns.values()))
        for batch in file.iter_batches(1024, columns=["key", "weight", *names.values()], use_threads=False):
            table = pa.Table.from_batches([batch]).rename_columns(
                [next((own for own, ours in names.items() if ours == name), name) for name in batch.schema.names]
            )
            text, _ = document_text(table, corpus)
            columns = [batch.column("key"), text.cast(pa.large_string()), pa.nulls(len(batch), pa.string())]
            yield pa.record_batch(columns, schema=TEXT_SCHEMA), batch.column("weight").to_numpy()


def _by_group(folder: Path) -> Iterator[tuple[str, list[pa.RecordBatch]]]:
    """Yield the held-out documents of each group, the largest first; memory-mapped."""
    batches = list(copied(folder))
    groups = [np.array(batch["group"].fill_null("").to_pylist(), dtype=object) for batch in batches]
    names, counts = np.unique(np.concatenate([*groups, np.zeros(0, object)]).astype(str), return_counts=True)
    ordered = names[np.argsort(-counts, kind="stable")].tolist()
    named = ordered[:DOMAINS]
    for name in named:
        yield name, [batch.filter(pa.array(group == name)) for batch, group in zip(batches, groups, strict=True)]
    if others := set(ordered[DOMAINS:]):
        rest = [np.array([name in others for name in group], bool) for group in groups]
        yield "others", [batch.filter(pa.array(chosen)) for batch, chosen in zip(batches, rest, strict=True)]
