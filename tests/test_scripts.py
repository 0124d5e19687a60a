"""The scripts that made what the project ships still run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from slslib.detector import load_backbone

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["masked", "contrastive"])
def test_pretraining_writes_a_backbone_that_loads(tmp_path: Path, objective: str) -> None:
    pytest.importorskip("parselmouth")
    out = tmp_path / "mini.safetensors"
    command = [sys.executable, SCRIPTS / "pretrain_mini.py", "--objective", objective]
    command += ["--steps", "2", "--hours", "0.01", "--batch", "2", "--jobs", "1", "--out", out]
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    backbone = load_backbone(out)
    assert (backbone.config.width, backbone.config.n_layers, backbone.config.heads) == (64, 24, 4)
    log = json.loads(out.with_suffix(".log.json").read_text())
    assert [row["step"] for row in log] == [2]
    assert log[0]["held_out_loss"] > 0
