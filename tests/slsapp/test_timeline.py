"""The picture of scores over time shows what it was given."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from matplotlib.colors import to_hex

from slsapp.timeline import plot_windows, spectrogram
from slslib.evaluation import plots


@pytest.fixture
def detections():
    windows = [{"start_s": 0.0, "llr": 1.0}, {"start_s": 4.0, "llr": -2.0}]
    one = {"file": "a/call.wav", "llr": -0.5, "verdict": "spoof", "windows": windows, "error": None}
    one["duration_s"] = 8.0
    how = {"threshold": 0.0, "window_s": 4.0, "hop_s": None, "speech_only": False}
    return how | {"files": [one]}


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


def boxes_of(collection):
    return [bar.get_extents().get_points()[:, 0].tolist() for bar in collection.get_paths()]


def test_bars_of_overlapping_windows_cover_the_recording(detections):
    windows = [{"start_s": float(k), "llr": -1.0} for k in range(3)]
    one = detections["files"][0] | {"windows": windows, "duration_s": 5.5}
    _, axes = plot_windows(detections | {"hop_s": 1.0, "files": [one]})
    assert boxes_of(axes.collections[0]) == [[0, 2.5], [2.5, 3.5], [3.5, 5.5]]


@pytest.mark.parametrize(
    ("speech_only", "what"), [(False, "left out: silence"), (True, "left out: no speech")]
)
def test_a_window_that_was_left_out_is_a_band(detections, speech_only, what):
    (one,) = detections["files"]
    one["windows"][0]["llr"] = None
    _, axes = plot_windows(detections | {"speech_only": speech_only})
    bars, bands = axes.collections
    assert boxes_of(bands) == [[0, 4]]
    assert len(bars.get_paths()) == 2
    assert what in texts(axes)


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        (1.0, ["0:00.0", "0:00.2", "0:00.4"]),
        (19.0, ["0:00", "0:05", "0:10"]),
        (90.0, ["0:00", "0:10", "0:20"]),
        (1200.0, ["0:00", "5:00", "10:00"]),
        (7200.0, ["0:00", "15:00", "30:00"]),
    ],
)
def test_the_ticks_are_where_their_labels_say(detections, seconds, labels):
    windows = [{"start_s": k * seconds / 10, "llr": 1.0} for k in range(10)]
    how = {"window_s": seconds / 10, "files": [detections["files"][0] | {"windows": windows}]}
    how["files"][0]["duration_s"] = seconds
    figure, axes = plot_windows(detections | how)
    figure.draw_without_rendering()
    shown = {
        round(t, 6): one.get_text()
        for t, one in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    }
    for label in labels:
        minutes, rest = label.split(":")
        assert shown[round(60 * int(minutes) + float(rest), 6)] == label


def test_the_spectrogram_shows_when_a_tone_sounds(detections):
    """However the sound is cut into pieces."""
    rate = 16_000
    sound = np.zeros(8 * rate, np.float32)
    sound[2 * rate : 4 * rate] = np.sin(2 * np.pi * 2000 / rate * np.arange(2 * rate))
    power = spectrogram([sound], 8.0)
    assert power.shape == (257, 800)
    loud = power.max(axis=0) > power.max() / 100
    assert 198 <= np.flatnonzero(loud)[0] <= 201
    assert 399 <= np.flatnonzero(loud)[-1] <= 402
    assert power.sum(axis=1).argmax() == 64  # 2 of 8 kHz
    np.testing.assert_allclose(spectrogram(np.split(sound, 320), 8.0), power, rtol=1e-4, atol=1e-6)
    figure, _ = plot_windows(detections, [sound])
    figure.savefig(io.BytesIO())
    scores, below = figure.axes
    assert scores.get_xlim() == below.get_xlim()
    assert below.images[0].get_extent() == [0, 8, 0, 8]
    assert "kHz" in below.get_ylabel()


def test_a_long_recording_has_no_more_columns_than_a_picture():
    assert spectrogram((np.zeros(160_000, np.float32) for _ in range(3)), 30.0).shape[1] == 1000
    assert spectrogram([np.ones(300, np.float32)], 300 / 16_000).shape == (257, 2)


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
    one |= {"windows": windows, "duration_s": 3604.0}
    figure, axes = plot_windows(detections | {"hop_s": 0.1, "files": [one]})
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
