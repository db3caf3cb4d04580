"""The sequence of passes that makes a run: FIT, SCORE, SELECT, WEIGH, EMIT, and the manifest at its end."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray

from ..connectors import files
from ..connectors.atomic import sweep, write_text
from ..connectors.errors import RecipeError
from ..connectors.opening import Opened
from ..connectors.run_directory import (
    EARLIER,
    LOG,
    MANIFEST,
    RunDirectory,
    read_manifest,
    seal,
)
from ..connectors.score_store import ScoreStore
from ..connectors.shards import Shard
from ..connectors.store_use import use_of_manifest
from .alerting import alerts
from .candidates import RunPass, StoredStep
from .decided import Decisions
from .earlier import COMPARING, SHARDS, Earlier, shards_table
from .emit import EmitPass, output_parts
from .fit_and_score import FitAndScore, fitted_scorers, learned_scorers, main_shards
from .job import Job, Reporter
from .manifest import Findings, manifest
from .passes import Result, Work, run_pass
from .plan import Plan, make_plan, tokenizers
from .run_files import RunFiles
from .runner import Engine
from .score import MAIN, document_address, merged_statistic
from .score_columns import ScoreColumns, made_columns, save_groups, score_columns
from .select import Decider, StepReport, new_urls
from .since import Parent, all_groups, count_frozen, frozen_steps, new_group_lines
from .store_use import note_run, store_use
from .survey import KEYS_EXACT, SAMPLE, SurveyPass, sample_table
from .warnings import measured_warnings, recipe_warnings, unfit_warnings
from .weighing import Weigh, Weights

FEW_DOCUMENTS = 2_000_000
"""Up to so many, a pass over score files has one worker: starting a second costs more than it saves (for 450,000
documents, 0.4 s with one and 1.2 s with two)."""


@dataclass
class Outcome:
    """How a run ended. manifest: None when there was nothing new to do."""

    path: Path
    manifest: dict[str, Any] | None
    too_many_dead: bool = False
    alerts: list[str] = field(default_factory=list)


class Run:
    """One execution of a job."""

    def __init__(
        self,
        job: Job,
        engine: Engine,
        reporter: Reporter,
        overwrite: bool = False,
        passes: Callable[..., Result] = run_pass,
    ) -> None:
        self.job, self.engine, self.reporter, self.overwrite = job, engine, reporter, overwrite
        self._run_pass = passes
        self.store = ScoreStore(job.store)
        self.timings: dict[str, float] = {}
        self.opened: dict[str, Opened] = {}
        self.sources = ""
        self.parent: Parent | None = None
        self.earlier = Earlier()
        self.warnings: list[str] = []

    def execute(self, plan: Plan | None = None) -> Outcome:
        """Do the job; raises RecipeError before documents are read, TamisError when the run fails.

        plan: what to read; default: what the job says.
        """
        if not self.engine.is_local and files.is_local(self.job.store):
            raise RecipeError("a remote runner cannot reach a store on a local path; set `store` to a shared URL")
        plan = plan or make_plan(self.job)
        self.opened, self.sources, self.parent, self.earlier = plan.opened, plan.sources, plan.parent, plan.earlier
        if plan.parent is not None and plan.nothing_new:
            why = "has no dead letters" if self.job.retry_dead else "and the runs before it have read all files"
            self.reporter.say(f"nothing new: {plan.parent.path} {why}")
            return Outcome(plan.parent.path, None)
        directory = RunDirectory(self.job.output)
        if directory.check(self.job.fingerprint, plan.sources, self.overwrite):
            self.reporter.say("nothing new: this recipe was run on these files already")
            done = read_manifest(self.job.output) or {}
            if "store_addresses" in done:
                note_run(self.job, plan.sources, use_of_manifest(done, str(self.job.output)), self.reporter)
            return self._outcome(done, is_new=False)
        self._warn(recipe_warnings(self.job))
        self._warn([f"left out: {line}" for line in self.opened[MAIN].unreadable])
        with directory.building(self.job.fingerprint) as partial, self.reporter.log_to(partial / LOG):
            if directory.dead_owner is not None:
                self.reporter.say(f"taking over from {directory.dead_owner}, which ended before it was done")
            self._sweep_store()
            self.files = RunFiles(str(partial))
            self.work = f"{partial}/work-{uuid.uuid4().hex}"
            result = self._build(plan.sources)
            files.remove_tree(Path(self.work))
            recipe = yaml.safe_dump(self.job.recipe, sort_keys=False)
            write_text(f"{partial}/recipe.yaml", recipe)
            write_text(f"{partial}/{MANIFEST}", json.dumps(seal(result), indent=1, allow_nan=False) + "\n")
            directory.commit()
        return self._outcome(result, is_new=True)

    def _outcome(self, result: dict[str, Any], is_new: bool) -> Outcome:
        dead, read = (result["totals"][name]["documents"] for name in ("dead", "read"))
        too_many_dead = dead > self.job.max_dead_fraction * read
        return Outcome(self.job.output, result if is_new else None, too_many_dead, result.get("alerts", []))

    def _sweep_store(self) -> None:
        """Delete what killed runs left half-written in the store."""
        folder = files.local_path(self.job.store)
        if files.is_local(self.job.store) and folder.is_dir():
            swept = sum(sweep(child) for child in folder.iterdir() if child.is_dir())
            if swept:
                self.reporter.say(f"deleted {swept} half-written files of runs that were killed, in {folder}")

    def _warn(self, lines: list[str]) -> None:
        self.warnings += lines
        for line in lines:
            self.reporter.warn(line)

    def _pass(
        self, work: Work, elements: Sequence[Any], stage: str, size: int = 0, engine: Engine | None = None
    ) -> Result:
        """Run a pass with progress and timing."""
        started = time.monotonic()
        self.reporter.begin(stage, len(elements), size)
        try:
            result = self._run_pass(work, elements, engine or self.engine, self.work, self.reporter.update)
        finally:
            self.reporter.end()
            self.timings[stage] = self.timings.get(stage, 0.0) + time.monotonic() - started
        if "damaged" in result:
            damaged = result["damaged"]["file"].to_pylist()
            self._warn([f"{line.split('; delete', 1)[0]}; scored anew" for line in damaged])
        return result

    def _build(self, sources: str) -> dict[str, Any]:
        started = time.monotonic()
        settled = self.earlier.fingerprints
        reading = FitAndScore(
            self.job, self.store, self.opened, self.sources, self.reporter, self._pass, self._warn, settled
        )
        read = reading.read()
        shards = main_shards(read)
        documents = int(np.sum(shards["documents"].to_numpy()))
        columns, names = self._columns(read)
        usable = self._usable(shards)

        def run_over(work: Work, elements: Sequence[Any], stage: str) -> Result:
            few = documents + sum(self.earlier.documents) <= FEW_DOCUMENTS
            engine = self.engine.on_one_worker() if few else self.engine
            return self._pass(work, elements, stage, engine=engine)

        def over_shards(work: Work, stage: str) -> Result:
            return run_over(work, usable, stage)

        def over_all(work: Work, stage: str) -> Result:
            return run_over(work, [*self.earlier.shards, *usable], stage)

        numbering = self.earlier.numbering(usable, shards)
        decider = Decider(columns, self.job.seed, over_all, self.work, len(names), documents, (numbering, run_over))
        steps, reports = self._decide(decider, names, over_shards)
        columns = decider.columns  # with those that steps have made
        made = {name: columns.columns[name][0] for name in made_columns(self.job.steps)}
        if made:
            use = store_use(self.job, self.opened, self.job.scorers.values(), settled, made.values())
            note_run(self.job, sources, use, self.reporter)
        decisions = Decisions(columns, self.job.seed, steps, self.job.weigher)
        surveying = self._survey_pass(decisions, documents)
        survey = over_shards(surveying, "counting")
        decisions, weights = self._weigh(decisions, survey, names, over_shards)
        self._warn_of(survey, documents, reports, weights, names)
        written = self._emit(decisions, usable, shards, survey)
        self.files.save_fitted(learned_scorers(self.job), steps)
        self.files.save_weighing(decisions)
        if any(isinstance(step, COMPARING) for step in self.job.steps):
            self.files.save_table(SHARDS, shards_table(usable, shards))
        self.files.save_table("fitted/groups.parquet", pa.table({"group": names}))
        if documents > SAMPLE:
            self.files.save_table("sample.parquet", sample_table(survey["sample"], names))
        similarity = {
            score: scorer.describe_selection(merged_statistic(written, score, "selected"))
            for score, scorer in fitted_scorers(self.job).items()
            if scorer.describes_selection
        }
        found = Findings(
            opened=self.opened,
            read=read["shards"],
            shards=shards,
            group_names=names,
            survey=survey,
            written=[*written["files"].to_pylist(), *self.files.written],
            reports=reports,
            weights=weights,
            similarity=similarity,
            warnings=self.warnings,
            counted=surveying.counted,
            parent=self.parent,
            settled=settled,
            made=made,
        )
        self.timings["total"] = time.monotonic() - started
        result = manifest(self.job, found, self.files.folder, sources, self.timings)
        result["alerts"] = []
        if self.job.alert is not None:
            result["alerts"] = alerts(self.job.alert, result, survey["sample"], self._scalars())
        return result

    def _decide(
        self, decider: Decider, names: pa.Array, over_shards: RunPass
    ) -> tuple[list[StoredStep], list[StepReport]]:
        """Find the cuts of all steps, or take those of the run that is continued."""
        if self.parent is None:
            for step in self.job.steps:
                decider.decide(step)
            return decider.decided, decider.reports
        frozen = frozen_steps(self.parent, self.job.steps, len(names), new_urls(self.work, "frozen"))
        made = self.parent.made if self.earlier.runs else {}  # a plan's sample is compared with no earlier run
        for stored, report in zip(*frozen, strict=True):
            decider.adopt(stored, report, made.get(stored.step.name))
        count_frozen(decider.columns, self.job.seed, decider.decided, decider.reports, over_shards)
        self._warn(new_group_lines(self.parent, self.job.steps, names))
        self.files.save_table(EARLIER, self.parent.earlier())
        return decider.decided, decider.reports

    def _weigh(
        self, decisions: Decisions, survey: Result, names: pa.Array, run_pass: RunPass
    ) -> tuple[Decisions, Weights]:
        """Fit the weights of what is kept, or take those of the run that is continued."""
        kept = np.zeros(len(names), np.int64)
        kept[survey["groups"]["group"].to_numpy()] = survey["groups"]["kept"].to_numpy()
        weigh = Weigh(decisions, kept, run_pass, new_urls(self.work, "weights"))
        return weigh.fitted() if self.parent is None else weigh.frozen(self.parent.weighing(self.job.weigher))

    def _survey_pass(self, decisions: Decisions, documents: int) -> SurveyPass:
        """Say what is counted once it is decided who stays."""
        sampled = list(dict.fromkeys(name for step in self.job.steps for name in step.needs))
        if documents > SAMPLE or self.job.alert is not None:  # kept with the run, for percentiles
            sampled = self._scalars()
        scorers = self.job.scorers.items()
        counted = [c.named(score) for score, s in scorers for c in s.columns if c.suffix in s.counted]
        # a list cannot be read there: its scorer has a number beside it, which is null with it
        numbers = {score: next((c.named(score) for c in s.columns if c.is_number), score) for score, s in scorers}
        sized = {score: (numbers[score], f"{score}_{s.sized}") for score, s in scorers if s.sized is not None}
        return SurveyPass(decisions, documents, sampled, self._target_hashes(), counted, sized)

    def _warn_of(
        self, survey: Result, documents: int, reports: list[StepReport], weights: Weights, names: pa.Array
    ) -> None:
        """Warn of what was counted."""
        overlap = int(survey["overlap"][0])
        self._warn(measured_warnings(self.job, survey["sample"], reports, weights, names, overlap))
        self._warn(unfit_warnings(survey["unfit"]))
        keys, share = survey["keys"]["key"].to_numpy(), min(1.0, KEYS_EXACT / max(documents, 1))
        for score, scorer in self.job.scorers.items():
            self._warn([f"{score}: {line}" for line in scorer.findings(keys, share)])

    def _scalars(self) -> list[str]:
        """Names of the score columns that are numbers, not lists."""
        columns = [(score, column) for score, scorer in self.job.scorers.items() for column in scorer.columns]
        of_scorers = [column.named(score) for score, column in columns if column.is_number]
        return [*of_scorers, *made_columns(self.job.steps)]

    def _usable(self, shards: pa.Table) -> list[Shard]:
        """Shards with at least one document or dead letter."""
        filled = {row["shard"] for row in shards.to_pylist() if row["documents"] or row["dead"]}
        return [shard for shard in self.opened[MAIN].shards if shard.index in filled]

    def _columns(self, read: Result) -> tuple[ScoreColumns, pa.Array]:
        """Number the groups; return where all columns are, and the groups' names in the order of their numbers."""
        found = sorted(read["groups"]["group"].to_pylist())
        names = pa.array(found, pa.string()) if self.parent is None else all_groups(self.parent, found)
        url = f"{self.work}/groups.arrow"
        save_groups(url, names)
        directions = {c.named(score): c.direction for score, s in self.job.scorers.items() for c in s.columns}
        stored = score_columns(self.job.scorers)
        return ScoreColumns(self.store, self.opened[MAIN].corpus, stored, url, directions), names

    def _target_hashes(self) -> NDArray[np.uint64]:
        """Text hashes of the documents of targets that scores compare with, sorted: 8 bytes each."""
        compared = {f"targets.{t}" for s in fitted_scorers(self.job).values() if s.fits_corpus for t in s.targets}
        hashes = [
            self.store.read_table(document_address(opened.corpus), shard, ["text_hash"])["text_hash"].to_numpy()
            for name, opened in self.opened.items()
            if name in compared
            for shard in opened.shards
        ]
        return np.sort(np.concatenate(hashes)) if hashes else np.zeros(0, dtype=np.uint64)

    def _emit(self, decisions: Decisions, usable: list[Shard], shards: pa.Table, survey: Result) -> Result:
        counted = {row["shard"]: (row["kept"], row["kept_bytes"]) for row in survey["shards"].to_pylist()}
        parts = output_parts(usable, _first_rows(self.opened[MAIN].shards, shards), counted)
        types = {c.named(score): c.field(c.named(score)) for score, s in self.job.scorers.items() for c in s.columns}
        types |= {name: column.field(name) for name, column in made_columns(self.job.steps).items()}
        fitted = {score: scorer for score, scorer in fitted_scorers(self.job).items() if scorer.describes_selection}
        tokenizer = "".join(tokenizers(self.job))
        work = EmitPass(
            decisions, self.files.folder, types, self.job.columns, fitted, self.job.token_weigher, tokenizer
        )
        read = sum(shard.bytes for shard in usable if counted[shard.index][0])
        return self._pass(work, parts, "writing", read)


def _first_rows(shards: Sequence[Shard], counts: pa.Table) -> dict[int, list[int]]:
    """Return for each shard the number, in its file, of the first row of each of its pieces."""
    lines = dict(zip(counts["shard"].to_pylist(), counts["piece_rows"].to_pylist(), strict=True))
    after: dict[str, int] = {}
    first: dict[int, list[int]] = {}
    for shard in shards:
        first[shard.index] = []
        for number, piece in enumerate(shard.pieces):
            start = piece.first_row if piece.first_row is not None else after.get(piece.url, 0)
            first[shard.index].append(start)
            after[piece.url] = start + lines[shard.index][number]
    return first
