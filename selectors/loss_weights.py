"""Weights from losses: dynamic loss-based reweighting, excess over a reference, small losses, focal.

Weights come out from 0 to 1, as a share of the largest. `weighing.Weighing` makes their mean one over a corpus,
`array_namespace.batch_mean_one` over a batch. Sum-one weights of a paper, as here of m samples, are these over m.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from types import MappingProxyType

from .array_namespace import Array, as_floats, batch_mean_one, constant, namespace

_SMALLEST_RANGE = 1e-6
_ROUNDING = 1e-9


def normalise_loss(loss: Array, low: Array | float, high: Array | float) -> Array:
    """Map losses to -1 at the smallest and 1 at the largest.

    Args:
        loss: [n], mean negative log-likelihood in nats; NaN where nothing is labelled.
        low: smallest loss, finite, of the batch or of the corpus; a low quantile of the corpus keeps one outlier from
            squeezing all others together.
        high: largest loss, or a high quantile. Both merge elementwise.

    Returns:
        [n] from -1 to 1, losses beyond the edges at the edge; 0 where all are equal; NaN stays.

    Source: Sow et al., Dynamic Loss-Based Sample Reweighting, ICLR 2025, with δ = 1; the floor of 1e-6 is of its code.
    """
    loss, low, high = as_floats(loss), constant(low), constant(high)
    width = max(high - low, _SMALLEST_RANGE)
    return namespace(loss).clip(((loss - low) - (high - loss)) / width, -1.0, 1.0)  # exact at both ends


def lin_upper(h: Array) -> Array:
    """LinUpper: 0 at the smallest loss, growing to 1 at the middle of the range and 1 above it.

    Down-weights low losses only. The FSDP code of the paper calls it `upper`, its GPT-2 code means `linear` by that.

    Args:
        h: normalised losses, [n] from -1 to 1.

    Returns:
        [n] from 0 to 1.
    """
    return namespace(h).clip(h + 1.0, 0.0, 1.0)


def quadratic(h: Array) -> Array:
    """Quadratic, `mid` in the paper's code: 1 - h², which favours losses in the middle of the range.

    Args:
        h: normalised losses, [n] from -1 to 1.

    Returns:
        [n] from 0 to 1.
    """
    return 1.0 - h * h


def extremes(h: Array) -> Array:
    """Extremes: |h|, which favours both ends of the range.

    Args:
        h: normalised losses, [n] from -1 to 1.

    Returns:
        [n] from 0 to 1.
    """
    return abs(h)


def linear(h: Array) -> Array:
    """Linear: (h + 1) / 2, an exponential tilt to high losses. The paper's code calls it `upper`, and h `uniform`.

    Args:
        h: normalised losses, [n] from -1 to 1.

    Returns:
        [n] from 0 to 1.
    """
    return (h + 1.0) / 2.0


def uniform(h: Array) -> Array:
    """Uniform: no preference. (The published strategy of that name tilts to high losses: it takes exp(h / r).).

    Args:
        h: normalised losses, [n].

    Returns:
        [n] of 1; NaN stays.
    """
    return h * 0.0 + 1.0


SHAPES = MappingProxyType(
    {"lin_upper": lin_upper, "quadratic": quadratic, "extremes": extremes, "linear": linear, "uniform": uniform}
)
"""What a normalised loss is worth, by name; each maps -1 … 1 to 0 … 1."""


def tilt(signal: Array, highest: Array | float, temperature: float) -> Array:
    """Tilt exponentially: exp((signal - highest) / temperature).

    It maximises Σ w s - temperature · KL(w || uniform) over distributions w: the closed form of dynamic reweighting
    (s a shaped loss) and of distributionally robust learning under a KL penalty (s the loss).

    Args:
        signal: [n], at most `highest`; -inf and NaN weigh 0.
        highest: largest signal of the batch or corpus (merges by max). A bound works too, if not many temperatures
            above the true largest: the sum of the weights is then small, and its fixed-point error relatively large.
        temperature: >= 0, in units of the signal; infinity gives equal weights, 0 all weight to the largest.

    Returns:
        [n] from 0 to 1; the weights for a smallest signal of 0 and a largest of 1 differ by the factor exp(-1/T).

    Raises:
        ValueError: the temperature is negative or NaN.
    """
    if not temperature >= 0:
        raise ValueError(f"weights need a temperature of at least 0, not {temperature}")
    signal, highest = as_floats(signal), constant(highest)
    xp = namespace(signal)
    zero = xp.zeros_like(signal)
    if temperature == 0:
        return xp.where(signal >= highest, zero + 1.0, zero)
    known = signal > -math.inf
    distance = xp.where(known, signal, zero + highest) - highest
    return xp.where(known, xp.exp(xp.clip(distance / temperature, None, 0.0)), zero)


def batch_weights(loss: Array, shape: str = "lin_upper", temperature: float = 1.0) -> Array:
    """Weigh the samples of one batch by their losses: the online form, all normalisers taken from the batch.

    Training minimises the mean of weight times loss. With data-parallel training gather the losses of
    all ranks first, and take the global rank's own rows of the result.

    Args:
        loss: [m], mean negative log-likelihood per sequence; NaN where nothing is labelled. No gradient passes.
        shape: a name of `SHAPES`.
        temperature: see `tilt`; published runs use 1.0 for small and 0.4 for larger models.

    Returns:
        [m], mean one over the labelled sequences; 0 where nothing is labelled.

    Raises:
        KeyError: no such shape.
        ValueError: the temperature is negative or NaN.

    Source: Sow et al., ICLR 2025; no clipping, as in both published code bases.
    """
    loss = as_floats(loss)
    xp = namespace(loss)
    known = xp.isfinite(loss)
    if not bool(known.any()):
        return xp.zeros_like(loss)
    seen = loss[known]
    signal = SHAPES[shape](normalise_loss(xp.where(known, loss, seen.min()), seen.min(), seen.max()))
    return batch_mean_one(tilt(signal, signal[known].max(), temperature), known)


def temperature_at(step: int, schedule: Sequence[tuple[int, float]]) -> float:
    """Read a temperature off a schedule of constant stretches.

    Args:
        step: training step, from 0.
        schedule: (first step, temperature) in ascending order of steps, the first at step 0. Published: ((0, inf),
            (1000, 0.4)) in the GPT-2 code, ((0, 100), (2000, r)) in the FSDP code.

    Returns:
        The temperature of the last stretch that has begun.

    Raises:
        ValueError: the schedule is not ascending from step 0, or the step is negative.
    """
    starts = [start for start, _ in schedule]
    if not starts or starts[0] != 0 or any(a >= b for a, b in pairwise(starts)) or step < 0:
        raise ValueError(f"a schedule ascends from step 0, and steps are not negative: {list(schedule)} at step {step}")
    return next(temperature for start, temperature in reversed(schedule) if start <= step)


def excess_loss(loss: Array, reference_loss: Array) -> Array:
    """Subtract what a reference loses: high where the model has yet to learn what the reference finds learnable.

    Args:
        loss: RHO-LOSS and Rho-1: of the model in training; CoLoR-Filter: of the prior.
        reference_loss: RHO-LOSS: of a model trained on held-out data; Rho-1: trained on good data; CoLoR-Filter: the
            prior fine-tuned on the target. Same shape.

    Returns:
        loss - reference_loss; the highest are kept. ssToken subtracts the other way round, see `token_weights`.

    Source: Mindermann et al. 2022 (RHO-LOSS); Lin et al. 2024 (Rho-1); Brandfonbrener et al. 2024 (CoLoR-Filter).
    """
    return as_floats(loss) - as_floats(reference_loss)


def kept_share(epoch: float, noise_rate: float, ramp_epochs: float = 10.0, exponent: float = 1.0) -> float:
    """Give the share of small losses that Co-teaching keeps: all at first, 1 - noise_rate after the ramp.

    Args:
        epoch: from 0; training steps where `ramp_epochs` is in steps.
        noise_rate: τ, share of wrong labels, 0 to 1.
        ramp_epochs: T_k > 0.
        exponent: c > 0.

    Returns:
        1 - min(τ epoch**c / T_k, τ), the paper's form. Its code ramps to τ**c and then jumps to τ, which is the same
        only for c = 1.

    Raises:
        ValueError: an argument is out of range.

    Source: Han et al., Co-teaching, NeurIPS 2018.
    """
    if not (0 <= noise_rate <= 1 and ramp_epochs > 0 and exponent > 0 and epoch >= 0):
        raise ValueError("the noise rate is from 0 to 1, the ramp and the exponent above 0, the epoch not negative")
    return 1.0 - noise_rate * min(epoch**exponent / ramp_epochs, 1.0)


def small_losses(loss: Array, share: float) -> Array:
    """Mark the smallest losses of a batch. Over a corpus this is the selector `bottom`.

    Small means easy or already learned: never to be combined with LinUpper, which prefers the opposite.

    Args:
        loss: [m]; a NaN is never kept.
        share: from 0 to 1; ⌊share · m⌋ are kept, equal losses in the order of rows.

    Returns:
        bool[m].

    Raises:
        ValueError: the share is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share is from 0 to 1, not {share}")
    loss = as_floats(loss)
    xp = namespace(loss)
    place = xp.argsort(xp.argsort(loss, stable=True))  # NaN sorts last in both libraries
    return (place < math.floor(share * loss.shape[0] + _ROUNDING)) & ~xp.isnan(loss)


