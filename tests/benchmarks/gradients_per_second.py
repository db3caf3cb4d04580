"""Projected gradients of documents per second: the scorer `gradients` against one document at a time, and peers.

    python tests/benchmarks/gradients_per_second.py --corpus 'corpus/*.parquet' --megabytes 0.1

All ways read the same first `--context` tokens of each document with the same model: a Llama of 15M parameters with
random weights, of which the linear layers but the head are differentiated, or `--model`. Each runs in a process of its
own, on one library thread, and seconds are those of the processor; laps alternate, and ratios are those of the medians.
Tokenizing is in our time only.

* one: a backward pass for each document, and then our projection of its gradient, which costs next to nothing;
* less: the same with the dense projection of LESS and TRAK, the CPU projector of `traker`, 16 documents at a time;
* dattri: its LoGra, in padded batches of 16 in the data's order, with as many numbers for each layer.

The last two need a `--peer`, a Python with `traker` or `dattri` beside Tamis; `less` is timed on 16 documents.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from dsir_against_data_selection import read_texts
from perplexity_against_padded import make_model
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.keys import hash_bytes, text_buffers
from tamis.connectors.memory import forget_peak, peak_bytes
from tamis.scoring.causal_model import causal_model
from tamis.scoring.gradients_scorer import Gradients, GradientsParameters
from tamis.scoring.scorer import Documents
from tamis.scoring.token_sequences import tokenise
from tamis.scoring.vectors import vectors_of
from transformers import AutoModelForCausalLM

BATCH, WARM_UP = 16, 2


def prepared(options: argparse.Namespace) -> Gradients:
    parameters = {"dimension": options.dimension, "context": options.context, "max_tokens": options.context}
    scorer = Gradients(GradientsParameters(scorer="gradients", model=options.model, device="cpu", **parameters))
    scorer.prepare(CorpusConfig(format="parquet", paths=["in memory"]))
    return scorer


def documents(text: pa.Array) -> Documents:
    return Documents(text, hash_bytes(*text_buffers(text)))


def token_rows(options: argparse.Namespace, text: pa.Array) -> list[torch.Tensor]:
    loaded = causal_model(prepared(options)._prepared.key)
    sequences = tokenise(loaded.tokenizer, loaded.beginning, text)
    rows = [sequences.tokens[begin : begin + options.context] for begin in sequences.offsets[:-1]]
    ends = sequences.lengths
    return [torch.from_numpy(row[:end].astype(np.int64)) for row, end in zip(rows, ends, strict=True)]


def ours(options: argparse.Namespace, text: pa.Array) -> tuple[float, np.ndarray]:
    scorer = prepared(options)
    scorer.score(documents(text[:WARM_UP]))
    start = time.process_time()
    vectors, _ = vectors_of(scorer.score(documents(text))[""])
    return time.process_time() - start, vectors.astype(np.float32)


def whole_gradients(options: argparse.Namespace, rows: list[torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Differentiate one document after another; yields the gradients of the layers."""
    model = AutoModelForCausalLM.from_pretrained(options.model).requires_grad_(False)
    layers = dict(model.named_modules())
    weights = {name: layers[name].weight.requires_grad_(True) for name in prepared(options)._prepared.layers}
    for tokens in rows:
        model(input_ids=tokens[None], labels=tokens[None], use_cache=False).loss.backward()
        yield {name: weight.grad for name, weight in weights.items()}
        for weight in weights.values():
            weight.grad = None


def one(options: argparse.Namespace, text: pa.Array) -> tuple[float, np.ndarray]:
    rows, projections = token_rows(options, text), prepared(options)._projections()
    sides = {
        name: [torch.from_numpy(side.as_matrix()) for side in (p.outputs, p.inputs)] for name, p in projections.items()
    }

    def projected(gradients: dict[str, torch.Tensor]) -> np.ndarray:
        parts = []
        for name, gradient in gradients.items():
            product = (sides[name][0].T @ gradient @ sides[name][1]).numpy().ravel()
            projection = projections[name]
            if projection.order is not None:
                product = (np.append(product, 0)[projection.order] * projection.signs).sum(axis=1)
            parts.append(product)
        return np.concatenate(parts)

    for gradients in whole_gradients(options, rows[:WARM_UP]):
        projected(gradients)
    start = time.process_time()
    found = np.stack([projected(gradients) for gradients in whole_gradients(options, rows)])
    return time.process_time() - start, found


