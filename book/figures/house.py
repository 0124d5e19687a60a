"""Draw the packages and their arrows for the page Architecture: `python book/figures/house.py`.

Writes house-light.svg and house-dark.svg beside this file. The arrows are those that
tests/test_layering.py allows.
"""

from __future__ import annotations

from system import text, write

WIDTH, HEIGHT = 720, 560


def box(x: int, y: int, width: int, title: str, *lines: str, dashed: bool = False) -> str:
    """Return a rounded box with a title and lines below it."""
    dash = ' stroke-dasharray="7 6"' if dashed else ""
    words = [text(x + width / 2, y + 30, title, weight="600")]
    words += [
        text(x + width / 2, y + 56 + 23 * n, line, size=18, fill="soft")
        for n, line in enumerate(lines)
    ]
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{46 + 23 * len(lines)}" rx="12" '
        f'fill="{{panel}}" stroke="{{line}}" stroke-width="1.5"{dash}/>' + "".join(words)
    )


def arrow(x1: int, y1: int, x2: int, y2: int) -> str:
    """Return an arrow from a package to one that it imports."""
    return (
        f'<path d="M{x1} {y1} L{x2} {y2}" stroke="{{soft}}" stroke-width="2.5" '
        f'marker-end="url(#tip)"/>'
    )


def picture() -> list[str]:
    """Return the parts of the picture."""
    return [
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="6" '
        'markerHeight="6" orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" '
        'fill="{soft}"/></marker></defs>',
        box(10, 10, 470, "cli", "one table of commands"),
        box(10, 120, 470, "runs", "clips, train, score, detect"),
        box(10, 240, 225, "model", "XLS-R, SLS, detector,", "checkpoints, products"),
        box(255, 240, 225, "evaluation", "metrics, intervals,", "tables, plots"),
        box(10, 374, 470, "data", "audio, protocols, corpora,", "score files, RawBoost, audit"),
        box(530, 374, 180, "minispoof", "the simulated", "corpus", dashed=True),
        box(530, 240, 180, "slsnotebooks", "imports slslib", "and minispoof", dashed=True),
        text(245, 516, "errors and files: used by all", size=18, fill="soft"),
        arrow(245, 79, 245, 118),
        arrow(122, 189, 122, 238),
        arrow(367, 189, 367, 238),
        arrow(122, 332, 122, 372),
        arrow(367, 332, 367, 372),
        box(530, 97, 180, "slsapp", "threshold, explain,", "publish, page", dashed=True),
        arrow(530, 420, 482, 420),
        arrow(530, 155, 482, 155),
        arrow(620, 332, 620, 372),
        text(620, 498, "an arrow means", size=18, fill="soft"),
        text(620, 521, "“imports”", size=18, fill="soft"),
    ]


if __name__ == "__main__":
    write("house", picture(), WIDTH, HEIGHT - 30)
