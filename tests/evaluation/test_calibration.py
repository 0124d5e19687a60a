"""Thresholds and calibration learnt on one set and used on another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slslib.errors import ConfigError, ScoreError
from slslib.evaluation import calibration, metrics


def llrs(n=6000, seed=0, share=0.1):
    """Scores that are log-likelihood ratios: normal, variance 4, means 2 and -2."""
    r = np.random.default_rng(seed)
    labels = (r.random(n) < share).astype(int)
    return np.where(labels, r.normal(2, 2, n), r.normal(-2, 2, n)), labels


def split(x, labels):
    return x[labels == 1], x[labels == 0]


@pytest.mark.parametrize(("slope", "offset"), [(1, 0), (0.25, 3), (10, -5), (1e-4, 1e3)])
def test_the_true_map_is_found_whatever_the_scale(slope, offset):
    x, labels = llrs(40_000)
    fitted = calibration.fit((x - offset) / slope, labels)
    assert fitted.slope / slope == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(fitted((x - offset) / slope), x, atol=0.5)


def test_calibration_mends_cllr_and_leaves_the_eer():
    x, labels = llrs()
    distorted = 0.2 * x - 3
    fitted = calibration.fit(distorted, labels)(distorted)
    assert metrics.cllr(*split(distorted, labels)) > 1
    assert metrics.cllr(*split(fitted, labels)) < metrics.min_cllr(*split(x, labels)) + 0.03
    assert metrics.eer(*split(fitted, labels)).value == metrics.eer(*split(x, labels)).value


def test_the_fit_minimises_cllr():
    # The objective is Cllr, up to a factor and a very small ridge.
    x, labels = llrs(800)
    fitted = calibration.fit(x, labels)
    best = metrics.cllr(*split(fitted(x), labels))
    for slope, offset in ((1.02, 0), (0.98, 0), (1, 0.05), (1, -0.05)):
        assert metrics.cllr(*split(slope * fitted(x) + offset, labels)) > best


def test_separable_and_constant_scores_give_finite_maps():
    perfect = calibration.fit([1.0, 2.0, -1.0, -2.0], [1, 1, 0, 0])
    assert 0 < perfect.slope < 1e3
    assert calibration.fit([3.0] * 6, [1, 1, 0, 0, 0, 0]).slope == 0


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_thresholds_hold_on_their_own_set(data):
    values = st.lists(st.integers(-9, 9).map(float), min_size=1, max_size=30).map(np.array)
    dev = data.draw(values), data.draw(values)
    rate = data.draw(st.floats(0, 0.99))
    for row in calibration.transfer(dev, dev, [rate]):
        assert row["frr_percent"] == pytest.approx(row["dev_frr_percent"])
        assert row["far_percent"] == pytest.approx(row["dev_far_percent"])
    threshold = row["threshold"]
    assert np.mean(dev[0] <= threshold) <= rate + 1e-9
    higher = np.concatenate(dev)[np.concatenate(dev) > threshold]
    if higher.size:  # no higher threshold would do
        assert np.mean(dev[0] <= higher.min()) > rate


def test_a_threshold_can_fail_on_another_set():
    x, labels = llrs()
    rows = calibration.transfer(split(x, labels), split(x - 3, labels))
    assert [row["rule"] for row in rows] == ["EER", "FRR 1 %", "FRR 5 %"]
    dev_percent = rows[0]["dev_frr_percent"] + rows[0]["dev_far_percent"]
    assert dev_percent / 2 == pytest.approx(100 * metrics.eer(*split(x, labels)).value)
    assert rows[0]["frr_percent"] > 3 * rows[0]["dev_frr_percent"]
    assert rows[0]["far_percent"] < rows[0]["dev_far_percent"]


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, 2.0], [1, 1], "no spoof scores"),
        ([1.0, np.nan], [1, 0], "NaN or infinite"),
        ([1.0, 2.0], [1, -1], "label"),
        ([1.0, 2.0, 3.0], [1, 0], "label"),
        (np.zeros((2, 2, 2)), [1, 0], "label"),
    ],
)
def test_bad_scores_are_refused(scores, labels, message):
    with pytest.raises(ScoreError, match=message):
        calibration.fit(scores, labels)


def test_impossible_rates_are_refused():
    x, labels = llrs(50)
    with pytest.raises(ConfigError, match="false rejection rate"):
        calibration.transfer(split(x, labels), split(x, labels), [1.0])


@pytest.mark.parametrize("fill", [-1e3, -1e6, -3.4e38])
def test_a_few_values_for_log_0_do_not_ruin_the_map(fill):
    x, labels = llrs()
    right = calibration.fit(x, labels)
    x = np.where((labels == 0) & (np.arange(x.size) % 1000 == 7), fill, x)
    found = calibration.fit(x, labels)
    assert found.slope == pytest.approx(right.slope, rel=0.1)
    assert found.offset == pytest.approx(right.offset, abs=0.1)
