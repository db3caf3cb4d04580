"""Weights of whole runs: against the same numerics on all kept documents at once, and the same on any sharding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from finished_run import Finished, RunRecipe, write_parquet
from numpy.typing import NDArray
from pydantic import TypeAdapter
from spreads import spread_of
from tamis.connectors.errors import RecipeError
from tamis.selectors.weigh import AnyWeigher
from tamis.selectors.weighing import Weighing

WEIGHERS: dict[str, dict[str, Any]] = {
    "loss": {"method": "loss", "by": "loss", "temperature": 0.4},
    "cvar": {"method": "dro", "by": "loss", "ambiguity": "cvar", "alpha": 0.3, "within": "group"},
    "chi2": {"method": "dro", "by": "loss", "ambiguity": "chi2_ball", "radius": 0.5},
    "satimp": {"method": "saturation_importance", "by": "loss", "saturation": 5, "importance": 0.1, "within": "group"},
    "excess": {
        "method": "excess_loss",
        "by": "loss",
        "reference": "reference",
        "within": "group",
        "stabilise": [{"method": "pareto_smooth"}, {"method": "mix_uniform", "effective_sample_size": 0.6}],
    },
    "tempered": {
        "method": "importance",
        "by": "loss",
        "temperature": 1e-3,  # collapses, in a float64 too, but for its logarithm
        "stabilise": [{"method": "temper", "effective_sample_size": 0.5}, {"method": "clip", "ceiling": 3}],
    },
}


@pytest.fixture(scope="module")
def table(documents: pa.Table) -> pa.Table:
    rng = np.random.default_rng(0)
    loss = rng.gamma(4, 0.8, len(documents))
    reference = loss - rng.normal(0, 0.7, len(documents))
    columns = {"n": loss, "r": pa.array(np.where(np.arange(len(loss)) % 50 == 7, np.nan, reference), from_pandas=True)}
    for name, values in columns.items():
        documents = documents.append_column(name, pa.array(values))
    return documents


def recipe_of(table: pa.Table, folder: Path, weigh: dict[str, Any], files: int = 3) -> dict[str, Any]:
    paths = [write_parquet(table, folder / f"corpus-{files}", files)]
    return {
        "corpus": {"format": "parquet", "paths": paths, "id": "id", "group": "group", "shard_bytes": 20_000},
        "scores": {
            "loss": {"scorer": "column", "column": "n"},
            "reference": {"scorer": "column", "column": "r"},
        },
        "select": [{"method": "sample", "keep": {"fraction": 0.8}}],
        "weigh": weigh,
        "output": {"columns": ["loss", "reference"]},
    }


def expected(run: Finished, weigh: dict[str, Any]) -> NDArray[np.float64]:
    """Fit and weigh all kept documents in memory, one scope after the other."""
    weigher = TypeAdapter(AnyWeigher).validate_python(weigh)
    data = run.data
    groups = data["group"].to_numpy(zero_copy_only=False) if weigher.within else np.zeros(len(data))
    weights = np.ones(len(data))
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        scores = {name: data[name].to_numpy()[rows] for name in ("loss", "reference")}
        signal = weigher.signal(scores)
        rows, scores = rows[~np.isnan(signal)], {n: v[~np.isnan(signal)] for n, v in scores.items()}
        none, weighing = np.zeros(len(rows), np.int64), Weighing(weigher)
        first = weigher.fit(spread_of(weighing.signal(scores, none))) if weigher.fits else {}
        weighing = weighing.with_stage([first])
        for stabiliser in weigher.stabilise:
            weighing = weighing.with_stage([stabiliser.fit(spread_of(weighing.log_weights(scores, none)))])
        logs = weighing.log_weights(scores, none)
        part = np.exp(logs - logs.max())
        weights[rows] = part / part.mean()
    return weights


@pytest.mark.parametrize("name", WEIGHERS)
def test_a_run_weighs_as_all_of_it_at_once(name: str, table: pa.Table, run_recipe: RunRecipe, tmp_path: Path) -> None:
    weigh = WEIGHERS[name]
    run = run_recipe(recipe_of(table, tmp_path, weigh))
    weights = run.data["weight"].to_numpy().astype(np.float64)
    np.testing.assert_allclose(weights, expected(run, weigh), rtol=1e-3, atol=1e-5)  # grids differ in their bins
    assert weights.mean() == pytest.approx(1, abs=1e-6)
    if weigh.get("within"):
        means = run.data.group_by("group").aggregate([("weight", "mean")])["weight_mean"].to_numpy()
        np.testing.assert_allclose(means, 1, rtol=1e-6)
    if name == "excess":
        without = run.data.filter(pc.is_null(run.data["reference"]))
        assert len(without) > 3 and set(without["weight"].to_pylist()) == {1.0}
        assert any(
            f"{len(without)} kept documents have no `loss` or `reference`" in w for w in run.manifest["warnings"]
        )
    if name == "tempered":
        assert run.manifest["weights"]["effective_sample_size"] >= 0.5 * len(weights)


def test_figures_of_the_run_and_of_each_group(table: pa.Table, run_recipe: RunRecipe, tmp_path: Path) -> None:
    run = run_recipe(recipe_of(table, tmp_path, {"method": "importance", "by": "loss", "temperature": 0.7}))
    manifest, data = run.manifest, run.data
    of_groups = {row["group"]: row for row in manifest["groups"]}
    assert len(of_groups) > 3
    parts = {"": (manifest["weights"], data)}
    parts |= {g: (row, data.filter(pc.equal(data["group"], g))) for g, row in of_groups.items()}
    for figures, part in parts.values():
        w = np.sort(part["weight"].to_numpy().astype(np.float64))[::-1]
        assert figures["effective_sample_size"] == pytest.approx(w.sum() ** 2 / (w @ w))
        assert figures["coefficient_of_variation"] == pytest.approx(w.std() / w.mean())
        assert figures["top_1_percent_share"] == pytest.approx(w[: -(-len(w) // 100)].sum() / w.sum())
    assert manifest["weights"]["pareto_k"] > 0.3
    told = " ".join(manifest["warnings"])
    assert "weighted documents say as much as" in told and "stabilise" in told


def test_the_same_bytes_on_any_workers_and_the_same_weights_on_any_files(
    table: pa.Table, run_recipe: RunRecipe, tmp_path: Path
) -> None:
    weigh = WEIGHERS["excess"] | {
        "stabilise": [{"method": "monotone", "by": "loss", "reward": "reference"}, {"method": "clip"}]
    }
    recipe = recipe_of(table, tmp_path, weigh)
    one = run_recipe(recipe, "one")
    two = run_recipe(recipe, "two", workers=2, beam_options=["--direct_runner_bundle_repeat=1"])
    assert one.data_bytes == two.data_bytes
    fitted = [(run.outcome.path / "fitted" / "weights.json").read_bytes() for run in (one, two)]
    assert fitted[0] == fitted[1]
    weigh = WEIGHERS["tempered"]
    by_id = []
    for files in (1, 7):
        run = run_recipe(recipe_of(table, tmp_path, weigh, files), f"files-{files}")
        by_id.append(dict(zip(run.data["id"].to_pylist(), run.data["weight"].to_pylist(), strict=True)))
    assert by_id[0] == by_id[1]


def test_class_balanced_makes_groups_count_alike(table: pa.Table, run_recipe: RunRecipe, tmp_path: Path) -> None:
    run = run_recipe(recipe_of(table, tmp_path, {"method": "class_balanced", "kind": "inverse_frequency"}))
    sums = run.data.group_by("group").aggregate([("weight", "sum")])["weight_sum"].to_numpy()
    np.testing.assert_allclose(sums, sums[0], rtol=1e-5)
    assert not any("tail" in line for line in run.manifest["warnings"])


def test_continued_runs_weigh_by_what_was_fitted(table: pa.Table, run_recipe: RunRecipe, tmp_path: Path) -> None:
    weigh = WEIGHERS["loss"] | {"stabilise": [{"method": "clip", "ceiling": 1.1}]}
    recipe = recipe_of(table.slice(0, 400), tmp_path, weigh, 1)
    del recipe["select"]
    first = run_recipe(recipe, "first")
    new = table.slice(400, 100)
    new = new.set_column(new.column_names.index("n"), "n", pa.array(np.linspace(0, 50, len(new))))
    pa.parquet.write_table(new, tmp_path / "corpus-1" / "new.parquet")
    second = run_recipe(recipe | {"since": str(first.outcome.path)}, "second")
    assert second.data.num_rows == 100
    old, late = (run.data.sort_by("loss") for run in (first, second))
    weights = np.interp(late["loss"].to_numpy(), old["loss"].to_numpy(), old["weight"].to_numpy())
    np.testing.assert_allclose(late["weight"].to_numpy(), weights, atol=0.02)  # one curve; beyond its ends it is flat
    assert late["weight"].to_numpy().max() == old["weight"].to_numpy().max()


@pytest.mark.parametrize(
    ("weigh", "says"),
    [
        ({"method": "focal", "by": "nothing"}, "no scorer makes the column `nothing`"),
        ({"method": "focal", "by": "loss", "within": "group"}, "the corpus has no `group`"),
        ({"method": "focall", "by": "loss"}, "there is no method `focall` .nearest: focal"),
        (
            {"method": "focal", "by": "loss", "stabilise": [{"method": "clipp"}]},
            "weigh.stabilise.0: there is no method `clipp` .nearest: clip",
        ),
    ],
)
def test_mistakes_are_found_before_data_is_read(
    weigh: dict[str, Any], says: str, table: pa.Table, run_recipe: RunRecipe, tmp_path: Path
) -> None:
    recipe = recipe_of(table, tmp_path, weigh)
    del recipe["corpus"]["group"]
    with pytest.raises(RecipeError, match=says):
        run_recipe(recipe)
