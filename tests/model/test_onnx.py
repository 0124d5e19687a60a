"""ONNX files score as the detectors they were made of, without PyTorch, and are not trusted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import DETECTOR

from slsapp.export import export
from slslib.errors import CheckpointError, ConfigError
from slslib.files import sha256
from slslib.model import onnx as ours
from slslib.model.detector import Detector
from slslib.model.geometry import DetectorConfig, XLSRConfig

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "d.safetensors"
    detector = Detector(DETECTOR, seed=5)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.mul_(2.0)
    detector.save(path, {"dev_eer_threshold": 1.25, "epoch": 3})
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    out = checkpoint.with_name("d.onnx")
    result = export(str(checkpoint), out)
    assert result == {
        "out": str(out),
        "bytes": out.stat().st_size,
        "largest_drift": pytest.approx(0, abs=1e-4),
        "warnings": [],
    }
    return out


def signals(n: int) -> np.ndarray:
    levels = np.geomspace(1e-4, 1, n, dtype=np.float32)[:, None]
    return levels * np.random.default_rng(1).standard_normal((n, 4000), np.float32)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_scores_are_the_detectors(checkpoint, exported, n):
    """At batch sizes other than the traced one too; the detector multiplies by oneDNN."""
    with torch.inference_mode():
        want = Detector.load(checkpoint).llr(torch.from_numpy(signals(n))).numpy()
    got = ours.OnnxDetector(exported).llr(signals(n))
    assert (got.dtype, got.shape) == (np.float64, (n,))
    assert np.abs(got - want).max() < 1e-4
    assert n == 1 or want.std() > 1e-3


def test_the_file_says_what_it_was_made_of(checkpoint, exported):
    detector = ours.OnnxDetector(exported)
    assert detector.n_samples == 4000
    assert detector.metadata == {"dev_eer_threshold": 1.25, "epoch": 3}
    model = onnx.load(exported)
    assert json.loads({one.key: one.value for one in model.metadata_props}["slslib"]) == {
        "checkpoint": "d.safetensors",
        "checkpoint_sha256": sha256(checkpoint),
        "int8": False,
        "n_samples": 4000,
        "metadata": detector.metadata,
    }
    assert {node.domain for node in model.graph.node} == {""}
    assert str(checkpoint.parent).encode() not in exported.read_bytes()
    assert b".py" not in exported.read_bytes(), "lines of the code that was traced"


def test_int8_rounds_the_backbone_only_and_says_so(checkpoint, exported):
    out = checkpoint.with_name("d8.onnx")
    result = export(str(checkpoint), out, int8=True)
    assert "threshold" in result["warnings"][0]
    assert 1e-6 < result["largest_drift"] < 0.5
    kinds = [node.op_type for node in onnx.load(out).graph.node]
    assert kinds.count("MatMulInteger") == 1 + 6 * DETECTOR.backbone.n_layers
    drift = ours.OnnxDetector(out).llr(signals(7)) - ours.OnnxDetector(exported).llr(signals(7))
    assert 1e-6 < np.abs(drift).max() < 0.5
    assert ours.OnnxDetector(out).metadata == {"epoch": 3}, "no threshold of other scores"


def test_other_scores_are_refused_and_nothing_is_left(checkpoint, tmp_path, monkeypatch):
    real = ours.OnnxDetector.llr
    monkeypatch.setattr(ours.OnnxDetector, "llr", lambda self, x: real(self, x) + 0.001)
    with pytest.raises(CheckpointError, match="differ"):
        export(str(checkpoint), tmp_path / "d.onnx")
    assert [*tmp_path.iterdir()] == []


def test_what_cannot_be_exported_is_refused_before_it_is_tried(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"\*\.onnx"):
        export("mini", tmp_path / "d.pb")
    billion = XLSRConfig(width=1280, n_layers=48, n_heads=16, ffn_width=5120)
    with torch.device("meta"):
        large = Detector(DetectorConfig(billion))
    monkeypatch.setattr(Detector, "load", lambda _: large)
    with pytest.raises(CheckpointError, match="2 GB"):
        export("mini", tmp_path / "d.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"\.\[onnx\]"):
        export("mini", tmp_path / "d.onnx")
    assert [*tmp_path.iterdir()] == []


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError, match="slslib export") as caught:
        ours.OnnxDetector(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_damaged_files_are_refused(exported, tmp_path):
    whole, path = exported.read_bytes(), tmp_path / "x.onnx"
    refused(path)
    rng = np.random.default_rng(0)
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(path)
        path.write_bytes(rng.bytes(size))
        refused(path)


def test_damaged_bytes_are_refused_or_scored(exported, tmp_path):
    """Never another error than the one that names the file."""
    whole, path, rng = exported.read_bytes(), tmp_path / "x.onnx", np.random.default_rng(0)
    outcomes = set()
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(len(data), size=5):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            ours.OnnxDetector(path).llr(signals(1))
            outcomes.add("scored")
        except CheckpointError:
            outcomes.add("refused")
    assert outcomes == {"scored", "refused"}


def changed(exported: Path, path: Path, change) -> Path:
    model = onnx.load(exported)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.ClearField("metadata_props"),
        lambda m: onnx.helper.set_model_props(m, {"slslib": "[1]"}),
        lambda m: onnx.helper.set_model_props(m, {"slslib": '{"n_samples": 1, "metadata": {}}'}),
        lambda m: m.graph.node[3].__setattr__("domain", "of.mine"),
        lambda m: m.graph.node[3].__setattr__("op_type", "Nothing"),
        lambda m: m.graph.output[0].__setattr__("name", m.graph.node[-2].output[0]),
    ],
    ids=[
        "no metadata",
        "other metadata",
        "other length",
        "custom operation",
        "no operation",
        "out",
    ],
)
def test_another_models_file_is_refused(exported, tmp_path, change):
    refused(changed(exported, tmp_path / "x.onnx", change))


PLACES = ["beside", "hard", "null", "../weights", "link", "{absolute}", "*/_ORT_MEM_ADDR_/*"]


@pytest.mark.parametrize("where", PLACES)
def test_weights_outside_the_file_are_not_read(exported, tmp_path, monkeypatch, where):
    """Not from its folder either, which is the current one: no hash would cover them."""
    inside = tmp_path / "in"
    inside.mkdir()
    monkeypatch.chdir(inside)

    def move(model):
        (one,) = [t for t in model.graph.initializer if t.name == "head.hidden.weight"]
        (tmp_path / "weights").write_bytes(one.raw_data)
        (inside / "beside").write_bytes(one.raw_data)
        (inside / "hard").hardlink_to(tmp_path / "weights")
        (inside / "link").symlink_to("../weights")
        one.ClearField("raw_data")
        one.data_location = onnx.TensorProto.EXTERNAL
        place = where.format(absolute=tmp_path / "weights")
        one.external_data.add(key="location", value=place)

    refused(changed(exported, inside / "x.onnx", move))


def test_a_damaged_name_prints_nothing_but_the_error(exported, tmp_path, capfd):
    """Standard output is the result's, as JSON with --json."""
    path = tmp_path / "x.onnx"
    path.write_bytes(exported.read_bytes().replace(b"Cast", b"C\xffst"))
    refused(path)
    assert capfd.readouterr() == ("", "")
