"""Trains one small model on what each of several recipes keeps, and on a random choice, and compares their losses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..connectors import files
from ..connectors.atomic import write_atomically
from ..connectors.contents import document_text
from ..connectors.corpus import Corpus
from ..connectors.corpus_config import CorpusConfig
from ..connectors.errors import RecipeError, TamisError
from ..connectors.keys import keyed_uniform
from ..connectors.opening import open_corpus
from ..connectors.run_directory import read_manifest
from ..connectors.score_store import load_arrays, save_arrays
from ..connectors.shards import Shard
from ..scoring.held_out_loss import mean_difference, sequence_losses
from ..scoring.model_files import load_tokenizer, require_packages
from ..scoring.packed_tokens import PackedTokens
from ..scoring.reference_model import SIZES, SizeName, new_model
from ..scoring.scorer import digest
from ..scoring.training import Schedule, make_schedule, train
from ..selectors.weigh import Uniform
from .emit import source_names
from .job import Job, Reporter
from .passes import Control, Result, Work, run_pass
from .reading import read_documents
from .reference_tokens import TokenFile, read_tokens, tokenizer_of, write_tokens
from .run import Run
from .runner import Engine

RANDOM = "random"
"""Name of the random choice that all are compared with."""

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

_SCHEMA = pa.schema([("key", pa.uint64()), ("text", pa.large_string()), ("group", pa.string())])


@dataclass(frozen=True)
class Comparison:
    """What to compare. jobs: by name, over one corpus; tokens: that each model is trained on; seeds: of the models."""

    jobs: dict[str, Job]
    output: Path
    size: SizeName
    seeds: int
    tokens: int
    context: int = 256
    vocabulary: int = 4096


@dataclass
class CopyPass(Work):
    """Copies documents to one Arrow file per shard: those whose draw lies in a range. name: keys the draw."""

    corpus: Corpus
    folder: str
    name: str
    low: float
    high: float

    def do(self, shard: Shard, control: Control) -> Result:
        """Copy a shard's documents; returns how many."""
        copied = 0

        def write(file: IO[bytes]) -> None:
            nonlocal copied
            with pa.ipc.new_file(file, _SCHEMA) as writer:
                for _, batch in read_documents(self.corpus, shard, []):
                    control.check()
                    documents = batch.documents
                    draw = keyed_uniform(0, self.name, documents.keys)
                    chosen = pa.array((draw >= self.low) & (draw < self.high))
                    groups = documents.groups if documents.groups is not None else pa.nulls(len(draw), pa.string())
                    columns = [pa.array(documents.keys), documents.text, groups.cast(pa.string())]
                    rows = pa.record_batch([column.filter(chosen) for column in columns], schema=_SCHEMA)
                    copied += len(rows)
                    if len(rows):
                        writer.write_batch(rows)

        write_atomically(f"{self.folder}/{shard.index:06d}.arrow", write)
        control.advance(size=shard.bytes)
        return {"documents": np.array([copied])}


