"""The scorer `clusters`: k-means clusters of documents by their embeddings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from ..connectors.corpus_config import CorpusConfig
from ..connectors.errors import RecipeError
from .derived_scorer import DerivedScorer
from .kmeans import Centroids, centroid_index, fit_kmeans, gpus, nearest_centroids, one_thread, require_faiss
from .nearest_earlier import distinct
from .scorer import Documents, ScoreColumn, Scorer, ScorerParameters, digest_arrays
from .vectors import VECTORS, vectors_of

CENTROIDS, COARSE, FITTED_ON, SETTINGS = "centroids", "coarse", "fitted on", "settings"

POINTS = 256
"""Documents a cluster that are fitted on by default, as in FAISS, up to SAMPLE in all,"""
SAMPLE = 1 << 18
FEW = 39
"""but not below so many a cluster, FAISS's own limit, below which centroids follow single documents."""


class ClustersParameters(ScorerParameters):
    """Parameters of `scorer: clusters`."""

    path_keys: ClassVar[tuple[str, ...]] = ("fitted",)

    scorer: Literal["clusters"]
    embedding: str = Field(description="name of the score with the embeddings")
    clusters: int = Field(1000, ge=1, le=1 << 20)
    spherical: bool = Field(True, description="by the cosine, with centroids of length one; else by Euclidean distance")
    iterations: int = Field(25, ge=1, le=10_000)
    sample: int | None = Field(
        None,
        ge=1,
        description="documents to fit on, a keyed sample, 6 bytes a dimension each; default: 256 a cluster, at most "
        "262,144, but at least 39 a cluster",
    )
    without_copies: float | None = Field(
        None,
        gt=0,
        le=1,
        description="cosine from which on a document of the sample goes that is near another in its cluster, before "
        "clusters are found a second time: so those of a corpus without copies",
    )
    seed: int = Field(1234, ge=0, lt=1 << 31)
    two_levels: bool | None = Field(None, description="a tree of centroids, for many; default: from 8,192 clusters on")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where FAISS finds one")
    fitted: str | None = Field(None, description="a saved state to use instead of fitting")


