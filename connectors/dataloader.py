"""Feeds a run to PyTorch: documents with their weights, in an order that ranks and workers do not change."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from .errors import TamisError, nearest
from .loader_state import KIND, VERSION, State, merge_states, position
from .loader_steps import Readers, Steps
from .row_groups import Source, Taking
from .run_data import OWN, columns_of, open_runs
from .stream_reader import Document
from .streams import Indices, Order, Share, usable_streams

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info

    from .loader_control import LoaderControl
    from .weighted_batches import weighted_collate, weighted_loss
except ImportError as error:
    raise TamisError("the loader needs PyTorch: pip install 'tamis[lm]'") from error

__all__ = ["RunDataset", "merge_states", "weighted_collate", "weighted_loss"]

STREAMS = 128
BUFFER = 16_384


class RunDataset(IterableDataset):
    """Documents of a run, or several, for `torch.utils.data.DataLoader`.

        dataset = RunDataset("runs/today", batch_size=16, transform=tokenise)
        loader = DataLoader(dataset, batch_size=16, num_workers=4, collate_fn=weighted_collate)
        for epoch in range(3):
            dataset.set_epoch(epoch)
            for batch in loader: ...

    A document is a dictionary: its text (`text`, or `prompt` and `response`, or `messages`), `key` (int), `weight`
    (float), `group` (str or None) and the columns asked for.

    The order is a pure function of run, seed, epoch and the documents of a step (batch_size * accumulate * ranks):
    step by step, all ranks together get the same documents on any number of ranks and workers. See `streams.py`.

    What is held: 16 bytes per row group, 8 more for each group with `shares`; and in each process that reads, for each
    of its streams (streams / (ranks * workers), where these divide the grid) up to four windows of buffer / streams
    documents (one that is given out, the next one, and what that straddles) and what decodes Parquet, about 5 MB (pages
    of 1 MB and a dictionary of each text column).

    State: with a plain DataLoader the consumer counts, `dataset.state_dict(batches)`, and hands that to
    `load_state_dict` of a new dataset before iterating; torchdata's StatefulDataLoader does both by itself.
    """

    def __init__(
        self,
        run: str | Path | Sequence[str | Path],
        *,
        batch_size: int,
        accumulate: int = 1,
        columns: Sequence[str] = (),
        transform: Callable[[Document], Any] | None = None,
        use_weights: Literal["loss", "sample"] = "loss",
        filter: pc.Expression | None = None,
        shares: Mapping[str, float] | None = None,
        chain: bool = False,
        seed: int = 0,
        streams: int = STREAMS,
        buffer: int = BUFFER,
        drop_last: bool = False,
        rank: int | None = None,
        ranks: int | None = None,
    ) -> None:
        """Read the manifests and the footers of the data files, and what `filter`, `use_weights` and `shares` need.

        Args:
            run: a run directory, or several, local or anywhere fsspec reaches.
            batch_size: documents in a batch of one rank, the same as the DataLoader's.
            accumulate: batches of one rank that make a step.
            columns: further columns of the data files to give.
            transform: makes of a document what the loader gives, as tokens; where that is a dictionary without `key`,
                `weight` or `group`, they are added.
            use_weights: `loss`: each document once an epoch, with its weight. `sample`: floor(weight) copies of it,
                and one more with probability weight - floor(weight), each with weight 1: an epoch's sum is unbiased.
                Which get one more depends on seed, epoch and key; copies come near each other, within a window.
            filter: of the documents to give, an expression on columns of the data files.
            shares: of the groups in each batch, not negative, of any sum. An epoch then has as many documents as
                without, but a group that runs out begins again, and one that does not is not read to its end.
            chain: with each run also those that it continues (`since`).
            seed: of order and draws.
            streams: into which documents are cut; fewer are used where there are not four times as many row groups.
            buffer: documents within which they are shuffled, besides the row groups, over all streams.
            drop_last: leave out a last step with fewer documents. Otherwise a rank for which that would be one batch
                less gets a document of another rank with weight 0, so that all have the same number.
            rank, ranks: default: of torch.distributed where initialised, else RANK and WORLD_SIZE, else 0 and 1.

        Raises:
            TamisError: what is asked for is not there, or arguments do not fit.
        """
        super().__init__()
        where = distributed_place()
        self._share = Share(
            where[0] if rank is None else rank, where[1] if ranks is None else ranks, batch_size, accumulate
        )
        _check(self._share, streams, buffer, use_weights)
        data = open_runs(run, columns, chain)
        if shares is not None and "group" not in data.names:
            raise TamisError("shares: the run's corpus has no groups; name `group` in the recipe's corpus")
        used = () if filter is None else columns_of(filter, data.schema)
        taking = Taking(filter, used, use_weights == "sample", shares is not None, seed)
        self._source = Source(data.groups, taking, data.names, data.group_names)
        self._transform, self._drop_last = transform, drop_last
        self._seed, self._streams, self._buffer = seed, streams, buffer
        settings = [data.fingerprint, seed, streams, buffer, use_weights, str(filter), shares is not None, drop_last]
        self._fingerprint = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
        self._control = LoaderControl(self._source.lanes)
        self._counts = 0, self._source.count(0)
        self._own: tuple[int, int, int] | None = None
        self._at = 0, 0
        self._done = 0
        if not self._counts[1].any():
            raise TamisError(f"{run}: no document is left by the filter or the weights; there is nothing to load")
        if shares is not None:
            self._control.set_shares(self._checked(shares), 0)

    def set_epoch(self, epoch: int) -> None:
        """Begin another epoch with the next iteration, in another order; the present one is left as it stands.

        The epoch that a state was loaded for goes on where the state says.
        """
        self._count(epoch)
        if self._control.set_epoch(epoch):
            self._done = 0

    def set_shares(self, shares: Mapping[str, float], step: int | None = None) -> None:
        """Change the shares of groups from a step of this epoch on, and for later ones; on all ranks alike.

        Args:
            shares: as for the dataset.
            step: from 0, counted in steps (of `accumulate` batches). Workers read ahead (prefetch_factor * workers
                batches), so that it has to lie so far ahead. None: the next one, without workers.

        Raises:
            TamisError: a worker has begun that step, a group is not there, or the dataset was made without shares.
        """
        if not self._source.taking.by_group:
            raise TamisError("set_shares: the dataset was made without `shares`; give it some to begin with")
        self._control.set_shares(self._checked(shares), step)

    def __len__(self) -> int:
        """Documents that this rank gets in the epoch."""
        return self._share.documents(self._order(self._control.epoch), self._drop_last)

    def state_dict(self, batches: int | None = None) -> State:
        """Return where the loader stands, 300 bytes and 8 for each group and change of shares.

        Args:
            batches: that this rank has consumed since the iteration began. None: those that this process has given,
                of which a batch that it is in the middle of does not count; right where the loader has no workers,
                and in a worker, as StatefulDataLoader asks.
        """
        worker, workers = _worker() if batches is None else (0, 1)
        epoch, start = (self._control.epoch, self._control.start) if get_worker_info() is None else self._at
        return {
            KIND: VERSION,
            "fingerprint": self._fingerprint,
            "epoch": epoch,
            "batch": self._share.batch,
            "rank": self._share.rank,
            "ranks": self._share.ranks,
            "accumulate": self._share.accumulate,
            "start": start,
            "worker": worker,
            "workers": workers,
            "batches": self._done if batches is None else batches,
            "shares": self._control.schedule(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state says, with the next iteration.

        Raises:
            TamisError: the state is of other data or settings, of one worker among several (merge these with
                `merge_states`), or within a step that other ranks have begun.
        """
        layout = {"ranks": self._share.ranks, "accumulate": self._share.accumulate}
        start = position(state, self._fingerprint, self._share.batch, layout)
        whose = state["worker"], state["workers"]
        if get_worker_info() is not None and whose == _worker():
            self._own = state["epoch"], state["start"], state["batches"]
        elif get_worker_info() is None and whose == (0, 1):
            self._count(state["epoch"])
            self._control.resume(state["epoch"], start, start // self._share.accumulate)
            self._done = 0
        else:
            raise TamisError("load_state_dict: the state is of one worker among several; merge_states makes one of all")
        self._control.adopt(state["shares"])

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the documents of this rank and worker."""
        worker, workers = _worker()
        again = False
        if self._own is None:
            epoch, start, first = self._control.begin(worker, workers, get_worker_info() is not None)
            self._done, again = 0, start > 0 and not first
        else:
            epoch, start, self._done = self._own
            self._own = None
        self._at = epoch, start
        last = self._share.batches(self._order(epoch), self._drop_last)
        return self._documents(epoch, range(start + worker + self._done * workers, last, workers), again)

    def _documents(self, epoch: int, batches: range, again: bool) -> Iterator[Any]:
        if again:  # said here and not in `__iter__`, where an error would end a worker without a word
            raise TamisError("the epoch that was resumed has been iterated; call set_epoch before the next one")
        order, share, worker = self._order(epoch), self._share, _worker()[0]
        steps = Steps(order, self._control, self._seed, epoch)
        with ThreadPoolExecutor(1, "tamis-loader") as pool:
            readers = Readers(self._source, self._count(epoch), order, epoch, self._seed, self._buffer, pool)
            for batch in batches:
                step, part = divmod(batch, share.accumulate)
                self._control.reached(worker, step)
                taken, pads = share.take(steps.slots(step), part)
                documents = readers.documents(taken)
                if pads:
                    documents = [{**document, "weight": 0.0} for document in documents]
                if self._transform is not None:
                    yield from map(self._transformed, documents[:-1])
                    documents = [self._transformed(documents[-1])]
                yield from documents[:-1]
                self._done += 1
                yield documents[-1]

    def _transformed(self, document: Document) -> Any:
        assert self._transform is not None
        made = self._transform(document)
        if isinstance(made, dict) and made is not document:
            for name in OWN:
                made.setdefault(name, document[name])
        return made

    def _count(self, epoch: int) -> Indices:
        """Return the documents of each row group and group in an epoch; read again only where the sample changes."""
        if self._source.taking.sampled and self._counts[0] != epoch:
            self._counts = epoch, self._source.count(epoch)
        return self._counts[1]

    def _order(self, epoch: int) -> Order:
        counts = self._count(epoch)
        units = int(np.count_nonzero(counts.any(axis=1)))
        streams = usable_streams(self._streams, min(units, 4 * max(1, self._streams // counts.shape[1])))
        return Order(int(counts.sum()), streams, self._share.batch, self._source.taking.by_group)

    def _checked(self, shares: Mapping[str, float]) -> NDArray[np.float64]:
        names, sizes = self._source.group_names, self._count(self._control.epoch).sum(axis=0)
        for name, share in shares.items():
            if name not in names:
                raise TamisError(f"shares: there is no group `{name}`{nearest(name, names)}")
            if share > 0 and not sizes[names.index(name)]:
                raise TamisError(f"shares: group `{name}` has no documents to give; leave it out")
        values = np.array([float(shares.get(name, 0.0)) for name in names])
        if not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
            raise TamisError(f"shares: {dict(shares)} are not shares; give numbers of at least 0, one above 0")
        return values


def distributed_place() -> tuple[int, int]:
    """Return rank and number of ranks: of torch.distributed where initialised, else by RANK and WORLD_SIZE."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _worker() -> tuple[int, int]:
    """Return the number of this worker and how many there are; (0, 1) without workers."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


def _check(share: Share, streams: int, buffer: int, use_weights: str) -> None:
    """Raise TamisError for arguments that do not fit."""
    numbers = {"batch_size": share.size, "accumulate": share.accumulate, "streams": streams, "buffer": buffer}
    for name, value in numbers.items():
        if value < 1:
            raise TamisError(f"{name}: {value} is too small; give at least 1")
    if not 0 <= share.rank < share.ranks:
        raise TamisError(f"rank: {share.rank} is not one of {share.ranks} ranks, which count from 0")
    if use_weights not in ("loss", "sample"):
        raise TamisError(f"use_weights: `{use_weights}` is not known{nearest(use_weights, ['loss', 'sample'])}")
