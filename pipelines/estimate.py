"""What a run would do, before it does it: measured on a keyed sample of the corpus's shards, and scaled."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..connectors import files, memory
from ..connectors.errors import RecipeError, TamisError
from ..connectors.opening import Opened
from ..connectors.score_store import Address, ScoreStore
from ..scoring.scorer import FittedScorer, is_learning
from ..selectors.deduplicate import Deduplicate
from ..selectors.steps import RankStep, Step
from ..selectors.vector_steps import VectorStep
from .earlier import Earlier
from .job import Job, Quiet
from .passes import Result, Work, run_inline
from .plan import Plan, make_plan
from .run import FEW_DOCUMENTS, Run
from .runner import Engine
from .score import MAIN, document_address, score_address, statistic_address
from .shard_sample import byte_count, first_rows, row_count, sampled

START_SECONDS = 3.0
"""Imports and compiled kernels."""

PASS_SECONDS = {False: 0.25, True: 0.55}
"""What a pass costs besides its work, with one worker and with several."""

WORKER_YIELD = 0.85
"""What each of several workers gets done of what one alone does."""

KEY_BYTES = 24
"""Held per document, up to 10 million, while duplicates are counted."""


@dataclass(frozen=True)
class PassEstimate:
    """One pass. share: of the corpus that is not in the store; bytes: to be read; memory_bytes: peak of the process."""

    stage: str
    share: float
    bytes: int
    seconds: float
    memory_bytes: int | None


@dataclass
class Estimate:
    """What a run would do.

    corpora: by name, files, shards, bytes, documents and tokens; stored: shards in the store, by result; sampled:
    documents that were read for this; steps: candidates and kept documents; groups: documents and kept, by group;
    warnings: what the run would warn of; disk: bytes needed and free, for the store and the run.
    """

    corpora: dict[str, dict[str, Any]]
    stored: dict[str, int]
    sampled: int
    passes: list[PassEstimate] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    disk: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Of the whole command."""
        return START_SECONDS + sum(one.seconds for one in self.passes)

    @property
    def memory_bytes(self) -> int | None:
        """Peak of the process, where the system tells."""
        return max((one.memory_bytes for one in self.passes if one.memory_bytes), default=None)

    def as_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return asdict(self) | {"seconds": round(self.seconds, 1), "memory_bytes": self.memory_bytes}


def estimate(job: Job, engine: Engine) -> Estimate:
    """Look at a job's sources and store, run it on a sample, and scale what was seen; writes nothing that stays.

    Raises RecipeError for what cannot work: what `make_plan` refuses, and too little space on the disks.
    """
    plan = make_plan(job)
    main = plan.opened[MAIN]
    if plan.nothing_new:
        raise TamisError(f"since: {job.since} and the runs before it have read all files; there is nothing to do")
    sample = {name: sampled(opened) for name, opened in plan.opened.items()}
    whole_bytes, part_bytes = byte_count(main.shards), byte_count(sample[MAIN].shards)
    scale = max(1.0, whole_bytes / max(part_bytes, 1))
    with tempfile.TemporaryDirectory(prefix="tamis-plan-") as folder:
        trial = _Trial(job, replace(plan, opened=sample), Path(folder))
        trial.run(scale)
        manifest = trial.manifest
        by_shards = len(main.shards) / max(len(sample[MAIN].shards), 1)
        store, run = Path(folder) / "store", Path(folder) / "run"
        tables, statistics = _file_bytes(store, "*.parquet"), _file_bytes(store, "*.npz")
        outputs, fixed = _file_bytes(run, "*/part-*.parquet"), _file_bytes(run, "fitted/*")
    read = manifest["totals"]["read"]
    rows = row_count(main)
    by_documents = rows / max(read["documents"], 1) if rows is not None else scale
    found = Estimate(_corpora(plan, sample, manifest, by_documents, rows), _stored(job, main), read["documents"])
    found.passes = _passes(job, engine, trial, main, found, scale, by_documents)
    found.steps = [
        _expected(step, report, by_documents) for step, report in zip(job.steps, manifest["steps"], strict=True)
    ]
    if isinstance(manifest["groups"], list):
        found.groups = [
            {"group": group["group"]} | {k: round(group[k] * by_documents) for k in ("documents", "kept")}
            for group in manifest["groups"]
        ]
    found.warnings = manifest["warnings"] + _unseen(job, read["documents"], found.corpora[MAIN]["documents"])
    lacking = max((one.share for one in found.passes if one.stage in _READING), default=0.0)
    store_bytes = (tables * by_documents + statistics * by_shards) * lacking
    found.disk = _disk(job, {"store": store_bytes, "run": outputs * by_documents + fixed})
    return found


