"""A figure of the gates of one clip over those of bona fide speech and of one attack."""

from collections.abc import Sequence
from functools import partial
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from slslib.evaluation import plots
from slsnotebooks.moving import line, movable, template


def movable_gates(
    gates: np.ndarray, clips: Sequence[str], reference: pd.DataFrame, start: Sequence[Any], alt: str
) -> str:
    """Draw the gates of a clip over those of bona fide speech and of an attack, as HTML.

    The reader chooses the clip and the attack. A band holds the middle 90 % of a group's clips, and
    the line in it is their median.

    Args:
        gates: Gates from :meth:`slslib.model.detector.Detector.gates`, a row for each clip.
        clips: A few words about each clip.
        reference: What :func:`slsapp.explain.gate_quantiles` returned; one group must be ``bona
            fide``.
        start: The row of the clip, and the attack, to begin with.
        alt: What the picture shows, in words.
    """
    groups = {str(name): own for name, own in reference.groupby("group", sort=False)}
    n_layers, top = gates.shape[1], np.ceil(100 * max(gates.max(), reference["95%"].max())) / 100
    x = np.linspace(46, 460, n_layers)  # the axes of gates.svg
    y = partial(np.interp, xp=(0, top), fp=(232, 70))
    picture, row = template("gates.svg"), template("gates_group.svg")

    def draw_group(name: str, of: np.ndarray, colour: str, down: int) -> str:
        own = groups[name]
        inside = f"{(own['5%'].le(of) & own['95%'].ge(of)).sum()} of {n_layers}"
        band = line([*x, *x[::-1]], y([*own["5%"], *own["95%"][::-1]]))
        texts = {"group": f"{escape(name)} ({own['count'].max():.0f} clips)", "inside": inside}
        shape = {"band": band, "median": line(x, y(own["50%"])), "colour": colour, "down": down}
        return row.substitute(texts, **shape)

    def draw(k: int, attack: str) -> str:
        rows = draw_group("bona fide", gates[k], plots.BONAFIDE, 24)
        rows += draw_group(attack, gates[k], plots.SPOOF, 43)
        axes, clip = {"n_layers": n_layers, "top": f"{top:.2f}"}, line(x, y(gates[k]))
        return picture.substitute(axes, rows=rows, clip=clip, text=escape(clips[k]))

    attacks = [name for name in groups if name != "bona fide"]
    controls = {"Clip (drag, or press arrow keys)": range(len(gates)), "Attack": attacks}
    return movable(draw, controls, start, alt)
