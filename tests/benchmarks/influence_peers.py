"""What `linear_datamodelling_peers.py` compares with: other tools' influences of documents of a language model.

Not run by itself. All read the same tokens in the same windows as Tamis, in float32, a document being one example of
theirs: `Reader` keeps its windows apart by its mask. Documents come longest first, so that little is padded.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
from transformers import AutoModelForCausalLM

BATCH, SMALL_BATCH = 16, 4
"""Documents that are read together: more where a projection is made anew for each batch, fewer where caches count."""

REGULARISATION = (1e-2, 1e-1, 1.0, 10.0)
"""Of TRAK's kernel, as shares of its mean eigenvalue."""

DAMPINGS = (None, 0.1, 1.0)
"""Of LoGra in dattri, as shares of a layer's mean eigenvalue; None is its default."""


@dataclass
class Texts:
    """What influences are between. model: folder; documents, queries: tokens of each; dimension: numbers of a gradient;
    found: influences [documents, queries] by name; costs: wall and processor seconds of each."""

    model: str
    context: int
    documents: list[torch.Tensor]
    queries: list[torch.Tensor]
    dimension: int
    found: dict[str, np.ndarray] = field(default_factory=dict)
    costs: dict[str, tuple[float, float]] = field(default_factory=dict)

    @contextmanager
    def timed(self, *names: str) -> Iterator[None]:
        """Add the time of a block to the cost of some ways."""
        wall, processor = time.perf_counter(), time.process_time()
        yield
        taken = time.perf_counter() - wall, time.process_time() - processor
        for name in names:
            known = self.costs.get(name, (0.0, 0.0))
            self.costs[name] = known[0] + taken[0], known[1] + taken[1]


class Reader(torch.nn.Module):
    """A language model whose loss is the sum of the documents' mean losses; windows of `context` tokens are apart."""

    def __init__(self, folder: str, context: int) -> None:
        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        self.context = context
        head = self.model.get_output_embeddings()
        linear = [name for name, layer in self.named_modules() if isinstance(layer, torch.nn.Linear)]
        self.layers = [name for name in linear if self.get_submodule(name) is not head]
        self.weights = [f"{name}.weight" for name in self.layers]

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        place = torch.arange(tokens.shape[1])
        window = place // self.context
        seen = (window[:, None] == window) & (place[:, None] >= place)
        mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min).expand(len(tokens), 1, -1, -1)
        positions = (place % self.context).expand(len(tokens), -1)
        found = self.model(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False)
        return found.logits

    def means(self, tokens: torch.Tensor, targets: torch.Tensor, logits: torch.Tensor | None = None) -> torch.Tensor:
        logits = self.logits(tokens) if logits is None else logits
        losses = torch.nn.functional.cross_entropy(logits.mT, targets.clamp(min=0), reduction="none")
        there = targets >= 0
        return (losses * there).sum(1) / there.sum(1)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=self.means(tokens, targets).sum())


