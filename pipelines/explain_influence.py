"""What stored gradients say of single examples: which of them a document helps.

Reads the run directory, its score store and, to show texts, the corpus and the targets; imports no Beam.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..connectors.corpus_config import CorpusConfig
from ..connectors.decisions import DecisionFiles, Place
from ..connectors.errors import RecipeError, TamisError, nearest, one_line
from ..connectors.keys import hash_bytes
from ..connectors.opening import Opened, open_corpus
from ..connectors.run_directory import state_url
from ..connectors.score_store import Address, ScoreStore, load_arrays
from ..connectors.shards import Shard
from ..scoring.influence_examples import EXAMPLES, InfluenceState
from ..scoring.vectors import vectors_of
from .influence_answers import Example, Helped, OnExample
from .reading import read_documents

FEATURES, SCORE = "gradients", "score"
"""Name of the scorer whose vectors are stored, where the run does not say it, and of their column."""

_KEY = re.compile(r"[0-9a-f]{16}", re.IGNORECASE)
_NUMBER = re.compile(r"(?:(?P<target>[A-Za-z0-9_.-]+):)?(?P<number>\d{1,18})")

Vectors = list[NDArray[np.float16]]


class RunInfluence:
    """The influence scores of a finished run. manifest: of the run, which has its resolved recipe."""

    def __init__(self, run: Path, manifest: Mapping[str, Any]) -> None:
        self.run, self.manifest, self.recipe = run, manifest, manifest["recipe"]
        self.files = DecisionFiles(run, manifest)
        self.store = ScoreStore(self.recipe["store"])
        self.corpus = CorpusConfig.model_validate(self.recipe["corpus"])
        self.scores = [one["name"] for one in manifest["scorers"] if one["scorer"] == "influence"]
        self.scorer_names = {one["fingerprint"]: one["scorer"] for one in manifest["scorers"]}
        self._states: dict[str, InfluenceState] = {}
        self._versions = {one["path"]: one["fingerprint"] for one in manifest["sources"] if one["corpus"] == "corpus"}
        self._opened: Opened | None = None
        self._shards: dict[int, Shard] | None = None

    def state(self, score: str) -> InfluenceState:
        """Return the state of a score, read once; raises TamisError where it holds no examples."""
        if score not in self._states:
            try:
                self._states[score] = InfluenceState.of_arrays(load_arrays(state_url(self.run, score)))
            except TamisError as error:
                raise TamisError(f"{score}: {error}") from error
        return self._states[score]

    def scores_on(self, wanted: str | None) -> dict[str, int | None]:
        """Return the scores that keep an example, each with its number there (see `find`); all scores for None."""
        found: dict[str, int | None] = {}
        missing: list[RecipeError] = []
        for score in self.scores:
            try:
                found[score] = None if wanted is None else self.find(score, wanted)
            except RecipeError as error:
                missing.append(error)
        if missing and not found:
            raise missing[0]
        return found

    def helped(self, place: Place, wanted: str | None, top: int) -> list[Helped]:
        """Return for each score the examples that a document helps most and least, `top` of each.

        wanted: an example (see `find`), to tell of that alone.
        """
        found = []
        for score, number in self.scores_on(wanted).items():
            try:
                found.append(self._helped(score, place, number, top))
            except (TamisError, OSError) as error:
                found.append(Helped(score, {}, 0, 0, [], [], one_line(error)))
        return found

    def _helped(self, score: str, place: Place, number: int | None, top: int) -> Helped:
        state = self.state(score)
        vectors = self.vectors(score, place)
        influence = state.on_examples(vectors)[0]
        order = np.argsort(-influence, kind="stable") if number is None else np.array([number])
        best, worst = order[:top], order[::-1][: max(0, min(top, len(order) - top))]
        shown = dict(zip(chain(best, worst), self.examples(score, [*best, *worst]), strict=True))
        most, least = ([OnExample(shown[i], float(influence[i])) for i in part] for part in (best, worst))
        of_targets = dict(zip(state.names, state.on_targets(vectors)[0].tolist(), strict=True))
        return Helped(score, of_targets, len(state.keys), int(state.documents.sum()), most, least)

    def vectors(self, score: str, place: Place) -> Vectors:
        """Return a document's stored gradients, float16[1, d] for each checkpoint; raises TamisError without."""
        vectors, there = self.of_shard(score, place.shard)
        if not there[place.row]:
            raise TamisError("the document has no gradient")
        position = int(np.count_nonzero(there[: place.row]))
        return [rows[position : position + 1] for rows in vectors]

    def of_shard(self, score: str, index: int) -> tuple[Vectors, NDArray[np.bool_]]:
        """Return the gradients of a shard's documents that have one at each checkpoint, and which these are."""
        return self.stored(self.state(score).gradients, index)

    def stored(self, gradients: Sequence[str], index: int) -> tuple[Vectors, NDArray[np.bool_]]:
        """Return the same of a shard for gradients that are known by their fingerprints, one for each checkpoint."""
        if index not in self.shards:
            raise TamisError("the corpus's files are not those of the run, so that stored gradients cannot be found")
        shard = self.shards[index]
        found = []
        for fingerprint in gradients:
            address = Address(self.scorer_names.get(fingerprint, FEATURES), fingerprint)
            if not self.store.has(address, shard):
                raise TamisError(
                    f"{self.store.root} does not hold the gradients any more; run the recipe again, without `since` "
                    "and to another --output"
                )
            found.append(vectors_of(self.store.read_table(address, shard, [SCORE])[SCORE]))
        there = np.logical_and.reduce([has for _, has in found])
        if len(there) != self.files.documents_of(index):
            raise TamisError(f"{self.store.root} holds gradients of other documents; run the recipe again")
        return [rows if len(rows) == there.sum() else rows[there[has]] for rows, has in found], there

    @property
    def opened(self) -> Opened:
        """The run's corpus, cut as the plan cut it: from the footers of its files, which are read once."""
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> Opened:
        only = None
        if self.recipe.get("retry_dead"):
            from .since import dead_rows  # imports Beam

            only = dead_rows(Path(self.manifest["since"]["run"]))
        return open_corpus(
            "corpus",
            self.corpus,
            limit=self.manifest["limit"],
            skip_unreadable=self.recipe["errors"]["unreadable_shards"] == "skip",
            chosen=lambda file: self.version(file.url) == file.version,
            first_shard=self.manifest["shards"]["first"],
            only=only,
        )

    @property
    def shards(self) -> dict[int, Shard]:
        """The shards of the run, by index; none where its files are not what they were."""
        if self._shards is None:
            same = len(self.opened.files) == len(self._versions)
            self._shards = {shard.index: shard for shard in self.opened.shards} if same else {}
        return self._shards

    def version(self, source: str) -> str:
        """Return what state a file was in when the run read it, empty for one that it did not read."""
        return self._versions.get(source, "")

    def find(self, score: str, wanted: str) -> int:
        """Return the number of an example in a score's state.

        wanted: its id, where the target names an id column; its key in 16 hex digits; or its place in the target, from
        0, as NUMBER or TARGET:NUMBER. Raises RecipeError when there is none, or it is not among the examples kept.
        """
        state = self.state(score)
        content = np.frombuffer(wanted.encode(), np.uint8)
        keys = [int(hash_bytes(np.array([0, len(content)]), content)[0])]
        keys += [int(wanted, 16)] if _KEY.fullmatch(wanted) else []
        found = [*np.flatnonzero(np.isin(state.keys, np.array(keys, np.uint64))).tolist()]
        match = _NUMBER.fullmatch(wanted)
        if found or match is None:
            return self._one(score, wanted, found)
        name = match["target"] or (state.names[0] if len(state.names) == 1 else None)
        if name is None:
            raise RecipeError(f"--target {wanted}: `{score}` has several targets; say {state.names[0]}:{wanted}")
        if name not in state.names:
            raise RecipeError(f"--target {wanted}: `{score}` has no target `{name}`{nearest(name, state.names)}")
        key = self._key_at(name, int(match["number"]))
        same = (state.keys == np.uint64(key)) & (state.targets == state.names.index(name))
        return self._one(score, wanted, np.flatnonzero(same).tolist())

    def _one(self, score: str, wanted: str, found: Sequence[int]) -> int:
        if found:
            return found[0]
        state = self.state(score)
        kept = f"{len(state.keys):,} of {int(state.documents.sum()):,} examples (at most {EXAMPLES} of a target)"
        raise RecipeError(f"--target {wanted}: is not among the examples that `{score}` keeps: {kept}")

    def _key_at(self, target: str, number: int) -> int:
        passed = 0
        for _, keys in self.read_target(target):
            if number < passed + len(keys):
                return int(keys[number - passed])
            passed += len(keys)
        raise RecipeError(f"--target {number}: `{target}` has {passed:,} documents, counted from 0")

    def read_target(self, name: str) -> Iterator[tuple[Any, NDArray[np.uint64]]]:
        """Yield texts (Arrow) and keys (uint64) of a target's documents; raises TamisError where it cannot be read."""
        if name not in self.recipe["targets"]:
            raise TamisError(f"the recipe does not name the files of `{name}`, whose state it took from `fitted`")
        opened = open_corpus(f"targets.{name}", CorpusConfig.model_validate(self.recipe["targets"][name]))
        for shard in opened.shards:
            for _, batch in read_documents(opened.corpus, shard, []):
                yield batch.documents.text, batch.documents.keys

    def examples(self, score: str, numbers: Sequence[int]) -> list[Example]:
        """Return examples as they are told, with their texts where the targets' files still have them."""
        state = self.state(score)
        places: dict[tuple[str, int], tuple[int, str]] = {}
        named = [(state.names[int(state.targets[i])], int(state.keys[i])) for i in numbers]
        for target in dict.fromkeys(target for target, _ in named):
            missing = {key for of, key in named if of == target}
            passed = 0
            try:
                for text, keys in self.read_target(target):
                    for row in np.flatnonzero(np.isin(keys, np.array(list(missing), np.uint64))).tolist():
                        places.setdefault((target, int(keys[row])), (passed + row, str(text[row].as_py())))
                        missing.discard(int(keys[row]))
                    passed += len(keys)
                    if not missing:
                        break
            except (TamisError, OSError):
                continue  # the files are gone: examples are told by their keys
        return [Example(target, key, *places.get((target, key), (None, None))) for target, key in named]
