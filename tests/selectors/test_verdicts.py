"""What is said of documents whose group has no cut, since it came after the run that made the cuts."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from tamis.jobs.explain import verdict_line
from tamis.selectors.cuts import Cuts
from tamis.selectors.decide import DecidedStep, Pick
from tamis.selectors.steps import Top
from tamis.selectors.verdicts import Document, verdicts


@pytest.mark.parametrize("group", [1, 7], ids=["nothing is inside the cut", "no cut"])
def test_a_group_without_a_cut_keeps_nothing_and_has_no_bound(group: int) -> None:
    one = np.ones(1, np.uint64)
    scores = {"quality": np.array([3.0]), "topic": np.array([float(group)])}
    document = Document(one, one, np.zeros(1, np.int64), np.ones(1, np.int64), scores)
    step = Top(method="top", by="quality", keep={"fraction": 0.5}, allocate={"by": "topic"}, name="best")
    bounds = [np.array([5, 0], np.uint64)] * 3
    cuts = Cuts(*bounds, np.zeros(2, np.bool_), np.array([9, 0]), np.array([9, 0]))
    [found] = verdicts(document, [DecidedStep(step, [Pick(cuts)])], seed=0)
    assert found.reason == "best" and found.trials[0].margin is None
    assert verdict_line(found) == "best (top) dropped it: quality 3, and nothing of its group was kept"
    json.dumps(asdict(found), allow_nan=False)
