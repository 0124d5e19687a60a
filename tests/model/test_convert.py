"""Checkpoints change their format and stay the same bit for bit."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict

import pytest
import torch
from tiny import DETECTOR, DIMENSIONS
from transformers import Wav2Vec2Model

from slslib.errors import CheckpointError, ConfigError, FileError
from slslib.model.checkpoints import FORMAT, read_checkpoint, read_safetensors, save_safetensors
from slslib.model.convert import convert
from slslib.model.detector import Detector, load_backbone, save_backbone
from slslib.model.foreign import KEPT, PRETRAINING, authors_name, pretraining_parts
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
    sizes = [(16,), (1, 8, 4), (8, 8), (8,), (8, 8), (8,), (8, 16), (8,)]
    parts = {f"ssl_model.model.{n}": torch.rand(s) for n, s in zip(PRETRAINING, sizes, strict=True)}
    state = {authors_name(n): t for n, t in detector.state_dict().items()} | parts
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


def test_what_a_trained_detector_lacks_is_made_anew_and_said(detector, tmp_path):
    detector.save(tmp_path / "d.safetensors")
    notes = [convert(tmp_path / "d.safetensors", tmp_path / f"{i}.pth")["warnings"] for i in "ab"]
    assert notes[0] == notes[1]
    (note,) = notes[0]
    assert note.startswith("made anew as fairseq initialises them")
    assert note.endswith("lacks them: " + ", ".join(PRETRAINING))
    one, other = (torch.load(tmp_path / f"{i}.pth", weights_only=True) for i in "ab")
    assert same(one, other), "always the same numbers"
    assert len(one) == len(detector.state_dict()) + 8
    assert one["ssl_model.model.mask_emb"].std() > 0.1


def test_fairseq_file_to_ours(detector, original, tmp_path):
    model = {n.removeprefix("ssl_model.model."): t for n, t in original.items() if "ssl" in n}
    cfg = {"model": {"encoder_attention_heads": 2}}
    torch.save({"cfg": cfg, "model": model}, tmp_path / "xlsr.pt")
    convert(tmp_path / "xlsr.pt", tmp_path / "b.safetensors")
    backbone = load_backbone(tmp_path / "b.safetensors")
    assert backbone.config.n_heads == 2
    assert same(backbone.state_dict(), detector.backbone.state_dict())
    kept, _ = read_safetensors(tmp_path / "b.safetensors")
    assert same(
        {n.removeprefix(KEPT): t for n, t in kept.items() if n.startswith(KEPT)},
        {n: model[n] for n in PRETRAINING},
    )
    with pytest.raises(CheckpointError, match=r"without an SLS head, a .pth needs one"):
        convert(tmp_path / "b.safetensors", tmp_path / "b.pth")
    assert not (tmp_path / "b.pth").exists()


def test_transformers_folder_in_and_out(detector, original, tmp_path):
    (note,) = convert(tmp_path / "epoch_2.pth", tmp_path / "folder", n_heads=2)["warnings"]
    assert note.endswith("the SLS head and what only pre-training uses")
    theirs = Wav2Vec2Model.from_pretrained(tmp_path / "folder")
    assert same(theirs.state_dict(), detector.backbone.model.state_dict())
    assert convert(tmp_path / "folder", tmp_path / "back.safetensors")["warnings"] == []
    backbone = load_backbone(tmp_path / "back.safetensors")
    assert same(backbone.state_dict(), detector.backbone.state_dict())
    assert backbone.config.heads == 2
    with pytest.raises(ConfigError, match="exists already"):
        convert(tmp_path / "epoch_2.pth", tmp_path / "folder", n_heads=2)


def test_metadata_and_card_survive(detector, tmp_path):
    detector.save(tmp_path / "d.safetensors", {"dev_eer_threshold": 0.5})
    convert(tmp_path / "d.safetensors", tmp_path / "e.safetensors")
    assert Detector.load(tmp_path / "e.safetensors").metadata == {"dev_eer_threshold": 0.5}
    save_backbone(tmp_path / "b.safetensors", XLSR(DIMENSIONS), {"data": "x"}, dtype=torch.float16)
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    assert load_backbone(tmp_path / "c.safetensors").card == {"data": "x"}


def test_what_cannot_be_written_is_refused(detector, original, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"\*.pth or a folder"):
        convert(tmp_path / "epoch_2.pth", tmp_path / "a.onnx", n_heads=2)
    before = sorted(tmp_path.iterdir())

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("slslib.files.os.fsync", full)
    for name in ("a.safetensors", "a.pth", "folder"):
        with pytest.raises(FileError, match="No space left"):
            convert(tmp_path / "epoch_2.pth", tmp_path / name, n_heads=2)
    assert sorted(tmp_path.iterdir()) == before


def test_dimensions_that_cannot_be_built_are_refused(detector, tmp_path):
    config = asdict(detector.config)
    config["backbone"]["width"] = 1 << 40
    tensors = {k: t for k, t in detector.state_dict().items() if k.startswith("backbone.")}
    about = {"format": FORMAT, "config": config}
    save_safetensors(tmp_path / "b.safetensors", tensors, about)
    with pytest.raises(CheckpointError, match=r"b\.safetensors: its config is not usable"):
        convert(tmp_path / "b.safetensors", tmp_path / "out.safetensors")


def full_size_names() -> dict[str, tuple[int, ...]]:
    """Return the authors' names and shapes at full size, without the memory."""
    with torch.device("meta"):
        own = Detector().state_dict()
    everything = own | pretraining_parts(own, {})
    return {authors_name(name): tuple(tensor.shape) for name, tensor in everything.items()}


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
    assert (done.returncode, done.stdout) == (0, "a.safetensors\n"), done.stderr
    assert read_checkpoint(tmp_path / "a.safetensors")[1]["config"]["backbone"]["n_heads"] == 2
