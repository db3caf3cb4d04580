"""Where a method misleads: checks of the recipe, and of a keyed sample of what was decided, one line each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ..connectors.keys import keyed_gumbel
from ..scoring.gradients_scorer import Gradients
from ..scoring.lora_adapter import is_untrained
from ..scoring.model_files import adapter_folder
from ..selectors.diagnostics import rank_correlation, topk_overlap
from ..selectors.steps import Perturbed, RankStep, Resample
from ..selectors.weigh import Importance
from ..selectors.weigher import Weigher
from ..selectors.weight_summary import findings
from .job import Job
from .select import StepReport
from .survey import SAMPLE_KEY, SAMPLE_TOKENS
from .weighing import Weights

FOLLOWS_LENGTH = 0.5
EQUALS_TOP_K = 0.95

FEWEST_IN_A_GROUP = 100
"""Weights of smaller groups are not judged: their tails are noise."""

GROUPS_NAMED = 3


def recipe_warnings(job: Job) -> list[str]:
    """Return what can be said before anything is read."""
    lines = _adapter_warnings(job)
    resampled = {score for step in job.steps if isinstance(step, Resample) for score in step.needs}
    if isinstance(job.weigher, Importance) and job.weigher.by in resampled:
        score = job.weigher.by
        lines.append(
            f"`{score}` is used to resample and again to weigh: its importance is counted twice; weigh uniformly"
        )
    return lines


def _adapter_warnings(job: Job) -> list[str]:
    gradients = {name: scorer for name, scorer in job.scorers.items() if isinstance(scorer, Gradients)}
    folders = {name: adapter_folder(scorer.parameters.model) for name, scorer in gradients.items()}
    return [
        f"`{name}`: the adapter {folder} is untrained (every B is zero): gradients by its A are zero, and those by its "
        "B are of a random projection; train it first, or take the gradients of its base model"
        for name, folder in folders.items()
        if folder is not None and is_untrained(folder)
    ]


def measured_warnings(
    job: Job, sample: pa.Table, reports: Sequence[StepReport], weights: Weights, names: pa.Array, overlap: int
) -> list[str]:
    """Return what a run has shown.

    sample: keyed sample of the corpus, see SurveyPass; reports: of the steps; names: of the groups; overlap: documents
    of the corpus whose text is in a target too.
    """
    lines = [note for report in reports for note in report.notes]
    lines += _length_warnings(job, sample)
    lines += _resampling_warnings(job, sample, reports)
    lines += _weight_warnings(job, weights, names)
    if overlap:
        lines.append(f"{overlap:,} documents of the corpus are in a target too; figures that compare with it flatter")
    if not weights.run.n:
        lines.append("no document is kept; there are no data files")
    return lines


def unfit_warnings(unfit: pa.Table) -> list[str]:
    """Return which scores some documents lack for want of memory. unfit: of the shards, see SurveyPass."""
    lines = []
    totals = unfit.group_by("score", use_threads=False).aggregate([("documents", "sum"), ("key", "min")])
    for row in totals.to_pylist():
        lines.append(
            f"{row['score']}: {row['documents_sum']:,} documents do not fit into the memory of the device, and have no "
            f"score, among them {row['key_min']:016x}; a smaller `context` may fit"
        )
    return lines


def _weight_warnings(job: Job, weights: Weights, names: pa.Array) -> list[str]:
    """Return what the gates say of the weights of the run, and of the groups that fail one which the run passes."""
    lines = [f"weights ({finding.grade}): {finding.says}" for finding in findings(weights.run)]
    if lines and isinstance(job.weigher, Weigher):
        lines.append("weights: `stabilise: [{method: temper, effective_sample_size: 0.3}]` in `weigh` mends that")
    of_run = {finding.kind for finding in findings(weights.run)}
    failing: dict[str, list[str]] = {}
    for number, summary in enumerate(weights.of_groups):
        if summary is not None and summary.n >= FEWEST_IN_A_GROUP:
            for finding in findings(summary):
                if finding.kind not in of_run:
                    failing.setdefault(finding.kind, []).append(f"`{names[number].as_py()}`: {finding.says}")
    for found in failing.values():
        more = f"; and {len(found) - GROUPS_NAMED} more groups" if len(found) > GROUPS_NAMED else ""
        lines.append(f"weights of the group {'; '.join(found[:GROUPS_NAMED])}{more}")
    if weights.unscored and isinstance(job.weigher, Weigher):
        lacking = " or ".join(f"`{name}`" for name in job.weigher.needs) or "a weight of their group"
        lines.append(f"{weights.unscored:,} kept documents have no {lacking}; they weigh 1, the mean")
    return lines


def _length_warnings(job: Job, sample: pa.Table) -> list[str]:
    tokens = sample[SAMPLE_TOKENS].to_numpy().astype(np.float64)
    lines = []
    # a threshold is set by somebody who knows the score; an order by it is an order by length
    ranking = [step for step in job.steps if isinstance(step, RankStep)]
    for score in dict.fromkeys(name for step in ranking for name in step.needs):
        correlation = rank_correlation(sample[score].to_numpy(), tokens)
        if abs(correlation) > FOLLOWS_LENGTH:
            lines.append(
                f"`{score}` mostly follows length: rank correlation {correlation:+.2f} with the number of tokens "
                "(`normalise: tokens`, where the scorer has it, or documents of equal length avoid that)"
            )
    return lines


def _resampling_warnings(job: Job, sample: pa.Table, reports: Sequence[StepReport]) -> list[str]:
    lines = []
    for step, report in zip(job.steps, reports, strict=True):
        if not isinstance(step, Perturbed) or len(step.ranked_by) > 1 or not report.candidates or not report.kept:
            continue
        scores = sample[step.ranked_by[0]].to_numpy()
        known = np.isfinite(scores)
        tempered = scores[known] / (report.temperature or 1.0)
        noisy = tempered + keyed_gumbel(job.seed, step.name, sample[SAMPLE_KEY].to_numpy()[known])
        share = topk_overlap(tempered, noisy, round(len(tempered) * report.kept / report.candidates))
        if share >= EQUALS_TOP_K and report.kept < report.candidates:
            lines.append(
                f"{step.name}: {share:.0%} of what was resampled are simply the highest scores; for a real sample "
                "raise `temperature` or set `effective_sample_size`"
            )
    return lines
