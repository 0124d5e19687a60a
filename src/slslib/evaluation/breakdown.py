"""What a set of scores amounts to, as a whole and condition by condition.

A breakdown by attack or vocoder, which bona fide speech does not have, sets the spoofed trials of
each against all bona fide ones; one by codec, transmission, source or speaker sets spoofed against
bona fide trials of the same condition. Two factors make a cross table, with ``Pooled`` as its last
row and column, as the ASVspoof 2021 evaluation package prints it (``attack:codec`` for LA,
``vocoder:codec`` for DF).

The weights of the t-DCF (:mod:`slslib.evaluation.metrics`) are those of each condition, too: from
the speaker verification trials of the same attack and codec, or from a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slslib.errors import ScoreError
from slslib.evaluation import metrics

if TYPE_CHECKING:
    import pandas as pd

_OF_SPOOF = ("attack", "vocoder")
_POOLED = "Pooled"
_TIES = 0.001  # percentage points
# Conditions in the order of the evaluation package's tables; others follow by name.
_ORDER = """
none alaw pstn g722 ulaw gsm opus
nocodec low_mp3 high_mp3 low_m4a high_m4a low_ogg high_ogg mp3m4a oggm4a
traditional_vocoder waveform_concatenation neural_vocoder_autoregressive
neural_vocoder_nonautoregressive unknown
""".split()

Weigh = Callable[[dict[str, str]], dict[str, Any]]
"""What tells the t-DCF's weights (and the ASV system's EER) of a condition, as far as known."""


def rates(bonafide: metrics.Floats, spoof: metrics.Floats, costs: dict[str, Any]) -> dict[str, Any]:
    """Compute error rates and costs of one condition from one curve.

    Args:
        bonafide: Scores of bona fide trials.
        spoof: Scores of spoofed trials.
        costs: What :func:`weigher`'s function tells of the condition.

    Returns:
        The quantities that :func:`slslib.evaluation.evaluate.evaluate` has for every condition.
    """
    curve = metrics.det_curve(bonafide, spoof)
    official, ties = curve.eer(), curve.eer("tie_aware")
    result: dict[str, Any] = {
        "eer_percent": 100 * official.value,
        "eer_threshold": official.threshold,
        "eer_rule": "official",
        "min_dcf": curve.min_cost(metrics.DCF),
    }
    if abs(official.value - ties.value) * 100 > _TIES:
        result["eer_tie_aware_percent"] = 100 * ties.value
    if costs:
        c0, c1, c2 = costs["tdcf_weights"]
        for year, first in (("2019", 0.0), ("2021", c0)):
            # Attacks that the verification system never accepts cost nothing: 0 / 0 in 2019.
            if first or min(c1, c2):
                result[f"min_tdcf_{year}"] = curve.min_cost((first, c1, c2))
    return result | costs


def breakdown(trials: pd.DataFrame, factors: Sequence[str], weigh: Weigh) -> dict[str, Any]:
    """Break a result down by one column of the key, or by two.

    Args:
        trials: ``score``, ``label`` and the columns of the key.
        factors: Names of one or two columns.
        weigh: What :func:`weigher` returned.

    Returns:
        Value to :func:`rates` and ``n_bonafide``, ``n_spoof``; for two factors value to value to
        these. A condition without trials of both classes is only counted.

    Raises:
        ScoreError: The key does not tell a factor.
    """
    scores, is_bonafide = trials["score"].to_numpy(), trials["label"].to_numpy() == 1
    columns, values = trials[list(factors)].astype("category"), []
    for factor in factors:
        names = sorted(set(trials[factor]) - {"-"})
        if not names:
            raise ScoreError(f"the key has no {factor} to break down by. Use the full key.")
        values.append([*sorted(names, key=[*_ORDER, *names].index), _POOLED])
    groups: dict[str, Any] = {}
    for cell in product(*values):
        bonafide, spoof = is_bonafide, ~is_bonafide
        told = {f: name for f, name in zip(factors, cell, strict=True) if name != _POOLED}
        for factor, name in told.items():
            is_own = (columns[factor] == name).to_numpy()
            spoof = spoof & is_own
            if factor not in _OF_SPOOF:
                bonafide = bonafide & is_own
        row: dict[str, Any] = {"n_bonafide": int(bonafide.sum()), "n_spoof": int(spoof.sum())}
        if all(row.values()):
            row |= rates(scores[bonafide], scores[spoof], weigh(told))
        *rows, name = cell
        table = groups.setdefault(rows[0], {}) if rows else groups
        table[name] = row
    return groups


def weigher(
    asv_scores: Path | None, asv_key: Path | None, c012: str | Path | None, phase: str
) -> Weigh:
    """Return the function that tells what is known of the costs of a condition.

    Args:
        asv_scores: Scores of a speaker verification system.
        asv_key: Their key, in the 2021 form.
        c012: The weights of the t-DCF instead, as ``"C0,C1,C2"``, or a table's file.
        phase: Whose weights.

    Returns:
        From a condition, as ``{"attack": "A07"}``, to ``tdcf_weights`` and ``asv_eer_percent``.

    Raises:
        ScoreError: A file is malformed.
    """
    from slslib.data.scorefiles import ASV_KINDS, read_asv_scores, read_c012

    if c012 is not None:
        try:
            c0, c1, c2 = map(float, str(c012).split(","))
            table = {(_POOLED, _POOLED): (c0, c1, c2)}
        except ValueError:
            table = read_c012(c012, phase)
    if asv_scores is not None:
        asv = read_asv_scores(asv_scores, asv_key)
        if phase != "all":
            asv = asv[asv["phase"].isin([phase, "-"])]

    def weigh(condition: dict[str, str]) -> dict[str, Any]:
        is_told = condition.keys() <= {"attack", "codec"}
        if not is_told or (c012 is None and asv_scores is None):
            return {}
        if c012 is not None:
            place = condition.get("attack", _POOLED), condition.get("codec", _POOLED)
            return {"tdcf_weights": list(table[place])} if place in table else {}
        chosen = np.ones(len(asv), bool)
        for factor, name in condition.items():
            chosen &= (asv[factor] == name) | ((factor == "attack") & (asv["kind"] != "spoof"))
        kinds = [asv.loc[chosen & (asv["kind"] == kind), "score"] for kind in ASV_KINDS]
        if condition and not all(scores.size for scores in kinds):
            return {}
        asv_eer, *errors = metrics.asv_rates(*kinds)
        weights = list(metrics.tdcf_weights(*errors))
        return {"tdcf_weights": weights, "asv_eer_percent": 100 * asv_eer}

    return weigh
