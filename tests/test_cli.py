"""The command line, as its users type it: one whole run from audio to EER, and its errors."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import FLAGS
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from slslib.cli import COMMANDS, main
from slslib.data.protocols import read_protocol
from slslib.data.scorefiles import read_scores
from slslib.evaluation import metrics
from slslib.runs.recipes import TrainConfig

LA = "LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm"


@pytest.fixture
def slslib(monkeypatch, capsys):
    """Run a command in this process; return its exit status and what it printed."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["slslib", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


def test_from_audio_to_eer(slslib, corpora, tmp_path):
    """Verify, train 4 steps, resume to 6, score, evaluate, detect: the whole chain."""
    data = ("--data", corpora)
    for part in ("train", "dev", "eval"):
        status, out, _ = slslib("verify", f"asvspoof2019-la:{part}", *data, "--json")
        assert (status, json.loads(out)["missing"]) == (0, [])

    run = tmp_path / "run"
    train = ("train", "v1", *data, "--out", run, *FLAGS, "--max-epochs", 2, "--patience", 5)
    train += ("--dev", "asvspoof2019-la:dev", "--monitor", "dev_eer_percent")
    status, out, err = slslib(*train, "--max-steps", 4)
    assert (status, Path(out.strip())) == (0, run / "state.pt")
    assert "go on with --resume" in err
    assert not (run / "log.csv").exists() or len((run / "log.csv").read_text().splitlines()) == 2
    status, out, _ = slslib(*train, "--resume")
    assert status == 0
    best = Path(out.strip())
    assert best.parent == run
    rows = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert all(np.isfinite(float(row["train_loss"])) for row in rows)

    scores = run / "scores.txt"
    corpus = ("--corpus", "asvspoof2019-la:eval", *data)
    status, out, _ = slslib("score", "--checkpoint", run, *corpus, "--out", scores)
    assert status == 0
    assert re.search(r"^n scores +10$", out, re.M)

    key = corpora / f"{LA}.eval.trl.txt"
    status, out, _ = slslib("evaluate", "--scores", scores, "--key", key, "--json")
    result = json.loads(out)
    table = read_scores(scores).merge(read_protocol(key), on="utterance")
    want = metrics.eer(
        table.score[table.label == 1].to_numpy(), table.score[table.label == 0].to_numpy()
    )
    assert status == 0
    assert (result["n_bonafide"], result["n_spoof"]) == (5, 5)
    assert result["eer_percent"] == pytest.approx(100 * want.value, abs=1e-12)
    assert result["eer_rule"] == "official"

    status, out, _ = slslib("evaluate", "--scores", scores, "--key", key, "--bootstrap", 100)
    assert status == 0
    first, *assumed = out.splitlines()[:3]
    assert first.startswith(f"EER {100 * want.value:.4f} %, phase all: 5 bona fide, 5 spoof;")
    assert first.endswith("higher scores mean bona fide")
    assert all(line.startswith("Assumed: ") for line in assumed)
    assert f"{100 * want.value:.2f}"[:4] in out

    audio = corpora / "LA/ASVspoof2019_LA_eval/flac/LA_E_0000001.flac"
    picture = tmp_path / "windows.png"
    status, out, _ = slslib("detect", audio, "--checkpoint", run, "--json", "--plot", picture)
    result = json.loads(out)
    own = read_scores(scores).set_index("utterance").score["LA_E_0000001"]
    assert status == 0
    assert result["files"][0]["windows"][0]["llr"] == pytest.approx(own, abs=1e-4)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "given",
    [
        ("--train", "own:train", "--train", "asvspoof2019-la:train"),
        ("--train", "own:train", "--lr", "1e-3", "--train=asvspoof2019-la:train"),
        ("--train", "own:train", "asvspoof2019-la:train"),
    ],
)
def test_train_takes_several_corpora(slslib, monkeypatch, tmp_path, given):
    def train(config: TrainConfig, out: Path) -> dict[str, str]:
        return {"train": config.train, "out": str(out), "lr": config.lr}

    monkeypatch.setattr("slslib.runs.train.train", train)
    status, out, err = slslib("train", "v1", *given, "--out", tmp_path, "--json")
    assert status == 0, err
    told = json.loads(out)
    assert told["train"] == ["own:train", "asvspoof2019-la:train"]
    assert told["out"] == str(tmp_path)
    assert told["lr"] == (1e-3 if "--lr" in given else 1e-6)


