r"""Error rates and costs of a spoofing countermeasure, as pure functions on score arrays.

This text is the specification. There are :math:`n_b` bona fide and :math:`n_s` spoofed trials; a
higher score means more bona fide. Functions take the two score arrays, in any order, and refuse
empty and non-finite ones (:class:`~slslib.errors.ScoreError`).

**Curve.** Sort all scores; within ties bona fide comes first (a stable sort). Point
:math:`k = 0 \dots n_b + n_s` rejects the :math:`k` lowest. With :math:`b_k` bona fide and
:math:`s_k` spoofed trials among them,

.. math:: FRR_k = b_k / n_b, \qquad FAR_k = 1 - s_k / n_s .

The threshold of a point is the highest rejected score: *a trial is accepted if its score is above
the threshold*. The threshold of point 0 is the lowest score - 0.001. Points between equal scores
belong to no threshold. The official rule keeps them, because the ASVspoof challenges' routine does,
and its numbers are the published ones; :meth:`DET.tie_aware` leaves them out. A constant score
therefore has an official EER of 100 %, and one of 50 % without these points.

**EER.** :math:`(FRR_k + FAR_k) / 2` at the first :math:`k` that minimises
:math:`|FRR_k - FAR_k|`.

**min t-DCF** (Kinnunen et al., TASLP 2020, eq. 10-11; ASVspoof 2019 and 2021 evaluation plans).
A speaker verification system has a fixed threshold, that of its own EER, and accepts scores at or
above it. It misses targets with rate :math:`m` and accepts nontargets with rate :math:`f` and
spoofs with rate :math:`f_s`. With priors :math:`\pi` (target 0.9405, nontarget 0.0095, spoof 0.05)
and costs (miss 1, false acceptance 10, spoof 10)

.. math:: C_0 = \pi_t C_m m + \pi_n C_f f, \quad C_1 = \pi_t C_m - C_0,

.. math:: C_2 = \pi_s C_s f_s, \quad M = \min(C_1, C_2),

the forms of 2019 and 2021 are

.. math:: T_{2019} = \min_k \frac{C_1 FRR_k + C_2 FAR_k}{M},

.. math:: T_{2021} = \min_k \frac{C_0 + C_1 FRR_k + C_2 FAR_k}{C_0 + M}.

They are different numbers for the same scores: :math:`T_{2021} = (C_0 + M T_{2019}) / (C_0 + M)`.
:meth:`DET.min_cost` computes the 2019 form from the weights :math:`(0, C_1, C_2)`, and the 2021
form from :math:`(C_0, C_1, C_2)`.

**DCF** (ASVspoof 5), with :math:`\pi = 0.05, C_m = 1, C_f = 10`:

.. math:: \frac{(1 - \pi) C_m FRR + \pi C_f FAR}{\min((1 - \pi) C_m, \pi C_f)}.

``min_dcf`` is its minimum over the curve. ``act_dcf`` is its value at the threshold
:math:`-\log((1 - \pi) C_m / (\pi C_f))`, accepting at or above it, for scores that are
log-likelihood ratios (LLR).

**Cllr** (Brümmer and du Preez 2006), in bits, of LLRs:
:math:`\frac{1}{2} (\overline{\log_2(1 + e^{-x_b})} + \overline{\log_2(1 + e^{x_s})})`.
``min_cllr`` is the Cllr after the best monotone map of the scores (pool adjacent violators).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slslib.errors import ScoreError

Floats = NDArray[np.float64]
Weights = tuple[float, float, float]
"""The weights :math:`C_0, C_1, C_2` of a cost."""


class EER(NamedTuple):
    """An equal error rate.

    Attributes:
        value: The rate, as a fraction.
        threshold: A trial is accepted if its score is above it.
    """

    value: float
    threshold: float


class DET(NamedTuple):
    """A detection error trade-off curve: one entry per point, from 'accept all' to 'reject all'.

    One sort of the scores gives the curve, and the curve gives every rate and cost.
    """

    frr: Floats
    far: Floats
    thresholds: Floats

    def tie_aware(self) -> "DET":
        """Return the curve without its points between equal scores."""
        keep = np.r_[True, self.thresholds[2:] != self.thresholds[1:-1], True]
        return DET(self.frr[keep], self.far[keep], self.thresholds[keep])

    def eer(self) -> EER:
        """Compute the equal error rate, the official one if points between equal scores count."""
        k = int(np.argmin(np.abs(self.frr - self.far)))
        return EER(float(self.frr[k] + self.far[k]) / 2, float(self.thresholds[k]))

    def min_cost(self, weights: Weights) -> float:
        """Compute the minimum of :math:`C_0 + C_1 FRR + C_2 FAR`; 1 is a useless detector.

        The cost is divided by the cost of the better of two useless detectors: one accepts all, the
        other rejects all.

        Raises:
            ScoreError: A weight is negative or not finite, or nothing can cost anything.
        """
        c0, c1, c2 = weights
        return float(np.min(c0 + c1 * self.frr + c2 * self.far) / _useless(weights))


def _useless(weights: Weights) -> float:
    """Return the cost of the better useless detector, above zero."""
    c0, c1, c2 = weights
    useless = c0 + min(c1, c2)
    if not (np.isfinite(weights).all() and min(weights) >= 0 and useless > 0):
        what = f"cost weights C0, C1, C2 = {c0}, {c1}, {c2} must be finite and not negative"
        remedy = "Check priors, costs and speaker verification scores"
        raise ScoreError(f"{what}, and C0 + min(C1, C2) above zero. {remedy}.")
    return useless


def validate(*scores: ArrayLike, names: Sequence[str] = ("bona fide", "spoof")) -> list[Floats]:
    """Check the score arrays of some classes and return them as float64.

    Raises:
        ScoreError: An array is empty, not one-dimensional, or holds NaN or infinity.
    """
    arrays = [np.asarray(values, dtype=np.float64) for values in scores]
    for name, array in zip(names, arrays, strict=True):
        n_bad = array.size - int(np.isfinite(array).sum())
        if array.ndim != 1 or array.size == 0 or n_bad:
            what = f" of shape {array.shape}, {n_bad} of them NaN or infinite" * (array.size > 0)
            raise ScoreError(f"{array.size or 'no'} {name} scores{what}: a rate needs finite ones.")
    return arrays


def split(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """Split trials into bona fide scores and spoof scores.

    Args:
        scores: One score per trial.
        labels: 1 for bona fide, 0 for spoof.

    Raises:
        ScoreError: Scores and labels do not fit each other, or :func:`validate` objects.

    >>> [part.tolist() for part in split([0.5, 2.0, -1.0], [0, 1, 0])]
    [[2.0], [0.5, -1.0]]
    """
    values, known = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.shape != known.shape or not np.isin(known, (0, 1)).all():
        what = f"{values.size} scores and {known.size} labels"
        needed = "every score needs a label 1 (bona fide) or 0 (spoof)"
        raise ScoreError(f"{what}: {needed}, and systems that are compared the same trials.")
    bonafide, spoof = validate(values[known == 1], values[known == 0])
    return bonafide, spoof


def det_curve(bonafide_scores: ArrayLike, spoof_scores: ArrayLike) -> DET:
    """Compute the false rejection and false acceptance rates at all thresholds.

    >>> frr, far, thresholds = det_curve([1.0, 2.0], [0.0, 1.5])
    >>> frr.tolist(), far.tolist()
    ([0.0, 0.0, 0.5, 0.5, 1.0], [1.0, 0.5, 0.5, 0.0, 0.0])
    """
    bonafide, spoof = validate(bonafide_scores, spoof_scores)
    scores = np.concatenate([bonafide, spoof])
    # Parity: a stable sort of bona fide before spoof, as the ASVspoof evaluation packages do.
    order = np.argsort(scores, kind="stable")
    rejected_bonafide = np.append(0, np.cumsum(order < bonafide.size))
    rejected_spoof = np.arange(scores.size + 1) - rejected_bonafide
    frr = rejected_bonafide / bonafide.size
    far = (spoof.size - rejected_spoof) / spoof.size
    return DET(frr, far, np.append(scores.min() - 0.001, scores[order]))


def eer(bonafide_scores: ArrayLike, spoof_scores: ArrayLike) -> EER:
    """Compute the official equal error rate; ``det_curve(...).tie_aware().eer()`` groups ties.

    >>> eer([1.0, 2.0, 3.0], [-1.0, 0.0, 1.5]).value
    0.3333333333333333
    """
    return det_curve(bonafide_scores, spoof_scores).eer()


def asv_rates(
    target_scores: ArrayLike, nontarget_scores: ArrayLike, spoof_scores: ArrayLike
) -> tuple[float, float, float, float]:
    """Compute a speaker verification system's error rates at the threshold of its EER.

    Parity: the official packages choose the threshold on the curve above, where the score at the
    threshold is rejected, and then accept scores at or above it.

    Returns:
        The EER, and the rates :math:`m, f, f_s` that :func:`tdcf_weights` takes (fractions).
    """
    names = ("target", "nontarget", "spoof")
    target, *others = validate(target_scores, nontarget_scores, spoof_scores, names=names)
    point = eer(target, others[0])
    fa, fa_spoof = (float(np.mean(scores >= point.threshold)) for scores in others)
    return point.value, float(np.mean(target < point.threshold)), fa, fa_spoof


def tdcf_weights(miss: float, fa: float, fa_spoof: float) -> Weights:
    """Compute the t-DCF's weights from a speaker verification system's error rates (fractions)."""
    p_target, p_nontarget, p_spoof = 0.95 * 0.99, 0.95 * 0.01, 0.05
    c_miss, c_fa, c_fa_spoof = 1, 10, 10
    c0 = p_target * c_miss * miss + p_nontarget * c_fa * fa
    return c0, p_target * c_miss - c0, p_spoof * c_fa_spoof * fa_spoof


def dcf_weights(p_spoof: float = 0.05, c_miss: float = 1, c_fa: float = 10) -> Weights:
    """Compute the weights :math:`C_0 = 0, C_1, C_2` of the detection cost of ASVspoof 5."""
    return 0.0, (1 - p_spoof) * c_miss, p_spoof * c_fa


DCF = dcf_weights()
"""The weights of ASVspoof 5."""


def min_dcf(bonafide_scores: ArrayLike, spoof_scores: ArrayLike, weights: Weights = DCF) -> float:
    """Compute the minimum normalised detection cost, by default with the weights of ASVspoof 5."""
    return det_curve(bonafide_scores, spoof_scores).min_cost(weights)


def act_dcf(bonafide_llrs: ArrayLike, spoof_llrs: ArrayLike, weights: Weights = DCF) -> float:
    """Compute the normalised detection cost at the threshold that theory gives for LLRs."""
    useless, (c0, miss, fa) = _useless(weights), weights
    bonafide, spoof = validate(bonafide_llrs, spoof_llrs)
    threshold = math.log(fa / miss) if fa * miss else math.copysign(math.inf, fa - miss)
    cost = c0 + miss * np.mean(bonafide < threshold) + fa * np.mean(spoof >= threshold)
    return float(cost / useless)


def cllr(bonafide_llrs: ArrayLike, spoof_llrs: ArrayLike) -> float:
    """Compute the cost of log-likelihood ratios in bits; 1 means no information.

    >>> cllr([0.0], [0.0])
    1.0
    """
    bonafide, spoof = validate(bonafide_llrs, spoof_llrs)
    bits = np.logaddexp(0, -bonafide).mean() + np.logaddexp(0, spoof).mean()
    return float(bits / (2 * math.log(2)))


def min_cllr(bonafide_scores: ArrayLike, spoof_scores: ArrayLike) -> float:
    """Compute the Cllr after the best monotone calibration, in bits: what discrimination costs."""
    from scipy.optimize import isotonic_regression
    from scipy.special import xlogy

    classes = validate(bonafide_scores, spoof_scores)
    values, place = np.unique(np.concatenate(classes), return_inverse=True)
    # Shares of each class: both weigh the same, so the posterior's odds are the likelihood ratio.
    places = np.split(place, [classes[0].size])
    bonafide, spoof = (np.bincount(own, minlength=values.size) / own.size for own in places)
    weights = bonafide + spoof
    posterior = isotonic_regression(bonafide / weights, weights=weights).x
    nats = xlogy(bonafide, posterior).sum() + xlogy(spoof, 1 - posterior).sum()
    return abs(float(nats)) / (2 * math.log(2))
