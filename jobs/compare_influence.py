"""What `tamis compare --influence` does and prints: how well scores foretell the losses of models trained on halves."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from ..connectors.corpus_config import CorpusConfig
from ..connectors.errors import RecipeError
from ..connectors.files import remove_tree
from ..pipelines.compare_influence import MODEL, CompareInfluence, InfluenceComparison
from ..pipelines.document_sample import sample_documents
from ..pipelines.job import Job, Reporter
from ..pipelines.runner import Engine
from ..scoring.reference_model import SIZES, SizeName
from .recipe import Recipe, make_job, recipe_of
from .recipe_source import RecipeSource


@dataclass(frozen=True)
class InfluenceSettings:
    """Options of the command, see `InfluenceComparison`. documents: in the sample."""

    proxy: SizeName | Literal["model"]
    subsets: int
    seeds: int
    documents: int
    tokens: int | None
    context: int
    learning_rate: float | None = None


def compare_influence(
    recipes: Sequence[Path],
    output: Path,
    settings: InfluenceSettings,
    assign: Sequence[str],
    engine: Engine,
    reporter: Reporter,
    as_json: bool,
) -> str:
    """Measure the influence scores of recipes over one corpus; return what is printed.

    The sample, the runs over it and the losses are kept in `output`, where the same command goes on.
    """
    if settings.proxy not in (*SIZES, MODEL):
        raise RecipeError(f"--proxy {settings.proxy}: there is no such size; one of {', '.join((*SIZES, MODEL))}")
    read: dict[str, Recipe] = {}
    for path in recipes:
        source = RecipeSource(path, assign)
        with source.located():
            recipe = recipe_of(source)
        if path.stem in read:
            raise RecipeError(f"{path}: two recipes are called `{path.stem}`, as their files are; rename one")
        read[path.stem] = recipe
    corpora = [recipe.corpus for recipe in read.values()]
    for name, corpus in zip(read, corpora, strict=True):
        if corpus != corpora[0]:
            raise RecipeError(f"{name}: has another `corpus` than the first recipe; compare over one corpus")
    place = output.absolute()
    sample = _sample(corpora[0], settings.documents, place / "sample", engine, reporter)
    jobs = {name: _over(recipe, sample, place / "runs", name) for name, recipe in read.items()}
    comparison = InfluenceComparison(
        jobs=jobs,
        output=place,
        proxy=settings.proxy,
        subsets=settings.subsets,
        seeds=settings.seeds,
        tokens=settings.tokens,
        context=settings.context,
        learning_rate=settings.learning_rate,
    )
    figures = CompareInfluence(comparison, engine, reporter).execute()
    return json.dumps(figures, allow_nan=False) if as_json else as_text(figures)


def _sample(corpus: CorpusConfig, documents: int, folder: Path, engine: Engine, reporter: Reporter) -> CorpusConfig:
    """Return the sample as a corpus; one that an earlier command has made of the same is taken."""
    known = folder / "sample.json"
    wanted = json.dumps({"corpus": corpus.model_dump(mode="json"), "documents": documents}, sort_keys=True)
    if known.exists():
        content = json.loads(known.read_text())
        if content["of"] == wanted:
            return CorpusConfig.model_validate(content["sample"])
    remove_tree(folder)
    sample = sample_documents(corpus, documents, folder, engine, reporter, 0)
    known.write_text(json.dumps({"of": wanted, "sample": sample.model_dump(mode="json", exclude_none=True)}))
    return sample


def _over(recipe: Recipe, sample: CorpusConfig, runs: Path, name: str) -> Job:
    """Return the job of a recipe over the sample: its scores, without what it selects and weighs."""
    output = recipe.output.model_copy(update={"path": str(runs / name), "columns": [], "token_weights": None})
    plain = Recipe.model_validate(
        {
            "corpus": sample.model_dump(mode="json", exclude_none=True),
            "targets": {key: one.model_dump(mode="json", exclude_none=True) for key, one in recipe.targets.items()},
            "scores": {key: one.model_dump(mode="json", exclude_none=True) for key, one in recipe.scores.items()},
            "output": output.model_dump(mode="json", exclude_none=True),
            "seed": recipe.seed,
            "store": str(runs / ".tamis"),
        }
    )
    return make_job(plain)


def as_text(figures: dict[str, Any]) -> str:
    """Return a table of linear datamodelling scores with their intervals and costs, the best first."""
    table = Table(box=None, pad_edge=False)
    for name in ("linear datamodelling score", "as it is", "times tokens", "s per 1,000 documents"):
        table.add_column(name, justify="left" if name.startswith("linear") else "right", no_wrap=True)
    methods = figures["methods"]
    for name in sorted(methods, key=lambda one: -methods[one]["score"]):
        row = methods[name]
        marked = name if row["on_examples"] else f"{name} (one number for all examples)"
        cost = row["seconds_per_1000_documents"]
        table.add_row(marked, _cell(row), _cell(row["times_tokens"]), "" if cost is None else f"{cost:,.2f}")
    console = Console(width=160, record=True, file=io.StringIO(), color_system=None, markup=False)
    console.print(table)
    agreement = figures["agreement_of_seeds"]
    noise = "" if agreement is None else f"; losses of other seeds foretell them by {_cell(agreement)}"
    console.print(
        f"{figures['subsets']} halves of {figures['documents']:,} documents, {figures['proxy']} models of "
        f"{figures['tokens']:,} tokens, {figures['seeds']} seeds, {figures['examples']} examples; mean loss "
        f"{figures['loss']:.3f}, standard deviation over halves {figures['loss_spread']:.4f}{noise}; "
        "95 % intervals over halves and examples; positive foretells",
        soft_wrap=True,
    )
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


def _cell(row: dict[str, float] | None) -> str:
    return "" if row is None else f"{row['score']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
