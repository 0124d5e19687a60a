"""Figures: one colour for one class everywhere, units on every axis.

Bona fide is blue and spoof is vermilion, two colours of Okabe and Ito's palette that readers with
any colour vision tell apart; line style or marker repeats the difference for print. Every
function returns ``(figure, axes)`` and touches no global state of matplotlib.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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

_STYLES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_TICKS = np.array([0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95])

# A legend that cannot cover what it explains.
_ABOVE: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 1.16), "ncols": 3}

Plot = tuple[Figure, Axes]


def _axes(width: float = 6.4, height: float = 3.6) -> Plot:
    with sns.axes_style("whitegrid", {"grid.color": "0.9"}):
        figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
        axes = figure.add_subplot()
    return figure, axes


def plot_scores(
    bonafide_scores: ArrayLike, spoof_scores: ArrayLike, *, threshold: float | None = None
) -> Plot:
    """Draw the distribution of the scores of both classes.

    Args:
        bonafide_scores: Log-likelihood ratios of bona fide trials.
        spoof_scores: Those of spoofed trials.
        threshold: Drawn as a line; by default the threshold of the EER.
    """
    bonafide, spoof = metrics.validate(bonafide_scores, spoof_scores)
    if threshold is None:
        threshold = metrics.eer(bonafide, spoof).threshold
    figure, axes = _axes()
    edges = np.histogram_bin_edges(np.concatenate([bonafide, spoof]), bins=40)
    for scores, name, colour, hatch in (
        (spoof, f"spoof ({len(spoof):,})", SPOOF, "//"),
        (bonafide, f"bona fide ({len(bonafide):,})", BONAFIDE, None),
    ):
        sns.histplot(
            x=scores, bins=list(edges), stat="percent", color=colour, alpha=0.5, ax=axes,
            label=name, element="step", hatch=hatch,
        )  # fmt: skip
    axes.axvline(threshold, color="0.2", linestyle="--", label=f"threshold {threshold:.2f}")
    axes.set(xlabel="score: log-likelihood ratio (nats)", ylabel="trials of the class (%)")
    axes.legend()
    return figure, axes


def plot_areas(
    bonafide_scores: ArrayLike, spoof_scores: ArrayLike, thresholds: Sequence[float]
) -> Plot:
    """Draw both distributions once for each threshold, with the errors as filled areas.

    Args:
        bonafide_scores: Scores of bona fide trials; those up to the threshold are rejected.
        spoof_scores: Those of spoofed trials; those above it are accepted.
        thresholds: One to four.

    Returns:
        The figure and its first axes.
    """
    bonafide, spoof = metrics.validate(bonafide_scores, spoof_scores)
    figure = Figure(figsize=(3.2 * len(thresholds) + 0.6, 3.2), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(thresholds), sharey=True, squeeze=False)[0]
    edges = np.histogram_bin_edges(np.concatenate([bonafide, spoof]), bins=50)
    for axes, at in zip(panels, thresholds, strict=True):
        for scores, name, colour, hatch, side in (
            (spoof, "spoof accepted", SPOOF, "//", (at, edges[-1])),
            (bonafide, "bona fide rejected", BONAFIDE, None, (edges[0], at)),
        ):
            percent = 100 * np.histogram(scores, edges)[0] / scores.size
            axes.stairs(percent, edges, color=colour, linewidth=1.2)
            area = axes.stairs(
                percent, edges, fill=True, facecolor=colour, edgecolor="white", alpha=0.6,
                hatch=hatch, label=name,
            )  # fmt: skip
            area.set_clip_path(Rectangle(
                (side[0], 0), max(side[1] - side[0], 0), 200, transform=axes.transData
            ))  # fmt: skip
        axes.axvline(at, color="0.2", linestyle="--")
        frr, far = 100 * np.mean(bonafide <= at), 100 * np.mean(spoof > at)
        axes.set_title(f"threshold {at:.2f}\nFRR {frr:.1f} %, FAR {far:.1f} %", fontsize="medium")
        axes.set_xlabel("score")
    panels[0].set_ylabel("trials of the class (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure, panels[0]


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
    axes.legend(**_ABOVE)
    return figure, axes


def plot_det(systems: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Plot:
    """Draw detection error trade-off curves, both axes on the normal-deviate scale.

    Args:
        systems: ``(bona fide scores, spoof scores)`` by name.

    Raises:
        ConfigError: If there is no system, or more than there are distinct styles.
    """
    figure, axes = _axes(4.8, 4.8)
    _draw_det(axes, systems)
    return figure, axes


def plot_roc_det(systems: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Plot:
    """Draw the same curves twice: as a ROC on linear axes, and as a DET.

    Args:
        systems: As for :func:`plot_det`.

    Returns:
        The figure and the axes of the ROC.

    Raises:
        ConfigError: As :func:`plot_det`.
    """
    with sns.axes_style("whitegrid", {"grid.color": "0.9"}):
        figure = Figure(figsize=(9.6, 4.8), dpi=120, layout="constrained")
        roc, det = figure.subplots(1, 2)
    _draw_det(det, systems)
    for (name, (bonafide, spoof)), colour, style in _styled(systems):
        curve, at = metrics.det_curve(bonafide, spoof), metrics.eer(bonafide, spoof)
        roc.plot(100 * curve.far, 100 - 100 * curve.frr, color=colour, linestyle=style, label=name)
        roc.plot(100 * at.value, 100 - 100 * at.value, "o", color=colour, markersize=5)
    roc.plot([0, 100], [100, 0], color="0.7", linewidth=0.8, zorder=0)
    roc.set(
        aspect="equal", title="ROC", xlabel="false acceptance rate: spoof accepted (%)",
        ylabel="bona fide accepted (%)",
    )  # fmt: skip
    det.set_title("DET")
    return figure, roc


def _styled(
    systems: Mapping[str, tuple[ArrayLike, ArrayLike]],
) -> Iterator[tuple[tuple[str, tuple[ArrayLike, ArrayLike]], str, Any]]:
    """Give each system a colour and a line style."""
    if not 1 <= len(systems) <= len(OTHER):
        raise ConfigError(f"{len(systems)} systems: a readable DET plot has 1 to {len(OTHER)}")
    return zip(systems.items(), OTHER, _STYLES, strict=False)


def _draw_det(axes: Axes, systems: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> None:
    for (name, (bonafide, spoof)), colour, style in _styled(systems):
        curve, at = metrics.det_curve(bonafide, spoof), metrics.eer(bonafide, spoof)
        inside = (curve.far > 0) & (curve.far < 1) & (curve.frr > 0) & (curve.frr < 1)
        axes.plot(
            ndtri(curve.far[inside]), ndtri(curve.frr[inside]), color=colour, linestyle=style,
            label=f"{name} (EER {100 * at.value:.2f} %)",
        )  # fmt: skip
        if 0 < at.value < 1:
            axes.plot(*2 * [ndtri(at.value)], "o", color=colour, markersize=5)
    limits = ndtri([0.0005, 0.97])
    axes.plot(limits, limits, color="0.7", linewidth=0.8, zorder=0)
    labels = [f"{100 * t:g}" for t in _TICKS]
    axes.set_xticks(ndtri(_TICKS), labels)
    axes.set_yticks(ndtri(_TICKS), labels)
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
        costs: One cost for each position, by name.
        marks: Positions to mark by a line, by name.
        xlabel: What the positions are, with their unit.
        ylabel: What is on the other axis.
    """
    figure, axes = _axes()
    order = np.argsort(np.asarray(x), kind="stable")
    for (name, values), colour, style in zip(costs.items(), OTHER, _STYLES, strict=False):
        axes.plot(
            np.asarray(x)[order], np.asarray(values)[order], color=colour, linestyle=style,
            label=name,
        )  # fmt: skip
    for (name, at), style in zip((marks or {}).items(), ("--", ":", "-."), strict=False):
        axes.axvline(at, color="0.2", linewidth=1, linestyle=style, label=name)
    axes.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return figure, axes


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
    for row, (name, values) in enumerate(replicates.items()):
        percent = 100 * np.asarray(values, float)
        low, high = interval(percent)
        if np.ptp(percent) > 0:
            for body in axes.violinplot(
                [percent], [-row], orientation="horizontal", widths=0.7, showextrema=False
            )["bodies"]:  # type: ignore[attr-defined]
                body.set(facecolor=OTHER[3], alpha=0.5, edgecolor="none")
        axes.plot([low, high], [-row, -row], color="0.1", linewidth=2, label=name)
        axes.annotate(
            f"{low:.2f} to {high:.2f}", ((low + high) / 2, -row), xytext=(0, 5), ha="center",
            textcoords="offset points", fontsize="small",
        )  # fmt: skip
    axes.axvline(100 * estimate, color="0.4", linestyle="--", linewidth=1)
    axes.set_yticks(-np.arange(len(replicates)), list(replicates))
    axes.set(xlabel=xlabel)
    return figure, axes


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
        own = gates[labels == label]
        axes.errorbar(
            layers + shift, own.mean(axis=0), own.std(axis=0), fmt=marker, color=colour,
            markersize=4, capsize=2, linewidth=1, label=f"{name} ({len(own):,})",
        )  # fmt: skip
    axes.set(xlabel="transformer layer", ylabel="gate (mean ± standard deviation)")
    axes.set_xticks(layers[:: max(1, len(layers) // 12)])
    axes.legend(**_ABOVE)
    return figure, axes


def plot_layers(
    lines: Mapping[str, ArrayLike], *, ylabel: str, reference: float | None = None
) -> Plot:
    """Draw one value for each transformer layer, a line for each name.

    Args:
        lines: Values of layer 1, 2, ... by name; up to five names.
        ylabel: What the values are, with their unit.
        reference: Value to mark by a dashed line.
    """
    figure, axes = _axes()
    for (name, values), colour, marker in zip(lines.items(), OTHER, "os^Dv", strict=False):
        layers = np.arange(1, np.size(values) + 1)
        axes.plot(
            layers, np.asarray(values), color=colour, marker=marker, markersize=4, linewidth=1,
            label=name,
        )  # fmt: skip
    if reference is not None:
        axes.axhline(reference, color="0.2", linestyle="--", linewidth=1)
    axes.set(xlabel="transformer layer", ylabel=ylabel)
    axes.set_xticks(layers[:: max(1, len(layers) // 12)])
    axes.legend(**_ABOVE)
    return figure, axes


def plot_layer_table(table: pd.DataFrame, *, label: str) -> Plot:
    """Draw a table of signed values, a row for each name and a column for each layer, as colours.

    Args:
        table: Values; the index names the rows, the columns are layers.
        label: What the values are, with their unit.
    """
    figure, axes = _axes(6.8, 1.2 + 0.3 * len(table))
    values = table.to_numpy(float)
    top = np.abs(values).max() or 1.0
    image = axes.imshow(values, aspect="auto", cmap="PuOr", vmin=-top, vmax=top)
    axes.grid(False)
    axes.set_yticks(range(len(table)), [str(name) for name in table.index])
    columns = range(0, table.shape[1], max(1, table.shape[1] // 12))
    axes.set_xticks(columns, [str(table.columns[i]) for i in columns])
    axes.set_xlabel("transformer layer")
    figure.colorbar(image, ax=axes, label=label)
    return figure, axes


def plot_planes(planes: Mapping[str, ArrayLike]) -> Plot:
    """Draw planes of features side by side, each on a colour scale of its own.

    Args:
        planes: Arrays of shape (frames, dimensions) by title; up to four.

    Returns:
        The figure and its first axes.
    """
    figure = Figure(figsize=(2.5 * len(planes) + 0.4, 3.0), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(planes), squeeze=False)[0]
    for axes, (title, plane) in zip(panels, planes.items(), strict=True):
        image = axes.imshow(
            np.asarray(plane, float).T, origin="lower", aspect="auto", cmap="viridis",
            interpolation="nearest",
        )  # fmt: skip
        axes.set(title=title, xlabel="frame")
        figure.colorbar(image, ax=axes, location="bottom")
    panels[0].set_ylabel("dimension")
    return figure, panels[0]


def plot_layer_planes(layers: ArrayLike, *, columns: int = 6) -> Plot:
    """Draw the output of every layer for one recording as small pictures, on one colour scale.

    Args:
        layers: Shape (layers, frames, dimensions); a frame is 20 ms.
        columns: Pictures side by side.

    Returns:
        The figure and its first axes.
    """
    layers = np.asarray(layers, float)
    rows = -(-len(layers) // columns)
    figure = Figure(figsize=(1.45 * columns + 0.8, 1.3 * rows), dpi=120, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    top = np.quantile(np.abs(layers), 0.99)
    for axes in panels.flat[len(layers) :]:
        axes.set_axis_off()
    for number, (axes, plane) in enumerate(zip(panels.flat, layers, strict=False), 1):
        image = axes.imshow(
            plane.T, origin="lower", aspect="auto", cmap="PuOr", vmin=-top, vmax=top,
            interpolation="nearest", extent=(0, 0.02 * len(plane), -0.5, plane.shape[1] - 0.5),
        )  # fmt: skip
        axes.set_title(f"layer {number}", fontsize="small", pad=2)
        axes.tick_params(labelsize="small")
    figure.supxlabel("time (s)", fontsize="medium")
    figure.supylabel("dimension", fontsize="medium")
    figure.colorbar(image, ax=panels, label="value", aspect=40)
    return figure, panels[0, 0]


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

    Returns:
        The figure and its first axes.
    """
    low, high = limits or (
        min(table.to_numpy(float).min() for table in tables.values()),
        max(table.to_numpy(float).max() for table in tables.values()),
    )
    shapes = [table.shape for table in tables.values()]
    figure = Figure(
        figsize=(1.0 + sum(0.6 + 0.12 * max(width, 18) for _, width in shapes),
                 1.0 + 0.12 * max(max(height, 18) for height, _ in shapes)),
        dpi=120, layout="constrained",
    )  # fmt: skip
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, (title, table) in zip(panels, tables.items(), strict=True):
        image = axes.imshow(table.to_numpy(float), aspect="auto", cmap="viridis", vmin=low,
                            vmax=high, interpolation="nearest")  # fmt: skip
        for ticks, names in ((axes.set_xticks, table.columns), (axes.set_yticks, table.index)):
            every = 1 if isinstance(names[0], str) else max(1, len(names) // 6)
            ticks(range(0, len(names), every), [str(name) for name in names[::every]])
        axes.set(title=title, xlabel=table.columns.name, ylabel=table.index.name)
        axes.title.set_fontsize("medium")
    figure.colorbar(image, ax=list(panels), label=label)
    return figure, panels[0]


def plot_influence(change: Mapping[str, ArrayLike], at: int) -> Plot:
    """Draw how much each frame changed when the sound at one frame was disturbed.

    Args:
        change: Relative change of each frame, by where it was measured; up to five.
        at: The frame that was disturbed.
    """
    figure, axes = _axes()
    for (name, values), colour, style in zip(change.items(), OTHER, _STYLES, strict=False):
        y = np.asarray(values, float)
        axes.plot(
            20 * (np.arange(len(y)) - at), np.where(y > 0, y, np.nan), color=colour,
            linestyle=style, label=name, marker="o" if np.count_nonzero(y) == 1 else None,
        )  # fmt: skip
    axes.set(xlabel="time from the disturbance (ms)", ylabel="relative change", yscale="log")
    figure.legend(loc="outside upper center", ncols=3)
    return figure, axes


def plot_probes(table: pd.DataFrame, chance: Mapping[str, float]) -> Plot:
    """Draw the accuracy of probes over the layers, a panel for each task.

    Marks are means over the folds, bars and bands their standard deviation.

    Args:
        table: ``task``, ``features``, ``layer`` and ``accuracy`` (%), a row for each fold; features
            without layers have none (NaN) and become a band.
        chance: What guessing gets, in %, by task.

    Returns:
        The figure and its first axes.
    """
    tasks, kinds = table["task"].unique(), table["features"].unique()
    rows = -(-len(tasks) // 2)
    with sns.axes_style("whitegrid", {"grid.color": "0.9"}):
        columns = min(2, len(tasks))
        size = (6.4 if columns == 1 else 8.4, 2.6 * rows + 0.6)
        figure = Figure(figsize=size, dpi=120, layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, squeeze=False).flatten()
    for axes in panels[len(tasks) :]:
        axes.set_axis_off()
    for axes, task in zip(panels, tasks, strict=False):
        for kind, colour, marker in zip(kinds, OTHER, "os^Dv", strict=False):
            own = table[(table["task"] == task) & (table["features"] == kind)]
            mean, spread = (
                own.groupby("layer", dropna=False)["accuracy"].agg(how) for how in ("mean", "std")
            )
            if own["layer"].isna().all() and len(own):
                (low, high), level = mean.item() + np.array([-1, 1]) * spread.item(), mean.item()
                axes.axhspan(low, high, color=colour, alpha=0.15, linewidth=0)
                axes.axhline(level, color=colour, linestyle="-.", label=kind)
            elif len(own):
                axes.errorbar(
                    mean.index.to_numpy(), mean.to_numpy(), spread.to_numpy(), color=colour,
                    marker=marker, markersize=4, capsize=2, linewidth=1, label=kind,
                )  # fmt: skip
        axes.axhline(chance[task], color="0.2", linestyle="--", linewidth=1, label="chance")
        axes.set(title=task, ylim=(0, 105))
        axes.title.set_fontsize("medium")
    figure.supxlabel("transformer layer", fontsize="medium")
    figure.supylabel("balanced accuracy (%)", fontsize="medium")
    handles, names = panels[0].get_legend_handles_labels()
    shown = dict(zip(names, handles, strict=True))
    order = [name for name in (*kinds, "chance") if name in shown]
    figure.legend(
        [shown[name] for name in order], order, loc="outside upper center", ncols=len(order)
    )
    return figure, panels[0]


def plot_learning(log: pd.DataFrame) -> Plot:
    """Draw loss and development EER over the epochs of a run.

    Args:
        log: The run's ``log.csv``: ``epoch``, ``train_loss`` and, where there is a development
            set, ``dev_loss`` and ``dev_eer_percent``.
    """
    figure, axes = _axes()
    axes.plot(log["epoch"], log["train_loss"], "o-", color=OTHER[0], label="training loss")
    if "dev_loss" in log:
        axes.plot(log["epoch"], log["dev_loss"], "s--", color=OTHER[1], label="development loss")
    axes.set(xlabel="epoch", ylabel="weighted cross entropy (nats)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    lines, names = axes.get_legend_handles_labels()
    if "dev_eer_percent" in log:
        right = axes.twinx()
        right.grid(False)
        (line,) = right.plot(log["epoch"], log["dev_eer_percent"], "^:", color=OTHER[4])
        right.set_ylabel("development EER (%)")
        right.set_ylim(bottom=0)
        lines, names = [*lines, line], [*names, "development EER"]
    axes.legend(lines, names, **_ABOVE)
    return figure, axes


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
        chosen: For each rule, the chosen epoch of each run; up to four rules.
    """
    figure, axes = _axes()
    for (name, values), colour, style in zip(runs.items(), OTHER, _STYLES, strict=False):
        y = np.asarray(values, float)
        axes.plot(np.arange(len(y)), y, color=colour, linestyle=style, marker=".", label=name)
    for (rule, epochs), marker, size in zip(
        (chosen or {}).items(), "osDo", (6, 9, 11, 17), strict=False
    ):
        marked = [float(np.asarray(runs[name])[epoch]) for name, epoch in epochs.items()]
        axes.plot(
            list(epochs.values()), marked, linestyle="none", marker=marker, markersize=size,
            color="0.1", fillstyle="none", label=rule,
        )  # fmt: skip
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.margins(y=0.1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=4, labelspacing=0.8)
    return figure, axes


def plot_windows(result: Mapping[str, Any]) -> Plot:
    """Draw the score of each window over time, a line for each recording.

    Args:
        result: What :func:`slslib.detect.detect` returned.

    Raises:
        ConfigError: If no recording was scored.
    """
    scored: Sequence[Mapping[str, Any]] = [one for one in result["files"] if one["windows"]]
    if not scored:
        raise ConfigError("no recording was scored, so there is nothing to draw")
    figure, axes = _axes()
    for one in scored:
        # Each window as a bar over the time that it covers.
        starts = np.array([window["start_s"] for window in one["windows"]])
        scores = np.array([window["llr"] for window in one["windows"]])
        colour = BONAFIDE if one["verdict"] == "bona fide" else SPOOF
        ends = starts + result["window_s"]
        axes.hlines(scores, starts, ends, color=colour, linewidth=2.5)
        axes.plot((starts + ends) / 2, scores, color=colour, linewidth=0.8, alpha=0.6)
        if len(scored) <= 6:
            axes.annotate(
                Path(one["file"]).name, (ends[-1], scores[-1]), xytext=(4, 0), va="center",
                textcoords="offset points", fontsize="small", color=colour,
            )  # fmt: skip
    axes.axhline(
        result["threshold"], color="0.2", linestyle="--",
        label=f"threshold {result['threshold']:.2f}: bona fide above (blue), spoof below",
    )  # fmt: skip
    axes.legend(**_ABOVE)
    axes.set(xlabel="time (s)", ylabel="score of the window: LLR (nats)")
    return figure, axes


def plot_spectrograms(recordings: Mapping[str, ArrayLike], *, max_seconds: float = 2.0) -> Plot:
    """Draw log-power spectrograms side by side, on one colour scale.

    Args:
        recordings: Samples at 16 kHz by title; up to four.
        max_seconds: Length shown of each.

    Returns:
        The figure and its first axes.
    """
    figure = Figure(figsize=(3.4 * len(recordings) + 0.8, 3.0), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(recordings), sharey=True, squeeze=False)[0]
    pictures = []
    for samples in recordings.values():
        x = np.asarray(samples, float)[: int(max_seconds * SAMPLE_RATE)]
        # 25 ms windows every 5 ms.
        _, _, power = spectrogram(x, SAMPLE_RATE, "hann", 400, 320, nfft=512, scaling="spectrum")
        pictures.append((10 * np.log10(power + 1e-12), len(x) / SAMPLE_RATE))
    top = max(picture.max() for picture, _ in pictures)
    for axes, title, (picture, seconds) in zip(panels, recordings, pictures, strict=True):
        image = axes.imshow(
            picture, origin="lower", aspect="auto", cmap="magma", vmin=top - 70, vmax=top,
            extent=(0, seconds, 0, SAMPLE_RATE / 2000),
        )  # fmt: skip
        axes.set(title=title, xlabel="time (s)")
    panels[0].set_ylabel("frequency (kHz)")
    figure.colorbar(image, ax=list(panels), label="power (dB re full scale)")
    return figure, panels[0]


def plot_spectra(
    spectra: Mapping[str, tuple[ArrayLike, ArrayLike]],
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
    figure, axes = _axes()
    for (name, (x, y)), colour, style in zip(spectra.items(), OTHER, _STYLES, strict=False):
        axes.plot(np.asarray(x), np.asarray(y), color=colour, linestyle=style, label=name)
    axes.set(xlabel="frequency (Hz)", ylabel=ylabel, xlim=(0, SAMPLE_RATE / 2))
    if floor is not None:
        axes.set_ylim(bottom=floor)
    figure.legend(loc="outside upper center", ncols=len(spectra))
    return figure, axes


def plot_draws(draws: Mapping[str, ArrayLike]) -> Plot:
    """Draw the distribution of each of some quantities, side by side.

    Args:
        draws: Values by what they are, with their unit.

    Returns:
        The figure and its first axes.
    """
    figure = Figure(figsize=(2.9 * len(draws) + 0.5, 2.6), dpi=120, layout="constrained")
    with sns.axes_style("whitegrid", {"grid.color": "0.9"}):
        panels = figure.subplots(1, len(draws), squeeze=False)[0]
    for axes, (name, values) in zip(panels, draws.items(), strict=True):
        share = np.full(np.size(values), 100 / np.size(values))
        axes.hist(np.ravel(values), bins=20, weights=share, color=OTHER[3], edgecolor="white")
        axes.set_xlabel(name)
    panels[0].set_ylabel("draws (%)")
    return figure, panels[0]


def plot_samples(
    recordings: Mapping[str, ArrayLike], *, start_s: float = 0.0, seconds: float = 0.01
) -> Plot:
    """Draw single samples of recordings over one another; the first one is the reference.

    Args:
        recordings: Samples at 16 kHz by name.
        start_s: Where to begin.
        seconds: How much to show.
    """
    figure, axes = _axes(6.4, 3.0)
    part = slice(int(start_s * SAMPLE_RATE), int((start_s + seconds) * SAMPLE_RATE))
    for (name, samples), colour, marker in zip(
        recordings.items(), ("0.3", *OTHER[1:]), (None, "o", "s", "^"), strict=False
    ):
        y = np.asarray(samples)[part]
        x = 1000 * (start_s + np.arange(len(y)) / SAMPLE_RATE)
        line = "-" if marker is None else "none"
        axes.plot(x, y, color=colour, linestyle=line, marker=marker, markersize=3, label=name)
    axes.set(xlabel="time (ms)", ylabel="sample (full scale = 1)")
    axes.legend(**_ABOVE)
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
    groups, names = table["group"].unique(), table["name"].unique()
    figure, axes = _axes(6.8, 1.2 + 0.16 * len(groups) * (len(names) + 1.5))
    for k, (name, colour, marker) in enumerate(zip(names, colours, "os^Dv", strict=False)):
        own = table[table["name"] == name]
        rows = np.array([list(groups).index(group) for group in own["group"]])
        value, low, high = own[["value", "low", "high"]].to_numpy(float).T
        axes.errorbar(
            value, rows + 0.8 * ((k + 0.5) / len(names) - 0.5), xerr=[value - low, high - value],
            fmt=marker, color=colour, markersize=4, capsize=2, linewidth=1, label=name,
        )  # fmt: skip
    if reference is not None:
        axes.axvline(reference, color="0.2", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(groups)), list(groups))
    axes.set(xlabel=xlabel, ylim=(len(groups) - 0.4, -0.6))
    figure.legend(loc="outside upper center", ncols=min(5, len(names)))
    return figure, axes


def save(plot: Plot, path: str | Path) -> None:
    """Write a figure to a file whose suffix names the format (png, svg, pdf).

    Raises:
        ConfigError: If the format is unknown or the file cannot be written.
    """
    try:
        plot[0].savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write the figure {path}: {error}") from error
