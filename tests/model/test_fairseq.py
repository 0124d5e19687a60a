"""Ours beside the original framework: built, saved and run by fairseq itself.

`make test-fairseq` installs fairseq into an environment of its own and runs this file; the largest
differences are printed.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from fairseq_backbone import FairseqXLSR
from torch import nn
from torch.nn import functional as F

from slslib.errors import ConfigError
from slslib.model.convert import convert
from slslib.model.detector import Detector, DetectorConfig, load_backbone
from slslib.model.foreign import authors_name
from slslib.model.xlsr import XLSR, XLSRConfig

pytestmark = pytest.mark.filterwarnings("ignore")  # fairseq's own, of APIs that grow old

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import fairseq  # noqa: F401
    REASON = ""
except ImportError as error:
    REASON = f"fairseq does not import ({error}); `make test-fairseq` installs it"

needs_fairseq = pytest.mark.skipif(bool(REASON), reason=REASON or "fairseq is there")

LAYERS, WIDTH, HEADS = 24, 32, 4
LENGTHS = (400, 719, 720, 16_000, 25_043, 64_600)


def build(**changes):
    """Return a tiny model of fairseq with XLS-R's architecture and no weight at its default."""
    from fairseq.models.wav2vec import Wav2Vec2Config, Wav2Vec2Model

    settings = {
        "extractor_mode": "layer_norm",
        "layer_norm_first": True,
        "conv_bias": True,
        "conv_feature_layers": "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16,2,2)] * 2",
        "encoder_layers": LAYERS,
        "encoder_embed_dim": WIDTH,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": HEADS,
        "final_dim": 16,
        "quantize_targets": True,
        "latent_vars": 4,
        "latent_groups": 2,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "dropout_input": 0.0,
        "dropout_features": 0.0,
    }
    torch.manual_seed(7)
    config = Wav2Vec2Config(**(settings | changes))
    model = Wav2Vec2Model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, config


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The model, and the checkpoint that fairseq's own code writes of it."""
    from fairseq import checkpoint_utils
    from omegaconf import OmegaConf

    model, config = build()
    path = tmp_path_factory.mktemp("fairseq") / "xlsr.pt"
    settings = {"model": OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)}
    optimizer = torch.optim.Adam(model.parameters())
    content = {
        "args": None,
        "cfg": settings,
        "model": model.state_dict(),
        "criterion": None,
        "optimizer_history": [],
        "task_state": {},
        "extra_state": {"epoch": 1},
        "last_optimizer_state": optimizer.state_dict(),
    }
    checkpoint_utils.torch_persistent_save(content, str(path))
    return model, path


def layers_of(model, waveform):
    """Return what the SLS authors take: every layer's output, batch first."""
    found = model(waveform, mask=False, features_only=True)["layer_results"]
    return [layer[0].transpose(0, 1) for layer in found]


def waveform(n_samples, batch=2):
    return 0.1 * torch.randn(batch, n_samples, generator=torch.Generator().manual_seed(n_samples))


@pytest.mark.fairseq
@needs_fairseq
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_all_layers(saved, attention, tmp_path):
    model, path = saved
    ours, original = load_backbone(path), FairseqXLSR.of(load_backbone(path))
    ours.model.set_attn_implementation(attention)
    assert ours.config.n_heads == original.config.n_heads == HEADS
    model.eval()
    with torch.no_grad():
        for n_samples in LENGTHS:
            x = waveform(n_samples)
            want = layers_of(model, x)
            got = list(ours.layers(x))
            through = list(original.layers(x))
            assert len(want) == len(got) == len(through) == LAYERS
            assert all(torch.equal(a, b) for a, b in zip(through, want, strict=True))
            worst = max(float((a - b).abs().max()) for a, b in zip(got, want, strict=True))
            print(f"{attention}, {n_samples} samples, {LAYERS} layers: max difference {worst:.2e}")
            assert worst <= 5e-5


