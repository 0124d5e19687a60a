"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference data (real scores, speech, parity tensors); skips where it is absent."""
    path = Path(os.environ.get("SLSLIB_SHARED", ROOT.parent / "shared"))
    if not (path / "SPEC.md").is_file():
        pytest.skip(f"reference data not found at {path} (set SLSLIB_SHARED)")
    return path


@pytest.fixture
def _new_decoders() -> Iterator[None]:
    """Use no decoding process of another test, and leave none."""
    from slslib.data import isolate

    def stop() -> None:
        while isolate._idle:
            with isolate._idle.pop() as process:
                process.kill()

    stop()
    yield
    stop()


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data root with a tiny ASVspoof 2019 LA: tones (bona fide) and noises (spoof), 0.3-0.6 s."""
    import numpy as np
    import soundfile as sf

    root = tmp_path_factory.mktemp("corpora")
    la = root / "LA"
    protocols = la / "ASVspoof2019_LA_cm_protocols"
    protocols.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, suffix, count in (("train", "trn", 12), ("dev", "trl", 8), ("eval", "trl", 10)):
        audio = la / f"ASVspoof2019_LA_{part}" / "flac"
        audio.mkdir(parents=True)
        lines = []
        for i in range(count):
            name = f"LA_{part[0].upper()}_{i:07d}"
            n = int(rng.integers(5_000, 9_000))
            if i % 2:
                x = 0.2 * np.sin(2 * np.pi * rng.uniform(100, 400) / 16_000 * np.arange(n))
            else:
                x = 0.1 * rng.standard_normal(n)
            sf.write(audio / f"{name}.flac", x, 16_000, subtype="PCM_16")
            attack, label = ("-", "bonafide") if i % 2 else ("A01", "spoof")
            lines.append(f"LA_{i % 3:04d} {name} - {attack} {label}\n")
        (protocols / f"ASVspoof2019.LA.cm.{part}.{suffix}.txt").write_text("".join(lines))
    return root


def find_chromium() -> str | None:
    """Return the browser to use."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Start Chromium once per worker."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = find_chromium()
    if path is None:
        pytest.skip("Chromium was not found: install it or set CHROMIUM to its path")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGS)
        yield chromium
        chromium.close()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Write a tiny detector whose scores differ, with a development threshold of 1.25."""
    import torch
    from tiny import DETECTOR

    from slslib.model.detector import Detector

    path, detector = tmp_path / "d.safetensors", Detector(DETECTOR, seed=5)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.mul_(2.0)
    detector.save(path, {"dev_eer_threshold": 1.25})
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Write noise of 0.625 s, two and a half windows of the tiny detector."""
    import numpy as np
    import soundfile as sf

    path = tmp_path / "in" / "call.wav"
    path.parent.mkdir()
    x = 0.1 * np.random.default_rng(0).standard_normal(10_000)
    sf.write(path, x, 16_000, subtype="PCM_16")
    return path
