"""Figures of the notebooks: the course of a training, estimates with their intervals."""

from collections.abc import Sequence
from math import ceil

import pandas as pd

from slslib.evaluation import plots


def plot_learning(log: pd.DataFrame) -> plots.Plot:
    """Draw loss and development EER over the epochs of a run.

    Args:
        log: The run's ``log.csv``: ``epoch``, ``train_loss`` and, where there is a development
            set, ``dev_loss`` and ``dev_eer_percent``.
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
