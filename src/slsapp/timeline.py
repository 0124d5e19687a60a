"""A figure of the scores of windows over time, and of the sound that they belong to."""

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.ticker import MultipleLocator
from numpy.lib.stride_tricks import sliding_window_view

from slslib.data.audio import SAMPLE_RATE, Mono
from slslib.evaluation.plots import BONAFIDE, MARK, SPOOF, Plot, legend, panels

_MOST = 20  # recordings in a figure
_COLUMNS, _FRAME, _STEP, _RANGE_DB = 1000, 512, 160, 70  # form of a spectrogram
_TICKS_S = (0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)


def plot_windows(
    result: Mapping[str, Any], blocks: Iterable[Mono] | None = None, *, width: float = 8
) -> Plot:
    """Draw the score of each window over time, a panel for each recording.

    The bar of a window stands at its middle, begins at the threshold (at 0 if there is none), and
    has the colour of its side. A window that was left out has a grey band and no bar. The title has
    the recording's score and verdict, in the colour of the verdict. If there are more than 20
    recordings, the 20 lowest are drawn, and the legend says so.

    Args:
        result: What :func:`slslib.runs.detect.detect` returned.
        blocks: The sound of its only recording, at 16 kHz, piece by piece. If given, its
            spectrogram is drawn below the scores.
        width: Width of the figure, in inches.
    """
    scored = [one for one in result["files"] if one["windows"]]
    drawn = sorted(scored, key=lambda one: one["llr"])[:_MOST] if len(scored) > _MOST else scored
    note = f"; the lowest {_MOST} of {len(scored)} recordings" if len(scored) > _MOST else ""
    rows = len(drawn) if blocks is None else 2
    shared: dict[str, Any] = {"sharex": True, "sharey": blocks is None}
    height = 1.8 + (0.9 if blocks is None else 1.4) * rows
    figure, axes = panels(1, width, height, rows=rows, **shared)
    for panel, one in zip(axes, drawn, strict=False):
        draw_windows(panel, result, one, note)
    if blocks is None:
        figure.supylabel("score: LLR (nats)", size="medium")
    else:
        axes[0].set_ylabel("score: LLR (nats)")
        _draw_spectrogram(axes[1], blocks, drawn[0]["duration_s"])
    low, high = axes[0].get_xlim()
    step = next((step for step in _TICKS_S if (high - low) / step <= 10), _TICKS_S[-1])
    axes[-1].xaxis.set_major_locator(MultipleLocator(step))
    axes[-1].xaxis.set_major_formatter(lambda x, _: _clock(x, step))
    axes[-1].set_xlabel("time (min:s)")
    return legend(axes[0])


