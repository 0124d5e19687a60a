"""Figures of the notebooks: learning curves, scores of both classes, DET curves, estimates."""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from scipy.special import ndtri

from slslib.evaluation import metrics, plots


def plot_learning(log: pd.DataFrame) -> plots.Plot:
    """Draw loss and development EER over the epochs of a run.

    Args:
        log: The run's ``log.csv``: ``epoch``, ``train_loss`` and, if there is a development set,
            ``dev_loss`` and ``dev_eer_percent``.
    """
    columns = {"training loss": "train_loss", "development loss": "dev_loss"}
    lines = {name: (log["epoch"], log[key]) for name, key in columns.items() if key in log}
    ticks = log["epoch"][:: ceil(len(log) / 12)]
    ylabel = "weighted cross entropy (nats)"
    _, axes = plots.plot_lines(lines, xlabel="epoch", ylabel=ylabel, xticks=ticks)
    if "dev_eer_percent" in log:
        right = axes.twinx()
        right.grid(False)
        right.plot(log["epoch"], log["dev_eer_percent"], "k^:", label="development EER")
        right.set(ylabel="development EER (%)", ylim=(0, None))
    return plots.legend(axes)


def plot_det(systems: Mapping[str, plots.Pair], *, axes: Axes | None = None) -> plots.Plot:
    """Draw detection error trade-off curves, both axes on the normal-deviate scale.

    Args:
        systems: ``(bona fide scores, spoof scores)`` by name; up to five.
        axes: Where to draw; by default in a new figure.
    """
    axes = axes or plots.panels(1, 4.8, 4.8)[1][0]
    for name, scores in plots.styled(axes, systems):
        curve, at = metrics.det_curve(*scores), metrics.eer(*scores).value
        label = f"{name} (EER {100 * at:.2f} %)"
        (line,) = axes.plot(ndtri(curve.far), ndtri(curve.frr), label=label, marker="")
        axes.plot(ndtri(at), ndtri(at), color=line.get_color(), marker="o", linestyle="none")
    axes.axline((0, 0), slope=1, color="0.7", linewidth=0.8, zorder=0)
    percent = np.array([0.1, 1, 2, 5, 10, 20, 40, 60, 80, 95])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ndtri(percent / 100), [f"{tick:g}" for tick in percent])
    far, frr = "false acceptance rate: spoof accepted", "false rejection rate: bona fide rejected"
    axes.set(xlabel=f"{far} (%)", ylabel=f"{frr} (%)", title="DET", aspect="equal")
    axes.set(xlim=ndtri([0.0005, 0.97]), ylim=ndtri([0.0005, 0.97]))
    return plots.legend(axes)


def plot_estimates(
    table: pd.DataFrame,
    *,
    xlabel: str,
    reference: float | None = 0,
    colours: Sequence[str] = plots.OTHER,
) -> plots.Plot:
    """Draw estimates with their intervals: a row for each group, a mark for each name in it.

    Args:
        table: ``group``, ``name``, ``value``, ``low`` and ``high``; up to five names.
        xlabel: What is estimated, with its unit.
        reference: Value to mark by a line; None for no line.
        colours: One for each name, for example those of the classes.
    """
    groups = list(table["group"].unique())
    own = {str(name): rows for name, rows in table.groupby("name", sort=False)}
    _, (axes,) = plots.panels(1, 6.8, 1.2 + 0.16 * len(groups) * (len(own) + 1.5))
    for k, (label, rows) in enumerate(plots.styled(axes, own, colours)):
        places = rows["group"].map(groups.index) + 0.8 * ((k + 0.5) / len(own) - 0.5)
        ends = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        bars = axes.errorbar(rows["value"], places, xerr=ends, label=label, capsize=2, linewidth=1)
        bars.lines[0].set(linestyle="none", markersize=4)
    if reference is not None:
        axes.axvline(reference, **plots.MARK)
    axes.set_yticks(range(len(groups)), groups)
    axes.set(xlabel=xlabel, ylim=(len(groups) - 0.4, -0.6))
    return plots.legend(axes)


def plot_scores(
    bonafide_scores: ArrayLike, spoof_scores: ArrayLike, thresholds: Sequence[float] = ()
) -> plots.Plot:
    """Draw the distributions of both classes, with the errors at a threshold as filled areas.

    Args:
        bonafide_scores: Scores of bona fide trials; those up to the threshold are rejected.
        spoof_scores: Scores of spoofed trials; those above the threshold are accepted.
        thresholds: One for each panel, up to four; by default that of the EER.
    """
    bonafide, spoof = metrics.validate(bonafide_scores, spoof_scores)
    thresholds = thresholds or [metrics.eer(bonafide, spoof).threshold]
    ends = np.array([min(bonafide.min(), spoof.min()), max(bonafide.max(), spoof.max())])
    width = np.ptp(ends) / 40 or 1.0
    _, own = plots.panels(len(thresholds), 3.2 + 3.2 * len(thresholds), 3.6, sharey=True)
    for axes, at in zip(own, thresholds, strict=True):
        first, last = np.ceil((ends - at) / width)
        # A bin ends at the threshold, and holds the scores equal to it.
        edges = np.nextafter(at, np.inf) + width * np.arange(first - 2, last + 2)
        above = edges[:-1] > at
        for name, scores, is_wrong, colour, hatch in (
            ("spoof ({:,}), filled: accepted", spoof, above, plots.SPOOF, "//"),
            ("bona fide ({:,}), filled: rejected", bonafide, ~above, plots.BONAFIDE, None),
        ):
            percent = 100 * np.histogram(scores, edges)[0] / scores.size
            axes.stairs(percent, edges, color=colour)
            filled = axes.stairs(percent * is_wrong, edges, fill=True, color=colour, alpha=0.6)
            filled.set(edgecolor="white", hatch=hatch, linewidth=0, label=name.format(scores.size))
        axes.axvline(at, **plots.MARK)
        far, frr = 100 * np.mean(spoof > at), 100 * np.mean(bonafide <= at)
        axes.set_title(f"threshold {at:.2f}\nFAR {far:.2f} %, FRR {frr:.2f} %", fontsize="medium")
        axes.set_xlabel("score (higher: more bona fide)")
    own[0].set_ylabel("trials of the class (%)")
    return plots.legend(own[0])
