"""Figures: one colour for one class everywhere, units on every axis.

Bona fide is blue and spoof is vermilion. These two colours of Okabe and Ito's palette can be told
apart by readers with any colour vision; line style or marker repeats the difference for print.
Every function that draws returns ``(figure, axes)``, where ``axes`` is the first panel if there are
several, and touches no global state of matplotlib. At most five names can be told apart; more raise
a :class:`~slslib.errors.ConfigError`, and none is ever left out.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from slslib.errors import ConfigError

BONAFIDE = "#0072B2"
SPOOF = "#D55E00"
OTHER = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # systems, never classes

Plot = tuple[Figure, Axes]
Pair = tuple[ArrayLike, ArrayLike]  # x and y, or scores of bona fide and of spoofed trials

_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARK: dict[str, Any] = {"color": "0.2", "linestyle": "--", "linewidth": 1}  # threshold, chance


# ------------------------------------------------------------------------------- shared by figures


def panels(
    columns: int, width: float, height: float, *, rows: int = 1, grid: bool = True, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """Make a figure of ``width`` x ``height`` inches, and return it with its panels, row by row."""
    # In a wider figure, the text would be too small to read on a page.
    figure = Figure(figsize=(min(width, 9), height), dpi=120, layout="constrained")
    with sns.axes_style("whitegrid" if grid else "white", {"grid.color": "0.9"}):
        return figure, list(figure.subplots(rows, columns, squeeze=False, **shared).flat)


def legend(axes: Axes) -> Plot:
    """Draw the legend of a figure above its panels, in as many columns as fit.

    Every figure of this module already has one; call this again after drawing more into the figure.
    """
    figure: Any = axes.figure
    shown: dict[str, Any] = {}
    for panel in figure.axes:
        handles, names = panel.get_legend_handles_labels()
        shown |= dict(zip(names, handles, strict=True))
    inches = sum(0.6 + 0.08 * len(name) for name in shown)
    columns = ceil(len(shown) / ceil(inches / figure.get_figwidth()))
    figure.legends.clear()
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=columns)
    return figure, axes


def styled(
    axes: Axes, things: Mapping[str, Any], colours: Sequence[str] = OTHER
) -> list[tuple[str, Any]]:
    """Give each thing a colour, a line style and a marker in these axes; return them by label."""
    n = len(colours)
    if not 1 <= len(things) <= n:
        raise ConfigError(f"{len(things)} names: a readable figure has 1 to {n}")
    axes.set_prop_cycle(color=colours, linestyle=_LINES[:n], marker=list("os^Dv")[:n])
    # Matplotlib leaves labels that begin with an underscore out of a legend.
    return [(f" {name}" if name[:1] == "_" else name, thing) for name, thing in things.items()]


# ------------------------------------------------------------------------------------------- lines


def plot_lines(
    lines: Mapping[str, Pair],
    *,
    xlabel: str,
    ylabel: str,
    reference: float | None = None,
    colours: Sequence[str] = OTHER,
    axes: Axes | None = None,
    **options: Any,
) -> Plot:
    """Draw lines, with markers if there are few points.

    Args:
        lines: ``(x, y)`` by name; up to five. If y is a table of shape (trials, positions), the
            line is the mean over the trials, and a band is the standard deviation.
        xlabel: Label of the horizontal axis, with its unit.
        ylabel: Label of the vertical axis, with its unit.
        reference: Vertical position to mark by a dashed line.
        colours: One for each name, for example those of the classes.
        axes: Where to draw; by default in a new figure.
        **options: For :meth:`matplotlib.axes.Axes.set`, for example ``ylim``.
    """
    axes = axes or panels(1, 6.4, 3.6)[1][0]
    for label, (x, y) in styled(axes, lines, colours):
        rows = np.atleast_2d(np.asarray(y, float))
        mean, spread = rows.mean(axis=0), rows.std(axis=0)
        (line,) = axes.plot(x, mean, label=label, markersize=4)
        if np.isfinite(mean).sum() > 30:  # few points are marked; one alone would not be seen
            line.set_marker("")
        if len(rows) > 1:
            band: dict[str, Any] = {"color": line.get_color(), "alpha": 0.15, "linewidth": 0}
            axes.fill_between(x, mean - spread, mean + spread, **band)
    if reference is not None:
        axes.axhline(reference, **MARK)
    axes.set(xlabel=xlabel, ylabel=ylabel, **options)
    return legend(axes)


def plot_layers(lines: Mapping[str, ArrayLike], **options: Any) -> Plot:
    """Draw values of each transformer layer, a line for each name.

    Args:
        lines: Values of layer 1, 2, ... by name, as for :func:`plot_lines`.
        **options: Options of :func:`plot_lines`, such as ``ylabel``.
    """
    pairs = {name: (np.arange(1, np.shape(y)[-1] + 1), y) for name, y in lines.items()}
    figure, axes = plot_lines(pairs, xlabel="transformer layer", **options)
    axes.set_xticks(np.asarray(axes.lines[0].get_xdata())[::2])
    return figure, axes