def _unseen(job: Job, sampled: int, documents: int) -> list[str]:
    """Say that documents were compared neither with what was not sampled nor with what earlier runs have read."""
    if sampled >= documents and job.since is None:
        return []
    among = f"{sampled:,} sampled documents" + (", and not in earlier runs" if job.since is not None else "")
    copies = [
        f"{step.name}: copies were looked for among {among}; the run finds more of them, and keeps less than foreseen"
        for step in job.steps
        if isinstance(step, Deduplicate)
    ]
    if job.since is None:
        return copies
    return copies + [
        f"{step.name}: {sampled:,} sampled documents were compared with each other, and with none of earlier runs; "
        "foreseen is that of new documents the same share is kept"
        for step in job.steps
        if isinstance(step, VectorStep)
    ]


def _expected(step: Step, report: dict[str, Any], scale: float) -> dict[str, Any]:
    """Return what a step will see and keep; a number of documents is met where so many are there."""
    seen, kept = (round(report[key] * scale) if report[key] is not None else None for key in ("candidates", "kept"))
    if (
        isinstance(step, RankStep)
        and report["cut_share"] is None
        and step.keep.documents is not None
        and step.within is None
        and seen is not None
    ):
        kept = min(step.keep.documents, seen)
    return {"name": step.name, "method": step.method, "candidates": seen, "kept": kept}


_READING = ("fitting", "fitting on targets", "scoring")


class _Trial:
    """A real run of a job on a sample, in this process and thread. seconds, peaks: by stage."""

    def __init__(self, job: Job, plan: Plan, folder: Path) -> None:
        self.job, self.plan, self.folder = job, plan, folder
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}
        self.before: int | None = None
        self.manifest: dict[str, Any] = {}

    def run(self, scale: float) -> None:
        """Run on a few rows, so that kernels are loaded, and then on the sample."""
        self._execute("first", {name: first_rows(opened) for name, opened in self.plan.opened.items()}, scale, False)
        self.before = memory.resident_bytes()
        self._execute("run", self.plan.opened, scale, True)

    def _execute(self, name: str, opened: dict[str, Opened], scale: float, measured: bool) -> None:
        steps = [_scaled(step, 1 / scale) for step in self.job.steps]
        store = self.folder / ("store" if measured else f"store-{name}")
        job = replace(self.job, output=self.folder / name, store=str(store), steps=steps)
        passes = self._measured if measured else run_inline
        outcome = Run(job, Engine(1), Quiet(), passes=passes).execute(
            replace(self.plan, opened=opened, earlier=Earlier())  # the trial has a store of its own
        )
        self.manifest = outcome.manifest or {}
        if measured:
            self.seconds = {stage: s for stage, s in self.manifest["timings"].items() if stage != "total"}

    def _measured(
        self,
        work: Work,
        elements: Sequence[Any],
        engine: Engine,
        exchange: str,
        report: Callable[[int, int], None] = lambda done, size: None,
    ) -> Result:
        memory.forget_peak()
        result = run_inline(work, elements, engine, exchange, report)
        peak = memory.peak_bytes()
        if peak is not None:
            stage = type(work).__name__
            self.peaks[stage] = max(peak, self.peaks.get(stage, 0))
        return result


def _scaled(step: Step, factor: float) -> Step:
    """Return a step that asks of a sample what the step asks of the corpus."""
    if factor == 1 or not isinstance(step, RankStep):
        return step
    allocate = step.allocate.scaled(factor) if step.allocate is not None else None
    return step.model_copy(update={"keep": step.keep.scaled(factor), "allocate": allocate})


