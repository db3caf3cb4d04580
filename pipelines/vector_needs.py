"""What the steps of vectors need, looked at before any document is read."""

from __future__ import annotations

from collections.abc import Container, Sequence

from ..connectors.errors import RecipeError
from ..scoring.vectors import VECTORS
from ..selectors.budget import GROUP
from ..selectors.vector_steps import VectorStep
from .deduplicate_needs import refuse_other
from .job import Job


def check_vector_steps(job: Job, numbers: Sequence[str], taken: Container[str]) -> None:
    """Raise RecipeError for a step that lacks vectors or clusters, or whose column has no name of its own.

    Args:
        job: to be checked.
        numbers: score columns of whole numbers.
        taken: names of columns that are there.
    """
    vectors = [c.named(score) for score, s in job.scorers.items() for c in s.columns if c.type == VECTORS]
    for number, step in enumerate(job.steps):
        if not isinstance(step, VectorStep):
            continue
        place = f"select.{number}"
        refuse_other(f"{place}.vectors", step.vectors, vectors, "embedding")
        if step.clusters == GROUP and job.corpus.group is None:
            where = f"{place}.clusters"
            raise RecipeError(f"{where}: the corpus has no `group`; name the column in `corpus.group`", place=where)
        if step.clusters not in (None, GROUP):
            refuse_other(f"{place}.clusters", step.clusters, numbers, "clusters")
        if step.name in taken:
            raise RecipeError(
                f"{place}.name: {step.name} makes a column of its name, and there is one; choose another name",
                place=place,
            )
