"""What steps of a recipe accept, what they are called, and how they order documents."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from operator import or_
from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import Field, TypeAdapter, ValidationError
from tamis.selectors.methods import METHODS
from tamis.selectors.steps import RankStep, Resample, Threshold

STEPS: TypeAdapter[Any] = TypeAdapter(Annotated[reduce(or_, METHODS), Field(discriminator="method")])
KEEP = {"documents": 3}
KEYS = np.array([11, 7, 2**64 - 1, 3, 5], dtype=np.uint64)
SCORES = np.array([0.5, -1.0, 2.0, 0.0, 1.5])


def parse(**step: Any) -> Any:
    return STEPS.validate_python(step)


def order(step: RankStep, scores: np.ndarray[Any, Any] = SCORES, pick: int = 0, temperature: float = 1.0) -> list[int]:
    columns = dict.fromkeys(step.needs, scores)
    return np.argsort(step.rank(columns, KEYS, seed=0, pick=pick, temperature=temperature)).tolist()


class TestNames:
    def test_default_is_method_and_scores(self) -> None:
        assert parse(method="threshold", by="a", min=0).name == "threshold_a"
        assert parse(method="sample", keep=KEEP).name == "sample"
        assert parse(method="resample", by=["a", "b"], proportions=[1, 2], keep=KEEP).name == "resample_a_b"
        assert parse(method="top", by="a", name="best-1.0", keep=KEEP).name == "best-1.0"

    def test_survives_a_round_trip(self) -> None:
        step = parse(method="band", by="a", keep=KEEP)
        assert STEPS.validate_python(step.model_dump()) == step

    @pytest.mark.parametrize("name", ["a b", "a/b", "größe", "a\n", ".../"])
    def test_are_safe_as_columns_and_files(self, name: str) -> None:
        with pytest.raises(ValidationError, match="is not a name"):
            parse(method="sample", keep=KEEP, name=name)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"method": "top", "by": "a"}, "keep"),
        ({"method": "top", "keep": KEEP}, "by"),
        ({"method": "top", "by": "a", "keep": KEEP, "witihn": "group"}, r"unknown key `witihn` \(nearest: within\)"),
        ({"method": "top", "by": "a", "keep": {"documents": 1, "tokens": 2}}, "not documents and tokens"),
        ({"method": "top", "by": "a", "keep": {}}, "one of documents, fraction and tokens, not none"),
        ({"method": "top", "by": "a", "keep": {"document": 1}}, r"unknown key `document` \(nearest: documents\)"),
        ({"method": "top", "by": "a", "keep": {"documents": -1}}, "negative"),
        ({"method": "top", "by": "a", "keep": {"documents": 1.5}}, "integer"),
        ({"method": "top", "by": "a", "keep": {"fraction": 1.01}}, "between 0 and 1"),
        ({"method": "top", "by": "a", "keep": {"fraction": float("nan")}}, "finite number"),
        ({"method": "band", "by": "a", "keep": KEEP, "center": -0.1}, "between 0 and 1"),
        ({"method": "threshold", "by": "a"}, "needs `min`, `max` or both"),
        ({"method": "threshold", "by": "a", "min": float("nan")}, "finite number"),
        ({"method": "resample", "by": ["a", "b"], "keep": KEEP}, "as many `proportions`"),
        ({"method": "resample", "by": ["a", "b"], "proportions": [1], "keep": KEEP}, "as many `proportions`"),
        ({"method": "resample", "by": ["a", "b"], "proportions": [1, 0], "keep": KEEP}, "greater than 0"),
        ({"method": "resample", "by": [], "proportions": [], "keep": KEEP}, "proportions"),
        ({"method": "resample", "by": ["a", "a"], "proportions": [1, 1], "keep": KEEP}, "twice"),
        ({"method": "resample", "by": "a", "proportions": [1], "keep": KEEP}, "several scores"),
        ({"method": "resample", "by": "a", "temperature": 0, "keep": KEEP}, "greater than or equal to 0.000000001"),
        ({"method": "resample", "by": "a", "temperature": 1, "effective_sample_size": 0.5, "keep": KEEP}, "not both"),
        ({"method": "resample", "by": "a", "effective_sample_size": 1.1, "keep": KEEP}, "less than or equal to 1"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:30],
)
def test_refuses(step: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        parse(**step)


def test_needs_are_the_scores() -> None:
    assert parse(method="sample", keep=KEEP).needs == []
    assert parse(method="threshold", by="a", max=1).needs == ["a"]
    assert parse(method="resample", by=["a", "b"], proportions=[1, 2], keep=KEEP).needs == ["a", "b"]


class TestOrder:
    def test_by_score(self) -> None:
        ascending = [1, 3, 0, 4, 2]
        assert order(parse(method="bottom", by="a", keep=KEEP)) == ascending
        assert order(parse(method="band", by="a", keep=KEEP)) == ascending
        assert order(parse(method="top", by="a", keep=KEEP)) == ascending[::-1]

    @pytest.mark.parametrize("step", [{"method": "sample"}, {"method": "resample", "by": "a"}])
    def test_noise_goes_with_the_key_the_name_and_the_seed(self, step: dict[str, Any]) -> None:
        keys = np.arange(200, dtype=np.uint64)
        shuffled = np.random.default_rng(0).permutation(keys)
        scores = {"a": np.zeros(200)}

        def rank(name: str, seed: int, keys: Any) -> Any:
            return parse(**step, keep=KEEP, name=name).rank(scores, keys, seed, 0, 1.0)

        plain = rank("n", 0, keys)
        np.testing.assert_array_equal(rank("n", 0, shuffled), plain[shuffled])
        for other in (rank("m", 0, keys), rank("n", 1, keys)):
            correlation = np.corrcoef(np.argsort(np.argsort(plain)), np.argsort(np.argsort(other)))[0, 1]
            assert abs(correlation) < 0.3

    def test_picks_of_a_resample_have_noise_of_their_own(self) -> None:
        step = parse(method="resample", by=["a", "b"], proportions=[1, 1], keep=KEEP)
        keys = np.arange(200, dtype=np.uint64)
        scores = {"a": np.zeros(200), "b": np.zeros(200)}
        first, second = (step.rank(scores, keys, 0, pick, 1.0) for pick in (0, 1))
        assert not np.array_equal(first, second)
        scores["b"] = -np.arange(200) * 1e6
        assert np.argsort(step.rank(scores, keys, 0, 1, 1.0)).tolist() == list(range(200))
        np.testing.assert_array_equal(step.rank(scores, keys, 0, 0, 1.0), first)

    def test_temperature_flattens(self) -> None:
        step = parse(method="resample", by="a", keep=KEEP)
        scores = np.linspace(0, 20, 5)
        assert order(step, scores, temperature=1e-3) == [4, 3, 2, 1, 0]
        assert order(step, scores, temperature=1e9) == order(step, np.zeros(5))


def test_a_resample_draws_in_proportion_to_the_weights() -> None:
    step = parse(method="resample", by="a", keep=KEEP)
    keys = np.arange(3, dtype=np.uint64)
    scores = {"a": np.log([1.0, 2.0, 5.0])}
    first = [int(np.argmin(step.rank(scores, keys, seed, 0, 1.0))) for seed in range(4000)]
    np.testing.assert_allclose(np.bincount(first) / 4000, [1 / 8, 2 / 8, 5 / 8], atol=0.03)


@pytest.mark.parametrize(
    ("allocate", "message"),
    [
        ({"mode": "fair"}, "proportional"),
        ({"per_gruop": {}}, r"unknown key `per_gruop` \(nearest: per_group\)"),
        ({"per_group": {"code": {"least": 1}}}, "unknown key `least`"),
        ({"per_group": {"code": {"min": 5}}}, r"5 is not a share of the total, 0 to 1; write \{documents: N\}"),
        ({"per_group": {"code": {"min": -0.1}}}, "not a share"),
        ({"per_group": {"code": {"min": 0.3, "max": 0.2}}}, "min 0.3 is above max 0.2"),
        ({"default": {"min": {"documents": 3}, "max": {"documents": 2}}}, "min 3 is above max 2"),
        ({"per_group": {"code": {"min": {"tokens": 2}}}}, "total is in documents, so bounds cannot be in tokens"),
        (
            {"per_group": {"code": {"min": {"documents": 1, "tokens": 2}}}},
            "takes one of documents, fraction and tokens",
        ),
        ({"per_group": {"a": {"min": 0.6}, "b": {"min": 0.5}}}, "add up to 1.1 of the total"),
        ({"per_group": {"a": {"min": {"documents": 2}}, "b": {"min": 0.5}}}, "add up to 3.5 of 3 documents"),
        ({"repeat": 4}, "`repeat` goes with a `min`"),
        ({"repeat": 0.5, "default": {"min": 0.1}}, "greater than or equal to 1"),
        ({"mode": "score_weighted"}, "`score` and the mode score_weighted go together"),
        ({"score": "a"}, "`score` and the mode score_weighted go together"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:30],
)
def test_a_split_that_cannot_be_is_refused(allocate: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        parse(method="top", by="a", keep=KEEP, allocate=allocate)


class TestAllocate:
    def test_is_an_alternative_to_within(self) -> None:
        with pytest.raises(ValidationError, match="not both"):
            parse(method="sample", keep=KEEP, within="group", allocate={})
        assert parse(method="sample", keep=KEEP, allocate={}).by_group
        assert parse(method="sample", keep=KEEP, within="group").by_group
        assert not parse(method="sample", keep=KEEP).by_group

    def test_floors_that_just_fit_are_accepted(self) -> None:
        floors = {"a": {"min": {"documents": 2}}, "b": {"min": {"documents": 1}}, 2024: {"max": {"documents": 1}}}
        step = parse(method="sample", keep=KEEP, allocate={"per_group": floors})
        assert list(step.allocate.per_group) == ["a", "b", "2024"]  # YAML reads such a group as a number
        thirds = {name: {"min": 0.1} for name in "abcdefghij"}  # of which floats make 0.9999999999999999
        assert parse(method="sample", keep={"fraction": 0.5}, allocate={"per_group": thirds})
        tokens = {"a": {"min": {"tokens": 2}}}
        assert parse(method="sample", keep={"tokens": 5}, allocate={"per_group": tokens})

    def test_survives_a_round_trip(self) -> None:
        bounds = {"code": {"min": 0.05, "max": {"documents": 2}}}
        step = parse(method="band", by="a", keep=KEEP, allocate={"mode": "equal", "per_group": bounds, "repeat": 4})
        assert STEPS.validate_python(step.model_dump(mode="json", exclude_none=True)) == step

    def test_needs_the_score_that_divides_and_is_not_ranked_by_it(self) -> None:
        weighted = {"mode": "score_weighted", "score": "b"}
        step = parse(method="resample", by="a", keep=KEEP, allocate=weighted)
        assert step.needs == ["a", "b"]
        scores = {"a": SCORES, "b": SCORES[::-1]}
        plain = parse(method="resample", by="a", keep=KEEP)
        assert step.rank(scores, KEYS, 0, 0, 1.0).tolist() == plain.rank(scores, KEYS, 0, 0, 1.0).tolist()
        assert parse(method="top", by="b", keep=KEEP, allocate=weighted).needs == ["b"]


@pytest.mark.parametrize(
    ("proportions", "shares"),
    [([3, 1], [Fraction(3, 4), Fraction(1, 4)]), ([0.1, 0.2], [Fraction(1, 3), Fraction(2, 3)])],
)
def test_proportions_are_exact(proportions: list[float], shares: list[Fraction]) -> None:
    step = Resample(method="resample", by=["a", "b"], proportions=proportions, keep=KEEP)  # type: ignore[arg-type]
    assert step.picks == shares


@pytest.mark.parametrize(
    ("bounds", "oracle"),
    [
        ({"min": 0.5}, lambda s: s >= 0.5),
        ({"max": 0.5}, lambda s: s <= 0.5),
        ({"min": 0.0, "max": 0.5}, lambda s: 0 <= s <= 0.5),
    ],
)
def test_threshold_includes_its_bounds(bounds: dict[str, float], oracle: Callable[[float], bool]) -> None:
    scores = np.array([-np.inf, -0.0, 0.0, 0.5, np.nextafter(0.5, 1), 1.0, np.inf])
    passes = Threshold(method="threshold", by="a", **bounds).passes(scores)  # type: ignore[arg-type]
    assert passes.tolist() == [oracle(score) for score in scores.tolist()]
