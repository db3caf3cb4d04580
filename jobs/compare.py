"""What `tamis compare` does and prints: recipes against a random choice, by the held-out loss of a small model."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..connectors.errors import RecipeError
from ..pipelines.compare import RANDOM, Compare, Comparison
from ..pipelines.job import Job, Reporter
from ..pipelines.runner import Engine
from ..scoring.reference_model import SIZES, SizeName
from .recipe import make_job, recipe_of
from .recipe_source import RecipeSource


def compare_recipes(
    recipes: Sequence[Path],
    output: Path,
    proxy: SizeName,
    seeds: int,
    tokens: int,
    context: int,
    assign: Sequence[str],
    engine: Engine,
    reporter: Reporter,
    as_json: bool,
) -> str:
    """Compare recipes; return what is printed. Runs and losses are kept in `output`, where the same command goes on."""
    if proxy not in SIZES:
        raise RecipeError(f"--proxy {proxy}: there is no such size; one of {', '.join(SIZES)}")
    jobs: dict[str, Job] = {}
    runs = output.absolute() / "runs"
    for path in recipes:
        source = RecipeSource(path, assign)
        with source.located():
            job = make_job(recipe_of(source))
        if path.stem in (*jobs, RANDOM):
            raise RecipeError(f"{path}: two recipes are called `{path.stem}`, as their files are; rename one")
        jobs[path.stem] = replace(job, output=runs / path.stem, store=str(runs / ".tamis"))
    figures = Compare(Comparison(jobs, output.absolute(), proxy, seeds, tokens, context), engine, reporter).execute()
    return json.dumps(figures, allow_nan=False) if as_json else as_text(figures)


def as_text(figures: dict[str, Any]) -> str:
    """Return a table of losses: the random choice's, and how far each recipe is from it with its 95 % interval."""
    methods = figures["methods"]
    names = [name for name in methods if name != RANDOM]
    table = Table(box=None, pad_edge=False)
    table.add_column("held-out loss, nats per token")
    for name in (RANDOM, *names):
        table.add_column(name, justify="right")
    for domain, row in methods[RANDOM]["domains"].items():
        cells = [_difference(methods[name]["domains"][domain]) for name in names]
        table.add_row(domain, f"{row['loss']:.3f}", *cells)
    told = [f"{methods[name]['documents']:,}" for name in (RANDOM, *names)]
    table.add_row("documents to train on", *told)
    table.add_row("times each is read", *(f"{methods[name]['epochs']:.2g}" for name in (RANDOM, *names)))
    if any(method["weighted"] for method in methods.values()):
        table.add_row(
            "weights in the loss", *("yes" if methods[name]["weighted"] else "no" for name in (RANDOM, *names))
        )
    console = Console(width=60 + 32 * len(names), record=True, file=io.StringIO(), color_system=None, markup=False)
    console.print(table)
    console.print(
        f"{figures['proxy']} models, {figures['tokens']:,} tokens each, {figures['seeds']} seeds; "
        "differences from the random choice with 95 % intervals, negative is better; * where the interval leaves out 0",
        soft_wrap=True,
    )
    return console.export_text().rstrip("\n")


def _difference(row: dict[str, float]) -> str:
    clear = "*" if row["low"] > 0 or row["high"] < 0 else " "
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]{clear}"
