"""Figures: one colour for one class everywhere, units on every axis.

Bona fide is blue and spoof is vermilion, two colours of Okabe and Ito's palette that readers with
any colour vision tell apart; line style or marker repeats the difference for print. Every
function returns ``(figure, axes)``, with several panels the first one's axes, and touches no global
state of matplotlib. Names beyond the five that can be told apart are a
:class:`~slslib.errors.ConfigError`, never left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from scipy.signal import spectrogram
from scipy.special import ndtri

from slslib import metrics
from slslib.audio import SAMPLE_RATE
from slslib.errors import ConfigError
from slslib.intervals import interval

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
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
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


def _lines(lines: Mapping[str, Pair], xlabel: str, ylabel: str, **options: Any) -> Plot:
    """Draw ``(x, y)`` by name; options replace a line's own style."""
    figure, axes = _axes()
    for name, (x, y), style in _styled(lines):
        axes.plot(np.asarray(x), np.asarray(y), label=name, **style | options)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def _with_legend(figure: Figure) -> Plot:
    """Name what all panels show, above them, where it covers nothing, in as many columns as fit."""
    shown: dict[str, Any] = {}
    for axes in figure.axes:
        handles, names = axes.get_legend_handles_labels()
        shown |= {n: h for n, h in zip(names, handles, strict=True) if n not in shown}
    if not shown:
        raise ConfigError("there is nothing to draw that a legend can name")
    inches = [0.6 + 0.08 * len(name) for name in shown]
    n, width = len(shown), figure.get_figwidth()
    fitting = (
        r for r in range(1, n) if sum(max(inches[k : k + r]) for k in range(0, n, r)) < width
    )
    columns = -(-n // next(fitting, n))
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=columns)
    return figure, figure.axes[0]