def spectrogram(blocks: Iterable[Mono], duration_s: float) -> Float[np.ndarray, "bins columns"]:
    """Return the mean power of a recording in each stretch of time, at most 1,000 of them.

    The result is ``[bins, columns]``. An hour takes no more memory than a minute.

    Args:
        blocks: Samples at 16 kHz, piece by piece.
        duration_s: Their total length in seconds. A stretch is 10 ms or longer.
    """
    n = min(_COLUMNS, max(1, math.ceil(duration_s * SAMPLE_RATE / _STEP)))
    power, counts = np.zeros((n, _FRAME // 2 + 1)), np.zeros((n, 1))
    kept, done = np.zeros(_FRAME // 2, np.float32), 0  # puts the first frame's middle at 0
    for block in chain(blocks, [np.zeros(_FRAME // 2, np.float32)]):
        kept = np.concatenate([kept, block])
        if len(kept) < _FRAME:
            continue
        frames = sliding_window_view(kept, _FRAME)[::_STEP]
        middles = (done + np.arange(len(frames))) * _STEP / SAMPLE_RATE
        columns = np.minimum(n - 1, (middles / duration_s * n).astype(int))
        for start in range(0, len(frames), 4096):
            part = slice(start, start + 4096)
            spectra = np.fft.rfft(frames[part] * np.hanning(_FRAME).astype(np.float32))
            into, first, many = np.unique(columns[part], return_index=True, return_counts=True)
            power[into] += np.add.reduceat(np.abs(spectra) ** 2, first)
            counts[into, 0] += many
        kept, done = kept[len(frames) * _STEP :], done + len(frames)
    return (power / np.maximum(counts, 1)).T


def _draw_spectrogram(axes: Axes, blocks: Iterable[Mono], duration_s: float) -> None:
    """Draw the loudest 70 dB of a recording, dark where it is loud."""
    decibels = 10 * np.log10(spectrogram(blocks, duration_s) + 1e-20)
    extent = (0, duration_s, 0, SAMPLE_RATE / 2000)
    levels = {"vmin": decibels.max() - _RANGE_DB, "vmax": decibels.max()}
    axes.imshow(decibels, cmap="Greys", origin="lower", aspect="auto", extent=extent, **levels)
    axes.grid(visible=False)
    axes.set_ylabel("frequency (kHz)")


def draw_windows(axes: Axes, result: Mapping[str, Any], one: Mapping[str, Any], note: str) -> None:
    """Draw one of the ``files`` of a result; see :func:`plot_windows`.

    Args:
        axes: Where to draw; time is in seconds.
        result: What :func:`slslib.runs.detect.detect` returned.
        one: The recording, which must have a score.
        note: Text to add to what a legend says about the threshold.
    """
    threshold, width = result["threshold"], result["window_s"]
    hop, base = result["hop_s"] or width, threshold or 0.0
    label = f"threshold {base:.2f}: bona fide above (blue), spoof below"
    label = "0; there is no threshold" if threshold is None else label
    starts, scores = pd.DataFrame(one["windows"])[["start_s", "llr"]].to_numpy(float).T
    sides = np.where(np.append(scores, one["llr"]) > base, BONAFIDE, SPOOF)
    sides = np.full(sides.shape, "0.4") if threshold is None else sides
    left, right = starts + width / 2 - hop / 2, starts + width / 2 + hop / 2
    left[0] = starts[0]  # no other window is before it, and none is after the last
    right[-1] = min(starts[-1] + width, one["duration_s"])
    across = np.stack([left, left, right, right], axis=1)
    along = np.stack([0 * scores + base, scores, scores, 0 * scores + base], axis=1)
    bars = np.stack([across, along], axis=2)  # a window without a score has a bar of NaN: none
    axes.add_collection(PolyCollection([*bars], facecolors=sides[:-1], linewidths=0))
    if (silent := np.isnan(scores)).any():
        what = "no speech" if result["speech_only"] else "silence"
        heights = np.broadcast_to([0, 1, 1, 0], across.shape)
        bands = np.stack([across, heights], axis=2)[silent]
        grey: dict[str, Any] = {"facecolors": "0.85", "label": f"left out: {what}"}
        grey |= {"transform": axes.get_xaxis_transform(), "linewidths": 0}
        axes.add_collection(PolyCollection([*bands], **grey), autolim=False)
    axes.axhline(base, **MARK, label=label + note)
    name, font = _drawable(Path(one["file"]).name)
    title = f"{one['llr']:.2f}, {one['verdict'] or 'no verdict'}: {name}"
    style = {"color": sides[-1], "size": 9, "parse_math": False}
    axes.set_title(title, loc="left", font=font, **style)


def _clock(seconds: float, step: float) -> str:
    """Write a time as minutes and seconds, with a decimal if ticks are less than 1 s apart."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}:{rest:04.1f}" if step < 1 else f"{minutes:.0f}:{rest:02.0f}"


def _drawable(name: str) -> tuple[str, Path]:
    """Return a name and a font file for it; squares replace characters that the font lacks."""
    usual = findfont(FontProperties())
    # Last Resort is matplotlib's own font of squares.
    others = [entry.fname for entry in fontManager.ttflist if "Last Resort" not in entry.name]
    for path in (usual, *others, usual):
        try:
            font = get_font(path)
        except (OSError, RuntimeError):  # matplotlib's list names a font that is gone
            continue
        shown = "".join(c if font.get_char_index(ord(c)) else "\N{WHITE SQUARE}" for c in name)
        if shown == name:
            break
    return shown, Path(path)
