"""Recipes: YAML in, validated and resolved, a Job for the pipelines out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import Field, NonNegativeFloat, ValidationError, field_validator

from ..connectors.corpus import CorpusConfig
from ..connectors.errors import RecipeError, nearest
from ..connectors.files import absolute
from ..connectors.settings import Settings
from ..pipelines.job import Job
from ..scoring.catalogue import SCORERS
from ..scoring.scorer import ScorerParameters
from ..selectors.steps import METHODS, NAME, Step
from ..selectors.weigh import WEIGHERS, AnyWeigher, Uniform


class Output(Settings):
    """Where the run goes, and which scores go beside the text."""

    path: str = Field(default="runs/latest", description="run directory; relative to the recipe")
    columns: list[str] = []


class Errors(Settings):
    """How much may go wrong."""

    max_dead_fraction: NonNegativeFloat = Field(default=0.001, description="above it the run ends with exit code 3")
    unreadable_shards: Literal["fail", "skip"] = "fail"


class Recipe(Settings):
    """All that a recipe can say."""

    seed: int = 0
    corpus: CorpusConfig
    targets: dict[str, CorpusConfig] = {}
    scores: dict[str, Any] = {}
    select: list[Any] = []
    weigh: AnyWeigher = Uniform()
    output: Output = Output()
    store: str | None = Field(None, description="score store; default: .tamis beside the output path")
    errors: Errors = Errors()

    @field_validator("scores")
    @classmethod
    def _known_scorers(cls, scores: dict[str, Any]) -> dict[str, ScorerParameters]:
        return {name: _one_of("scorer", name, value, _SCORER_SETTINGS) for name, value in scores.items()}

    @field_validator("targets")
    @classmethod
    def _named_targets(cls, targets: dict[str, CorpusConfig]) -> dict[str, CorpusConfig]:
        for name in targets:
            _check_name(name)
        return targets

    @field_validator("select")
    @classmethod
    def _known_methods(cls, steps: list[Any]) -> list[Step]:
        parsed = [_one_of("method", str(i), step, _STEP_SETTINGS) for i, step in enumerate(steps)]
        names = [step.name for step in parsed]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two steps are called `{twice}`; give one of them another `name`")
        return parsed

    @field_validator("weigh", mode="before")
    @classmethod
    def _known_weigher(cls, value: Any) -> Any:
        return _one_of("method", "", value, _WEIGHER_SETTINGS)


_SCORER_SETTINGS: dict[str, type[Settings]] = {name: scorer.Parameters for name, scorer in SCORERS.items()}


def _by_method(models: Sequence[type[Settings]]) -> dict[str, type[Settings]]:
    return {get_args(model.model_fields["method"].annotation)[0]: model for model in models}


_STEP_SETTINGS = _by_method(METHODS)
_WEIGHER_SETTINGS = _by_method(WEIGHERS)


def _check_name(name: str) -> None:
    """Names become columns and file names."""
    if not NAME.fullmatch(name):
        raise ValueError(f"`{name}` is not a name; letters, digits, `_`, `.` and `-` only")


def _one_of(key: str, place: str, value: Any, models: dict[str, type[Settings]]) -> Any:
    """Validate a mapping by the model that its `key` names; messages begin with the place."""
    where = f"{place}: " if place else ""
    if key == "scorer":
        _check_name(place)
    if not isinstance(value, dict) or key not in value:
        raise ValueError(f"{where}a mapping with `{key}` is needed; one of {', '.join(sorted(models))}")
    if not isinstance(value[key], str) or value[key] not in models:
        raise ValueError(f"{where}there is no {key} `{value[key]}`{nearest(str(value[key]), models)}")
    try:
        return models[value[key]].model_validate(value)
    except ValidationError as error:
        raise ValueError(where + _first_error(error)) from error


_PLAIN = {
    "missing": "is missing",
    "model_type": "a mapping of keys is needed",
    "dict_type": "a mapping of keys is needed",
    "list_type": "a list is needed",
}


def _first_error(error: ValidationError) -> str:
    """Say in one line what is wrong first, and where."""
    first, *more = error.errors(include_url=False, include_context=False)
    place = ".".join(str(part) for part in first["loc"])
    message = _PLAIN.get(first["type"], first["msg"].removeprefix("Value error, "))
    rest = f" (and {len(more)} more)" if more else ""
    joint = "." if place and re.match(r"\d+: ", message) else ": " if place else ""
    return f"{place}{joint}{message}{rest}"


class _OnceLoader(yaml.SafeLoader):
    """Reads plain YAML; a key that comes twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.MarkedYAMLError(problem=f"the key `{twice}` comes twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def read_recipe(path: Path, assignments: Sequence[str] = (), output: str | None = None) -> Recipe:
    """Read a recipe file, apply `a.b=c` assignments, and resolve its paths.

    output: replaces `output.path`; relative to the working directory. Raises RecipeError in one line.
    """
    try:
        content = _OnceLoader(path.read_text(encoding="utf-8")).get_single_data()
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that there is not
        raise RecipeError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys such as corpus, scores, select and output")
    for assignment in assignments:
        _assign(content, assignment)
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise RecipeError(f"{path}: {_first_error(error)}") from error
    return _resolved(recipe, path.absolute().parent, output)


def _assign(content: dict[str, Any], assignment: str) -> None:
    """Set one value, for example `select.0.keep.fraction=0.2`; the value is read as YAML."""
    place, equals, value = assignment.partition("=")
    if not equals or not place:
        raise RecipeError(f"--set {assignment}: write KEY=VALUE, for example seed=1 or select.0.max=800")
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"--set {assignment}: `{value}` is not YAML") from error
    *parents, last = place.split(".")
    node: Any = content
    try:
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if isinstance(node, list):
            node[int(last)] = parsed
        elif isinstance(node, dict):
            node[last] = parsed
        else:
            raise TypeError
    except (IndexError, ValueError, TypeError, AttributeError) as error:
        raise RecipeError(f"--set {assignment}: the recipe has no place `{place}`") from error


