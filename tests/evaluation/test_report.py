"""One page from score files and runs: every number, figure and hash is on it, and nothing runs."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import numpy as np
import pytest

from slslib.errors import ConfigError, ScoreError
from slslib.evaluation.evaluate import evaluate
from slslib.evaluation.report import report


@pytest.fixture
def page(tmp_path):
    """Write a report and return its text."""

    def write(*items, **options):
        return report(items, out=tmp_path / "page.html", **options).read_text()

    return write


@pytest.fixture
def files(tmp_path):
    """A 2021-form key, two systems' scores, one of them with its provenance, and a run."""
    r = np.random.default_rng(0)
    n = 300
    labels = np.arange(n) % 3 == 0
    key = tmp_path / "key.txt"
    key.write_text("".join(
        f"LA_{k % 5:04d} LA_E_{k} {('none', 'alaw')[k % 2]} x "
        f"{'bonafide bonafide' if y else f'A{7 + k // 2 % 2:02d} spoof'} notrim eval\n"
        for k, y in enumerate(labels)
    ))  # fmt: skip
    paths = {"key": key}
    for name, distance in (("good", 3), ("bad_<b>|x", 1)):
        path = tmp_path / f"{name}.txt"
        values = r.normal(size=n) + distance * labels
        path.write_text("".join(f"LA_E_{k} {float(v)!r}\n" for k, v in enumerate(values)))
        paths[name] = path
    made = {
        "scores_sha256": hashlib.sha256(paths["good"].read_bytes()).hexdigest(),
        "checkpoint_sha256": "c" * 64,
        "decoders": {"libsndfile 1.2.0": 299, "PyAV 18": 1},
        "n_over_range": 7,
    }
    (tmp_path / "good.txt.json").write_text(json.dumps(made))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"config": {"lr": 1e-6, "recipe": "v1"}}))
    (run / "log.csv").write_text("epoch,train_loss,note\n0,0.7,a\n1,0.5,b\n")
    (run / "best.json").write_text(json.dumps({"epoch": 1, "train_loss": 0.5}))
    return paths | {"run": run}


def test_every_number_figure_and_hash_is_there(files, page):
    systems = [files["good"], files["bad_<b>|x"]]
    options = {"bootstrap": 50, "by": ("attack", "attack:codec"), "c012": "0.06,0.88,0.44"}
    text = page(*systems, files["run"], key=files["key"], **options)
    for path in systems:
        result = evaluate(path, files["key"], **options)
        low, high = result["eer_interval_percent"]
        row = f"{result['eer_percent']:.4f} %  (95 % over trials: {low:.3f} to {high:.3f})"
        assert row in text
        assert result["sha256"]["scores"] in text
        assert f"{result['min_tdcf_2021']:.6f}" in text
        for cell in result["groups"]["attack:codec"]["A07"].values():
            assert f"{cell['eer_percent']:.4f}" in text
    against = evaluate(systems[1], files["key"], bootstrap=50, against=systems[0])["against"]
    assert f"difference {against['difference_percent']:+.4f} (95 %" in text
    cells = re.sub(r"\s*<[^>]*>\s*", "|", text)
    for fact, value in {"decoders.libsndfile 1.2.0": "299", "n_over_range": "7"}.items():
        assert re.search(rf"{fact}\W+{value}\|", cells)
    assert "there is no bad_&lt;b&gt;|x.txt.json" in text
    assert re.search(r"\|1\|+0\.5\|+b\|", cells)
    assert re.search(r"config\.lr\|+1e-06\|", cells)
    pictures = re.findall(r'src="data:image/png;base64,([^"]*)"', text)
    assert len(pictures) == 4  # DET, two histograms, the run's learning curve
    assert all(base64.b64decode(data).startswith(b"\x89PNG") for data in pictures)


def test_the_page_stands_alone_and_names_cannot_become_html(files, page):
    systems = [files["good"], files["bad_<b>|x"], files["good"]]  # one is given twice
    text = page(*systems, key=files["key"], bootstrap=0)
    assert text.count("<img") == 3
    assert text.count("src=") == text.count('src="data:image/png;base64,')
    assert "<script" not in text
    assert "<b>" not in text
    assert re.search(r"<td[^>]*>bad_&lt;b&gt;\|x\.txt *</td>", text)
    assert "<title>Evaluation report</title>" in text


def test_scores_changed_after_they_were_written_are_said(files, page):
    changed = files["good"].read_text().replace("LA_E_0 ", "LA_E_0 1")
    files["good"].write_text(changed)
    text = page(files["good"], key=files["key"], bootstrap=0)
    assert "changed after it was written" in text


def test_warnings_of_the_evaluation_are_on_the_page(files, page):
    lines = [line.split() for line in files["good"].read_text().splitlines()]
    files["good"].write_text("".join(f"{name} {-float(value)!r}\n" for name, value in lines))
    assert "labels or sign look swapped" in page(files["good"], key=files["key"], bootstrap=0)


def test_a_run_alone_needs_no_key(files, page):
    assert "<h1>Training report</h1>" in page(files["run"])
    (files["run"] / "log.csv").unlink()
    assert "No epoch is finished" in page(files["run"])


def test_bad_requests_are_refused(files, page, tmp_path):
    with pytest.raises(ConfigError, match="nothing to report"):
        page()
    with pytest.raises(ConfigError, match="neither a score file nor"):
        page(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="need their key"):
        page(files["good"])
    with pytest.raises(ScoreError, match="columns"):
        page(files["key"], key=files["key"])
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run/config.json", "{"), ("run/config.json", "[]"), ("run/best.json", "{"),
        ("run/log.csv", ""), ("run/log.csv", "a,b\n1,2\n"), ("good.txt.json", "[]"),
    ],
)  # fmt: skip
def test_a_damaged_file_of_facts_is_named(files, page, name, content):
    path = files["key"].parent / name
    path.write_text(content)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        page(files["good"], files["run"], key=files["key"], bootstrap=0)


def test_systems_beyond_the_figure_are_said(files, page):
    """Files of one name in several folders are told apart."""
    systems = [files["good"]]
    for k in range(5):
        systems.append(files["good"].parent / str(k) / "good.txt")
        systems[-1].parent.mkdir()
        systems[-1].write_bytes(files["good"].read_bytes())
    text = page(*systems, key=files["key"], bootstrap=0)
    assert "The first 5 of 6 systems." in text
    assert text.count("<h3>Provenance</h3>") == 6
    assert all(f"<h2>{path}</h2>" in text for path in systems)
