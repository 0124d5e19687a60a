"""Run the page *Bring your own data*: every command and every cell of it, from top to bottom.

The recordings are a made-up tree. The detector on the hub is replaced by the packaged `mini`, and
the trainings end after an epoch.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from huggingface_hub import ModelCard
from test_readme import blocks_of, commands_of

from slslib.model.detector import Detector

PAGE = Path(__file__).resolve().parent.parent / "book" / "own_data.md"
HUB = "hub:sukhdeveyash/XLS-R-SLS-Deepfake-Detection/v1/epoch_2.pth"
SPEAKERS = ("anna", "bela", "carl", "dora", "emil", "fred", "gina", "hugo", "ines", "jane")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpora: Path) -> Path:
    """Be in a folder with own/bonafide and own/spoof, four clips of ten speakers in each."""
    rng = np.random.default_rng(0)
    for kind in ("bonafide", "spoof"):
        (tmp_path / "own" / kind).mkdir(parents=True)
        for speaker in SPEAKERS:
            for n in range(4):
                clip = 0.1 * rng.standard_normal(8_000).astype(np.float32)
                soundfile.write(tmp_path / "own" / kind / f"{speaker}_{n:03d}.wav", clip, 16_000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLSLIB_DATA", str(corpora))
    bin_folder = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([bin_folder, os.environ["PATH"]]))
    return tmp_path


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[str, float, int]] = []
    writer = SimpleNamespace(add_scalar=lambda *told: logged.append(told))
    tensorboard = SimpleNamespace(SummaryWriter=lambda _: nullcontext(writer))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", tensorboard)
    namespace: dict[str, object] = {"__name__": "page"}
    said = {}
    for block in blocks_of(PAGE.read_text()):
        if block.kind == "python":
            padded = "\n" * (block.line - 1) + block.code
            exec(compile(padded, str(PAGE), "exec"), namespace)
        elif block.kind == "console":
            for command in commands_of(block.code):
                tried = command.replace(HUB, "mini")
                tried = re.sub(r"^(slslib train \w+)", r"\1 --max-epochs 1", tried)
                done = subprocess.run(["sh", "-ec", tried], capture_output=True, text=True)
                assert done.returncode == 0, f"{PAGE}: {command}\n{done.stdout}{done.stderr}"
                said[" ".join(command.split())] = done.stdout

    parts = {}
    for part in ("train", "dev", "test"):
        lines = (folder / "own" / "protocols" / f"own.{part}.csv").read_text().splitlines()
        parts[part] = {line.rpartition(",")[2] for line in lines[1:]}
        assert len(lines) == 1 + 8 * len(parts[part])
    assert [len(names) for names in parts.values()] == [6, 2, 2]
    assert set.union(*parts.values()) == set(SPEAKERS), "no speaker is in two parts"

    *_, against = (out for command, out in said.items() if "--against" in command)
    assert re.match(r"EER [\d.]+ %, phase all: 8 bona fide, 8 spoof", against)
    assert "eer interval percent" in against
    assert "difference_interval_percent" in against
    told = "dev_accuracy", "dev_eer_percent", "dev_eer_threshold", "dev_loss", "lr", "train_loss"
    assert sorted((name, epoch) for name, _, epoch in logged) == [(name, 0) for name in told]
    config = json.loads(Path("runs/own/config.json").read_text())
    assert config["config"]["train"] == ["asvspoof2019-la:train", "own:train"]
    (result,) = ModelCard.load("published/README.md").data.eval_results
    assert result.metric_args["interval"]
    assert (result.dataset_name, result.dataset_split) == ("own", "test")
    assert isinstance(namespace["detector"], Detector)


def test_the_page_shows_the_commands_that_the_library_has() -> None:
    consoles = [block for block in blocks_of(PAGE.read_text()) if block.kind == "console"]
    shown = {command.split()[1] for block in consoles for command in commands_of(block.code)}
    assert shown == {"protocol", "verify", "train", "score", "evaluate", "publish"}
