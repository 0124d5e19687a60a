"""A picture of the scores of windows over time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

from slslib.evaluation.plots import BONAFIDE, MARK, SPOOF, Plot, legend, panels

_MOST = 20  # recordings in a figure


def plot_windows(result: Mapping[str, Any]) -> Plot:
    """Draw the score of each window over time, a panel for each recording; silence is a gap.

    The bar of a window stands at its middle, begins at the threshold (at 0 where there is none) and
    has the colour of its side. The title has the recording's score and verdict, and the colour of
    the verdict. Of more than 20 recordings the 20 lowest are drawn, and the legend says so.

    Args:
        result: What :func:`slslib.runs.detect.detect` returned.
    """
    scored = [one for one in result["files"] if one["windows"]]
    drawn = sorted(scored, key=lambda one: one["llr"])[:_MOST] if len(scored) > _MOST else scored
    note = f"; the lowest {_MOST} of {len(scored)} recordings" if len(scored) > _MOST else ""
    figure, axes = panels(1, 8, 1.8 + 0.9 * len(drawn), rows=len(drawn), sharex=True, sharey=True)
    for panel, one in zip(axes, drawn, strict=True):
        draw_windows(panel, result, one, note)
        panel.xaxis.set_major_formatter(lambda x, _: f"{int(x) // 60}:{int(x) % 60:02}")
    axes[-1].set_xlabel("time (min:s)")
    figure.supylabel("score: LLR (nats)", size="medium")
    return legend(axes[0])


def draw_windows(axes: Axes, result: Mapping[str, Any], one: Mapping[str, Any], note: str) -> None:
    """Draw one of the ``files`` of a result; see :func:`plot_windows`.

    Args:
        axes: Where to draw; time is in seconds.
        result: What :func:`slslib.runs.detect.detect` returned.
        one: The recording, which has a score.
        note: To add to what a legend says of the threshold.
    """
    threshold, width = result["threshold"], result["window_s"]
    hop, base = result["hop_s"] or width, threshold or 0.0
    label = f"threshold {base:.2f}: bona fide above (blue), spoof below"
    label = "0; there is no threshold" if threshold is None else label
    starts, scores = pd.DataFrame(one["windows"])[["start_s", "llr"]].to_numpy(float).T
    sides = np.where(np.append(scores, one["llr"]) > base, BONAFIDE, SPOOF)
    sides = np.full(sides.shape, "0.4") if threshold is None else sides
    left = starts + width / 2 - hop / 2
    across = np.stack([left, left, left + hop, left + hop], axis=1)
    along = np.stack([0 * scores + base, scores, scores, 0 * scores + base], axis=1)
    bars = np.stack([across, along], axis=2)  # a silent window has a bar of NaN, which is none
    axes.add_collection(PolyCollection([*bars], facecolors=sides[:-1], linewidths=0))
    axes.axhline(base, **MARK, label=label + note)
    name, font = _drawable(Path(one["file"]).name)
    title = f"{one['llr']:.2f}, {one['verdict'] or 'no verdict'}: {name}"
    style = {"color": sides[-1], "size": 9, "parse_math": False}
    axes.set_title(title, loc="left", font=font, **style)


def _drawable(name: str) -> tuple[str, Path]:
    """Return a name and a font file that has its characters, or with squares for what it lacks."""
    usual = findfont(FontProperties())
    # Last Resort is matplotlib's own font of squares.
    others = [entry.fname for entry in fontManager.ttflist if "Last Resort" not in entry.name]
    for path in (usual, *others, usual):
        font = get_font(path)
        shown = "".join(c if font.get_char_index(ord(c)) else "\N{WHITE SQUARE}" for c in name)
        if shown == name:
            break
    return shown, Path(path)