def _corpora(
    plan: Plan, sample: dict[str, Opened], manifest: dict[str, Any], scale: float, rows: int | None
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, opened in plan.opened.items():
        known = row_count(opened)
        found[name] = {
            "files": len(opened.files),
            "shards": len(opened.shards),
            "bytes": round(byte_count(opened.shards)),
            "documents": known,
            "tokens": None,
        }
    read = manifest["totals"]["read"]
    found[MAIN] |= {"documents": round(read["documents"] * scale), "tokens": round(read["tokens"] * scale)}
    found[MAIN]["documents_exact"] = rows is not None
    return found


def _addresses(job: Job, main: Opened) -> dict[str, tuple[Address, str]]:
    """Return what a run stores per shard: by result, its address, and the stage that makes it."""
    found = {"document": (document_address(main.corpus), "")}
    for score, scorer in job.scorers.items():
        if is_learning(scorer) and score not in job.fitted:
            if isinstance(scorer, FittedScorer) and scorer.fits_corpus:
                found[f"{score} (statistics)"] = (statistic_address(scorer, main.corpus), "fitting")
        else:
            found[score] = (score_address(scorer), "scoring")
    return found


def _stored(job: Job, main: Opened) -> dict[str, int]:
    store = ScoreStore(job.store)
    shards = {shard.fingerprint for shard in main.shards}
    return {name: len(shards & store.stored(address)) for name, (address, _) in _addresses(job, main).items()}


def _passes(
    job: Job, engine: Engine, trial: _Trial, main: Opened, found: Estimate, scale: float, by_documents: float
) -> list[PassEstimate]:
    shards = max(len(main.shards), 1)
    first = 1 - min(found.stored.values(), default=0) / shards
    documents = found.corpora[MAIN]["documents"]
    passes = []
    for stage, seconds in trial.seconds.items():
        reading = stage in (*_READING, "writing")
        share = {"fitting": first, "scoring": first}.get(stage, 1.0)
        workers = engine.threads if reading or documents > FEW_DOCUMENTS else 1
        workers = min(workers, shards)
        several = workers > 1
        work = seconds * (scale if reading else by_documents) * share
        passes.append(
            PassEstimate(
                stage=stage,
                share=round(share, 4),
                bytes=round(found.corpora[MAIN]["bytes"] * share) if reading else 0,
                seconds=round(work / (workers * WORKER_YIELD if several else 1) + PASS_SECONDS[several], 2),
                memory_bytes=_memory(trial, stage, workers, documents),
            )
        )
    return passes


_WORK_OF = {"writing": "EmitPass", "counting": "SurveyPass", "weighing": "SpreadPass"}


def _memory(trial: _Trial, stage: str, workers: int, documents: int) -> int | None:
    work = "ScorePass" if stage in _READING else _WORK_OF.get(stage, "RadixPass")
    if trial.before is None or work not in trial.peaks:
        return None
    each = max(trial.peaks[work] - trial.before, 0)
    keys = KEY_BYTES * min(documents, 10_000_000) if stage in ("counting", "writing") else 0
    return trial.before + workers * each + keys


def _file_bytes(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def _disk(job: Job, needed: dict[str, float]) -> dict[str, dict[str, int]]:
    """Compare what is needed with what is free; raises RecipeError where a disk is too small."""
    places = {"run": str(job.output)} | ({"store": job.store} if files.is_local(job.store) else {})
    disk: dict[str, dict[str, int]] = {name: {"needed": round(size)} for name, size in needed.items()}
    by_device: dict[int, list[str]] = {}
    for name, place in places.items():
        there = files.local_path(place)
        while not there.exists():
            there = there.parent
        disk[name]["free"] = shutil.disk_usage(there).free
        by_device.setdefault(os.stat(there).st_dev, []).append(name)  # noqa: PTH116 - the device
    for names in by_device.values():
        total, free = sum(disk[name]["needed"] for name in names), min(disk[name]["free"] for name in names)
        if total > free:
            where = " and ".join(f"{name} ({places[name]})" for name in names)
            raise RecipeError(
                f"the disk of {where} has {free / 1e9:,.1f} GB free, about {total / 1e9:,.1f} GB are needed; "
                "set `store` or `output.path` to a larger one"
            )
    return disk
