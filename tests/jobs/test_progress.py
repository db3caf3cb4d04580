"""What a run tells: the same records whatever shows them, and figures that add up."""

from __future__ import annotations

import json
import logging
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tamis.jobs import progress
from tamis.jobs.progress import FIELDS, Journal, LibraryMessages, Lines, Speed, Terminal


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tell_a_run(journal: Journal, log: Path) -> None:
    journal.warn("early [bold]")
    with journal.log_to(log):
        journal.begin("scoring", 4, 1000)
        journal.update(1, 100)
        journal.update(3, 700)
        journal.end()
        journal.say("said\nin two lines é")
    journal.say("too late for the log")


class TestJournal:
    @pytest.mark.parametrize("make", [Terminal, lambda: Lines(as_json=False), lambda: Lines(as_json=True)])
    def test_log_holds_the_same_whatever_shows_it(
        self, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(progress, "LINE_SECONDS", 0)
        tell_a_run(make(), tmp_path / "log.jsonl")
        found = records(tmp_path / "log.jsonl")
        assert [record["event"] for record in found] == ["warning", "begun", "progress", "progress", "ended", "message"]
        assert all(tuple(record) == FIELDS for record in found)
        assert [record["level"] for record in found] == ["warning", *["info"] * 5]
        assert found[0]["message"] == "early [bold]"
        assert found[-1]["message"] == "said\nin two lines é"
        figures = [(record["stage"], record["done"], record["total"], record["bytes"]) for record in found[1:5]]
        assert figures == [("scoring", done, 4, size) for done, size in ((0, 0), (1, 100), (3, 700), (3, 700))]
        assert {record["total_bytes"] for record in found[1:5]} == {1000}
        assert found[0]["stage"] is found[-1]["rates"] is None
        times = [datetime.fromisoformat(record["time"]) for record in found]
        assert times == sorted(times)
        assert all(time.utcoffset() == timedelta(0) for time in times)
        assert "early [bold]" in capsys.readouterr().err

    def test_as_json_is_the_log_and_what_came_after(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tell_a_run(Lines(as_json=True), tmp_path / "log.jsonl")
        shown = capsys.readouterr().err
        logged = (tmp_path / "log.jsonl").read_text()
        assert shown.startswith(logged)
        (late,) = map(json.loads, shown[len(logged) :].splitlines())
        assert late["message"] == "too late for the log"

    def test_as_text_short_stages_are_silent(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tell_a_run(Lines(as_json=False), tmp_path / "log.jsonl")
        assert capsys.readouterr().err == "warning: early [bold]\nsaid\nin two lines é\ntoo late for the log\n"

    def test_progress_comes_now_and_then(self, tmp_path: Path) -> None:
        journal = Lines(as_json=False)
        with journal.log_to(tmp_path / "log.jsonl"):
            journal.begin("scoring", 1000, 0)
            for done in range(1000):
                journal.update(done + 1, 0)
            journal.end()
        assert [(r["event"], r["done"]) for r in records(tmp_path / "log.jsonl")] == [("begun", 0), ("ended", 1000)]

    def test_log_is_there_while_the_run_goes_on(self, tmp_path: Path) -> None:
        journal = Lines(as_json=False)
        with pytest.raises(RuntimeError), journal.log_to(tmp_path / "log.jsonl"):
            journal.warn("first")
            assert [record["message"] for record in records(tmp_path / "log.jsonl")] == ["first"]
            raise RuntimeError
        journal.warn("the log is closed")
        assert len(records(tmp_path / "log.jsonl")) == 1

    def test_lines_of_threads_do_not_mix(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        journal = Lines(as_json=True)
        with journal.log_to(tmp_path / "log.jsonl"):
            speak = [threading.Thread(target=lambda: [journal.say("x" * 999) for _ in range(200)]) for _ in range(4)]
            for thread in speak:
                thread.start()
            for thread in speak:
                thread.join()
        assert [len(record["message"]) for record in records(tmp_path / "log.jsonl")] == [999] * 800
        assert len([json.loads(line) for line in capsys.readouterr().err.splitlines()]) == 800

    def test_what_libraries_log_is_one_warning(self, capsys: pytest.CaptureFixture[str]) -> None:
        logger = logging.getLogger("some.library")
        handler = LibraryMessages(Lines(as_json=True))
        logger.addHandler(handler)
        try:
            logger.error("broken\n  %s\x1b[31m", "pipe")
        finally:
            logger.removeHandler(handler)
        (record,) = map(json.loads, capsys.readouterr().err.splitlines())
        assert (record["level"], record["message"]) == ("warning", "some.library: broken pipe\\x1b[31m")


class TestSpeed:
    def test_rates_and_time_left(self) -> None:
        speed = Speed("scoring", 10, 4_000_000)
        speed.started -= 100
        speed.seen[0] = (speed.started, 0, 0)
        speed.update(2, 1_000_000)
        speed.seen[0] = (speed.seen[-1][0] - 10, 1, 500_000)
        rates = speed.rates()
        assert rates["elements_per_second"] == pytest.approx(0.02, rel=0.01)
        assert rates["bytes_per_second"] == pytest.approx(10_000, rel=0.01)
        assert rates["bytes_per_second_lately"] == pytest.approx(50_000, rel=0.01)
        assert rates["seconds_left"] == pytest.approx(300, rel=0.01)  # by bytes, not by elements
        assert speed.text() == "2/10, 0 MB/s (0 lately), 5 min 0 s left"

    @given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 10**6)), max_size=20), st.integers(0, 10**6))
    def test_figures_are_sound_whatever_comes(self, steps: list[tuple[int, int]], size: int) -> None:
        speed = Speed("any", 20, size)
        for done, read in steps:
            speed.update(done, read)
        figures = speed.figures()
        assert json.loads(json.dumps(figures, allow_nan=False)) == figures
        assert (figures["done"], figures["bytes"]) == (steps[-1] if steps else (0, 0))
        left = speed.rates()["seconds_left"]
        assert left is None or left > 0
        assert speed.text().startswith(f"{figures['done']}/20, ")
