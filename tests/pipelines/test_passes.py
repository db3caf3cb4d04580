"""A pass gives the same result on any number of workers, and a failure or an interruption ends it soon."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from apache_beam.internal import pickler
from tamis.connectors.errors import RecipeError, TamisError
from tamis.pipelines.passes import Control, Result, Work, _DoElement, _load, _Merge, merge_results, run_pass
from tamis.pipelines.runner import Engine

PATIENCE = 60.0
"""Seconds after which a worker that nobody stops gives up, and the test fails."""


@dataclass
class Square(Work):
    """Adds up and lists squares; fails to merge where told to."""

    merge_error: BaseException | None = None

    def do(self, element: int, control: Control) -> Result:
        control.advance(size=10 * element)
        rows = pa.table({"element": [element], "square": [element**2], "name": pa.array([None], pa.string())})
        return {"sum": np.array([element, 1]), "mean of nothing": np.zeros((0, 3)), "rows": rows}

    def merge(self, results: list[Result]) -> Result:
        if self.merge_error is not None:
            raise self.merge_error
        return merge_results(results)


@pytest.mark.parametrize(
    "engine",
    [
        Engine(1),
        Engine(2),
        Engine(1, ["--direct_runner_bundle_repeat=1"]),
        Engine(2, ["--direct_runner_bundle_repeat=1"]),
        Engine(1, ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"]),
    ],
    ids=["one", "two", "one, repeated", "two, repeated", "portable"],
)
def test_the_result_is_merged_once(engine: Engine, tmp_path: Path) -> None:
    result = run_pass(Square(), list(range(50)), engine, str(tmp_path))
    assert result["sum"].tolist() == [sum(range(50)), 50]
    assert result["mean of nothing"].shape == (0, 3)
    rows = result["rows"].sort_by("element")
    assert rows["square"].to_pylist() == [n**2 for n in range(50)]
    assert rows.schema.field("name").type == pa.string()


def test_work_travels_to_workers_in_other_processes(tmp_path: Path) -> None:
    do, merge = pickler.loads(pickler.dumps((_DoElement(Square(), "x"), _Merge(Square(), "x", str(tmp_path)))))
    results = [result for element in (3, 4) for result in do.process(element)]
    accumulators = [merge.compact(merge.add_input(merge.create_accumulator(), result)) for result in results]
    url = merge.extract_output(merge.merge_accumulators(accumulators))
    assert _load(url)["rows"].sort_by("square")["square"].to_pylist() == [9, 16]


@dataclass
class Count(Work):
    """Lists a long run of numbers."""

    length: int

    def do(self, element: int, control: Control) -> Result:
        return {"rows": pa.table({"n": np.arange(element * self.length, (element + 1) * self.length)})}


def test_a_result_of_tens_of_megabytes_is_whole(tmp_path: Path) -> None:
    rows = run_pass(Count(250_000), list(range(20)), Engine(2), str(tmp_path))["rows"]
    np.testing.assert_array_equal(np.sort(rows["n"].to_numpy()), np.arange(20 * 250_000))


def test_progress_counts_every_element(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    run_pass(Square(), list(range(20)), Engine(2), str(tmp_path), lambda done, size: told.append((done, size)))
    assert max(told) == (20, 10 * sum(range(20)))
    assert told == sorted(told)


def test_no_elements_give_nothing(tmp_path: Path) -> None:
    assert run_pass(Square(), [], Engine(2), str(tmp_path)) == {}
    assert not list(tmp_path.iterdir())


class Shared:
    """What workers of this process share with the test."""

    started = 0
    stopped = 0
    lock = threading.Lock()


@pytest.fixture
def shared() -> type[Shared]:
    Shared.started = Shared.stopped = 0
    return Shared


@dataclass
class FailsSecond(Work):
    """The second element to start fails; the others work until they are stopped."""

    def do(self, element: int, control: Control) -> Result:
        with Shared.lock:
            Shared.started += 1
            number = Shared.started
        if number == 2:
            raise ZeroDivisionError(f"element {element}")
        deadline = time.monotonic() + PATIENCE
        try:
            while time.monotonic() < deadline:
                control.check()
        finally:
            with Shared.lock:
                Shared.stopped += time.monotonic() < deadline
        return {}


@dataclass
class FailsThird(Work):
    """Counts what it is given; the third fails."""

    def do(self, element: int, control: Control) -> Result:
        Shared.started += 1
        if element == 2:
            raise TamisError("bad.parquet: is damaged")
        return {"sum": np.array([element])}


class TestFailure:
    def test_stops_the_other_workers_and_is_raised_itself(
        self, shared: type[Shared], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        began = time.monotonic()
        with pytest.raises(ZeroDivisionError, match=r"^element \d+$"):
            run_pass(FailsSecond(), list(range(40)), Engine(2), str(tmp_path))
        assert time.monotonic() - began < PATIENCE / 4
        assert (shared.started, shared.stopped) == (2, 1)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("options", [(), ("--direct_runner_bundle_repeat=1",)])
    def test_nothing_is_begun_after_it(
        self, shared: type[Shared], tmp_path: Path, capfd: pytest.CaptureFixture[str], options: tuple[str, ...]
    ) -> None:
        with pytest.raises(TamisError, match=r"^bad\.parquet: is damaged$"):
            run_pass(FailsThird(), list(range(10)), Engine(1, options), str(tmp_path))
        assert shared.started == 3
        assert capfd.readouterr() == ("", "")

    def test_of_the_merge_is_raised_as_it_was(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(ValueError, match=r"^shapes differ$"):
            run_pass(Square(ValueError("shapes differ")), [1, 2], Engine(1), str(tmp_path))
        assert "Traceback" not in capfd.readouterr().err

    def test_refused_options_are_the_users_mistake(self, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match="invalid int value"):
            run_pass(Square(), [1], Engine(1, ["--direct_num_workers=many"]), str(tmp_path))


@dataclass
class Interrupts(Work):
    """Presses Ctrl-C and works on until it is stopped; then it needs a moment to close what it has open."""

    def do(self, element: int, control: Control) -> Result:
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not control.stop.is_set():
            pass
        closed = time.monotonic() + 0.3
        while time.monotonic() < closed:
            pass
        Shared.stopped += 1
        control.check()
        return {}


def test_an_interruption_stops_the_workers_and_waits_for_them(shared: type[Shared], tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_pass(Interrupts(), [1], Engine(1), str(tmp_path))
    assert time.monotonic() - began < PATIENCE / 4
    assert shared.stopped == 1


class TestMergeResults:
    results: list[dict[str, Any]] = [
        {"a": np.array([n, 1]), **({"rows": pa.table({"x": [n]})} if n % 2 else {}), f"only {n}": np.array([n])}
        for n in range(6)
    ]

    def test_adds_and_concatenates(self) -> None:
        merged = merge_results(self.results)
        assert merged["a"].tolist() == [15, 6]
        assert merged["rows"]["x"].to_pylist() == [1, 3, 5]
        assert merged["only 4"].tolist() == [4]
        assert self.results[0]["a"].tolist() == [0, 1]

    def test_is_associative(self) -> None:
        whole = merge_results(self.results)
        for cut in range(7):
            parts = merge_results([merge_results(self.results[:cut]), merge_results(self.results[cut:])])
            assert parts.keys() == whole.keys()
            assert all(np.array_equal(parts[name], whole[name]) for name in whole if name != "rows")
            assert parts["rows"].equals(whole["rows"])
