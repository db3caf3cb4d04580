"""What a run is asked to do, and how it speaks while it does it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..connectors.corpus_config import CorpusConfig
from ..scoring.scorer import Scorer
from ..selectors.alerts import Alert
from ..selectors.steps import Step
from ..selectors.weigh import Uniform
from ..selectors.weigh_tokens import TokenWeigher
from ..selectors.weigher import Weigher


@dataclass(frozen=True)
class Job:
    """A recipe in the terms of the pipelines.

    scorers: by name of the score; columns: scores to carry beside the text; store: URL of the score store;
    max_dead_fraction: more dead letters than this are reported; skip_unreadable: leave out shards that cannot be read;
    limit: read only so many rows; recipe: resolved, for the manifest; fingerprint: of the recipe, without output,
    store and workers.
    """

    seed: int
    corpus: CorpusConfig
    targets: dict[str, CorpusConfig]
    scorers: dict[str, Scorer]
    steps: list[Step]
    weigher: Uniform | Weigher
    output: Path
    columns: list[str]
    store: str
    max_dead_fraction: float
    skip_unreadable: bool
    limit: int | None
    recipe: dict[str, Any]
    fingerprint: str
    fitted: dict[str, str] = field(default_factory=dict)
    """Saved states to use, by name of the score."""
    alert: Alert | None = None
    since: Path | None = None
    """A finished run that this one continues."""
    token_weigher: TokenWeigher | None = None
    """How tokens of kept documents weigh, in the column `token_weights` of the data files."""
    retry_dead: bool = False
    """Read the dead letters of that run again, and no new files."""


class Reporter(Protocol):
    """Where a run says what it does."""

    def say(self, line: str) -> None:
        """Tell something of interest."""
        ...

    def warn(self, line: str) -> None:
        """Tell something that the user should look at."""
        ...

    def begin(self, stage: str, elements: int, size: int) -> None:
        """A stage begins. elements: to be done; size: bytes to be read, 0 where that says nothing."""
        ...

    def update(self, done: int, size: int) -> None:
        """So many elements are done and so many bytes read."""
        ...

    def end(self) -> None:
        """The stage is over."""
        ...

    def log_to(self, path: Path) -> AbstractContextManager[None]:
        """Keep all that is told in a file too, what was told before included."""
        ...


class Quiet(Reporter):
    """Says nothing."""

    def say(self, line: str) -> None:
        """Say nothing."""

    def warn(self, line: str) -> None:
        """Say nothing: warnings are in the manifest."""

    def begin(self, stage: str, elements: int, size: int) -> None:
        """Say nothing."""

    def update(self, done: int, size: int) -> None:
        """Say nothing."""

    def end(self) -> None:
        """Say nothing."""

    def log_to(self, path: Path) -> AbstractContextManager[None]:
        """Keep nothing."""
        return nullcontext()
