"""Linear datamodelling scores of influence on a small classifier: softmax regression on short labelled texts.

    python tests/benchmarks/linear_datamodelling.py --texts 'labelled/*.parquet' --classes 10

The truth are the losses of `--subsets` heads, trained to their minimum on random halves of `--documents` texts, on
`--queries` others. Features are TF-IDF, reduced to `--features` numbers by SVD. All ways have one head, trained on all
documents, and gradients of `--dimension` numbers, but for those called exact. Seconds are of all influences, once.

With a Python that has `dattri` beside Tamis, its TRAK, TracIn and explicit influence function are measured too.
"""

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tamis.scoring.datainf import datainf_queries
from tamis.scoring.datamodelling import datamodelling_score, random_halves
from tamis.scoring.feature_products import feature_products
from tamis.scoring.gradient_covariance import GradientCovariance
from tamis.scoring.gradient_projection import layer_projections
from tamis.scoring.less import unit_rows
from tamis.scoring.linear_head import head_gradients, softmax_residuals, with_bias
from tamis.scoring.trak import trak_scores

Array = NDArray[np.floating]
REGULARISATION = (1e-2, 1e-1, 1.0, 10.0)
"""Of TRAK's kernel, as shares of its mean eigenvalue, for each of the two."""

DAMPINGS = (0.01, 0.1, 1.0)
"""Of the Fisher information; 0.1 is Tamis' default."""


class Setting:
    """Documents and queries with their labels, and a head that is trained on the documents."""

    def __init__(self, options: argparse.Namespace) -> None:
        pattern = Path(options.texts)
        found = sorted(pattern.parent.glob(pattern.name))
        table = pa.concat_tables([pq.read_table(path, columns=["text", "label"]) for path in found])
        table = table.filter(pa.compute.less(table["label"], options.classes))
        random = np.random.default_rng(0)
        rows = random.permutation(len(table))[: options.documents + options.queries]
        texts = table["text"].take(pa.array(rows)).to_pylist()
        self.labels = table["label"].to_numpy()[rows].astype(np.int64)
        sparse = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
        dense = TruncatedSVD(options.features, random_state=0).fit_transform(sparse)
        self.inputs = with_bias(dense / np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1e-9))
        self.n, self.classes, self.strength = options.documents, options.classes, options.strength
        self.weights = self.trained(np.ones(self.n, np.bool_))
        self.residuals = softmax_residuals(self.inputs, self.labels, self.weights)

    def trained(self, taken: NDArray[np.bool_]) -> Array:
        head = LogisticRegression(C=self.strength, fit_intercept=False, tol=1e-6, max_iter=2000)
        head.fit(self.inputs[: self.n][taken], self.labels[: self.n][taken])
        weights = np.zeros((self.classes, self.inputs.shape[1]))
        weights[head.classes_] = head.coef_
        return weights

    def losses(self, weights: Array) -> Array:
        logits = self.inputs[self.n :] @ weights.T
        top = logits.max(axis=1)
        return (
            top
            + np.log(np.exp(logits - top[:, None]).sum(axis=1))
            - logits[np.arange(len(logits)), self.labels[self.n :]]
        )

    def hessian(self) -> Array:
        inputs = self.inputs[: self.n].astype(np.float64)
        logits = inputs @ self.weights.T
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        size = self.weights.size
        whole = np.zeros((self.classes, inputs.shape[1]) * 2)
        for a in range(self.classes):
            for b in range(self.classes):
                share = p[:, a] * ((a == b) - p[:, b])
                whole[a, :, b, :] = (inputs * share[:, None]).T @ inputs
        return whole.reshape(size, size) + np.eye(size) / self.strength


def ours(setting: Setting, dimension: int) -> dict[str, Callable[[], Array]]:
    """Return Tamis' ways, each of which gives influences [documents, queries]."""
    shape = (setting.inputs.shape[1], setting.classes)
    projection = layer_projections({"head": shape}, dimension, "random", 0)["head"]

    def features() -> tuple[Array, Array]:
        found = head_gradients(setting.inputs, setting.residuals, projection).astype(np.float16)
        return found[: setting.n], found[setting.n :]

    def by(precondition: Callable[[Array, Array], Array], normalise: bool = False) -> Callable[[], Array]:
        def scores() -> Array:
            documents, queries = features()
            moved = precondition(documents, queries.astype(np.float64)).astype(np.float32)
            products, lengths = feature_products(documents, moved)
            return products / np.maximum(lengths, 1e-9)[:, None] if normalise else products

        return scores

    def fisher(damping: float) -> Callable[[Array, Array], Array]:
        def precondition(documents: Array, queries: Array) -> Array:
            return GradientCovariance.of(documents, [documents.shape[1]]).preconditioned(queries, damping)

        return precondition

    def exact() -> Array:
        whole = head_gradients(setting.inputs, setting.residuals).astype(np.float64)
        return whole[: setting.n] @ np.linalg.solve(setting.hessian(), whole[setting.n :].T)

    def trak(share: float) -> Callable[[], Array]:
        def scores() -> Array:
            # the margin's gradient is the loss's, negated and divided by 1 - p
            unlearnt = -setting.residuals[np.arange(len(setting.labels)), setting.labels]
            documents, queries = features()
            scale = np.maximum(unlearnt, 1e-4)[:, None]
            margins = [part / scale[s] for part, s in zip((documents, queries), _parts(setting), strict=True)]
            level = share * np.square(margins[0].astype(np.float64)).sum() / dimension
            return trak_scores([margins[0]], [margins[1]], [unlearnt[: setting.n]], level)

        return scores

    return {
        "exact Hessian": exact,
        **{f"fisher (LoGra), damping {share:g}": by(fisher(share)) for share in DAMPINGS},
        "fisher, per norm, damping 0.1": by(fisher(0.1), normalise=True),
        "datainf": by(lambda documents, queries: datainf_queries(documents, queries, [documents.shape[1]])),
        "grad-dot": by(lambda _, queries: queries),
        "grad-cos": by(lambda _, queries: unit_rows(queries), normalise=True),
        **{f"trak, λ {share:g}": trak(share) for share in REGULARISATION},
    }


