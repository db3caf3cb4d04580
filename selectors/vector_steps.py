"""The steps whose order is computed from vectors: of documents that cover the others, or that are typical of them.

Deciding such a step makes a score column with the step's name, which lies in the score store like any other; the step
then ranks by it, and later steps, weighers and output columns may name it. What the column holds is computed by
`in_cluster`, from the vectors of one cluster at a time.

In a run that continues others (`since`) new documents get the values that they would have among those of the first run,
and its cut decides; `cover` keeps the share of each cluster that the first run kept, beside what was kept before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, model_validator

from .budget import GROUP
from .ordering import ascending, descending
from .steps import Centered, Float64, Perturbed, RankStep, Step, UInt64

_CLUSTERS = "a score of cluster numbers, as of `scorer: clusters`, or group; default: all documents are one cluster"


class VectorStep(RankStep):
    """Base of these steps. unit, direction: of the column that it makes."""

    vectors: str = Field(description="a score that holds vectors, as of `scorer: embedding`")
    clusters: str | None = Field(None, description=f"only vectors of a cluster are compared: {_CLUSTERS}")

    unit: ClassVar[str]
    direction: ClassVar[Literal["higher", "lower", "none"]]
    of_column: ClassVar[tuple[str, ...]]
    """Names of the options that the column depends on."""

    @property
    def ranked_by(self) -> list[str]:
        """The column that the step makes."""
        return [self.name]

    @property
    def divides_vectors(self) -> str | None:
        """What documents have in common whose vectors are compared: `group` or a score; None: all are."""
        return self.clusters

    @property
    def gathers(self) -> list[str]:
        """Scores that a document must have, beside a vector, to get a value in that column."""
        divides = [] if self.divides_vectors in (None, GROUP) else [str(self.divides_vectors)]
        return list(dict.fromkeys([*(name for name in self.needs if name != self.name), *divides]))

    @property
    def column_options(self) -> dict[str, Any]:
        """What the column depends on: options by name."""
        chosen = self.model_dump(mode="json", include={"method", *self.of_column})
        return chosen | {"clusters": self.divides_vectors}


class Cover(VectorStep):
    """Keep documents that cover the others: in each cluster one after another, each the one that adds most to those.

    k_center: the one farthest from all that are taken. k_means_plus_plus: drawn, the likelier the farther.
    facility_location: the one by which the others become likest to one that is taken, in sum.

    Budgets are of clusters: `allocate` by them, by default in proportion, or `within` them. The column is the number of
    the pick in its cluster, from 0; of what is not picked, the size of the cluster. With `since` both count on.
    """

    method: Literal["cover"]
    rule: Literal["k_center", "k_means_plus_plus", "facility_location"]
    clusters: str | None = Field(None, description=f"documents cover others of their cluster: {_CLUSTERS}")

    unit: ClassVar[str] = "picks before it in its cluster"
    direction: ClassVar[Literal["lower"]] = "lower"
    of_column: ClassVar[tuple[str, ...]] = ("rule", "keep", "within", "allocate")

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: object) -> object:
        if isinstance(values, dict) and not values.get("name"):
            return values | {"name": f"cover_{values.get('rule', '')}"}
        return values

    @model_validator(mode="before")
    @classmethod
    def _default_allocate(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("clusters") and not (values.get("within") or values.get("allocate")):
            return values | {"allocate": {"by": values["clusters"]}}
        return values

    @model_validator(mode="after")
    def _budgets_are_of_clusters(self) -> Cover:
        if self.clusters is not None and self.clusters != self.divided_by:
            raise ValueError(
                f"cover takes a budget of each cluster: `{self.divided_by}` divides `keep`, and `clusters` is "
                f"`{self.clusters}`; name the same in both, or leave `clusters` out"
            )
        if self.allocate is not None and self.allocate.repeat > 1:
            raise ValueError("cover: `repeat` does not go with it")
        return self

    @property
    def divides_vectors(self) -> str | None:
        """What divides the budget."""
        return self.divided_by

    @property
    def column_options(self) -> dict[str, Any]:
        """The budgets are among them, for no more is picked; and what keys the noise, where there is some."""
        keyed = {"name": self.name} if self.rule == "k_means_plus_plus" else {}
        return super().column_options | keyed

    def rank(self, scores: Mapping[str, Float64], keys: UInt64, seed: int, pick: int, temperature: float) -> UInt64:
        """First pick first."""
        return ascending(scores[self.name])


class Typicality(VectorStep):
    """Keep the documents whose nearest neighbours in their cluster are nearest: what is typical of it (TypiClust).

    For small budgets; published: as many clusters as documents are kept, at most 500, and `allocate: {by: clusters,
    mode: round_robin}`. The column is 1 / (mean Euclidean distance to the nearest `neighbours`), of vectors of length
    one; 0 in clusters of up to five documents, which are taken last. Source: Hacohen et al. 2022 (arXiv 2202.02794).
    """

    method: Literal["typicality"]
    neighbours: int = Field(20, ge=1, le=1000, description="how many; at most half of the cluster")

    unit: ClassVar[str] = "1 / mean distance to neighbours"
    direction: ClassVar[Literal["higher"]] = "higher"
    of_column: ClassVar[tuple[str, ...]] = ("neighbours",)
    highest_first: ClassVar[bool] = True

    def rank(self, scores: Mapping[str, Float64], keys: UInt64, seed: int, pick: int, temperature: float) -> UInt64:
        """Most typical first."""
        return descending(scores[self.name])


class InverseDensity(VectorStep, Perturbed):
    """Sample without replacement with probability proportional to 1 / density ** (1 / temperature): evenly over space.

    Density is the sum of exp(-distance² / (2 bandwidth²)) over the documents of the cluster, Euclidean, of vectors of
    length one. The column is its logarithm, negative. Source: Sachdeva et al. 2024 (arXiv 2402.09668).
    """

    method: Literal["inverse_density"]
    bandwidth: PositiveFloat = Field(0.5, description="distance at which a neighbour counts 0.61, one at twice it 0.14")

    unit: ClassVar[str] = "-log density"
    direction: ClassVar[Literal["higher"]] = "higher"
    of_column: ClassVar[tuple[str, ...]] = ("bandwidth",)


class Moderate(VectorStep, Centered):
    """Keep the middle of the documents by their distance to the median of their cluster: neither easy nor odd ones.

    Distances are Euclidean, of vectors of length one; the median is taken coordinate by coordinate. Published: clusters
    are the classes of labelled data (a column of numbers, or group). Source: Xia et al. 2023, Moderate Coreset.
    """

    method: Literal["moderate"]

    unit: ClassVar[str] = "distance to the median"
    direction: ClassVar[Literal["none"]] = "none"
    of_column: ClassVar[tuple[str, ...]] = ()

    def rank(self, scores: Mapping[str, Float64], keys: UInt64, seed: int, pick: int, temperature: float) -> UInt64:
        """Nearest first."""
        return ascending(scores[self.name])


class Gathering(Step):
    """In the place of a step of vectors while its column is made: all candidates of that one."""

    method: Literal["gathering"] = "gathering"
    columns: list[str]

    @property
    def needs(self) -> list[str]:
        """Scores that a document must have."""
        return self.columns
