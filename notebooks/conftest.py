"""Hand the outputs that nbval just produced to the cache of the book: one execution serves both.

`make notebooks` names the cache in `SLSLIB_BOOK_CACHE`. Only notebooks whose cells all ran and
matched their committed outputs are handed over.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Remember which notebooks had a failing cell."""
    report = (yield).get_result()
    if report.outcome != "passed":
        item.parent.unfit_for_cache = True


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write each notebook that ran in this process into the cache."""
    folder = os.environ.get("SLSLIB_BOOK_CACHE")
    if not folder:
        return
    cells_of: dict[pytest.Collector, list] = {}
    for item in session.items:
        if type(item).__name__ == "IPyNbCell":
            cells_of.setdefault(item.parent, []).append(item)
    for notebook, cells in cells_of.items():
        if not getattr(notebook, "unfit_for_cache", False):
            store(executed(notebook, cells), notebook.path, Path(folder))


def executed(notebook: pytest.Collector, cells: list) -> nbformat.NotebookNode | None:
    """Return the notebook with the outputs of this run, or None where a cell did not run here."""
    result = copy.deepcopy(notebook.nb)
    code = [cell for cell in result.cells if cell.cell_type == "code"]
    if len(code) != len(cells) or any(cell.test_outputs is None for cell in cells):
        return None
    for count, (cell, run) in enumerate(zip(code, cells, strict=True), 1):
        cell.execution_count = count
        cell.outputs = [nbformat.from_dict(output) for output in run.test_outputs]
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
    nbformat.validate(result)
    return result


def store(notebook: nbformat.NotebookNode | None, path: Path, folder: Path) -> None:
    """Put an executed notebook into the jupyter-cache at `folder`."""
    if notebook is None:
        return
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        cache = get_cache(folder)
        bundle = CacheBundleIn(notebook, str(path))
        cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