def _parts(setting: Setting) -> tuple[slice, slice]:
    return slice(setting.n), slice(setting.n, None)


def dattri(setting: Setting, dimension: int) -> dict[str, Callable[[], Array]]:
    """Return the ways of dattri, through its own interface."""
    import torch
    from dattri.algorithm.influence_function import IFAttributorExplicit
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.algorithm.trak import TRAKAttributor
    from dattri.task import AttributionTask
    from torch.utils.data import DataLoader, TensorDataset

    model = torch.nn.Linear(setting.inputs.shape[1], setting.classes, bias=False)
    model.weight.data = torch.from_numpy(setting.weights).float()
    inputs, labels = torch.from_numpy(setting.inputs), torch.from_numpy(setting.labels)
    loaders = [DataLoader(TensorDataset(inputs[part], labels[part]), batch_size=256) for part in _parts(setting)]

    def logits(parameters: object, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        rows, wanted = (one.unsqueeze(0) if one.dim() < size else one for one, size in zip(batch, (2, 1), strict=True))
        return torch.func.functional_call(model, parameters, rows), wanted

    def loss(parameters: object, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(*logits(parameters, batch))

    def margin(parameters: object, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        nll = loss(parameters, batch)
        return -nll - torch.log1p(-torch.exp(-nll))

    def probability(parameters: object, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return torch.exp(-loss(parameters, batch))

    def task(target: object = None) -> AttributionTask:
        return AttributionTask(loss if target is None else target, model, model.state_dict(), target_func=target)

    projector = {"proj_dim": dimension, "proj_max_batch_size": 32, "proj_seed": 0, "device": "cpu"}

    def trak(share: float) -> Callable[[], Array]:
        def scores() -> Array:
            first = TRAKAttributor(task(margin), probability, dict(projector))
            first.cache(loaders[0])
            # its kernel's mean eigenvalue, which it does not tell: that of K from K⁻¹ Φᵀ
            size = torch.linalg.svdvals(first.inv_XTX_XT_list[0].double()).pow(-2).mean().item()
            attributor = TRAKAttributor(task(margin), probability, dict(projector), regularization=share * size)
            attributor.cache(loaders[0])
            with torch.no_grad():
                return attributor.attribute(loaders[1]).numpy()

        return scores

    def explicit() -> Array:
        attributor = IFAttributorExplicit(task(), regularization=1 / (setting.strength * setting.n))
        attributor.cache(loaders[0])
        with torch.no_grad():
            return attributor.attribute(loaders[0], loaders[1]).numpy()

    def tracin(normalised: bool) -> Callable[[], Array]:
        def scores() -> Array:
            attributor = TracInAttributor(
                task(), weight_list=torch.ones(1), normalized_grad=normalised, projector_kwargs=dict(projector)
            )
            with torch.no_grad():
                return attributor.attribute(loaders[0], loaders[1]).numpy()

        return scores

    return {
        "dattri exact Hessian": explicit,
        "dattri grad-dot": tracin(False),
        "dattri grad-cos": tracin(True),
        **{f"dattri trak, λ {share:g}": trak(share) for share in REGULARISATION},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", required=True)
    for name, default in {
        "classes": 10,
        "documents": 600,
        "queries": 150,
        "features": 64,
        "dimension": 512,
        "subsets": 100,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--strength", type=float, default=3.0, help="C of the regression: 1 / ridge")
    options = parser.parse_args()
    setting = Setting(options)
    taken = random_halves(np.arange(setting.n, dtype=np.uint64), options.subsets, 0)
    losses = np.stack([setting.losses(setting.trained(half)) for half in taken])
    ways = ours(setting, options.dimension)
    if importlib.util.find_spec("dattri") is not None:
        ways |= dattri(setting, options.dimension)
    found = {}
    for name, way in ways.items():
        way()
        started = time.perf_counter()
        try:
            influences = way()
        except Exception as error:  # whatever a peer raises is its result
            print(f"{name:32} failed: {type(error).__name__}: {str(error)[:100]}")
            continue
        seconds = time.perf_counter() - started
        score = datamodelling_score(taken, np.asarray(influences, np.float64), losses)
        found[name] = {"score": score.value, "low": score.low, "high": score.high, "seconds": seconds}
    for name, row in sorted(found.items(), key=lambda item: -item[1]["score"]):
        print(f"{name:32} {row['score']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] {row['seconds']:8.3f} s")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
