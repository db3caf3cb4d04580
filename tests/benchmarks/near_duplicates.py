"""Fuzzy duplicates against rensa, datasketch, DataTrove and text-dedup, on one core: precision, recall, F1 and time.

    python tests/benchmarks/near_duplicates.py --sets near_dup --peer-python peers/bin/python

Beside X.pairs.parquet (id_a, id_b, jaccard5) lies X.parquet (id, text). The truth are the listed pairs whose Jaccard
similarity of word 5-grams is at least the threshold, and all others that an exhaustive search finds. One setting for
all sets. The peers need their own environment: pip install rensa==0.5.0 datasketch==2.0.0 tokenizers "spacy<4"
"datatrove[processing]==0.10.1" "xxhash<4", and text-dedup==0.4.0 another one: --peers text_dedup=its/bin/python. They
get the word 5-grams from Python (rensa and datasketch; the time of making them is told apart) or make them as they do
(DataTrove and text-dedup, with their words), then sign, look up candidates and, but for these two, which do not, leave
out those whose signatures say less than the threshold. Of text-dedup the signing is its own; its lookup, a dictionary
for each band in the script that it is, is repeated here.

Ours makes sketches from Arrow text, bands, candidate pairs, and measures each. `--more` names a corpus for timing.
"""

import argparse
import json
import re
import statistics
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from dsir_against_data_selection import read_texts, write_lines
from tamis.scoring.minhash import Bands, Sketches, band_hashes, jaccard
from tamis.scoring.shingles import sketches
from tamis.selectors.duplicates import BAND_RECORD, candidate_pairs

Pairs = set[tuple[int, int]]

PEER = """
import json, os, re, sys, tempfile, time
os.environ["RAYON_NUM_THREADS"] = "1"
texts = [json.loads(line)["text"] for line in open(sys.argv[1], encoding="utf-8")]
name, threshold = sys.argv[3], float(sys.argv[4])
bands = int(sys.argv[5])

def shingles(text):
    words = re.findall(r"\\w+", text.lower())
    return list({" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))})

def by_rensa(sets):
    from rensa import RMinHash, RMinHashLSH
    signatures = RMinHash.from_token_sets(sets, 128, 42)
    index = RMinHashLSH(threshold, 128, bands)
    index.insert_many(signatures)
    found = index.query_all(signatures)
    return {(i, j) for i, near in enumerate(found) for j in near
            if i < j and signatures[i].jaccard(signatures[j]) >= threshold}

def by_datasketch(sets):
    from datasketch import MinHash, MinHashLSH
    signatures = MinHash.bulk([[s.encode() for s in one] for one in sets], num_perm=128)
    index = MinHashLSH(num_perm=128, params=(bands, 128 // bands))
    with index.insertion_session() as session:
        for i, signature in enumerate(signatures):
            session.insert(i, signature, check_duplication=False)
    return {(i, j) for i, signature in enumerate(signatures) for j in index.query(signature)
            if i < j and signature.jaccard(signatures[j]) >= threshold}

def by_datatrove(texts):
    import struct
    from pathlib import Path
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupSignature
    from datatrove.utils.logging import logger
    logger.remove()
    config = MinhashConfig(n_grams=5, num_buckets=bands, hashes_per_bucket=128 // bands)
    documents = [Document(text=text, id=str(i)) for i, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        MinhashDedupSignature(f"{folder}/a", config=config).run(documents)
        for rank in range(bands):
            MinhashDedupBuckets(f"{folder}/a", f"{folder}/b", config=config).run(rank=rank, world_size=bands)
        content = b"".join(path.read_bytes() for path in Path(folder, "b").rglob("*.dups"))
    return {(min(a, b), max(a, b)) for _, a, _, b in struct.iter_unpack("<4I", content)}

def by_text_dedup(texts):
    from collections import defaultdict
    from itertools import combinations
    import numpy as np
    from text_dedup.minhash import RNG, SIGNATURE_COLUMN, embed_func
    from text_dedup.utils import xxh3_32hash
    prime, rows = np.uint64((1 << 61) - 1), 128 // bands
    permutations = (RNG.randint(1, prime, size=128, dtype=np.uint64), RNG.randint(0, prime, size=128, dtype=np.uint64))
    options = dict(num_perm=128, ngram_size=5, min_length=0, permutations=permutations, hash_func=xxh3_32hash,
                   hashranges=[(i * rows, (i + 1) * rows) for i in range(bands)], dtype=np.uint64,
                   max_hash=np.uint32((1 << 32) - 1), modulo_prime=prime)
    tables = [defaultdict(list) for _ in range(bands)]
    for i, text in enumerate(texts):
        for table, band in zip(tables, embed_func(text, i, **options)[SIGNATURE_COLUMN]):
            table[band].append(i)
    return {pair for table in tables for near in table.values() for pair in combinations(near, 2)}

start = time.perf_counter()
made = 0.0
if name in ("rensa", "datasketch"):
    sets = [shingles(text) for text in texts]
    made = time.perf_counter() - start
start = time.perf_counter()
if made:
    found = by_rensa(sets) if name == "rensa" else by_datasketch(sets)
else:
    found = by_datatrove(texts) if name == "datatrove" else by_text_dedup(texts)
result = {"shingles": made, "rest": time.perf_counter() - start, "pairs": sorted(found)}
json.dump(result, open(sys.argv[2], "w"))
"""


