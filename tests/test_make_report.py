"""A report about real data says nowhere in a caption that it is simulated."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from slsnotebooks.scale import Scale

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(scope="module")
def make_report():
    spec = importlib.util.spec_from_file_location("make_report", ROOT / "book" / "make_report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def here() -> Scale:
    return Scale(
        Path("corpora"), False, "hub:a/b", "hub:c/d", 20, Path("runs"), torch.device("cpu")
    )


def figures(path: Path) -> list[dict]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell["metadata"]["mystnb"] for cell in cells if "mystnb" in cell["metadata"]]


@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_captions_of_real_data_do_not_speak_of_a_simulation(make_report, here, path, tmp_path):
    copy = shutil.copy(path, tmp_path)
    make_report.adapt(Path(copy), here)
    for figure in figures(Path(copy)):
        text = figure.get("figure", {}).get("caption", "") + figure.get("image", {}).get("alt", "")
        is_simulated = figure.get("figure", {}).get("name") in make_report.SIMULATED_FIGURES
        assert ("simulat" in text.lower()) == is_simulated
        assert "  " not in text
        assert " ." not in text


@pytest.mark.parametrize(("number", "name"), [(0, "SIMULATED_PAGE"), (-1, "PUBLISHED_PAGE")])
def test_a_page_without_the_readers_data_stays_as_it_is(make_report, here, tmp_path, number, name):
    copy = Path(shutil.copy(NOTEBOOKS[number], tmp_path))
    make_report.adapt(copy, here)
    assert copy.read_bytes() == NOTEBOOKS[number].read_bytes()
    assert copy.stem == getattr(make_report, name)


def test_captions_of_the_simulation_stay(make_report, here, tmp_path):
    path = NOTEBOOKS[2]
    copy = Path(shutil.copy(path, tmp_path))
    make_report.adapt(copy, replace(here, simulated=True))
    assert figures(copy) == figures(path)


def test_each_page_says_what_it_was_made_from(make_report, here, tmp_path):
    copy = Path(shutil.copy(NOTEBOOKS[2], tmp_path))
    make_report.adapt(copy, here)
    cells = json.loads(copy.read_text())["cells"]
    note = "".join(cells[1]["source"])
    assert all(word in note for word in ("`corpora`", "hub:a/b", "hub:c/d", "at most 20 clips"))
    assert cells[0] == json.loads(NOTEBOOKS[2].read_text())["cells"][0]
