"""Heads from outside the library are trained, saved, resumed and scored like SLS."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Iterable
from pathlib import Path

import heads
import pytest
import torch
from tiny import DETECTOR, recipe, weights
from torch import Tensor, nn
from torch.nn import functional as F

from slslib import Detector, score, train
from slslib.errors import CheckpointError
from slslib.model.detector import DetectorConfig, load_backbone
from slslib.model.sls import SLSHead
from slslib.runs.fit import build_detector

# What the study needs of SSL_Anti-spoofing/model.py: the names, and who calls whom.
FOREIGN = """
import fairseq, torch
class SSLModel:
    def __init__(self, device):
        raise RuntimeError("it would load XLS-R by fairseq")
class Model(torch.nn.Module):
    def __init__(self, args, device):
        super().__init__()
        self.ssl_model = SSLModel(device)
        self.LL = torch.nn.Linear(self.ssl_model.out_dim, 2)
    def forward(self, x):
        return self.LL(self.ssl_model.extract_feat(x.squeeze(-1))).mean(dim=1)
"""
OTHERS = {name: kind for name, kind in heads.HEADS.items() if name != "SLS"}
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", OTHERS)
def test_another_head_goes_the_whole_way(name: str, corpora: Path, tmp_path: Path) -> None:
    how = {"data": corpora, "progress": False, "detector_class": OTHERS[name]}
    best = train(recipe(), tmp_path / "run", **how)
    detector = OTHERS[name].load(best)
    assert type(detector.head).__name__ in inspect.getsource(OTHERS[name])
    state = train(recipe(), tmp_path / "again", **how, max_steps=2)
    assert type(OTHERS[name].load(state).head) is type(detector.head)
    train(recipe(), tmp_path / "again", **how, resume=True)
    first, second = weights(tmp_path / "run"), weights(tmp_path / "again")
    assert all(torch.equal(first[tensor], second[tensor]) for tensor in first)
    made = score(str(best), "asvspoof2019-la:dev", tmp_path / "scores.txt", **how)
    assert made["n_scores"] == len((tmp_path / "scores.txt").read_text().splitlines()) > 0


def test_a_head_of_another_program_is_imported(
    corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fairseq", types.ModuleType("fairseq"))
    (tmp_path / "model.py").write_text(FOREIGN)
    kind = heads.aasist_detector(tmp_path / "model.py")
    how = {"data": corpora, "progress": False, "detector_class": kind}
    best = train(recipe(), tmp_path / "run", **how)
    made = score(str(best), "asvspoof2019-la:dev", tmp_path / "scores.txt", **how)
    assert made["n_scores"] == 8
    waveforms, detector = torch.randn(2, 4000), kind.load(best).eval()
    with torch.inference_mode():
        *_, last = detector.backbone.layers(waveforms)
        logits = detector.head.head.LL(last).mean(dim=1)
        torch.testing.assert_close(detector.logits(waveforms), logits)


def test_a_file_does_not_choose_its_head(tmp_path: Path) -> None:
    path = tmp_path / "mean.safetensors"
    heads.MeanPoolDetector(DETECTOR, seed=0).save(path)
    with pytest.raises(CheckpointError, match="another head"):
        Detector.load(path)
    with pytest.raises(CheckpointError, match="MeanPoolDetector builds another head"):
        heads.MeanPoolDetector.load("mini")


def test_the_backbone_of_another_head_is_taken_and_the_head_named(tmp_path: Path) -> None:
    detector, path = heads.MeanPoolDetector(DETECTOR, seed=0), tmp_path / "mean.safetensors"
    detector.save(path)
    left = r"mean\.safetensors: the head of MeanPoolDetector is not used$"
    with pytest.warns(UserWarning, match=left):
        backbone = load_backbone(path)
    wanted = detector.backbone.state_dict()
    assert backbone.state_dict().keys() == wanted.keys()
    assert all(torch.equal(t, wanted[name]) for name, t in backbone.state_dict().items())
    with pytest.warns(UserWarning, match=left):
        new = build_detector(recipe(backbone=str(path)), path)
    assert type(new.head) is SLSHead
    assert torch.equal(next(new.backbone.parameters()), next(detector.backbone.parameters()))


class Odd(nn.Module):
    """A head with all that a head may hold: tied weights, whole numbers, what is not saved."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.output = nn.Linear(width, 2)
        self.register_buffer("order", torch.arange(width).flip(0))
        self.register_buffer("window", torch.linspace(0, 1, width), persistent=False)
        self.scale = torch.ones(width)

    def forward(self, layers: Iterable[Tensor]) -> Tensor:
        *_, last = layers
        mean = last.mean(dim=1)[:, self.order] * self.window * self.scale
        return self.output(self.second(self.first(mean)))


