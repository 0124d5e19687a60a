"""A report is the book, made from one's own runs and corpora."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slslib.errors import ConfigError
from slsnotebooks import report as module
from slsnotebooks.report import report


@pytest.fixture
def runs(tmp_path):
    """Two folders of runs side by side, and one elsewhere."""
    folders = [tmp_path / name for name in ("runs/v1", "runs/v2", "elsewhere/v1")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    return folders


@pytest.fixture
def calls(monkeypatch):
    made = []

    def call(command, env):
        made.append((command, env))
        return subprocess.CompletedProcess(command, len(made) - 1)  # only the first goes well

    monkeypatch.setattr(module.subprocess, "run", call)
    return made


def test_a_book_is_built_from_runs_and_corpora(runs, calls, tmp_path):
    options = {"out": tmp_path / "book", "data": tmp_path / "data"}
    page = report(tuple(runs[:2]), **options, only=("06", "10"))
    assert page == tmp_path / "book/_build/html/index.html"
    ((command, environment),) = calls
    assert Path(command[1]).read_text().startswith('"""Build a book from your corpora')
    assert command[2:] == ["--out", str(tmp_path / "book"), "--only", "06", "10"]
    assert environment["SLSLIB_RUNS"] == str(tmp_path / "runs")
    assert environment["SLSLIB_DATA"] == str(tmp_path / "data")
    with pytest.raises(ConfigError, match="not complete"):
        report((runs[0],), **options)


def test_links_side_by_side_are_runs_side_by_side(runs, calls, tmp_path, monkeypatch):
    links = tmp_path / "links"
    links.mkdir()
    for name, run in (("v1", runs[0]), ("other", runs[2])):
        (links / name).symlink_to(run)
    monkeypatch.chdir(links)
    report((Path("v1"), Path("../links/other")), out=tmp_path / "book")
    assert calls[0][1]["SLSLIB_RUNS"] == str(links)


def test_what_is_no_run_or_cannot_be_reported_is_refused(runs, calls, tmp_path, monkeypatch):
    for wrong in ((), (tmp_path,), (runs[0], tmp_path / "none")):
        with pytest.raises(ConfigError, match="name folders of training runs"):
            report(wrong)
    with pytest.raises(ConfigError, match="runs in one folder"):
        report((runs[0], runs[2]))
    monkeypatch.setattr(module, "_SCRIPT", tmp_path / "book" / "make_report.py")
    with pytest.raises(ConfigError, match="installed from its repository"):
        report((runs[0],))
    assert not calls


@pytest.mark.parametrize("lacking", ["nbformat", "jupyter_book"])
def test_without_the_extra_its_remedy_is_told(runs, tmp_path, monkeypatch, capfd, lacking):
    (tmp_path / f"{lacking}.py").write_text(f"raise ModuleNotFoundError('no {lacking}')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    with pytest.raises(ConfigError, match="not complete"):
        report((runs[0],), out=tmp_path / "book")
    told = capfd.readouterr().err
    assert told.startswith(f"slslib: a report needs the book's tools (no {lacking}); install the")
    assert told.endswith("-e '.[book]'\n")
    assert not (tmp_path / "book").exists()
