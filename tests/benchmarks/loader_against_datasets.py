"""Documents per second of `RunDataset` against `datasets` in streaming mode over the same Parquet files.

    python tests/benchmarks/loader_against_datasets.py --run runs/today --workers 0 2

Both give text, key and weight of each document, shuffled within as many documents, through a DataLoader with as many
workers. Each loader runs in a process of its own, once for the warm file cache and then --repeats times in turn with
the other; the time until the first batch is left out of the rate, and told. Peak memory is that of the training
process with its workers (their shared pages counted in each).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BATCH = 64


def loader(peer: bool, run: Path, workers: int, buffer: int) -> Any:
    from torch.utils.data import DataLoader

    if peer:
        from datasets import load_dataset

        files = sorted(str(path) for path in (run / "data").glob("*.parquet"))
        dataset = load_dataset("parquet", data_files=files, split="train", streaming=True)
        dataset = dataset.select_columns(["text", "key", "weight"]).shuffle(seed=0, buffer_size=buffer)
    else:
        from tamis.connectors.dataloader import RunDataset

        dataset = RunDataset(run, batch_size=BATCH, buffer=buffer)
    return DataLoader(dataset, batch_size=BATCH, num_workers=workers, collate_fn=list)


def peak_bytes() -> int:
    """Sum of the peaks of this process and its children."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        here = str(Path("/proc/self").resolve().name)
        if here in (fields["Pid"].strip(), fields["PPid"].strip()) and "VmHWM" in fields:
            total += int(fields["VmHWM"].split()[0]) * 1024
    return total


def measure(peer: bool, run: Path, workers: int, buffer: int, documents: int) -> None:
    start = time.perf_counter()
    batches = iter(loader(peer, run, workers, buffer))
    next(batches)
    first = time.perf_counter()
    count = size = 0
    for batch in batches:
        count += len(batch)
        size += sum(len(document["text"]) for document in batch)
        if count >= documents:
            break
    rate = count / (time.perf_counter() - first)
    print(json.dumps({"rate": rate, "first": first - start, "peak": peak_bytes(), "characters": size / count}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--buffer", type=int, default=16_384)
    parser.add_argument("--documents", type=int, default=150_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", choices=["ours", "peer"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure == "peer", given.run, given.workers[0], given.buffer, given.documents)
        return
    command = [sys.executable, __file__, "--run", str(given.run), "--buffer", str(given.buffer)]
    command += ["--documents", str(given.documents)]
    for workers in given.workers:
        found: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
        for _ in range(given.repeats + 1):
            for which, results in found.items():
                one = [*command, "--workers", str(workers), "--measure", which]
                done = subprocess.run(one, check=True, capture_output=True, text=True)
                results.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{workers} workers, {found['ours'][0]['characters']:.0f} characters per document")
        for which, results in found.items():
            middle = {key: statistics.median(r[key] for r in results[1:]) for key in ("rate", "first", "peak")}
            print(
                f"  {which:5} {middle['rate']:9,.0f} documents/s  first batch after {middle['first']:.2f} s  "
                f"peak {middle['peak'] / 1e6:,.0f} MB"
            )
        ratios = [a["rate"] / b["rate"] for a, b in zip(found["ours"][1:], found["peer"][1:], strict=True)]
        print(f"  ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
