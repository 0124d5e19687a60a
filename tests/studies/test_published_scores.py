"""The counts of published scores are those of the score file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from provenance import read
from published_scores import count

from slslib.data.protocols import read_protocol
from slslib.data.scorefiles import match, read_scores
from slslib.evaluation import metrics


@pytest.mark.shared
def test_the_counts_give_the_error_rates_of_the_score_file(shared: Path) -> None:
    kept = read("in_the_wild_scores")
    assert count(shared / "scores") == kept
    folder = shared / "scores" / "in_the_wild"
    key = read_protocol(folder / "key_in_the_wild.txt")
    trials = match(read_scores(folder / "sls_authors.txt"), key)
    bonafide, spoof = metrics.split(trials.score, trials.label)
    for name, scores in (("bonafide", bonafide), ("spoof", spoof)):
        thresholds = kept["first_threshold"] + kept["step"] * np.arange(len(kept[name]))
        counted = [np.sum(scores <= at) for at in thresholds.round(2)]
        assert np.cumsum(kept[name]).tolist() == counted
    assert 100 * metrics.eer(bonafide, spoof).value == kept["eer_percent"]


def test_the_eer_is_that_of_the_reproduction() -> None:
    kept = read("in_the_wild_scores")
    (row,) = (row for row in read("reproduction")["rows"] if row["name"] == "in_the_wild_authors")
    for name in ("published", "n_bonafide", "n_spoof", "eer_percent", "eer_threshold"):
        assert kept[name] == row[name]
    assert sum(kept["bonafide"]) == kept["n_bonafide"]
    assert sum(kept["spoof"]) == kept["n_spoof"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in_the_wild").mkdir()
    for name in ("sls_authors.txt", "key_in_the_wild.txt"):
        (tmp_path / "in_the_wild" / name).write_text("0.wav 1\n")
    with pytest.raises(SystemExit, match="is not the published file"):
        count(tmp_path)
