"""Figures that move: one picture, drawn for every setting of its controls.

A figure is a function that draws an SVG picture for one setting. :func:`movable` calls it for all
settings and keeps what differs: texts and attributes. If scripts run, the script in ``moving.html``
puts the controls below the picture, and sets the texts and attributes of the setting that the
reader chooses. It computes nothing, so the numbers are those of :mod:`slslib`. Without scripts, as
in JupyterLab before a downloaded notebook is run, and on paper, the picture stands alone. Nothing
is loaded from anywhere.

All pictures of a figure must have the same elements, and a part of a text that differs must be an
element of its own (``tspan``). An element of the class ``sls-said`` is read out at each change. An
element with ``data-sound``, the address of a sound, gets a player below the picture.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import product
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

Controls = Mapping[str, Sequence[Any]]


def movable(draw: Callable[..., str], controls: Controls, start: Sequence[Any], alt: str) -> str:
    """Return a figure that moves, as HTML.

    Args:
        draw: A function that takes one option of each control and returns the picture.
        controls: Options by label: texts to choose among, or numbers to slide through.
        start: The option of each control to begin with.
        alt: What the picture shows, in words.
    """
    roots = [ElementTree.fromstring(draw(*options)) for options in product(*controls.values())]
    places_of = defaultdict(list)
    for k, parts in enumerate(zip(*(root.iter() for root in roots), strict=True)):
        for key in ("", *parts[0].keys()):  # the text has no key
            held = tuple(part.get(key, part.text) or "" for part in parts)
            places_of[held].append([k, key])
    found = [(places, *np.unique(held, return_inverse=True)) for held, places in places_of.items()]
    slots = [
        [places, values.tolist(), k.tolist()] for places, values, k in found if len(values) > 1
    ]
    moves = json.dumps([list(controls.items()), start, slots], default=list)  # for a range
    page, picture = template("moving.html"), quote(draw(*start))
    return page.substitute(alt=escape(alt), picture=picture, moves=escape(moves))


def template(file: str) -> Template:
    """Return a file of this package as a template."""
    return Template(Path(__file__).with_name(file).read_text(encoding="utf-8"))


def line(places: ArrayLike, heights: ArrayLike) -> str:
    """Join points, as a part of an SVG path."""
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in np.column_stack([places, heights]))


def ticks(form: str, place: Callable[[float], float], low: float, high: float) -> str:
    """Write the numbers of an axis; ``form`` takes the place and the number."""
    numbers = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
    return "".join(form.format(place(at), at) for at in numbers if low <= at <= high)
