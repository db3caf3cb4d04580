"""The passes of the step `deduplicate`; no text crosses a stage, nor is any read.

What is equal or alike makes a group (see `fuzzy` for what is alike). Documents go by their group to buckets, in which
one of each is chosen, and the losses go back to the shards. Near in meaning: see `semantic`, which has no groups.

In a run that continues others, their documents come before the new ones and stay or not as they did: see `earlier`.

On disk, while the run lasts: 32 bytes per document (exact) or per document that is like another one (fuzzy), and 24 per
loss. In memory: a bucket per worker (see `exchange`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..connectors.keys import keyed_bits
from ..connectors.shards import Shard
from ..selectors.components import representatives
from ..selectors.deduplicate import Deduplicate
from ..selectors.duplicates import COPY_RECORD, losses
from .candidates import Candidates
from .exchange import Exchange, bucket_of
from .exchanging import Deduplicated, Exchanging, ranks
from .fuzzy import Links, join_alike
from .losses import Losses, Numbering, SettledLosses
from .passes import Control, Result, Work
from .score import document_address
from .semantic import drop_near


def deduplicate(step: Exchanging) -> Deduplicated:
    """Find what a step drops."""
    if step.step.kind == "semantic":
        return drop_near(step)
    links = join_alike(step) if step.step.kind == "fuzzy" else None
    count = step.numbering.documents if links is None else links.joined
    copies = step.exchange("copies", COPY_RECORD, count, step.shards)
    lost = Losses.new(step.url, step.settled, copies.buckets)
    grouping = GroupPass(step.candidates, step.numbering, copies, None if links is None else links.url, lost.settled)
    found = step.over_shards(grouping, step.stage)
    chosen = step.over_buckets(ChoosePass(copies, lost.exchange, step.numbering), copies)
    return Deduplicated(step.url, int(found["candidates"][0]), int(chosen["dropped"][0]))


@dataclass
class GroupPass(Work):
    """Sends a shard's candidates to buckets by the group of copies that they are in, with their rank in it.

    links: where `Links` are; None where documents of the same text are a group; settled: what earlier runs dropped, of
    whose documents those go that stayed.
    """

    candidates: Candidates
    numbering: Numbering
    copies: Exchange
    links: str | None
    settled: SettledLosses

    def do(self, shard: Shard, control: Control) -> Result:
        """Write the records of one shard; return how many new candidates there are."""
        rows, current, candidates = self.candidates.find(shard)
        step, columns = current.step, self.candidates.columns
        assert isinstance(step, Deduplicate)
        place = self.numbering.place(shard.index)
        first = int(self.numbering.first[place])
        if self.links is None:
            table = columns.store.read_table(document_address(columns.corpus), shard, ["text_hash"])
            members, groups = candidates, table["text_hash"].to_numpy()[candidates]
        else:
            linked, of = representatives(Links.part(self.links, first, len(rows)), first)
            members, groups = linked, keyed_bits(0, "group of copies", of.astype(np.uint64))
        is_settled = self.numbering.is_settled(shard.index)
        if is_settled:
            stayed = ~np.isin(members, self.settled.of_shard(shard.index)["number"] - first)
            members, groups = members[stayed], groups[stayed]
        records = np.empty(len(members), COPY_RECORD)
        records["group"], records["key"] = groups, rows.keys[members]
        records["number"] = first + members
        records["rank"] = ranks(self.candidates, rows, members, first)
        self.copies.write(shard.index, records, bucket_of(records["group"], self.copies.buckets))
        return {"candidates": np.array([0 if is_settled else len(candidates)])}


@dataclass
class ChoosePass(Work):
    """Chooses who stays of each group, and sends the losses to the shards."""

    copies: Exchange
    losing: Exchange
    numbering: Numbering

    def do(self, bucket: int, control: Control) -> Result:
        """Write the losses of one bucket; return how many there are."""
        settled = self.numbering.settled
        lost = np.concatenate([losses(part, settled) for part in self.copies.parts(bucket, "group")])
        self.losing.write(bucket, lost, self.numbering.places(np.ascontiguousarray(lost["number"])))
        return {"dropped": np.array([len(lost)])}