def _resolved(recipe: Recipe, base: Path, output: str | None) -> Recipe:
    """Make all paths absolute and spell out the store."""
    path = absolute(output, Path.cwd()) if output is not None else absolute(recipe.output.path, base)
    if "://" in path:
        raise RecipeError(f"output.path: {path} is not a local path; copy the run to an object store when it is done")
    store = absolute(recipe.store, base) if recipe.store is not None else str(Path(path).parent / ".tamis")
    scores = {
        name: s.model_copy(update={"fitted": absolute(s.fitted, base)}) if getattr(s, "fitted", None) else s
        for name, s in recipe.scores.items()
    }
    return recipe.model_copy(
        update={
            "corpus": recipe.corpus.resolved("corpus", base),
            "targets": {name: target.resolved(f"targets.{name}", base) for name, target in recipe.targets.items()},
            "scores": scores,
            "output": recipe.output.model_copy(update={"path": path}),
            "store": store,
        }
    )


def make_job(recipe: Recipe, limit: int | None = None) -> Job:
    """Return the job that a resolved recipe asks for. limit: read only the first rows."""
    content = recipe.model_dump(mode="json", exclude_none=True)
    identity = {key: value for key, value in content.items() if key != "store"}
    identity = identity | {"output": {"columns": recipe.output.columns}, "limit": limit}
    return Job(
        seed=recipe.seed,
        corpus=recipe.corpus,
        targets=recipe.targets,
        scorers={name: SCORERS[parameters.scorer](parameters) for name, parameters in recipe.scores.items()},
        steps=recipe.select,
        weigher=recipe.weigh,
        output=Path(recipe.output.path),
        columns=recipe.output.columns,
        store=str(recipe.store),
        max_dead_fraction=recipe.errors.max_dead_fraction,
        skip_unreadable=recipe.errors.unreadable_shards == "skip",
        limit=limit,
        recipe=content,
        fingerprint=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        fitted={name: s.fitted for name, s in recipe.scores.items() if getattr(s, "fitted", None)},
    )
