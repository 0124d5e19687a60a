"""Figures show what they were given."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri

from slslib.errors import ConfigError
from slslib.evaluation import metrics, plots
from slsnotebooks import figures


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    return rng.normal(2, 1, 300), rng.normal(-1, 1.5, 900)


def texts(axes):
    """Return the legend's names, wherever it stands."""
    (legend,) = axes.figure.legends or [axes.get_legend()]
    return [text.get_text() for text in legend.get_texts()]


def test_scores_show_the_threshold_of_the_eer(scores):
    _, axes = figures.plot_scores(*scores)
    assert texts(axes) == ["spoof (900), filled: accepted", "bona fide (300), filled: rejected"]
    assert axes.lines[0].get_xdata()[0] == metrics.eer(*scores).threshold


def test_filled_areas_are_the_errors(scores):
    figure, _ = figures.plot_scores(*scores, [-0.5, 1.25])
    bonafide, spoof = scores
    assert len(figure.axes) == 2
    for panel, at in zip(figure.axes, (-0.5, 1.25), strict=True):
        far, frr = 100 * np.mean(spoof > at), 100 * np.mean(bonafide <= at)
        assert panel.get_title() == f"threshold {at:.2f}\nFAR {far:.2f} %, FRR {frr:.2f} %"
        accepted, rejected = (panel.patches[k].get_data() for k in (1, 3))
        assert accepted.values.sum() == pytest.approx(far)
        assert rejected.values.sum() == pytest.approx(frr)
        assert accepted.edges[:-1][accepted.values > 0].min() == pytest.approx(at)
        assert rejected.edges[1:][rejected.values > 0].max() <= at + 1e-9


def test_scores_that_equal_the_threshold_are_rejected():
    _, axes = figures.plot_scores([0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    rejected = axes.patches[3].get_data()
    assert rejected.values.max() == pytest.approx(100)
    assert rejected.edges[1:][rejected.values > 0].max() == pytest.approx(0)


def test_det_marks_the_eer(scores):
    _, axes = figures.plot_det({"a": scores, "b": (scores[0] + 1, scores[1])})
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


def test_a_single_point_of_a_line_can_be_seen():
    y = np.full(100, np.nan)
    y[50] = 1.0
    lines = {"one": (np.arange(100), y), "all": (np.arange(100), np.ones(100))}
    _, axes = plots.plot_lines(lines, xlabel="x", ylabel="y", yscale="log")
    one, every = axes.lines
    assert (one.get_marker(), every.get_marker()) == ("o", "")
    assert axes.get_yscale() == "log"


@pytest.mark.parametrize("dev", [False, True])
def test_learning(dev):
    log = pd.DataFrame({"epoch": [0, 1, 2], "train_loss": [0.7, 0.5, 0.4]})
    if dev:
        log = log.assign(dev_loss=[0.7, 0.6, 0.6], dev_eer_percent=[40.0, 30.0, 25.0])
    figure, axes = figures.plot_learning(log)
    assert len(texts(axes)) == (3 if dev else 1)
    assert len(figure.axes) == (2 if dev else 1)


def test_what_is_drawn_into_lines_is_in_their_legend():
    lines = {"seed 1": ([0, 1, 2], [40, 30, 35]), "seed 2": ([0, 1], [45, 20])}
    _, axes = plots.plot_lines(lines, xlabel="epoch", ylabel="EER (%)", reference=50)
    assert [list(line.get_ydata()) for line in axes.lines] == [[40, 30, 35], [45, 20], [50, 50]]
    axes.axvline(1.5, label="here")
    plots.legend(axes)
    assert texts(axes) == ["seed 1", "seed 2", "here"]


def test_lines_in_panels_share_a_legend():
    figure, panels = plots.panels(2, 9, 3)
    for axes, name in zip(panels, "ab", strict=True):
        lines = {"both": ([0, 1], [1, 2]), name: ([0, 1], [2, 1])}
        assert plots.plot_lines(lines, xlabel="x", ylabel="y", axes=axes)[1] is axes
    assert texts(axes) == ["both", "a", "b"]
    assert {panel.lines[1].get_color() for panel in figure.axes} == {plots.OTHER[1].upper()}


@pytest.mark.parametrize("n", [0, 6])
@pytest.mark.parametrize(
    "draw",
    [
        figures.plot_det,
        lambda lines: plots.plot_layers(lines, ylabel="y"),
        lambda lines: plots.plot_lines(lines, xlabel="x", ylabel="y"),
    ],
)
def test_no_name_is_left_out_of_a_figure(n, draw):
    with pytest.raises(ConfigError, match=f"{n} names"):
        draw({str(i): ([1, 2], [0, 3]) for i in range(n)})


def test_no_row_is_left_out_of_a_figure():
    rows = [("g", str(i), 1, 0, 2) for i in range(6)]
    table = pd.DataFrame(rows, columns=["group", "name", "value", "low", "high"])
    with pytest.raises(ConfigError, match="6 names"):
        figures.plot_estimates(table, xlabel="x")
    with pytest.raises(ConfigError, match="1 to 2"):
        figures.plot_estimates(table[:3], xlabel="x", colours=(plots.BONAFIDE, plots.SPOOF))


def test_a_legend_is_no_wider_than_its_figure():
    names = [f"a rather long name of system {k}" for k in range(5)]
    figure, _ = plots.plot_layers({name: [1, 2] for name in names}, ylabel="y")
    figure.savefig(io.BytesIO())
    assert figure.legends[0].get_window_extent().width < figure.bbox.width


def test_a_name_that_begins_with_an_underscore_is_in_the_legend(scores):
    """Matplotlib leaves such labels out."""
    drawn = [
        plots.plot_layers({"_a": [1, 2], "b": [2, 1]}, ylabel="y"),
        figures.plot_det({"_a": scores, "b": scores}),
    ]
    for _, axes in drawn:
        shown = [text.split() for text in texts(axes)]
        assert sorted(words[0] for words in shown) == ["_a", "b"]


def test_no_global_state(scores):
    import matplotlib.pyplot as plt

    before = dict(plt.rcParams)
    figures.plot_scores(*scores)
    assert dict(plt.rcParams) == before
    assert plt.get_fignums() == []


def test_det_shows_every_point_of_the_curve(scores):
    _, axes = figures.plot_det({"a": scores})
    curve = metrics.det_curve(*scores)
    np.testing.assert_allclose(axes.lines[0].get_data(), ndtri([curve.far, curve.frr]))


def test_estimates_show_value_and_interval():
    rows = [("noise", "SSI", -2.0, -5.0, 1.0), ("phone", "SSI", 1.0, 0.0, 3.0)]
    rows += [("noise", "LnL", 4.0, 3.5, 6.0)]
    table = pd.DataFrame(rows, columns=["group", "name", "value", "low", "high"])
    figure, axes = figures.plot_estimates(table, xlabel="change (points)")
    assert [text.get_text() for text in axes.get_yticklabels()] == ["noise", "phone"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["SSI", "LnL"]
    (bars,) = axes.containers[0].lines[2]
    ends = [segment[:, 0] for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[-5, 1], [0, 3]])
    assert axes.containers[1].lines[0].get_xydata().tolist() == [[4, pytest.approx(0.2)]]
    assert axes.lines[-1].get_xdata()[0] == 0
    _, axes = figures.plot_estimates(table, xlabel="change", colours=(plots.BONAFIDE, plots.SPOOF))
    assert axes.containers[1].lines[0].get_color() == plots.SPOOF
