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
from slslib.evaluation.page import to_html, to_markdown


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


def test_every_number_figure_and_hash_is_there(files):
    systems = [files["good"], files["bad_<b>|x"]]
    options = {"bootstrap": 50, "by": ("attack", "attack:codec"), "c012": "0.06,0.88,0.44"}
    text = to_markdown([*systems, files["run"]], key=files["key"], **options)
    for path in systems:
        result = evaluate(path, files["key"], **options)
        low, high = result["eer_interval_percent"]
        row = f"{result['eer_percent']:.4f} | {low:.3f} to {high:.3f} over trials"
        assert row in text
        assert result["sha256"]["scores"] in text
        assert f"{result['min_tdcf_2021']:.4f}" in text
        for cell in result["groups"]["attack:codec"]["A07"].values():
            assert f"{cell['eer_percent']:.4f}" in text
    against = evaluate(systems[1], files["key"], bootstrap=50, against=systems[0])["against"]
    assert f"{against['difference_percent']:+.4f}" in text
    assert "decoders.libsndfile 1.2.0 | 299" in text
    assert "n\\_over\\_range | 7" in text
    assert r"there is no bad\_\<b\>\|x.txt.json" in text
    assert "| 1 | 0.5 | b |" in text
    assert "config.lr | 1e-06" in text
    pictures = re.findall(r"\(data:image/png;base64,([^)]*)\)", text)
    assert len(pictures) == 4  # DET, two histograms, the run's learning curve
    assert all(base64.b64decode(data).startswith(b"\x89PNG") for data in pictures)


def test_the_page_stands_alone_and_names_cannot_become_html(files):
    page = to_html(to_markdown([files["good"], files["bad_<b>|x"]], key=files["key"], bootstrap=0))
    assert page.count("<img") == 3
    assert page.count("src=") == page.count('src="data:image/png;base64,')
    assert "<script" not in page
    assert "<b>" not in page
    assert "<td>bad_&lt;b&gt;|x.txt</td>" in page
    assert "<title>Evaluation report</title>" in page


def test_scores_changed_after_they_were_written_are_said(files):
    changed = files["good"].read_text().replace("LA_E_0 ", "LA_E_0 1")
    files["good"].write_text(changed)
    text = to_markdown([files["good"]], key=files["key"], bootstrap=0)
    assert "changed after it was written" in text


def test_warnings_of_the_evaluation_are_on_the_page(files):
    lines = [line.split() for line in files["good"].read_text().splitlines()]
    files["good"].write_text("".join(f"{name} {-float(value)!r}\n" for name, value in lines))
    assert "labels or sign look swapped" in to_markdown(
        [files["good"]], key=files["key"], bootstrap=0
    )


def test_a_run_alone_needs_no_key(files):
    assert to_markdown([files["run"]]).startswith("# Training report")
    (files["run"] / "log.csv").unlink()
    assert "No epoch is finished" in to_markdown([files["run"]])


def test_bad_requests_are_refused(files, tmp_path):
    with pytest.raises(ConfigError, match="nothing to report"):
        to_markdown([])
    with pytest.raises(ConfigError, match="neither a score file nor"):
        to_markdown([tmp_path / "nothing"])
    with pytest.raises(ConfigError, match="need their key"):
        to_markdown([files["good"]])
    with pytest.raises(ConfigError, match="same name"):
        to_markdown([files["good"], files["good"]], key=files["key"])
    with pytest.raises(ScoreError, match="columns"):
        to_markdown([files["key"]], key=files["key"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run/config.json", "{"), ("run/config.json", "[]"), ("run/best.json", "{"),
        ("run/log.csv", ""), ("run/log.csv", "a,b\n1,2\n"), ("good.txt.json", "[]"),
    ],
)  # fmt: skip
def test_a_damaged_file_of_facts_is_named(files, name, content):
    path = files["key"].parent / name
    path.write_text(content)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        to_markdown([files["good"], files["run"]], key=files["key"], bootstrap=0)


def test_a_long_setting_cannot_break_the_table(files):
    setting = "slslib train v1 --data a|b --out `c`"
    (files["run"] / "config.json").write_text(json.dumps({"command": setting}))
    page = to_html(to_markdown([files["run"]]))
    assert f"<td>{setting}</td>" in page


def test_systems_beyond_the_figure_are_said(files):
    systems = [files["good"]]
    for k in range(5):
        systems.append(files["good"].with_name(f"copy{k}.txt"))
        systems[-1].write_bytes(files["good"].read_bytes())
    text = to_markdown(systems, key=files["key"], bootstrap=0)
    assert "The first 5 of 6 systems." in text
    assert text.count("### Provenance") == 6
