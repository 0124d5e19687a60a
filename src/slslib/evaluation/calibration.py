r"""What is chosen on one set of trials and used on another: thresholds and calibration.

**Thresholds.** An EER chooses its threshold with the answers at hand. :func:`transfer` chooses the
threshold on a development set, at the EER or at a given false rejection rate, and reports both
error rates on another set. A trial is accepted above the threshold.

**Guarantee** (Wilks 1941). :func:`guarantee` needs bona fide scores only. Let :math:`x_{(k)}` be
the :math:`k`-th smallest of :math:`n` scores that are drawn independently from one distribution,
and reject what lies below it. The share :math:`p_k` of the distribution that is then rejected is
random, as the scores are. If no two scores can be equal, it has the beta distribution with the
parameters :math:`k` and :math:`n - k + 1`, whatever the distribution of the scores, so

.. math:: P(p_k \le p) = P(\mathrm{Bin}(n, p) \ge k) .

If they can, :math:`p_k` is smaller: what equals :math:`x_{(k)}` is accepted. So the right side is a
lower bound in any case, and :math:`k` is the highest rank for which it reaches the confidence. The
threshold, which rejects what equals it, is the largest number of 64 bits below :math:`x_{(k)}`.

**Calibration** (Brümmer and du Preez 2006) turns a score :math:`x` into a log-likelihood ratio

.. math:: \ell = w x + b

by logistic regression. :func:`fit` minimises the Cllr of :mod:`slslib.evaluation.metrics`, in which
bona fide and spoofed trials weigh the same, whatever their counts. The order of the scores stays,
and so does the EER.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from slslib.errors import ConfigError, ScoreError
from slslib.evaluation.metrics import Floats, det_curve, split, validate

Classes = tuple[ArrayLike, ArrayLike]
"""Scores of bona fide and of spoofed trials."""

# So weak that it shows only where the classes are separable; there it keeps the slope finite.
_RIDGE = 1e-6


@dataclass(frozen=True)
class Calibration:
    """A linear map from scores to log-likelihood ratios (natural logarithm).

    Attributes:
        slope: The weight :math:`w` of the score.
        offset: The constant :math:`b`.
    """

    slope: float
    offset: float

    def __call__(self, scores: ArrayLike) -> Floats:
        """Map scores to log-likelihood ratios.

        >>> Calibration(2.0, -1.0)([0.0, 1.0]).tolist()
        [-1.0, 1.0]
        """
        return self.slope * np.asarray(scores, dtype=np.float64) + self.offset


def fit(scores: ArrayLike, labels: ArrayLike) -> Calibration:
    """Fit a calibration.

    Args:
        scores: One per trial.
        labels: 1 for bona fide, 0 for spoof.

    Raises:
        ScoreError: Scores and labels do not fit, one class is missing, or a score is not finite.
    """
    from sklearn.linear_model import LogisticRegression

    classes = split(scores, labels)
    x, is_bonafide = np.concatenate(classes), np.repeat([True, False], [c.size for c in classes])
    # Standardised, so that the ridge means the same whatever the scale of the scores.
    mean, scale = x.mean(), x.std() or 1.0
    share = np.where(is_bonafide, 0.5 / classes[0].size, 0.5 / classes[1].size)
    model = LogisticRegression(C=1 / _RIDGE, max_iter=1000, tol=1e-8)
    model.fit((x[:, None] - mean) / scale, is_bonafide, sample_weight=share)
    slope = model.coef_[0, 0] / scale
    return Calibration(float(slope), float(model.intercept_[0] - slope * mean))


def transfer(
    dev: Classes, test: Classes, frr: Sequence[float] = (0.01, 0.05)
) -> list[dict[str, Any]]:
    """Choose thresholds on one set and apply them to another.

    Args:
        dev: Bona fide and spoof scores that the thresholds are chosen on.
        test: Those they are applied to.
        frr: False rejection rates on ``dev`` to choose further thresholds at: the highest
            threshold that rejects no more.

    Returns:
        One row per threshold: ``rule``, ``threshold`` (accept above), ``dev_frr_percent``,
        ``dev_far_percent``, ``frr_percent`` and ``far_percent``.

    >>> rows = transfer(([1, 2, 3, 4], [0, 0.5]), ([0.4, 2], [-1, 0.6]), frr=[0.25])
    >>> [(row["rule"], row["threshold"], row["frr_percent"], row["far_percent"]) for row in rows]
    [('EER', 0.5, 50.0, 50.0), ('FRR 25 %', 1.0, 50.0, 0.0)]
    """
    curve = det_curve(*dev).tie_aware()
    chosen = {"EER": curve.eer().threshold}
    for rate in frr:
        if not 0 <= rate < 1:
            raise ConfigError(f"false rejection rate {rate} must lie between 0 and 1.")
        k = int(np.searchsorted(curve.frr, rate + 1e-12, side="right")) - 1
        chosen[f"FRR {100 * rate:g} %"] = float(curve.thresholds[k])
    rows: list[dict[str, Any]] = []
    for rule, threshold in chosen.items():
        rows.append({"rule": rule, "threshold": threshold})
        for prefix, classes in (("dev_", dev), ("", test)):
            bonafide, spoof = validate(*classes)
            rows[-1][f"{prefix}frr_percent"] = 100 * float(np.mean(bonafide <= threshold))
            rows[-1][f"{prefix}far_percent"] = 100 * float(np.mean(spoof > threshold))
    return rows


def guarantee(bonafide: ArrayLike, frr: float, confidence: float = 0.95) -> tuple[int, float]:
    """Choose the highest threshold whose false rejection rate is bounded, without any spoof score.

    Args:
        bonafide: Scores that were drawn independently; those of one speaker are worth fewer.
        frr: The false rejection rate that is wanted.
        confidence: Probability that the true rate is not above it.

    Returns:
        The rank :math:`k`, and the threshold (accept above), which rejects fewer than :math:`k` of
        the scores.

    Raises:
        ConfigError: A rate does not lie between 0 and 1.
        ScoreError: A score is not finite, or there are too few; the message says how many it takes.

    >>> rank, threshold = guarantee(range(500), 0.05)
    >>> rank, sum(score <= threshold for score in range(500))
    (17, 16)
    """
    from scipy.stats import binom

    (scores,) = validate(bonafide, names=("bona fide",))
    what = f"at most {100 * frr:g} % false rejections with a confidence of {100 * confidence:g} %"
    if not (0 < frr < 1 and 0 < confidence < 1):
        raise ConfigError(f"{what}: both must lie between 0 and 100")
    needed = math.ceil(math.log1p(-confidence) / math.log1p(-frr))
    if scores.size < needed:
        raise ScoreError(f"{scores.size} bona fide scores: {what} takes {needed:,} or more")
    rank = max(1, int(binom.ppf(1 - confidence, scores.size, frr)))
    return rank, float(np.nextafter(np.sort(scores)[rank - 1], -np.inf))


def proportion(count: int, n: int, confidence: float = 0.95) -> dict[str, Any]:
    """Estimate a rate from ``count`` of ``n`` independent trials.

    Args:
        count: How often it happened.
        n: Number of trials.
        confidence: Of the interval, which is two-sided (Clopper and Pearson 1934).

    Returns:
        ``percent`` and ``interval_percent``.

    >>> proportion(0, 300)
    {'percent': 0.0, 'interval_percent': [0.0, 1.222097469429642]}
    """
    from scipy.stats import binomtest

    low, high = binomtest(count, n).proportion_ci(confidence)
    return {"percent": 100 * count / n, "interval_percent": [100 * float(low), 100 * float(high)]}
