"""Keep each script of a page once.

Sphinx emits the inline scripts of two of the theme's extensions twice, and a second `const` of the
same name is an error in the browser.
"""

from __future__ import annotations

from typing import Any


def keep_once(app: Any, pagename: str, templatename: str, context: dict, doctree: Any) -> None:
    """Drop the later copies of a script, told apart by file name and body."""
    first = {}
    for script in context.get("script_files", []):
        body = getattr(script, "attributes", {}).get("body")
        first.setdefault((str(getattr(script, "filename", script) or ""), body), script)
    context["script_files"] = list(first.values())


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx, after the extensions that add scripts."""
    app.connect("html-page-context", keep_once, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
