"""The reference model's share of the corpus: drawn by key, disjoint from what is selected."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from tamis.connectors.keys import keyed_uniform
from tamis.selectors.reference_split import ReferenceSplit, in_reference_split, in_validation

KEYS = np.random.default_rng(1).integers(0, 2**64, 20_000, dtype=np.uint64)


def test_the_share_is_drawn_by_key_and_grows() -> None:
    small, large = in_reference_split(KEYS, 0.02, 3), in_reference_split(KEYS, 0.1, 3)
    assert abs(small.mean() - 0.02) < 0.005
    assert not (small & ~large).any() and large.sum() > small.sum()
    order = np.random.default_rng(2).permutation(len(KEYS))
    assert (in_reference_split(KEYS[order], 0.02, 3) == small[order]).all()
    assert (small != in_reference_split(KEYS, 0.02, 4)).any()
    assert (small == (keyed_uniform(3, "reference_split", KEYS) < 0.02)).all()


def test_the_step_keeps_all_others_and_has_the_reason() -> None:
    step = ReferenceSplit.model_validate({"method": "reference_split", "fraction": 0.02, "seed": 3})
    assert step.name == "reference_split" and step.needs == []
    assert (step.passes(KEYS) ^ in_reference_split(KEYS, 0.02, 3)).all()
    for fraction in (0, 1):
        with pytest.raises(ValidationError):
            ReferenceSplit.model_validate({"method": "reference_split", "fraction": fraction, "seed": 3})


def test_documents_for_validation_are_drawn_apart_from_the_share() -> None:
    inside = KEYS[in_reference_split(KEYS, 0.5, 3)]
    assert abs(in_validation(inside, 3).mean() - 0.05) < 0.01
    assert abs(in_validation(KEYS, 3).mean() - 0.05) < 0.01
