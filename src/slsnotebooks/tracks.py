"""Comparing tracks: EERs with intervals, and the attacks that a detector knows from training."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from numpy.typing import ArrayLike

from slslib.evaluation.intervals import bootstrap_eer, interval
from slslib.evaluation.metrics import eer, split

SAME_ALGORITHM = {"A16": "A04", "A19": "A06"}
"""Evaluation attacks of ASVspoof 2019 and 2021, and the training attacks of the same algorithm.

Wang et al., "ASVspoof 2019: a large-scale public database", Computer Speech & Language 64 (2020).
"""


def eer_estimate(
    scores: ArrayLike, labels: ArrayLike, clusters: Sequence[ArrayLike] = (), seed: Any = 0
) -> dict[str, float]:
    """Compute an EER with its 95 % interval, as a row that the notebooks draw.

    Args:
        scores: One score per trial.
        labels: 1 for bona fide, 0 for spoof.
        clusters: As for :func:`slslib.evaluation.intervals.bootstrap_eer`.
        seed: What :func:`numpy.random.default_rng` takes.

    Returns:
        ``value``, ``low`` and ``high`` in percent.

    Raises:
        ScoreError: Scores and labels do not fit, a class is empty, or a factor has fewer than two
            clusters.

    >>> eer_estimate([1.0, 2.0, 3.0, 0.5], [1, 1, 0, 0])["value"]
    50.0
    """
    low, high = interval(bootstrap_eer(scores, labels, clusters, seed=seed))
    value = eer(*split(scores, labels)).value
    return {"value": 100 * value, "low": 100 * low, "high": 100 * high}


def known_attacks(training: pd.DataFrame) -> set[str]:
    """Return the attacks that a training set holds, under all names that keys give them.

    Args:
        training: A table with the column ``attack``.

    >>> sorted(known_attacks(pd.DataFrame({"attack": ["-", "A03", "A04"]})))
    ['A03', 'A04', 'A16']
    """
    seen = set(training["attack"]) - {"-"}
    return seen | {name for name, same in SAME_ALGORITHM.items() if same in seen}
