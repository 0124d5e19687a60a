"""The figures with a movable threshold; tests/test_site.py moves them in a browser."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from moving_page import SVG, Figure, said

from slslib.errors import ScoreError
from slslib.evaluation import calibration, metrics, plots
from slsnotebooks.threshold import (
    STEPS_PER_BAR,
    count_rejected,
    movable_threshold,
    movable_transfer,
)

COLOURS = (plots.BONAFIDE, plots.SPOOF)


@pytest.fixture
def classes():
    rng = np.random.default_rng(0)
    return rng.normal(2, 1, 300), rng.normal(-1, 1.5, 500)


def test_the_rates_are_exact_at_every_threshold(classes):
    bonafide, spoof = classes
    bonafide[:50] = np.round(bonafide[:50], 1)  # some are equal to a threshold
    rejected = count_rejected(bonafide, spoof)
    assert len(rejected) > 200
    for at, row in rejected.iterrows():
        assert row.bonafide == np.sum(bonafide <= at)
        assert row.spoof == np.sum(spoof <= at)
    assert rejected.iloc[0].to_list() == [0, 0]
    assert rejected.iloc[-1].to_list() == [300, 500]
    assert (len(rejected) - 1) % STEPS_PER_BAR == 0


@pytest.mark.parametrize("value", [-18.0, 0.0, 0.35, 3.0])
def test_equal_scores_are_counted_too(value):
    rejected = count_rejected([value], [value])
    assert rejected.iloc[0].sum() == 0
    assert rejected.iloc[-1].sum() == 2
    assert rejected.loc[value].sum() == 2


def test_scores_that_are_none_are_refused():
    with pytest.raises(ScoreError):
        count_rejected([np.nan], [0.0])


def test_the_picture_says_what_metrics_say(classes):
    eer = metrics.eer(*classes)
    rejected = count_rejected(*classes)
    figure = Figure(movable_threshold(rejected, eer, name="x", alt="Two classes"))
    assert abs(rejected.index[figure.start[0]] - eer.threshold) <= 0.025 + 1e-9
    for k, at in enumerate(rejected.index):
        wrong = {"FRR": np.sum(classes[0] <= at), "FAR": np.sum(classes[1] > at)}
        frr, far = (
            f"{name} {100 * wrong[name] / n:.2f} %: {wrong[name]} of {n}"
            for name, n in (("FRR", 300), ("FAR", 500))
        )
        words = [f"{frr} bona fide rejected", f"{far} spoofs accepted"]
        assert said(figure.at(k)) == [f"Threshold {at:.2f}", *words]
    texts = " ".join("".join(e.itertext()) for e in figure.at(0).iter(f"{SVG}text"))
    assert f"EER {100 * eer.value:.2f} %" in texts
    assert "trials of the class (%)" in texts
    assert "score (higher: more bona fide)" in texts


def test_the_outlines_are_those_of_histograms(classes):
    rejected = count_rejected(*classes)
    figure = Figure(movable_threshold(rejected, metrics.eer(*classes), name="x", alt="y"))
    root = figure.at(0)
    ends = rejected.index[::STEPS_PER_BAR]
    tops = []
    for scores, colour in zip(classes, (plots.BONAFIDE, plots.SPOOF), strict=True):
        (outline,) = (p for p in root.iter(f"{SVG}path") if p.get("stroke") == colour)
        drawn = np.array(re.findall(r"L([\d.]+) ([\d.]+)", outline.get("d"))[:-1], float)
        edges = np.interp(ends, ends[[0, -1]], (46, 460))
        np.testing.assert_allclose(drawn[:, 0], np.repeat(edges, 2)[1:-1], atol=0.06)
        drawn = drawn[1::2, ::-1]
        share = np.histogram(-scores, -ends[::-1])[0][::-1] / scores.size  # bins (a, b]
        tops.append((232 - drawn[:, 0]) / share.clip(1e-9) * (share > 0.02))
    scale = np.concatenate([top[top > 0] for top in tops])
    np.testing.assert_allclose(scale, scale.mean(), rtol=0.05)  # one scale for both classes


@pytest.fixture
def scores():
    """Draw those of two detectors on three tracks, which shift them."""
    rng = np.random.default_rng(1)
    return {
        detector: {
            track: (pd.Series(rng.normal(2 + shift, 1, 40)), rng.normal(-1 + shift, 1.5, 60 + n))
            for n, (track, shift) in enumerate({"dev": 0, "R&D": way, "LA": 2 * way}.items())
        }
        for detector, way in (("mini", 0.5), ("LFCC", -20.0))
    }


def test_a_threshold_moves_to_every_track(scores):
    figure = Figure(movable_transfer(scores, frr=[0.05, 0.2], alt="x"))
    assert figure.start == ["mini", "dev", "EER"]
    rules = ["EER", "FRR 5 %", "FRR 20 %"]
    assert [options for _, options in figure.fields] == [list(scores), ["dev", "R&D", "LA"], rules]
    for detector, source, rule in figure.settings:
        own, (threshold, *rows) = scores[detector], said(figure.at(detector, source, rule))
        for row, (track, (bonafide, spoof)) in zip(rows, own.items(), strict=True):
            moved = calibration.transfer(own[source], (bonafide, spoof), [0.05, 0.2])
            (of,) = (each for each in moved if each["rule"] == rule)
            at = of["threshold"]
            assert threshold == f"Threshold {at:.2f}"
            frr, far = 100 * np.mean(bonafide <= at), 100 * np.mean(spoof > at)
            here = "(chosen here)" if track == source else ""
            assert row == f"{track}: FRR {frr:.1f} %, FAR {far:.1f} % {here}"
            if track == source and rule == "EER":
                assert abs(frr - far) <= 100 / 40


def test_line_and_marks_stand_at_threshold_and_rates(scores):
    figure = Figure(movable_transfer(scores, alt="x"))
    for detector, source, rule in figure.settings:
        root = figure.at(detector, source, rule)
        at = float(said(root)[0].split()[1])
        every = np.hstack([np.hstack(pair) for pair in scores[detector].values()])
        x = np.interp(at, (every.min(), every.max()), (46, 460))
        close = 0.06 + 0.005 * 414 / np.ptp(every)  # both numbers are rounded
        marks = [e for e in root.iter() if e.get("class") == "sls-glide"]
        moves = [[float(at) for at in e.get("transform")[10:-1].split()] for e in marks]
        assert [move[0] for move in moves] == pytest.approx([x] * 9, abs=close)
        # In each row the line, then a mark at the FRR and one at the FAR: 48 units are 100 %.
        rates = [float(rate) for row in said(root)[1:] for rate in re.findall(r"([\d.]+) %", row)]
        heights = [move[1] for move in moves if len(move) == 2]
        assert heights == pytest.approx([68 - 0.48 * rate for rate in rates], abs=0.08)
        curves = [e for e in root.iter(f"{SVG}path") if e.get("stroke") in COLOURS]
        assert len(curves) == 6
        for curve, height in zip(curves, heights, strict=True):
            points = np.array(re.findall(r"([\d.]+) ([\d.]+)", curve.get("d")), float)
            near = points[np.argsort(np.abs(points[:, 0] - x))[:4], 1]
            assert near.min() - 1 <= height <= near.max() + 1
