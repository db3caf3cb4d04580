"""Documents per second of `RunDataset` against `datasets` in streaming mode over the same Parquet files.

    python tests/benchmarks/loader_against_datasets.py --run runs/today --workers 0 2

Both give text, key and weight of each document, shuffled within as many documents, through a DataLoader with as many
workers. Each loader runs through one epoch in a process of its own, once for the warm file cache and then --repeats
times in turn with the other. The rate is that of the whole epoch, from the moment when the first batch is asked for:
what fills a shuffle buffer before the first batch is work for the documents that come out of it later. The CPU time per
document, of the training process and its workers, says the same where other programs disturb. Peak memory is that of
these processes (their shared pages counted in each).
"""

import argparse
import json
import resource
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


def cpu_seconds() -> float:
    """Of this process and of the children that have ended."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def measure(peer: bool, run: Path, workers: int, buffer: int) -> None:
    made = loader(peer, run, workers, buffer)
    start, before = time.perf_counter(), cpu_seconds()
    batches = iter(made)
    count = len(next(batches))
    begun = time.perf_counter()
    size = peak = 0
    for batch in batches:
        count += len(batch)
        size += sum(len(document["text"]) for document in batch)
        if count % (BATCH * 512) == 0:
            peak = max(peak, peak_bytes())
    seconds = time.perf_counter() - start
    del batches
    found = {"rate": count / seconds, "first": begun - start, "cpu": (cpu_seconds() - before) / count * 1e6}
    print(json.dumps(found | {"peak": max(peak, peak_bytes()), "characters": size / count, "count": count}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--buffer", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", choices=["ours", "peer"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure == "peer", given.run, given.workers[0], given.buffer)
        return
    command = [sys.executable, __file__, "--run", str(given.run), "--buffer", str(given.buffer)]
    for workers in given.workers:
        found: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
        for _ in range(given.repeats + 1):
            for which, results in found.items():
                one = [*command, "--workers", str(workers), "--measure", which]
                done = subprocess.run(one, check=True, capture_output=True, text=True)
                results.append(json.loads(done.stdout.splitlines()[-1]))
        one, other = found["ours"][0], found["peer"][0]
        assert one["count"] == other["count"]
        print(f"{workers} workers, {one['count']:,} documents of {one['characters']:.0f} characters")
        for which, results in found.items():
            middle = {key: statistics.median(r[key] for r in results[1:]) for key in ("rate", "cpu", "first", "peak")}
            print(
                f"  {which:5} {middle['rate']:9,.0f} documents/s  CPU {middle['cpu']:.1f} us each  "
                f"first batch after {middle['first']:.2f} s  peak {middle['peak'] / 1e6:,.0f} MB"
            )
        pairs = list(zip(found["ours"][1:], found["peer"][1:], strict=True))
        rates, cpus = [a["rate"] / b["rate"] for a, b in pairs], [b["cpu"] / a["cpu"] for a, b in pairs]
        for what, ratios in (("documents/s", rates), ("CPU time", cpus)):
            print(f"  ratio of {what} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
