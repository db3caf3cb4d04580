"""Weights and masks of tokens: SatImp, PRIOR, Rho-1, ssToken, Q-Tuning.

Tokens lie along the last axis: [length], or [sequences, length] padded. `labelled` says which count; the others weigh 0
and are never kept. A token that is not kept stays in the context: only its loss is left out.
"""

from .array_namespace import Array, as_floats, batch_mean_one, namespace
from .loss_weights import excess_loss, focal

_ROUNDING = 1e-9
_LARGEST_LOSS = 80.0  # three times exp(80) is still finite in float32


def satimp(loss: Array, saturation: float, importance: float) -> Array:
    """Weigh tokens by p**saturation · (1 - p)**importance, p being the model's probability of the true token.

    Largest at p = saturation / (saturation + importance). For unlearning, the loss is minus the mean over labelled
    tokens of weight times loss, not divided by the sum of the weights.

    Args:
        loss: negative log-likelihood per token in nats, any shape. No gradient passes.
        saturation: β1 >= 0; 5 in both published uses.
        importance: β2 >= 0; the authors recommend 0.1, their contribution to OpenUnlearning 1.0. Hence no default.

    Returns:
        From 0 to 1, of the same shape.

    Source: Yang et al., SatImp, ICML 2025.
    """
    loss = as_floats(loss)
    xp = namespace(loss)
    return xp.exp(-saturation * xp.clip(loss, 0.0, None)) * focal(loss, importance)


def prior(reference_loss: Array, labelled: Array) -> Array:
    """Weigh tokens by 1 - p of a reference that does not see the context, mean one in each sequence.

    Args:
        reference_loss: negative log-likelihood per token under the context-free model, last axis tokens.
        labelled: bool of the same shape.

    Returns:
        Weights, mean one over the labelled tokens of a sequence; all one where the reference knows each token for
        certain (the published formula divides by zero there).

    Source: Chen et al., PRIOR, 2025: text-only language model, tokens of captions.
    """
    return batch_mean_one(focal(reference_loss, 1.0), labelled)


def keep_highest(score: Array, labelled: Array, share: float) -> Array:
    """Mark the ⌈share · labelled⌉ tokens of highest score in each sequence, equal ones in order of position.

    Args:
        score: last axis tokens; flatten it for one choice over a whole batch. A NaN counts as not labelled.
        labelled: bool of the same shape.
        share: from 0 to 1.

    Returns:
        bool of the same shape.

    Raises:
        ValueError: the share is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share is from 0 to 1, not {share}")
    score = as_floats(score)
    xp = namespace(score)
    labelled = labelled & ~xp.isnan(score)
    lowest_first = -xp.nan_to_num(score)  # finite, so that what is not labelled sorts after all of them
    order = xp.argsort(xp.where(labelled, lowest_first, xp.full_like(score, float("inf"))), stable=True)
    place = xp.argsort(order)
    number = xp.ceil(xp.asarray(labelled.sum(-1), dtype=xp.float64) * share - _ROUNDING)
    return labelled & (place < number[..., None])


def rho_1(loss: Array, reference_loss: Array, labelled: Array, share: float) -> Array:
    """Keep the tokens with the highest excess loss, current minus reference.

    Args:
        loss: per token, of the model in training; last axis tokens, flattened for a choice over the batch. With a
            threshold from a quantile of the corpus, compare `excess_loss` with it instead.
        reference_loss: per token, of a model trained on good data.
        labelled: bool of the same shape.
        share: of labelled tokens to keep, 0 to 1; 0.6 to 0.7 is reported.

    Returns:
        bool of the same shape; the training loss is the mean over the kept.

    Source: Lin et al., Rho-1, NeurIPS 2024.
    """
    return keep_highest(excess_loss(loss, reference_loss), labelled, share)


def sstoken_score(
    loss: Array, history_loss: Array, labelled: Array, attention: Array | None = None, balance: float = 0.5
) -> Array:
    """Score tokens by how much their loss has fallen since an earlier model, history minus current.

    The opposite direction to Rho-1's excess. Keep with `keep_highest`, share 0.6 (0.8 for a 14B model).

    Args:
        loss: per token, of the model in training, last axis tokens.
        history_loss: per token, of the model before fine-tuning.
        labelled: bool of the same shape: tokens of the response.
        attention: of each token to the prompt, last layer, mean over heads, 0 to 1; None leaves that part out.
        balance: share of the loss part where there is attention, 0 to 1.

    Returns:
        From 0 to 1 where labelled: balance · fall + (1 - balance) · attention, the fall of the loss being scaled to
        0 … 1 within each sequence; 0 elsewhere.

    Source: ssToken 2025, formula and 1e-8 as in its code.
    """
    fall = excess_loss(history_loss, loss)
    xp = namespace(fall)
    known = labelled & xp.isfinite(fall)
    infinite = xp.full_like(fall, float("inf"))
    low = xp.amin(xp.where(known, fall, infinite), -1)[..., None]
    high = xp.amax(xp.where(known, fall, -infinite), -1)[..., None]
    empty = ~xp.isfinite(low)
    low, high = xp.where(empty, xp.zeros_like(low), low), xp.where(empty, xp.zeros_like(high), high)
    scaled = (xp.where(known, fall, low + xp.zeros_like(fall)) - low) / (high - low + 1e-8)
    score = scaled if attention is None else balance * scaled + (1.0 - balance) * as_floats(attention)
    return xp.where(labelled, score, xp.zeros_like(score))


def q_tuning(loss: Array, labelled: Array, share: float, neighbours: float = 0.5) -> Array:
    """Keep the tokens of lowest perplexity, each smoothed with its neighbours: the mask of Q-Tuning's second quadrant.

    Args:
        loss: negative log-likelihood per token, last axis tokens; values above 80 count as 80.
        labelled: bool of the same shape. At a border, also one of what is labelled, the token stands for its neighbour.
        share: of labelled tokens to keep, 0 to 1; published: 0.5 to 0.7.
        neighbours: λ from 0 to 1.

    Returns:
        bool of the same shape. The score is (1 - λ) PPL + λ (PPL before + PPL after): the sum of neighbours is not
        halved, and the *lowest* are kept, although the paper's pseudocode says "top".

    Source: Q-Tuning, arXiv 2509.23873.
    """
    loss = as_floats(loss)
    xp = namespace(loss)
    known = labelled & ~xp.isnan(loss)
    own = xp.exp(xp.clip(xp.where(known, loss, xp.zeros_like(loss)), None, _LARGEST_LOSS))
    before, after = own * 1.0, own * 1.0
    before[..., 1:] = xp.where(known[..., :-1], own[..., :-1], own[..., 1:])
    after[..., :-1] = xp.where(known[..., 1:], own[..., 1:], own[..., :-1])
    return keep_highest(-((1.0 - neighbours) * own + neighbours * (before + after)), known, share)
