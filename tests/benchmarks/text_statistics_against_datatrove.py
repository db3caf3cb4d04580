"""The scorer `text_statistics` against DataTrove's filters, on one core, with a comparison of their verdicts.

    python tests/benchmarks/text_statistics_against_datatrove.py --corpus 'corpus/*.parquet' --megabytes 5 \
        --peer-python peer/bin/python

The peer needs its own environment: pip install "datatrove[processing]==0.10.1" "spacy<4". Its English tokenizer is
spaCy's rules, which need no download. The verdicts here are those of jobs/recipes/gopher.yaml and c4.yaml.

The peer's filters get documents in memory, one after another, and each of them tokenizes anew, as in a pipeline of
DataTrove; its cache of the last five texts is emptied between the filters. Ours computes all default columns at once.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from dsir_against_data_selection import batches_of, bytes_of, read_texts, write_lines
from numpy.typing import NDArray
from tamis.connectors.keys import hash_bytes, text_buffers
from tamis.scoring.scorer import Documents
from tamis.scoring.text_statistics_scorer import TextStatistics, TextStatisticsParameters

RECIPES = Path(__file__).parents[2] / "jobs" / "recipes"
PEER = """
import json, sys, time
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.utils.text import split_into_parts, split_into_words
texts = [json.loads(line)["text"] for line in open(sys.argv[1], encoding="utf-8")]
split_into_words("Load the tokenizer.")
result = {}
for filter in (GopherQualityFilter(), GopherRepetitionFilter(), C4QualityFilter()):
    verdicts = []
    start = time.perf_counter()
    for text in texts:
        verdict = filter.filter(Document(text=text, id=""))
        verdicts.append("kept" if verdict is True else verdict[1])
    result[type(filter).__name__] = {"seconds": time.perf_counter() - start, "verdicts": verdicts}
    split_into_parts.cache_clear()
json.dump(result, open(sys.argv[2], "w"))
"""


def score(batches: list[pa.Array]) -> dict[str, NDArray[np.float64]]:
    """All default columns, as a run computes them."""
    scorer = TextStatistics(TextStatisticsParameters(scorer="text_statistics"))
    found = [scorer.score(Documents(batch, hash_bytes(*text_buffers(batch)))) for batch in batches]
    return {suffix: pa.chunked_array([part[suffix] for part in found]).to_numpy() for suffix in found[0]}


def verdicts(columns: dict[str, NDArray[np.float64]], recipe: str, steps: slice) -> NDArray[np.bool_]:
    """What the thresholds of a recipe keep."""
    kept = np.ones(len(columns[""]), np.bool_)
    for step in yaml.safe_load((RECIPES / recipe).read_text())["select"][steps]:
        values = columns[step["by"].removeprefix("quality").removeprefix("_")]
        kept &= (values >= step.get("min", -np.inf)) & (values <= step.get("max", np.inf))
    return kept


def run_peer(python: str, text: pa.Array) -> dict[str, dict]:
    with tempfile.TemporaryDirectory() as folder:
        lines, result = Path(folder, "texts.jsonl"), Path(folder, "result.json")
        write_lines(lines, text)
        done = subprocess.run([python, "-c", PEER, lines, result], text=True, capture_output=True)
        if done.returncode:
            raise SystemExit(f"the peer failed: {done.stderr[-2000:]}")
        return json.loads(result.read_text())


def laps_of(batches: list[pa.Array], times: int) -> list[float]:
    score(batches)
    laps = []
    for _ in range(times):
        start = time.perf_counter()
        score(batches)
        laps.append(time.perf_counter() - start)
    return laps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="glob of Parquet files")
    parser.add_argument("--column", default="text")
    parser.add_argument("--megabytes", type=float, default=5)
    parser.add_argument("--peer-python", required=True, help="interpreter that has DataTrove and spaCy")
    parser.add_argument("--times", type=int, default=5, help="runs of ours, before and after the peer")
    options = parser.parse_args()
    text = read_texts(options.corpus, options.column, int(options.megabytes * 1e6))
    batches, megabytes = batches_of(text), bytes_of(text) / 1e6
    print(f"{len(text)} documents, {megabytes:.1f} MB")

    before = laps_of(batches, options.times)
    peer = run_peer(options.peer_python, text)
    after = laps_of(batches, options.times)  # a shared machine changes its speed within minutes
    ours = statistics.median(before + after)
    print(
        f"ours, all default columns: {megabytes / ours:.1f} MB/s, at best {megabytes / min(before + after):.1f} "
        f"({statistics.median(after) / statistics.median(before):.2f} times as long after the peer as before it)"
    )
    for name, part in peer.items():
        print(f"{name}: {megabytes / part['seconds']:.2f} MB/s, ours {part['seconds'] / ours:.0f}x")
    print(f"all three: ours {sum(part['seconds'] for part in peer.values()) / ours:.0f}x")

    columns = score(batches)
    mine = {
        "GopherQualityFilter": verdicts(columns, "gopher.yaml", slice(8)),
        "GopherRepetitionFilter": verdicts(columns, "gopher.yaml", slice(8, None)),
        "C4QualityFilter": verdicts(columns, "c4.yaml", slice(None)),
        "C4QualityFilter, its number of sentences alone": verdicts(columns, "c4.yaml", slice(1)),
    }
    for name, kept in mine.items():
        reasons = np.array(peer[name.partition(",")[0]]["verdicts"])
        compared = np.isin(reasons, ["kept", "too_few_sentences"]) if "," in name else np.ones(len(kept), np.bool_)
        differs = compared & (kept != (reasons == "kept"))
        print(
            f"{name}: {differs.sum()} of {compared.sum()} verdicts differ "
            f"(kept: ours {kept[compared].sum()}, peer {(reasons[compared] == 'kept').sum()}) "
            f"{dict(Counter(reasons[differs].tolist()))}"
        )


if __name__ == "__main__":
    main()
