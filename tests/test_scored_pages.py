"""The cells of notebooks 07, 09 and 10 that show the score files in a reader's run folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import torch

from slslib.data.corpora import open_corpus
from slslib.evaluation.evaluate import evaluate
from slslib.runs.score import score
from slsnotebooks.scale import Scale

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
PAGES = ("07_scoring", "09_tracks", "10_reproduction_report")
CARD = pd.DataFrame({"track": ["DF"], "system": ["SLS, authors"], "published": [1.92]})


@pytest.fixture
def here(corpora: Path, checkpoint: Path, tmp_path: Path) -> Scale:
    """Two score files of one corpus in one run, and one in another; other files beside them."""
    runs = tmp_path / "runs"
    for name in ("v1/exact", "v1/again", "v2/eval"):
        out = runs / f"{name}.txt"
        out.parent.mkdir(parents=True, exist_ok=True)
        if name == "v1/exact":
            made = score(
                str(checkpoint),
                "asvspoof2019-la:eval",
                out,
                data=corpora,
                workers=0,
                cpu=True,
                progress=False,
            )
            assert made["n_scores"] == 10
        else:
            for suffix in (".txt", ".txt.json"):
                shutil.copy(runs / f"v1/exact{suffix}", runs / f"{name}{suffix}")
    (runs / "v1" / "notes.txt.json").write_text("{}")
    (runs / "v2" / "gone.txt.json").write_text((runs / "v1" / "exact.txt.json").read_text())
    return Scale(corpora, False, str(checkpoint), "mini", None, runs, torch.device("cpu"))


def show(page: str, here: Scale, capsys: pytest.CaptureFixture[str]) -> str:
    """Execute the cell of a page; return what it prints."""
    cells = nbformat.read(NOTEBOOKS / f"{page}.ipynb", as_version=4).cells
    (source,) = [cell.source for cell in cells if "here.scored()" in cell.source]
    names: dict[str, Any] = {"here": here, "pd": pd, "json": json, "Path": Path, "card": CARD}
    with pd.option_context("display.max_columns", 20, "display.width", 200):  # as in Jupyter, wider
        exec(source, names | {"open_corpus": open_corpus, "evaluate": evaluate})
    return capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES)
def test_every_score_file_has_a_row(
    page: str, here: Scale, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = show(page, here, capsys).splitlines()
    for name in ("v1/exact", "v1/again", "v2"):
        assert any(name in line for line in lines), "named, though two are of one corpus"
    assert not any("notes" in line or "gone" in line for line in lines)


def test_the_rows_are_those_of_the_files(here: Scale, capsys: pytest.CaptureFixture[str]) -> None:
    (made,) = {path.with_suffix(".txt.json").read_text() for path in here.scored().values()}
    own = evaluate(
        here.runs / "v2" / "eval.txt", open_corpus("asvspoof2019-la:eval", here.data).protocol
    )
    counts = show("07_scoring", here, capsys).split("\n")
    assert {"n_trials", "n_scores", "n_failures"} < set(counts[0].split())
    assert str(json.loads(made)["n_scores"]) in counts[1].split()
    eer = f"{own['eer_percent']:.2f} ("
    for page in PAGES[1:]:
        assert show(page, here, capsys).count(eer) == 3


@pytest.mark.parametrize("page", PAGES)
def test_a_page_without_score_files_says_so(
    page: str, here: Scale, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("v1", "v2"):
        for file in (here.runs / folder).glob("*.txt"):
            file.unlink()
    said = show(page, here, capsys)
    assert "no score files" in said or "No scored run" in said
