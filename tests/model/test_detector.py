"""The detector as a module."""

from __future__ import annotations

import gc
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tiny import DETECTOR

from minispoof.corpus import simulation
from slslib.data.audio import N_SAMPLES
from slslib.data.corpora import open_corpus
from slslib.data.scorefiles import match, read_scores
from slslib.errors import CheckpointError
from slslib.evaluation import metrics
from slslib.model.checkpoints import locate, save_safetensors
from slslib.model.convert import convert
from slslib.model.detector import Detector, DetectorConfig, load_backbone
from slslib.model.xlsr import XLSRConfig
from slslib.runs.score import score


@pytest.fixture
def waveform():
    return 0.1 * torch.randn(3, 4000, generator=torch.Generator().manual_seed(1))


def test_llr_is_the_difference_of_the_log_probabilities(waveform):
    detector = Detector(DETECTOR, seed=0).eval()
    with torch.inference_mode():
        log_probs, llr = detector(waveform), detector.llr(waveform)
    torch.testing.assert_close(llr, (log_probs[:, 1] - log_probs[:, 0]).double())
    torch.testing.assert_close(log_probs.exp().sum(dim=1), torch.ones(3))
    assert llr.dtype == torch.float64


def test_llr_does_not_saturate():
    """log p(bona fide) is 0.0 for both; the difference still tells them apart."""
    logits = torch.tensor([[-1.758, 40.0], [-1.758, 41.0]])
    assert logits.log_softmax(1)[:, 1].tolist() == [0.0, 0.0]
    assert Detector.llr_of(logits).diff().item() == pytest.approx(1.0)


def test_gates(waveform):
    gates = Detector(DETECTOR, seed=0).gates(waveform)
    assert gates.shape == (3, 3)
    assert ((gates > 0) & (gates < 1)).all()


def test_a_seed_makes_the_weights_and_leaves_the_global_generator():
    state = torch.get_rng_state()
    one, same, other = (Detector(DETECTOR, seed=s) for s in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.head.hidden.weight, same.head.hidden.weight)
    assert not torch.equal(one.head.hidden.weight, other.head.hidden.weight)
    usual, first = Detector(DETECTOR), Detector(DETECTOR, seed=0)
    assert torch.equal(usual.head.hidden.weight, first.head.hidden.weight)


