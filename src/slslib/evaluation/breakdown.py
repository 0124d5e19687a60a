"""Results condition by condition.

A breakdown by attack or vocoder sets the spoofed trials of each one against *all* bona fide trials,
which have neither. One by codec, transmission, source or speaker compares spoofed and bona fide
trials of the same condition. Two factors make a cross table whose last row and column are
``Pooled``, as the ASVspoof 2021 evaluation package prints it (``attack:codec`` for LA,
``vocoder:codec`` for DF).

A condition has an EER and a min DCF. The min t-DCF is computed for the whole set only: its weights
depend on the speaker verification trials of each condition, which only the 2021 LA key names.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from slslib.errors import ScoreError
from slslib.evaluation import metrics

if TYPE_CHECKING:
    import pandas as pd

_OF_SPOOF = ("attack", "vocoder")
_TIES = 0.001  # percentage points


def rates(curve: metrics.DET) -> dict[str, Any]:
    """Compute the error rates and the detection cost of one condition.

    Args:
        curve: The DET curve of its scores.

    Returns:
        The quantities that :func:`slslib.evaluation.evaluate.evaluate` has for every condition.
    """
    official, ties = curve.eer(), curve.tie_aware().eer()
    result: dict[str, Any] = {
        "eer_percent": 100 * official.value,
        "eer_threshold": official.threshold,
        "eer_rule": "official",
        "min_dcf": curve.min_cost(metrics.DCF),
    }
    if abs(official.value - ties.value) * 100 > _TIES:
        result["eer_tie_aware_percent"] = 100 * ties.value
    return result


def breakdown(trials: pd.DataFrame, factors: Sequence[str]) -> dict[str, Any]:
    """Break a result down by one column of the key, or by two.

    Args:
        trials: ``score``, ``label`` and the columns of the key.
        factors: Names of one or two columns.

    Returns:
        For each value of the factor its :func:`rates`, ``n_bonafide`` and ``n_spoof``; for two
        factors a dictionary of these for each value of the first. A condition that lacks a class
        has only the counts.

    Raises:
        ScoreError: The key lacks a factor.
    """
    scores, is_bonafide = trials["score"].to_numpy(), trials["label"].to_numpy() == 1
    members = []
    for factor in factors:
        names = sorted(set(trials[factor]) - {"-"})
        if not names:
            raise ScoreError(f"the key has no {factor} to break down by. Use the full key.")
        own = {name: (trials[factor] == name).to_numpy() for name in names}
        members.append(own | {"Pooled": np.ones(len(trials), bool)})
    groups: dict[str, Any] = {}
    for cell in product(*members):
        bonafide, spoof = is_bonafide, ~is_bonafide
        for factor, name, own in zip(factors, cell, members, strict=True):
            spoof = spoof & own[name]
            if factor not in _OF_SPOOF:
                bonafide = bonafide & own[name]
        row: dict[str, Any] = {"n_bonafide": int(bonafide.sum()), "n_spoof": int(spoof.sum())}
        if all(row.values()):
            row |= rates(metrics.det_curve(scores[bonafide], scores[spoof]))
        *rows, name = cell
        table = groups.setdefault(rows[0], {}) if rows else groups
        table[name] = row
    return groups