@pytest.mark.fairseq
@needs_fairseq
def test_gradients_and_adam_steps(saved):
    _, path = saved
    ours, original = load_backbone(path), FairseqXLSR.of(load_backbone(path))
    x = waveform(16_000)

    def loss(backbone):
        return sum((layer**2).mean() for layer in backbone.train().layers(x)) / LAYERS

    steps = {"ours": [], "fairseq": []}
    for name, backbone in (("ours", ours), ("fairseq", original)):
        optimizer = torch.optim.Adam(backbone.parameters(), lr=1e-4, weight_decay=1e-4)
        for i in range(20):
            optimizer.zero_grad()
            value = loss(backbone)
            value.backward()
            if not i:
                gradients = {n: p.grad for n, p in backbone.named_parameters()}
                first = {n: None if g is None else g.clone() for n, g in gradients.items()}
            optimizer.step()
            steps[name].append(value.item())
        if name == "ours":
            names = {
                n: authors_name(f"backbone.{n}").removeprefix("ssl_model.model.") for n in first
            }
            mine = {names[n]: g for n, g in first.items()}
        else:
            theirs = {n.removeprefix("model."): g for n, g in first.items()}
    assert mine.keys() == theirs.keys()
    without = {n for n, g in theirs.items() if g is None or not g.any()}
    assert without == {n for n, g in mine.items() if g is None or not g.any()}
    assert without == {"encoder.layer_norm.weight", "encoder.layer_norm.bias"}
    # k_proj.bias has a true gradient of 0: what is there is round-off.
    compared = [n for n in theirs if n not in without and not n.endswith("k_proj.bias")]
    worst = max(float((mine[n] - theirs[n]).abs().max() / theirs[n].abs().max()) for n in compared)
    drift = max(abs(a - b) / b for a, b in zip(steps["ours"], steps["fairseq"], strict=True))
    print(f"gradients of {len(compared)} tensors: max relative difference {worst:.2e}")
    print(f"losses of 20 Adam steps: max relative difference {drift:.2e}")
    assert worst <= 1e-4
    assert drift <= 1e-5


class AuthorsModel(nn.Module):
    """The classifier as the paper and the 440 names of its checkpoint describe it."""

    def __init__(self, model):
        super().__init__()
        self.ssl_model = nn.Module()
        self.ssl_model.model = model
        self.first_bn = nn.BatchNorm2d(1)
        self.fc0 = nn.Linear(WIDTH, 1)
        self.fc1 = nn.Linear(67 * (WIDTH // 3), 32)
        self.fc3 = nn.Linear(32, 2)

    def forward(self, x):
        stack = torch.stack(layers_of(self.ssl_model.model, x), dim=1)
        gates = torch.sigmoid(self.fc0(stack.mean(dim=2)))
        plane = F.selu(self.first_bn((stack * gates[:, :, None]).sum(dim=1)[:, None]))
        hidden = F.selu(self.fc1(F.max_pool2d(plane, 3).flatten(1)))
        return F.selu(self.fc3(hidden)).log_softmax(dim=1)


@pytest.mark.fairseq
@needs_fairseq
def test_the_originals_strict_load_takes_what_we_write(tmp_path):
    """A detector trained here, with zeros of XLS-R 300M's sizes for the parts that it lacks."""
    backbone = XLSRConfig(
        width=WIDTH, n_layers=LAYERS, n_heads=HEADS, ffn_width=64, conv_width=16, pos_kernel=128
    )
    detector = Detector(DetectorConfig(backbone, hidden_width=32), seed=1).eval()
    detector.save(tmp_path / "d.safetensors")
    convert(tmp_path / "d.safetensors", tmp_path / "d.pth")
    sizes = {"final_dim": 768, "latent_vars": 320}
    authors = AuthorsModel(build(**sizes)[0]).eval()
    state = torch.load(tmp_path / "d.pth", weights_only=True)
    assert len(state) == 440
    authors.load_state_dict(state, strict=True)
    x = waveform(64_600)
    with torch.no_grad():
        worst = float((authors(x) - detector(x)).abs().max())
    print(f"log-probabilities of the authors' model: max difference {worst:.2e}")
    assert worst <= 5e-5


@pytest.mark.slow
@pytest.mark.fairseq
@needs_fairseq
def test_the_full_size(tmp_path):
    """All 24 layers of the 300 million parameter architecture, from the same random weights."""
    torch.manual_seed(0)
    ours = XLSR(XLSRConfig()).eval()
    original = FairseqXLSR.of(ours)
    assert sum(p.numel() for p in original.parameters()) == 315_437_696
    x = waveform(64_600, batch=1)
    with torch.no_grad():
        pairs = zip(ours.layers(x), original.layers(x), strict=True)
        differences = [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]
    print(f"full size, {len(differences)} layers: max relative difference {max(differences):.2e}")
    assert len(differences) == 24
    assert max(differences) <= 1e-5


@pytest.mark.skipif(not REASON, reason="fairseq is installed")
def test_without_fairseq_the_error_says_how_to_get_it():
    with pytest.raises(ConfigError, match=r"pip install --no-build-isolation .*fairseq-fixed=="):
        FairseqXLSR.of(XLSR(XLSRConfig(width=16, n_layers=2, conv_width=8)))
