"""Weights of distributionally robust learning: the worst reweighting of the losses within an ambiguity set.

The weight of a document follows from its own loss and one or two scalars that depend on all losses: see `robust_duals`.
Weights come out from 0 to 1, as a share of the largest: see `loss_weights` for making the mean one. They do not change
when a constant is added to all losses.

Source of all: Namkoong and Duchi 2016; Levy et al. 2020, Large-Scale Methods for DRO.
"""

import math

from .array_namespace import Array, as_floats, constant, namespace
from .loss_weights import tilt
from .robust_duals import CvarCut


def log_mean_exp(loss: Array, temperature: float) -> Array:
    """Compute log mean exp(loss / λ); times λ it is the value of the KL penalty's worst case.

    Over a corpus merge (n, largest, Σ exp((loss - largest) / λ)): n and sums add, after rescaling to the larger one.

    Args:
        loss: [n], finite.
        temperature: λ > 0.

    Returns:
        A scalar of the array's library.
    """
    scaled = as_floats(loss) / temperature
    highest = scaled.max()
    xp = namespace(scaled)
    return highest + xp.log(xp.exp(scaled - highest).mean())


def running_log_mean(previous: Array | None, batch: Array, rate: float) -> Array:
    """Smooth log mean exp over batches, (1 - rate) u + rate · mean exp in log space: a batch's own is biased.

    exp(loss / λ - smoothed) are then the weights, with mean one in the long run.

    Args:
        previous: what the last call gave, or None at the first.
        batch: `log_mean_exp` of this batch.
        rate: from 0 (exclusive) to 1.

    Returns:
        A scalar of the library of `batch`.

    Source: stochastic compositional gradients as in DONE, ICLR 2024.
    """
    if previous is None or rate == 1:
        return batch
    return namespace(batch).logaddexp(previous + math.log1p(-rate), batch + math.log(rate))


def kl_weights(loss: Array, highest: float, temperature: float) -> Array:
    """Weigh under a KL ball or penalty: exp((loss - highest) / λ), which is `loss_weights.tilt`.

    Args:
        loss: [n]; NaN weighs 0.
        highest: largest loss of the batch or corpus.
        temperature: λ >= 0, given (penalty) or from `kl_ball_temperature`.

    Returns:
        [n] from 0 to 1.
    """
    return tilt(loss, highest, temperature)


def cvar_weights(loss: Array, cut: CvarCut) -> Array:
    """Weigh by CVaR: 1 above the cut, a share at it, 0 below.

    Args:
        loss: [n]; NaN weighs 0. With a cut from bins: the value of each document's bin, from the same numbers.
        cut: from `cvar_cut`.

    Returns:
        [n] from 0 to 1; the mean is alpha.
    """
    loss = as_floats(loss)
    xp = namespace(loss)
    threshold = xp.asarray(cut.threshold, dtype=loss.dtype)  # equality must see the same rounding
    zero = xp.zeros_like(loss)
    return xp.where(loss > threshold, zero + 1.0, xp.where(loss == threshold, zero + cut.share, zero))


def kl_cvar_weights(loss: Array, threshold: float, alpha: float, temperature: float) -> Array:
    """Weigh by CVaR with a KL penalty: min(exp((loss - η) / λ), 1 / alpha), as a share of 1 / alpha.

    Args:
        loss: [n]; NaN stays.
        threshold: η from `kl_cvar_threshold`.
        alpha: as there.
        temperature: as there.

    Returns:
        [n] from 0 to 1; the mean is alpha.
    """
    loss = as_floats(loss)
    xp = namespace(loss)
    return xp.exp(xp.clip((loss - threshold) / temperature + math.log(alpha), None, 0.0))


def chi2_weights(loss: Array, threshold: float, highest: float) -> Array:
    """Weigh under a χ² ball or penalty: (loss - η)₊, as a share of the largest.

    Args:
        loss: [n]; NaN stays.
        threshold: η; -inf gives equal weights.
        highest: largest loss of the batch or corpus, above η; a number or a scalar of the library.

    Returns:
        [n] from 0 to 1.

    Raises:
        ValueError: the largest loss is not above the threshold.
    """
    highest = float(constant(highest))
    if not highest > threshold:
        raise ValueError(f"the largest loss {highest} is not above the threshold {threshold}")
    loss = as_floats(loss)
    if threshold == -math.inf:
        return loss * 0.0 + 1.0
    return namespace(loss).clip((loss - threshold) / (highest - threshold), 0.0, 1.0)
