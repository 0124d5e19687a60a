"""Bootstrap replicates have exactly the distribution of resampling by hand."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from slslib.errors import ConfigError, ScoreError
from slslib.evaluation import intervals, metrics

SMALL = {
    "distinct": ([0.3, 1.0], [-1.0, 0.2, 0.5]),
    "three to two": ([0.3, 1.0, -0.2], [-1.0, 0.4]),
    "tied": ([1.0, 0.0, 1.0], [0.0, 1.0, -1.0]),
    "constant": ([0.0, 0.0], [0.0, 0.0]),
    "perfect": ([2.0, 3.0], [0.0, 1.0]),
    "one each": ([0.0], [1.0]),
}


def rng(seed=0):
    return np.random.default_rng(seed)


def trials(bonafide, spoof):
    """Scores and labels of two classes."""
    return np.r_[bonafide, spoof], np.repeat([1, 0], [len(bonafide), len(spoof)])


def classes(scores, labels):
    return scores[labels == 1], scores[labels == 0]


def assert_distribution(drawn, exact):
    """Compare replicates with the value of every possible resample, to five standard errors."""
    share = {value: n / len(drawn) for value, n in Counter(np.round(drawn, 12).tolist()).items()}
    expected = Counter(round(value, 12) for value in exact)
    assert set(share) <= set(expected)
    for value, count in expected.items():
        p = count / len(exact)
        error = np.sqrt(p * (1 - p) / len(drawn))
        assert share.get(value, 0) == pytest.approx(p, abs=5 * error + 1e-12)


@pytest.mark.parametrize("name", SMALL)
def test_single_trials_against_every_possible_resample(name):
    resamples = (itertools.product(scores, repeat=len(scores)) for scores in SMALL[name])
    exact = [metrics.eer(*pair).value for pair in itertools.product(*resamples)]
    drawn = intervals.bootstrap_eer(*trials(*SMALL[name]), (), 100_000, seed=rng())
    assert_distribution(drawn, exact)


def test_single_trials_against_the_naive_loop():
    r = rng(1)
    b, s = r.normal(1, 1, 40), r.normal(-1, 1, 60)
    naive = [
        metrics.eer(r.choice(b, b.size), r.choice(s, s.size)).value for _ in range(4000)
    ]  # fmt: skip
    fast = intervals.bootstrap_eer(*trials(b, s), (), 20_000, seed=rng(2))
    assert fast.mean() == pytest.approx(np.mean(naive), abs=0.003)
    assert fast.std() == pytest.approx(np.std(naive), rel=0.05)
    for quantile in (0.025, 0.25, 0.5, 0.75, 0.975):
        assert np.quantile(fast, quantile) == pytest.approx(np.quantile(naive, quantile), abs=0.006)


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_weights_are_repetitions(data):
    n = data.draw(st.integers(2, 40))
    labels = np.array([1, 0, *data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))])
    value = data.draw(st.sampled_from([st.integers(-3, 3).map(float), st.floats(-5, 5)]))
    scores = np.array(data.draw(st.lists(value, min_size=n + 2, max_size=n + 2)))
    repeats = st.lists(st.integers(0, 4), min_size=n, max_size=n)
    weights = np.array([1, 1, *data.draw(repeats)])[:, None]
    repeated, kinds = np.repeat(scores, weights[:, 0]), np.repeat(labels, weights[:, 0])
    expected = metrics.eer(*classes(repeated, kinds)).value
    (found,) = intervals._weighted_eers(scores, labels, np.arange(n + 2), weights)
    assert found == pytest.approx(expected, abs=1e-12)


def clustered(n_speakers=6, n_attacks=4, n=500, seed=3):
    r = rng(seed)
    labels = (r.random(n) < 0.3).astype(int)
    speakers = r.integers(n_speakers, size=n)
    attacks = r.integers(n_attacks, size=n)
    scores = r.normal(size=n) + 2 * labels + 0.7 * speakers / n_speakers
    scores += np.where(labels == 0, attacks / n_attacks, 0)
    names = np.where(labels == 1, "-", np.char.add("A", attacks.astype(str)))
    return scores, labels, np.char.add("S", speakers.astype(str)), names


@pytest.mark.parametrize("factors", [["speaker"], ["attack"], ["speaker", "attack"]])
def test_clusters_against_the_naive_loop(factors):
    scores, labels, speakers, attacks = clustered()
    chosen = [{"speaker": speakers, "attack": attacks}[name] for name in factors]
    r, naive = rng(4), []
    while len(naive) < 1000:
        weight = np.ones(scores.size, int)
        for names in chosen:
            known = sorted(set(names) - {"-"})
            times = Counter(r.choice(known, len(known)).tolist())
            weight *= [1 if name == "-" else times[name] for name in names.tolist()]
        repeated, kinds = np.repeat(scores, weight), np.repeat(labels, weight)
        naive.append(metrics.eer(*classes(repeated, kinds)).value)
    fast = intervals.bootstrap_eer(scores, labels, chosen, 6000, seed=rng(5))
    assert fast.mean() == pytest.approx(np.mean(naive), abs=0.005)
    assert fast.std() == pytest.approx(np.std(naive), rel=0.1)


def test_many_trials_use_many_stretches():
    scores, labels, speakers, _ = clustered(n=20_000)
    point = metrics.eer(*classes(scores, labels)).value
    fast = intervals.bootstrap_eer(scores, labels, [speakers], 500, seed=rng())
    assert fast.mean() == pytest.approx(point, abs=0.01)
    assert np.ptp(fast) > 0


def test_clusters_that_can_lose_a_class_are_drawn_again():
    scores, labels = np.arange(6.0), np.array([0, 0, 0, 1, 1, 1])
    speakers = np.array(list("aabbbb"))  # without b there is no bona fide speech
    eers = intervals.bootstrap_eer(scores, labels, [speakers], 200, seed=rng())
    assert np.isfinite(eers).all()
    assert (eers == 0).all()


def test_pairs_share_their_trials():
    scores, labels, speakers, attacks = clustered(n=2000)
    same = intervals.bootstrap_eer(scores, labels, (), 50, seed=rng(), other=3 * scores + 1)
    assert (same == 0).all()
    worse = scores + rng(6).normal(size=scores.size)
    for by in ([], [speakers], [speakers, attacks]):
        drawn = intervals.bootstrap_eer(scores, labels, by, 400, seed=rng(), other=worse)
        assert intervals.interval(drawn)[1] < 0
        assert drawn.shape == (400,)
    alone, other = (intervals.bootstrap_eer(x, labels, seed=rng()) for x in (scores, worse))
    paired = intervals.bootstrap_eer(scores, labels, seed=rng(), other=worse)
    assert paired.std() < np.hypot(alone.std(), other.std())


PAIRS = {
    "disagreeing": ([1, 1, 0, 0, 0], [0.3, 1.0, -1.0, 0.2, 0.5], [0.1, 0.4, 0.2, -1.0, 0.3]),
    "tied": ([1, 1, 1, 0, 0], [1.0, 0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, -1.0, 0.0]),
    "one perfect": ([1, 1, 0, 0], [2.0, 3.0, 0.0, 1.0], [0.0, 1.0, 0.5, 2.0]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_against_every_possible_resample(name):
    labels, a, b = (np.array(values) for values in PAIRS[name])
    members = (np.flatnonzero(labels == k) for k in (1, 0))
    exact = []
    for resample in itertools.product(*(itertools.product(m, repeat=m.size) for m in members)):
        real, fake = map(list, resample)
        exact.append(metrics.eer(a[real], a[fake]).value - metrics.eer(b[real], b[fake]).value)
    drawn = intervals.bootstrap_eer(a, labels, (), 20_000, seed=rng(), other=b)
    assert_distribution(drawn, exact)


def test_pairs_of_many_trials_leave_most_alone_and_agree_with_the_naive_loop(monkeypatch):
    r = rng(8)
    labels = (np.arange(20_000) % 10 == 0).astype(int)
    a = r.normal(size=labels.size) + 2.5 * labels
    b = a + r.normal(size=labels.size)
    is_near = np.any([intervals._sides(x, labels) == 0 for x in (a, b)], axis=0)
    assert is_near.sum() < labels.size / 2
    naive, members = [], [np.flatnonzero(labels == k) for k in (1, 0)]
    for _ in range(400):
        x, y = (r.choice(m, m.size) for m in members)
        naive.append(metrics.eer(a[x], a[y]).value - metrics.eer(b[x], b[y]).value)
    fast = intervals.bootstrap_eer(a, labels, (), 4000, seed=r, other=b)
    assert fast.mean() == pytest.approx(np.mean(naive), abs=5 * np.std(naive) / 20)
    assert fast.std() == pytest.approx(np.std(naive), rel=0.15)
    monkeypatch.setattr(intervals, "_NEAR", np.inf)  # every trial is drawn
    whole = intervals.bootstrap_eer(a, labels, (), 4000, seed=r, other=b)
    assert ks_2samp(fast, whole).pvalue > 0.01


def test_the_seed_decides():
    x, labels = trials(*SMALL["distinct"])
    first = intervals.bootstrap_eer(x, labels, (), 50, seed=rng(1))
    assert (first == intervals.bootstrap_eer(x, labels, (), 50, seed=rng(1))).all()
    assert (first != intervals.bootstrap_eer(x, labels, (), 50, seed=rng(2))).any()


def test_intervals_cover_the_true_rate():
    # Two normal distributions two apart cross at an EER of 15.87 %.
    r, hits = rng(7), 0
    for _ in range(200):
        x, labels = trials(r.normal(1, 1, 300), r.normal(-1, 1, 300))
        low, high = intervals.interval(intervals.bootstrap_eer(x, labels, (), 300, seed=r))
        hits += low <= 0.158655 <= high
    assert 180 <= hits <= 199


def test_bad_requests_are_refused():
    x, labels = trials(*SMALL["distinct"])
    with pytest.raises(ConfigError, match="replicates"):
        intervals.bootstrap_eer(x, labels, (), 0, seed=0)
    for kinds, clusters, message in (
        ([1] * 5, [], "no spoof"),
        ([1, 1, 0, 0, -1], [list("xyxyx")], "label"),
        (labels, [["x"] * 5], "two or more"),
        (labels, [["-"] * 5], "0 clusters"),
        (labels, [list("xyz")], "5 trials"),
    ):
        with pytest.raises(ScoreError, match=message):
            intervals.bootstrap_eer(x, kinds, clusters, seed=0)
    with pytest.raises(ScoreError, match="label"):
        intervals.bootstrap_eer(x, labels, seed=0, other=x[:-1])
