"""Take the picture of the page for the book: `python book/figures/app.py`.

Writes app.webp beside this file. Needs the extras app and minispoof, playwright and Chromium. The
recording is simulated: two bona fide clips, then two spoofed ones.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
import torch
from PIL import Image
from playwright.sync_api import sync_playwright

from minispoof.corpus import simulation
from slsapp.explain import gate_quantiles
from slslib.data.audio import SAMPLE_RATE
from slslib.data.corpora import open_corpus
from slslib.model.detector import Detector
from slsnotebooks.probing import sample


def write_inputs(folder: Path) -> None:
    """Write a recording and the gates of a reference set."""
    detector = Detector.load("mini")
    corpus = open_corpus("asvspoof2019-la:dev", simulation())
    trials, clips = sample(corpus, 60, n_samples=detector.config.n_samples)
    with torch.inference_mode():
        gates = torch.cat([detector.gates(batch) for batch in clips.split(16)]).numpy()
    groups = trials["attack"].replace("-", "bona fide")
    gate_quantiles(gates, groups).to_csv(folder / "gates.csv", index=False)
    bonafide, spoof = (
        clips[list(trials.index[trials["label"] == k][:2])].flatten() for k in (1, 0)
    )
    soundfile.write(folder / "call.wav", np.concatenate([bonafide, spoof]), SAMPLE_RATE)


def main() -> None:
    """Start the page, score the recording, and take the picture."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        command = [sys.executable, "-m", "slsapp", "mini", "--references", folder / "gates.csv"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        with sync_playwright() as playwright:
            path = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            view = browser.new_page(viewport={"width": 900, "height": 900})
            view.goto(re.search(r"http\S+", server.stdout.readline()).group())
            view.set_input_files("input[type=file]", folder / "call.wav")
            view.get_by_role("button", name="Clear").wait_for()
            view.get_by_role("button", name="Score", exact=True).click()
            view.locator("img[src^='data:image']").nth(1).wait_for()
            view.wait_for_timeout(1000)
            view.screenshot(path=folder / "app.png", full_page=True)
        server.terminate()
        target = Path(__file__).with_name("app.webp")
        Image.open(folder / "app.png").save(target, quality=80, method=6)
        print(target.name, target.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
