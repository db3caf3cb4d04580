"""Measures what a recipe's alerts are about: means of scores, and their drift against another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..connectors.errors import RecipeError, TamisError, one_line
from ..connectors.run_directory import read_manifest
from ..selectors.alerts import Alert
from ..selectors.drift import population_stability_index


def check_alert(alert: Alert, columns: set[str]) -> None:
    """Raise RecipeError for a score that nothing makes, and for a run to compare with that is none."""
    for name in alert.needs:
        if name not in columns:
            raise RecipeError(f"alert.mean_score: no scorer makes the column `{name}`")
    if alert.drift is not None and read_manifest(Path(alert.drift.against)) is None:
        raise RecipeError(f"alert.drift.against: {alert.drift.against} is no finished run")


def alerts(alert: Alert, manifest: dict[str, Any], sample: pa.Table, columns: list[str]) -> list[str]:
    """Return a line for each figure of a run that is outside its limits.

    sample: keyed sample of the documents, with the score columns; columns: those of the run.
    """
    scores = {name: _finite(sample[name]) for name in columns if name in sample.column_names}
    means = {name: float(values.mean()) for name, values in scores.items() if len(values)}
    drift = {}
    if alert.drift is not None:
        old = _scores_of(Path(alert.drift.against), columns)
        drift = {
            name: population_stability_index(old[name], scores[name])
            for name in columns
            if name in old and name in scores
        }
    return alert.raised(manifest, means, drift)


def _finite(column: pa.ChunkedArray) -> NDArray[np.float64]:
    values = column.cast(pa.float64()).to_numpy()
    return values[~np.isnan(values)]


def _scores_of(run: Path, columns: list[str]) -> dict[str, NDArray[np.float64]]:
    """Read score columns of a finished run: its keyed sample, or all decisions where they are few."""
    sample = run / "sample.parquet"
    paths = [sample] if sample.exists() else sorted((run / "decisions").glob("*.parquet"))
    try:
        tables = [pq.read_table(path) for path in paths]
    except (OSError, pa.ArrowException) as error:
        raise TamisError(f"alert.drift.against: {run} cannot be read: {one_line(error)}") from error
    return {
        name: np.concatenate([_finite(table[name]) for table in tables])
        for name in columns
        if tables and all(name in table.column_names for table in tables)
    }
