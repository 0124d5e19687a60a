"""What the studies measured is found without the repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import provenance
import pytest

from slsnotebooks import studies

ROOT = Path(__file__).resolve().parents[2]


def test_the_results_are_those_of_the_studies():
    assert studies.read("in_the_wild_scores") == provenance.read("in_the_wild_scores")


def test_the_results_and_the_figures_are_installed(tmp_path: Path):
    pytest.importorskip("setuptools")
    for name in ("src", "studies/results"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", "wheels", "."], check=True, capture_output=True, cwd=tmp_path)
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    results = {path.name for path in (ROOT / "studies" / "results").glob("*.json")}
    assert {f"slsnotebooks/results/{name}" for name in results} <= names
    shown = {"moving.html", "threshold.svg", "transfer.svg", "gates.svg", "sounds.svg"}
    assert {f"slsnotebooks/{name}" for name in shown} <= names
