"""Linear datamodelling scores of influence on a language model: what `tamis compare --influence` kept, and peers.

    tamis compare --influence recipe.yaml --proxy model --output OUT
    python tests/benchmarks/linear_datamodelling_peers.py OUT [--ways dattri_logra traker] [--threads 1]

OUT is the folder of a comparison that is done: nothing is trained here. Its sample of documents, its targets' examples
and the measured losses of its models serve all; the gradients of all are those of the recipe's model, of so many
dimensions. For each way: the score, its interval (the same draws for all), the score with influences multiplied by
documents' tokens, and the wall and processor seconds of all influences, tokenizing and loading left out.

Each way runs in a process of its own, on --threads library threads, at most --limit seconds, and its influences are
kept in OUT/peers: another call, with other --ways, goes on. Peers are run by --peer, a Python that has them beside
Tamis (dattri, traker, kronfluence). See `influence_peers.py` for what they do.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from influence_peers import PEERS, Texts, losses
from tamis.connectors.run_directory import read_manifest
from tamis.jobs.recipe import Recipe, make_job
from tamis.pipelines.influence_predictions import common, predictions_of
from tamis.scoring.causal_model import causal_model
from tamis.scoring.datamodelling import datamodelling_score, random_halves
from tamis.scoring.document_losses import document_losses
from tamis.scoring.gradient_covariance import GradientCovariance
from tamis.scoring.gradients_scorer import Gradients
from tamis.scoring.influence_examples import normalised_products
from tamis.scoring.scorer import Documents
from tamis.scoring.token_sequences import TokenSequences, tokenise
from tamis.scoring.vectors import vectors_of


class Comparison:
    """A comparison that is done, of one recipe: its documents, examples, influences and measured losses."""

    def __init__(self, out: Path) -> None:
        self.figures = json.loads((out / "influence.json").read_text())
        runs = [path for path in (out / "runs").iterdir() if (path / "manifest.json").exists()]
        if len(runs) != 1:
            raise SystemExit(f"{out}: holds {len(runs)} runs; compare one recipe alone, in a folder of its own")
        run = runs[0]
        manifest = read_manifest(run)
        assert manifest is not None
        self.job = make_job(Recipe.model_validate(manifest["recipe"]))
        for scorer in self.job.scorers.values():
            scorer.prepare(self.job.corpus)
        self.scorer = next(one for one in self.job.scorers.values() if isinstance(one, Gradients))
        documents, examples, self.scores = common([predictions_of(run, manifest, self.job, "")])
        self.keys, self.texts, self.examples = documents.keys, documents.texts, pa.array(examples.texts)
        subsets, seeds = self.figures["subsets"], self.figures["seeds"]
        self.taken = random_halves(self.keys, subsets, 0)
        kept = [[np.load(out / "losses" / f"{i}-{s}.npz")["losses"] for i in range(subsets)] for s in range(seeds)]
        self.losses = np.mean(kept, axis=0)
        if len(self.keys) != self.figures["documents"]:
            raise SystemExit(f"{out}: the run has {len(self.keys)} documents, and the comparison another number")

    def tokens(self, texts: pa.Array) -> TokenSequences:
        model = causal_model(self.scorer._prepared.key)
        return tokenise(model.tokenizer, model.beginning, texts)


def rows_of(sequences: TokenSequences) -> list[torch.Tensor]:
    return [torch.from_numpy(row.astype(np.int64)) for row in np.split(sequences.tokens, sequences.offsets[1:-1])]


def ours(comparison: Comparison) -> dict[str, tuple[float, float]]:
    """Return wall and processor seconds of Tamis for one score: its gradients, their covariance and the products.

    The influences themselves are those of the run.
    """
    scorer = comparison.scorer

    def batch(texts: pa.Array) -> Documents:
        return Documents(texts.cast(pa.large_string()), np.arange(len(texts), dtype=np.uint64))

    scorer.score(batch(comparison.texts[:2]))
    wall, processor = time.perf_counter(), time.process_time()
    documents, _ = vectors_of(scorer.score(batch(comparison.texts))[""])
    queries, _ = vectors_of(scorer.of_target(batch(comparison.examples)))
    moved = GradientCovariance.of(documents, scorer.blocks).preconditioned(queries.astype(np.float64), 0.1)
    normalised_products(documents, moved.astype(np.float32), "norm", [])
    taken = time.perf_counter() - wall, time.process_time() - processor
    return {name: taken for name, values in comparison.scores.items() if values.shape[1] > 1}


def run_way(out: Path, way: str) -> None:
    """Compute the influences of one way, and keep them."""
    comparison = Comparison(out)
    if way == "tamis":
        found, costs = comparison.scores, ours(comparison)
    else:
        documents, queries = (comparison.tokens(texts) for texts in (comparison.texts, comparison.examples))
        context, dimension = comparison.scorer._prepared.context, comparison.scorer.parameters.dimension
        order = np.argsort(-documents.lengths, kind="stable")
        rows = [rows_of(documents)[i] for i in order]
        texts = Texts(comparison.scorer._prepared.key.facts.folder, context, rows, rows_of(queries), dimension)
        module = causal_model(comparison.scorer._prepared.key).module
        with torch.inference_mode():
            told = document_losses(module, queries, context, torch.device("cpu"))
        assert np.allclose(told, losses(texts, texts.queries), rtol=1e-4), "peers read other windows than Tamis"
        PEERS[way](texts)
        found, costs = {name: values[np.argsort(order)] for name, values in texts.found.items()}, texts.costs
    folder = out / "peers"
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"{way}.npz", **found)
    (folder / f"{way}.json").write_text(json.dumps(costs))


def table(out: Path) -> None:
    """Print what is known of all ways."""
    comparison = Comparison(out)
    sizes = comparison.tokens(comparison.texts).lengths[:, None]
    figures = {}
    for path in sorted((out / "peers").glob("*.npz")):
        costs = json.loads(path.with_suffix(".json").read_text())
        for name, values in np.load(path).items():
            both = (values.astype(np.float64), values.astype(np.float64) * sizes)
            plain, by_tokens = (datamodelling_score(comparison.taken, one, comparison.losses) for one in both)
            label = f"tamis {name}" if path.stem == "tamis" else name
            figures[label] = {"score": plain, "times tokens": by_tokens, "seconds": costs.get(name)}
    for name, row in sorted(figures.items(), key=lambda item: -item[1]["score"].value):
        cells = "  ".join(f"{one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]" for one in list(row.values())[:2])
        print(f"{name:40} {cells}" + ("  {:8.1f} s {:8.1f} s".format(*row["seconds"]) if row["seconds"] else ""))
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ways", nargs="*", default=["tamis", *PEERS], choices=["tamis", *PEERS])
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--limit", type=float, default=1200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--this", action="store_true", help="the one way, in this process")
    options = parser.parse_args()
    if options.this:
        torch.set_num_threads(options.threads)
        run_way(options.out, *options.ways)
        return
    threads = {f"{name}_NUM_THREADS": str(options.threads) for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    for way in options.ways:
        command = [options.peer, __file__, str(options.out), "--this", "--ways", way]
        command += ["--threads", str(options.threads)]
        try:
            done = subprocess.run(command, env=os.environ | threads, timeout=options.limit, check=False)
        except subprocess.TimeoutExpired:
            print(f"{way}: not done after {options.limit:,.0f} s")
            continue
        if done.returncode:
            print(f"{way}: failed, see above")
    table(options.out)


if __name__ == "__main__":
    main()