def test_convert(slslib, tmp_path):
    import torch
    from tiny import DETECTOR

    from slslib.model.detector import Detector

    before = Detector(DETECTOR, seed=0).eval()
    before.save(tmp_path / "a.safetensors", {"epoch": 2})
    status, _, _ = slslib("convert", tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    after = Detector.load(tmp_path / "b.safetensors")
    assert (status, after.metadata) == (0, {"epoch": 2})
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name])


def test_minispoof(slslib, tmp_path):
    status, out, _ = slslib("minispoof", "--help")
    assert status == 0
    assert "simulat" in out.lower()


def test_protocol(slslib, tmp_path):
    for name in ("real/a 1.wav", "fake/b.flac", "fake/c.amr", "other.mp3", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    out = tmp_path / "protocol.csv"
    patterns = ("--bonafide", "real/*", "--spoof", "fake/*", "--out", out)
    status, text, _ = slslib("protocol", tmp_path, *patterns)
    assert status == 0
    assert ["unmatched", "other.mp3"] in [line.split() for line in text.splitlines()]
    assert ["unreadable", "fake/c.amr"] in [line.split() for line in text.splitlines()]
    result = json.loads(slslib("protocol", tmp_path, *patterns, "--json")[1])
    assert (result["n_bonafide"], result["n_spoof"]) == (1, 1)
    assert read_protocol(out)["utterance"].tolist() == ["real/a 1.wav", "fake/b.flac"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(slslib, command):
    status, out, _ = slslib(command, "--help")
    assert status == 0
    assert f"Example: slslib {command}" in " ".join(out.replace("│", " ").split())


def test_help_fills_its_lines(slslib, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = slslib("detect", "--help")
    assert "faster on units for bfloat16 and changes" in re.sub(r"[\s│]+", " ", out)
    lines = [line.strip("│ ") for line in out.splitlines() if line.startswith("│      ")]
    short = [line for line in lines if len(line) < 45 and not line.endswith((".", ")", "]"))]
    assert not short


@pytest.mark.parametrize("recipe", ["v1", "v2", "paper", "mini"])
def test_help_of_a_recipe_shows_its_values(slslib, recipe):
    status, out, _ = slslib("train", recipe, "--help")
    assert status == 0
    assert "--batch-size INT" in out
    assert ("(default: 10)" if recipe == "v2" else "(default:") in out


def test_overview(slslib):
    status, out, _ = slslib("--help")
    assert status == 0
    assert all(command in out for command in COMMANDS)
    assert "Exit status: 0" in out
    assert slslib()[0] == 2
    for words in (["fly"], ["train"], ["train", "--out", "x"], ["verify"]):
        assert slslib(*words)[0] == 2
    assert "slslib train v1 --out" in " ".join(slslib("train")[2].split())
    assert slslib("--version")[1].startswith("slslib 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "no command 'fly'; the commands are verify,"),
        (["train", "v9", "--out", "x"], "no recipe 'v9'; the recipes are v1, v2, paper, mini"),
        (["verify", "nowhere", "--data", "."], "nowhere"),
        (["evaluate", "--scores", "no.txt", "--key", "no.txt"], "no.txt"),
        (["evaluate", "--scores", "a", "--key", "b", "--c012", "1,2"], "no such file"),
        (["score", "--checkpoint", "no", "--corpus", "nowhere", "--out", "o"], "nowhere"),
        (["detect", "a.wav", "--checkpoint", "no.pth"], "no.pth: no such checkpoint file"),
        (
            ["train", "mini", "--out", "r", "--init", "a", "--backbone=b"],
            "brings its own",
        ),
        (
            ["train", "mini", "--out", "r", "--init", "a", "--n_layers", "3", "--conv-width=8"],
            "brings its own",
        ),
        (
            ["train", "mini", "--out", "r", "--width", "32"],
            "brings its own",
        ),
        (["train", "mini", "--out", "r", "--rawboost", "9"], "no RawBoost algorithm 9"),
        (["train", "mini", "--out", "r", "--rawboost", "ssi", "--lr", "-1"], "lr is -1.0"),
    ],
)
def test_errors_are_one_paragraph(slslib, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = slslib(*arguments)
    assert status != 0
    assert out == ""
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert max(map(len, err.splitlines())) <= 160
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "slslib", "verify", "nowhere", "--debug"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_recorded_failures_leave_a_nonzero_status(slslib, corpora, tmp_path):
    import shutil

    import torch
    from tiny import DETECTOR

    from slslib.model.detector import Detector

    torch.manual_seed(0)
    Detector(DETECTOR).save(tmp_path / "d.safetensors")
    shutil.copytree(corpora, tmp_path / "data")
    (tmp_path / "data/LA/ASVspoof2019_LA_eval/flac/LA_E_0000003.flac").write_bytes(b"")
    arguments = ["score", "--checkpoint", tmp_path / "d.safetensors", "--corpus"]
    arguments += ["asvspoof2019-la:eval", "--data", tmp_path / "data", "--out", tmp_path / "s.txt"]
    status, out, err = slslib(*arguments, "--on-error", "record")
    assert status == 1
    assert re.search(r"^n scores +9$", out, re.M)
    assert "of 10 recordings, 1 could not be read" in " ".join(err.split())
    key = tmp_path / f"data/{LA}.eval.trl.txt"
    evaluate = ("evaluate", "--scores", tmp_path / "s.txt", "--key", key)
    status, _, err = slslib(*evaluate)
    assert status == 1
    assert "LA_E_0000003" in err
    status, out, err = slslib(*evaluate, "--allow-missing", "--json")
    assert status == 0
    assert json.loads(out)["n_missing"] == 1


@pytest.mark.slow
def test_two_processes_share_a_scoring_run(slslib, corpora, tmp_path):
    """Two processes write the bytes that one process writes."""
    from tiny import DETECTOR

    from slslib.model.detector import Detector

    Detector(DETECTOR, seed=0).save(tmp_path / "d.safetensors")
    command = ["score", "--checkpoint", "d.safetensors", "--corpus", "asvspoof2019-la:eval"]
    command += ["--data", str(corpora), "--cpu", "--batch-size", "2", "--chunk", "3"]
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    launch += ["-m", "slslib"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    for name, start in (("one.txt", [sys.executable, "-m", "slslib"]), ("two.txt", launch)):
        done = subprocess.run(
            [*start, *command, "--out", name],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert len(re.findall(r"^n scores +10$", done.stdout, re.M)) == 1
    assert (tmp_path / "one.txt").read_bytes() == (tmp_path / "two.txt").read_bytes()
    assert json.loads((tmp_path / "two.txt.json").read_text())["processes"] == 2


@pytest.mark.shared
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("in_the_wild/sls_authors.txt in_the_wild/key_in_the_wild.txt", {"eer": 7.464131511}),
        ("in_the_wild/sls_repro_v1.txt in_the_wild/key_in_the_wild.txt", {"eer": 7.835662614}),
        ("in_the_wild/sls_repro_v2.txt in_the_wild/key_in_the_wild.txt", {"eer": 12.668849313}),
        (
            "la2019/rawgat_st_mul.txt la2019/key_cm_eval.txt la2019/asv_eval_scores.txt",
            {"eer": 1.060135, "2019": 0.033539, "2021": 0.094168, "asv": 2.457784},
        ),
        (
            "la2021/baseline_LFCC-GMM.txt la2021/key_cm_progress.txt",
            {"eer": 21.126859, "2021": 0.583554},
        ),
    ],
)
def test_published_scores_give_the_published_numbers(slslib, shared, arguments, expected):
    scores, key, *asv = [shared / "scores" / name for name in arguments.split()]
    options: list[object] = ["--asv-scores", asv[0]] if asv else []
    if "LFCC" in arguments:
        rows = csv.DictReader((shared / "scores/la2021/c012_official.csv").read_text().splitlines())
        pooled = ("prog", "Pooled", "Pooled")
        (row,) = [r for r in rows if (r["subset"], r["attack"], r["codec"]) == pooled]
        options = ["--phase", "progress", "--c012", f"{row['C0']},{row['C1']},{row['C2']}"]
    status, out, _ = slslib("evaluate", "--scores", scores, "--key", key, "--json", *options)
    result = json.loads(out)
    assert status == 0
    assert result["eer_percent"] == pytest.approx(expected["eer"], abs=1e-6)
    names = {"2019": "min_tdcf_2019", "2021": "min_tdcf_2021", "asv": "asv_eer_percent"}
    for short, value in expected.items():
        if short != "eer":
            assert result[names[short]] == pytest.approx(value, abs=1e-6)


def test_a_name_in_an_error_does_not_command_the_terminal(slslib, tmp_path):
    _, _, said = slslib("detect", tmp_path / "a\x1b[2Jb.wav", "--checkpoint", "mini")
    assert "\x1b" not in said
    assert r"a\x1b[2Jb.wav" in said


def test_a_warning_is_a_sentence_without_the_code_that_gave_it(tmp_path):
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        conv_dim=(8,) * 7,
        num_conv_pos_embedding_groups=2,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
        conv_bias=True,
    )
    Wav2Vec2ForCTC(config).save_pretrained(tmp_path / "ctc")
    command = [sys.executable, "-m", "slslib", "convert", "ctc", "x.safetensors"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == "warning: ctc/model.safetensors: lm_head is not used\n"
