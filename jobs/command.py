"""The command `tamis`.

Exit codes: 0 done, 1 failed, 2 wrong recipe or arguments, 3 more dead letters than allowed, 4 done with an alert, 130
interrupted.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..connectors.errors import RecipeError, TamisError
from ..connectors.memory import importing, limit_arenas, spare_pandas
from ..connectors.run_directory import read_manifest
from .model_commands import compare, train_reference
from .speech import Speech

if TYPE_CHECKING:
    pass

EXIT_FAILED, EXIT_RECIPE, EXIT_DEAD, EXIT_ALERT, EXIT_INTERRUPTED = 1, 2, 3, 4, 130


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
    context: typer.Context,
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the summary.")] = False,
) -> None:
    """Run a recipe: score what is not scored yet, select, weigh, and write the run directory."""
    options = tuple(beam_options or ())
    _execute(context.obj, recipe, assign or (), output, limit, workers, options, overwrite, log_format, as_json)


def _execute(
    speech: Speech,
    recipe: Path,
    assign: Sequence[str],
    output: str | None,
    limit: int | None,
    workers: int,
    beam_options: tuple[str, ...],
    overwrite: bool,
    log_format: Literal["text", "json"],
    as_json: bool,
) -> None:
    """Run a recipe and print what came of it."""
    limit_arenas()
    with importing():
        from .progress import LibraryMessages, make_reporter

        journal = speech.journal = make_reporter(log_format)
        # before Beam is imported: it warns about what Tamis does not use
        logging.basicConfig(level=logging.ERROR, handlers=[LibraryMessages(journal)])
        from ..pipelines.run import Run
        from ..pipelines.runner import Engine
        from .json_output import run_object
        from .recipe import make_job, recipe_of
        from .recipe_source import RecipeSource
        from .summary import summary

    source = RecipeSource(recipe, assign, output)
    with source.located():
        job = make_job(recipe_of(source), limit)
        outcome = Run(job, Engine(workers, beam_options), journal, overwrite).execute()
    code = EXIT_DEAD if outcome.too_many_dead else EXIT_ALERT if outcome.alerts else 0
    if as_json:
        meanings = {EXIT_DEAD: "more dead letters than allowed", EXIT_ALERT: "done, with an alert"}
        meaning = meanings.get(code, "done" if outcome.manifest else "nothing new")
        print(run_object(str(outcome.path), outcome.manifest or read_manifest(outcome.path) or {}, code, meaning))
    else:
        if outcome.manifest is not None:
            print(summary(outcome.manifest))
        print(outcome.path)
    for line in outcome.alerts:
        speech.fail(f"alert: {line}")
    if outcome.too_many_dead:
        allowed = job.max_dead_fraction
        speech.fail(f"more than {allowed:.2%} of the documents are dead letters; see dead_letters/")
    if code:
        raise typer.Exit(code)


@app.command()
def plan(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    output: Annotated[str | None, typer.Option(help="Run directory, instead of the recipe's `output.path`.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Worker threads of the local engine; 0: one per core.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Read only the first N rows of the corpus.")] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe key, for example seed=1.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a recipe would read, score, re-use, keep and cost, from a sample; writes nothing."""
    limit_arenas()
    with importing():
        logging.basicConfig(level=logging.CRITICAL)  # before Beam is imported: it warns about what Tamis does not use
        from ..pipelines.estimate import estimate
        from ..pipelines.runner import Engine
        from .forecast import forecast
        from .recipe import make_job, recipe_of
        from .recipe_source import RecipeSource

    source = RecipeSource(recipe, assign or (), output)
    with source.located():
        found = estimate(make_job(recipe_of(source), limit), Engine(workers))
    print(json.dumps(found.as_dict(), allow_nan=False) if as_json else forecast(found))


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(help="The run's directory.", show_default=False)],
    document: Annotated[
        str | None, typer.Argument(help="Its key, 16 hex digits, or its id.", show_default=False)
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Of influence: an example, by its id or key, or its number in the target, from 0 (TARGET:NUMBER where "
            "there are several); without DOCUMENT, the documents that help it most.",
        ),
    ] = None,
    spans: Annotated[
        Literal["sentences", "tokens"] | None,
        typer.Option(help="Of influence: what each part of the document adds; runs the model on it."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Of influence: so many examples or documents at each end.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Explain what a run did with a document: its scores, the step that decided, and by how much.

    With a score of influence also which examples of the target it helps most, or with --target alone which documents
    help an example most.
    """
    spare_pandas()
    with importing():
        from .explain import explain_run
        from .explain_influence import helpers_of

    if document is not None:
        print(explain_run(run, document, as_json, target, spans, top))
    elif target is not None and spans is None:
        print(helpers_of(run, target, top, as_json))
    else:
        raise RecipeError("name a document by its key or id, or an example of a target with --target")


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="The directory of the run to compare with.", show_default=False)],
    new: Annotated[Path, typer.Argument(help="The directory of the other run.", show_default=False)],
    show: Annotated[int, typer.Option(min=0, help="List so many keys of each kind of change.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare two runs: documents that entered, left or weigh otherwise, the recipe keys that differ, score drift."""
    spare_pandas()
    with importing():
        from .diff import diff_runs

    print(diff_runs(old, new, show, as_json))


@app.command()
def verify(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="The run's directory.", show_default=False)],
    workers: Annotated[int, typer.Option(min=0, help="Worker threads; 0: one per core.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a run: its files, its totals, its decisions, and 1 % of its scores, computed anew from the sources."""
    limit_arenas()
    with importing():
        from .progress import LibraryMessages, make_reporter

        speech: Speech = context.obj
        journal = speech.journal = make_reporter("text")
        logging.basicConfig(level=logging.ERROR, handlers=[LibraryMessages(journal)])  # before Beam is imported
        from ..pipelines.runner import Engine
        from .verify import verify_run

    verified = verify_run(run, Engine(workers), journal)
    print(verified.as_json() if as_json else verified.as_text())
    if verified.findings:
        raise typer.Exit(EXIT_FAILED)


@app.command("retry-dead")
def retry_dead(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="The directory of a finished run.", show_default=False)],
    output: Annotated[str | None, typer.Option(help="Run directory; default: RUN-retried.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there, after success.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Worker threads; 0: one per core.")] = 0,
    log_format: Annotated[Literal["text", "json"], typer.Option(help="How to speak on stderr.")] = "text",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the summary.")] = False,
) -> None:
    """Read a run's dead letters again, after a fix: a run that continues it, with its cuts, and holds only these."""
    if read_manifest(run) is None:
        raise RecipeError(f"{run} holds no finished run: there is no manifest.json in it")
    path = run.absolute()
    place = output or str(path.with_name(f"{path.name}-retried"))
    assigned = [f"since={json.dumps(str(path))}", "retry_dead=true"]
    _execute(context.obj, path / "recipe.yaml", assigned, place, None, workers, (), overwrite, log_format, as_json)


app.command("train-reference")(train_reference)
app.command()(compare)


@app.command()
def store(
    place: Annotated[str, typer.Argument(metavar="STORE_OR_RECIPE", help="A store, or a recipe (.yaml) that uses it.")],
    prune: Annotated[
        bool, typer.Option("--prune", help="Find what no run used for so long; deletes only with --yes.")
    ] = False,
    older_than: Annotated[str, typer.Option(metavar="AGE", help="With --prune: how long, as 30d, 12h or 2w.")] = "30d",
    keep: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="With --prune: keep all that this run, or the runs in this folder, used."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With --prune: delete it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a score store holds and when it was last used; prune what no run used for long.

    Runs note what they use. What is pruned and needed after all is only scored again; finished runs need nothing of it.
    """
    with importing():
        from .store import store_report

    if (yes or keep) and not prune:
        raise RecipeError("--yes and --keep go with --prune")
    print(store_report(place, (older_than, keep or [], yes) if prune else None, as_json))


@app.command("list")
def list_parts(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, with JSON Schema of the keys.")
    ] = False,
) -> None:
    """List scorers, selection methods and weighers."""
    from .json_output import parts_object
    from .listing import listing

    print(parts_object() if as_json else listing())


def main() -> None:
    """Run the command; a user's mistake is one line and an exit code, never a traceback."""
    speech = Speech()
    try:
        app(standalone_mode=True, obj=speech)
    except RecipeError as error:
        _leave(speech, str(error), EXIT_RECIPE)
    except TamisError as error:
        _leave(speech, str(error), EXIT_FAILED)
    except (KeyboardInterrupt, SystemExit) as error:  # Typer turns Ctrl-C into the exit code
        if isinstance(error, SystemExit) and error.code != EXIT_INTERRUPTED:
            raise
        _leave(speech, "interrupted; the same command resumes", EXIT_INTERRUPTED)
    except OSError as error:
        _leave(speech, f"{error.filename or 'the system'}: {error.strerror or error}", EXIT_FAILED)
    except Exception as error:
        if os.environ.get("TAMIS_TRACEBACK"):
            raise
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        _leave(speech, f"this is a bug in Tamis: {what}; with TAMIS_TRACEBACK=1 it shows where", EXIT_FAILED)


def _leave(speech: Speech, line: str, code: int) -> None:
    speech.fail(line)
    os._exit(code) if code == EXIT_INTERRUPTED else sys.exit(code)
