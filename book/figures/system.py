"""Draw the picture of the system for the landing page: `python book/figures/system.py`.

Writes system-light.svg and system-dark.svg beside this file. The waveform, the gates and the score
curves are sketches, not data: all gates are drawn equal. The sizes are those of the full model.
"""

from __future__ import annotations

import math
from pathlib import Path

THEMES = {
    "light": {
        "ink": "#1f2933",
        "soft": "#52606d",
        "line": "#9aa5b1",
        "panel": "#f3f6f9",
        "accent": "#0b6e8a",
        "bonafide": "#0072b2",
        "spoof": "#d55e00",
    },
    "dark": {
        "ink": "#e8edf2",
        "soft": "#aab7c4",
        "line": "#66727f",
        "panel": "#20262d",
        "accent": "#5cc1dc",
        "bonafide": "#56b4e9",
        "spoof": "#f0894a",
    },
}
WIDTH, HEIGHT = 720, 806


def text(x: float, y: float, words: str, size: int = 22, fill: str = "ink", **extra: str) -> str:
    """Return one line of text, centred unless `anchor` says otherwise."""
    anchor, weight = extra.get("anchor", "middle"), extra.get("weight", "400")
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{{{fill}}}">{words}</text>'
    )


def panel(y: float, height: float, dashed: bool = False) -> str:
    """Return a rounded box across the picture."""
    dash = ' stroke-dasharray="7 6"' if dashed else ""
    return (
        f'<rect x="10" y="{y}" width="700" height="{height}" rx="14" fill="{{panel}}" '
        f'stroke="{{line}}" stroke-width="1.5"{dash}/>'
    )


def arrow(y: float, length: float) -> str:
    """Return an arrow that points down, in the middle."""
    tip = y + length
    return (
        f'<path d="M360 {y} V{tip - 9}" stroke="{{soft}}" stroke-width="2.5"/>'
        f'<path d="M353 {tip - 10} h14 l-7 10 z" fill="{{soft}}"/>'
    )


def waveform(y: float) -> str:
    """Return a sketched waveform around height `y`."""
    bars = []
    for n in range(117):
        x = 30 + n * 5.68
        envelope = abs(math.sin(n / 9.0)) ** 1.4 * (0.55 + 0.45 * math.sin(n / 31.0 + 1))
        size = 3 + 34 * envelope * (0.55 + 0.45 * abs(math.sin(n * 2.4)))
        bars.append(f'<path d="M{x:.1f} {y - size:.1f} V{y + size:.1f}"/>')
    return f'<g stroke="{{accent}}" stroke-width="3" stroke-linecap="round">{"".join(bars)}</g>'


def layers(y: float) -> str:
    """Return 24 layer outputs, each with its gate; all alike, since no gate was measured."""
    parts = []
    for n in range(24):
        x = 37 + n * 27
        parts.append(
            f'<rect x="{x}" y="{y}" width="17" height="62" rx="4" fill="{{accent}}" '
            f'fill-opacity="0.5"/>'
            f'<path d="M{x + 8.5} {y + 62} v20" stroke="{{line}}" stroke-width="1.5"/>'
            f'<circle cx="{x + 8.5}" cy="{y + 92}" r="9" fill="{{accent}}" stroke="{{accent}}" '
            f'fill-opacity="0.35" stroke-width="1.5"/>'
        )
    return "".join(parts)


def curve(centre: float, spread: float, y: float, colour: str) -> str:
    """Return a bell curve of scores on the axis at height `y`."""
    points = []
    for n in range(81):
        x = centre + (n / 40 - 1) * 3 * spread
        points.append(f"{x:.1f},{y - 66 * math.exp(-(((x - centre) / spread) ** 2) / 2):.1f}")
    shape = " ".join(points)
    return (
        f'<polygon points="{shape}" fill="{{{colour}}}" fill-opacity="0.25"/>'
        f'<polyline points="{shape}" fill="none" stroke="{{{colour}}}" stroke-width="3"/>'
    )


def picture() -> list[str]:
    """Return the parts of the picture."""
    parts = [
        text(30, 30, "speech, 16 kHz mono, 64,600 samples (4 s)", anchor="start", weight="600"),
        waveform(82),
        arrow(124, 30),
        panel(156, 62, dashed=True),
        text(360, 194, "in training only: filtered Gaussian noise (RawBoost 3)"),
        arrow(218, 30),
        panel(250, 210),
        text(30, 284, "XLS-R 300M", anchor="start", weight="600"),
        text(690, 284, "outputs of all 24 layers", fill="soft", anchor="end"),
        layers(302),
        text(30, 442, "one gate per layer, from its mean over time", fill="soft", anchor="start"),
        text(690, 442, "(drawn equal)", fill="soft", anchor="end"),
        arrow(460, 30),
        panel(492, 92),
        text(30, 526, "SLS head", anchor="start", weight="600"),
        text(690, 526, "gated sum of the layers", fill="soft", anchor="end"),
        text(360, 564, "batch norm, SELU, 3 x 3 max-pooling, two linear layers", size=21),
        arrow(584, 30),
        text(360, 640, "score = log p(bona fide) - log p(spoof)", weight="600"),
        curve(250, 62, 742, "spoof"),
        curve(470, 62, 742, "bonafide"),
        '<path d="M40 742 H680" stroke="{soft}" stroke-width="2"/>',
        '<path d="M360 664 V754" stroke="{ink}" stroke-width="2" stroke-dasharray="5 5"/>',
        text(170, 694, "spoof", fill="spoof", anchor="end", weight="600"),
        text(550, 694, "bona fide", fill="bonafide", anchor="start", weight="600"),
        text(360, 786, "threshold: both error rates equal (EER)", fill="soft"),
    ]
    return [part.replace(" - ", " \u2212 ").replace("3 x 3", "3 \u00d7 3") for part in parts]


def write(name: str, parts: list[str], width: int, height: int) -> None:
    """Write one file per theme beside this one; a part has the names of colours in braces."""
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f"font-family=\"'Source Sans 3','Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif\">\n"
        + "\n".join(parts)
        + "\n</svg>\n"
    )
    for theme, colours in THEMES.items():
        painted = svg
        for colour, value in colours.items():
            painted = painted.replace(f"{{{colour}}}", value)
        Path(__file__).with_name(f"{name}-{theme}.svg").write_text(painted, encoding="utf-8")


if __name__ == "__main__":
    write("system", picture(), WIDTH, HEIGHT)
