"""One page about training runs: every number, figure and hash is on it, and nothing runs."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from slslib.errors import ConfigError, ProtocolError, ScoreError
from slslib.evaluation import report as module
from slslib.evaluation import tables
from slslib.evaluation.evaluate import evaluate
from slslib.evaluation.report import report

N = 300
PARTS = "LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.eval.trl.txt"


@pytest.fixture
def corpora(tmp_path):
    """Two corpora without recordings: 2019 LA and, with two phases, 2021 LA."""
    labels = np.arange(N) % 3 == 0
    for folder in ("LA/ASVspoof2019_LA_eval/flac", "ASVspoof2021_LA_eval/flac"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    kinds = ["- bonafide" if y else f"A{7 + k // 2 % 2:02d} spoof" for k, y in enumerate(labels)]
    for name, line in {
        PARTS: "S{s} LA_E_{k} - {kind}\n",
        "keys/LA/CM/trial_metadata.txt": "S{s} LA_E_{k} none x {kind} notrim {phase}\n",
    }.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True)
        path.write_text("".join(
            line.format(s=k % 5, k=k, kind=kind, phase=("eval", "progress")[k % 10 == 0])
            for k, kind in enumerate(kinds)
        ))  # fmt: skip
    return tmp_path / "data"


def make_run(folder, seed=0, files=(("la", "asvspoof2019-la", "eval"),)):
    """Write what training and scoring leave in a folder."""
    folder.mkdir(parents=True)
    config = {"config": {"lr": 1e-6, "recipe": "v1"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "log.csv").write_text("epoch,train_loss,note\n0,0.7,a\n1,0.5,b\n")
    (folder / "best.json").write_text(json.dumps({"epoch": 1, "train_loss": 0.5}))
    for name, corpus, partition in files:
        values = np.random.default_rng(seed).normal(size=N) + 2 * (np.arange(N) % 3 == 0)
        text = "".join(f"LA_E_{k} {float(v)!r}\n" for k, v in enumerate(values))
        (folder / f"{name}.txt").write_text(text)
        made = {"corpus": corpus, "partition": partition, "n_over_range": 7, "n_failures": 0}
        made["scores_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        (folder / f"{name}.txt.json").write_text(json.dumps(made))
    return folder


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "runs" / "v1")


@pytest.fixture
def page(tmp_path, corpora):
    """Write a report and return its text, as it is and as one reads it."""

    def write(*runs, bootstrap=0):
        out = report(runs, out=tmp_path / "page.html", data=corpora, bootstrap=bootstrap)
        text = out.read_text()
        return text, html.unescape(text)

    return write


def test_every_number_figure_and_hash_is_there(run, page, corpora):
    other = make_run(run.parent / "v2", seed=1)
    text, read = page(run, other, bootstrap=50)
    for folder in (run, other):
        result = evaluate(folder / "la.txt", corpora / PARTS, bootstrap=50)
        assert f"WARNING {folder}" not in read
        assert f"asvspoof2019-la:eval\n{tables.evaluate(result)}" in read
        assert result["sha256"]["scores"] in read
        assert f"{folder.name}: la</h3>" in read
    assert result["sha256"]["key"] in read
    assert '"n_over_range": 7' in read
    assert re.search(r"1 +0\.5 +b", read)
    assert '"lr": 1e-06' in read
    assert '"train_loss": 0.5' in read
    pictures = re.findall(r'src="data:image/png;base64,([^"]*)"', text)
    assert len(pictures) == 5  # two learning curves, two histograms, DET
    assert all(base64.b64decode(data).startswith(b"\x89PNG") for data in pictures)


def test_a_phase_is_that_which_was_scored(tmp_path, page):
    files = [("whole", "asvspoof2021-la", "-"), ("part", "asvspoof2021-la", "progress")]
    run = make_run(tmp_path / "runs" / "v1", files=files)
    read = page(run)[1]
    assert re.search(r"asvspoof2021-la:progress\nEER .* phase progress: 10 bona fide, 20 ", read)
    assert re.search(r"asvspoof2021-la\nEER .* phase eval: 90 bona fide, 180 ", read)


def test_the_page_stands_alone_and_names_cannot_become_html(tmp_path, page):
    run = make_run(tmp_path / "runs" / "<b>|x", files=[("<i>", "asvspoof2019-la", "eval")])
    text, _ = page(run)
    assert text.count("<img") == 3
    assert text.count("src=") == text.count('src="data:image/png;base64,')
    assert "<script" not in text
    assert "<b>" not in text
    assert "<i>" not in text
    assert "&lt;b&gt;|x: &lt;i&gt;" in text


def test_six_score_files_have_two_figures_of_det_curves(tmp_path, page):
    files = [(f"la{k}", "asvspoof2019-la", "eval") for k in range(6)]
    text, _ = page(make_run(tmp_path / "runs" / "v1", files=files))
    assert text.count('alt="DET curves of') == 2


def test_scores_changed_after_they_were_written_are_said(run, page):
    assert "WARNING" not in page(run)[1]
    scores = (run / "la.txt").read_text()
    (run / "la.txt").write_text(scores.replace("LA_E_0 ", "LA_E_0 1", 1))
    assert "WARNING: la.txt was changed after it was written" in page(run)[1]


def test_failures_that_the_scoring_recorded_leave_a_partial_result(run, page):
    lines = (run / "la.txt").read_text().splitlines(keepends=True)
    (run / "la.txt").write_text("".join(lines[1:]))
    with pytest.raises(ScoreError, match="have no score"):
        page(run)
    made = json.loads((run / "la.txt.json").read_text())
    (run / "la.txt.json").write_text(json.dumps(made | {"n_failures": 1}))
    assert "1 of 300 trials have no score: coverage 99.667 %" in page(run)[1]


def test_a_run_without_epochs_or_scores_has_a_page(run, page):
    (run / "log.csv").unlink()
    (run / "best.json").unlink()
    (run / "la.txt").unlink()
    text, _ = page(run)
    assert "No epoch is finished" in text
    assert "<img" not in text


def test_bad_requests_are_refused(run, page, tmp_path):
    with pytest.raises(ConfigError, match="got nothing"):
        page()
    with pytest.raises(ConfigError, match=re.escape(str(run / "la.txt"))):
        page(run, run / "la.txt")
    with pytest.raises(ProtocolError, match="--data"):
        report((run,), out=tmp_path / "page.html", data=tmp_path)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"), ("config.json", "[]"), ("best.json", "{"), ("log.csv", ""),
        ("log.csv", "a,b\n1,2\n"), ("la.txt.json", "[]"), ("la.txt.json", "{}"),
        ("la.txt.json", '{"corpus": "asvspoof2019-la", "partition": "eval"}'),
    ],
)  # fmt: skip
def test_a_damaged_file_of_facts_is_named(run, page, name, content):
    (run / name).write_text(content)
    with pytest.raises(ConfigError, match=re.escape(str(run / name))):
        page(run)


def test_a_book_is_built_from_the_runs_and_the_corpora(run, corpora, tmp_path, monkeypatch):
    calls, code = [], 0

    def call(command, env):
        calls.append((command, env))
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(module.subprocess, "run", call)
    options = {"out": tmp_path / "book.html", "data": corpora, "book": True}
    assert report((run,), **options) == tmp_path / "book"
    ((command, environment),) = calls
    assert Path(command[1]).read_text().startswith('"""Build a book from your corpora')
    assert command[2:] == ["--out", tmp_path / "book"]
    assert environment["SLSLIB_RUNS"] == str(run.parent)
    assert environment["SLSLIB_DATA"] == str(corpora)
    code = 1
    with pytest.raises(ConfigError, match="not complete"):
        report((run,), **options)
    with pytest.raises(ConfigError, match="runs in one folder"):
        report((run, make_run(tmp_path / "elsewhere" / "v2")), **options)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "a/b/c/d/report.py"))
    with pytest.raises(ConfigError, match="slslib's repository"):
        report((run,), **options)
