"""The passes that read the corpus and its targets: fitting, then scoring of all that the score store lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..connectors.errors import RecipeError, TamisError
from ..connectors.opening import Opened
from ..connectors.run_directory import state_url
from ..connectors.score_store import Address, ScoreStore
from ..connectors.shards import Shard
from ..scoring.derived_scorer import DerivedScorer, derived_in_order
from ..scoring.scorer import FittedScorer, LearnedScorer, Scorer
from .derive import DerivePass, SamplePass, in_keyed_order, input_addresses
from .job import Job, Reporter
from .passes import Result, Work
from .score import MAIN, ScorePass, document_address, merged_statistic, score_address
from .store_use import note_run, store_use


@dataclass
class FitAndScore:
    """Reads what must be read.

    opened, sources: of the plan; run_pass: runs a pass over so many bytes; warn: tells lines; settled:
    fingerprints of shards of earlier runs that the run needs too.
    """

    job: Job
    store: ScoreStore
    opened: Mapping[str, Opened]
    sources: str
    reporter: Reporter
    run_pass: Callable[[Work, Sequence[Any], str, int], Result]
    warn: Callable[[list[str]], None]
    settled: Sequence[str] = ()

    def read(self) -> Result:
        """Read what must be read; return the merged result of the first reading pass."""
        corpora = {name: opened.corpus for name, opened in self.opened.items()}
        main = [(MAIN, shard) for shard in self.opened[MAIN].shards]
        unfitted = {score: s for score, s in fitted_scorers(self.job).items() if score not in self.job.fitted}
        known = self._stored(document_address(corpora[MAIN]))
        before = {score: s for score, s in unfitted.items() if s.fits_first}
        if before:
            _finish(before, self.run_pass(ScorePass(self.store, corpora, before), main, "fitting", _bytes(main)))
            unfitted = {score: s for score, s in unfitted.items() if score not in before}
        to_fit = {score: s for score, s in unfitted.items() if s.fits_corpus}
        targets = [(name, shard) for name, o in self.opened.items() if name != MAIN for shard in o.shards]
        if len(to_fit) < len(unfitted):
            on_targets = {score: s for score, s in unfitted.items() if score not in to_fit}
            fitting = ScorePass(self.store, corpora, on_targets)
            _finish(on_targets, self.run_pass(fitting, targets, "fitting on targets", _bytes(targets)))
        derived = derived_in_order(self.job.scorers)
        on_text = {score: s for score, s in self.job.scorers.items() if score not in derived}
        ready = {score: s for score, s in on_text.items() if score not in to_fit}
        first = ScorePass(self.store, corpora, to_fit, ready)
        stage = "fitting" if to_fit else "scoring"
        self._say_reused(stage, [document_address(corpora[MAIN]), *map(score_address, ready.values())])
        self._note_use(list(ready.values()))
        read = self.run_pass(first, main + targets, stage, _bytes(main + targets))
        self._refuse_empty(read)
        _finish(to_fit, read)
        if to_fit:
            self._note_use(list(on_text.values()))
            self._say_reused("scoring", [score_address(scorer) for scorer in to_fit.values()])
            self._say_fitted_anew(to_fit, known)
            second = ScorePass(self.store, corpora, {}, to_fit)
            self.run_pass(second, main, "scoring", _bytes(main))
        for score, scorer in derived.items():
            self._derive(score, scorer, read, known)
        if derived:
            self._note_use(list(self.job.scorers.values()))
        return read

    def _derive(self, score: str, scorer: DerivedScorer, read: Result, known: set[str]) -> None:
        """Fit a scorer on a sample of stored columns, and score the shards that lack it. Reads score files only.

        known: shards that were read before this run.
        """
        main, inputs = self.opened[MAIN], input_addresses(scorer)
        if scorer.sample and score not in self.job.fitted:
            share = min(1.0, scorer.sample / int(np.sum(main_shards(read)["documents"].to_numpy())))
            sampling = SamplePass(self.store, main.corpus, inputs, share)
            sample = self.run_pass(sampling, main.shards, f"fitting {score}", 0)["sample"]
            try:
                scorer.fit(in_keyed_order(sample))
            except RecipeError as error:
                raise RecipeError(f"scores.{score}.{error}") from error
            self._say_fitted_anew({score: scorer}, known)
        self._say_reused(f"scoring {score}", [score_address(scorer)])
        self.run_pass(DerivePass(self.store, main.corpus, scorer, inputs), main.shards, f"scoring {score}", 0)

    def _note_use(self, scorers: Sequence[Scorer]) -> None:
        use = store_use(self.job, self.opened, scorers, self.settled)
        note_run(self.job, self.sources, use, self.reporter)

    def _say_reused(self, stage: str, addresses: list[Address]) -> None:
        shards = set.intersection(*(self._stored(address) for address in addresses))
        if shards:
            self.reporter.say(
                f"{stage}: {len(shards)} of {len(self.opened[MAIN].shards)} shards are in the store already"
            )

    def _say_fitted_anew(self, scorers: Mapping[str, LearnedScorer], known: set[str]) -> None:
        """Tell why shards that were scored before are scored again. known: shards that were read before."""
        for score, scorer in scorers.items():
            if known and not self._stored(score_address(scorer)):
                self.reporter.say(
                    f"{score}: fitted anew, on another corpus than before, so all shards are scored; "
                    f"`fitted:` with an earlier run's {state_url('RUN', score)} keeps its state"
                )

    def _stored(self, address: Address) -> set[str]:
        """Return the fingerprints of the corpus's shards that have a result there."""
        return {shard.fingerprint for shard in self.opened[MAIN].shards} & self.store.stored(address)

    def _refuse_empty(self, read: Result) -> None:
        """Say which files broke off; raises TamisError when no document could be read."""
        shards = main_shards(read) if read else pa.table({"documents": [], "dead": [], "unreadable": []})
        self.warn([f"left out: {error}" for errors in shards["unreadable"].to_pylist() for error in errors])
        if not sum(shards["documents"].to_pylist()):
            dead = sum(shards["dead"].to_pylist())
            raise TamisError(f"corpus: there is no readable document in its files ({dead} dead ones)")


def fitted_scorers(job: Job) -> dict[str, FittedScorer]:
    """Return the scorers that learn from statistics, by score."""
    return {score: s for score, s in job.scorers.items() if isinstance(s, FittedScorer)}


def learned_scorers(job: Job) -> dict[str, LearnedScorer]:
    """Return the scorers that have a state, by score, each after those that it works on."""
    derived = derived_in_order(job.scorers)
    ordered = {score: s for score, s in job.scorers.items() if score not in derived} | derived
    return {score: s for score, s in ordered.items() if isinstance(s, LearnedScorer)}


def _finish(scorers: dict[str, FittedScorer], read: Result) -> None:
    """Fit scorers on the merged statistics of a pass."""
    for score, scorer in scorers.items():
        by_target = {name: merged_statistic(read, score, f"targets.{name}") for name in scorer.targets}
        for name, statistic in by_target.items():
            if not statistic:
                raise RecipeError(f"targets.{name}: there is no document in its files")
        try:
            scorer.finish(merged_statistic(read, score, MAIN), by_target)
        except RecipeError as error:
            raise RecipeError(f"scores.{score}: {error}") from error


def main_shards(read: Result) -> pa.Table:
    """Return the counts of the main corpus's shards, in order."""
    return read["shards"].filter(pa.compute.equal(read["shards"]["corpus"], MAIN)).sort_by("shard")


def _bytes(elements: Sequence[tuple[str, Shard]]) -> int:
    return sum(shard.bytes for _, shard in elements)
