"""What a run keeps beside its data: fitted states, cuts, weights, what was dropped as copies, small tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..connectors.atomic import write_atomically, write_text
from ..connectors.run_directory import cuts_url, state_url, weights_url
from ..connectors.score_store import load_arrays, save_arrays
from ..scoring.scorer import LearnedScorer
from ..selectors.deduplicate import Deduplicate
from .candidates import StoredStep, load_losses
from .decided import Decisions
from .losses import keep_losses, losses_url


@dataclass
class RunFiles:
    """Writes them, and remembers what it wrote. folder: of the run; written: an entry of the manifest for each file."""

    folder: str
    written: list[dict[str, Any]] = field(default_factory=list)

    def save_weighing(self, decisions: Decisions) -> None:
        """Keep what was fitted of the weights."""
        if decisions.weighing_url is not None:
            whole = write_text(weights_url(self.folder), decisions.weighing().to_json())
            self.written.append({"path": weights_url("")[1:], "rows": None, **asdict(whole)})

    def save_fitted(self, scorers: Mapping[str, LearnedScorer], steps: list[StoredStep]) -> None:
        """Keep the states of scorers, and cuts."""
        saved = {state_url("", score): scorer.state for score, scorer in scorers.items()}
        for number, stored in enumerate(steps):
            if isinstance(stored.step, Deduplicate) and stored.url is not None:
                self._save_losses(number, stored)
            elif stored.url is not None:
                saved[cuts_url("", number, stored.step.name)] = load_arrays(stored.url)
        for name, arrays in saved.items():
            whole = save_arrays(f"{self.folder}{name}", arrays)
            self.written.append({"path": name[1:], "rows": None, "bytes": whole.bytes, "sha256": whole.sha256})

    def _save_losses(self, number: int, stored: StoredStep) -> None:
        """Keep which documents a step dropped as copies of which others."""
        assert stored.url is not None
        name = losses_url("", number, stored.step.name)
        whole, rows = keep_losses(load_losses(stored.url), f"{self.folder}{name}")
        self.written.append({"path": name[1:], "rows": rows, **asdict(whole)})

    def save_table(self, name: str, table: pa.Table) -> None:
        """Keep a small table."""
        whole = write_atomically(f"{self.folder}/{name}", lambda file: pq.write_table(table, file))
        self.written.append({"path": name, "rows": table.num_rows, **asdict(whole)})
