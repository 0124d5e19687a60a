"""The scripts that made what the project ships still run."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import gpu
import long_file
import pytest
import speed
import torch
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from tiny import DETECTOR

from slslib.model.detector import Detector, load_backbone

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["masked", "contrastive"])
def test_pretraining_writes_a_backbone_that_loads(tmp_path: Path, objective: str) -> None:
    pytest.importorskip("parselmouth")
    out = tmp_path / "mini.safetensors"
    command = [sys.executable, ROOT / "studies" / "pretrain_mini.py", "--objective", objective]
    command += ["--steps", "2", "--hours", "0.01", "--batch", "2", "--jobs", "1", "--out", out]
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    backbone = load_backbone(out)
    assert (backbone.config.width, backbone.config.n_layers, backbone.config.heads) == (64, 24, 4)
    log = json.loads(out.with_suffix(".log.json").read_text())["results"]
    assert [row["step"] for row in log] == [2]
    assert log[0]["held_out_loss"] > 0


def test_the_comparison_of_a_gpu_runs_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Detector(DETECTOR, seed=0).save(tmp_path / "d.safetensors")
    options = ["--checkpoint", tmp_path / "d.safetensors", "--clips", 4, "--batch-size", 2]
    options += ["--files", 64, "--steps", 6]
    out = tmp_path / "gpu.json"
    command = ["gpu.py", *map(str, options), "--cpu", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(
        "torch.utils.benchmark.Timer.adaptive_autorange", lambda timer: timer.timeit(1)
    )
    gpu.main()
    content = json.loads(out.read_text())
    assert list(content) == ["what", "provenance", "results"]
    found = content["results"]
    assert found["device"]["device"].startswith("cpu")
    assert found["step"] == {"loss": 0, "gradients": 0, "changes_of_weights": 0}
    moved = {name: row["max_abs"] for name, row in found["scores"].items()}
    assert moved["float32"] == 0 < moved["bfloat16"]
    scoring, training = found["bench"], found["training"]
    assert [run["precision"] for run in scoring] == ["exact", "bf16"]
    assert all(row["peak_memory_bytes"] > 0 for run in scoring for row in run["rows"])
    assert [row["precision"] for row in training] == ["exact", "bf16"]
    assert [row["precision"] for row in found["commands"]] == ["exact", "bf16"]
    for row in found["commands"]:  # differences of two times, which a busy machine may turn round
        assert math.isfinite(row["score_clips_per_second"] * row["train_seconds_per_step"])
    for row in training:
        assert row["batch_size"] == 4
        assert row["steps_per_second"] == pytest.approx(1 / row["seconds"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_comparison_of_a_gpu_wants_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit):
        gpu.main()


def test_set_repository_names_one_address_everywhere(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copy(ROOT / "_config.yml", tmp_path)

    def write(*arguments: str) -> list[bytes]:
        command = [
            sys.executable,
            str(ROOT / "book" / "set_repository.py"),
            "--root",
            str(tmp_path),
        ]
        subprocess.run([*command, *arguments], check=True, capture_output=True)
        files = [tmp_path / "_config.yml", *sorted(tmp_path.glob("notebooks/*.ipynb"))]
        return [file.read_bytes() for file in files]

    address = "https://github.com/someone/slslib"
    first = write(address)
    assert all(address.encode() in text for text in first)
    other = write("https://github.com/another/slslib", "--branch", "dev")
    assert not any(address.encode() in text for text in other)
    assert write(address) == first  # nothing is written twice
    config = yaml.safe_load(first[0])
    assert config["repository"]["url"] == address
    assert config["launch_buttons"]["colab_url"]

    for path in tmp_path.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        before = json.loads((ROOT / "notebooks" / path.name).read_text(encoding="utf-8"))["cells"]
        code = next(cell for cell in cells if cell["cell_type"] == "code")
        source = "".join(code["source"])
        # The guarded lines are the only change, and they are valid IPython.
        compile(TransformerManager().transform_cell(source), path.name, "exec")
        old = next(cell for cell in before if cell["cell_type"] == "code")
        assert source.endswith("".join(old["source"]))
        # A kernel cannot import an editable install; every notebook may write the simulated corpus.
        assert "%pip install --quiet ..[minispoof]\n" in source
        code["source"] = old["source"]
        assert cells == before


def test_set_repository_refuses_what_colab_cannot_open(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "book" / "set_repository.py", "https://example.org/x"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "https://example.org/x" in done.stderr


def test_speed_compares_a_process_of_its_own_and_refuses_other_numbers() -> None:
    slow = speed.Pass(20_000, 3.0, 1.0, [0.25])
    with speed.worker(partial, list, (0.5,)) as ours:
        row = speed.compare("bf16", lambda: slow, ours, 3, True)
        with pytest.raises(SystemExit, match=r"exact.* 0\.25"):
            speed.compare("exact", lambda: slow, ours, 1, True)
    assert row["max_difference"] == 0.25
    assert row["times_seconds"]["median"] > 1000
    assert 0.01 < row["peak_gb"]["median"] < 2


@pytest.mark.slow
def test_a_long_file_is_measured_and_its_many_windows_are_drawn(tmp_path: Path) -> None:
    row = long_file.measure(long_file.noise(tmp_path / "a.flac", 0.2), "--checkpoint", "mini")
    assert (row["audio_s"], row["n_windows"]) == (12, 6)
    assert 0.01 < row["decoder_peak_gb"] < row["peak_gb"] < 2
    assert long_file.plot_seconds() > 0
