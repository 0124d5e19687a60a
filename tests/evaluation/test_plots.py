"""Figures show what they were given."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from scipy.special import ndtri

from slslib.errors import ConfigError
from slslib.evaluation import metrics, plots


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
    """Return the legend's names, wherever it stands."""
    (legend,) = axes.figure.legends or [axes.get_legend()]
    return [text.get_text() for text in legend.get_texts()]


def test_scores_show_the_threshold_of_the_eer(scores):
    _, axes = plots.plot_scores(*scores)
    assert texts(axes) == ["spoof (900), filled: accepted", "bona fide (300), filled: rejected"]
    assert axes.lines[0].get_xdata()[0] == metrics.eer(*scores).threshold


def test_filled_areas_are_the_errors(scores):
    figure, _ = plots.plot_scores(*scores, [-0.5, 1.25])
    bonafide, spoof = scores
    assert len(figure.axes) == 2
    for panel, at in zip(figure.axes, (-0.5, 1.25), strict=True):
        far, frr = 100 * np.mean(spoof > at), 100 * np.mean(bonafide <= at)
        assert panel.get_title() == f"threshold {at:.2f}\nFAR {far:.1f} %, FRR {frr:.1f} %"
        accepted, rejected = (np.array(panel.patches[k].get_xy()) for k in (1, 3))
        assert accepted[accepted[:, 1] > 0, 0].min() == pytest.approx(at)
        assert rejected[rejected[:, 1] > 0, 0].max() <= at + 1e-9