def padded(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens, and what is to be predicted at each: -1 for nothing."""
    tokens = torch.nn.utils.rnn.pad_sequence([row[:-1] for row in rows], batch_first=True)
    return tokens, torch.nn.utils.rnn.pad_sequence([row[1:] for row in rows], batch_first=True, padding_value=-1)


def by_name(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(zip(("tokens", "targets"), padded(rows), strict=True))


def loaders(texts: Texts, collate: Callable, batch: int) -> list[torch.utils.data.DataLoader]:
    return [
        torch.utils.data.DataLoader(rows, batch_size=batch, collate_fn=collate)
        for rows in (texts.documents, texts.queries)
    ]


def losses(texts: Texts, rows: list[torch.Tensor]) -> np.ndarray:
    """Return the mean loss of each document: to see that all read alike."""
    reader = Reader(texts.model, texts.context)
    with torch.inference_mode():
        parts = [reader.means(*padded(rows[begin : begin + BATCH])) for begin in range(0, len(rows), BATCH)]
    return torch.cat(parts).numpy()


def dattri_trak(texts: Texts) -> None:
    """TRAK of dattri, whose output function is the margin of a token's mean probability, as in its language example.

    Its projections are kept, and its last step is taken for each regularisation.
    """
    from dattri.algorithm import trak
    from dattri.task import AttributionTask

    reader = Reader(texts.model, texts.context)

    def loss(parameters: object, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        one = tuple(part[None] for part in batch)
        return torch.func.functional_call(reader, parameters, one).loss

    def margin(parameters: object, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        nll = loss(parameters, batch)
        return -nll - torch.log1p(-torch.exp(-nll))

    def probability(parameters: object, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return torch.exp(-loss(parameters, batch))

    features: list[torch.Tensor] = []
    project = trak.random_project

    def kept(*arguments: object, **settings: object) -> Callable[..., torch.Tensor]:
        def projected(*given: object, **named: object) -> torch.Tensor:
            features.append(project(*arguments, **settings)(*given, **named).detach().clone())
            return features[-1]

        return projected

    trak.random_project = kept
    names = [f"dattri trak, λ {share:g}" for share in REGULARISATION]
    with texts.timed(*names):
        attributor = trak.TRAKAttributor(
            AttributionTask(margin, reader, reader.state_dict()),
            probability,
            {"proj_dim": texts.dimension, "proj_max_batch_size": 32, "proj_seed": 0, "device": "cpu"},
            layer_name=reader.weights,
            regularization=1.0,
        )
        documents, queries = loaders(texts, padded, BATCH)
        attributor.cache(documents)
        count = len(features)
        with torch.no_grad():
            told = attributor.attribute(queries)
    first, second = torch.cat(features[:count]), torch.cat(features[count:])
    assert torch.allclose(trak_formula(first, second, attributor.Q, 1.0), told, rtol=1e-3, atol=1e-6)
    size = first.square().sum().item() / texts.dimension
    for name, share in zip(names, REGULARISATION, strict=True):
        with texts.timed(name):
            texts.found[name] = trak_formula(first, second, attributor.Q, share * size).numpy()


def trak_formula(first: torch.Tensor, second: torch.Tensor, unlearnt: torch.Tensor, level: float) -> torch.Tensor:
    kernel = first.T @ first + level * torch.eye(first.shape[1])
    return (second @ torch.linalg.solve(kernel, first.T) * unlearnt).T


def traker(texts: Texts) -> None:
    """TRAK by its authors, with their projector for processors; the same output function."""
    from trak import TRAKer
    from trak.modelout_functions import AbstractModelOutput

    class Margin(AbstractModelOutput):
        def __init__(self) -> None:
            super().__init__()

        @staticmethod
        def get_output(model, weights, buffers, tokens, targets):
            nll = torch.func.functional_call(model, (weights, buffers), (tokens[None], targets[None])).loss
            return -nll - torch.log1p(-torch.exp(-nll))

        @staticmethod
        def get_out_to_loss_grad(model, weights, buffers, batch):
            with torch.no_grad():
                return 1 - torch.exp(-model.means(*batch))[:, None]

    reader = Reader(texts.model, texts.context)
    names = [f"traker, λ {share:g}" for share in REGULARISATION]
    with tempfile.TemporaryDirectory() as folder:
        with texts.timed(*names):
            one = TRAKer(
                reader,
                Margin(),
                len(texts.documents),
                save_dir=folder,
                device="cpu",
                proj_dim=texts.dimension,
                use_half_precision=False,
                grad_wrt=reader.weights,
                logging_level=30,
            )
            documents, queries = loaders(texts, padded, BATCH)
            one.load_checkpoint(reader.state_dict(), 0)
            for batch in documents:
                one.featurize(batch, num_samples=len(batch[0]))
            one.start_scoring_checkpoint("queries", reader.state_dict(), 0, len(texts.queries))
            one.saver.model_ids[0]["is_finalized"] = 1  # queries are read once, and solved for below
            for batch in queries:
                one.score(batch, num_samples=len(batch[0]))
        features = torch.as_tensor(one.saver.current_store["grads"])
        size = features.square().sum().item() / texts.dimension
        for name, share in zip(names, REGULARISATION, strict=True):
            with texts.timed(name):
                one.score_computer.lambda_reg = share * size
                one.saver.model_ids[0]["is_finalized"] = 0
                one.projector.proj_matrix = None  # that it deletes each time
                one.finalize_features()
                texts.found[name] = np.array(one.finalize_scores("queries"), np.float64)


def dattri_logra(texts: Texts) -> None:
    """LoGra of dattri, with as many numbers for each layer as the nearest square."""
    from dattri.algorithm.logra import LoGraAttributor
    from dattri.task import AttributionTask

    def loss(model: torch.nn.Module, batch: dict[str, torch.Tensor], device: str) -> torch.Tensor:
        return model(**batch).loss

    ways = [("identity", "Identity", None)]
    ways += [(f"fisher, damping {'default' if one is None else one}", "eFIM", one) for one in DAMPINGS]
    for label, hessian, damping in ways:
        name = f"dattri logra, {label}"
        reader = Reader(texts.model, texts.context)
        side = round(math.sqrt(texts.dimension / len(reader.layers)))
        with texts.timed(name), tempfile.TemporaryDirectory() as folder:
            task = AttributionTask(loss_func=loss, model=reader, checkpoints=reader.state_dict())
            attributor = LoGraAttributor(
                task, reader.layers, hessian, damping, proj_dim=side * side, offload="none", cache_dir=folder
            )
            documents, queries = loaders(texts, by_name, SMALL_BATCH)
            attributor.cache(documents)
            texts.found[name] = attributor.attribute(documents, queries).detach().numpy()


def kronfluence(texts: Texts) -> None:
    """Whole gradients, by EK-FAC with labels drawn from the model, and without curvature."""
    from kronfluence import Analyzer, FactorArguments, ScoreArguments, Task, prepare_model
    from kronfluence.utils.dataset import DataLoaderKwargs

    reader = Reader(texts.model, texts.context)

    class LossTask(Task):
        def compute_train_loss(self, batch, model, sample=False):
            if not sample:
                return model(**batch).loss
            logits = model.logits(batch["tokens"])
            drawn = torch.distributions.Categorical(logits=logits.detach()).sample()
            labels = torch.where(batch["targets"] >= 0, drawn, -1)
            return torch.nn.functional.cross_entropy(logits.mT, labels, ignore_index=-1, reduction="sum")

        def compute_measurement(self, batch, model):
            return model(**batch).loss

        def get_influence_tracked_modules(self):
            return reader.layers

    task = LossTask()
    model = prepare_model(reader, task)
    dampings = {"": 1e-8, ", heuristic damping": None}
    ways = {"identity": {"": 1e-8}, "ekfac": dampings}
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer("peer", model, task, cpu=True, disable_tqdm=True, output_dir=folder)
        analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=by_name))
        for strategy, settings in ways.items():
            names = {label: f"kronfluence {strategy}{label}" for label in settings}
            with texts.timed(*names.values()):
                arguments = FactorArguments(strategy=strategy)
                analyzer.fit_all_factors(strategy, texts.documents, SMALL_BATCH, factor_args=arguments)
            for label, damping in settings.items():
                with texts.timed(names[label]):
                    analyzer.compute_pairwise_scores(
                        names[label].replace(" ", "_"),
                        strategy,
                        texts.queries,
                        texts.documents,
                        len(texts.queries),
                        SMALL_BATCH,
                        score_args=ScoreArguments(damping_factor=damping),
                    )
                    scores = analyzer.load_pairwise_scores(names[label].replace(" ", "_"))["all_modules"]
                    texts.found[names[label]] = scores.T.numpy()


PEERS: dict[str, Callable[[Texts], None]] = {
    "dattri_trak": dattri_trak,
    "traker": traker,
    "dattri_logra": dattri_logra,
    "kronfluence": kronfluence,
}
