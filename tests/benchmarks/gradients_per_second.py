"""Projected gradients of documents per second: the scorer `gradients` against one document at a time, and peers.

    python tests/benchmarks/gradients_per_second.py --corpus 'corpus/*.parquet' --megabytes 0.1

All ways read the same first `--context` tokens of each document with the same model: a Llama of 15M parameters with
random weights, of which the linear layers but the head are differentiated, or `--model`. Each runs in a process of its
own, on one library thread, and seconds are those of the processor; laps alternate, and ratios are those of the medians.
Tokenizing is in our time only.

* ours: in float32; `ours_bfloat16`: with `dtype: bfloat16`, for CPUs that multiply such numbers (AMX);
* one: a backward pass for each document, and then our projection of its gradient, which costs next to nothing: what
  batches alone win;
* less: the way of LESS, and of TRAK and dattri where they do not batch: the whole gradient of each document by a
  backward pass of its own, and then the dense projection of `traker` on a CPU;
* traker, dattri, kronfluence: their batched ways, see `gradient_peers.py`.

All but the first three need a `--peer`, a Python with these tools beside Tamis.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from dsir_against_data_selection import read_texts
from gradient_peers import PEERS, Job, one_after_another
from perplexity_against_padded import make_model
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.keys import hash_bytes, text_buffers
from tamis.connectors.memory import forget_peak, peak_bytes
from tamis.scoring.causal_model import causal_model
from tamis.scoring.gradients_scorer import Gradients, GradientsParameters
from tamis.scoring.scorer import Documents
from tamis.scoring.token_sequences import tokenise
from tamis.scoring.vectors import vectors_of

WARM_UP = 2


def prepared(options: argparse.Namespace) -> Gradients:
    dtype = "bfloat16" if options.way == "ours_bfloat16" else "float32"
    parameters = {
        "dtype": dtype,
        "dimension": options.dimension,
        "context": options.context,
        "max_tokens": options.context,
    }
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


def job_of(options: argparse.Namespace, text: pa.Array) -> Job:
    layers = prepared(options)._prepared.layers
    size = sum(inputs * outputs for inputs, outputs in layers.values())
    return Job(options.model, token_rows(options, text), list(layers), size, options.dimension)


def one(options: argparse.Namespace, text: pa.Array) -> tuple[float, np.ndarray]:
    job, projections = job_of(options, text), prepared(options)._projections()
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

    for gradients in one_after_another(job, job.rows[:WARM_UP]):
        projected(gradients)
    start = time.process_time()
    found = np.stack([projected(gradients) for gradients in one_after_another(job, job.rows)])
    return time.process_time() - start, found


WAYS = {"ours": ours, "ours_bfloat16": ours, "one": one}


def run_way(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    text = pq.read_table(options.corpus)["text"].combine_chunks()
    forget_peak()
    if options.way in PEERS:
        seconds = PEERS[options.way](job_of(options, text))
    else:
        seconds, vectors = WAYS[options.way](options, text)
        np.save(Path(options.corpus).with_name(f"{options.way}.npy"), vectors)
    print(json.dumps({"seconds": seconds, "peak": peak_bytes()}))


def lap(way: str, options: argparse.Namespace, model: str, texts: Path) -> dict[str, float]:
    python = options.peer if way in PEERS else sys.executable
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
    parser.add_argument("--ways", nargs="+", default=["one"], choices=["ours_bfloat16", "one", *PEERS])
    parser.add_argument("--peer", help="Python that has the peers")
    parser.add_argument("--way", choices=[*WAYS, *PEERS], help=argparse.SUPPRESS)
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
                f"  {way:14s}{len(text) / seconds[way]:9.2f} documents/s  peak {peak:7,.0f} MB  "
                f"{seconds[way] / seconds['ours']:6.2f}x our time"
            )
        for way in ways[1:]:
            if way in WAYS:
                pair = [np.load(folder / f"{name}.npy") for name in ("ours", way)]
                cosines = (pair[0] * pair[1]).sum(1) / np.linalg.norm(pair[0], axis=1) / np.linalg.norm(pair[1], axis=1)
                print(f"  smallest cosine of our vectors and those of {way}: {cosines.min():.6f}")


if __name__ == "__main__":
    main()