def less(options: argparse.Namespace, text: pa.Array) -> tuple[float, np.ndarray]:
    from trak.projectors import BasicProjector, ProjectionType

    rows = token_rows(options, text)[:BATCH]
    size = sum(a * b for a, b in prepared(options)._prepared.layers.values())
    arguments = {"seed": 0, "proj_type": ProjectionType.rademacher, "device": "cpu", "dtype": torch.float32}
    projector = BasicProjector(size, options.dimension, block_size=16, **arguments)
    start = time.process_time()
    found = [torch.cat([g.ravel() for g in one.values()]) for one in whole_gradients(options, rows)]
    vectors = projector.project(torch.stack(found), model_id=0).numpy()
    return (time.process_time() - start) * len(text) / BATCH, vectors


def dattri(options: argparse.Namespace, text: pa.Array) -> tuple[float, np.ndarray]:
    from dattri.algorithm.logra import LoGraAttributor
    from dattri.task import AttributionTask

    rows, layers = token_rows(options, text), list(prepared(options)._prepared.layers)
    model = AutoModelForCausalLM.from_pretrained(options.model)

    def padded(some: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        tokens = torch.nn.utils.rnn.pad_sequence(some, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in some], batch_first=True)
        return {"input_ids": tokens, "attention_mask": mask, "labels": torch.where(mask > 0, tokens, -100)}

    def loss(model: torch.nn.Module, batch: dict[str, torch.Tensor], device: str) -> torch.Tensor:
        return model(**batch, use_cache=False).loss

    task = AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())
    side = math.isqrt(options.dimension // len(layers))
    attributor = LoGraAttributor(task, layers, hessian="Identity", proj_dim=side * side, offload="none")
    loader = torch.utils.data.DataLoader(rows, batch_size=BATCH, collate_fn=padded)
    attributor._setup_compressors(loader)
    start = time.process_time()
    attributor.cache(loader)
    return time.process_time() - start, np.zeros((len(text), side * side * len(layers)))


WAYS = {"ours": ours, "one": one, "less": less, "dattri": dattri}


def run_way(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    text = pq.read_table(options.corpus)["text"].combine_chunks()
    forget_peak()
    seconds, vectors = WAYS[options.way](options, text)
    np.save(Path(options.corpus).with_name(f"{options.way}.npy"), vectors)
    print(json.dumps({"seconds": seconds, "peak": peak_bytes()}))


def lap(way: str, options: argparse.Namespace, model: str, texts: Path) -> dict[str, float]:
    python = options.peer if way in ("less", "dattri") else sys.executable
    command = [python, __file__, "--way", way, "--model", model, "--corpus", str(texts)]
    command += ["--context", str(options.context), "--dimension", str(options.dimension)]
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{way} failed: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True, help="glob of Parquet files with a column `text`")
    parser.add_argument("--megabytes", type=float, default=0.1, help="of the corpus")
    parser.add_argument("--model", help="folder; default: a Llama of 15M parameters")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--dimension", type=int, default=4200)
    parser.add_argument("--longest", type=int, help="characters of a document that are taken; default: all")
    parser.add_argument("--laps", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=["one"], choices=["one", "less", "dattri"])
    parser.add_argument("--peer", help="Python that has the peers")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        run_way(options)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = options.model or str(folder / "model")
        if options.model is None:
            make_model(Path(model), read_texts(options.corpus, "text", 5_000_000))
        text = read_texts(options.corpus, "text", int(options.megabytes * 1e6))
        if options.longest is not None:
            text = pa.array([one[: options.longest] for one in text.to_pylist()], pa.large_string())
        texts = folder / "texts.parquet"
        pq.write_table(pa.table({"text": text}), texts)
        ways = ["ours", *options.ways]
        found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(options.laps):
            for way in ways:
                found[way].append(lap(way, options, model, texts))
        seconds = {way: statistics.median(one["seconds"] for one in laps) for way, laps in found.items()}
        print(f"{len(text):,} documents, {options.dimension:,} dimensions, context {options.context:,}")
        for way, laps in found.items():
            peak = min(one["peak"] for one in laps) / 1e6
            print(
                f"  {way:7s}{len(text) / seconds[way]:9.2f} documents/s  peak {peak:7,.0f} MB  "
                f"{seconds[way] / seconds['ours']:6.2f}x our time"
            )
        if "one" in ways:
            pair = [np.load(folder / f"{way}.npy") for way in ("ours", "one")]
            cosines = (pair[0] * pair[1]).sum(1) / np.linalg.norm(pair[0], axis=1) / np.linalg.norm(pair[1], axis=1)
            print(f"  smallest cosine of our vectors and those of one document at a time: {cosines.min():.6f}")


if __name__ == "__main__":
    main()
