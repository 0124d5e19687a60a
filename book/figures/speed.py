"""Draw where the time of scoring goes, for the page Speed: `python book/figures/speed.py`.

Writes speed-light.svg and speed-dark.svg beside this file, from studies/results/speed-parts.json.
"""

from __future__ import annotations

import json
from pathlib import Path

from system import text, write

RESULTS = Path(__file__).parents[2] / "studies" / "results" / "speed-parts.json"
WIDTH, LEFT, TOP, ROW = 720, 130, 92, 62
NAMES = {"original": "original", "exact": "exact", "bf16": "bf16"}
# Two colours of the theme and three strengths tell seven parts, in the order of the legend.
FILLS = [("accent", 1), ("accent", 0.62), ("accent", 0.3), ("spoof", 1), ("spoof", 0.62)]
FILLS += [("spoof", 0.3), ("line", 0.6)]


def box(x: float, y: float, width: float, height: float, fill: tuple[str, float]) -> str:
    """Return a rectangle of one of the fills."""
    colour, opacity = fill
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}" '
        f'fill="{{{colour}}}" fill-opacity="{opacity}"/>'
    )


def legend(parts: list[str]) -> list[str]:
    """Return the names of the parts, four to a row."""
    drawn = []
    for n, name in enumerate(parts):
        x, y = 14 + 178 * (n % 4), 12 + 32 * (n // 4)
        drawn += [box(x, y, 18, 18, FILLS[n]), text(x + 26, y + 15, name, 18, anchor="start")]
    return drawn


def picture() -> tuple[list[str], int]:
    """Return the parts of the picture, and its height."""
    found = json.loads(RESULTS.read_text(encoding="utf-8"))["results"]
    rows, n_clips = found["parts_seconds"], found["conditions"]["clips"]
    longest = max(sum(row.values()) for row in rows.values()) / n_clips
    scale = (WIDTH - LEFT - 70) / longest
    drawn = legend(list(next(iter(rows.values()))))
    for n, (system, row) in enumerate(rows.items()):
        x, y = float(LEFT), TOP + ROW * n
        drawn.append(text(LEFT - 12, y + 28, NAMES[system], 20, anchor="end"))
        for seconds, fill in zip(row.values(), FILLS, strict=True):
            width = scale * seconds / n_clips
            drawn.append(box(x, y, width, 42, fill))
            x += width
        total = sum(row.values()) / n_clips
        drawn.append(text(x + 8, y + 28, f"{total:.2f}", 20, anchor="start"))
    below = TOP + ROW * len(rows) + 22
    drawn.append(
        text(LEFT, below, f"seconds per clip, {n_clips} clips", 18, "soft", anchor="start")
    )
    return drawn, below + 14


if __name__ == "__main__":
    drawn, height = picture()
    write("speed", drawn, WIDTH, height)
