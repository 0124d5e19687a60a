"""A threshold keeps its promise, and a rate has its interval."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import beta

from slsapp.guarantee import guarantee, proportion
from slslib.errors import ScoreError


def at_least(k, n, p):
    """Return the exact probability that Bin(n, p) is k or more, for a fraction p."""
    return sum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k, n + 1))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 120), st.integers(1, 60), st.integers(50, 99))
def test_the_rank_is_the_highest_that_keeps_the_promise(n, percent, confident):
    p, confidence = Fraction(percent, 100), Fraction(confident, 100)
    if at_least(1, n, p) < confidence:
        with pytest.raises(ScoreError) as refused:
            guarantee(np.zeros(n), float(p), float(confidence))
        needed = int(re.search(r"takes ([\d,]+)", str(refused.value))[1].replace(",", ""))
        assert at_least(1, needed, p) >= confidence > at_least(1, needed - 1, p)
        allowed = Fraction(re.search(r"allow ([\d.]+) %", str(refused.value))[1]) / 100
        assert at_least(1, n, allowed) >= confidence > at_least(1, n, allowed - Fraction(1, 500))
    else:
        rank, _ = guarantee(np.zeros(n), float(p), float(confidence))
        assert at_least(rank, n, p) >= confidence >= at_least(rank + 1, n, p)


@pytest.mark.parametrize(
    ("n", "percent", "rank"),
    [(299, 1, 1), (473, 1, 2), (628, 1, 3), (59, 5, 1), (93, 5, 2), (124, 5, 3)],
)
def test_known_ranks(n, percent, rank):
    """The classical numbers of non-parametric tolerance limits."""
    assert guarantee(np.arange(n), percent / 100)[0] == rank
    if rank == 1:
        with pytest.raises(ScoreError, match=f"{n - 1} .* takes {n}"):
            guarantee(np.arange(n - 1), percent / 100)
    else:
        assert guarantee(np.arange(n - 1), percent / 100)[0] == rank - 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-3, 3).map(float), min_size=59, max_size=120))
def test_the_threshold_rejects_what_lies_below_its_rank_and_nothing_else(scores):
    rank, threshold = guarantee(scores, 0.05)
    at_rank = sorted(scores)[rank - 1]
    assert [score > threshold for score in scores] == [score >= at_rank for score in scores]
    assert sum(score <= threshold for score in scores) < rank


@pytest.mark.parametrize("rate", [1e-9, 1e-200, 1e-312, 5e-324])
def test_a_rate_may_be_too_small_for_any_number_of_recordings(rate):
    with pytest.raises(ScoreError, match=r"takes (2,995,73|2.99573|inf)"):
        guarantee(np.arange(80), rate)


def test_a_constant_score_rejects_nobody():
    assert guarantee(np.ones(100), 0.05)[1] < 1


@pytest.mark.parametrize("decimals", [8, 1, 0])
def test_the_promise_holds_with_and_without_ties(decimals):
    """4,000 sets of 100; a rate of 5 % with a confidence of 80 %. The true rate is known."""
    scores = np.random.default_rng(1).normal(size=(4000, 100)).round(decimals)
    chosen = np.array([guarantee(own, 0.05, 0.8)[1] for own in scores])
    # A rounded score is above the threshold if the number was above the edge of its bin.
    true = ndtr(np.nextafter(chosen, np.inf) - 0.5 * 10.0**-decimals)
    kept = np.mean(true <= 0.05)
    want = float(at_least(guarantee(scores[0], 0.05, 0.8)[0], 100, Fraction(5, 100)))
    error = np.sqrt(want * (1 - want) / 4000)
    assert kept > want - 4 * error
    if decimals == 8:
        assert kept < want + 4 * error


def test_a_proportion_has_the_interval_of_clopper_and_pearson():
    for count, n, confidence in ((0, 20, 0.95), (3, 40, 0.9), (40, 40, 0.95), (7, 500, 0.99)):
        made = proportion(count, n, confidence)
        low, high = (end / 100 for end in made["interval_percent"])
        tail = (1 - confidence) / 2
        assert made["percent"] == pytest.approx(100 * count / n)
        assert low == pytest.approx(beta.ppf(tail, count, n - count + 1) if count else 0)
        assert high == pytest.approx(beta.ppf(1 - tail, count + 1, n - count) if count < n else 1)
