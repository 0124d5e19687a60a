"""Results condition by condition.

Bona fide trials have no attack and no vocoder, so a breakdown by these sets the spoofed trials of
each value against *all* bona fide trials. A breakdown by codec, transmission, source or speaker
compares spoofed and bona fide trials of the same condition. Two factors make a cross table whose
last row and column are ``Pooled``, as in the ASVspoof 2021 evaluation package (``attack:codec`` for
LA, ``vocoder:codec`` for DF).

Each condition has an EER and a min DCF. The min t-DCF is computed only for the whole set: its
weights depend on the speaker verification trials of each condition, and only the 2021 LA key names
these.
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
        The entries that :func:`slslib.evaluation.evaluate.evaluate` returns for every condition.
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
        trials: A table with ``score``, ``label`` and the columns of the key.
        factors: Names of one or two columns.

    Returns:
        For each value of the factor, its :func:`rates`, ``n_bonafide`` and ``n_spoof``. With two
        factors, such a dictionary for each value of the first. A condition without trials of one
        class has only the counts.

    Raises:
        ScoreError: The key lacks a factor.
    """
    # Sorting once sorts the scores of each condition too; its curve then only has to merge them.
    trials = trials[["score", "label", *factors]].sort_values("score")
    scores, is_bonafide = trials["score"].to_numpy(), trials["label"].to_numpy() == 1
    members = []
    for factor in factors:
        column, everywhere = trials[factor].astype("category"), is_bonafide & (factor in _OF_SPOOF)
        own = {name: everywhere | (column == name) for name in column.cat.categories if name != "-"}
        if not own:
            raise ScoreError(f"the key has no {factor} to break down by. Use the full key.")
        members.append({**own, "Pooled": np.ones(len(trials), bool)}.items())
    groups: dict[str, Any] = {}
    for cell in product(*members):
        (*rows, name), masks = zip(*cell, strict=True)
        chosen = np.logical_and.reduce(masks)
        bonafide, spoof = scores[chosen & is_bonafide], scores[chosen & ~is_bonafide]
        row: dict[str, Any] = {"n_bonafide": bonafide.size, "n_spoof": spoof.size}
        if all(row.values()):
            row |= rates(metrics.det_curve(bonafide, spoof))
        table = groups.setdefault(rows[0], {}) if rows else groups
        table[name] = row
    return groups
