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

from slslib.errors import ConfigError, ScoreError
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

# The t-DCF's weights and the ASV system's EER, if known; what tells them of a condition.
Weights = tuple[tuple[float, float, float], float | None]
Weigh = Callable[[dict[str, str]], Weights | None]


def rates(
    bonafide: metrics.Floats, spoof: metrics.Floats, weights: Weights | None
) -> dict[str, Any]:
    """Compute error rates and costs of one condition from one curve.

    Args:
        bonafide: Scores of bona fide trials.
        spoof: Scores of spoofed trials.
        weights: Of the t-DCF, where they can be had.

    Returns:
        The quantities that :func:`slslib.evaluation.evaluate.evaluate` has for every condition.
    """
    curve = metrics.det_curve(bonafide, spoof)
    official, ties = curve.eer(), curve.eer("tie_aware")
    result: dict[str, Any] = {
        "eer_percent": 100 * official.value,
        "eer_threshold": official.threshold,
        "eer_rule": official.rule,
        "min_dcf": curve.min_cost(metrics.dcf_weights()),
    }
    if abs(official.value - ties.value) * 100 > _TIES:
        result["eer_tie_aware_percent"] = 100 * ties.value
    if weights is not None:
        (c0, c1, c2), asv_eer = weights
        result["tdcf_weights"] = [float(c0), float(c1), float(c2)]
        for year, first in (("2019", 0.0), ("2021", c0)):
            # Attacks that the verification system never accepts cost nothing: 0 / 0 in 2019.
            if asv_eer is None or first + min(c1, c2) > 0:
                result[f"min_tdcf_{year}"] = curve.min_cost((first, c1, c2))
        if asv_eer is not None:
            result["asv_eer_percent"] = 100 * asv_eer
    return result


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
    masks: list[dict[str, np.ndarray]] = []
    for factor in factors:
        column = trials[factor]
        values = set(column.unique()) - {"-"}
        if not values:
            raise ScoreError(f"the key has no {factor} to break down by. Use the full key.")
        known = [value for value in _ORDER if value in values]
        ordered = known + sorted(values.difference(known))
        masks.append({value: (column == value).to_numpy() for value in ordered})
        masks[-1][_POOLED] = np.ones(len(trials), bool)
    groups: dict[str, Any] = {}
    for cell in product(*masks):
        condition = dict(zip(factors, cell, strict=True))
        is_spoof, is_compared = ~is_bonafide, is_bonafide
        for (factor, value), mask in zip(condition.items(), masks, strict=True):
            is_spoof = is_spoof & mask[value]
            if factor not in _OF_SPOOF:
                is_compared = is_compared & mask[value]
        bonafide, spoof = scores[is_compared], scores[is_spoof]
        row: dict[str, Any] = {"n_bonafide": bonafide.size, "n_spoof": spoof.size}
        if bonafide.size and spoof.size:
            row |= rates(bonafide, spoof, weigh(condition))
        table = groups
        for value in cell[:-1]:
            table = table.setdefault(value, {})
        table[cell[-1]] = row
    return groups


def weigher(
    asv_scores: Path | None,
    asv_key: Path | None,
    c012: str | Path | tuple[float, float, float] | None,
    phase: str,
) -> Weigh:
    """Return the function that knows the t-DCF's weights of a condition, or None.

    Args:
        asv_scores: Scores of a speaker verification system.
        asv_key: Their key, in the 2021 form.
        c012: The weights instead: numbers, also as ``"C0,C1,C2"``, or a table's file.
        phase: Whose weights.

    Raises:
        ConfigError: The weights are not three numbers.
        ScoreError: A file is malformed.
    """
    from slslib.data.scorefiles import ASV_KINDS, read_asv_scores, read_c012

    table: dict[tuple[str, str], tuple[float, float, float]] = {}
    if asv_scores is not None:
        asv = read_asv_scores(asv_scores, asv_key)
        if phase != "all" and (asv["phase"] != "-").any():
            asv = asv[asv["phase"] == phase]
    elif (numbers := three_numbers(c012)) is not None:
        table = {(_POOLED, _POOLED): numbers}
    elif c012 is not None:
        table = read_c012(str(c012), phase)

    def weigh(condition: dict[str, str]) -> Weights | None:
        told = {factor: value for factor, value in condition.items() if value != _POOLED}
        if not set(told) <= {"attack", "codec"}:
            return None
        if asv_scores is None:
            weights = table.get((told.get("attack", _POOLED), told.get("codec", _POOLED)))
            return weights and (weights, None)
        chosen = np.ones(len(asv), bool)
        for factor, value in told.items():
            chosen &= (asv[factor] == value) | ((factor == "attack") & (asv["kind"] != "spoof"))
        kinds = [asv.loc[chosen & (asv["kind"] == kind), "score"] for kind in ASV_KINDS]
        if told and not all(scores.size for scores in kinds):
            return None
        target, nontarget, spoof = kinds
        asv_rates = metrics.asv_rates(target, nontarget, spoof)
        return metrics.tdcf_weights(asv_rates), asv_rates.eer

    return weigh


def three_numbers(
    c012: str | Path | tuple[float, float, float] | None,
) -> tuple[float, float, float] | None:
    """Parse the weights ``"C0,C1,C2"``; None for the name of a file, which has no comma."""
    if isinstance(c012, str) and "," in c012:
        try:
            c0, c1, c2 = map(float, c012.split(","))
        except ValueError as error:
            raise ConfigError(f"c012 {c012!r} is not three numbers C0,C1,C2.") from error
        return c0, c1, c2
    return c012 if isinstance(c012, tuple) else None
