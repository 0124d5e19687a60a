"""Figures: one colour for one class everywhere, units on every axis.

Bona fide is blue and spoof is vermilion, two colours of Okabe and Ito's palette that readers with
any colour vision tell apart; line style or marker repeats the difference for print. Every
function returns ``(figure, axes)``, with several panels the first one's axes, and touches no global
state of matplotlib. Names beyond the five that can be told apart are a
:class:`~slslib.errors.ConfigError`, never left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from scipy.signal import spectrogram
from scipy.special import ndtri

from slslib.data.audio import SAMPLE_RATE
from slslib.errors import ConfigError
from slslib.evaluation import metrics
from slslib.evaluation.intervals import interval

BONAFIDE = "#0072B2"
SPOOF = "#D55E00"
OTHER = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # systems, never classes

Plot = tuple[Figure, Axes]
Pair = tuple[ArrayLike, ArrayLike]  # x and y, or scores of bona fide and of spoofed trials
_T = TypeVar("_T")

_LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
# A threshold, chance, a reference.
_MARK: dict[str, Any] = {"color": "0.2", "linestyle": "--", "linewidth": 1}
_PICTURE: dict[str, Any] = {"origin": "lower", "aspect": "auto", "interpolation": "nearest"}
_DET_TICKS = np.array([0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95])


# ------------------------------------------------------------------------------- shared by figures


def _panels(
    columns: int, width: float, height: float, *, rows: int = 1, grid: bool = True, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """Make a figure of ``width`` x ``height`` inches; its panels come row by row."""
    # On a page, the text of a wider figure would be too small to read.
    figure = Figure(figsize=(min(width, 9), height), dpi=120, layout="constrained")
    with sns.axes_style("whitegrid" if grid else "white", {"grid.color": "0.9"}):
        panels = figure.subplots(rows, columns, squeeze=False, **shared)
    return figure, list(panels.flat)


def _axes(width: float = 6.4, height: float = 3.6) -> Plot:
    figure, (axes,) = _panels(1, width, height)
    return figure, axes


def _styled(
    things: Mapping[str, _T], colours: Sequence[str] = OTHER
) -> Iterator[tuple[str, _T, dict[str, Any]]]:
    """Give each thing a colour, a line style and a marker of its own."""
    most = min(len(colours), len(_LINES))
    if not 1 <= len(things) <= most:
        raise ConfigError(f"{len(things)} names: a readable figure has 1 to {most}")
    for (name, thing), colour, line, marker in zip(
        things.items(), colours, _LINES, "os^Dv", strict=False
    ):
        # Matplotlib leaves labels out of a legend that begin with an underscore.
        label = f" {name}" if name.startswith("_") else name
        yield label, thing, {"color": colour, "linestyle": line, "marker": marker, "markersize": 4}


def _lines(lines: Mapping[str, Pair], colours: Sequence[str] = OTHER) -> Plot:
    figure, axes = _axes()
    for name, (x, y), style in _styled(lines, colours):
        x, y = np.asarray(x), np.asarray(y, float)
        if y.ndim == 2:
            y, spread = y.mean(axis=0), y.std(axis=0)
            band = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
            axes.fill_between(x, y - spread, y + spread, **band)
        if np.isfinite(y).sum() > 30:  # few points are marked; one alone would not be seen
            style["marker"] = None
        axes.plot(x, y, label=name, **style)
    return figure, axes


def _with_legend(figure: Figure) -> Plot:
    """Name what all panels show, above them, where it covers nothing, in as many columns as fit."""
    shown: dict[str, Any] = {}
    for axes in figure.axes:
        handles, names = axes.get_legend_handles_labels()
        shown |= {n: h for n, h in zip(names, handles, strict=True) if n not in shown}
    if not shown:
        raise ConfigError("there is nothing to draw that a legend can name")
    inches = sum(0.6 + 0.08 * len(name) for name in shown)
    columns = ceil(len(shown) / ceil(inches / figure.get_figwidth()))
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=columns)
    return figure, figure.axes[0]


# ------------------------------------------------------------------------------------- any lines


def plot_lines(
    lines: Mapping[str, Pair],
    *,
    xlabel: str,
    ylabel: str,
    points: Mapping[str, Pair] | None = None,
    marks: Mapping[str, float] | None = None,
    reference: float | None = None,
    colours: Sequence[str] = OTHER,
    **options: Any,
) -> Plot:
    """Draw lines, and what is to be seen on them.

    Args:
        lines: ``(x, y)`` by name; up to five. With a table of y, shape (trials, positions), the
            line is the mean and a band the standard deviation over the trials.
        xlabel: What is on the horizontal axis, with its unit.
        ylabel: What is on the vertical one.
        points: ``(x, y)`` of open markers by name, for example the epochs that a rule chose.
        marks: Horizontal positions to mark by a line, by name; up to five.
        reference: Vertical position to mark by a dashed line.
        colours: One for each name, for example those of the classes.
        **options: For :meth:`matplotlib.axes.Axes.set`, for example ``ylim``.
    """
    figure, axes = _lines(lines, colours)
    for k, (name, (x, y), style) in enumerate(_styled(points) if points else ()):
        # Larger from name to name, so that markers of one place stay visible.
        style |= {"color": "0.1", "linestyle": "none", "markersize": 6 + 3.5 * k}
        axes.plot(
            np.asarray(x), np.asarray(y), label=name, fillstyle="none", clip_on=False, **style
        )
    for name, at, style in _styled(marks) if marks else ():
        axes.axvline(at, **_MARK | {"linestyle": style["linestyle"]}, label=name)
    if reference is not None:
        axes.axhline(reference, **_MARK)
    axes.set(xlabel=xlabel, ylabel=ylabel, **options)
    return _with_legend(figure)


# ----------------------------------------------------------------------------------- scores, errors


def plot_scores(
    bonafide_scores: ArrayLike, spoof_scores: ArrayLike, thresholds: Sequence[float] = ()
) -> Plot:
    """Draw the distributions of both classes, with the errors at a threshold as filled areas.

    Args:
        bonafide_scores: Scores of bona fide trials; those up to the threshold are rejected.
        spoof_scores: Those of spoofed trials; those above it are accepted.
        thresholds: One for each panel, up to four; by default that of the EER.
    """
    bonafide, spoof = metrics.validate(bonafide_scores, spoof_scores)
    thresholds = thresholds or [metrics.eer(bonafide, spoof).threshold]
    every = np.concatenate([bonafide, spoof])
    width = np.ptp(every) / 40 or 1.0
    figure, panels = _panels(len(thresholds), 3.2 + 3.2 * len(thresholds), 3.6, sharey=True)
    for axes, at in zip(panels, thresholds, strict=True):
        first, last = np.ceil((np.array([every.min(), every.max()]) - at) / width)
        # A bin ends at the threshold, and holds what is equal to it.
        edges = np.nextafter(at, np.inf) + width * np.arange(first - 1, last + 1)
        percent = []
        for scores, wrong, name, colour, hatch in (
            (spoof, spoof > at, "spoof ({:,}), filled: accepted", SPOOF, "//"),
            (bonafide, bonafide <= at, "bona fide ({:,}), filled: rejected", BONAFIDE, None),
        ):
            weights = np.full(scores.size, 100 / scores.size)
            axes.hist(scores, edges, weights=weights, histtype="step", color=colour)
            axes.hist(
                scores[wrong], edges, weights=weights[wrong], facecolor=colour, alpha=0.6,
                edgecolor="white", hatch=hatch, histtype="stepfilled", linewidth=0,
                label=name.format(scores.size),
            )  # fmt: skip
            percent.append(100 * wrong.mean())
        axes.axvline(at, **_MARK)
        title = f"threshold {at:.2f}\nFAR {percent[0]:.1f} %, FRR {percent[1]:.1f} %"
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("score (higher: more bona fide)")
    panels[0].set_ylabel("trials of the class (%)")
    return _with_legend(figure)


def plot_det(systems: Mapping[str, Pair], *, roc: bool = False) -> Plot:
    """Draw detection error trade-off curves, both axes on the normal-deviate scale.

    Args:
        systems: ``(bona fide scores, spoof scores)`` by name; up to five.
        roc: Draw the same curves as a ROC, on linear axes, beside them.
    """
    figure, panels = _panels(1 + roc, 4.8 * (1 + roc), 4.8)
    det, linear = panels[-1], panels[0]
    for name, scores, style in _styled(systems):
        style["marker"] = None
        curve, at = metrics.det_curve(*scores), metrics.eer(*scores).value
        inside = (curve.far > 0) & (curve.far < 1) & (curve.frr > 0) & (curve.frr < 1)
        label = f"{name} (EER {100 * at:.2f} %)"
        det.plot(ndtri(curve.far[inside]), ndtri(curve.frr[inside]), label=label, **style)
        if 0 < at < 1:
            det.plot(ndtri(at), ndtri(at), "o", color=style["color"], markersize=5)
        if roc:
            linear.plot(100 * curve.far, 100 - 100 * curve.frr, **style)
            linear.plot(100 * at, 100 - 100 * at, "o", color=style["color"], markersize=5)
    far = "false acceptance rate: spoof accepted (%)"
    if roc:
        linear.plot([0, 100], [100, 0], color="0.7", linewidth=0.8, zorder=0)
        linear.set(aspect="equal", title="ROC", xlabel=far, ylabel="bona fide accepted (%)")
    limits = ndtri([0.0005, 0.97])
    det.plot(limits, limits, color="0.7", linewidth=0.8, zorder=0)
    for axis in (det.xaxis, det.yaxis):
        axis.set_ticks(ndtri(_DET_TICKS), [f"{100 * tick:g}" for tick in _DET_TICKS])
    det.set(
        xlim=limits, ylim=limits, aspect="equal", title="DET", xlabel=far,
        ylabel="false rejection rate: bona fide rejected (%)",
    )  # fmt: skip
    det.legend(loc="upper right")
    return figure, linear


def plot_replicates(
    replicates: Mapping[str, ArrayLike], estimate: float, *, xlabel: str = "EER (%)"
) -> Plot:
    """Draw bootstrap distributions above one another, each with its 95 % interval.

    Args:
        replicates: Fractions, as :mod:`slslib.evaluation.intervals` draws them, by what was
            resampled.
        estimate: The fraction found on the trials themselves.
        xlabel: What was resampled.
    """
    figure, axes = _axes(6.4, 1.2 + 0.6 * len(replicates))
    percent = {name: 100 * np.asarray(values, float) for name, values in replicates.items()}
    for row, values in enumerate(percent.values()):
        low, high = interval(values)
        axes.plot([low, high], [row, row], color="0.1", linewidth=2, zorder=2)
        axes.annotate(
            f"{low:.2f} to {high:.2f}", ((low + high) / 2, row), xytext=(0, 5), ha="center",
            textcoords="offset points", fontsize="small",
        )  # fmt: skip
    sns.violinplot(
        percent, orient="h", inner=None, color=OTHER[3], saturation=1, alpha=0.5, linewidth=0,
        width=0.7, cut=0, density_norm="width", ax=axes,
    )  # fmt: skip
    axes.axvline(100 * estimate, **_MARK)
    axes.set(xlabel=xlabel)
    return figure, axes


def plot_estimates(
    table: pd.DataFrame,
    *,
    xlabel: str,
    reference: float | None = 0.0,
    colours: Sequence[str] = OTHER,
) -> Plot:
    """Draw estimates with their intervals: a row for each group, a mark for each name in it.

    Args:
        table: ``group``, ``name``, ``value``, ``low`` and ``high``; up to five names.
        xlabel: What is estimated, with its unit.
        reference: Value to mark by a line; None for no line.
        colours: One for each name, for example those of the classes.
    """
    groups, names = list(table["group"].unique()), table["name"].unique()
    figure, axes = _axes(6.8, 1.2 + 0.16 * len(groups) * (len(names) + 1.5))
    own = {name: table[table["name"] == name] for name in names}
    for k, (name, rows, style) in enumerate(_styled(own, colours)):
        value, low, high = rows[["value", "low", "high"]].to_numpy(float).T
        shift = 0.8 * ((k + 0.5) / len(names) - 0.5)
        axes.errorbar(
            value, rows["group"].map(groups.index) + shift, xerr=[value - low, high - value],
            label=name, capsize=2, linewidth=1, **style | {"linestyle": "none"},
        )  # fmt: skip
    if reference is not None:
        axes.axvline(reference, **_MARK)
    axes.set_yticks(range(len(groups)), groups)
    axes.set(xlabel=xlabel, ylim=(len(groups) - 0.4, -0.6))
    return _with_legend(figure)


def plot_windows(result: Mapping[str, Any]) -> Plot:
    """Draw the score of each window over time, a line for each recording.

    A window has the colour of its side of the threshold, the name of a recording that of its
    verdict, which is about the mean.

    Args:
        result: What :func:`slslib.runs.detect.detect` returned.

    Raises:
        ConfigError: If no recording was scored.
    """
    scored = [one for one in result["files"] if one["windows"]]
    if not scored:
        raise ConfigError("no recording was scored, so there is nothing to draw")
    threshold = result["threshold"]
    figure, axes = _axes()
    for one in scored:
        # Each window as a bar over the time that it covers.
        starts, scores = pd.DataFrame(one["windows"])[["start_s", "llr"]].to_numpy(float).T
        ends = starts + result["window_s"]
        axes.plot((starts + ends) / 2, scores, color="0.6", linewidth=0.8, zorder=1)
        colours = np.where(scores > threshold, BONAFIDE, SPOOF)
        axes.hlines(scores, starts, ends, color=colours, linewidth=2.5)
        if len(scored) <= 6:
            name, verdict = Path(one["file"]).name, one["verdict"]
            axes.annotate(
                f"{name}: {verdict}", (ends[-1], scores[-1]), xytext=(4, 0), va="center",
                textcoords="offset points", fontsize="small",
                color=BONAFIDE if verdict == "bona fide" else SPOOF,
            )  # fmt: skip
    label = f"threshold {threshold:.2f}: bona fide above (blue), spoof below"
    axes.axhline(threshold, **_MARK, label=label)
    axes.set(xlabel="time (s)", ylabel="score of the window: LLR (nats)")
    return _with_legend(figure)


# ------------------------------------------------------------------------------------------ layers


def plot_layers(
    lines: Mapping[str, ArrayLike],
    *,
    ylabel: str,
    reference: float | None = None,
    colours: Sequence[str] = OTHER,
) -> Plot:
    """Draw values of each transformer layer, a line for each name.

    Args:
        lines: Values of layer 1, 2, ... by name, as for :func:`plot_lines`.
        ylabel: What the values are, with their unit.
        reference: Value to mark by a dashed line.
        colours: One for each name, for example those of the classes.
    """
    n_layers = max((np.shape(values)[-1] for values in lines.values()), default=0)
    return plot_lines(
        {name: (np.arange(1, np.shape(y)[-1] + 1), y) for name, y in lines.items()},
        xlabel="transformer layer", ylabel=ylabel, reference=reference, colours=colours,
        xticks=range(1, n_layers + 1, max(1, n_layers // 12)),
    )  # fmt: skip


def plot_matrices(tables: Mapping[str, pd.DataFrame], *, label: str) -> Plot:
    """Draw tables of values side by side as colours, on one scale.

    Where there are negative values, zero is in the middle of the scale.

    Args:
        tables: Values by title; index and columns, and their names, label rows and columns.
        label: What the values are, with their unit.
    """
    every = np.concatenate([table.to_numpy(float).ravel() for table in tables.values()])
    colours = {"cmap": "viridis", "vmin": every.min(), "vmax": every.max()}
    if every.min() < 0:
        top = np.abs(every).max()
        colours = {"cmap": "PuOr", "vmin": -top, "vmax": top}
    width = sum(0.6 + 0.12 * max(table.shape[1], 18) for table in tables.values())
    height = max(max(len(table), 18) for table in tables.values())
    figure, panels = _panels(len(tables), 1 + width, 1 + 0.12 * height, grid=False)
    for axes, (title, table) in zip(panels, tables.items(), strict=True):
        sns.heatmap(table, cbar=False, ax=axes, **colours)
        axes.set_title(title, fontsize="medium")
        axes.tick_params(rotation=0, labelsize="small")
    figure.colorbar(panels[0].collections[0], ax=panels, label=label)
    return figure, panels[0]


def plot_planes(
    planes: Mapping[str, ArrayLike], *, seconds: float, one_scale: bool = False
) -> Plot:
    """Draw planes of features of one recording as pictures, in rows of six.

    Args:
        planes: Arrays of shape (frames, dimensions) by title.
        seconds: How long the recording is.
        one_scale: Give all one colour scale, with zero in the middle, instead of their own.
    """
    arrays = {title: np.asarray(plane, float) for title, plane in planes.items()}
    columns, rows = min(6, len(arrays)), -(-len(arrays) // 6)
    figure, panels = _panels(
        columns, 9, 1 + (1.2 if rows > 1 else 2) * rows, rows=rows, grid=False, sharex=True,
        sharey=one_scale,
    )  # fmt: skip
    top = np.quantile(np.abs(np.concatenate([a.ravel() for a in arrays.values()])), 0.99)
    colours = {"cmap": "PuOr", "vmin": -top, "vmax": top} if one_scale else {"cmap": "viridis"}
    for axes in panels[len(arrays) :]:
        axes.set_axis_off()
    for axes, (title, plane) in zip(panels, arrays.items(), strict=False):
        extent = (0, seconds, -0.5, plane.shape[1] - 0.5)
        image = axes.imshow(plane.T, extent=extent, **colours, **_PICTURE)
        axes.set_title(title, fontsize="medium", pad=2)
        if not one_scale:
            figure.colorbar(image, ax=axes, location="bottom")
    if one_scale:
        figure.colorbar(image, ax=panels, label="value", aspect=40)
    figure.supxlabel("time (s)", fontsize="medium")
    figure.supylabel("dimension", fontsize="medium")
    return figure, panels[0]


def plot_probes(table: pd.DataFrame, chance: Mapping[str, float]) -> Plot:
    """Draw the accuracy of probes over the layers, a panel for each task.

    Marks are means over the folds, bands their standard deviation.

    Args:
        table: ``task``, ``features``, ``layer`` and ``accuracy`` (%), a row for each fold; features
            without layers have none (NaN) and are drawn at the first and last one.
        chance: What guessing gets, in %, by task.
    """
    tasks, kinds = table["task"].unique(), table["features"].unique()
    columns, rows = min(2, len(tasks)), -(-len(tasks) // 2)
    figure, panels = _panels(columns, 4.4 + 2 * columns, 2.6 * rows + 0.6, rows=rows, sharex=True)
    probed = np.sort(table["layer"].dropna().unique())
    for axes, task in zip(panels, tasks, strict=False):
        own = table[table["task"] == task]
        of_kind = {kind: own[own["features"] == kind] for kind in kinds}
        for kind, folds, style in _styled(of_kind):
            if folds["layer"].isna().all():
                ends = pd.DataFrame({"layer": probed[[0, -1]]})
                folds = folds.drop(columns="layer").merge(ends, how="cross")
            sns.lineplot(
                folds, x="layer", y="accuracy", errorbar="sd", legend=False, label=kind, ax=axes,
                markeredgecolor=style["color"], linewidth=1, **style,
            )  # fmt: skip
        axes.axhline(chance[task], **_MARK, label="chance")
        axes.set(xlabel="", ylabel="", ylim=(0, 105), xticks=probed[:: max(1, len(probed) // 12)])
        axes.set_title(task, fontsize="medium")
    for axes in panels[len(tasks) :]:
        axes.set_axis_off()
    figure.supxlabel("transformer layer", fontsize="medium")
    figure.supylabel("balanced accuracy (%)", fontsize="medium")
    return _with_legend(figure)


# ---------------------------------------------------------------------------------------- training


def plot_learning(log: pd.DataFrame) -> Plot:
    """Draw loss and development EER over the epochs of a run.

    Args:
        log: The run's ``log.csv``: ``epoch``, ``train_loss`` and, where there is a development
            set, ``dev_loss`` and ``dev_eer_percent``.
    """
    lines = {"training loss": (log["epoch"], log["train_loss"])}
    if "dev_loss" in log:
        lines["development loss"] = log["epoch"], log["dev_loss"]
    figure, axes = _lines(lines)
    axes.set(xlabel="epoch", ylabel="weighted cross entropy (nats)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if "dev_eer_percent" in log:
        right = axes.twinx()
        right.grid(False)
        right.plot(log["epoch"], log["dev_eer_percent"], "k^:", label="development EER")
        right.set_ylabel("development EER (%)")
        right.set_ylim(bottom=0)
    return _with_legend(figure)


# ----------------------------------------------------------------------------------------- signals


def plot_spectrograms(recordings: Mapping[str, ArrayLike]) -> Plot:
    """Draw log-power spectrograms of the first two seconds side by side, on one colour scale.

    Args:
        recordings: Samples at 16 kHz by title; up to four.
    """
    figure, panels = _panels(
        len(recordings), 3.4 * len(recordings) + 0.8, 3.0, grid=False, sharey=True
    )
    for axes, (title, samples) in zip(panels, recordings.items(), strict=True):
        x = np.asarray(samples, float)[: 2 * SAMPLE_RATE]
        # 25 ms windows every 5 ms.
        _, _, power = spectrogram(x, SAMPLE_RATE, "hann", 400, 320, nfft=512, scaling="spectrum")
        extent = (0, len(x) / SAMPLE_RATE, 0, SAMPLE_RATE / 2000)
        axes.imshow(10 * np.log10(power + 1e-12), cmap="magma", extent=extent, **_PICTURE)
        axes.set(title=title, xlabel="time (s)")
    images = [axes.get_images()[0] for axes in panels]
    top = max(image.get_clim()[1] for image in images)
    for image in images:
        image.set_clim(top - 70, top)
    panels[0].set_ylabel("frequency (kHz)")
    figure.colorbar(images[0], ax=panels, label="power (dB re full scale)")
    return figure, panels[0]


def plot_draws(draws: Mapping[str, ArrayLike]) -> Plot:
    """Draw the distribution of each of some quantities, side by side.

    Args:
        draws: Values by what they are, with their unit.
    """
    figure, panels = _panels(len(draws), 2.9 * len(draws) + 0.5, 2.6)
    for axes, (name, values) in zip(panels, draws.items(), strict=True):
        sns.histplot(
            x=np.ravel(values), bins=20, stat="percent", color=OTHER[3], edgecolor="white", ax=axes
        )
        axes.set(xlabel=name, ylabel="")
    panels[0].set_ylabel("draws (%)")
    return figure, panels[0]


def plot_samples(
    recordings: Mapping[str, ArrayLike], *, start_s: float = 0.0, seconds: float = 0.01
) -> Plot:
    """Draw single samples of recordings over one another; the first one is the reference.

    Args:
        recordings: Samples at 16 kHz by name; up to five.
        start_s: Where to begin.
        seconds: How much to show.
    """
    figure, axes = _axes(6.4, 3.0)
    part = slice(int(start_s * SAMPLE_RATE), int((start_s + seconds) * SAMPLE_RATE))
    for name, samples, style in _styled(recordings):
        y = np.asarray(samples)[part]
        x = 1000 * (start_s + np.arange(len(y)) / SAMPLE_RATE)
        first = {"color": "0.3", "marker": None}
        style |= {"linestyle": "none", "markersize": 3} if axes.lines else first
        axes.plot(x, y, label=name, **style)
    axes.set(xlabel="time (ms)", ylabel="sample (full scale = 1)")
    return _with_legend(figure)


def save(plot: Plot, path: str | Path) -> None:
    """Write a figure to a file whose suffix names the format (png, svg, pdf).

    Raises:
        ConfigError: If the format is unknown or the file cannot be written.
    """
    try:
        plot[0].savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write the figure {path}: {error}") from error
