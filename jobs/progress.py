"""Tells a person, or a log, what a run is doing: on stderr, as a bar, as plain lines, or as JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections import deque

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

RECENT_SECONDS = 30.0
LINE_SECONDS = 10.0
"""Without a terminal, a line at most every so many seconds."""


class Speed:
    """Rates and the time left, from what was done so far."""

    def __init__(self, elements: int, size: int) -> None:
        self.elements, self.size, self.started = elements, size, time.monotonic()
        self.seen: deque[tuple[float, int, int]] = deque([(self.started, 0, 0)])

    def update(self, done: int, read: int) -> None:
        """Remember a state; older ones than RECENT_SECONDS are forgotten."""
        now = time.monotonic()
        if now - self.seen[-1][0] >= 0.5 or len(self.seen) == 1:
            self.seen.append((now, done, read))
        else:
            self.seen[-1] = (self.seen[-1][0], done, read)
        while len(self.seen) > 2 and now - self.seen[0][0] > RECENT_SECONDS:
            self.seen.popleft()

    def text(self) -> str:
        """Return done, rate over all and over the last seconds, and time left."""
        (then, done_then, read_then), (_, done, read) = self.seen[0], self.seen[-1]
        now = time.monotonic()
        whole, recent = max(now - self.started, 1e-9), max(now - then, 1e-9)
        parts = [f"{done}/{self.elements}"]
        if self.size:
            parts.append(f"{read / whole / 1e6:.0f} MB/s ({(read - read_then) / recent / 1e6:.0f} lately)")
        else:
            parts.append(f"{done / whole:.0f}/s ({(done - done_then) / recent:.0f} lately)")
        share = min(read / self.size, 1.0) if self.size else done / max(self.elements, 1)
        if 0 < share < 1:
            parts.append(f"{_duration(whole * (1 - share) / share)} left")
        return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Terminal:
    """A bar for each stage, on a terminal."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def say(self, line: str) -> None:
        """Print a line."""
        self.console.print(line, markup=False)

    def warn(self, line: str) -> None:
        """Print a warning."""
        self.console.print(f"warning: {line}", style="yellow", markup=False)

    def begin(self, stage: str, elements: int, size: int) -> None:
        """Show a bar."""
        self.speed = Speed(elements, size)
        columns = (TextColumn("{task.description:<24}"), BarColumn(), TextColumn("{task.fields[speed]}"))
        self.bar = Progress(*columns, console=self.console, transient=True)
        self.task = self.bar.add_task(stage, total=size or elements, speed="")
        self.bar.start()

    def update(self, done: int, size: int) -> None:
        """Move the bar."""
        self.speed.update(done, size)
        if self.bar is not None:
            self.bar.update(self.task, completed=size if self.speed.size else done, speed=self.speed.text())

    def end(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


class Lines:
    """Lines on stderr, now and then; as JSON objects where asked for."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def say(self, line: str) -> None:
        """Print a line."""
        self._print("info", line)

    def warn(self, line: str) -> None:
        """Print a warning."""
        self._print("warning", line)

    def begin(self, stage: str, elements: int, size: int) -> None:
        """Start to measure a stage."""
        self.stage, self.speed, self.printed = stage, Speed(elements, size), time.monotonic()

    def update(self, done: int, size: int) -> None:
        """Print a line when the last one is long ago."""
        self.speed.update(done, size)
        if time.monotonic() - self.printed >= LINE_SECONDS:
            self.printed = time.monotonic()
            self._print("progress", f"{self.stage}: {self.speed.text()}")

    def end(self) -> None:
        """Say when a long stage is over."""
        seconds = time.monotonic() - self.speed.started
        if seconds >= LINE_SECONDS:
            self._print("progress", f"{self.stage}: done in {_duration(seconds)}")

    def _print(self, level: str, line: str) -> None:
        if self.as_json:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            line = json.dumps({"time": stamp, "level": level, "message": line})
        elif level == "warning":
            line = f"warning: {line}"
        print(line, file=sys.stderr, flush=True)


def make_reporter(log_format: str) -> Terminal | Lines:
    """Return what fits stderr and the wanted format (`text` or `json`)."""
    if log_format == "text" and sys.stderr.isatty():
        return Terminal()
    return Lines(as_json=log_format == "json")
