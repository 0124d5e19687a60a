"""Figures show what they were given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri

from slslib import metrics, plots
from slslib.errors import ConfigError


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    return rng.normal(2, 1, 300), rng.normal(-1, 1.5, 900)


@pytest.fixture
def detections():
    windows = [{"start_s": 0.0, "llr": 1.0}, {"start_s": 4.0, "llr": -2.0}]
    one = {"file": "a/call.wav", "llr": -0.5, "verdict": "spoof", "windows": windows, "error": None}
    return {"threshold": 0.0, "window_s": 4.0, "files": [one]}


def texts(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_scores(scores):
    _, axes = plots.plot_scores(*scores)
    threshold = metrics.eer(*scores).threshold
    assert texts(axes) == ["spoof (900)", "bona fide (300)", f"threshold {threshold:.2f}"]
    assert "nats" in axes.get_xlabel()


def test_det_marks_the_eer(scores):
    _, axes = plots.plot_det({"a": scores, "b": (scores[0] + 1, scores[1])})
    value = metrics.eer(*scores).value
    assert texts(axes)[0] == f"a (EER {100 * value:.2f} %)"
    x, y = axes.lines[0].get_data()
    closest = np.argmin(np.abs(x - y))
    assert x[closest] == pytest.approx(ndtri(value), abs=0.05)


def test_gates():
    gates = np.linspace(0.1, 0.9, 24) + np.zeros((6, 1))
    _, axes = plots.plot_gates(gates, [1, 0, 1, 0, 0, 0])
    assert texts(axes) == ["bona fide (2)", "spoof (4)"]
    np.testing.assert_allclose(axes.containers[0].lines[0].get_ydata(), gates[0])


@pytest.mark.parametrize("dev", [False, True])
def test_learning(dev):
    log = pd.DataFrame({"epoch": [0, 1, 2], "train_loss": [0.7, 0.5, 0.4]})
    if dev:
        log = log.assign(dev_loss=[0.7, 0.6, 0.6], dev_eer_percent=[40.0, 30.0, 25.0])
    figure, axes = plots.plot_learning(log)
    assert len(texts(axes)) == (3 if dev else 1)
    assert len(figure.axes) == (2 if dev else 1)


def test_windows(detections):
    _, axes = plots.plot_windows(detections)
    assert "call.wav" in [text.get_text() for text in axes.texts]
    segments = axes.collections[0].get_segments()
    assert [tuple(s[:, 0]) for s in segments] == [(0.0, 4.0), (4.0, 8.0)]
    with pytest.raises(ConfigError, match="nothing to draw"):
        plots.plot_windows({**detections, "files": []})


@pytest.mark.parametrize("n", [0, 6])
def test_det_with_too_few_or_many_systems(scores, n):
    with pytest.raises(ConfigError, match=f"{n} systems"):
        plots.plot_det({str(i): scores for i in range(n)})


def test_spectrograms_show_a_tone_where_it_is():
    tone = 0.5 * np.sin(2 * np.pi * 2000 / 16_000 * np.arange(32_000))
    figure, axes = plots.plot_spectrograms({"tone": tone, "again": tone}, max_seconds=1.0)
    (image,) = axes.get_images()
    rows = image.get_array().shape[0]
    loudest = int(image.get_array().mean(axis=1).argmax())
    assert loudest / (rows - 1) * 8 == pytest.approx(2.0, abs=0.05)
    assert image.get_extent() == [0, 1.0, 0, 8.0]
    assert [a.get_title() for a in figure.axes[:2]] == ["tone", "again"]


def test_save(scores, tmp_path):
    plot = plots.plot_scores(*scores)
    plots.save(plot, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="cannot write the figure"):
        plots.save(plot, tmp_path / "a.xyz")
    with pytest.raises(ConfigError, match="no"):
        plots.save(plot, tmp_path / "no" / "a.png")


def test_no_global_state(scores):
    import matplotlib.pyplot as plt

    before = dict(plt.rcParams)
    plots.plot_scores(*scores)
    assert dict(plt.rcParams) == before
    assert plt.get_fignums() == []