class Compare:
    """One execution of a comparison; what an earlier one has trained is not trained again."""

    def __init__(self, comparison: Comparison, engine: Engine, reporter: Reporter) -> None:
        self.what, self.engine, self.reporter = comparison, engine, reporter
        self.work = comparison.output / "work"
        first = next(iter(comparison.jobs.values()))
        self.corpus, self.targets = first.corpus, first.targets
        for name, job in comparison.jobs.items():
            if (job.corpus, job.limit) != (self.corpus, first.limit):
                raise RecipeError(f"{name}: has another `corpus` than the first recipe; compare over one corpus")
            self.targets = self.targets | job.targets

    def execute(self) -> dict[str, Any]:
        """Run the recipes, train, measure; returns the figures, which are written to `compare.json` too."""
        require_packages()
        runs = {name: self._run(name, job) for name, job in self.what.jobs.items()}
        tokenizer, held_out = self._held_out()
        data = {RANDOM: self._tokens("pool", lambda folder: self._copied(folder, *self._pool_range()), tokenizer)}
        for name, run in runs.items():
            data[name] = self._tokens(name, lambda folder, run=run: self._kept(folder, run), tokenizer)  # type: ignore[misc]
        losses = {name: self._trained(name, tokens, tokenizer, held_out) for name, tokens in data.items()}
        figures = self._figures(data, losses, list(held_out))
        text = json.dumps(figures, indent=1, allow_nan=False) + "\n"
        write_atomically(str(self.what.output / "compare.json"), lambda file: file.write(text.encode()))
        files.remove_tree(self.work)
        return figures

    def _run(self, name: str, job: Job) -> Path:
        self.reporter.say(f"{name}: running its recipe")
        if not isinstance(job.weigher, Uniform):
            self.reporter.warn(f"{name}: the models are trained without its weights, on which documents it keeps alone")
        Run(job, self.engine, self.reporter).execute()
        return job.output

    def _pool_range(self) -> tuple[float, float]:
        """Return the range of the draw that makes the pool: what is held out lies below it."""
        size = sum(shard.bytes for shard in self._opened().shards)
        share = POOL * self.what.tokens * BYTES_PER_TOKEN / max(size, 1)
        return HELD_OUT_SHARE, min(1.0, HELD_OUT_SHARE + max(share, 0.05))

    def _opened(self) -> Any:
        return open_corpus("corpus", self.corpus, limit=next(iter(self.what.jobs.values())).limit)

    def _copied(self, folder: Path, low: float, high: float) -> None:
        """Copy documents of the corpus whose draw lies in a range."""
        opened = self._opened()
        work = CopyPass(opened.corpus, str(folder), "compare", low, high)
        self._pass(work, opened.shards, f"copying {folder.name}")

    def _pass(self, work: CopyPass, shards: Sequence[Shard], stage: str) -> None:
        self.reporter.begin(stage, len(shards), sum(shard.bytes for shard in shards))
        try:
            run_pass(work, shards, self.engine, str(self.work / "exchange"), self.reporter.update)
        finally:
            self.reporter.end()

    def _kept(self, folder: Path, run: Path) -> None:
        """Copy what a run keeps, without what is held out."""
        manifest = read_manifest(run)
        assert manifest is not None
        names = [file["path"] for file in manifest["files"] if file["path"].startswith("data/")]
        with pa.OSFile(str(folder / "kept.arrow"), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
            for name in sorted(names):
                for batch in _batches(run / name, self.corpus):
                    chosen = keyed_uniform(0, "compare", batch["key"].to_numpy()) >= HELD_OUT_SHARE
                    writer.write_batch(batch.filter(pa.array(chosen)))

    def _tokens(self, name: str, copy: Callable[[Path], None], tokenizer: Any) -> TokenFile:
        """Return documents as tokens. copy: puts Arrow files of them into a folder."""
        text = self.work / name
        text.mkdir(parents=True, exist_ok=True)
        copy(text)
        write_tokens(text, tokenizer, f"{self.work}/{name}-tokens")
        files.remove_tree(text)
        found = read_tokens(f"{self.work}/{name}-tokens")
        assert found is not None
        if found.lengths.sum() <= self.what.context:
            raise TamisError(f"{name}: {found.lengths.sum():,} tokens are left to train on, too few for one sequence")
        return found

    def _held_out(self) -> tuple[Any, dict[str, PackedTokens]]:
        """Return the tokenizer, trained on the pool, and held-out sequences by domain and target."""
        self.what.output.mkdir(parents=True, exist_ok=True)
        if self.work.exists():
            files.remove_tree(self.work)
        own, pool, held = self.work / "tokenizer", self.work / "for the tokenizer", self.work / "held out"
        for folder in (own, pool, held):
            folder.mkdir(parents=True)
        self._copied(pool, *self._pool_range())
        tokenizer_of(pool, self.what.vocabulary, 0).save_pretrained(own)
        files.remove_tree(pool)
        tokenizer = load_tokenizer(own)
        self._copied(held, 0.0, HELD_OUT_SHARE)
        found: dict[str, PackedTokens] = {}
        for number, (domain, parts) in enumerate(_by_group(held)):
            self._add(found, domain or "(none)", f"domain-{number}", parts, tokenizer)
        for number, (name, config) in enumerate(sorted(self.targets.items())):
            opened = open_corpus(f"targets.{name}", config)
            folder = self.work / f"target-{number}-text"
            folder.mkdir()
            self._pass(CopyPass(opened.corpus, str(folder), "compare", 0.0, 1.0), opened.shards, f"copying {name}")
            parts = [batch for path in sorted(folder.glob("*.arrow")) for batch in _read(path)]
            self._add(found, f"target {name}", f"target-{number}", parts, tokenizer)
        if not found:
            raise TamisError("no domain has enough held-out text for one sequence; lower --context, or give more text")
        return tokenizer, found

    def _add(
        self, found: dict[str, PackedTokens], domain: str, name: str, parts: list[pa.RecordBatch], tokenizer: Any
    ) -> None:
        """Add a domain's sequences, if there is at least one."""
        folder = self.work / name
        folder.mkdir()
        with pa.OSFile(str(folder / "all.arrow"), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
            for part in parts:
                writer.write_batch(part)
        url = f"{self.work}/{name}-tokens"
        write_tokens(folder, tokenizer, url)
        tokens = read_tokens(url)
        assert tokens is not None
        order = np.argsort(tokens.keys, kind="stable")
        few = order[: np.searchsorted(np.cumsum(tokens.lengths[order]), HELD_OUT_TOKENS, "right") + 1]
        packed = PackedTokens(
            tokens.tokens, tokens.starts[few], tokens.lengths[few], tokens.keys[few], self.what.context, 0
        )
        if len(packed):
            found[domain] = packed
        else:
            self.reporter.warn(f"{domain}: too little held-out text for one sequence; it is not measured")

    def _trained(
        self, name: str, tokens: TokenFile, tokenizer: Any, held_out: Mapping[str, PackedTokens]
    ) -> dict[str, NDArray[np.float64]]:
        """Train with each seed; returns the losses by domain, float64[seeds, sequences]."""
        import torch

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        size = SIZES[self.what.size]
        schedule = make_schedule(self.what.tokens, self.what.context, size.batch_tokens, size.learning_rate, 0.05)
        by_seed: list[dict[str, NDArray[np.float64]]] = []
        for seed in range(self.what.seeds):
            result = self.what.output / "losses" / f"{name}-{seed}.npz"
            fingerprint = self._fingerprint(tokens, held_out, seed, schedule)
            known = load_arrays(str(result)) if result.exists() else {}
            if known.pop("fingerprint", np.zeros(0, "U1")).tolist() == [fingerprint]:
                by_seed.append(known)
                continue
            data = PackedTokens(tokens.tokens, tokens.starts, tokens.lengths, tokens.keys, self.what.context, seed)
            model = new_model(size, len(tokenizer), self.what.context, tokenizer.bos_token_id, seed)
            self.reporter.begin(f"training {name}, seed {seed}", schedule.steps, 0)
            try:
                checkpoint = self.work / "checkpoint.safetensors"
                checkpoint.unlink(missing_ok=True)
                train(
                    model, data, None, schedule, device, checkpoint, lambda p, _: self.reporter.update(p.step, 0), 1e9
                )
            finally:
                self.reporter.end()
            losses = {domain: sequence_losses(model, packed, device) for domain, packed in held_out.items()}
            save_arrays(str(result), losses | {"fingerprint": np.array([fingerprint])})
            by_seed.append(losses)
        return {domain: np.stack([losses[domain] for losses in by_seed]) for domain in held_out}

    def _fingerprint(
        self, tokens: TokenFile, held_out: Mapping[str, PackedTokens], seed: int, schedule: Schedule
    ) -> str:
        what = self.what
        sets: list[TokenFile | PackedTokens] = [tokens, *held_out.values()]
        content = [[int(part.keys.sum(dtype=np.uint64)), int(part.lengths.sum()), len(part.keys)] for part in sets]
        sample = digest(np.asarray(tokens.tokens[: 1 << 16]).tobytes().hex())
        return digest(what.size, what.context, what.vocabulary, seed, str(schedule), content, list(held_out), sample)

    def _figures(
        self, data: Mapping[str, TokenFile], losses: Mapping[str, Mapping[str, Any]], domains: list[str]
    ) -> dict[str, Any]:
        what = self.what
        methods: dict[str, Any] = {}
        for name, of_domains in losses.items():
            there = int(data[name].lengths.sum())
            rows = {}
            for domain in domains:
                of_seeds = of_domains[domain]
                row = {"loss": float(of_seeds.mean()), "by_seed": of_seeds.mean(1).tolist()}
                if name != RANDOM:
                    difference, low, high = mean_difference(of_seeds, losses[RANDOM][domain])
                    row |= {"difference": difference, "low": low, "high": high}
                rows[domain] = row
            methods[name] = {"documents": len(data[name].keys), "tokens": there, "epochs": what.tokens / there}
            methods[name]["domains"] = rows
        settings = {"proxy": what.size, "tokens": what.tokens, "seeds": what.seeds, "context": what.context}
        return {
            **settings,
            "vocabulary": what.vocabulary,
            "baseline": RANDOM,
            "unit": "nats per token",
            "methods": methods,
        }


def _batches(path: Path, corpus: CorpusConfig) -> Iterator[pa.RecordBatch]:
    """Yield key, text and no group of a data file."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        names = source_names(list(corpus.content_columns.values()))
        for batch in file.iter_batches(1024, columns=["key", *names.values()], use_threads=False):
            table = pa.Table.from_batches([batch]).rename_columns(
                [next((own for own, ours in names.items() if ours == name), name) for name in batch.schema.names]
            )
            text, _ = document_text(table, corpus)
            columns = [batch.column("key"), text.cast(pa.large_string()), pa.nulls(len(batch), pa.string())]
            yield pa.record_batch(columns, schema=_SCHEMA)


def _read(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def _by_group(folder: Path) -> Iterator[tuple[str, list[pa.RecordBatch]]]:
    """Yield the held-out documents of each group, the largest first; memory-mapped."""
    batches = [batch for path in sorted(folder.glob("*.arrow")) for batch in _read(path)]
    groups = [np.array(batch["group"].fill_null("").to_pylist(), dtype=object) for batch in batches]
    names, counts = np.unique(np.concatenate([*groups, np.zeros(0, object)]).astype(str), return_counts=True)
    ordered = names[np.argsort(-counts, kind="stable")].tolist()
    named = ordered[:DOMAINS]
    for name in named:
        yield name, [batch.filter(pa.array(group == name)) for batch, group in zip(batches, groups, strict=True)]
    if others := set(ordered[DOMAINS:]):
        rest = [np.array([name in others for name in group], bool) for group in groups]
        yield "others", [batch.filter(pa.array(chosen)) for batch, chosen in zip(batches, rest, strict=True)]
