"""The model card's usage gives the same log-probabilities with this library's class."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import File, serve
from tiny import DETECTOR, authors_file, told

from slslib.model.detector import Detector

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

REPLACED = {
    r"from model import Model\b.*": "from slslib import Detector",
    r"model = Model\(.*\)": "model = Detector.load(checkpoint_path)",
    r"model\.load_state_dict\(torch\.load\(.*\)\)\n": "",
}
"""The three lines about the original's class, and what stands for them here."""


def card(path: Path) -> str:
    """Return the Python code of a model card's usage section, of a copy with `| ` before lines."""
    lines = [
        line.removeprefix("|").removesuffix("|").removeprefix(" ").rstrip()
        for line in path.read_text().splitlines()
    ]
    blocks = re.findall(r"^```python\n(.*?)^```", "\n".join(lines), re.M | re.S)
    return "".join(blocks)


@pytest.mark.parametrize("source", [pytest.param("card", marks=pytest.mark.shared), "copy"])
def test_the_model_cards_usage(request, tmp_path, source):
    usage = USAGE
    if source == "card":
        usage = card(request.getfixturevalue("shared") / "seed" / "model-card.txt")
        # The stored card has lost the indentation, which means nothing within parentheses.
        assert usage.split() == USAGE.split(), "the copy is the card's text"
    for theirs, ours in REPLACED.items():
        usage, count = re.subn(f"^{theirs}", ours, usage, flags=re.M)
        assert count == 1
    detector = Detector(DETECTOR, seed=1).eval()
    waveform = 0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(1))
    torch.save(waveform, tmp_path / "x.pt")
    torch.save(told(authors_file(detector), DETECTOR), tmp_path / "epoch_2.pth")
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
