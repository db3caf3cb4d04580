"""Tells a person, or a log, what a run is doing: on stderr as a bar, lines or JSON, and in the run's own log."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ..connectors.errors import printable

RECENT_SECONDS = 30.0
LINE_SECONDS = 10.0
"""Without a terminal, and in the log, progress at most every so many seconds."""


class Speed:
    """Rates and the time left of a stage, from what was done so far."""

    def __init__(self, stage: str, elements: int, size: int) -> None:
        self.stage, self.elements, self.size, self.started = stage, elements, size, time.monotonic()
        self.seen: deque[tuple[float, int, int]] = deque([(self.started, 0, 0)])

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return time.monotonic() - self.started

    def update(self, done: int, read: int) -> None:
        """Remember a state; older ones than RECENT_SECONDS are forgotten."""
        now = time.monotonic()
        if now - self.seen[-1][0] >= 0.5 or len(self.seen) == 1:
            self.seen.append((now, done, read))
        else:
            self.seen[-1] = (self.seen[-1][0], done, read)
        while len(self.seen) > 2 and now - self.seen[0][0] > RECENT_SECONDS:
            self.seen.popleft()

    def rates(self) -> dict[str, float | None]:
        """Return elements and bytes per second, over all and lately, and the seconds left (None: nobody knows)."""
        (then, done_then, read_then), (_, done, read) = self.seen[0], self.seen[-1]
        whole, recent = max(self.seconds, 1e-9), max(time.monotonic() - then, 1e-9)
        share = min(read / self.size, 1.0) if self.size else done / max(self.elements, 1)
        return {
            "elements_per_second": done / whole,
            "elements_per_second_lately": (done - done_then) / recent,
            "bytes_per_second": read / whole,
            "bytes_per_second_lately": (read - read_then) / recent,
            "seconds_left": whole * (1 - share) / share if 0 < share < 1 and done < self.elements else None,
        }

    def text(self) -> str:
        """Return done, rate over all and over the last seconds, and time left."""
        rates = {name: rate or 0.0 for name, rate in self.rates().items()}
        parts = [f"{self.seen[-1][1]}/{self.elements}"]
        if self.size:
            whole, recent = rates["bytes_per_second"] / 1e6, rates["bytes_per_second_lately"] / 1e6
            parts.append(f"{whole:.0f} MB/s ({recent:.0f} lately)")
        else:
            parts.append(f"{rates['elements_per_second']:.0f}/s ({rates['elements_per_second_lately']:.0f} lately)")
        if rates["seconds_left"]:
            parts.append(f"{_duration(rates['seconds_left'])} left")
        return ", ".join(parts)

    def figures(self) -> dict[str, object]:
        """Return the stage's part of a record."""
        _, done, read = self.seen[-1]
        rates = {name: rate if rate is None else round(rate, 3) for name, rate in self.rates().items()}
        figures = {"stage": self.stage, "done": done, "total": self.elements, "bytes": read, "total_bytes": self.size}
        return figures | {"seconds": round(self.seconds, 3), "rates": rates}


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


FIELDS = ("time", "level", "event", "message", "stage", "done", "total", "bytes", "total_bytes", "seconds", "rates")
"""Of a record; all are always there, null where an event has no such figure. Of `done` and `total` the unit is the part
of the corpus that a stage works on at a time; `bytes` are those read; `total_bytes` 0: the stage does not read text."""


