"""An estimate is the EER with the interval that the library draws; attacks go by several names."""

import numpy as np
import pandas as pd
import pytest

from slslib.errors import ScoreError
from slslib.evaluation import intervals, metrics
from slsnotebooks.tracks import eer_estimate, known_attacks


@pytest.mark.parametrize("by_speaker", [False, True])
def test_an_estimate_is_the_eer_with_its_interval(by_speaker):
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], 60)
    scores = rng.normal(labels, 1)
    clusters = [np.tile(list("abcdef"), 20)] if by_speaker else []
    value = metrics.eer(scores[labels == 1], scores[labels == 0]).value
    low, high = intervals.interval(intervals.bootstrap_eer(scores, labels, clusters, seed=7))
    found = eer_estimate(scores, labels, clusters, seed=7)
    assert found == {"value": 100 * value, "low": 100 * low, "high": 100 * high}
    assert found["low"] < found["value"] < found["high"]


@pytest.mark.parametrize("labels", [[1, 0], [1, 0, 2], [1, 1, 1]])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ScoreError):
        eer_estimate([0.1, 0.2, 0.3], labels)


def test_evaluation_attacks_of_a_known_algorithm_are_known():
    assert known_attacks(pd.DataFrame({"attack": ["-", "A04", "A05"]})) == {"A04", "A05", "A16"}
    assert known_attacks(pd.DataFrame({"attack": ["-", "A06"]})) == {"A06", "A19"}
