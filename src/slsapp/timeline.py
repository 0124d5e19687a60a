"""A picture of the scores of windows over time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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
    threshold, width = result["threshold"], result["window_s"]
    hop = result["hop_s"] or width
    base = threshold or 0.0
    scored = [one for one in result["files"] if one["windows"]]
    drawn = sorted(scored, key=lambda one: one["llr"])[:_MOST] if len(scored) > _MOST else scored
    label = f"threshold {base:.2f}: bona fide above (blue), spoof below"
    label = "0; there is no threshold" if threshold is None else label
    if len(scored) > _MOST:
        label += f"; the lowest {_MOST} of {len(scored)} recordings"
    figure, axes = panels(1, 8, 1.8 + 0.9 * len(drawn), rows=len(drawn), sharex=True, sharey=True)
    for panel, one in zip(axes, drawn, strict=True):
        starts, scores = pd.DataFrame(one["windows"])[["start_s", "llr"]].to_numpy(float).T
        sides = np.where(np.append(scores, one["llr"]) > base, BONAFIDE, SPOOF)
        sides = np.full(sides.shape, "0.4") if threshold is None else sides
        left = starts + width / 2 - hop / 2
        across = np.stack([left, left, left + hop, left + hop], axis=1)
        along = np.stack([0 * scores + base, scores, scores, 0 * scores + base], axis=1)
        bars = np.stack([across, along], axis=2)  # a silent window has a bar of NaN, which is none
        panel.add_collection(PolyCollection([*bars], facecolors=sides[:-1], linewidths=0))
        panel.axhline(base, **MARK, label=label)
        name, font = _drawable(Path(one["file"]).name)
        title = f"{one['llr']:.2f}, {one['verdict'] or 'no verdict'}: {name}"
        style = {"color": sides[-1], "size": 9, "parse_math": False}
        panel.set_title(title, loc="left", font=font, **style)
        panel.xaxis.set_major_formatter(lambda x, _: f"{int(x) // 60}:{int(x) % 60:02}")
    axes[-1].set_xlabel("time (min:s)")
    figure.supylabel("score: LLR (nats)", size="medium")
    return legend(axes[0])


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
