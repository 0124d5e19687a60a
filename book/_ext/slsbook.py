"""Mend four things that Sphinx and the theme get wrong; show results/*.json as tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

sys.path.append(str(Path(__file__).resolve().parents[2] / "studies"))

from reproduction import to_markdown


def keep_once(app: Any, pagename: str, templatename: str, context: dict, doctree: Any) -> None:
    """Drop the later copies of a script, told apart by file name and body.

    Sphinx emits the inline scripts of two of the theme's extensions twice, and a second `const` of
    the same name is an error in the browser.
    """
    first = {}
    for script in context.get("script_files", []):
        body = getattr(script, "attributes", {}).get("body")
        first.setdefault((str(getattr(script, "filename", script) or ""), body), script)
    context["script_files"] = list(first.values())


def keep_colon(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Keep napoleon from reading "Limit of x: 3 s." in an attribute's docstring as a type."""
    if what in {"attribute", "data", "property"} and lines and lines[0]:
        lines.insert(0, "")


def skip_aliases(
    app: Any, what: str, name: str, obj: object, skip: bool, options: Any
) -> bool | None:
    """Leave out the fields of named tuples that say only "Alias for field number 0"."""
    text = getattr(obj, "__doc__", None) or ""
    return True if text.startswith("Alias for field number") else None


def count_from_zero(app: Any, env: Any) -> list[str]:
    """Number the chapters from 0, as files and text do: notebook 04 is chapter 4.

    Sphinx numbers them from 1, anew at each build, right before this.
    """

    def shifted(number: Any) -> Any:
        return type(number)((number[0] - 1, *number[1:])) if number else number

    for sections in env.toc_secnumbers.values():
        sections.update({anchor: shifted(number) for anchor, number in sections.items()})
    for page, kinds in env.toc_fignumbers.items():
        if env.toc_secnumbers.get(page):  # figures elsewhere bear no chapter's number
            for figures in kinds.values():
                figures.update({name: shifted(number) for name, number in figures.items()})
    for node in (*env.tocs.values(), *env.titles.values()):
        for numbered in node.findall(lambda n: isinstance(n, nodes.Element) and "secnumber" in n):
            numbered["secnumber"] = shifted(numbered["secnumber"])
    return []


class ReproductionTable(SphinxDirective):
    """The rows of a file that `studies/reproduction.py` wrote, named relative to the page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        _, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(path)
        text = to_markdown(json.loads(Path(path).read_text(encoding="utf-8"))["results"])
        parent = nodes.container()
        self.state.nested_parse(StringList(text.splitlines(), path), 0, parent)
        return parent.children


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx: the scripts after the theme's, the docstrings before napoleon's."""
    app.add_directive("reproduction-table", ReproductionTable)
    app.connect("html-page-context", keep_once, priority=900)
    app.connect("autodoc-process-docstring", keep_colon, priority=400)
    app.connect("autodoc-skip-member", skip_aliases)
    app.connect("env-get-updated", count_from_zero, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
