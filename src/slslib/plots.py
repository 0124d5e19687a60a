"""Figures: one colour for one class everywhere, units on every axis.

Bona fide is blue and spoof is vermilion, two colours of Okabe and Ito's palette that readers with
any colour vision tell apart; line style or marker repeats the difference for print. Every
function returns ``(figure, axes)`` and touches no global state of matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from scipy.signal import spectrogram
from scipy.special import ndtri

from slslib import metrics
from slslib.audio import SAMPLE_RATE
from slslib.errors import ConfigError

BONAFIDE = "#0072B2"
SPOOF = "#D55E00"
OTHER = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # systems, never classes

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


def plot_det(systems: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Plot:
    """Draw detection error trade-off curves, both axes on the normal-deviate scale.

    Args:
        systems: ``(bona fide scores, spoof scores)`` by name.

    Raises:
        ConfigError: If there is no system, or more than there are distinct styles.
    """
    styles = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))]
    if not 1 <= len(systems) <= len(OTHER):
        raise ConfigError(f"{len(systems)} systems: a readable DET plot has 1 to {len(OTHER)}")
    figure, axes = _axes(4.8, 4.8)
    for (name, (bonafide, spoof)), colour, style in zip(
        systems.items(), OTHER, styles, strict=False
    ):
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


def save(plot: Plot, path: str | Path) -> None:
    """Write a figure to a file whose suffix names the format (png, svg, pdf).

    Raises:
        ConfigError: If the format is unknown or the file cannot be written.
    """
    try:
        plot[0].savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write the figure {path}: {error}") from error
