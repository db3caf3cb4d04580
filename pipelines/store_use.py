"""What a run needs of the score store, noted there, so that `tamis store --prune` leaves it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..connectors.errors import TamisError, one_line
from ..connectors.opening import Opened
from ..connectors.score_store import Address
from ..connectors.store_use import StoreUse, note_use, use_url
from ..scoring.scorer import FittedScorer, Scorer
from .job import Job, Reporter
from .score import dead_address, document_address, score_address, statistic_address


def store_use(
    job: Job,
    opened: Mapping[str, Opened],
    scorers: Iterable[Scorer],
    settled: Iterable[str] = (),
    made: Iterable[Address] = (),
) -> StoreUse:
    """Return all that a run needs of the store.

    scorers: those whose fingerprint is known, fitted ones after FIT; settled: fingerprints of shards of earlier runs;
    made: where the columns are that steps have made, with which a run that continues this one goes on.
    """
    corpora = [one.corpus for one in opened.values()]
    unfitted = [s for name, s in job.scorers.items() if isinstance(s, FittedScorer) and name not in job.fitted]
    addresses = {
        *(address_of(corpus) for corpus in corpora for address_of in (document_address, dead_address)),
        *(statistic_address(scorer, corpus) for scorer in unfitted for corpus in corpora),
        *(score_address(scorer) for scorer in scorers),
        *made,
    }
    shards = {shard.fingerprint for one in opened.values() for shard in one.shards} | set(settled)
    return StoreUse(sorted(address.folder for address in addresses), sorted(shards))


def note_run(job: Job, sources: str, use: StoreUse, reporter: Reporter) -> None:
    """Note a run's use in its store. A store that can only be read serves too: then it is told, and no failure."""
    url = use_url(job.store, job.fingerprint, sources)
    try:
        note_use(url, use)
    except (OSError, TamisError) as error:
        reporter.say(f"{url}: cannot be written ({one_line(error)}); `tamis store` will not know of this use")
