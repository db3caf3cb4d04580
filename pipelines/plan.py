"""The plan of a run: its corpora opened, its states restored, and everything refused that cannot work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from ..connectors import files
from ..connectors.corpus import FORMATS
from ..connectors.errors import RecipeError, TamisError, nearest
from ..connectors.format import EXTRA
from ..connectors.opening import Opened, open_corpus
from ..connectors.score_store import load_arrays
from ..scoring.derived_scorer import derived_in_order
from ..scoring.scorer import FittedScorer, LearnedScorer, is_learning
from ..selectors.budget import GROUP
from ..selectors.q_tuning import QTuning
from ..selectors.steps import RankStep
from ..selectors.vector_steps import VectorStep
from ..selectors.weigh_tokens import QTuningMask
from ..selectors.weigher import Weigher
from .alerting import check_alert
from .deduplicate_needs import check_duplicates
from .earlier import Earlier, earlier_of
from .emit import TOKEN_WEIGHTS, source_names
from .job import Job
from .reading import PARENT_KEY, POSITION
from .score import MAIN
from .since import Parent, dead_rows, parent_of
from .vector_needs import check_vector_steps

RESERVED = ("key", "source", "row", "group", "tokens", "kept", "reason", "weight", TOKEN_WEIGHTS, PARENT_KEY, POSITION)
"""Columns of the decisions and of the data files; no score may be named like one of them."""


@dataclass(frozen=True)
class Plan:
    """What a run will read.

    opened: corpora by name; sources: fingerprint of all files and pinned states; parent: the run that is continued;
    earlier: documents of it and those before it, with which copies are looked for.
    """

    opened: dict[str, Opened]
    sources: str
    parent: Parent | None = None
    earlier: Earlier = field(default_factory=Earlier)

    @property
    def nothing_new(self) -> bool:
        """Whether the runs before this one have read all files."""
        return self.parent is not None and not self.opened[MAIN].files


def make_plan(job: Job) -> Plan:
    """Open what the job reads, and check it; raises RecipeError, before any document is read."""
    if files.is_local(job.store) and Path(job.store).is_relative_to(job.output):
        raise RecipeError(f"store: {job.store} lies in the output path, which is replaced as a whole; move it out")
    parent = parent_of(job)
    opened = _open(job, parent)
    _prepare_scorers(job, opened)
    _restore_fitted(job)  # after that, since the state of a derived scorer names what it works on
    _check_columns(job, opened[MAIN])
    content = {name: [shard.fingerprint for shard in corpus.shards] for name, corpus in opened.items()}
    ready = {score: s for score, s in job.scorers.items() if score in job.fitted or not is_learning(s)}
    states = {score: scorer.fingerprint for score, scorer in ready.items()}
    sources = hashlib.sha256(json.dumps([content, states], sort_keys=True).encode()).hexdigest()
    return Plan(opened, sources, parent, earlier_of(job, parent, opened[MAIN].corpus))


def _open(job: Job, parent: Parent | None) -> dict[str, Opened]:
    main = open_corpus(
        MAIN,
        job.corpus,
        limit=job.limit,
        skip_unreadable=job.skip_unreadable,
        chosen=parent.is_new if parent and not job.retry_dead else None,
        first_shard=parent.first_shard if parent else 0,
        only=dead_rows(parent.path) if parent and job.retry_dead else None,
    )
    opened = {MAIN: main}
    used = {name: score for score, s in job.scorers.items() if isinstance(s, FittedScorer) for name in s.targets}
    for name, score in sorted(used.items()):
        if name not in job.targets:
            where = f"scores.{score}.target"
            raise RecipeError(f"{where}: there is no target `{name}` in `targets`{nearest(name, job.targets)}")
        opened[f"targets.{name}"] = open_corpus(f"targets.{name}", job.targets[name])
    return opened


def _restore_fitted(job: Job) -> None:
    derived = derived_in_order(job.scorers)
    for score in (*sorted(job.fitted.keys() - derived.keys()), *(name for name in derived if name in job.fitted)):
        scorer, url = job.scorers[score], job.fitted[score]
        assert isinstance(scorer, LearnedScorer)
        try:
            scorer.restore(load_arrays(url))
        except TamisError as error:
            raise RecipeError(f"scores.{score}.fitted: {error}") from error


def _prepare_scorers(job: Job, opened: Mapping[str, Opened]) -> None:
    """Let scorers look at what they read, and refuse those that need columns which corpus or targets do not have."""
    for score, scorer in job.scorers.items():
        needs = {MAIN: scorer.needs}
        if isinstance(scorer, FittedScorer):
            needs |= {f"targets.{name}": scorer.target_needs for name in scorer.targets}
        try:
            scorer.prepare(job.corpus)
            for name, columns in needs.items():
                _check_needs(opened[name], "" if name == MAIN else f"{name}: ", columns)
        except RecipeError as error:
            raise RecipeError(f"scores.{score}: {error}") from error


def _check_needs(opened: Opened, where: str, columns: Sequence[str]) -> None:
    config = opened.corpus.config
    try:
        if columns:
            FORMATS[config.format].check_needs(config, opened.files, opened.corpus.schema, columns)
    except RecipeError as error:
        raise RecipeError(f"{where}{error}") from error


def _check_columns(job: Job, main: Opened) -> None:
    """Refuse scores that clash with each other or with other columns, and steps whose scores nothing produces."""
    columns: dict[str, str] = {}
    lists: set[str] = set()
    names_of_corpus = main.corpus.schema.names
    in_pieces = job.corpus.chunk is not None
    taken = {*names_of_corpus, *source_names(names_of_corpus, in_pieces).values(), EXTRA}
    for score, scorer in job.scorers.items():
        for name in (column.named(score) for column in scorer.columns):
            if name in columns:
                both = f"`{columns[name]}` and `{score}`"
                raise RecipeError(f"scores.{score}: {both} make the same column `{name}`; rename one")
            if name in RESERVED or name in taken:
                owner = "Tamis" if name in RESERVED else "the corpus"
                raise RecipeError(f"scores.{score}: `{name}` is a column of {owner} already; choose another name")
            columns[name] = score
        lists |= {column.named(score) for column in scorer.columns if not column.is_number}
    check_vector_steps(job, _whole_numbers(job), {*columns, *RESERVED, *taken})
    made = {f"select.{i}": step.name for i, step in enumerate(job.steps) if isinstance(step, VectorStep)}
    wanted = {f"select.{i}": step.needs for i, step in enumerate(job.steps)}
    wanted |= {"weigh": job.weigher.needs, "output.columns": job.columns}
    for where, names in wanted.items():
        columns |= {made[where]: where} if where in made else {}  # for this step, and what comes after it
        for name in names:
            if name not in columns:
                message = f"{where}: no scorer makes the column `{name}`{nearest(name, columns)}"
                raise RecipeError(message, place=f"{where}.by")
            if name in lists and where != "output.columns":
                raise RecipeError(f"{where}: `{name}` is a list for each document, not a number", place=f"{where}.by")
    _check_token_weights(job, lists)
    check_duplicates(job)
    if job.alert is not None:
        check_alert(job.alert, set(columns))
    if job.corpus.group is None and isinstance(job.weigher, Weigher) and (job.weigher.within or job.weigher.by_group):
        raise RecipeError("weigh: the corpus has no `group`; name the column in `corpus.group`", place="weigh")
    for i, step in enumerate(job.steps):
        if not isinstance(step, RankStep) or step.divided_by is None:
            continue
        key = "within" if step.within else "allocate"
        if step.divided_by not in (GROUP, *_whole_numbers(job)):
            place = f"select.{i}.{key}"
            raise RecipeError(f"{place}: `{step.divided_by}` holds no whole numbers, as those of clusters", place=place)
        if step.divided_by == GROUP and job.corpus.group is None:
            raise RecipeError(f"select.{i}.{key}: the corpus has no `group`; name the column in `corpus.group`")


def _whole_numbers(job: Job) -> list[str]:
    """Return the score columns that can divide documents into groups."""
    columns = [(score, column) for score, scorer in job.scorers.items() for column in scorer.columns]
    return [column.named(score) for score, column in columns if pa.types.is_integer(column.type)]


def _check_token_weights(job: Job, lists: set[str]) -> None:
    """Refuse token weights whose losses nothing makes, or that are of different tokenizers."""
    if job.token_weigher is None:
        return
    place = "output.token_weights"
    for name in job.token_weigher.needs:
        if name not in lists:
            hint = "; `token_nll: true` of a language_model makes NAME_token_nll"
            raise RecipeError(
                f"{place}: no scorer makes the list `{name}`{nearest(name, lists)}{hint}", place=f"{place}.by"
            )
    triage = job.token_weigher.triage if isinstance(job.token_weigher, QTuningMask) else None
    steps = [step.name for step in job.steps if isinstance(step, QTuning)]
    if triage is not None and triage not in steps:
        raise RecipeError(
            f"{place}.triage: `{triage}` is no step of the method q_tuning{nearest(triage, steps)}",
            place=f"{place}.triage",
        )
    if len(tokenizers(job)) > 1:
        names = ", ".join(f"`{name}`" for name in job.token_weigher.needs)
        raise RecipeError(f"{place}: {names} are of different tokenizers", place=f"{place}.by")


def tokenizers(job: Job) -> set[str]:
    """Return the fingerprints of the tokenizers that token weights are by."""
    needs = job.token_weigher.needs if job.token_weigher is not None else []
    return {
        column.tokenizer
        for score, scorer in job.scorers.items()
        for column in scorer.columns
        if column.named(score) in needs
    }
