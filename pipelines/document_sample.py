"""A keyed sample of a corpus, of exactly so many documents, as a small corpus of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..connectors.atomic import write_atomically
from ..connectors.corpus import Corpus
from ..connectors.corpus_config import CorpusConfig
from ..connectors.errors import TamisError
from ..connectors.files import remove_tree
from ..connectors.keys import keyed_bits
from ..connectors.opening import open_corpus
from ..connectors.shards import Shard
from .job import Reporter
from .passes import Control, Result, Work, run_pass
from .reading import read_documents
from .runner import Engine

_NOISE = "tamis noise"


@dataclass
class DocumentSamplePass(Work):
    """Writes the documents of each shard that may be in the sample: those with the least noise.

    count: documents in the sample; name, seed: of the noise. Holds twice as many documents, for each worker.
    """

    corpus: Corpus
    folder: str
    count: int
    name: str
    seed: int

    def do(self, shard: Shard, control: Control) -> Result:
        """Write a shard's part; returns how many documents were read."""
        best: pa.Table | None = None
        read = 0
        for _, batch in read_documents(self.corpus, shard, None):
            control.check()
            keys = batch.documents.keys
            read += len(keys)
            noise = keyed_bits(self.seed, self.name, keys)
            some = batch.table.append_column(_NOISE, pa.array(noise))
            best = _least(
                some if best is None else pa.concat_tables([best, some], promote_options="default"), self.count
            )
            control.advance(size=batch.table.nbytes)
        if best is not None and len(best):
            found = best

            def write(file: IO[bytes]) -> None:
                pq.write_table(found, file)

            write_atomically(f"{self.folder}/{shard.index:06d}.parquet", write)
        return {"read": np.array([read])}


def _least(table: pa.Table, count: int) -> pa.Table:
    noise = table[_NOISE].to_numpy()
    return table if len(noise) <= count else table.take(pa.array(np.sort(np.argsort(noise, kind="stable")[:count])))


def sample_documents(
    config: CorpusConfig, count: int, folder: Path, engine: Engine, reporter: Reporter, seed: int
) -> CorpusConfig:
    """Write a keyed sample of a corpus, with all its columns, and return it as a corpus.

    Args:
        config: of the corpus; pieces that `chunk` makes are documents of the sample.
        count: documents, or all where there are fewer; copies of one document are in it together, or not at all.
        folder: new, for the sample.
        engine: that reads.
        reporter: told of the progress.
        seed: of the choice.

    Raises:
        TamisError: there is no document.
    """
    opened = open_corpus("corpus", config)
    parts = folder / "parts"
    parts.mkdir(parents=True)
    work = DocumentSamplePass(opened.corpus, str(parts), count, "document sample", seed)
    reporter.begin("sampling", len(opened.shards), sum(shard.bytes for shard in opened.shards))
    try:
        run_pass(work, opened.shards, engine, str(folder / "exchange"), reporter.update)
    finally:
        reporter.end()
    tables = [pq.read_table(path) for path in sorted(parts.glob("*.parquet"))]
    if not tables:
        raise TamisError("corpus: there is no readable document in its files")
    whole = _least(pa.concat_tables(tables, promote_options="permissive"), count).drop_columns([_NOISE])
    write_atomically(str(folder / "sample.parquet"), lambda file: pq.write_table(whole, file))
    remove_tree(parts)
    remove_tree(folder / "exchange")
    columns = {role: name for role, name in config.named_columns.items() if role != "id" or config.chunk is None}
    return CorpusConfig.model_validate({"format": "parquet", "paths": [str(folder / "sample.parquet")], **columns})