class OddDetector(Detector):
    def build_head(self, config: DetectorConfig) -> nn.Module:
        return Odd(config.backbone.width)


def test_a_head_may_tie_weights_and_hold_other_tensors(corpora: Path, tmp_path: Path) -> None:
    how = {"data": corpora, "progress": False, "detector_class": OddDetector}
    best = train(recipe(max_epochs=1), tmp_path / "run", **how)
    made = score(str(best), "asvspoof2019-la:dev", tmp_path / "scores.txt", **how)
    assert made["n_scores"] == 8


class WithoutSELU(SLSHead):
    """SLS by the names of its tensors, and by nothing else."""

    def classify(self, fused: Tensor) -> Tensor:
        return self.output(
            F.selu(self.hidden(F.max_pool2d(self.norm(fused[:, None]), 3).flatten(1)))
        )


class OtherDetector(Detector):
    def build_head(self, config: DetectorConfig) -> nn.Module:
        n_frames = config.backbone.n_frames(config.n_samples)
        return WithoutSELU(config.backbone.width, n_frames, hidden_width=config.hidden_width)


def test_a_head_with_the_names_of_sls_is_not_taken_for_it(tmp_path: Path) -> None:
    OtherDetector(DETECTOR, seed=0).save(tmp_path / "d.safetensors")
    with pytest.raises(CheckpointError, match="Detector builds another head"):
        Detector.load(tmp_path / "d.safetensors")
    assert type(OtherDetector.load(tmp_path / "d.safetensors").head) is WithoutSELU


def test_sls_is_what_detector_builds() -> None:
    waveforms = torch.randn(2, 4000)
    with torch.inference_mode():
        plain = Detector(DETECTOR, seed=0).eval().llr(waveforms)
        other = heads.MeanPoolDetector(DETECTOR, seed=0).eval()
        assert torch.equal(heads.HEADS["SLS"](DETECTOR, seed=0).eval().llr(waveforms), plain)
        means = torch.stack([layer.mean(1) for layer in other.backbone.layers(waveforms)])
        logits = means.mean(0) @ other.head.output.weight.T + other.head.output.bias
        torch.testing.assert_close(other.logits(waveforms), logits)


@pytest.mark.parametrize("name", heads.BACKBONES)
def test_another_backbone_starts_with_the_layers_of_mini(name: str, tmp_path: Path) -> None:
    heads.write_backbone(tmp_path / "b", **heads.BACKBONES[name])
    backbone, waveforms = load_backbone(tmp_path / "b"), 0.1 * torch.randn(2, 4000)
    n_layers = backbone.config.n_layers
    assert (n_layers, backbone.config.wavlm) == {"12 layers": (12, False)}.get(name, (24, True))
    with torch.inference_mode():
        expected = load_backbone("mini")(waveforms)[:, :n_layers]
        torch.testing.assert_close(backbone(waveforms), expected, rtol=0, atol=1e-5)


def test_runs_are_summed_up_over_the_seeds() -> None:
    runs = [{"seed": s, "dev": {"eer_percent": eer}} for s, eer in ((1, 10.0), (2, 12.0))]
    found = heads.summary(runs)
    assert found == {"eer_percent": {"dev": {"mean": 11.0, "std": 2**0.5}}, "runs": runs}
    assert heads.summary(runs[:1])["eer_percent"]["dev"] == {"mean": 10.0, "std": None}


@pytest.mark.parametrize("name", OTHERS)
def test_the_examples_are_short(name: str) -> None:
    kinds = (OTHERS[name], getattr(heads, OTHERS[name].__name__.removesuffix("Detector")))
    assert sum(len(inspect.getsource(kind).splitlines()) for kind in kinds) < 30


def test_importing_aasist_is_short() -> None:
    parts = (heads.LastLayer, heads.Given, heads.aasist_detector)
    code = [line for part in parts for line in inspect.getsource(part).splitlines() if line.strip()]
    assert len(code) < 30
