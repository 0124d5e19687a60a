"""The picture of scores over time shows what it was given."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from matplotlib.colors import to_hex

from slsapp.timeline import plot_windows
from slslib.evaluation import plots


@pytest.fixture
def detections():
    windows = [{"start_s": 0.0, "llr": 1.0}, {"start_s": 4.0, "llr": -2.0}]
    one = {"file": "a/call.wav", "llr": -0.5, "verdict": "spoof", "windows": windows, "error": None}
    return {"threshold": 0.0, "window_s": 4.0, "hop_s": None, "files": [one]}


def texts(axes):
    """Return the legend's names, wherever it stands."""
    (legend,) = axes.figure.legends or [axes.get_legend()]
    return [text.get_text() for text in legend.get_texts()]


def test_windows(detections):
    figure, axes = plot_windows(detections)
    assert axes.get_title("left") == "-0.50, spoof: call.wav"
    (bars,) = axes.collections
    boxes = [bar.get_extents().get_points().tolist() for bar in bars.get_paths()]
    assert boxes == [[[0, 0], [4, 1]], [[4, -2], [8, 0]]]
    colours = [to_hex(colour).upper() for colour in bars.get_facecolor()]
    assert colours == [plots.BONAFIDE, plots.SPOOF]
    assert "threshold 0.00" in texts(axes)[0]
    assert len(figure.axes) == 1


def test_windows_without_a_threshold_have_no_colour_of_a_class(detections):
    one = detections["files"][0] | {"verdict": None}
    _, axes = plot_windows(detections | {"threshold": None, "files": [one]})
    assert axes.get_title("left") == "-0.50, no verdict: call.wav"
    assert {*map(to_hex, axes.collections[0].get_facecolor())} == {"#666666"}
    assert "no threshold" in texts(axes)[0]


def test_recordings_with_equal_scores_have_panels_of_their_own(detections):
    """Whatever their names are; of very many the lowest are shown, and that is said."""
    (one,) = detections["files"]
    names = ["会议.m4a", "звонок.wav", "$x_1$.wav", "line\nbreak.wav", "مكالمة.wav"]
    figure, axes = plot_windows(
        detections | {"files": [one | {"file": f"a/{name}"} for name in names]}
    )
    figure.savefig(io.BytesIO())  # warnings are errors
    titles = [panel.get_title("left").partition(": ")[2] for panel in figure.axes]
    assert titles[1:3] == ["звонок.wav", "$x_1$.wav"]
    assert titles[3] == "line□break.wav"
    many = [one | {"file": f"{k}.wav", "llr": -k} for k in range(30)]
    figure, axes = plot_windows(detections | {"files": many})
    assert len(figure.axes) == 20
    assert axes.get_title("left") == "-29.00, spoof: 29.wav"
    assert "lowest 20 of 30" in texts(axes)[0]


def test_an_hour_of_windows_is_drawn_in_seconds(detections):
    """Each as a patch of its own took half a minute."""
    (one,) = detections["files"]
    scores = np.random.default_rng(0).standard_normal(36_000).tolist()
    windows = [{"start_s": k / 10, "llr": score} for k, score in enumerate(scores)]
    start = time.process_time()
    figure, axes = plot_windows(detections | {"hop_s": 0.1, "files": [one | {"windows": windows}]})
    figure.savefig(io.BytesIO())
    assert time.process_time() - start < 10
    low, high = axes.get_ylim()
    assert low < min(scores) < max(scores) < high
    assert axes.get_xlim()[1] > 3_600


def test_a_silent_window_is_a_gap(detections):
    (one,) = detections["files"]
    windows = [{"start_s": 4 * k, "llr": llr} for k, llr in enumerate([1.0, None, -2.0])]
    _, axes = plot_windows(detections | {"files": [one | {"windows": windows}]})
    drawn = [bar for bar in axes.collections[0].get_paths() if np.isfinite(bar.vertices).all()]
    assert [bar.vertices[:, 0].min() for bar in drawn] == [0, 8]
    assert np.isfinite(axes.get_ylim()).all()
