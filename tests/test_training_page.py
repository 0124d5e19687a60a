"""The cell of notebook 06 that shows a reader's own training runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from slslib.evaluation import plots
from slsnotebooks import figures as module

PAGE = Path(__file__).resolve().parent.parent / "notebooks" / "06_training.ipynb"


def show(trained: dict[str, Path]) -> tuple[pd.DataFrame, list[Any]]:
    """Execute the cell on some runs; return its table and its figures."""
    cells = nbformat.read(PAGE, as_version=4).cells
    (source,) = [cell.source for cell in cells if "here.trained()" in cell.source]
    *body, last = source.splitlines()
    figures: list[Any] = []
    names = {"here": SimpleNamespace(trained=lambda: trained), "display": figures.append}
    names |= {"pd": pd, "json": json, "plots": plots, "figures": module}
    exec("\n".join([*body, f"shown = {last}"]), names)
    return names["shown"], figures


def test_runs_stand_beside_the_published_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    v1, v2 = tmp_path / "v1", tmp_path / "v2"
    logs = {
        v1: {"train_loss": [0.3, 0.1, 0.2]},
        v2: {"train_loss": [0.3, 0.2], "dev_loss": [0.5, 0.4], "dev_eer_percent": [9.0, 3.5]},
    }
    for run, columns in logs.items():
        run.mkdir()
        log = pd.DataFrame({"epoch": range(len(columns["train_loss"])), **columns, "lr": 1e-6})
        log.to_csv(run / "log.csv", index=False)
        (run / "best.json").write_text('{"file": "epoch_1.safetensors", "epoch": 1}')
    table, figures = show({"v1": v1, "v2": v2})
    said = capsys.readouterr().out.splitlines()
    assert said == ["v1: epoch 1 of 3 is kept", "v2: epoch 1 of 2 is kept"]
    assert [figure.axes[0].get_xlabel() for figure in figures] == ["epoch of v1", "epoch of v2"]
    assert [len(figure.axes) for figure in figures] == [1, 2], "v1 has no development set"
    assert table.loc["v1"].to_dict() == {
        **{"kept": 1, "epochs": 3, "train_loss": 0.1},
        **{"dev_loss": "", "dev_eer_percent": ""},
    }
    assert table.loc["v2"].tolist() == [1, 2, 0.2, 0.4, 3.5]
    assert table.loc["v2, published"].tolist() == [16, 27, "", 0.000468, ""]
    plt.close("all")


def test_without_runs_the_page_says_how_to_get_one(capsys: pytest.CaptureFixture[str]) -> None:
    table, figures = show({})
    assert "slslib train v1 --out runs/v1" in capsys.readouterr().out
    assert list(table.index) == ["v1, published", "v2, published"]
    assert figures == []