class Clusters(DerivedScorer):
    """Number of the nearest of k centroids, and how far this one and the second nearest are.

    Centroids are found in a keyed sample, of which each document counts once, and are frozen as the run's state; then
    all documents are assigned, shard by shard. Copies crowd centroids together where they are many: with
    `without_copies` they are found in what the sample holds without them.

    Distances are 1 - cosine (spherical) or Euclidean. Far from its centroid is what Sorscher et al. 2022
    (https://arxiv.org/abs/2206.14486) call hard, to be kept where data is abundant, and near what is prototypical.
    """

    name = "clusters"
    version = 1
    Parameters = ClustersParameters
    requires = "a score of the scorer `embedding`; pip install 'tamis[cluster]'"
    primary = ScoreColumn("", pa.int32(), "cluster", "none", "number of the nearest centroid", jumps=True)
    parameters: ClustersParameters

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self._gpu = False
        self._index: Any = None

    @property
    def tolerance(self) -> float:  # type: ignore[override]
        """That of the vectors, and of float32 products."""
        return 1e-5 + sum(scorer.tolerance for scorer in self.bound.values())

    @property
    def columns(self) -> list[ScoreColumn]:
        """The cluster, and two distances."""
        unit = "1 - cosine" if self.parameters.spherical else "Euclidean distance"
        return [
            self.primary,
            ScoreColumn("distance", pa.float32(), unit, "none", "to the centroid; far is untypical"),
            ScoreColumn("second", pa.float32(), unit, "none", "to the second nearest centroid"),
        ]

    @property
    def inputs(self) -> dict[str, str]:
        """The embedding."""
        return {"embedding": self.parameters.embedding}

    def accepts(self, key: str, scorer: Scorer) -> str | None:
        """Vectors only."""
        return None if scorer.primary.type == VECTORS else "a score that holds vectors, as of `embedding`,"

    @property
    def sample(self) -> int:
        """See the parameter."""
        k = self.parameters.clusters
        return self.parameters.sample or max(FEW * k, min(POINTS * k, SAMPLE))

    @property
    def numerics(self) -> Mapping[str, object]:
        """The vectors, the metric and the centroids, but not where these came from."""
        return self._settings() | {"gpu": self._gpu, "state": digest_arrays(self.state)}

    def _settings(self) -> dict[str, object]:
        return {"spherical": self.parameters.spherical, **self.input_fingerprints}

    def prepare(self, corpus: CorpusConfig) -> None:
        """Look for FAISS and its GPUs."""
        require_faiss()
        there = gpus() > 0
        if self.parameters.device == "cuda" and not there:
            raise RecipeError("device: FAISS finds no GPU; say auto or cpu")
        self._gpu = there and self.parameters.device != "cpu"

    def fit(self, table: pa.Table) -> None:
        """Find centroids."""
        p = self.parameters
        vectors, _ = vectors_of(table[p.embedding])
        if not len(vectors):
            raise RecipeError("embedding: no document has a vector")
        options = (p.clusters, p.spherical, p.iterations, p.seed, p.two_levels, self._gpu)
        found = fit_kmeans(vectors, *options)
        if p.without_copies is not None:
            with one_thread():
                cluster = nearest_centroids(found, vectors).cluster
            vectors = vectors[distinct(vectors, cluster, p.without_copies)]
            found = fit_kmeans(vectors, *options)
        settings = np.frombuffer(json.dumps(self._settings(), sort_keys=True).encode(), np.uint8)
        fitted_on = np.array([len(vectors), p.clusters])
        self.state = {CENTROIDS: found.centroids, COARSE: found.coarse, FITTED_ON: fitted_on, SETTINGS: settings}
        self._index = None

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Use saved centroids; raises RecipeError when they are of other vectors."""
        try:
            saved = json.loads(state[SETTINGS].tobytes())
            shapes = [state[name].shape for name in (CENTROIDS, COARSE)]
        except (KeyError, ValueError) as error:
            raise RecipeError("clusters: the file in `fitted` is not a state of clusters") from error
        if saved != self._settings():
            raise RecipeError(
                f"clusters: the state in `fitted` was made with {saved}, the recipe has {self._settings()}"
            )
        if shapes[0][0] < 1 or shapes[0][1:] != shapes[1][1:]:
            raise RecipeError("clusters: the file in `fitted` does not hold centroids")
        self.state, self._index = dict(state), None

    def score(self, documents: Documents) -> dict[str, pa.Array]:
        """Assign documents; null for those without a vector."""
        assert documents.table is not None
        vectors, there = vectors_of(documents.table[self.parameters.embedding])
        centroids = Centroids(self.state[CENTROIDS], self.state[COARSE], self.parameters.spherical)
        if self._index is None:
            self._index = centroid_index(centroids, self._gpu)
        with one_thread():
            found = nearest_centroids(centroids, vectors, index=self._index)

        def column(values: NDArray[Any]) -> pa.Array:
            whole = np.zeros(len(there), values.dtype)
            whole[there] = values
            return pa.array(whole, mask=~there | np.isnan(whole))

        return {"": column(found.cluster), "distance": column(found.distance), "second": column(found.second)}

    def findings(self, keys: NDArray[np.uint64], share: float) -> list[str]:
        """Say when there was little to find clusters in."""
        fitted_on, wanted = self.state[FITTED_ON].tolist()
        found = len(self.state[CENTROIDS])
        lines = []
        if found < wanted:
            lines.append(f"only {found:,} of {wanted:,} clusters, for no more different documents have a vector")
        elif fitted_on < FEW * found:
            lines.append(
                f"{found:,} clusters were found in {fitted_on:,} documents, {fitted_on / found:.0f} a cluster; below "
                f"{FEW} they follow single documents, so ask for fewer clusters"
            )
        return lines
