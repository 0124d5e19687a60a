"""Checkpoints change their format and stay the same bit for bit."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict

import pytest
import torch
from tiny import DETECTOR, DIMENSIONS, PRETRAINING, authors_file

from slslib.errors import CheckpointError, ConfigError, FileError
from slslib.model.checkpoints import read_checkpoint, save_safetensors
from slslib.model.convert import convert
from slslib.model.detector import Detector, load_backbone
from slslib.model.foreign import KEPT, authors_state
from slslib.model.xlsr import XLSR


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Tell whether two state dicts hold the same names, types and bits."""
    return one.keys() == other.keys() and all(
        t.dtype == other[n].dtype and torch.equal(t, other[n]) for n, t in one.items()
    )


@pytest.fixture
def detector():
    return Detector(DETECTOR, seed=1)


@pytest.fixture
def original(detector, tmp_path):
    """An authors' file with parts for pre-training of sizes of its own."""
    state = authors_file(detector)
    torch.save(state, tmp_path / "epoch_2.pth")
    return state


@pytest.mark.parametrize("data_parallel", [False, True])
def test_authors_file_to_ours_and_back(detector, original, tmp_path, data_parallel):
    assert (
        convert(tmp_path / "epoch_2.pth", tmp_path / "a.safetensors", n_heads=2)["warnings"] == []
    )
    loaded = Detector.load(tmp_path / "a.safetensors")
    assert loaded.config.backbone.heads == 2
    assert same(loaded.state_dict(), detector.state_dict())
    out = tmp_path / "again.pth"
    assert convert(tmp_path / "a.safetensors", out, data_parallel=data_parallel)["warnings"] == []
    again = torch.load(out, weights_only=True)
    assert same(again, {("module." if data_parallel else "") + k: t for k, t in original.items()})


def test_what_a_trained_detector_lacks_is_zero_and_said(detector, tmp_path):
    detector.save(tmp_path / "d.safetensors")
    (note,) = convert(tmp_path / "d.safetensors", tmp_path / "a.pth")["warnings"]
    assert re.search(r"^8 tensors .*d\.safetensors lacks, are zeros", note)
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    assert len(state) == len(detector.state_dict()) + 8
    for name in PRETRAINING:
        assert not state[f"ssl_model.model.{name}"].any()


def test_fairseq_file_to_ours(detector, original, tmp_path):
    model = {n.removeprefix("ssl_model.model."): t for n, t in original.items() if "ssl" in n}
    cfg = {"model": {"encoder_attention_heads": 2, "layer_norm_first": True}}
    torch.save({"cfg": cfg, "model": model}, tmp_path / "xlsr.pt")
    convert(tmp_path / "xlsr.pt", tmp_path / "b.safetensors")
    backbone = load_backbone(tmp_path / "b.safetensors")
    assert backbone.config.n_heads == 2
    assert same(backbone.state_dict(), detector.backbone.state_dict())
    kept, _ = read_checkpoint(tmp_path / "b.safetensors")
    assert same(
        {n.removeprefix(KEPT): t for n, t in kept.items() if n.startswith(KEPT)},
        {n: model[n] for n in PRETRAINING},
    )
    with pytest.raises(CheckpointError, match=r"without an SLS head, a .pth needs one"):
        convert(tmp_path / "b.safetensors", tmp_path / "b.pth")
    assert not (tmp_path / "b.pth").exists()


def test_transformers_folder_to_ours(detector, tmp_path):
    detector.backbone.model.save_pretrained(tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "b.safetensors")
    backbone = load_backbone(tmp_path / "b.safetensors")
    assert same(backbone.state_dict(), detector.backbone.state_dict())
    assert backbone.config.heads == 2


def test_metadata_and_card_survive(detector, tmp_path):
    detector.save(tmp_path / "d.safetensors", {"dev_eer_threshold": 0.5})
    convert(tmp_path / "d.safetensors", tmp_path / "e.safetensors")
    assert Detector.load(tmp_path / "e.safetensors").metadata == {"dev_eer_threshold": 0.5}
    backbone = {f"backbone.{n}": t for n, t in XLSR(DIMENSIONS).state_dict().items()}
    about = {"config": {"backbone": asdict(DIMENSIONS)}, "card": {"data": "x"}}
    save_safetensors(tmp_path / "b.safetensors", backbone, about)
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    assert load_backbone(tmp_path / "c.safetensors").card == {"data": "x"}


def test_what_cannot_be_written_is_refused(detector, original, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"\*.pth"):
        convert(tmp_path / "epoch_2.pth", tmp_path / "a.onnx", n_heads=2)
    before = sorted(tmp_path.iterdir())

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("slslib.files.os.fsync", full)
    for name in ("a.safetensors", "a.pth"):
        with pytest.raises(FileError, match="No space left"):
            convert(tmp_path / "epoch_2.pth", tmp_path / name, n_heads=2)
    assert sorted(tmp_path.iterdir()) == before


def test_dimensions_that_cannot_be_built_are_refused(detector, tmp_path):
    config = asdict(detector.config)
    config["backbone"]["width"] = 1 << 40
    tensors = {k: t for k, t in detector.state_dict().items() if k.startswith("backbone.")}
    save_safetensors(tmp_path / "b.safetensors", tensors, {"config": config})
    with pytest.raises(CheckpointError, match=r"b\.safetensors is not usable"):
        convert(tmp_path / "b.safetensors", tmp_path / "out.safetensors")


def full_size_names() -> dict[str, tuple[int, ...]]:
    """Return the authors' names and shapes at full size, without the memory."""
    with torch.device("meta"):
        own = Detector().state_dict()
    return {name: tuple(tensor.shape) for name, tensor in authors_state(own).items()}


def test_the_full_size_file_has_the_originals_440_tensors():
    names = full_size_names()
    assert len(names) == 440
    parts = Counter(re.sub(r"\d+", "N", n).removeprefix("ssl_model.model.") for n in names)
    assert parts["encoder.layers.N.self_attn.k_proj.bias"] == 24
    assert parts["feature_extractor.conv_layers.N.N.N.weight"] == 7
    # The published XLS-R 300M configuration: two groups of 320 codes of width 384.
    assert names["ssl_model.model.quantizer.vars"] == (1, 640, 384)
    assert names["ssl_model.model.quantizer.weight_proj.weight"] == (640, 512)
    assert names["ssl_model.model.final_proj.weight"] == (768, 1024)
    assert names["fc1.weight"] == (1024, 22_847)


@pytest.mark.shared
def test_the_440_names_are_the_originals(shared):
    kit = torch.load(shared / "parity" / "sls_tiny32_plain.pth", weights_only=True)
    assert full_size_names().keys() == kit.keys()


@pytest.mark.shared
@pytest.mark.parametrize("name", ["module.pth", "plain.pth"])
def test_the_kits_files_come_back_bit_for_bit(shared, tmp_path, name):
    source = shared / "parity" / f"sls_tiny32_{name}"
    convert(source, tmp_path / "a.safetensors", n_heads=4)
    convert(tmp_path / "a.safetensors", tmp_path / "b.pth", data_parallel=name == "module.pth")
    one, other = (torch.load(p, weights_only=True) for p in (source, tmp_path / "b.pth"))
    assert same(other, dict(one))


def test_the_command(original, tmp_path):
    command = [sys.executable, "-m", "slslib", "convert", "epoch_2.pth", "a.safetensors"]
    done = subprocess.run(
        [*command, "--n-heads", "2"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "a.safetensors" in done.stdout
    assert read_checkpoint(tmp_path / "a.safetensors")[1]["config"]["backbone"]["n_heads"] == 2
