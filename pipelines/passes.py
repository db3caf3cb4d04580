"""The pass: `Create(elements) | ParDo(work on one) | CombineGlobally(merge)`, its merged result returned by a file.

An element is a shard or what an output file is made of; documents never cross a stage. Work must be a pure function of
its element and of files, for an engine may repeat it or run it elsewhere.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors import memory
from ..connectors.errors import StoppedError, TamisError, one_line
from ..connectors.keys import united
from ..connectors.score_store import load_arrays, save_arrays
from .runner import Engine

Result = dict[str, Any]
"""What a pass returns: NumPy arrays, by default added (of uint64: united as sets), and Arrow tables, concatenated."""


@dataclass
class Control:
    """Shared by the workers of one process: the work, the flag to stop, the first failure, and the progress."""

    work: Work
    total: int
    report: Callable[[int, int], None]
    done: int = 0
    bytes: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    failure: BaseException | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self) -> None:
        """Raise StoppedError when another worker has failed or the user has interrupted; called between batches."""
        if self.stop.is_set():
            raise StoppedError("stopped because another worker failed")

    def advance(self, elements: int = 0, size: int = 0) -> None:
        """Count finished elements and bytes read, and tell the reporter."""
        with self.lock:
            self.done += elements
            self.bytes += size
            self.report(self.done, self.bytes)

    def fail(self, error: BaseException) -> None:
        """Remember the first failure and stop all workers of this process."""
        with self.lock:
            if self.failure is None and not isinstance(error, StoppedError):
                self.failure = error
        self.stop.set()


class Work(ABC):
    """One pass's work. Instances travel to workers: they hold paths and small state only."""

    @abstractmethod
    def do(self, element: Any, control: Control) -> Result:
        """Work on one element."""

    def merge(self, results: list[Result]) -> Result:
        """Merge results; associative, and independent of the order up to the order of rows in tables."""
        return merge_results(results)


def merge_results(results: Iterable[Result]) -> Result:
    """Add arrays, unite those of uint64 (sets), and concatenate tables of the same name."""
    merged: Result = {}
    tables: dict[str, list[pa.Table]] = {}
    for result in results:
        for name, value in result.items():
            if isinstance(value, pa.Table):
                tables.setdefault(name, []).append(value)
            elif name not in merged:
                merged[name] = value
            elif value.dtype == np.uint64:
                merged[name] = united(merged[name], value)
            else:
                merged[name] = merged[name] + value
    return merged | {name: _concatenated(parts) for name, parts in tables.items()}


def _concatenated(tables: list[pa.Table]) -> pa.Table:
    """Put tables together, and their chunks too where these are many: each costs a microsecond with every merge."""
    whole = pa.concat_tables(tables)
    return whole.combine_chunks() if whole.num_columns and whole.column(0).num_chunks > _CHUNKS else whole


_CHUNKS = 64
"""Chunks of a table from which on they are put together."""

_FAN_IN = 4
"""Results that are merged into one of the next level, so that merging costs n log n, and few results are held."""

_CONTROLS: dict[str, Control] = {}
"""Passes running in this process; a worker in another process finds none and runs without."""


class _DoElement(beam.DoFn):  # type: ignore[misc]
    """work: None where workers run in this process and find it in `_CONTROLS`, since Beam would compress it several
    times for each pass (together a second for the states of one scorer)."""

    def __init__(self, work: Work | None, pass_id: str) -> None:
        self.work, self.pass_id = work, pass_id

    def process(self, element: Any) -> Iterator[Result]:
        control = _CONTROLS.get(self.pass_id)
        if control is None:  # in another process: the engine handles a failure
            assert self.work is not None
            yield self.work.do(element, Control(self.work, 0, lambda done, size: None))
            return
        if control.stop.is_set():
            return
        try:
            result = control.work.do(element, control)
        except BaseException as error:  # raised again by run_pass: Beam would print tracebacks and wait for others
            control.fail(error)
            return
        memory.release()
        control.advance(elements=1)
        yield result


_Accumulator = list[tuple[int, Result | str]]
"""Merged results, or URLs of their files, each with its level: how often it was merged."""