def test_scores_that_equal_the_threshold_are_rejected():
    _, axes = plots.plot_scores([0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    rejected = np.array(axes.patches[3].get_xy())
    assert rejected[:, 1].max() == pytest.approx(100)
    assert rejected[rejected[:, 1] > 0, 0].max() == pytest.approx(0)


def test_det_marks_the_eer(scores):
    _, axes = plots.plot_det({"a": scores, "b": (scores[0] + 1, scores[1])})
    value = metrics.eer(*scores).value
    assert texts(axes)[0] == f"a (EER {100 * value:.2f} %)"
    x, y = axes.lines[0].get_data()
    closest = np.argmin(np.abs(x - y))
    assert x[closest] == pytest.approx(ndtri(value), abs=0.05)


def test_a_table_becomes_its_mean_and_standard_deviation():
    rows = np.linspace(0.1, 0.9, 24) + np.array([[0.0], [0.2]])
    _, axes = plots.plot_layers({"a": rows, "b": rows[0]}, ylabel="gate")
    np.testing.assert_allclose(axes.lines[0].get_ydata(), rows.mean(axis=0))
    (band,) = axes.collections
    (path,) = band.get_paths()
    assert path.vertices[:, 1].min() == pytest.approx(0.1)
    assert path.vertices[:, 1].max() == pytest.approx(1.1)


def test_layers():
    values = np.linspace(0, 1, 24)
    _, axes = plots.plot_layers({"a": values, "b": values**2}, ylabel="share (%)", reference=0.5)
    assert texts(axes) == ["a", "b"]
    np.testing.assert_allclose(axes.lines[1].get_ydata(), values**2)
    assert list(axes.lines[1].get_xdata()[[0, -1]]) == [1, 24]
    assert list(axes.lines[2].get_ydata()) == [0.5, 0.5]


def test_a_table_of_signed_values_has_zero_in_the_middle_of_its_colours():
    table = pd.DataFrame([[0.0, -3.0], [-1.0, -2.0]], index=["M01", "M02"], columns=[1, 2])
    _, axes = plots.plot_matrices({"attacks": table}, label="difference")
    (image,) = axes.collections
    np.testing.assert_array_equal(image.get_array(), table)
    assert image.get_clim() == (-3.0, 3.0)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["M01", "M02"]


def test_planes_show_time_from_left_to_right():
    plane = np.arange(12.0).reshape(4, 3)
    figure, axes = plots.plot_planes({"before": plane, "after": plane[:2]}, seconds=0.08)
    np.testing.assert_array_equal(axes.get_images()[0].get_array(), plane.T)
    assert [a.get_title() for a in figure.axes[:2]] == ["before", "after"]
    assert axes.get_xlim() == pytest.approx((0, 0.08))


def test_many_planes_on_one_scale():
    layers = np.random.default_rng(0).normal(size=(8, 50, 3))
    planes = {f"layer {k}": plane for k, plane in enumerate(layers, 1)}
    figure, _ = plots.plot_planes(planes, seconds=1, one_scale=True)
    images = [a.get_images()[0] for a in figure.axes if a.get_images()]
    assert [a.get_title() for a in figure.axes[:8]] == list(planes)
    np.testing.assert_array_equal(images[7].get_array(), layers[7].T)
    assert len({image.get_clim() for image in images[:8]}) == 1


def test_matrices_share_their_scale_and_name_rows_and_columns():
    names = pd.Index(["alaw", "gsm"], name="codec")
    one = pd.DataFrame([[0.1, 0.5, 0.2], [1.0, 0.9, 0.3]], index=names)
    one.columns = pd.RangeIndex(1, 4, name="layer")
    figure, axes = plots.plot_matrices({"a": one, "b": one / 2}, label="CKA")
    images = [a.collections[0] for a in figure.axes[:2]]
    assert {image.get_clim() for image in images} == {(0.05, 1.0)}
    np.testing.assert_array_equal(images[1].get_array(), one / 2)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["alaw", "gsm"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "3"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("layer", "codec")


def test_a_single_point_of_a_line_can_be_seen():
    y = np.full(100, np.nan)
    y[50] = 1.0
    lines = {"one": (np.arange(100), y), "all": (np.arange(100), np.ones(100))}
    _, axes = plots.plot_lines(lines, xlabel="x", ylabel="y", yscale="log")
    one, every = axes.lines
    assert (one.get_marker(), every.get_marker()) == ("o", "None")
    assert axes.get_yscale() == "log"


def test_probes_show_the_mean_over_folds_and_chance():
    rows = [("speaker", "a", layer, 10.0 * layer + f) for layer in (1, 3) for f in (0, 2)]
    rows += [("speaker", "LFCC", np.nan, accuracy) for accuracy in (60, 70)]
    rows += [("codec", "a", 1, 55.0), ("codec", "a", 1, 65.0)]
    table = pd.DataFrame(rows, columns=["task", "features", "layer", "accuracy"])
    figure, axes = plots.plot_probes(table, {"speaker": 5.0, "codec": 20.0})
    assert [a.get_title() for a in figure.axes] == ["speaker", "codec"]
    np.testing.assert_allclose(axes.lines[0].get_data(), [[1, 3], [11, 31]])
    assert list(axes.get_xticks()) == [1, 3]  # the layers that were probed
    levels = [a.lines[-1].get_ydata()[0] for a in figure.axes]
    assert levels == [5.0, 20.0]
    assert 65.0 in [line.get_ydata()[0] for line in axes.lines]
    assert texts(axes) == ["a", "LFCC", "chance"]
    table.loc[table["task"] == "codec", "features"] = "b"  # which the first task lacks
    assert "b" in texts(plots.plot_probes(table, {"speaker": 5.0, "codec": 20.0})[1])


@pytest.mark.parametrize("dev", [False, True])
def test_learning(dev):
    log = pd.DataFrame({"epoch": [0, 1, 2], "train_loss": [0.7, 0.5, 0.4]})
    if dev:
        log = log.assign(dev_loss=[0.7, 0.6, 0.6], dev_eer_percent=[40.0, 30.0, 25.0])
    figure, axes = plots.plot_learning(log)
    assert len(texts(axes)) == (3 if dev else 1)
    assert len(figure.axes) == (2 if dev else 1)


def test_lines_with_points_marks_and_a_reference():
    _, axes = plots.plot_lines(
        {"seed 1": ([0, 1, 2], [40, 30, 35]), "seed 2": ([0, 1], [45, 20])},
        xlabel="epoch", ylabel="EER (%)", points={"first": ([0, 0], [40, 45]), "last": ([2], [35])},
        marks={"here": 1.5}, reference=50,
    )  # fmt: skip
    drawn = [list(line.get_ydata()) for line in axes.lines[:4]]
    assert drawn == [[40, 30, 35], [45, 20], [40, 45], [35]]
    assert axes.lines[3].get_markersize() > axes.lines[2].get_markersize()
    assert axes.lines[4].get_xdata()[0] == 1.5
    assert axes.lines[5].get_ydata()[0] == 50
    assert texts(axes) == ["seed 1", "seed 2", "first", "last", "here"]


def test_windows(detections):
    _, axes = plots.plot_windows(detections)
    (name,) = axes.texts  # the verdict is about the mean, a colour about one window
    assert (name.get_text(), name.get_color()) == ("call.wav: spoof", plots.SPOOF)
    windows = axes.collections[0]
    assert [tuple(s[:, 0]) for s in windows.get_segments()] == [(0.0, 4.0), (4.0, 8.0)]
    colours = [to_hex(colour).upper() for colour in windows.get_colors()]
    assert colours == [plots.BONAFIDE, plots.SPOOF]
    with pytest.raises(ConfigError, match="nothing to draw"):
        plots.plot_windows({**detections, "files": []})


@pytest.mark.parametrize("n", [0, 6])
@pytest.mark.parametrize(
    "draw",
    [
        plots.plot_det,
        plots.plot_samples,
        lambda lines: plots.plot_layers(lines, ylabel="y"),
        lambda lines: plots.plot_lines(lines, xlabel="x", ylabel="y"),
    ],
)
def test_no_name_is_left_out_of_a_figure(n, draw):
    with pytest.raises(ConfigError, match=f"{n} names"):
        draw({str(i): ([1, 2], [0, 3]) for i in range(n)})


def test_no_mark_or_row_is_left_out_of_a_figure():
    six = {str(i): float(i) for i in range(6)}
    with pytest.raises(ConfigError, match="6 names"):
        plots.plot_lines({"a": ([1, 2], [1, 2])}, xlabel="x", ylabel="y", marks=six)
    rows = [("g", name, 1, 0, 2) for name in six]
    table = pd.DataFrame(rows, columns=["group", "name", "value", "low", "high"])
    with pytest.raises(ConfigError, match="6 names"):
        plots.plot_estimates(table, xlabel="x")
    with pytest.raises(ConfigError, match="1 to 2"):
        plots.plot_estimates(table[:3], xlabel="x", colours=(plots.BONAFIDE, plots.SPOOF))


def test_a_legend_is_no_wider_than_its_figure():
    names = [f"a rather long name of system {k}" for k in range(5)]
    figure, _ = plots.plot_layers({name: [1, 2] for name in names}, ylabel="y")
    figure.savefig(io.BytesIO())
    assert figure.legends[0].get_window_extent().width < figure.bbox.width


def test_a_name_that_begins_with_an_underscore_is_in_the_legend(scores):
    """Matplotlib leaves such labels out."""
    figures = [
        plots.plot_layers({"_a": [1, 2], "b": [2, 1]}, ylabel="y"),
        plots.plot_det({"_a": scores, "b": scores}),
        plots.plot_lines({"b": ([0, 1], [1, 2])}, xlabel="x", ylabel="y", marks={"_a": 0.5}),
    ]
    for _, axes in figures:
        shown = [text.split() for text in texts(axes)]
        assert sorted(words[0] for words in shown) == ["_a", "b"]


def test_spectrograms_show_a_tone_where_it_is():
    tone = 0.5 * np.sin(2 * np.pi * 2000 / 16_000 * np.arange(48_000))
    figure, axes = plots.plot_spectrograms({"tone": tone, "again": tone})
    (image,) = axes.get_images()
    rows = image.get_array().shape[0]
    loudest = int(image.get_array().mean(axis=1).argmax())
    assert loudest / (rows - 1) * 8 == pytest.approx(2.0, abs=0.05)
    assert image.get_extent() == [0, 2.0, 0, 8.0]
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


def test_roc_and_det_show_the_same_points(scores):
    figure, roc = plots.plot_det({"a": scores}, roc=True)
    det = figure.axes[1]
    far, accepted = roc.lines[0].get_data()
    inside = (far > 0) & (far < 100) & (accepted > 0) & (accepted < 100)
    x, y = det.lines[0].get_data()
    np.testing.assert_allclose(x, ndtri(far[inside] / 100))
    np.testing.assert_allclose(y, ndtri(1 - accepted[inside] / 100), atol=1e-9)


def test_replicates_show_their_intervals():
    values = np.linspace(0.1, 0.2, 101)
    _, axes = plots.plot_replicates({"trials": values, "nothing": np.full(5, 0.15)}, 0.15)
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [10.25, 19.75])
    assert [text.get_text() for text in axes.texts] == ["10.25 to 19.75", "15.00 to 15.00"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["trials", "nothing"]


def test_draws_have_a_panel_each_and_sum_to_all():
    figure, axes = plots.plot_draws({"SNR (dB)": np.arange(40), "taps": [1, 3, 3]})
    assert [panel.get_xlabel() for panel in figure.axes] == ["SNR (dB)", "taps"]
    for panel in figure.axes:
        assert sum(bar.get_height() for bar in panel.patches) == pytest.approx(100)
    assert axes is figure.axes[0]


def test_samples_are_cut_where_asked():
    ramp = np.arange(16_000) / 16_000
    _, axes = plots.plot_samples({"a": ramp, "b": -ramp}, start_s=0.5, seconds=0.01)
    x, y = axes.lines[1].get_data()
    assert len(x) == 160
    np.testing.assert_allclose([x[0], y[0]], [500, -0.5])


def test_estimates_show_value_and_interval():
    rows = [("noise", "SSI", -2.0, -5.0, 1.0), ("phone", "SSI", 1.0, 0.0, 3.0)]
    rows += [("noise", "LnL", 4.0, 3.5, 6.0)]
    table = pd.DataFrame(rows, columns=["group", "name", "value", "low", "high"])
    figure, axes = plots.plot_estimates(table, xlabel="change (points)")
    assert [text.get_text() for text in axes.get_yticklabels()] == ["noise", "phone"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["SSI", "LnL"]
    (bars,) = axes.containers[0].lines[2]
    ends = [segment[:, 0] for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[-5, 1], [0, 3]])
    assert axes.containers[1].lines[0].get_xydata().tolist() == [[4, pytest.approx(0.2)]]
    assert axes.lines[-1].get_xdata()[0] == 0
    _, axes = plots.plot_estimates(table, xlabel="change", colours=(plots.BONAFIDE, plots.SPOOF))
    assert axes.containers[1].lines[0].get_color() == plots.SPOOF
