"""What the step `deduplicate` needs, looked at before any document is read."""

from __future__ import annotations

from collections.abc import Sequence

from ..connectors.errors import RecipeError, nearest
from ..scoring.minhash_scorer import MinHash
from ..scoring.vectors import VECTORS
from ..selectors.deduplicate import Deduplicate
from .job import Job


def check_duplicates(job: Job) -> None:
    """Raise RecipeError for a step that lacks a score, or that cannot tell which copy is best."""
    columns = {c.named(score): c for score, scorer in job.scorers.items() for c in scorer.columns}
    sketches = [score for score, scorer in job.scorers.items() if isinstance(scorer, MinHash)]
    vectors = [name for name, column in columns.items() if column.type == VECTORS]
    for number, step in enumerate(job.steps):
        if not isinstance(step, Deduplicate):
            continue
        place = f"select.{number}"
        if step.sketch is not None:
            refuse_other(f"{place}.sketch", step.sketch, sketches, "minhash")
        if step.vectors is not None:
            refuse_other(f"{place}.vectors", step.vectors, vectors, "embedding")
        if step.keep_copy in ("best", "hardest") and step.by in columns and columns[step.by].direction == "none":
            where = f"{place}.keep_copy"
            raise RecipeError(f"{where}: `{step.by}` has no better end; say highest or lowest", place=where)


def refuse_other(place: str, name: str, known: Sequence[str], scorer: str) -> None:
    """Raise RecipeError where a step names a score that is none of those that it could use."""
    if name not in known:
        hint = nearest(name, known) if known else f"; add `{name}: {{scorer: {scorer}}}` to `scores`"
        raise RecipeError(f"{place}: `{name}` is no score of `scorer: {scorer}`{hint}", place=place)