class _Merge(beam.CombineFn):  # type: ignore[misc]
    """Merges results on each worker. What leaves a worker is the URL of a file, never the result itself: Beam's local
    engine holds and copies what crosses its stages, and has been seen to garble tens of megabytes."""

    def __init__(self, work: Work | None, pass_id: str, exchange: str) -> None:
        self.work, self.pass_id, self.exchange = work, pass_id, exchange

    def create_accumulator(self) -> _Accumulator:
        return []

    def add_input(self, accumulator: _Accumulator, result: Result) -> _Accumulator:
        accumulator.append((0, result))
        while len(accumulator) >= _FAN_IN and accumulator[-_FAN_IN][0] == accumulator[-1][0]:
            level = accumulator[-1][0]
            accumulator[-_FAN_IN:] = [(level + 1, self._merged(accumulator[-_FAN_IN:]))]
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Accumulator]) -> _Accumulator:
        return list(itertools.chain.from_iterable(accumulators))

    def compact(self, accumulator: _Accumulator) -> _Accumulator:
        if all(isinstance(part, str) for _, part in accumulator):
            return accumulator
        return [(0, self._saved(accumulator, f"{self.exchange}/merged-{uuid.uuid4().hex}.npz"))]

    def extract_output(self, accumulator: _Accumulator) -> str:
        return self._saved(accumulator, f"{self.exchange}/pass-{self.pass_id}.npz")

    def _saved(self, accumulator: _Accumulator, url: str) -> str:
        try:
            _save(self._merged(accumulator), url)
        except Exception as error:
            if self.pass_id not in _CONTROLS:
                raise
            _CONTROLS[self.pass_id].fail(error)  # as in `_DoElement.process`; the file is not looked for then
        return url

    def _merged(self, accumulator: _Accumulator) -> Result:
        work = self.work or _CONTROLS[self.pass_id].work
        return work.merge([_load(part) if isinstance(part, str) else part for _, part in accumulator])


def run_pass(
    work: Work,
    elements: Sequence[Any],
    engine: Engine,
    exchange: str,
    report: Callable[[int, int], None] = lambda done, size: None,
) -> Result:
    """Run a pass and return its merged result.

    exchange: folder for the result's file, which a remote worker can reach; report: told (elements done, bytes read)
    when passes run in this process. Raises what the first failing worker raised.
    """
    if not elements:
        return {}
    if len(elements) == 1:
        engine = engine.on_one_worker()
    pass_id = uuid.uuid4().hex
    control = _CONTROLS[pass_id] = Control(work, len(elements), report)
    sent = None if engine.is_local else work

    def build(pipeline: beam.Pipeline) -> None:
        _ = (
            pipeline
            | "Elements" >> beam.Create(list(elements), reshuffle=engine.parallel)
            | "Work" >> beam.ParDo(_DoElement(sent, pass_id))
            | "Merge" >> beam.CombineGlobally(_Merge(sent, pass_id, exchange)).without_defaults()
        )

    try:
        _run_interruptibly(lambda: engine.run(build), control)
        return _load(f"{exchange}/pass-{pass_id}.npz")
    finally:
        del _CONTROLS[pass_id]
        memory.release()


def run_inline(
    work: Work,
    elements: Sequence[Any],
    engine: Engine,
    exchange: str,
    report: Callable[[int, int], None] = lambda done, size: None,
) -> Result:
    """Do a pass's work one element after the other in this thread, without Beam: for samples."""
    control = Control(work, len(elements), report)
    return work.merge([work.do(element, control) for element in elements]) if elements else {}


def _run_interruptibly(run: Callable[[], None], control: Control) -> None:
    """Run in a thread, so that Ctrl-C reaches the workers through the stop flag; prefer the worker's own error."""
    outcome: list[BaseException] = []
    ended = threading.Event()  # Thread.join, once interrupted, takes a running thread for ended (Python 3.11)

    def target() -> None:
        try:
            run()
        except BaseException as error:
            outcome.append(error)
        finally:
            ended.set()

    threading.Thread(target=target, name="tamis-pass", daemon=True).start()
    try:
        while not ended.wait(0.2):
            pass
    except KeyboardInterrupt:
        control.stop.set()
        ended.wait()
        raise
    if control.failure is not None:
        raise control.failure
    if outcome:
        if isinstance(outcome[0], TamisError):
            raise outcome[0]
        raise TamisError(f"the engine failed: {one_line(outcome[0])[-2000:]}") from outcome[0]


def _save(result: Result, url: str) -> None:
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in result.items():
        if isinstance(value, pa.Table):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, value.schema) as writer:
                writer.write_table(value)
            arrays[f"table {name}"] = np.frombuffer(sink.getvalue(), dtype=np.uint8)
        else:
            arrays[f"array {name}"] = value
    save_arrays(url, arrays)


def _load(url: str) -> Result:
    result: Result = {}
    for key, value in load_arrays(url).items():
        kind, name = key.split(" ", 1)
        result[name] = pa.ipc.open_stream(pa.py_buffer(value)).read_all() if kind == "table" else value
    return result
