"""The command `tamis`.

Exit codes: 0 done, 1 failed, 2 wrong recipe or arguments, 3 more dead letters than allowed, 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..connectors.errors import RecipeError, TamisError
from ..connectors.memory import importing, limit_arenas

EXIT_FAILED, EXIT_RECIPE, EXIT_DEAD, EXIT_INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    help="Select and weight training data: score a corpus once, decide many times.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _program() -> None:
    """Select and weight training data: score a corpus once, decide many times."""


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    beam_options: Annotated[
        list[str] | None, typer.Argument(help="After `--`: options for Beam, for example --runner=FlinkRunner.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Run directory, instead of the recipe's `output.path`.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there, after success.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Worker threads of the local engine; 0: one per core.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Read only the first N rows of the corpus.")] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe key, for example seed=1.")
    ] = None,
    log_format: Annotated[Literal["text", "json"], typer.Option(help="How to speak on stderr.")] = "text",
) -> None:
    """Run a recipe: score what is not scored yet, select, weigh, and write the run directory."""
    logging.basicConfig(level=logging.ERROR)  # before Beam is imported: it warns about what Tamis does not use
    limit_arenas()
    with importing():
        from ..pipelines.run import Run
        from ..pipelines.runner import Engine
        from .progress import make_reporter
        from .recipe import make_job, read_recipe
        from .summary import summary

    job = make_job(read_recipe(recipe, assign or (), output), limit)
    outcome = Run(job, Engine(workers, tuple(beam_options or ())), make_reporter(log_format), overwrite).execute()
    if outcome.manifest is not None:
        print(summary(outcome.manifest))
    print(outcome.path)
    if outcome.too_many_dead:
        allowed = job.max_dead_fraction
        print(f"tamis: more than {allowed:.2%} of the documents are dead letters; see dead_letters/", file=sys.stderr)
        raise typer.Exit(EXIT_DEAD)


@app.command("list")
def list_parts() -> None:
    """List scorers, selection methods and weighers."""
    from .listing import listing

    print(listing())


def main() -> None:
    """Run the command; a user's mistake is one line and an exit code, never a traceback."""
    try:
        app(standalone_mode=True)
    except RecipeError as error:
        _leave(str(error), EXIT_RECIPE)
    except TamisError as error:
        _leave(str(error), EXIT_FAILED)
    except (KeyboardInterrupt, SystemExit) as error:  # Typer turns Ctrl-C into the exit code
        if isinstance(error, SystemExit) and error.code != EXIT_INTERRUPTED:
            raise
        _leave("interrupted; the same command resumes", EXIT_INTERRUPTED)
    except OSError as error:
        _leave(f"{error.filename or 'the system'}: {error.strerror or error}", EXIT_FAILED)
    except Exception as error:
        if os.environ.get("TAMIS_TRACEBACK"):
            raise
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        _leave(f"this is a bug in Tamis: {what}; with TAMIS_TRACEBACK=1 it shows where", EXIT_FAILED)


def _leave(line: str, code: int) -> None:
    print(f"tamis: {line}", file=sys.stderr, flush=True)
    os._exit(code) if code == EXIT_INTERRUPTED else sys.exit(code)
