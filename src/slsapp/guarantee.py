r"""What a set of scores can promise: a bounded false rejection rate, and the interval of a rate.

Wilks (1941). :func:`guarantee` needs only bona fide scores. Let :math:`x_{(k)}` be the
:math:`k`-th smallest of :math:`n` scores that are drawn independently from one distribution, and
reject every score below it. The share :math:`p_k` of the distribution that is then rejected is
random, because the scores are. If no two scores can be equal, it has the beta distribution with the
parameters :math:`k` and :math:`n - k + 1`, whatever the distribution of the scores, so

.. math:: P(p_k \le p) = P(\mathrm{Bin}(n, p) \ge k) .

If scores can be equal, :math:`p_k` is smaller, because scores equal to :math:`x_{(k)}` are
accepted. So the right side is a lower bound in any case, and :math:`k` is the highest rank for
which it reaches the confidence. A threshold rejects scores equal to it, so the threshold is the
largest 64-bit number below :math:`x_{(k)}`.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from slslib.errors import ConfigError, ScoreError
from slslib.evaluation.metrics import validate


def guarantee(bonafide: ArrayLike, frr: float, confidence: float = 0.95) -> tuple[int, float]:
    """Choose the highest threshold whose false rejection rate is bounded, without any spoof score.

    Args:
        bonafide: Scores that were drawn independently; several scores of one speaker are worth
            fewer.
        frr: The false rejection rate that is wanted.
        confidence: Probability that the true rate is not above it.

    Returns:
        The rank :math:`k`, and the threshold (accept above), which rejects fewer than :math:`k` of
        the scores.

    Raises:
        ConfigError: A rate does not lie between 0 and 1.
        ScoreError: A score is not finite, or there are too few; the message says how many are
            needed.

    >>> rank, threshold = guarantee(range(500), 0.05)
    >>> rank, sum(score <= threshold for score in range(500))
    (17, 16)
    """
    from scipy.stats import binom

    (scores,) = validate(bonafide, names=("bona fide",))
    what = f"at most {100 * frr:g} % false rejections with a confidence of {100 * confidence:g} %"
    if not (0 < frr < 1 and 0 < confidence < 1):
        raise ConfigError(f"{what}: both must lie between 0 and 100")
    needed = np.ceil(math.log1p(-confidence) / math.log1p(-frr))  # may be infinite
    if scores.size < needed:
        text = f"{scores.size} bona fide scores: {what} takes {needed:,.10g} or more"
        least = 100 * -math.expm1(math.log1p(-confidence) / max(1, scores.size))
        raise ScoreError(f"{text}; so few allow {math.ceil(10 * least) / 10:g} % (--frr)")
    rank = max(1, int(binom.ppf(1 - confidence, scores.size, frr)))
    return rank, float(np.nextafter(np.sort(scores)[rank - 1], -np.inf))


def proportion(count: int, n: int, confidence: float = 0.95) -> dict[str, Any]:
    """Estimate a rate from ``count`` of ``n`` independent trials.

    Args:
        count: Number of trials in which it happened.
        n: Number of trials.
        confidence: Confidence of the interval, which is two-sided (Clopper and Pearson 1934).

    Returns:
        ``percent`` and ``interval_percent``.

    >>> proportion(0, 300)
    {'percent': 0.0, 'interval_percent': [0.0, 1.222097469429642]}
    """
    from scipy.stats import binomtest

    low, high = binomtest(count, n).proportion_ci(confidence)
    return {"percent": 100 * count / n, "interval_percent": [100 * float(low), 100 * float(high)]}
