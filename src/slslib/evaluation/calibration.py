r"""What is chosen on one set of trials and used on another: thresholds, calibration, fusion.

**Thresholds.** An EER chooses its threshold with the answers at hand. :func:`transfer` chooses it
on a development set, at the EER or at a given false rejection rate, and reports both error rates
on another set; a trial is accepted above it.

**Calibration** (Brümmer and du Preez 2006; Pigeon, Druyts and Verlinden 2000). The scores
:math:`x_1 \dots x_k` of one or several systems become a log-likelihood ratio

.. math:: \ell = \sum_i w_i x_i + b

by logistic regression: it minimises the Cllr of :mod:`slslib.evaluation.metrics`, in which bona
fide and spoofed trials weigh the same, whatever their counts. With one system this leaves the order
of the scores and so the EER as they are; with several it is their linear fusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slslib.errors import ConfigError
from slslib.evaluation.metrics import Floats, act_dcf, cllr, det_curve, split, validate

Classes = tuple[ArrayLike, ArrayLike]
"""Scores of bona fide and of spoofed trials."""

Trials = tuple[Floats, NDArray[np.int8]]
"""Scores, shape (trials, systems), and labels."""

# So weak that it shows only where the classes are separable, and then keeps the slope finite.
_RIDGE = 1e-6


@dataclass(frozen=True)
class Calibration:
    """A linear map from scores to log-likelihood ratios (natural logarithm).

    Attributes:
        weights: One for each system.
        offset: Added to the weighted sum.
    """

    weights: tuple[float, ...]
    offset: float

    def __call__(self, scores: ArrayLike) -> Floats:
        """Map scores, shape (trials,) or (trials, systems), to log-likelihood ratios.

        >>> Calibration((2.0,), -1.0)([0.0, 1.0]).tolist()
        [-1.0, 1.0]
        """
        columns = np.c_[np.asarray(scores, dtype=np.float64)]  # np.c_ makes vectors columns
        return columns @ np.array(self.weights) + self.offset


def fit(scores: ArrayLike, labels: ArrayLike) -> Calibration:
    """Fit a calibration, or a fusion of several systems.

    Args:
        scores: Shape (trials,) or (trials, systems).
        labels: 1 for bona fide, 0 for spoof.

    Raises:
        ScoreError: Scores and labels do not fit, one class is missing, or a score is not finite.
    """
    from sklearn.linear_model import LogisticRegression

    x, is_bonafide = np.c_[np.asarray(scores, dtype=np.float64)], np.asarray(labels) == 1
    for system in x.T:
        split(system, labels)
    # Standardised, so that the ridge means the same whatever the scale of the scores.
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale == 0] = 1
    share = np.where(is_bonafide, 0.5 / is_bonafide.sum(), 0.5 / (~is_bonafide).sum())
    model = LogisticRegression(C=1 / _RIDGE, max_iter=1000, tol=1e-8)
    model.fit((x - mean) / scale, is_bonafide, sample_weight=share)
    weights = model.coef_[0] / scale
    return Calibration(tuple(weights.tolist()), float(model.intercept_[0] - weights @ mean))


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


def use_dev_set(dev: Trials, test: Trials, calibrate: bool) -> tuple[Floats, dict[str, Any]]:
    """Choose thresholds, and fuse several systems or calibrate one, on a development set.

    Args:
        dev: Scores, shape (trials, systems), and labels to choose and fit on.
        test: Those of the trials to evaluate.
        calibrate: Fit, and tell the costs of what the fit makes of the scores.

    Returns:
        The scores to evaluate: fused ones, or those of a single system as they are. With them
        ``transfer`` and, of a fit, ``calibration``.
    """
    (dev_systems, dev_labels), (systems, labels) = dev, test
    dev_scores, scores = dev_systems[:, 0], systems[:, 0]
    told: dict[str, Any] = {}
    if calibrate:
        to_llr = fit(*dev)
        llrs = to_llr(systems)
        classes = split(llrs, labels)
        made: dict[str, Any] = {"prior": 0.5, "fitted_on": "the development set"}
        made |= {"weights": list(to_llr.weights), "offset": to_llr.offset}
        told["calibration"] = made | {"cllr": cllr(*classes), "act_dcf": act_dcf(*classes)}
        if systems.shape[1] > 1:
            dev_scores, scores = to_llr(dev_systems), llrs
    told["transfer"] = transfer(split(dev_scores, dev_labels), split(scores, labels))
    return scores, told
