"""Weights inside a training loop: by the losses of a batch, of all ranks together, with a warm-up and resumable.

    reweighter = LossReweighter("lin_upper", ((0, math.inf), (1000, 0.4)))
    for batch in batches:
        loss = ...                                          # [m], mean negative log-likelihood of each sequence
        (reweighter(loss) * batch["weight"] * loss).mean().backward()

No gradient passes through a weight, so `loss` may be detached or not. Where `torch.distributed` is initialised, the
losses of all ranks are one batch: each rank calls with its own rows, at the same steps, and gets the weights of these.
Averaged over ranks by DDP or FSDP, `(weights * loss).mean()` then is the mean over the global batch if ranks have
equally many rows; if not, multiply the sum by the number of ranks and divide by the number of all rows. A batch is what
one call sees: with gradient accumulation each micro-batch is weighed for itself, as in published code, and `step=` is
then the optimiser's. A sequence without labels has the loss NaN and the weight 0; as 0 times NaN is NaN, leave it out
of the sum. NumPy arrays work as well, on one process.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from .array_namespace import Array, as_floats, namespace, on_host
from .loss_weights import SHAPES, batch_weights, temperature_at
from .robust_duals import CvarCut, chi2_ball_threshold, chi2_penalty_threshold, cvar_cut, kl_ball_temperature
from .robust_weights import cvar_weights, log_mean_exp, running_log_mean
from .stepwise import Stepwise, check_name, mean_one_factor, ones_where
from .token_weights import keep_highest, rho_1, satimp, sstoken_score

Ambiguity = Literal["kl", "kl_ball", "chi2", "chi2_ball", "cvar"]
TokenMethod = Literal["satimp", "rho_1", "sstoken"]

_COLDEST = 1e-9


class LossReweighter(Stepwise):
    """Dynamic loss-based reweighting: LinUpper, Quadratic or Extremes of the losses of the global batch.

    Source: Sow et al., Dynamic Loss-Based Sample Reweighting, ICLR 2025; see `loss_weights.batch_weights`.
    """

    def __init__(
        self,
        shape: str = "lin_upper",
        schedule: Sequence[tuple[int, float]] = ((0, math.inf), (1000, 1.0)),
        group: Any = None,
    ) -> None:
        """Set up.

        Args:
            shape: a name of `loss_weights.SHAPES`.
            schedule: (first step, temperature), see `loss_weights.temperature_at`. Infinity is the warm-up: equal
                weights, and no communication. Published: 1000 steps, then 1.0 for small and 0.4 for larger models.
            group: data-parallel process group; None: all ranks.

        Raises:
            ValueError: no such shape, a schedule that does not ascend from step 0, or a negative temperature.
        """
        super().__init__(group)
        check_name(shape, sorted(SHAPES), "shape")
        temperature_at(0, schedule)
        if not all(temperature >= 0 for _, temperature in schedule):
            raise ValueError(f"weights need temperatures of at least 0: {list(schedule)}")
        self.shape = shape
        self.schedule = tuple(schedule)

    def __call__(self, loss: Array, step: int | None = None) -> Array:
        """Weigh the sequences of one batch.

        Args:
            loss: [m], mean negative log-likelihood of each of this rank's sequences; NaN where nothing is labelled.
            step: training step from 0; None: the number of calls before this one.

        Returns:
            [m], float32 or float64 on the device of `loss`, mean one over the labelled sequences of all ranks.

        Raises:
            ValueError: not one loss per sequence.
        """
        loss = _per_sequence(loss)
        temperature = temperature_at(self._begin(step), self.schedule)
        if temperature == math.inf:
            return ones_where(namespace(loss).isfinite(loss), loss)
        return self._over_ranks(loss, lambda losses: batch_weights(losses, self.shape, temperature))


class _Duals(NamedTuple):
    """KL: free energy λ log mean exp(loss / λ), and λ. χ²: η, and the mean of (loss - η)₊.

    CVaR: a `CvarCut`, or, moving, η and the mean of |loss - η|.
    """

    threshold: float
    scale: float


class DroReweighter(Stepwise):
    """Distributionally robust learning: the worst reweighting of the losses within an ambiguity set.

    Source: Namkoong and Duchi 2016; Levy et al. 2020; with a rate below 1 and KL, the compositional estimator of DONE,
    ICLR 2024. See `robust_duals` for the solves, which run on the CPU.
    """

    def __init__(
        self, ambiguity: Ambiguity, size: float, rate: float = 1.0, warm_up: int = 0, group: Any = None
    ) -> None:
        """Set up.

        Args:
            ambiguity: "kl" and "chi2" are penalties, "kl_ball" and "chi2_ball" sets of a radius, "cvar" takes the
                worst share.
            size: of the penalties λ > 0 in units of the loss, of the balls a radius >= 0, of CVaR alpha in (0, 1].
            rate: from 0 (exclusive) to 1. At 1, normalisers and cuts are a batch's own, which a small batch biases:
                one sequence would always weigh 1. Below 1 they move by this share per batch, and weights are mean one
                only in the long run: for KL as in DONE, for χ² and CVaR by stochastic approximation of the dual,
                all right for batches of any size. For the balls they are moving averages of the batches' own,
                with the bias of these.
            warm_up: steps with equal weights.
            group: data-parallel process group; None: all ranks.

        Raises:
            ValueError: no such set, or a number out of range.
        """
        super().__init__(group)
        check_name(ambiguity, get_args(Ambiguity), "ambiguity set")
        if not 0 < rate <= 1:
            raise ValueError(f"a rate is above 0 and at most 1, not {rate}")
        in_range = 0 < size <= 1 if ambiguity == "cvar" else size >= 0 if "ball" in ambiguity else 0 < size < math.inf
        if not in_range:
            raise ValueError(f"the size {size} is out of the range for {ambiguity}")
        self.ambiguity, self.size, self.rate, self.warm_up = ambiguity, float(size), rate, warm_up
        self._duals: _Duals | None = None

    def __call__(self, loss: Array, step: int | None = None) -> Array:
        """Weigh the sequences of one batch.

        Args:
            loss: [m], of each of this rank's sequences; NaN where nothing is labelled.
            step: training step from 0; None: the number of calls before this one.

        Returns:
            [m], float32 or float64 on the device of `loss`; mean one over the labelled sequences of all ranks, with a
            rate below 1 in the long run.

        Raises:
            ValueError: not one loss per sequence.
        """
        loss = _per_sequence(loss)
        if self._begin(step) < self.warm_up:
            return ones_where(namespace(loss).isfinite(loss), loss)
        return self._over_ranks(loss, self._weigh)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold: numbers, the same on all ranks."""
        return super().state_dict() | {"duals": None if self._duals is None else list(self._duals)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; the settings are those of this object."""
        super().load_state_dict(state)
        self._duals = None if state["duals"] is None else _Duals(*state["duals"])

    def _weigh(self, losses: Array) -> Array:
        values = on_host(losses)
        known = np.isfinite(values)
        weights = known.astype(np.float64)
        duals = self._solve(values[known]) if known.any() else None
        if duals is None:  # a ball of radius 0 or around equal losses fixes nothing
            duals = self._duals
        elif self.rate < 1:
            self._duals = duals
        if duals is not None:
            weights[known] = self._shape(values[known], duals)
        xp = namespace(losses)
        return xp.asarray(weights, dtype=losses.dtype, device=losses.device)

    def _solve(self, values: NDArray[np.float64]) -> _Duals | None:
        if self.ambiguity in ("kl", "kl_ball"):
            return self._solve_kl(values)
        if self.ambiguity == "cvar":
            return self._solve_cvar(values)
        if self.ambiguity == "chi2":
            if self._duals is None:
                return _Duals(chi2_penalty_threshold(values, self.size), self.size)
            excess = float(np.maximum(values - self._duals.threshold, 0.0).mean()) - self.size
            return _Duals(self._duals.threshold + self.rate * excess, self.size)
        eta = chi2_ball_threshold(values, self.size)
        if eta == -math.inf:
            return None
        return self._smooth(_Duals(eta, float(np.maximum(values - eta, 0.0).mean())))

    def _solve_kl(self, values: NDArray[np.float64]) -> _Duals | None:
        temperature = self.size
        if self.ambiguity == "kl_ball":
            temperature = kl_ball_temperature(values, self.size)
            if temperature == math.inf:
                return None
            temperature = self._smooth(_Duals(0.0, max(temperature, _COLDEST * float(np.ptp(values))))).scale
        # the free energy, unlike its logarithm over λ, keeps its meaning when the temperature of a ball moves
        before = None if self._duals is None else np.float64(self._duals.threshold / temperature)
        log_mean = running_log_mean(before, log_mean_exp(values, temperature), self.rate)
        return _Duals(float(log_mean) * temperature, temperature)

    def _solve_cvar(self, values: NDArray[np.float64]) -> _Duals | None:
        if self.size == 1:
            return None
        cut = cvar_cut(values, self.size)
        if self.rate == 1:
            return _Duals(*cut)
        # a mean of the batches' quantiles is not the quantile; steps by the share above are right for any batch
        eta, spread = self._duals or _Duals(cut.threshold, float(abs(values - cut.threshold).mean()))
        spread += self.rate * (float(abs(values - eta).mean()) - spread)
        gain = self.rate * spread / math.sqrt(self.size * (1 - self.size))
        return _Duals(eta + gain * (float((values >= eta).mean()) - self.size), spread)

    def _smooth(self, new: _Duals) -> _Duals:
        if self._duals is None:
            return new
        return _Duals(*(old + self.rate * (value - old) for old, value in zip(self._duals, new, strict=True)))

    def _shape(self, values: NDArray[np.float64], duals: _Duals) -> NDArray[np.float64]:
        if self.ambiguity == "cvar":
            if self.rate == 1:
                return np.asarray(cvar_weights(values, CvarCut(*duals))) / self.size
            return (values >= duals.threshold) / self.size
        scaled = (values - duals.threshold) / duals.scale
        return np.maximum(scaled, 0.0) if "chi2" in self.ambiguity else np.exp(scaled)


class TokenReweighter(Stepwise):
    """Weights of tokens: SatImp, Rho-1's choice by excess loss, ssToken's by the fall of the loss.

    Source: Yang et al. 2025; Lin et al. 2024; ssToken 2025. See `token_weights`.
    """

    def __init__(
        self,
        method: TokenMethod,
        *,
        share: float | None = None,
        saturation: float | None = None,
        importance: float | None = None,
        mean_one: bool = True,
        warm_up: int = 0,
        group: Any = None,
    ) -> None:
        """Set up.

        Args:
            method: which.
            share: of the labelled tokens of a sequence to keep, for "rho_1" (reported: 0.6 to 0.7) and "sstoken" (0.6).
            saturation: β1 of "satimp"; 5 in both published uses.
            importance: β2 of "satimp"; 0.1 by its authors, 1.0 in OpenUnlearning.
            mean_one: scale to mean one over the labelled tokens of all ranks: the mean of weight times loss over the
                labelled tokens is then, for masks, the mean loss of the kept. False for SatImp as it is published, for
                unlearning: the loss is then minus that mean.
            warm_up: steps with equal weights.
            group: data-parallel process group; None: all ranks.

        Raises:
            ValueError: no such method, or one of its numbers is missing or out of range.
        """
        super().__init__(group)
        check_name(method, get_args(TokenMethod), "method")
        numbers = {"saturation": saturation, "importance": importance} if method == "satimp" else {"share": share}
        for name, value in numbers.items():
            if value is None or not 0 <= value <= (1 if name == "share" else math.inf):
                raise ValueError(f"{method} needs `{name}`, at least 0{' to 1' * (name == 'share')}, not {value}")
        self.method, self.share, self.mean_one, self.warm_up = method, share or 0.0, mean_one, warm_up
        self.saturation, self.importance = saturation or 0.0, importance or 0.0

    def __call__(
        self, loss: Array, labelled: Array, reference_loss: Array | None = None, step: int | None = None
    ) -> Array:
        """Weigh the tokens of one batch.

        Args:
            loss: negative log-likelihood per token, last axis tokens: [sequences, length]. Flattened, with `labelled`
                and `reference_loss`, the share is kept of the whole batch of this rank.
            labelled: bool of the same shape; the others weigh 0.
            reference_loss: the same of the reference of "rho_1", or of the model before fine-tuning for "sstoken".
            step: training step from 0; None: the number of calls before this one.

        Returns:
            Weights of the same shape; 0 for a token whose loss is NaN.

        Raises:
            ValueError: the method needs reference losses.
        """
        loss = as_floats(loss)
        known = labelled & namespace(loss).isfinite(loss)
        if reference_loss is None and self.method != "satimp":
            raise ValueError(f"{self.method} needs the losses of a reference for the same tokens")
        if self._begin(step) < self.warm_up:
            return ones_where(known, loss)
        weights = namespace(loss).where(known, self._weigh(loss, known, reference_loss), 0.0)
        return weights * mean_one_factor(weights, known, self.group) if self.mean_one else weights

    def _weigh(self, loss: Array, known: Array, reference_loss: Array | None) -> Array:
        if self.method == "satimp":
            return satimp(loss, self.saturation, self.importance)
        if self.method == "rho_1":
            return ones_where(rho_1(loss, reference_loss, known, self.share), loss)
        return ones_where(keep_highest(sstoken_score(loss, reference_loss, known), known, self.share), loss)


def _per_sequence(loss: Array) -> Array:
    loss = as_floats(loss)
    if loss.ndim != 1:
        raise ValueError(f"weights need one loss per sequence, [m], not an array of shape {tuple(loss.shape)}")
    return loss
