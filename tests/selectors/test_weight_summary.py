"""Figures of weights against plain NumPy, and the gates in plain words."""

import math

import numpy as np
import pytest
from spreads import spread_of
from tamis.selectors.tail import fit_tail, hill_index, hill_length, reliable_shape, tail_length
from tamis.selectors.weight_summary import WeightSummary, equal_weights, findings, summarise


@pytest.mark.parametrize("n", [300, 20_000])
def test_figures_are_those_of_the_weights(n: int) -> None:
    logs = np.random.default_rng(n).normal(size=n) * 1.3 - 40
    logs[:5] = -np.inf
    found, w = summarise(spread_of(logs)), np.exp(logs)
    figures = found.figures()
    assert figures["effective_sample_size"] == pytest.approx(w.sum() ** 2 / (w @ w))
    assert figures["coefficient_of_variation"] == pytest.approx(w.std() / w.mean())
    assert figures["max_over_mean"] == pytest.approx(w.max() / w.mean())
    heavy = np.sort(w)[::-1]
    for percent in (1, 5):
        share = heavy[: -(-n * percent // 100)].sum() / w.sum()
        assert figures[f"top_{percent}_percent_share"] == pytest.approx(share, rel=1e-3)
    assert figures["near_zero_share"] == pytest.approx(np.mean(w < 1e-3 * w.mean()), abs=1e-3)
    assert figures["affinity"] == pytest.approx(np.mean(np.sqrt(w / w.mean())), rel=1e-4)
    ordered = np.sort(logs)
    assert figures["pareto_k"] == fit_tail(ordered[-tail_length(n) - 1 :]).shape
    assert figures["hill_index"] == pytest.approx(hill_index(ordered[-hill_length(n) - 1 :]), rel=1e-3)


def test_weights_of_a_few_kinds_have_no_tail() -> None:
    logs = np.log(np.repeat([1.0, 2.0, 30.0], [500, 300, 200]))
    figures = summarise(spread_of(logs)).figures()
    assert figures["pareto_k"] is None and figures["hill_index"] is None
    assert not any(finding.kind.startswith("tail") for finding in findings(summarise(spread_of(logs))))
    assert summarise(spread_of(np.zeros(1000))) == equal_weights(1000)


def summary(ess: float = 0.5, **known: float | None) -> WeightSummary:
    return WeightSummary(1000, 1000.0, 1000.0 / ess, **known)


def test_good_weights_raise_no_warning() -> None:
    assert findings(summary(
        0.5, pareto_k=0.4, hill=3.0, top_5_percent_share=0.2, near_zero_share=0.5, affinity=0.9,
    )) == []  # fmt: skip
    assert findings(summary(0.5)) == []
    assert findings(WeightSummary(1000, 1000.0, 1000.0, pareto_k=math.nan, hill=math.inf)) == []  # equal weights
    assert findings(WeightSummary(1, 1.0, 1.0)) == [] == findings(WeightSummary(0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("field", "value", "grade", "says"),
    [("pareto_k", 0.68, "warning", "heavy"), ("pareto_k", 0.8, "warning", "heavy"), ("pareto_k", 1.1, "critical", "k"),
     ("pareto_k", math.inf, "critical", "k ="), ("pareto_k", math.nan, "warning", "unknown"),
     ("hill", 1.5, "warning", "variance"), ("hill", 0.9, "critical", "mean"), ("hill", math.nan, "warning", "unknown"),
     ("top_5_percent_share", 0.31, "warning", "31%"), ("near_zero_share", 0.9, "warning", "90%"),
     ("affinity", 0.6, "warning", "60%"), ("affinity", 0.4, "critical", "40%"),
     ("ess", 0.29, "warning", "290"), ("ess", 0.05, "critical", "50 "),
     ],
)  # fmt: skip
def test_each_gate_speaks_for_itself(field: str, value: float, grade: str, says: str) -> None:
    found = [f for f in findings(summary(**{field: value})) if f.kind != "variation"]
    assert len(found) == 1 and found[0].grade == grade and says in found[0].says


def test_few_documents_need_a_lighter_tail() -> None:
    assert reliable_shape(10**9) == 0.7 and reliable_shape(100) == pytest.approx(0.5)
    assert any(finding.kind == "variation" for finding in findings(summary(0.15)))
    assert [f.says for f in findings(WeightSummary(10, 0.0, 0.0))] == ["all weights are zero"]
