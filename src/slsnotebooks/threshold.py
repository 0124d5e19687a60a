"""Figures with a threshold and the two error rates at it.

Colours and words are those of :mod:`slslib.evaluation.plots`. Filled areas are the rejected bona
fide trials and the accepted spoofed trials.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from slslib.evaluation import metrics
from slslib.evaluation.calibration import Classes, transfer
from slsnotebooks.moving import line, movable, template, ticks

CLASSES = ("bonafide", "spoof")
STEPS_PER_BAR = 10
Scores = Mapping[str, Mapping[str, Classes]]


def count_rejected(bonafide: ArrayLike, spoof: ArrayLike, step: float = 0.05) -> pd.DataFrame:
    """Count how many trials of each class each of many thresholds rejects.

    Args:
        bonafide: Scores of bona fide trials, in any order.
        spoof: Scores of spoofed trials.
        step: Distance between thresholds.

    Returns:
        Columns ``bonafide`` and ``spoof``, by threshold. A score equal to the threshold is
        rejected. The first row is 0, the last holds all trials.

    >>> count_rejected([1.0, 2.0], [0.0, 1.0], step=1).loc[1.0].to_list()
    [1, 2]
    """
    classes = metrics.validate(bonafide, spoof)
    bars = np.concatenate(classes) / (step * STEPS_PER_BAR)
    first, last = STEPS_PER_BAR * np.ceil([bars.min(), bars.max()]).astype(int)
    thresholds = np.round(step * np.arange(first - STEPS_PER_BAR, last + 1), 9)
    counts = (np.searchsorted(np.sort(scores), thresholds, side="right") for scores in classes)
    return pd.DataFrame(dict(zip(CLASSES, counts, strict=True)), index=thresholds)


def movable_threshold(rejected: pd.DataFrame, eer: metrics.EER, *, name: str, alt: str) -> str:
    """Draw the distributions of both classes, with a threshold that moves, as HTML.

    Args:
        rejected: What :func:`count_rejected` returned.
        eer: The equal error rate of the same scores; its threshold is marked.
        name: A word that no other such figure on the page has.
        alt: What the picture shows, in words.
    """
    total, low, high = rejected.iloc[-1], rejected.index[0], rejected.index[-1]
    bars = 100 * (rejected / total).iloc[::STEPS_PER_BAR].diff().iloc[1:]
    top = 1.2 * bars.to_numpy().max()
    x = partial(np.interp, xp=(low, high), fp=(46, 460))
    y = partial(np.interp, xp=(0, top), fp=(232, 70))
    across = np.repeat(x(rejected.index[::STEPS_PER_BAR]), 2)[1:-1]
    fixed = {column: line(across, np.repeat(y(bars[column]), 2)) for column in CLASSES} | {
        "name": name,
        "eer": f"{100 * eer.value:.2f} %",
        "eer_x": f"{x(eer.threshold):.2f}",
        "scores": ticks('<text x="{:.1f}" y="250">{:g}</text>', x, low, high),
        "percents": ticks('<text x="40" y="{:.1f}" dy="4">{:g}</text>', y, 0, top),
    }
    picture = template("threshold.svg")

    def draw(k: int) -> str:
        at, frr = rejected.index[k], _rate(rejected["bonafide"].iloc[k], total["bonafide"])
        far = _rate(total["spoof"] - rejected["spoof"].iloc[k], total["spoof"])
        return picture.substitute(fixed, at=f"{at:.2f}", x=f"{x(at):.2f}", frr=frr, far=far)

    slider = {"Threshold (drag, or press arrow keys)": range(len(rejected))}
    return movable(draw, slider, [int(np.abs(rejected.index - eer.threshold).argmin())], alt)


def movable_transfer(scores: Scores, frr: Sequence[float] = (0.01, 0.05, 0.1), *, alt: str) -> str:
    """Draw the error rates of some tracks, at a threshold that one of them chooses, as HTML.

    Args:
        scores: By detector and track, the scores of bona fide and of spoofed trials.
        frr: False rejection rates that give a threshold, besides the EER.
        alt: What the picture shows, in words.
    """
    picture, row = template("transfer.svg"), template("transfer_row.svg")
    tracks, rules = list(next(iter(scores.values()))), ["EER", *(f"FRR {100 * p:g} %" for p in frr)]

    def draw(detector: str, source: str, rule: str) -> str:
        own, rows = scores[detector], ""
        every = np.hstack([np.hstack(pair) for pair in own.values()])
        grid = np.linspace(every.min(), every.max(), 200)
        x = partial(np.interp, xp=grid[[0, -1]], fp=(46, 460))
        for k, (track, (bonafide, spoof)) in enumerate(own.items()):
            moved = transfer(own[source], own[track], frr)[rules.index(rule)]
            parts = {"track": escape(track), "x": f"{x(moved['threshold']):.1f}"}
            errors = np.array(bonafide)[:, None] <= grid, np.array(spoof)[:, None] > grid
            for kind, wrong in zip(("frr", "far"), errors, strict=True):
                parts[kind] = f"{moved[f'{kind}_percent']:.1f}"
                parts[f"{kind}_y"] = f"{68 - 0.48 * moved[f'{kind}_percent']:.1f}"
                parts[f"{kind}_curve"] = line(x(grid), 68 - 48 * wrong.mean(axis=0))
            rows += row.substitute(parts, here="(chosen here)" * (track == source), y=44 + 76 * k)
        parts["at"], end = f"{moved['threshold']:.2f}", 44 + 76 * len(own)
        places = np.linspace(grid[0], grid[-1], 5)
        parts["scores"] = "".join(f'<text x="{x(at):.1f}" y="7">{at:.1f}</text>' for at in places)
        return picture.substitute(parts, rows=rows, end=end, height=end + 32)

    controls = {"Detector": list(scores), "Threshold from": tracks, "Rule": rules}
    return movable(draw, controls, [options[0] for options in controls.values()], alt)


def _rate(wrong: int, n: int) -> str:
    return f"{100 * wrong / n:.2f} %: {wrong:,} of {n:,}"
