"""Metrics against goldens computed the slow way, and as properties."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from slslib.errors import ScoreError
from slslib.evaluation import metrics

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "metrics_golden.json").read_text())

finite = st.floats(-1e6, 1e6, allow_subnormal=False)
arrays = st.lists(finite, min_size=1, max_size=30).map(np.array)
tied = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=30).map(np.array)
either = arrays | tied


@pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])
def test_golden(case):
    b, s, asv = case["bonafide"], case["spoof"], case["asv"]
    close = {"rel": 1e-12, "abs": 1e-12}
    curve = metrics.det_curve(b, s)
    for rule, points in (("official", curve), ("tie_aware", curve.tie_aware())):
        result = points.eer()
        assert [result.value, result.threshold] == pytest.approx(case[f"eer_{rule}"], **close)
    _, *rates = metrics.asv_rates(*asv)
    weights = metrics.tdcf_weights(*rates)
    assert list(weights) == pytest.approx(case["weights"], **close)
    for name, first in (("min_tdcf_2019", 0), ("min_tdcf_2021", weights[0])):
        cost = curve.min_cost((first, *weights[1:]))
        assert cost == pytest.approx(case[name], **close)
    for name in ("min_dcf", "act_dcf", "cllr", "min_cllr"):
        assert getattr(metrics, name)(b, s) == pytest.approx(case[name], **close)


def tie_aware_eer(b, s):
    return metrics.det_curve(b, s).tie_aware().eer()


def test_known_cases():
    for eer, constant in ((metrics.eer, 1.0), (tie_aware_eer, 0.5)):
        assert eer([1, 2], [-1, 0]).value == 0
        assert eer([-1, 0], [1, 2]).value == 1
        assert eer([7] * 5, [7] * 9).value == constant
    assert metrics.cllr([0.0, 0.0], [0.0]) == 1
    assert metrics.min_cllr([1, 2], [-1, 0]) == 0
    assert metrics.min_cllr([3] * 4, [3] * 5) == pytest.approx(1)
    assert metrics.cllr([1e308], [-1e308]) == 0


def test_the_threshold_separates_what_it_says():
    result = metrics.eer([1.0, 2.0, 3.0, 4.0], [0.0, 0.5, 1.5, -1.0])
    assert result.threshold == 1.0
    assert np.mean(np.array([1.0, 2.0, 3.0, 4.0]) <= result.threshold) == 0.25
    assert np.mean(np.array([0.0, 0.5, 1.5, -1.0]) > result.threshold) == 0.25


@settings(deadline=None, max_examples=50)
@given(arrays, arrays)
def test_rates_at_the_threshold_are_those_of_the_curve(b, s):
    assume(np.unique(np.r_[b, s]).size == b.size + s.size)
    for eer in (metrics.eer, tie_aware_eer):
        result = eer(b, s)
        rates = np.mean(b <= result.threshold), np.mean(s > result.threshold)
        assert np.mean(rates) == pytest.approx(result.value)


@settings(deadline=None, max_examples=50)
@given(either, either, st.randoms())
def test_permutation_and_monotone_maps_change_nothing(b, s, random):
    shuffled = sorted(b, key=lambda _: random.random()), sorted(s, key=lambda _: random.random())
    _, ranks = np.unique(np.r_[b, s], return_inverse=True)
    mapped = np.exp(ranks[: b.size] / 10), np.exp(ranks[b.size :] / 10)
    for compute in (
        lambda b, s: metrics.eer(b, s).value,
        lambda b, s: tie_aware_eer(b, s).value,
        metrics.min_dcf,
        metrics.min_cllr,
        lambda b, s: metrics.det_curve(b, s).min_cost((0.07, 0.87, 0.35)),
    ):
        assert compute(*shuffled) == compute(b, s)
        assert compute(*mapped) == compute(b, s)


@settings(deadline=None, max_examples=50)
@given(either, either)
def test_curves_run_from_accepting_to_rejecting_all(b, s):
    curve = metrics.det_curve(b, s)
    for frr, far, thresholds in (curve, curve.tie_aware()):
        assert (frr[0], far[0], frr[-1], far[-1]) == (0, 1, 1, 0)
        assert (np.diff(frr) >= 0).all()
        assert (np.diff(far) <= 0).all()
        assert (np.diff(thresholds) >= 0).all()
    assert len(thresholds) == np.unique(np.r_[b, s]).size + 1


@settings(deadline=None, max_examples=50)
@given(arrays, arrays)
def test_the_rules_agree_without_ties_and_negation_complements(b, s):
    assume(np.unique(np.r_[b, s]).size == b.size + s.size)
    official = metrics.eer(b, s).value
    assert official == tie_aware_eer(b, s).value
    # Of two points equally near, the first is taken: from the other side it is the other one.
    slack = 1 / b.size + 1 / s.size
    assert metrics.eer(-b, -s).value == pytest.approx(1 - official, abs=slack)


@settings(deadline=None, max_examples=50)
@given(
    either,
    either,
    st.tuples(st.floats(0, 1), st.floats(1e-3, 1), st.floats(1e-3, 1)),
)
def test_the_forms_of_the_tdcf_are_one_number(b, s, weights):
    c0, c1, c2 = weights
    m = min(c1, c2)
    curve = metrics.det_curve(b, s)
    of_2019 = curve.min_cost((0, c1, c2))
    assert 0 <= of_2019 <= 1 + 1e-12
    expected = (c0 + m * of_2019) / (c0 + m)
    assert curve.min_cost(weights) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(either, either)
def test_best_costs_are_bounds(b, s):
    assert 0 <= metrics.min_dcf(b, s) <= metrics.act_dcf(b, s) + 1e-12 or np.intersect1d(b, s).size
    assert metrics.min_dcf(b, s) <= 1 + 1e-12
    assert -1e-12 <= metrics.min_cllr(b, s) <= min(1, metrics.cllr(b, s)) + 1e-9


def test_replacing_hard_trials_by_easy_duplicates_lowers_the_eer():
    # Why duplicates are refused: the metric itself cannot see them.
    rng = np.random.default_rng(0)
    b, s = rng.normal(1, 1, 500), rng.normal(-1.5, 1, 5000)
    hard = np.argsort(b)[:60]
    doctored = b.copy()
    doctored[hard] = b.max()
    assert metrics.eer(doctored, s).value < metrics.eer(b, s).value * 2 / 3


def test_reduced_precision_ruins_a_saturated_score():
    # Probabilities of confident trials are all 1 in half precision; their logarithms all tie.
    rng = np.random.default_rng(1)
    llrs = rng.normal(12, 3, 4000), rng.normal(6, 3, 4000)
    coarse = [np.log((1 / (1 + np.exp(-x))).astype(np.float16)) for x in llrs]
    assert metrics.eer(*llrs).value == pytest.approx(0.158, abs=0.01)
    assert metrics.eer(*coarse).value > 0.2
    assert tie_aware_eer(*coarse).value < 0.2


@pytest.mark.parametrize(
    ("b", "s", "message"),
    [
        ([], [1.0], "no bona fide scores"),
        ([1.0], [], "no spoof scores"),
        ([1.0, math.nan], [1.0], "2 bona fide scores .* 1 of them NaN"),
        ([1.0], [math.inf, 1.0], "2 spoof scores .* 1 of them NaN or infinite"),
        ([[1.0]], [1.0], "shape"),
    ],
)
def test_bad_scores_are_refused_everywhere(b, s, message):
    for compute in (
        metrics.eer,
        metrics.det_curve,
        metrics.min_dcf,
        metrics.act_dcf,
        metrics.cllr,
        metrics.min_cllr,
    ):
        with pytest.raises(ScoreError, match=message):
            compute(b, s)


def test_bad_options_are_refused():
    for options in ({"p_spoof": 0}, {"p_spoof": 1}, {"p_spoof": 2}, {"c_miss": -1}, {"c_fa": 0}):
        for cost in (metrics.min_dcf, metrics.act_dcf):
            with pytest.raises(ScoreError, match="weights"):
                cost([1], [0], metrics.dcf_weights(**options))
    curve = metrics.det_curve([1], [0])
    for weights in [(-0.1, 1, 1), (0, 0, 1), (0, 1, math.nan), (0, 0.5, 0)]:
        with pytest.raises(ScoreError, match="weights"):
            curve.min_cost(weights)
    assert curve.min_cost((0.1, 0.5, 0)) == 1
    with pytest.raises(ScoreError, match="no nontarget scores"):
        metrics.asv_rates([1.0], [], [1.0])


@pytest.mark.parametrize("labels", [[1, 0], [1, 0, 2], [1, 1, 1], [[1, 0, 0]]])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ScoreError):
        metrics.split([0.1, 0.2, 0.3], labels)


@settings(deadline=None, max_examples=50)
@given(either, either)
def test_one_curve_gives_every_rate_and_cost(b, s):
    curve = metrics.det_curve(b, s)
    assert curve.eer() == metrics.eer(b, s)
    assert curve.min_cost(metrics.dcf_weights()) == metrics.min_dcf(b, s)


@given(either, either, st.floats(0, 0.2), st.floats(0.01, 1), st.floats(0.01, 1))
def test_the_actual_cost_is_at_least_the_least(b, s, c0, miss, fa):
    assert metrics.act_dcf(b, s, (c0, miss, fa)) >= metrics.min_dcf(b, s, (c0, miss, fa)) - 1e-9
