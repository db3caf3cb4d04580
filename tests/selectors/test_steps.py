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
from tamis.selectors.steps import METHODS, RankStep, Resample, Threshold

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
        ({"method": "top", "by": "a", "keep": KEEP, "within": "id"}, "within"),
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
