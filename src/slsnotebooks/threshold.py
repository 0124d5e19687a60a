"""A figure with a threshold that the reader moves, and the two error rates at it.

Python draws one SVG picture of the scores, with a threshold next to that of the equal error rate.
Where scripts run, the one in ``threshold.html`` puts a slider below the picture, moves the
threshold in it and counts again. Elsewhere, as in JupyterLab before a downloaded notebook is run,
the picture stays an image. Nothing is loaded from anywhere.

Colours and words are those of :mod:`slslib.evaluation.plots`: the filled areas are the rejected
bona fide and the accepted spoofed trials.
"""

from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from slslib.evaluation import metrics

CLASSES = ("bonafide", "spoof")
STEPS_PER_BAR = 10
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 460, 70, 232  # the axes, as threshold.svg draws them


def count_rejected(bonafide: ArrayLike, spoof: ArrayLike, step: float = 0.05) -> pd.DataFrame:
    """Count the trials of each class that each of many thresholds rejects.

    Args:
        bonafide: Scores of bona fide trials, in any order.
        spoof: Those of spoofed trials.
        step: Distance of the thresholds.

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
    start = int(np.abs(rejected.index - eer.threshold).argmin())
    below, total = rejected.iloc[start], rejected.iloc[-1]
    bars = 100 * (rejected / total).iloc[::STEPS_PER_BAR].diff().iloc[1:]
    low, high, top = rejected.index[0], rejected.index[-1], 1.2 * bars.to_numpy().max()
    x = partial(np.interp, xp=(low, high), fp=(_LEFT, _RIGHT))
    y = partial(np.interp, xp=(0, top), fp=(_BOTTOM, _TOP))
    outlines = {
        column: "".join(f"V{y(percent):.1f}H{x(at):.1f}" for at, percent in bars[column].items())
        for column in CLASSES
    }
    parts = {
        "name": name,
        "alt": escape(alt),
        "counts": escape(rejected.to_json(orient="split")),
        "start": start,
        "threshold": f"{rejected.index[start]:.2f}",
        "x": f"{x(rejected.index[start]):.2f}",
        "frr": _rate(below["bonafide"], total["bonafide"]),
        "far": _rate(total["spoof"] - below["spoof"], total["spoof"]),
        "eer": f"{100 * eer.value:.2f} %",
        "eer_x": f"{x(eer.threshold):.2f}",
        "scores": _ticks('<text x="{:.1f}" y="250">{:g}</text>', x, low, high),
        "percents": _ticks('<text x="40" y="{:.1f}" dy="4">{:g}</text>', y, 0, top),
    }
    picture = Template(Path(__file__).with_suffix(".svg").read_text()).substitute(parts, **outlines)
    page = Template(Path(__file__).with_suffix(".html").read_text())
    return page.substitute(parts, picture=quote(picture))


def _rate(wrong: int, n: int) -> str:
    return f"{100 * wrong / n:.2f} %: {wrong:,} of {n:,}"


def _ticks(form: str, place: Callable[[float], float], low: float, high: float) -> str:
    ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
    return "".join(form.format(place(at), at) for at in ticks if low <= at <= high)
