"""Speed of the scorer `ngram_model` on one core, and how its order agrees with that of a published 3-gram model.

    python tests/benchmarks/ngram_model_speed.py --corpus 'corpus/*.parquet' --target target.parquet \
        --peer-python peer/bin/python --prose fiction news --group-column domain

Speed counts everything from Arrow text to columns (words, folds, n-grams). The peer is the English 3-gram model of
72,000 words that comes with pocketsphinx, in an environment of its own: pip install pocketsphinx. It reads the same
words without punctuation and numbers; a document's mean log-probability is taken over those that it knows. Two models
of unlike training text agree as far as both tell ordinary English from other text; the agreement of another half of
our own target shows how much of the rest is chance.
"""

import argparse
import json
import re
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tamis.connectors.keys import hash_column
from tamis.scoring.ngram_model_scorer import NgramModelParameters, NgramModelScorer
from tamis.scoring.scorer import Documents

PEER = """
import json, sys
from pocketsphinx import Config, LogMath, NGramModel, get_model_path
logmath = LogMath()
model = NGramModel(Config(), logmath, get_model_path("en-us/en-us.lm.bin"))
unknown = model.prob(["qqqqqzzzz"])
means = []
for line in sys.stdin:
    words = json.loads(line)
    known, total = 0, 0.0
    for i, word in enumerate(words):
        if model.prob([word]) == unknown:
            continue
        known += 1
        total += logmath.log_to_ln(model.prob([word, *reversed(words[max(i - 2, 0):i])]))
    means.append([-total / known if known else None, known / max(len(words), 1)])
print(json.dumps(means))
"""


def read(pattern: str) -> pa.Table:
    """Read all Parquet files that match, in the order of their names."""
    path = Path(pattern)
    files = sorted(path.parent.glob(path.name))
    if not files:
        raise SystemExit(f"no Parquet file matches {pattern}")
    return pa.concat_tables([pq.read_table(file) for file in files])


def documents_of(text: pa.ChunkedArray | pa.Array) -> Documents:
    if isinstance(text, pa.ChunkedArray):
        text = text.combine_chunks()
    text = text.cast(pa.large_string())
    return Documents(text, hash_column(text))


def fitted(documents: Documents, of_corpus: bool, **settings: int) -> NgramModelScorer:
    """Fit the scorer on documents, as a target or as the corpus."""
    target = {} if of_corpus else {"target": "target"}
    scorer = NgramModelScorer(NgramModelParameters(scorer="ngram_model", **target, **settings))
    statistic = scorer.start()
    scorer.update(statistic, documents, of_corpus)
    scorer.finish(statistic, {"target": statistic})
    return scorer


def losses(scorer: NgramModelScorer, documents: Documents) -> NDArray[np.float64]:
    return np.array(scorer.score(documents)[""].to_pylist(), dtype=float)


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def measure(name: str, scorer: NgramModelScorer, text: pa.Array, rows: int, times: int) -> None:
    """Print the speed of scoring, in batches of some megabytes as a run has them."""
    laps = []
    for _ in range(times + 1):
        batches = [documents_of(text[start : start + rows]) for start in range(0, len(text), rows)]
        started = time.perf_counter()
        for batch in batches:
            scorer.score(batch)
        laps.append(time.perf_counter() - started)
    size = pc.sum(pc.binary_length(text)).as_py() / 1e6
    laps = laps[1:]  # the first one compiles
    print(f"{name}: median {size / statistics.median(laps):.1f} MB/s, best {size / min(laps):.1f} MB/s")


def compare(python: str, scorers: dict[str, NgramModelScorer], text: pa.Array) -> None:
    """Print rank correlations of documents with those of the peer."""
    words = [re.findall(r"[a-z]+(?:'[a-z]+)?", value.lower()) for value in text.to_pylist()]
    lines = "".join(json.dumps(line) + "\n" for line in words)
    done = subprocess.run([python, "-c", PEER], input=lines, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"the peer failed: {done.stderr[-2000:]}")
    peer = np.array(json.loads(done.stdout.splitlines()[-1]), dtype=float)
    own = {name: losses(scorer, documents_of(text)) for name, scorer in scorers.items()}
    known = np.isfinite(peer[:, 0]) & np.all([np.isfinite(values) for values in own.values()], axis=0)
    print(f"peer: {known.sum()} documents, of whose words it knows {peer[known, 1].mean():.1%}")
    for name, values in own.items():
        print(f"Spearman correlation with the peer, {name}: {spearman(values[known], peer[known, 0]):.3f}")
    first, second = (own[name][known] for name in ("model of one half", "model of the other half"))
    print(f"Spearman correlation of the two halves with each other: {spearman(first, second):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="glob of Parquet files")
    parser.add_argument("--target", required=True, help="glob of Parquet files")
    parser.add_argument("--column", default="text")
    parser.add_argument("--ngrams", type=int, default=3)
    parser.add_argument("--buckets", type=int, default=1 << 20)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--peer-python", help="interpreter that has pocketsphinx")
    parser.add_argument("--group-column", help="of the corpus, to compare with the peer on")
    parser.add_argument("--prose", nargs="*", default=[], help="groups to compare on; default: all of the corpus")
    parser.add_argument("--documents", type=int, default=400, help="to compare on")
    options = parser.parse_args()
    corpus, target = read(options.corpus), read(options.target)[options.column].combine_chunks()
    settings = {"ngrams": options.ngrams, "buckets": options.buckets}
    text = corpus[options.column].combine_chunks().cast(pa.large_string())
    of_target = fitted(documents_of(target), False, **settings)
    of_corpus = fitted(documents_of(text), True, **settings)
    measure("scoring by a target", of_target, text, 2000, options.times)
    measure("scoring by the corpus itself", of_corpus, text, 2000, options.times)
    if options.peer_python:
        if options.prose:
            text = text.filter(pc.is_in(corpus[options.group_column], pa.array(options.prose)).combine_chunks())
        chosen = np.argsort(hash_column(text))[: options.documents]
        halves = [
            fitted(documents_of(target.take(pa.array(range(i, len(target), 2)))), False, **settings) for i in (0, 1)
        ]
        scorers = {
            "model of the target": of_target,
            "model of the corpus": of_corpus,
            "model of one half": halves[0],
            "model of the other half": halves[1],
        }
        compare(options.peer_python, scorers, text.take(pa.array(chosen)))


if __name__ == "__main__":
    main()