def shingles(text: str) -> set[int]:
    words = re.findall(r"\w+", text.lower())
    return {hash(tuple(words[i : i + 5])) for i in range(max(1, len(words) - 4))}


def all_pairs(texts: list[str], threshold: float) -> Pairs:
    """Pairs of at least this similarity, by counting what they share; shingles in 1,000 documents do not count."""
    sets = [shingles(text) for text in texts]
    where = defaultdict(list)
    for i, one in enumerate(sets):
        for shingle in one:
            where[shingle].append(i)
    shared = Counter()
    for documents in where.values():
        if 1 < len(documents) < 1000:
            shared.update(combinations(documents, 2))
    sizes = [len(one) for one in sets]
    return {(i, j) for (i, j), n in shared.items() if n >= threshold * (sizes[i] + sizes[j] - n)}


def ours(text: pa.Array, threshold: float) -> Pairs:
    bands = Bands.for_threshold(threshold)
    found = Sketches.of(sketches(text, 5))
    records = np.empty((len(found), bands.count), BAND_RECORD)
    records["band"] = band_hashes(found, bands)
    records["key"] = records["number"] = np.arange(len(found))[:, None]
    pairs = candidate_pairs(records.reshape(-1))
    first, second = (np.ascontiguousarray(pairs[name]) for name in ("first", "second"))
    alike = jaccard(found, first, second) >= threshold
    return set(zip(first[alike].tolist(), second[alike].tolist(), strict=True))


def laps_of(text: pa.Array, threshold: float, times: int) -> list[float]:
    ours(text.slice(0, 20), threshold)
    laps = []
    for _ in range(times):
        start = time.perf_counter()
        ours(text, threshold)
        laps.append(time.perf_counter() - start)
    return laps


def run_peer(python: str, name: str, text: pa.Array, threshold: float, bands: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        lines, result = Path(folder, "texts.jsonl"), Path(folder, "result.json")
        write_lines(lines, text)
        command = [python, "-c", PEER, lines, result, name, str(threshold), str(bands)]
        done = subprocess.run(command, text=True, capture_output=True)
        if done.returncode:
            raise SystemExit(f"{name} failed: {done.stderr[-2000:]}")
        content = json.loads(result.read_text())
    return content | {"pairs": {tuple(pair) for pair in content["pairs"]}}


def quality(found: Pairs, truth: Pairs) -> str:
    right = len(found & truth)
    precision, recall = right / max(len(found), 1), right / max(len(truth), 1)
    f1 = 2 * right / max(len(found) + len(truth), 1)
    return f"precision {precision:.4f}, recall {recall:.4f}, F1 {f1:.4f} of {len(truth)} pairs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", required=True, help="folder with files *.pairs.parquet")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--bands", type=int, default=32, help="of the peers, of 128 values; ours follow the threshold")
    parser.add_argument("--peer-python", required=True, help="interpreter that has the peers")
    parser.add_argument(
        "--peers", nargs="*", default=["rensa", "datasketch", "datatrove"], help="name, or name=interpreter"
    )
    parser.add_argument("--more", help="glob of Parquet files, for timing alone")
    parser.add_argument("--megabytes", type=float, default=20, help="of --more")
    parser.add_argument("--times", type=int, default=5, help="runs of ours, before and after the peers")
    options = parser.parse_args()
    t = options.threshold
    print(f"threshold {t}; ours: {Bands.for_threshold(t)}; peers: {options.bands} bands")
    named: list[tuple[str, pa.Array, Pairs | None]] = []
    for path in sorted(Path(options.sets).glob("*.pairs.parquet")):
        name = path.name.split(".")[0]
        table, pairs = pq.read_table(path.with_name(f"{name}.parquet")), pq.read_table(path).to_pylist()
        rows = {name: i for i, name in enumerate(table["id"].to_pylist())}
        listed = {tuple(sorted((rows[p["id_a"]], rows[p["id_b"]]))) for p in pairs if p["jaccard5"] >= t}
        text = table["text"].combine_chunks().cast(pa.large_string())
        named.append((name, text, listed | all_pairs(text.to_pylist(), t)))
    if options.more:
        named.append(
            (Path(options.more).parent.name, read_texts(options.more, "text", int(options.megabytes * 1e6)), None)
        )
    for name, text, truth in named:
        megabytes = text.nbytes / 1e6
        before = laps_of(text, t, options.times)
        found = []
        for peer in options.peers:
            peer, _, python = peer.partition("=")
            found.append((peer, run_peer(python or options.peer_python, peer, text, t, options.bands)))
        after = laps_of(text, t, options.times)  # a shared machine changes its speed within minutes
        mine = statistics.median(before + after)
        told = "" if truth is None else ", " + quality(ours(text, t), truth)
        print(f"{name}: {len(text)} documents, {megabytes:.1f} MB")
        print(f"  ours: {mine:.3f} s, {megabytes / mine:.0f} MB/s{told}")
        for peer, part in found:
            whole = part["shingles"] + part["rest"]
            told = "" if truth is None else ", " + quality(part["pairs"], truth)
            print(
                f"  {peer}: {whole:.2f} s, ours {whole / mine:.0f}x"
                f" ({part['rest'] / mine:.1f}x without the time of making shingles){told}"
            )


if __name__ == "__main__":
    main()
