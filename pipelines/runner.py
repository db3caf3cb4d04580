"""Chooses Beam's engine; nothing else in Tamis knows which one it is.

The local default is the in-process FnApiRunner, built explicitly: the name DirectRunner would first try to download
another engine, and the name FnApiRunner would start workers without pipeline options.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import JobServiceHandle

from ..connectors.errors import RecipeError, nearest, one_line

SWITCH_SECONDS = 0.0002
"""Workers leave Python for kernels many times a second; with the usual 5 ms they wait for each other to come back (two
workers did 1.7 times the work of one, with this 1.9 times)."""

LOCAL_RUNNERS = (None, "DirectRunner", "FnApiRunner", "SwitchingDirectRunner")


@dataclass(frozen=True)
class Engine:
    """Where passes run. workers: threads of the local engine, 0 = one per core; beam_options: given to Beam as is."""

    workers: int = 0
    beam_options: Sequence[str] = field(default_factory=tuple)

    @property
    def is_local(self) -> bool:
        """Whether passes run in this process."""
        return _beam_options(tuple(self.beam_options))["runner"] in LOCAL_RUNNERS

    @property
    def parallel(self) -> bool:
        """Whether more than one worker may run."""
        return not self.is_local or self.threads > 1

    @property
    def threads(self) -> int:
        """Workers of the local engine."""
        return self.workers or os.cpu_count() or 1

    def on_one_worker(self) -> Engine:
        """Return the same engine with one worker, where that is Tamis' to choose."""
        return replace(self, workers=1)

    def run(self, pipeline_of: Callable[[beam.Pipeline], None]) -> None:
        """Build a pipeline and run it to its end; raises what the first failing worker raised."""
        is_local = self.is_local  # first: it reports wrong options
        options = PipelineOptions(list(self.beam_options))
        if not is_local:
            pipeline = beam.Pipeline(options=options)
            pipeline_of(pipeline)
            pipeline.run().wait_until_finish()
            return
        direct = options.view_as(DirectOptions)
        direct.direct_num_workers = self.threads
        direct.direct_running_mode = "multi_threading" if self.threads > 1 else "in_memory"
        encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
        provision = fn_runner.ExtendedProvisionInfo(beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded))
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # the failing document is reported by the pass
        pipeline = beam.Pipeline(runner=fn_runner.FnApiRunner(provision_info=provision), options=options)
        pipeline_of(pipeline)
        usual = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            pipeline.run().wait_until_finish()
        finally:
            sys.setswitchinterval(usual)


@functools.lru_cache(maxsize=1)
def _beam_options(given: tuple[str, ...]) -> dict[str, Any]:
    """The options with Beam's defaults; raises RecipeError for those that Beam does not know."""
    wrong = [option for option in given if not option.startswith("--")]
    if wrong:
        raise RecipeError(f"`{wrong[0]}`: after the recipe come only options for Beam, as `-- --name=value`")
    told = io.StringIO()  # Beam's parser prints its usage and leaves
    try:
        with contextlib.redirect_stderr(told):
            options = PipelineOptions(list(given))
            known = dict(options.get_all_options())
            unknown = sorted(set(options.get_all_options(retain_unknown_options=True)) - set(known))
    except SystemExit as error:
        raise RecipeError(f"options for Beam: {told.getvalue().strip().splitlines()[-1]}") from error
    if unknown:
        raise RecipeError(f"Beam has no option --{unknown[0]}{nearest(unknown[0], known)}")
    if known["runner"] not in LOCAL_RUNNERS:
        try:
            beam.runners.runner.create_runner(known["runner"])
        except (ValueError, ImportError, AttributeError) as error:
            raise RecipeError(f"Beam has no runner {known['runner']}: {one_line(error)}") from error
    elif known["direct_num_workers"] != 1 or known["direct_running_mode"] != "in_memory":
        raise RecipeError("the local engine's workers are set by --workers, not by Beam's options")
    return known