class Journal(ABC):
    """A Reporter: makes a record of each thing told, shows it, and keeps it in the run's log.

    Events: message, warning, failed, and of stages begun, progress and ended.
    """

    def __init__(self) -> None:
        self.speed = Speed("", 0, 0)
        self._file: TextIO | None = None
        self._waiting: list[str] = []
        self._told = 0.0
        self._lock = threading.Lock()

    @abstractmethod
    def show(self, event: str, message: str, record: str) -> None:
        """Show what is told. record: the same, and its figures, as a JSON object in one line."""

    def say(self, line: str) -> None:
        """Tell something of interest."""
        self._tell("info", "message", line)

    def warn(self, line: str) -> None:
        """Tell something that the user should look at."""
        self._tell("warning", "warning", line)

    def fail(self, line: str) -> None:
        """Tell why the command does not end well."""
        self._tell("error", "failed", line)

    def begin(self, stage: str, elements: int, size: int) -> None:
        """Start to measure a stage."""
        self.speed = Speed(stage, elements, size)
        self._told = self.speed.started
        self._tell("info", "begun", f"{stage}: begun", self.speed.figures())

    def update(self, done: int, size: int) -> None:
        """Tell of progress when that was long ago."""
        self.speed.update(done, size)
        now = time.monotonic()
        if now - self._told >= LINE_SECONDS:
            self._told = now
            self._tell("info", "progress", f"{self.speed.stage}: {self.speed.text()}", self.speed.figures())

    def end(self) -> None:
        """Tell how long the stage took."""
        message = f"{self.speed.stage}: ended after {_duration(self.speed.seconds)}"
        self._tell("info", "ended", message, self.speed.figures())

    @contextmanager
    def log_to(self, path: Path) -> Iterator[None]:
        """Write all records to a file, those from before too."""
        with path.open("a", encoding="utf-8", buffering=1) as file:
            with self._lock:
                file.writelines(self._waiting)
                self._waiting, self._file = [], file
            try:
                yield
            finally:
                with self._lock:
                    self._file = None

    def _tell(self, level: str, event: str, message: str, figures: dict[str, object] | None = None) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        known = {"time": now, "level": level, "event": event, "message": message} | (figures or {})
        record = json.dumps({name: known.get(name) for name in FIELDS})
        with self._lock:
            if self._file is not None:
                self._file.write(record + "\n")
            else:
                self._waiting.append(record + "\n")
            self.show(event, message, record)


class Terminal(Journal):
    """Lines, and a bar for each stage, on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(stderr=True, highlight=False)
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def show(self, event: str, message: str, record: str) -> None:
        """Print what is not in the bar."""
        if event == "message":
            self.console.print(message, markup=False)
        elif event == "warning":
            self.console.print(f"warning: {message}", style="yellow", markup=False)
        elif event == "failed":
            print(f"tamis: {message}", file=sys.stderr, flush=True)

    def begin(self, stage: str, elements: int, size: int) -> None:
        """Show a bar."""
        super().begin(stage, elements, size)
        columns = (TextColumn("{task.description:<24}"), BarColumn(), TextColumn("{task.fields[speed]}"))
        self.bar = Progress(*columns, console=self.console, transient=True)
        self.task = self.bar.add_task(stage, total=size or elements, speed="")
        self.bar.start()

    def update(self, done: int, size: int) -> None:
        """Move the bar."""
        super().update(done, size)
        if self.bar is not None:
            self.bar.update(self.task, completed=size if self.speed.size else done, speed=self.speed.text())

    def end(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        super().end()


class Lines(Journal):
    """Lines on stderr, of stages only what takes long; as_json: all records, as JSON objects."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self.as_json = as_json

    def show(self, event: str, message: str, record: str) -> None:
        """Print a line."""
        if self.as_json:
            print(record, file=sys.stderr, flush=True)
        elif event != "begun" and (event != "ended" or self.speed.seconds >= LINE_SECONDS):
            prefix = {"warning": "warning: ", "failed": "tamis: "}.get(event, "")
            print(prefix + message, file=sys.stderr, flush=True)


class LibraryMessages(logging.Handler):
    """Passes on what libraries log, each as one line."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Warn with the logger's name and its message, without a traceback."""
        self.journal.warn(printable(f"{record.name}: {record.getMessage()}", 1000))


def make_reporter(log_format: str) -> Terminal | Lines:
    """Return what fits stderr and the wanted format (`text` or `json`)."""
    if log_format == "text" and sys.stderr.isatty():
        return Terminal()
    return Lines(as_json=log_format == "json")
