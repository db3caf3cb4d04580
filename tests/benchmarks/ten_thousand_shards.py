"""What a run on ten thousand shards costs when nothing, or only a threshold, or three shards of it are new.

    .venv/bin/python tests/benchmarks/ten_thousand_shards.py [--shards 10000] [--folder DIR]

Writes JSON lines of random words, 10 kB per shard, scores them once with `text_statistics`, and then measures the whole
command: the same output again (nothing new), another threshold (nothing is scored; seconds and microseconds per shard),
files worth three shards added with another output, and the same as a run that continues the first one (`since`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

TAMIS = str(Path(sys.executable).parent / "tamis")
SHARD_BYTES = 10_000
FILES = 20


def write(path: Path, shards: int, seed: int) -> None:
    """Write a file of so many shards."""
    generator = np.random.default_rng(seed)
    with path.open("w") as file:
        size, line = 0, 0
        while size < shards * SHARD_BYTES:
            words = generator.integers(0, 5000, 60)
            row = json.dumps({"id": f"{path.stem}-{line}", "text": " ".join(f"word{word}" for word in words)}) + "\n"
            file.write(row)
            size, line = size + len(row), line + 1


def timed(*arguments: str) -> tuple[float, str]:
    """Run the command; returns seconds and what it said."""
    started = time.perf_counter()
    done = subprocess.run([TAMIS, "run", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - started, done.stderr


def main() -> None:
    """Write the corpus if it is not there, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        (folder / "corpus").mkdir(parents=True, exist_ok=True)
        (folder / "corpus" / "new.jsonl").unlink(missing_ok=True)
        for number in range(FILES):
            path = folder / "corpus" / f"{number:03d}.jsonl"
            if not path.exists():
                write(path, options.shards // FILES, number)
        recipe = {
            "corpus": {"format": "jsonl", "paths": ["corpus/*.jsonl"], "id": "id", "shard_bytes": SHARD_BYTES},
            "scores": {"statistics": {"scorer": "text_statistics"}},
            "select": [{"method": "threshold", "by": "statistics_type_token_ratio", "min": 0.9}],
        }
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        place = str(folder / "recipe.yaml")
        runs = f"{folder}/runs"
        seconds, _ = timed(place, "--output", f"{runs}/first", "--overwrite")
        print(f"{options.shards:,} shards: first run {seconds:.1f} s")
        seconds, said = timed(place, "--output", f"{runs}/first")
        assert "nothing new" in said, said
        print(f"nothing new: {seconds:.1f} s")
        changed = "select.0.min=0.95"
        seconds, _ = timed(place, "--output", f"{runs}/second", "--overwrite", "--set", changed)
        print(f"another threshold: {seconds:.1f} s, {seconds / options.shards * 1e6:.0f} µs per shard")
        write(folder / "corpus" / "new.jsonl", 3, FILES)
        seconds, said = timed(place, "--output", f"{runs}/third", "--overwrite")
        print(f"three shards more, all decided anew: {seconds:.1f} s ({said.strip().splitlines()[-1]})")
        seconds, _ = timed(place, "--output", f"{runs}/fourth", "--overwrite", "--set", f"since={runs}/first")
        print(f"three shards more, since the first run: {seconds:.1f} s")


if __name__ == "__main__":
    main()
