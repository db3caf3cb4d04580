"""Recipes: YAML in, validated and resolved, a Job for the pipelines out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from ..connectors.corpus_config import CorpusConfig
from ..connectors.errors import RecipeError, nearest, printable
from ..connectors.files import absolute
from ..connectors.run_directory import state_url
from ..connectors.settings import AtKeyError, Settings
from ..pipelines.job import Job
from ..scoring.catalogue import SCORERS
from ..scoring.derived_scorer import bind_all
from ..scoring.reference_model import ReferenceSettings
from ..scoring.scorer import LearnedScorer
from ..selectors.alerts import Alert
from ..selectors.methods import METHODS
from ..selectors.reference_split import SPLIT, ReferenceSplit
from ..selectors.steps import NAME, Step
from ..selectors.weigh import WEIGHERS, AnyWeigher, Uniform
from ..selectors.weigh_tokens import AnyTokenWeigher
from .recipe_errors import first_mistake
from .recipe_source import MESSAGE_CHARACTERS, RecipeSource


def _check_name(name: str) -> str:
    """Names become columns and file names."""
    if not NAME.fullmatch(name):
        raise ValueError(f"`{name}` is not a name; letters, digits, `_`, `.` and `-` only")
    return name


def _by_method(models: Sequence[type[Settings]]) -> dict[str, type[Settings]]:
    return {get_args(model.model_fields["method"].annotation)[0]: model for model in models}


def _model_named_by(key: str, models: dict[str, type[Settings]]) -> Callable[[Any], Any]:
    """Return a validator of mappings by the model that their `key` names."""

    def validate(value: Any) -> Any:
        if not isinstance(value, dict) or key not in value:
            raise ValueError(f"a mapping with `{key}` is needed; one of {', '.join(sorted(models))}")
        if not isinstance(value[key], str):
            raise AtKeyError(key, f"there is no such {key}; one of {', '.join(sorted(models))}")
        if value[key] not in models:
            raise AtKeyError(key, f"there is no {key} `{value[key]}`{nearest(value[key], models)}")
        return models[value[key]].model_validate(value)

    return validate


Name = Annotated[str, AfterValidator(_check_name)]
AnyScorer = Annotated[
    Any, BeforeValidator(_model_named_by("scorer", {name: scorer.Parameters for name, scorer in SCORERS.items()}))
]
AnyStep = Annotated[Any, BeforeValidator(_model_named_by("method", _by_method(METHODS)))]
_weigher = _model_named_by("method", _by_method(WEIGHERS))


class Output(Settings):
    """Where the run goes, and which scores go beside the text."""

    path: str = Field(default="runs/latest", description="run directory; relative to the recipe")
    columns: list[str] = []
    token_weights: AnyTokenWeigher | None = Field(default=None, description="adds the column `token_weights`")


class Errors(Settings):
    """How much may go wrong."""

    max_dead_fraction: NonNegativeFloat = Field(default=0.001, description="above it the run ends with exit code 3")
    unreadable_shards: Literal["fail", "skip"] = "fail"


class Recipe(Settings):
    """All that a recipe can say."""

    seed: int = 0
    corpus: CorpusConfig
    targets: dict[Name, CorpusConfig] = {}
    scores: dict[Name, AnyScorer] = {}
    select: list[AnyStep] = []
    weigh: AnyWeigher = Uniform()
    output: Output = Output()
    store: str | None = Field(None, description="score store; default: .tamis beside the output path")
    errors: Errors = Errors()
    since: str | None = Field(
        None, description="a finished run of this recipe: its cuts decide about the files that came since, read alone"
    )
    retry_dead: bool = Field(False, description="with `since`: read that run's dead letters again, and no new files")
    alert: Alert | None = Field(None, description="figures outside of these limits end the run with exit code 4")
    reference: ReferenceSettings | None = Field(
        None, description="a small model for `tamis train-reference`; what it is trained on is not selected from"
    )

    @field_validator("retry_dead")
    @classmethod
    def _continues(cls, retry: bool, info: ValidationInfo) -> bool:
        if retry and info.data.get("since") is None:
            raise ValueError("needs `since`, the run whose dead letters are read; or use `tamis retry-dead RUN`")
        return retry

    @field_validator("select")
    @classmethod
    def _names_differ(cls, steps: list[Step]) -> list[Step]:
        names: set[str] = set()
        for i, step in enumerate(steps):
            if step.name in names:
                raise AtKeyError(i, f"two steps are called `{step.name}`; give one of them another `name`")
            names.add(step.name)
        return steps

    @field_validator("weigh", mode="before")
    @classmethod
    def _known_weigher(cls, value: Any) -> Any:
        return _weigher(value)


def read_recipe(path: Path, assignments: Sequence[str] = (), output: str | None = None) -> Recipe:
    """Read a recipe file, apply `a.b=c` assignments, and resolve its paths.

    output: replaces `output.path`; relative to the working directory. Raises RecipeError in one line that begins with
    the file and the line of the key, or with the assignment that set it.
    """
    return recipe_of(RecipeSource(path, assignments, output))


def recipe_of(source: RecipeSource) -> Recipe:
    """Validate a recipe and resolve its paths; raises RecipeError as `read_recipe`."""
    try:
        recipe = Recipe.model_validate(source.content)
    except ValidationError as error:
        place, message = first_mistake(error, source.content)
        where = source.where(place) or str(source.path)
        raise RecipeError(printable(f"{where}: {message}", MESSAGE_CHARACTERS), place="") from error
    with source.located():
        return _resolved(recipe, source.path.absolute().parent, source.output)


def _resolved(recipe: Recipe, base: Path, output: str | None) -> Recipe:
    """Make all paths absolute and spell out the store."""
    path = absolute(output, Path.cwd()) if output is not None else absolute(recipe.output.path, base)
    if "://" in path:
        raise RecipeError(f"output.path: {path} is not a local path; copy the run to an object store when it is done")
    store = absolute(recipe.store, base) if recipe.store is not None else str(Path(path).parent / ".tamis")
    reference = recipe.reference and recipe.reference.resolved(base, recipe.seed)
    return recipe.model_copy(
        update={
            "corpus": recipe.corpus.resolved("corpus", base),
            "targets": {name: target.resolved(f"targets.{name}", base) for name, target in recipe.targets.items()},
            "scores": {name: parameters.resolved(base) for name, parameters in recipe.scores.items()},
            "output": recipe.output.model_copy(update={"path": path}),
            "store": store,
            "since": recipe.since and absolute(recipe.since, base),
            "alert": recipe.alert and recipe.alert.resolved(base),
            "reference": reference,
            "select": [*_reference_split(reference, recipe.select), *recipe.select],
        }
    )


def _reference_split(reference: ReferenceSettings | None, steps: Sequence[Step]) -> list[Step]:
    """Return the step that leaves out what the reference model is trained on; none where it is spelled out already."""
    if reference is None or reference.target is not None or any(isinstance(step, ReferenceSplit) for step in steps):
        return []
    assert reference.seed is not None
    return [ReferenceSplit(method=SPLIT, name=SPLIT, fraction=reference.fraction, seed=reference.seed)]


def make_job(recipe: Recipe, limit: int | None = None) -> Job:
    """Return the job that a resolved recipe asks for. limit: read only the first rows."""
    content = recipe.model_dump(mode="json", exclude_none=True)
    # what `reference` takes from the corpus stands in `select`; how the model is trained decides nothing here
    identity = {key: value for key, value in content.items() if key not in ("store", "alert", "reference")}
    scorers = {name: SCORERS[parameters.scorer].of(parameters) for name, parameters in recipe.scores.items()}
    bind_all(scorers)
    fitted = {name: s.fitted for name, s in recipe.scores.items() if getattr(s, "fitted", None)}
    if recipe.since is not None:
        learned = (name for name, scorer in scorers.items() if isinstance(scorer, LearnedScorer))
        fitted = {name: state_url(recipe.since, name) for name in learned}
    identity = identity | {"output": {k: v for k, v in content["output"].items() if k != "path"}, "limit": limit}
    return Job(
        seed=recipe.seed,
        corpus=recipe.corpus,
        targets=recipe.targets,
        scorers=scorers,
        steps=recipe.select,
        weigher=recipe.weigh,
        output=Path(recipe.output.path),
        columns=recipe.output.columns,
        token_weigher=recipe.output.token_weights,
        store=str(recipe.store),
        max_dead_fraction=recipe.errors.max_dead_fraction,
        skip_unreadable=recipe.errors.unreadable_shards == "skip",
        limit=limit,
        recipe=content,
        fingerprint=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        alert=recipe.alert,
        fitted=fitted,
        since=Path(recipe.since) if recipe.since is not None else None,
        retry_dead=recipe.retry_dead,
    )
