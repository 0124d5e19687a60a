r"""Thresholds and calibration: chosen on one set of trials, used on another.

**Thresholds.** The EER is taken at a threshold that was chosen with the labels known.
:func:`transfer` chooses the threshold on a development set, at the EER or at a given false
rejection rate, and reports both error rates on another set. A trial is accepted if its score is
above the threshold.

**Calibration** (Brümmer and du Preez 2006) turns a score :math:`x` into a log-likelihood ratio

.. math:: \ell = w x + b

by logistic regression. :func:`fit` minimises the Cllr of :mod:`slslib.evaluation.metrics`, in which
bona fide and spoofed trials have the same weight, whatever their numbers. Calibration changes
neither the order of the scores nor the EER.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from slslib.errors import ConfigError
from slslib.evaluation.metrics import Floats, det_curve, split, validate

Classes = tuple[ArrayLike, ArrayLike]
"""Scores of bona fide and of spoofed trials."""

# Too weak to matter unless the classes are separable; then it keeps the slope finite.
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
        """Map scores to log-likelihood ratios, as float64 of the same shape.

        >>> Calibration(2.0, -1.0)([0.0, 1.0]).tolist()
        [-1.0, 1.0]
        """
        return self.slope * np.asarray(scores, dtype=np.float64) + self.offset


def fit(scores: ArrayLike, labels: ArrayLike) -> Calibration:
    """Fit a calibration.

    Scores more than 50 interquartile ranges from the median count as that far: a few values that
    stand for log 0 do not decide the map.

    Args:
        scores: One score per trial.
        labels: 1 for bona fide, 0 for spoof.

    Raises:
        ScoreError: Scores and labels do not fit, one class is missing, or a score is not finite.
    """
    from sklearn.linear_model import LogisticRegression

    classes = split(scores, labels)
    x, is_bonafide = np.concatenate(classes), np.repeat([True, False], [c.size for c in classes])
    # Scores are standardised, so that the ridge means the same at any scale.
    mean, scale = np.median(x), np.ptp(np.percentile(x, [25, 75])) or x.std() or 1.0
    share = np.where(is_bonafide, 0.5 / classes[0].size, 0.5 / classes[1].size)
    model = LogisticRegression(C=1 / _RIDGE, max_iter=1000, tol=1e-8)
    model.fit(((x[:, None] - mean) / scale).clip(-50, 50), is_bonafide, sample_weight=share)
    slope = model.coef_[0, 0] / scale
    return Calibration(float(slope), float(model.intercept_[0] - slope * mean))


def transfer(
    dev: Classes, test: Classes, frr: Sequence[float] = (0.01, 0.05)
) -> list[dict[str, Any]]:
    """Choose thresholds on one set and apply them to another.

    Args:
        dev: Bona fide and spoof scores on which the thresholds are chosen.
        test: Bona fide and spoof scores to which they are applied.
        frr: False rejection rates on ``dev`` for further thresholds; each is the highest threshold
            that rejects no more.

    Returns:
        One row per threshold, with ``rule``, ``threshold`` (accept above), ``dev_frr_percent``,
        ``dev_far_percent``, ``frr_percent`` and ``far_percent``.

    Raises:
        ConfigError: A false rejection rate is not in [0, 1).

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
