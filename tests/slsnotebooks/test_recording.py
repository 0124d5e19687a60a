"""The figure of a reader's recording shows what the detector computed for its lowest window."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from slsapp.explain import gate_quantiles
from slslib.data.audio import SAMPLE_RATE, fix_length, load
from slslib.errors import AudioError
from slslib.evaluation import plots
from slslib.model.detector import Detector
from slslib.runs.detect import detect
from slsnotebooks.recording import plot_recording


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load("mini")


@pytest.fixture(scope="module")
def reference():
    rng = np.random.default_rng(0)
    return gate_quantiles(rng.random((10, 24)), ["spoof"] * 5 + ["bona fide"] * 5)


@pytest.fixture
def recording(tmp_path):
    """Write three windows and a half of noise at falling levels."""
    rng = np.random.default_rng(1)
    levels = np.repeat([0.1, 0.01, 0.001, 0.1], [32_000, 32_000, 32_000, 16_000])
    path = tmp_path / "a $b$ voice.wav"
    soundfile.write(path, levels * rng.normal(size=levels.size), SAMPLE_RATE, subtype="FLOAT")
    return path


def test_windows_layers_and_gates_are_those_of_the_detector(detector, reference, recording):
    result = detect((recording,), checkpoint=detector, threshold=-1.0)
    figure, gates_axes = plot_recording(result, detector, reference)
    windows, layers, *_ = figure.axes
    (one,) = result["files"]
    scores = [window["llr"] for window in one["windows"]]
    (bars,) = windows.collections
    assert np.allclose([bar.vertices[1, 1] for bar in bars.get_paths()], scores)
    sides = [tuple(colour) for colour in bars.get_facecolor()]
    assert len(set(sides)) == len({score > -1.0 for score in scores})
    assert windows.get_title(loc="left").endswith(f"{one['verdict']}: {recording.name}")

    start = one["windows"][int(np.argmin(scores))]["start_s"]
    samples = fix_length(load(recording).samples[round(start * SAMPLE_RATE) :], 32_000)
    waveform = torch.from_numpy(samples)[None]
    with torch.inference_mode():
        expected = torch.stack(list(detector.backbone.layers(waveform)))[:, 0].norm(dim=2)
        gates = detector.gates(waveform)[0]
    assert np.allclose(gates_axes.lines[0].get_xdata(), gates, atol=1e-5)
    shown = np.asarray(layers.images[0].get_array())
    assert shown.shape == (24, 99)
    assert np.allclose(shown, expected / expected.mean(dim=1, keepdim=True), atol=1e-3)
    assert layers.get_xlim() == pytest.approx((start, start + 2))
    bands = [band.get_facecolor()[0][:3] for band in gates_axes.collections]
    blue = [plots.BONAFIDE, plots.SPOOF]
    assert np.allclose(bands, [[int(c[k : k + 2], 16) / 255 for k in (1, 3, 5)] for c in blue])


def test_without_a_threshold_there_is_no_side(detector, reference, recording):
    result = detect((recording,), checkpoint=detector, pool="min")
    assert result["threshold"] is None
    figure, _ = plot_recording(result, detector, reference)
    assert len({tuple(colour) for colour in figure.axes[0].collections[0].get_facecolor()}) == 1
    assert "no verdict" in figure.axes[0].get_title(loc="left")


@pytest.mark.parametrize("samples", [np.zeros(40_000), None], ids=["silent", "no audio"])
def test_what_has_no_score_is_an_error(detector, reference, tmp_path, samples):
    path = tmp_path / "x.wav"
    if samples is None:
        path.write_text("no audio at all")
    else:
        soundfile.write(path, samples, SAMPLE_RATE)
    result = detect((path,), checkpoint=detector)
    with pytest.raises(AudioError, match=r"x\.wav"):
        plot_recording(result, detector, reference)


def test_a_silent_window_is_left_out(detector, reference, recording):
    samples = load(recording).samples.copy()
    samples[32_000:64_000] = 0
    soundfile.write(recording, samples, SAMPLE_RATE, subtype="FLOAT")
    result = detect((recording,), checkpoint=detector)
    assert result["files"][0]["n_silent"] == 1
    figure, _ = plot_recording(result, detector, reference)
    assert figure.axes[1].get_xlim()[0] != 2.0