def co_teaching(loss: Array, peer_loss: Array, share: float) -> tuple[Array, Array]:
    """Let each of two networks choose small losses for the other.

    Args:
        loss: losses of the first network, [m].
        peer_loss: losses of the second on the same samples, [m].
        share: `kept_share` of this epoch.

    Returns:
        What the first network trains on, and what the second does, bool[m] each.

    Source: Han et al., Co-teaching, NeurIPS 2018.
    """
    return small_losses(peer_loss, share), small_losses(loss, share)


def focal(loss: Array, gamma: float, detach: bool = True) -> Array:
    """Weigh by the probability of being wrong, (1 - p)**gamma with p = exp(-loss).

    Args:
        loss: cross-entropy of the true label, any shape. Not one already multiplied by class weights: exp(-loss) of
            that is no probability (published LDAM code has this error). Multiply class weights in afterwards.
        gamma: >= 0; the focal loss takes 2, KaLM-Embedding-V2 0.5 with the contrastive loss, 0 gives equal weights.
        detach: False lets the gradient through, as the focal loss does; below gamma = 1 it is infinite at p = 1.

    Returns:
        From 0 to 1, of the same shape; NaN stays.

    Source: Lin et al., Focal Loss, ICCV 2017.
    """
    loss = as_floats(loss, detach)
    xp = namespace(loss)
    return (-xp.expm1(-xp.clip(loss, 0.0, None))) ** gamma