def _layer_ticks(axes: Axes, n_layers: int) -> None:
    axes.set_xlabel("transformer layer")
    axes.set_xticks(range(1, n_layers + 1, max(1, n_layers // 12)))


# ----------------------------------------------------------------------------------- scores, errors


def plot_scores(bonafide_scores: ArrayLike, spoof_scores: ArrayLike) -> Plot:
    """Draw the distribution of the scores of both classes, and the threshold of the EER.

    Args:
        bonafide_scores: Log-likelihood ratios of bona fide trials.
        spoof_scores: Those of spoofed trials.
    """
    bonafide, spoof = metrics.validate(bonafide_scores, spoof_scores)
    figure, axes = _axes()
    edges = np.histogram_bin_edges(np.concatenate([bonafide, spoof]), bins=40)
    for scores, name, colour, hatch in (
        (spoof, "spoof", SPOOF, "//"),
        (bonafide, "bona fide", BONAFIDE, None),
    ):
        sns.histplot(
            x=scores, bins=list(edges), stat="percent", color=colour, alpha=0.5, ax=axes,
            label=f"{name} ({len(scores):,})", element="step", hatch=hatch,
        )  # fmt: skip
    threshold = metrics.eer(bonafide, spoof).threshold
    axes.axvline(threshold, **_MARK, label=f"threshold {threshold:.2f}")
    axes.set(xlabel="score: log-likelihood ratio (nats)", ylabel="trials of the class (%)")
    return _with_legend(figure)


def plot_areas(
    bonafide_scores: ArrayLike, spoof_scores: ArrayLike, thresholds: Sequence[float]
) -> Plot:
    """Draw both distributions once for each threshold, with the errors as filled areas.

    Args:
        bonafide_scores: Scores of bona fide trials; those up to the threshold are rejected.
        spoof_scores: Those of spoofed trials; those above it are accepted.
        thresholds: One to four.
    """
    bonafide, spoof = metrics.validate(bonafide_scores, spoof_scores)
    n_panels = len(thresholds)
    figure, panels = _panels(n_panels, 3.2 * n_panels + 0.6, 3.2, grid=False, sharey=True)
    edges = np.histogram_bin_edges(np.concatenate([bonafide, spoof]), bins=50)
    for axes, at in zip(panels, thresholds, strict=True):
        for scores, name, colour, hatch, low, high in (
            (spoof, "spoof accepted", SPOOF, "//", at, edges[-1]),
            (bonafide, "bona fide rejected", BONAFIDE, None, edges[0], at),
        ):
            percent = 100 * np.histogram(scores, edges)[0] / scores.size
            axes.stairs(percent, edges, color=colour, linewidth=1.2)
            area = axes.stairs(
                percent, edges, fill=True, facecolor=colour, edgecolor="white", alpha=0.6,
                hatch=hatch, label=name,
            )  # fmt: skip
            side = Rectangle((low, 0), max(high - low, 0), 100, transform=axes.transData)
            area.set_clip_path(side)
        axes.axvline(at, **_MARK)
        frr, far = 100 * np.mean(bonafide <= at), 100 * np.mean(spoof > at)
        axes.set_title(f"threshold {at:.2f}\nFRR {frr:.1f} %, FAR {far:.1f} %", fontsize="medium")
        axes.set_xlabel("score")
    panels[0].set_ylabel("trials of the class (%)")
    return _with_legend(figure)


def plot_rates(bonafide_scores: ArrayLike, spoof_scores: ArrayLike) -> Plot:
    """Draw both error rates over the threshold, and the EER where they cross."""
    curve = metrics.det_curve(bonafide_scores, spoof_scores)
    at = metrics.eer(bonafide_scores, spoof_scores)
    figure, axes = _axes()
    for rate, name, colour, style in (
        (curve.frr, "FRR: bona fide rejected", BONAFIDE, "-"),
        (curve.far, "FAR: spoof accepted", SPOOF, "--"),
    ):
        axes.step(
            curve.thresholds, 100 * rate, where="post", color=colour, linestyle=style, label=name
        )
    axes.plot(at.threshold, 100 * at.value, "ko", label=f"EER {100 * at.value:.2f} %")
    axes.set(xlabel="threshold (score)", ylabel="error rate (%)", ylim=(0, 100))
    return _with_legend(figure)


def plot_det(systems: Mapping[str, Pair]) -> Plot:
    """Draw detection error trade-off curves, both axes on the normal-deviate scale.

    Args:
        systems: ``(bona fide scores, spoof scores)`` by name; up to five.
    """
    figure, axes = _axes(4.8, 4.8)
    _draw_det(axes, systems)
    return figure, axes


def plot_roc_det(systems: Mapping[str, Pair]) -> Plot:
    """Draw the same curves twice: as a ROC on linear axes, and as a DET.

    Args:
        systems: As for :func:`plot_det`.
    """
    figure, (roc, det) = _panels(2, 9.6, 4.8)
    _draw_det(det, systems)
    for name, scores, style in _styled(systems):
        curve, at = metrics.det_curve(*scores), 100 * metrics.eer(*scores).value
        roc.plot(100 * curve.far, 100 - 100 * curve.frr, label=name, **style | {"marker": None})
        roc.plot(at, 100 - at, "o", color=style["color"], markersize=5)
    roc.plot([0, 100], [100, 0], color="0.7", linewidth=0.8, zorder=0)
    roc.set(
        aspect="equal", title="ROC", xlabel="false acceptance rate: spoof accepted (%)",
        ylabel="bona fide accepted (%)",
    )  # fmt: skip
    det.set_title("DET")
    return figure, roc


def _draw_det(axes: Axes, systems: Mapping[str, Pair]) -> None:
    for name, scores, style in _styled(systems):
        curve, at = metrics.det_curve(*scores), metrics.eer(*scores).value
        inside = (curve.far > 0) & (curve.far < 1) & (curve.frr > 0) & (curve.frr < 1)
        label = f"{name} (EER {100 * at:.2f} %)"
        x, y = ndtri(curve.far[inside]), ndtri(curve.frr[inside])
        axes.plot(x, y, label=label, **style | {"marker": None})
        if 0 < at < 1:
            axes.plot(ndtri(at), ndtri(at), "o", color=style["color"], markersize=5)
    limits = ndtri([0.0005, 0.97])
    axes.plot(limits, limits, color="0.7", linewidth=0.8, zorder=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ndtri(_DET_TICKS), [f"{100 * tick:g}" for tick in _DET_TICKS])
    axes.set(
        xlim=limits, ylim=limits, aspect="equal",
        xlabel="false acceptance rate: spoof accepted (%)",
        ylabel="false rejection rate: bona fide rejected (%)",
    )  # fmt: skip
    axes.legend(loc="upper right")


def plot_costs(
    x: ArrayLike,
    costs: Mapping[str, ArrayLike],
    *,
    marks: Mapping[str, float] | None = None,
    xlabel: str = "threshold (score)",
    ylabel: str = "normalised cost",
) -> Plot:
    """Draw costs over a threshold or a prior; 1 is what a detector that hears nothing costs.

    Args:
        x: Positions, in any order.
        costs: One cost for each position, by name; up to five.
        marks: Positions to mark by a line, by name; up to five.
        xlabel: What the positions are, with their unit.
        ylabel: What is on the other axis.
    """
    order = np.argsort(np.asarray(x), kind="stable")
    lines = {name: (np.asarray(x)[order], np.asarray(y)[order]) for name, y in costs.items()}
    figure, axes = _lines(lines, xlabel, ylabel, marker=None)
    styled = _styled(marks) if marks else ()
    for (name, at, _), line in zip(styled, ("--", ":", "-.", (0, (1, 4)), "-"), strict=False):
        axes.axvline(at, **_MARK | {"linestyle": line}, label=name)
    axes.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    axes.set_ylim(bottom=0)
    return _with_legend(figure)


def plot_replicates(
    replicates: Mapping[str, ArrayLike], estimate: float, *, xlabel: str = "EER (%)"
) -> Plot:
    """Draw bootstrap distributions above one another, each with its 95 % interval.

    Args:
        replicates: Fractions, as :mod:`slslib.intervals` draws them, by what was resampled.
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
        result: What :func:`slslib.detect.detect` returned.

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


def plot_gates(gates: ArrayLike, labels: ArrayLike) -> Plot:
    """Draw the SLS gate of each layer: mean and standard deviation over the trials of a class.

    Args:
        gates: Weights in (0, 1), shape (trials, layers).
        labels: 1 bona fide, 0 spoof, one for each trial.
    """
    gates, labels = np.asarray(gates, float), np.asarray(labels)
    figure, axes = _axes()
    layers = np.arange(1, gates.shape[1] + 1)
    for label, name, colour, marker, shift in (
        (1, "bona fide", BONAFIDE, "o", -0.12),
        (0, "spoof", SPOOF, "s", 0.12),
    ):
        if len(own := gates[labels == label]):
            axes.errorbar(
                layers + shift, own.mean(axis=0), own.std(axis=0), fmt=marker, color=colour,
                markersize=4, capsize=2, linewidth=1, label=f"{name} ({len(own):,})",
            )  # fmt: skip
    axes.set_ylabel("gate (mean ± standard deviation)")
    _layer_ticks(axes, len(layers))
    return _with_legend(figure)


def plot_layers(
    lines: Mapping[str, ArrayLike], *, ylabel: str, reference: float | None = None
) -> Plot:
    """Draw one value for each transformer layer, a line for each name.

    Args:
        lines: Values of layer 1, 2, ... by name; up to five names.
        ylabel: What the values are, with their unit.
        reference: Value to mark by a dashed line.
    """
    points = {name: (np.arange(1, np.size(y) + 1), y) for name, y in lines.items()}
    figure, axes = _lines(points, "", ylabel, linestyle="-", linewidth=1)
    if reference is not None:
        axes.axhline(reference, **_MARK)
    _layer_ticks(axes, max(map(np.size, lines.values())))
    return _with_legend(figure)


def plot_layer_table(table: pd.DataFrame, *, label: str) -> Plot:
    """Draw a table of signed values, a row for each name and a column for each layer, as colours.

    Args:
        table: Values; the index names the rows, the columns are layers.
        label: What the values are, with their unit.
    """
    figure, (axes,) = _panels(1, 6.8, 1.2 + 0.3 * len(table), grid=False)
    top = np.abs(table.to_numpy(float)).max() or 1.0
    sns.heatmap(table, cmap="PuOr", vmin=-top, vmax=top, cbar_kws={"label": label}, ax=axes)
    axes.set(xlabel="transformer layer", ylabel="")
    axes.tick_params(rotation=0)
    return figure, axes


def plot_matrices(
    tables: Mapping[str, pd.DataFrame],
    *,
    label: str,
    limits: tuple[float, float] | None = None,
) -> Plot:
    """Draw tables of values side by side as colours, on one scale.

    Args:
        tables: Values by title; index and columns, and their names, label rows and columns.
        label: What the values are.
        limits: Lowest and highest value of the scale; by default those of the tables.
    """
    every = np.concatenate([table.to_numpy(float).ravel() for table in tables.values()])
    low, high = limits or (every.min(), every.max())
    width = sum(0.6 + 0.12 * max(table.shape[1], 18) for table in tables.values())
    height = max(max(len(table), 18) for table in tables.values())
    figure, panels = _panels(len(tables), 1 + width, 1 + 0.12 * height, grid=False)
    for axes, (title, table) in zip(panels, tables.items(), strict=True):
        sns.heatmap(table, cmap="viridis", vmin=low, vmax=high, cbar=False, ax=axes)
        axes.set_title(title, fontsize="medium")
        axes.tick_params(rotation=0)
    figure.colorbar(panels[0].collections[0], ax=panels, label=label)
    return figure, panels[0]


def plot_planes(planes: Mapping[str, ArrayLike]) -> Plot:
    """Draw planes of features side by side, each on a colour scale of its own.

    Args:
        planes: Arrays of shape (frames, dimensions) by title; up to four.
    """
    figure, panels = _panels(len(planes), 2.5 * len(planes) + 0.4, 3.0, grid=False)
    for axes, (title, plane) in zip(panels, planes.items(), strict=True):
        image = axes.imshow(np.asarray(plane, float).T, cmap="viridis", **_PICTURE)
        axes.set(title=title, xlabel="frame")
        figure.colorbar(image, ax=axes, location="bottom")
    panels[0].set_ylabel("dimension")
    return figure, panels[0]


def plot_layer_planes(layers: ArrayLike) -> Plot:
    """Draw the output of every layer for one recording as small pictures, on one colour scale.

    Args:
        layers: Shape (layers, frames, dimensions); a frame is 20 ms.
    """
    layers = np.asarray(layers, float)
    n_layers, n_frames, width = layers.shape
    columns, rows = 6, -(-n_layers // 6)
    figure, panels = _panels(
        columns, 1.45 * columns + 0.8, 1.3 * rows, rows=rows, grid=False, sharex=True, sharey=True
    )
    top = np.quantile(np.abs(layers), 0.99)
    extent = (0, 0.02 * n_frames, -0.5, width - 0.5)
    for number, (axes, plane) in enumerate(zip(panels, layers, strict=False), 1):
        image = axes.imshow(plane.T, cmap="PuOr", vmin=-top, vmax=top, extent=extent, **_PICTURE)
        axes.set_title(f"layer {number}", fontsize="small", pad=2)
        axes.tick_params(labelsize="small")
    for axes in panels[n_layers:]:
        axes.set_axis_off()
    figure.supxlabel("time (s)", fontsize="medium")
    figure.supylabel("dimension", fontsize="medium")
    figure.colorbar(image, ax=panels, label="value", aspect=40)
    return figure, panels[0]


def plot_influence(change: Mapping[str, ArrayLike], at: int) -> Plot:
    """Draw how much each frame changed when the sound at one frame was disturbed.

    Args:
        change: Relative change of each frame, by where it was measured; up to five.
        at: The frame that was disturbed.
    """
    lines = {}
    for name, values in change.items():
        y = np.asarray(values, float)
        lines[name] = 20 * (np.arange(len(y)) - at), np.where(y > 0, y, np.nan)
    figure, axes = _lines(lines, "time from the disturbance (ms)", "relative change", marker=None)
    for line in axes.lines:
        if np.isfinite(line.get_ydata()).sum() == 1:  # a line of one point cannot be seen
            line.set_marker("o")
    axes.set_yscale("log")
    return _with_legend(figure)


def plot_probes(table: pd.DataFrame, chance: Mapping[str, float]) -> Plot:
    """Draw the accuracy of probes over the layers, a panel for each task.

    Marks are means over the folds, bars and bands their standard deviation.

    Args:
        table: ``task``, ``features``, ``layer`` and ``accuracy`` (%), a row for each fold; features
            without layers have none (NaN) and become a band.
        chance: What guessing gets, in %, by task.
    """
    tasks, kinds = table["task"].unique(), table["features"].unique()
    columns, rows = min(2, len(tasks)), -(-len(tasks) // 2)
    figure, panels = _panels(columns, 4.4 + 2 * columns, 2.6 * rows + 0.6, rows=rows, sharex=True)
    for axes, task in zip(panels, tasks, strict=False):
        own = table[table["task"] == task]
        of_kind = {kind: own[own["features"] == kind] for kind in kinds}
        for kind, folds, style in _styled(of_kind):
            if folds["layer"].notna().any():
                sns.lineplot(
                    folds, x="layer", y="accuracy", errorbar="sd", err_style="bars", legend=False,
                    err_kws={"capsize": 2}, label=kind, ax=axes, linewidth=1,
                    markeredgecolor=style["color"], **style | {"linestyle": "-"},
                )  # fmt: skip
            elif len(folds):
                mean, spread = folds["accuracy"].mean(), folds["accuracy"].std()
                colour = style["color"]
                axes.axhspan(mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
                axes.axhline(mean, color=colour, linestyle="-.", label=kind)
        axes.axhline(chance[task], **_MARK, label="chance")
        axes.set(xlabel="", ylabel="", ylim=(0, 105))
        axes.set_title(task, fontsize="medium")
    probed = np.sort(table["layer"].dropna().unique())
    panels[0].set_xticks(probed[:: max(1, len(probed) // 12)])
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
    figure, axes = _lines(lines, "epoch", "weighted cross entropy (nats)", markersize=6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if "dev_eer_percent" in log:
        right = axes.twinx()
        right.grid(False)
        right.plot(log["epoch"], log["dev_eer_percent"], "k^:", label="development EER")
        right.set_ylabel("development EER (%)")
        right.set_ylim(bottom=0)
    return _with_legend(figure)


def plot_epochs(
    runs: Mapping[str, ArrayLike],
    *,
    ylabel: str,
    chosen: Mapping[str, Mapping[str, int]] | None = None,
) -> Plot:
    """Draw one value for each epoch, a line for each run, and the epochs that rules chose.

    Args:
        runs: Values of epoch 0, 1, ... by name of the run; up to five.
        ylabel: What the values are, with their unit.
        chosen: For each rule, the chosen epoch of each run; up to five rules.
    """
    lines = {name: (np.arange(np.size(values)), values) for name, values in runs.items()}
    figure, axes = _lines(lines, "epoch", ylabel, marker=".", markersize=6)
    for k, (rule, epochs, style) in enumerate(_styled(chosen) if chosen else ()):
        # Larger from rule to rule, so that choices of the same epoch stay visible.
        style |= {"color": "0.1", "linestyle": "none", "markersize": 6 + 3.5 * k}
        values = [float(np.asarray(runs[name])[epoch]) for name, epoch in epochs.items()]
        axes.plot(list(epochs.values()), values, fillstyle="none", label=rule, **style)
    axes.margins(y=0.1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
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


def plot_spectra(
    spectra: Mapping[str, Pair],
    *,
    ylabel: str = "magnitude (dB)",
    floor: float | None = None,
) -> Plot:
    """Draw filter responses or spectra over frequency.

    Args:
        spectra: ``(frequencies in Hz, levels in dB)`` by name; up to five.
        ylabel: What the levels are, with their unit.
        floor: Lowest level shown, in dB.
    """
    figure, axes = _lines(spectra, "frequency (Hz)", ylabel, marker=None)
    axes.set_xlim(0, SAMPLE_RATE / 2)
    if floor is not None:
        axes.set_ylim(bottom=floor)
    return _with_legend(figure)


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
        reference = {"color": "0.3", "marker": None}
        others = {"linestyle": "none", "markersize": 3}
        axes.plot(x, y, label=name, **style | (others if axes.lines else reference))
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
