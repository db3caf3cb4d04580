"""The commands that train models: `tamis train-reference` and `tamis compare`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..connectors.memory import importing, limit_arenas
from .speech import Speech


def train_reference(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file with `reference`.", show_default=False)],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model that is there, after success.")
    ] = False,
    workers: Annotated[int, typer.Option(min=0, help="Worker threads that read; 0: one per core.")] = 0,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe key, for example seed=1.")
    ] = None,
    log_format: Annotated[Literal["text", "json"], typer.Option(help="How to speak on stderr.")] = "text",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the summary.")] = False,
) -> None:
    """Train the small model that `reference` describes, on a share of the corpus that is then not selected from."""
    limit_arenas()
    with importing():
        from .progress import LibraryMessages, make_reporter

        speech: Speech = context.obj
        journal = speech.journal = make_reporter(log_format)
        logging.basicConfig(level=logging.ERROR, handlers=[LibraryMessages(journal)])  # before Beam is imported
        from ..pipelines.runner import Engine
        from .recipe import recipe_of
        from .recipe_source import RecipeSource
        from .train_reference import train_reference

    source = RecipeSource(recipe, assign or ())
    with source.located():
        print(train_reference(recipe_of(source), Engine(workers), journal, overwrite, as_json))


def compare(
    context: typer.Context,
    recipes: Annotated[list[Path], typer.Argument(help="Recipes over one corpus.", show_default=False)],
    output: Annotated[Path, typer.Option(help="Folder for the runs and the losses.")] = Path("runs/compare"),
    proxy: Annotated[
        str,
        typer.Option(
            help="Size of the model: 1m, 4m, 15m, 60m or 125m parameters; with --influence also model: that of the "
            "gradients, trained further."
        ),
    ] = "1m",
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Models that are trained on each choice; default: 3, with --influence 1."),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="That each model is trained on; default: 2,000,000, with --influence as half the sample has."
        ),
    ] = None,
    length: Annotated[int, typer.Option("--context", min=2, help="Tokens in a sequence.")] = 256,
    workers: Annotated[int, typer.Option(min=0, help="Worker threads; 0: one per core.")] = 0,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of all recipes.")
    ] = None,
    influence: Annotated[
        bool, typer.Option("--influence", help="Measure the recipes' influence scores instead, on a sample.")
    ] = False,
    documents: Annotated[int, typer.Option(min=4, help="With --influence: in the sample.")] = 1000,
    subsets: Annotated[int, typer.Option(min=3, help="With --influence: random halves that models learn.")] = 40,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="With --influence: the highest; default: the proxy's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train one small model on what each recipe keeps, and on a random choice, at equal tokens, and compare losses.

    With --influence: the linear datamodelling score of each score of influence, and of all others, by models that are
    trained on random halves of a sample of the corpus. These are language models: it says nothing of classifiers.
    """
    limit_arenas()
    with importing():
        from .progress import LibraryMessages, make_reporter

        speech: Speech = context.obj
        journal = speech.journal = make_reporter("text")
        logging.basicConfig(level=logging.ERROR, handlers=[LibraryMessages(journal)])  # before Beam is imported
        from ..pipelines.runner import Engine
        from .compare import compare_recipes

    size: Any = proxy  # checked there
    engine = Engine(workers)
    if influence:
        from .compare_influence import InfluenceSettings, compare_influence

        asked = InfluenceSettings(size, subsets, seeds or 1, documents, tokens, length, learning_rate)
        print(compare_influence(recipes, output, asked, assign or (), engine, journal, as_json))
        return
    of_each = tokens or 2_000_000
    print(compare_recipes(recipes, output, size, seeds or 3, of_each, length, assign or (), engine, journal, as_json))
