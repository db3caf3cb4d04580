"""Time and peak memory of the whole command `tamis run` on a corpus and on ten times as much.

    python tests/benchmarks/whole_run.py --corpus 'DIR/*.parquet' --target TARGET.parquet [--group domain]
        [--peer-python PEER/bin/python --peer-megabytes 100]

The corpus (columns id and text) is copied once, and ten times under other names and ids. Each run is a process of its
own with an empty score store; a first run on little warms the kernel cache. Peak memory is the process's resident
maximum. With --peer-python, `data-selection` in that environment does the same work (fit, importance weights, resample
10 %) on JSON lines with as many processes as there are cores, and its time is scaled by megabytes.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

PEER = """
import json, os, sys, time
from data_selection import HashedNgramDSIR
raw, target, work, documents = sys.argv[1:4] + [int(sys.argv[4])]
if __name__ == "__main__":
    start = time.perf_counter()
    dsir = HashedNgramDSIR([raw], [target], cache_dir=work + "/cache", num_proc=os.cpu_count())
    dsir.fit_importance_estimator(num_tokens_to_fit="all")
    dsir.compute_importance_weights()
    dsir.resample(out_dir=work + "/out", num_to_sample=documents // 10, cache_dir=work + "/resampled")
    print(time.perf_counter() - start)
"""


def copy_corpus(sources: list[str], folder: Path, copies: int) -> float:
    """Write so many copies of the corpus under other names and ids; returns megabytes of text."""
    folder.mkdir()
    size = 0
    for source in sources:
        table = pq.read_table(source)
        size += copies * pc.sum(pc.binary_length(table["text"])).as_py()
        for copy in range(copies):
            ids = pc.binary_join_element_wise(table["id"].cast(pa.string()), str(copy), "-")
            renamed = table.set_column(table.column_names.index("id"), "id", ids)
            pq.write_table(renamed, folder / f"{copy:02d}-{Path(source).name}")
    return size / 1e6


def run_tamis(recipe: Path, output: Path, workers: int) -> tuple[float, float, dict[str, float]]:
    """Run the command in its own process; returns seconds, peak memory in MB, and the manifest's timings."""
    command = [str(Path(sys.executable).with_name("tamis")), "run", str(recipe), "--output", str(output)]
    store = output.parent / f"{output.name}-store"
    command += ["--workers", str(workers), "--set", f"store={store}"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        assert process.stderr is not None
        sys.exit(process.stderr.read().decode())
    timings = json.loads((output / "manifest.json").read_text())["timings"]
    return seconds, usage.ru_maxrss / 1024, timings


def run_peer(python: str, sources: list[str], target: str, megabytes: float, work: Path) -> tuple[float, float]:
    """Run data-selection; returns seconds and megabytes of text."""
    size, documents = 0, 0
    with (work / "raw.jsonl").open("w") as raw:
        for source in sources:
            for text in pq.read_table(source, columns=["text"])["text"].to_pylist():
                if size < megabytes * 1e6:
                    raw.write(json.dumps({"text": text}) + "\n")
                    size, documents = size + len(text.encode()), documents + 1
    with (work / "target.jsonl").open("w") as file:
        for text in pq.read_table(target, columns=["text"])["text"].to_pylist():
            file.write(json.dumps({"text": text}) + "\n")
    (work / "peer.py").write_text(PEER)
    names = [str(work / name) for name in ("raw.jsonl", "target.jsonl")]
    arguments = [python, str(work / "peer.py"), *names, str(work), str(documents)]
    finished = subprocess.run(arguments, check=True, capture_output=True, text=True)
    return float(finished.stdout.split()[-1]), size / 1e6


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--group")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peer-python")
    parser.add_argument("--peer-megabytes", type=float, default=100)
    options = parser.parse_args()
    sources = sorted(glob.glob(options.corpus))  # noqa: PTH207 - a pattern from the command line
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sizes = {copies: copy_corpus(sources, work / f"corpus-{copies}", copies) for copies in (1, 10)}
        recipes = {}
        for copies in sizes:
            corpus = {"format": "parquet", "paths": [str(work / f"corpus-{copies}" / "*.parquet")], "id": "id"}
            recipe = {
                "corpus": corpus | ({"group": options.group} if options.group else {}),
                "targets": {"wanted": {"format": "parquet", "paths": [options.target]}},
                "scores": {"relevance": {"scorer": "dsir", "target": "wanted"}},
                "select": [{"method": "resample", "by": "relevance", "keep": {"fraction": 0.1}}],
            }
            recipes[copies] = work / f"recipe-{copies}.yaml"
            recipes[copies].write_text(yaml.safe_dump(recipe))
        run_tamis(recipes[1], work / "warm", 1)
        seconds: dict[tuple[int, int], float] = {}
        for copies, workers in ((1, 1), (1, 2), (10, 1), (10, 2)):
            runs = [
                run_tamis(recipes[copies], work / f"run-{copies}-{workers}-{i}", workers) for i in range(options.repeat)
            ]
            seconds[copies, workers] = statistics.median(run[0] for run in runs)
            reading = statistics.median(run[2]["fitting"] + run[2]["scoring"] for run in runs)
            print(
                f"{sizes[copies]:6.0f} MB, {workers} workers: {seconds[copies, workers]:6.1f} s, "
                f"fit and score {reading:5.1f} s ({sizes[copies] / reading:4.0f} MB/s), "
                f"peak memory {statistics.median(run[1] for run in runs):4.0f} MB",
                flush=True,
            )
        if options.peer_python:
            taken, megabytes = run_peer(options.peer_python, sources, options.target, options.peer_megabytes, work)
            print(f"data-selection, {megabytes:.0f} MB, {os.cpu_count()} processes: {taken:.0f} s")
            for copies in sizes:
                ratio = taken / megabytes * sizes[copies] / seconds[copies, 2]
                print(f"tamis on {sizes[copies]:.0f} MB, 2 workers: {ratio:.0f} times as fast (peer's time scaled)")
    print(f"(the benchmark itself: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB)")


if __name__ == "__main__":
    main()
