"""Where a loader stands: an epoch and the batches that were consumed, from which everything else follows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .errors import TamisError

KIND = "tamis.loader"
"""Key that marks a state, with the version of its form."""

VERSION = 1

State = dict[str, Any]


def merge_states(states: Sequence[Mapping[str, Any]]) -> State:
    """Return the state of all ranks as one, for `RunDataset.load_state_dict` on any number of ranks and workers.

    Args:
        states: of all ranks: what `RunDataset.state_dict` has returned, or anything that holds such states, as what
            torchdata's StatefulDataLoader returns, in which each worker has its own.

    Raises:
        TamisError: a rank or a worker is missing, or ranks stand at unlike places.
    """
    parts = [part for state in states for part in _parts(state)]
    if not parts:
        raise TamisError("merge_states: there is no state of a RunDataset in what was given")
    ranks: dict[int, int] = {}
    for rank in sorted({part["rank"] for part in parts}):
        workers = {part["worker"]: part for part in parts if part["rank"] == rank}
        if len(workers) != parts[0]["workers"]:
            raise TamisError(f"merge_states: rank {rank} has states of {len(workers)} of {parts[0]['workers']} workers")
        ranks[rank] = parts[0]["start"] + sum(part["batches"] for part in workers.values())
    if len(ranks) != parts[0]["ranks"]:
        raise TamisError(f"merge_states: states of {len(ranks)} of {parts[0]['ranks']} ranks are there")
    if len(set(ranks.values())) > 1:
        raise TamisError(f"merge_states: ranks have consumed unlike numbers of batches: {sorted(set(ranks.values()))}")
    same = ("fingerprint", "epoch", "start", "batch", "ranks", "workers", "accumulate")
    for name in same:
        if len({str(part[name]) for part in parts}) > 1:
            raise TamisError(f"merge_states: the states are of unlike runs or times, they differ in `{name}`")
    longest = max(parts, key=lambda part: len(part["shares"]))
    return {**longest, "rank": 0, "worker": 0, "workers": 1, "start": ranks[0], "batches": 0}


def _parts(found: object) -> Iterator[Mapping[str, Any]]:
    """Yield the states in anything nested."""
    if isinstance(found, Mapping):
        if KIND in found:
            yield found
            return
        ahead = found.get("_steps_since_snapshot")
        if ahead:
            raise TamisError("merge_states: the loader was asked between snapshots; set snapshot_every_n_steps=1")
        found = list(found.values())
    if isinstance(found, list | tuple):
        for one in found:
            yield from _parts(one)


def position(state: Mapping[str, Any], fingerprint: str, batch: int, layout: Mapping[str, int]) -> int:
    """Return the loader batch at which to go on.

    Args:
        state: of one rank with all its workers.
        fingerprint: of the data and settings now.
        batch: documents of a step over all ranks now.
        layout: `ranks` and `accumulate` now.

    Raises:
        TamisError: the state is of other data, or cannot be continued in this layout.
    """
    if state.get(KIND) != VERSION:
        raise TamisError("load_state_dict: this is no state of a RunDataset of this version")
    if state["fingerprint"] != fingerprint:
        raise TamisError(
            "load_state_dict: the state is of other data or settings (run, seed, streams, buffer, filter, use_weights)"
        )
    if state["batch"] != batch:
        raise TamisError(
            f"load_state_dict: a step had {state['batch']} documents over all ranks, and has {batch} now; "
            "set batch_size and accumulate so that it is the same"
        )
    done = state["start"] + state["batches"]
    if all(state[name] == value for name, value in layout.items()):
        return int(done)
    steps, rest = divmod(done, state["accumulate"])
    if rest:
        raise TamisError("load_state_dict: the state is within a step, which only the same ranks can continue")
    return int(steps * layout["accumulate"])