@pytest.mark.parametrize("load", [Detector.load, load_backbone])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"metadata": [1], "card": [1]}, "is not usable"),
        ({"config": {"backbone": {"width": 16.0}}}, "is not usable"),
        ({"config": [1]}, "is not usable"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(tmp_path, load, changes, says):
    about = {"config": asdict(DETECTOR)} | changes
    save_safetensors(tmp_path / "d.safetensors", Detector(DETECTOR).state_dict(), about)
    with pytest.raises(CheckpointError, match=rf"d\.safetensors.*{says}"):
        load(tmp_path / "d.safetensors")


@pytest.mark.parametrize("n_heads", [None, 2])
@pytest.mark.parametrize("load", [Detector.load, load_backbone])
@pytest.mark.parametrize(
    ("backbone", "says"),
    [
        (None, "NoneType"),
        ({}, "'width'"),
        ({"width": 16.0}, r"width is 16\.0; it must be whole numbers"),
        ({"n_layers": True}, "n_layers is True"),
        ({"ffn_width": "64"}, "ffn_width is '64'"),
        ({"conv_width": None}, "conv_width is None"),
        ({"kernels": 3}, "TypeError"),
        ({"strides": [5, 2, 2, 2, 2, 2, 2.0]}, r"strides is .*2\.0"),
        ({"pos_groups": 3}, "divisible by groups"),
        ({"widht": 16}, "'widht'"),
    ],
)
def test_damaged_dimensions_are_named(tmp_path, load, backbone, says, n_heads):
    config = asdict(DETECTOR)
    config["backbone"] = backbone and config["backbone"] | backbone
    path = tmp_path / "d.safetensors"
    save_safetensors(path, Detector(DETECTOR).state_dict(), {"config": config})
    with pytest.raises(CheckpointError, match=rf"d\.safetensors is not usable .*{says}"):
        load(path, n_heads=n_heads)


@pytest.mark.parametrize(
    ("n_heads", "says"),
    [
        (0, "n_heads is 0"),
        (-2, "n_heads is -2"),
        (2.0, r"n_heads is 2\.0"),
        (3, "divisible by num_heads"),
    ],
)
def test_heads_that_cannot_be_are_named(tmp_path, n_heads, says):
    detector, path = Detector(DETECTOR), tmp_path / "d.safetensors"
    config = asdict(DETECTOR)
    config["backbone"]["n_heads"] = n_heads
    save_safetensors(path, detector.state_dict(), {"config": config})
    detector.save(tmp_path / "sound.safetensors")
    detector.backbone.model.save_pretrained(tmp_path / "foreign")
    sound, foreign = tmp_path / "sound.safetensors", tmp_path / "foreign"
    for wrong, argument in ((path, None), (sound, n_heads), (foreign, n_heads)):
        with pytest.raises(CheckpointError, match=says):
            load_backbone(wrong, n_heads=argument)


def test_a_lost_number_is_not_replaced_by_a_default(tmp_path):
    """The weights do not tell heads, strides or the length of clips."""
    path = tmp_path / "d.safetensors"
    for name in ("n_heads", "strides", "n_samples"):
        config = asdict(DETECTOR)
        del (config if name == "n_samples" else config["backbone"])[name]
        save_safetensors(path, Detector(DETECTOR).state_dict(), {"config": config})
        with pytest.raises(CheckpointError, match=f"lacks .*'{name}'"):
            Detector.load(path)


@pytest.mark.parametrize(
    ("name", "values"),
    [("n_samples", (4000.0, "4000", None, 0, -4000)), ("hidden_width", (8.0, True, None, 0, -8))],
)
def test_sizes_that_are_no_counts_are_refused(tmp_path, name, values):
    path = tmp_path / "d.safetensors"
    for value in values:
        config = asdict(DETECTOR) | {name: value}
        save_safetensors(path, Detector(DETECTOR).state_dict(), {"config": config})
        with pytest.raises(CheckpointError, match="is not usable"):
            Detector.load(path)


_FULL_SIZE = """
import resource, torch
from slslib.model.detector import Detector
from slslib.model.sls import SLSHead
detector = Detector(seed=0, checkpointing=True)
assert sum(p.numel() for p in detector.backbone.model.parameters()) == 315_437_696
x, y = 0.1 * torch.randn(5, 64_600), torch.tensor([0, 0, 1, 0, 1])
detector.eval()
with torch.inference_mode():
    scores = detector.llr(x)
assert scores.shape == (5,) and bool(torch.isfinite(scores).all())
optimizer = torch.optim.Adam(detector.parameters(), lr=1e-6, weight_decay=1e-4, foreach=False)
loss = torch.nn.functional.cross_entropy(
    detector.train()(x), y, weight=torch.tensor([0.1, 0.9]))
loss.backward()
before = detector.head.hidden.weight[0, :5].detach().clone()
optimizer.step()
assert bool(torch.isfinite(loss)) and not torch.equal(before, detector.head.hidden.weight[0, :5])
assert [len(list(detector.backbone.layers(x[:1])))] == [24]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
def test_full_size_within_eight_gigabytes():
    """One scoring batch and one training step of the 300 million parameter model, on a CPU."""
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", _FULL_SIZE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 8


def test_the_default_is_the_papers():
    config = DetectorConfig()
    assert config.backbone == XLSRConfig()
    assert (config.hidden_width, config.n_samples) == (1024, N_SAMPLES) == (1024, 64_600)


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A packaged folder of weights for two models of the name mini."""
    monkeypatch.setattr("slslib.model.checkpoints._WEIGHTS", tmp_path)
    detector = Detector(DETECTOR, seed=1).eval()
    detector.save(tmp_path / "mini_detector.safetensors", {"dev_eer_threshold": 0.5})
    backbone = Detector(DETECTOR, seed=2).eval().backbone
    card = {"data": "simulated voices", "steps": 100}
    tensors = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    about = {"config": {"backbone": asdict(backbone.config)}, "card": card}
    save_safetensors(tmp_path / "mini_backbone.safetensors", tensors, about)
    return detector, backbone


def test_mini_is_the_packaged_detector_and_backbone(packaged, waveform, monkeypatch, tmp_path):
    detector, backbone = packaged
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini").mkdir()  # a folder of that name is ./mini
    with torch.no_grad():
        loaded = Detector.load("mini")
        assert loaded.metadata == {"dev_eer_threshold": 0.5}
        assert torch.equal(loaded(waveform), detector(waveform))
        loaded = load_backbone("mini")
        assert loaded.card == {"data": "simulated voices", "steps": 100}
        assert loaded.config.heads == backbone.config.heads == 2
        assert torch.equal(loaded(waveform), backbone(waveform))
    assert locate("mini").name == "mini_detector.safetensors"
    with pytest.raises(CheckpointError, match="mini: no such checkpoint"):
        Detector.load("./mini")


@pytest.mark.slow
def test_the_packaged_detector_tells_simulated_resynthesis(tmp_path):
    """On the development partition of the embedded corpus, which chose its epoch at 20 %."""
    pytest.importorskip("parselmouth")
    name, out = "asvspoof2019-la:dev", tmp_path / "dev.txt"
    corpus = open_corpus(name, simulation())
    score("mini", name, out, data=simulation(), cpu=True, progress=False)
    trials = match(read_scores(out), corpus.trials)
    bonafide, spoof = (trials.score[trials.label == label].to_numpy() for label in (1, 0))
    assert 0.10 < metrics.eer(bonafide, spoof).value < 0.30


def test_a_name_that_is_none_gets_the_known_ones():
    for load in (Detector.load, load_backbone):
        with pytest.raises(CheckpointError, match=r"^xlsr: no such .* mini$"):
            load("xlsr")


def test_mini_without_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr("slslib.model.checkpoints._WEIGHTS", tmp_path)
    for load, part in ((Detector.load, "detector"), (load_backbone, "backbone")):
        with pytest.raises(CheckpointError, match=rf"mini_{part}\.safetensors: no such"):
            load("mini")


def test_half_precision_is_storage_only(tmp_path, waveform):
    detector, path = Detector(DETECTOR, seed=1).eval(), tmp_path / "half.safetensors"
    tensors = detector.state_dict()
    halves = {n: t.half() if t.is_floating_point() else t for n, t in tensors.items()}
    save_safetensors(path, halves, {"config": asdict(DETECTOR)})
    halved, backbone = Detector.load(path), load_backbone(path)
    for name, tensor in halved.state_dict().items():
        wanted = detector.state_dict()[name]
        assert tensor.dtype == wanted.dtype
        assert torch.equal(tensor, wanted.half().to(wanted.dtype))
    with torch.no_grad():
        assert torch.equal(backbone(waveform), halved.backbone(waveform))
        torch.testing.assert_close(halved(waveform), detector(waveform), rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells what is mapped")
def test_a_detector_that_is_gone_leaves_no_file_mapped(tmp_path):
    convert(save_tiny(tmp_path), tmp_path / "epoch.pth")
    gc.disable()  # the file has to go with the detector, not with the next collection
    try:
        detector = Detector.load(tmp_path / "epoch.pth")
        assert "epoch.pth" in Path("/proc/self/maps").read_text()
        del detector
        assert "epoch.pth" not in Path("/proc/self/maps").read_text()
    finally:
        gc.enable()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells what is mapped")
@pytest.mark.parametrize("name", ["tiny.safetensors", "epoch.pth"])
def test_rounding_lets_go_of_the_file(tmp_path, name):
    save_tiny(tmp_path)
    convert(tmp_path / "tiny.safetensors", tmp_path / "epoch.pth")
    detector = Detector.load(tmp_path / name)
    assert name in Path("/proc/self/maps").read_text()
    detector.backbone.to_bf16()
    assert name not in Path("/proc/self/maps").read_text()


def save_tiny(folder: Path) -> Path:
    Detector(DETECTOR, seed=0).save(folder / "tiny.safetensors")
    return folder / "tiny.safetensors"
