"""A DAG for Airflow 3: a run every night, then retention. Copy it into the folder of your DAGs and change the paths."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import dag, get_current_context, task  # type: ignore[import-not-found]
from airflow.sdk.exceptions import AirflowException, AirflowFailException  # type: ignore[import-not-found]

TAMIS = "/opt/tamis/bin/tamis"
HOME = Path("/srv/tamis")
RUNS_KEPT = 30

MEANINGS = {
    2: "the recipe or an argument is wrong",
    3: "the run is done, with more dead letters than allowed",
    4: "the run is done, with an alert",
}
"""Exit codes that trying again does not change: the task fails at once, so that your failure callback tells of it."""


@dag(
    schedule="10 3 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=10)},
)
def tamis() -> None:
    """Curate every night."""

    @task
    def run() -> str:
        """Run the recipe; a try after midnight still has the date of its night, and resumes."""
        night = get_current_context()["dag_run"].run_after
        output = str(HOME / "runs" / f"{night:%Y-%m-%d}")
        done = subprocess.run([TAMIS, "run", "recipe.yaml", "--output", output, "--log-format", "json"], cwd=HOME)
        if done.returncode in MEANINGS:
            raise AirflowFailException(f"{output}: {MEANINGS[done.returncode]}")
        if done.returncode:
            raise AirflowException(f"{output}: tamis ended with exit code {done.returncode}")
        return output

    @task(trigger_rule="all_done")
    def keep_the_newest() -> None:
        """Delete older runs, and what neither the others nor any run of the last 30 days used of the store."""
        runs = sorted(HOME.glob("runs/20??-??-??"))
        subprocess.run(["rm", "-rf", *map(str, runs[:-RUNS_KEPT])], check=True)
        older = ["--older-than", "30d", "--keep", "runs"]
        subprocess.run([TAMIS, "store", "recipe.yaml", "--prune", *older, "--yes"], cwd=HOME, check=True)

    run() >> keep_the_newest()


tamis()
