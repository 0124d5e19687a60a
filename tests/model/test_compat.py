"""Code written for the original's Model runs with only its import line changed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import File, serve
from tiny import authors_file, told

from slslib.errors import CheckpointError
from slslib.model.compat import Model
from slslib.model.detector import Detector, DetectorConfig
from slslib.model.xlsr import XLSRConfig

# 64,600 samples, so that a base checkpoint fits.
CONFIG = DetectorConfig(
    XLSRConfig(
        width=64, n_layers=2, n_heads=2, ffn_width=32, conv_width=8, pos_kernel=8, pos_groups=4
    ),
    1024,
)

USAGE = """
from huggingface_hub import hf_hub_download

# Download v1 checkpoint (recommended)
checkpoint_path = hf_hub_download(
    repo_id="sukhdeveyash/XLS-R-SLS-Deepfake-Detection",
    filename="v1/epoch_2.pth"
)

# Download v2 checkpoint
# checkpoint_path = hf_hub_download(
#     repo_id="sukhdeveyash/XLS-R-SLS-Deepfake-Detection",
#     filename="v2/epoch_16.pth"
# )
import torch
from model import Model  # from the GitHub repo

device = "cuda" if torch.cuda.is_available() else "cpu"

model = Model(device=device, ssl_cpkt_path="xlsr2_300m.pt")
model.load_state_dict(torch.load(checkpoint_path, map_location=device))
model = model.to(device)
model.eval()
"""


@pytest.fixture(scope="module")
def detector():
    return Detector(CONFIG, seed=1).eval()


@pytest.fixture(scope="module")
def original(detector):
    return told(authors_file(detector), CONFIG)


@pytest.fixture(scope="module")
def waveform():
    return 0.1 * torch.randn(2, 64_600, generator=torch.Generator().manual_seed(1))


def fairseq_file(original: dict, path: Path) -> Path:
    model = {n.removeprefix("ssl_model.model."): t for n, t in original.items() if "ssl" in n}
    torch.save(
        {
            "cfg": {"model": {"encoder_attention_heads": 2, "layer_norm_first": True}},
            "model": model,
        },
        path,
    )
    return path


def card(path: Path) -> str:
    """Return the Python code of a model card's usage section, of a copy with `| ` before lines."""
    lines = [
        line.removeprefix("|").removesuffix("|").removeprefix(" ").rstrip()
        for line in path.read_text().splitlines()
    ]
    blocks = re.findall(r"^```python\n(.*?)^```", "\n".join(lines), re.M | re.S)
    return "".join(blocks)


@pytest.mark.parametrize("base", ["with a base checkpoint", "without one"])
@pytest.mark.parametrize("source", [pytest.param("card", marks=pytest.mark.shared), "copy"])
def test_the_model_cards_usage(request, detector, original, waveform, tmp_path, source, base):
    usage = USAGE
    if source == "card":
        usage = card(request.getfixturevalue("shared") / "seed" / "model-card.txt")
        # The stored card has lost the indentation, which means nothing within parentheses.
        assert usage.split() == USAGE.split(), "the copy is the card's text"
    ours = "from slslib.model.compat import Model"
    usage, count = re.subn(r"^from model import Model", ours, usage, flags=re.M)
    assert count == 1
    torch.save(waveform, tmp_path / "x.pt")
    torch.save(original, tmp_path / "epoch_2.pth")
    if base == "with a base checkpoint":
        fairseq_file(original, tmp_path / "xlsr2_300m.pt")
    usage += "torch.save(model(torch.load('x.pt').to(device)).detach().cpu(), 'y.pt')\n"
    repo = "sukhdeveyash/XLS-R-SLS-Deepfake-Detection"
    with serve() as hub:
        hub.put(repo, "v1/epoch_2.pth", File((tmp_path / "epoch_2.pth").read_bytes()))
        done = subprocess.run(
            [sys.executable, "-W", "error::UserWarning", "-c", usage],
            cwd=tmp_path,
            env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "y.pt"), detector(waveform))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_loading_and_saving(detector, original, waveform, prefix, tmp_path):
    model = Model(None, "cpu")
    result = model.load_state_dict(told(original, CONFIG, prefix))
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    model.eval()
    with torch.no_grad():
        expected = detector(waveform)
        assert torch.equal(model(waveform), expected)
        assert torch.equal(model(waveform[:, :, None]), expected)  # the original squeezes
    state = model.state_dict()
    assert state.keys() <= original.keys()
    assert all(torch.equal(tensor, original[name]) for name, tensor in state.items())
    torch.save(state, tmp_path / "saved.pth")
    again = Detector.load(tmp_path / "saved.pth", n_heads=CONFIG.backbone.n_heads)
    assert again.config == detector.config


def test_weights_are_copied_into_the_parameters_that_an_optimizer_holds(original, tmp_path):
    model = Model(ssl_cpkt_path=fairseq_file(original, tmp_path / "xlsr2_300m.pt"))
    assert model.training
    before = list(model.parameters())
    model.load_state_dict(original)
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
    x = 0.1 * torch.randn(2, 64_600)
    model(x).sum().backward()
    # Only the encoder's last LayerNorm takes no part.
    assert sum(p.grad is None for p in model.parameters()) == 2


def test_training_starts_from_the_base_checkpoint(detector, original, waveform, tmp_path):
    model = Model(device="cpu", ssl_cpkt_path=fairseq_file(original, tmp_path / "b.pt"))
    with torch.no_grad():
        ours = list(detector.backbone.layers(waveform))
        theirs = list(model.detector.backbone.layers(waveform))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_model_without_weights_says_so(waveform):
    with pytest.raises(CheckpointError, match=r"no weights: call .* not xlsr2_300m.pt"):
        Model(device="cpu", ssl_cpkt_path="xlsr2_300m.pt")(waveform)
    with pytest.raises(CheckpointError, match="no weights"):
        Model()(waveform)
    with pytest.raises(CheckpointError, match="state dict of an XLS-R"):
        Model().load_state_dict({"fc0.bias": torch.zeros(1)})


def test_heads_are_not_guessed(original):
    """A state dict of another size than XLS-R 300M's has to tell them."""
    with pytest.raises(CheckpointError, match="width 64"):
        Model().load_state_dict(dict(original))


def test_weights_that_do_not_fit(original):
    model = Model()
    model.load_state_dict(original)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({n: t for n, t in original.items() if n != "fc0.bias"})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        model.load_state_dict(original | {"fc9.bias": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict(original | {"fc0.bias": torch.zeros(2)})
