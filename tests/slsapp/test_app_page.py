"""The cells of the page *The page in the browser* run, one after another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from provenance import ROOT
from test_readme import blocks_of

PAGE = ROOT / "book" / "app.md"


def test_the_cells_write_pictures_and_tables(
    checkpoint: Path,
    recording: Path,
    corpora: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.move(recording, tmp_path / "call.wav")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLSLIB_DATA", str(corpora))
    cells = [block for block in blocks_of(PAGE.read_text()) if block.kind == "python"]
    assert len(cells) == 2
    for cell in cells:
        code = "\n" * (cell.line - 1) + cell.code.replace("200", "3")
        code = code.replace("runs/v1", checkpoint.name)
        exec(compile(code, str(PAGE), "exec"), {"__name__": "page"})
    groups = {*pd.read_csv("gates.csv")["group"]}
    assert "bona fide" in groups
    assert len(groups) > 1
    layers = pd.read_csv("layers.csv")
    assert list(layers) == ["layer", "gate", "change"]
    assert list(layers["layer"]) == [1, 2, 3]
    assert list(pd.read_csv("stretches.csv")) == ["start_s", "change"]
    assert Path("gates.png").read_bytes().startswith(b"\x89PNG")
