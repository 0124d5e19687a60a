"""What moves a score: gates beside a reference set, layers left out, stretches undone."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import DETECTOR

from slsapp.explain import gate_quantiles, leave_one_out, occlusion, plot_gates
from slslib.evaluation import plots
from slslib.model.detector import Detector


@pytest.fixture
def detector():
    detector = Detector(DETECTOR, seed=5).eval()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.mul_(2.0)
    return detector


@pytest.fixture
def clip():
    return 0.1 * np.random.default_rng(0).standard_normal(4000).astype(np.float32)


def llr(detector, samples):
    with torch.inference_mode():
        return detector.llr(torch.from_numpy(samples)[None]).item()


def test_quantiles_are_those_of_each_group_and_layer():
    gates = np.random.default_rng(1).random((40, 3)).astype(np.float32)
    groups = ["bona fide"] * 30 + ["A01"] * 10
    table = gate_quantiles(gates, groups)
    assert list(table["group"].unique()) == ["bona fide", "A01"]
    assert list(table["layer"]) == [1, 2, 3] * 2
    assert list(table["count"]) == [30] * 3 + [10] * 3
    for column, q in {"5%": 0.05, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95}.items():
        want = [np.quantile(part, q, axis=0) for part in (gates[:30], gates[30:])]
        np.testing.assert_allclose(table[column], np.concatenate(want), rtol=1e-5)


def test_the_table_is_the_same_after_it_was_kept():
    table = gate_quantiles(np.random.default_rng(1).random((9, 3)), ["A01", "-", "A01"] * 3)
    text = table.to_csv(index=False)
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(text)), table)


def test_a_layer_left_out_is_a_gate_of_zero(detector, clip):
    waveform = torch.from_numpy(np.stack([clip, clip[::-1].copy()]))
    changes = leave_one_out(detector, waveform)
    with torch.inference_mode():
        layers = torch.stack(list(detector.backbone.layers(waveform)))
        gates = detector.gates(waveform)
        whole = detector.llr(waveform)
        for k in range(3):
            closed = gates.clone()
            closed[:, k] = 0
            plane = (closed.T[:, :, None, None] * layers).sum(dim=0)
            want = detector.llr_of(detector.head.classify(plane)) - whole
            torch.testing.assert_close(changes[:, k], want, rtol=1e-3, atol=1e-4)
    assert changes.shape == (2, 3)
    assert changes.abs().max() > 1e-3


def test_a_layer_of_nothing_is_not_missed(detector, clip, monkeypatch):
    layers = [*detector.backbone.layers(torch.from_numpy(clip)[None])]
    layers[1] = torch.zeros_like(layers[1])
    monkeypatch.setattr(detector.backbone, "layers", lambda _: iter(layers))
    changes = leave_one_out(detector, torch.zeros(1, 4000))[0]
    assert changes[1] == 0
    assert changes[0] != 0


def test_a_stretch_is_played_backwards(detector, clip):
    table = occlusion(detector, clip, stretch_s=0.1)
    assert list(table["start_s"]) == pytest.approx([0, 0.1, 0.2])
    copy = clip.copy()
    copy[1600:3200] = clip[1600:3200][::-1]
    want = llr(detector, copy) - llr(detector, clip)
    assert table["change"][1] == pytest.approx(want, abs=1e-9)
    assert table["change"].abs().min() > 0


def test_the_clip_itself_is_not_touched(detector, clip):
    before = clip.copy()
    occlusion(detector, clip)
    np.testing.assert_array_equal(clip, before)


def test_a_short_clip_is_changed_before_it_is_tiled(detector, clip):
    short = clip[:1500]
    (table, copy) = occlusion(detector, short, stretch_s=0.05), short.copy()
    copy[800:] = short[800:][::-1]
    tiled = [np.tile(samples, 3)[:4000] for samples in (copy, short)]
    want = llr(detector, tiled[0]) - llr(detector, tiled[1])
    assert len(table) == 2
    assert table["change"][1] == pytest.approx(want, abs=1e-9)


def test_a_stretch_that_is_the_same_backwards_changes_nothing(detector, clip):
    clip[:1600] = np.concatenate([clip[:800], clip[:800][::-1]])
    changes = occlusion(detector, clip, stretch_s=0.1)["change"]
    assert changes[0] == 0
    assert changes[1] != 0


def test_what_is_beyond_the_length_is_not_looked_at(detector, clip):
    longer = np.concatenate([clip, clip])
    pd.testing.assert_frame_equal(occlusion(detector, longer), occlusion(detector, clip))


def test_gates_are_drawn_before_each_group():
    gates = np.random.default_rng(1).random((60, 3))
    table = gate_quantiles(gates, ["bona fide", "A01", "A02", "A03", "A04", "A05"] * 10)
    figure, axes = plot_gates(gates[0], table)
    assert len(figure.axes) == 6
    assert axes.get_title() == "bona fide (10)"
    median, clip = axes.lines
    np.testing.assert_allclose(median.get_ydata(), table["50%"][:3])
    np.testing.assert_allclose(clip.get_ydata(), gates[0])
    assert [line.get_color() for line in (median, figure.axes[1].lines[0])] == [
        plots.BONAFIDE,
        plots.SPOOF,
    ]


def test_bona_fide_speech_is_drawn_first_wherever_it_stands():
    gates = np.random.default_rng(1).random((30, 3))
    table = gate_quantiles(gates, ["A02", "A01", "bona fide"] * 10)
    titles = [axes.get_title() for axes in plot_gates(gates[0], table)[0].axes]
    assert titles == ["bona fide (10)", "A01 (10)", "A02 (10)"]


def test_a_long_name_of_an_attack_stays_in_its_panel():
    groups = ["bona fide", "Griffin-Lim_80-mel_copy-synthesis", "FastSpeech2_(ming024)_and_more"]
    figure, _ = plot_gates(np.ones(3), gate_quantiles(np.ones((3, 3)), groups))
    figure.draw_without_rendering()
    boxes = [one.title.get_window_extent() for one in figure.axes]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))
