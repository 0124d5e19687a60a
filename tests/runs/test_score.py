"""Scoring: every trial or none, the same bytes however often it was interrupted."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import DETECTOR

from slslib.data.audio import fix_length, load
from slslib.data.corpora import open_corpus
from slslib.data.scorefiles import read_scores
from slslib.errors import AudioError, CheckpointError, ConfigError, ScoreError
from slslib.files import lock
from slslib.model.detector import Detector
from slslib.runs.score import ScoreConfig, score

SMALL = ScoreConfig(batch_size=2, chunk=3)


def score_eval(checkpoint, out, config=SMALL, **options):
    """Score the corpus that lies beside the score file."""
    options |= {"data": out.parent / "data", "config": config, "progress": False}
    return score(str(checkpoint), "asvspoof2019-la:eval", out, **options)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "d.safetensors"
    detector = Detector(DETECTOR, seed=5)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.mul_(2.0)
    detector.save(path)
    return path


@pytest.fixture
def corpus(corpora, tmp_path):
    """A corpus of its own, to be damaged."""
    shutil.copytree(corpora, tmp_path / "data")
    return open_corpus("asvspoof2019-la:eval", tmp_path / "data")


def test_scores_are_those_of_the_detector(checkpoint, corpus, tmp_path):
    made = score_eval(checkpoint, tmp_path / "s.txt")
    detector = Detector.load(checkpoint)
    table = read_scores(tmp_path / "s.txt")
    assert table["utterance"].tolist() == corpus.trials["utterance"].tolist()
    for utterance, value in zip(table["utterance"], table["score"], strict=True):
        samples = fix_length(load(corpus.audio_path(utterance)).samples, 4000)
        with torch.inference_mode():
            log_probs = detector(torch.from_numpy(samples)[None])[0]
        assert value == pytest.approx(float(log_probs[1] - log_probs[0]), abs=1e-4)
    assert made["n_scores"] == made["n_trials"] == 10
    assert sum(made["decoders"].values()) == 10
    assert json.loads((tmp_path / "s.txt.json").read_text()) == made
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "s.txt", "s.txt.json"]


def test_names_with_blanks_are_written_as_they_are_read(checkpoint, corpus, tmp_path):
    *others, last = corpus.trials["utterance"]
    rows = [line.split() for line in corpus.protocol.read_text().splitlines()]
    lines = [f'"{name.replace(last, "take 2, end")}",{row[-1]}' for _, name, *row in rows]
    corpus.protocol.write_text("\n".join(["file,label", *lines]))
    folder = corpus.audio_path(last).parent
    corpus.audio_path(last).rename(folder / "take 2, end.flac")
    score_eval(checkpoint, tmp_path / "s.txt")
    assert read_scores(tmp_path / "s.txt")["utterance"].tolist() == [*others, "take 2, end"]


def test_scoring_rounds_nothing_to_tf32(checkpoint, corpus, tmp_path, monkeypatch):
    """TF32, PyTorch's default in the convolutions of a GPU, would move every score."""
    seen, whole = set(), sys.modules["slslib.runs.score"].score_batch

    def spy(*args):
        flags = torch.backends.cudnn
        seen.add((flags.allow_tf32, torch.backends.cuda.matmul.allow_tf32, flags.deterministic))
        return whole(*args)

    monkeypatch.setattr("slslib.runs.score.score_batch", spy)
    score_eval(checkpoint, tmp_path / "s.txt")
    assert seen == {(False, False, True)}


@pytest.fixture
def wide(monkeypatch):
    """A device with units for bfloat16, on which no model is too small for them."""
    monkeypatch.setattr("slslib.runs.score._WIDE", 1)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})


@pytest.mark.parametrize("score", ["llr", "logp"])
def test_auto_rounds_where_that_moves_scores_by_little(checkpoint, corpus, tmp_path, wide, score):
    files = {name: tmp_path / f"{name}.txt" for name in ("exact", "bf16", "auto")}
    made = {
        name: score_eval(checkpoint, file, replace(SMALL, precision=name, score=score))
        for name, file in files.items()
    }
    assert [facts["precision"] for facts in made.values()] == ["exact", "bf16", "bf16"]
    exact, rounded = (read_scores(files[name])["score"] for name in ("exact", "bf16"))
    assert files["auto"].read_bytes() == files["bf16"].read_bytes()
    difference = (rounded - exact).abs()
    assert 0 < difference.mean() < exact.std() / 20
    tried = difference[:8]
    facts = made["auto"]
    assert facts["mean_drift"] == pytest.approx(tried.mean(), rel=0.2)  # in batches of another size
    assert facts["largest_drift"] == pytest.approx(tried.max(), rel=0.2)
    assert facts["spread"] == pytest.approx(exact[:8].std(), rel=1e-3)


def test_auto_is_exact_where_rounding_moves_scores(checkpoint, corpus, tmp_path, wide, monkeypatch):
    def spoil(backbone):
        with torch.no_grad():
            backbone.model.encoder.layers[0].attention.q_proj.weight.normal_()
            backbone.model.encoder.layers[1].feed_forward.output_dense.weight.normal_()

    score_eval(checkpoint, tmp_path / "exact.txt", replace(SMALL, precision="exact"))
    monkeypatch.setattr("slslib.model.xlsr.XLSR.to_bf16", spoil)
    made = score_eval(checkpoint, tmp_path / "s.txt")
    assert (made["precision"], made["settings"]["precision"]) == ("exact", "auto")
    assert made["mean_drift"] > made["spread"] / 20
    assert (tmp_path / "s.txt").read_bytes() == (tmp_path / "exact.txt").read_bytes()


@pytest.mark.parametrize("lacking", ["units", "width", "a second clip"])
def test_auto_is_exact_where_there_is_nothing_to_gain_or_to_compare(
    checkpoint, corpus, tmp_path, wide, monkeypatch, lacking
):
    if lacking == "units":
        monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    elif lacking == "width":
        monkeypatch.setattr("slslib.runs.score._WIDE", 17)
    else:
        monkeypatch.setattr("slslib.runs.score._N_TRIED", 1)
    made = score_eval(checkpoint, tmp_path / "s.txt")
    assert made["precision"] == "exact"
    assert "mean_drift" not in made


def test_a_resumed_run_keeps_its_precision(checkpoint, corpus, tmp_path, wide, monkeypatch):
    score_eval(checkpoint, tmp_path / "whole.txt")
    real = interrupt(monkeypatch, 4)
    with pytest.raises(RuntimeError, match="crash"):
        score_eval(checkpoint, tmp_path / "s.txt")
    monkeypatch.setattr("slslib.runs.score.score_batch", real)
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    assert score_eval(checkpoint, tmp_path / "s.txt")["precision"] == "bf16"
    assert (tmp_path / "s.txt").read_bytes() == (tmp_path / "whole.txt").read_bytes()


def test_logp_is_the_originals_score_in_the_same_order(checkpoint, corpus, tmp_path):
    llr, logp = tmp_path / "llr.txt", tmp_path / "logp.txt"
    score_eval(checkpoint, llr)
    config = ScoreConfig(batch_size=2, chunk=3, score="logp")
    score_eval(checkpoint, logp, config)
    a, b = read_scores(llr)["score"], read_scores(logp)["score"]
    assert (b < 0).all()
    assert (a.rank() == b.rank()).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_bytes(checkpoint, corpus, tmp_path, workers):
    score_eval(checkpoint, tmp_path / "0.txt")
    score_eval(checkpoint, tmp_path / "n.txt", workers=workers)
    assert (tmp_path / "0.txt").read_bytes() == (tmp_path / "n.txt").read_bytes()


FAULTS = {
    "missing": lambda p: p.unlink(),
    "empty": lambda p: p.write_bytes(b""),
    "cut": lambda p: p.write_bytes(p.read_bytes()[:-100]),
    "noise": lambda p: p.write_bytes(bytes(range(256)) * 20),
    "folder": lambda p: (p.unlink(), p.mkdir()),
    "fifo": lambda p: (p.unlink(), os.mkfifo(p)),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("index", [0, 4, 9])
def test_a_fault_is_never_scored(checkpoint, corpus, tmp_path, fault, index):
    """The whole point: no score for a recording that could not be read, wherever it stands."""
    utterance = corpus.trials["utterance"][index]
    FAULTS[fault](corpus.audio_path(utterance))
    out = tmp_path / "s.txt"
    with pytest.raises(AudioError, match=utterance):
        score_eval(checkpoint, out)
    assert not out.exists()
    parts = {p.name for p in (tmp_path / "s.txt.parts").glob("0*.json")}
    assert parts == {f"{i:06d}.json" for i in range(index // 3)}
    shutil.rmtree(tmp_path / "s.txt.parts")

    config = ScoreConfig(batch_size=2, chunk=3, on_error="record")
    made = score_eval(checkpoint, out, config)
    scored = read_scores(out)["utterance"].tolist()
    assert utterance not in scored
    assert len(scored) == made["n_scores"] == 9
    assert "1 could not be read" in made["errors"][0]
    lines = (tmp_path / "s.txt.failures.csv").read_text().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(f"{utterance},")


def test_a_fault_does_not_change_the_scores_beside_it(checkpoint, corpus, tmp_path):
    score_eval(checkpoint, tmp_path / "whole.txt")
    whole = read_scores(tmp_path / "whole.txt").set_index("utterance")["score"]
    corpus.audio_path(corpus.trials["utterance"][4]).write_bytes(b"")
    config = ScoreConfig(batch_size=2, chunk=3, on_error="record")
    score_eval(checkpoint, tmp_path / "s.txt", config)
    rest = read_scores(tmp_path / "s.txt").set_index("utterance")["score"]
    torch.testing.assert_close(
        torch.tensor(rest.to_numpy()), torch.tensor(whole[rest.index].to_numpy()), atol=1e-5, rtol=0
    )


def test_an_existing_file_is_not_overwritten(checkpoint, corpus, tmp_path):
    out = tmp_path / "s.txt"
    out.write_text("LA_E_0000000 1.0\n")
    with pytest.raises(ScoreError, match="exists and was not written by this very run"):
        score_eval(checkpoint, out)
    assert out.read_text() == "LA_E_0000000 1.0\n"


def test_a_finished_run_is_recognised(checkpoint, corpus, tmp_path):
    out = tmp_path / "s.txt"
    made = score_eval(checkpoint, out)
    before = out.stat().st_mtime_ns
    assert score_eval(checkpoint, out) == made
    assert out.stat().st_mtime_ns == before
    with out.open("a") as stream:
        stream.write("more 1.0\n")
    with pytest.raises(ScoreError, match="exists"):
        score_eval(checkpoint, out)


def interrupt(monkeypatch, after):
    """Make the scoring fail after some chunks, as a crash would."""
    from slslib.runs import score as module

    real, calls = module.score_batch, []

    def crash(*args):
        calls.append(1)
        if len(calls) > after:
            raise RuntimeError("crash")
        return real(*args)

    monkeypatch.setattr(module, "score_batch", crash)
    return real


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5])
def test_a_crash_resumes_to_the_same_bytes(checkpoint, corpus, tmp_path, monkeypatch, after):
    score_eval(checkpoint, tmp_path / "whole.txt")
    real = interrupt(monkeypatch, after)
    with pytest.raises(RuntimeError, match="crash"):
        score_eval(checkpoint, tmp_path / "s.txt")
    monkeypatch.setattr("slslib.runs.score.score_batch", real)
    score_eval(checkpoint, tmp_path / "s.txt")
    assert (tmp_path / "s.txt").read_bytes() == (tmp_path / "whole.txt").read_bytes()


def test_a_resume_with_other_settings_is_refused(checkpoint, corpus, tmp_path, monkeypatch):
    real = interrupt(monkeypatch, 2)
    with pytest.raises(RuntimeError):
        score_eval(checkpoint, tmp_path / "s.txt")
    monkeypatch.setattr("slslib.runs.score.score_batch", real)
    with pytest.raises(ConfigError, match=r'2, [+] "batch_size": 8, - "chunk": 3, [+] "chunk": 4;'):
        score_eval(checkpoint, tmp_path / "s.txt", ScoreConfig(chunk=4))
    other = tmp_path / "other.safetensors"
    Detector(DETECTOR, seed=6).save(other)
    with pytest.raises(ConfigError, match="checkpoint_sha256"):
        score_eval(other, tmp_path / "s.txt")
    for damage in ("", "[]"):
        (tmp_path / "s.txt.parts" / "fingerprint.json").write_text(damage)
        with pytest.raises(ConfigError, match=r"fingerprint\.json is missing or damaged"):
            score_eval(checkpoint, tmp_path / "s.txt")


def test_a_name_too_long_for_its_failures_is_refused_at_once(checkpoint, corpus, tmp_path):
    with pytest.raises(ConfigError, match="too long"):
        score_eval(checkpoint, tmp_path / ("s" * 245 + ".txt"))
    assert not list(tmp_path.glob("s*"))
    score_eval(checkpoint, tmp_path / ("s" * 236 + ".txt"))
    assert read_scores(tmp_path / ("s" * 236 + ".txt")).shape[0] == len(corpus)


def test_a_place_that_is_no_file_or_holds_a_corpus_is_refused(checkpoint, corpus, tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(ConfigError, match="no file"):
            score_eval(checkpoint, tmp_path / name)
    mine = tmp_path / "mine"
    shutil.copytree(corpus.audio_dirs[0], mine)
    for spec in ("mine", str(mine)):
        with pytest.raises(ConfigError, match="taken for a protocol of"):
            score(str(checkpoint), spec, mine / "scores.txt", data=tmp_path)
    made = score(str(checkpoint), "mine", tmp_path / "scores.txt", data=tmp_path, progress=False)
    assert made["n_scores"] == len(corpus)


@pytest.mark.parametrize("change", [{"score": "LLR"}, {"precision": "fp16"}, {"on_error": "x"}])
def test_words_that_are_not_known_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change.values()))):
        ScoreConfig(**change)


def test_two_writers_are_refused(checkpoint, corpus, tmp_path):
    with lock(tmp_path / "s.txt.parts"), pytest.raises(ConfigError, match="another run"):
        score_eval(checkpoint, tmp_path / "s.txt")
    score_eval(checkpoint, tmp_path / "s.txt")


def test_scores_of_other_audio_are_not_taken_for_these(checkpoint, corpus, tmp_path):
    out = tmp_path / "s.txt"
    first = score_eval(checkpoint, out)
    assert score_eval(checkpoint, out) == first
    paths = [corpus.audio_path(utterance) for utterance in corpus.trials["utterance"]]
    paths[3].write_bytes(paths[4].read_bytes())
    with pytest.raises(ScoreError, match="exists"):
        score_eval(checkpoint, out)
    out.unlink()
    assert score_eval(checkpoint, out)["scores_sha256"] != first["scores_sha256"]


def test_a_run_goes_on_when_the_recording_that_stopped_it_is_repaired(checkpoint, corpus, tmp_path):
    last = corpus.audio_path(corpus.trials["utterance"].iloc[-1])
    content = last.read_bytes()
    last.write_bytes(content[:-50])
    with pytest.raises(AudioError):
        score_eval(checkpoint, tmp_path / "s.txt")
    assert list((tmp_path / "s.txt.parts").glob("0*.json"))
    last.write_bytes(content)
    assert score_eval(checkpoint, tmp_path / "s.txt")["n_scores"] == 10


def test_a_run_that_stopped_goes_on_with_its_failures_recorded(
    checkpoint, corpus, tmp_path, monkeypatch
):
    """And back again: what was recorded as a failure stops a run that may have none."""
    damaged = corpus.audio_path(corpus.trials["utterance"][4])
    damaged.write_bytes(damaged.read_bytes()[:-50])
    recording = replace(SMALL, on_error="record")
    whole = score_eval(checkpoint, tmp_path / "whole.txt", recording)
    with pytest.raises(AudioError):
        score_eval(checkpoint, tmp_path / "s.txt")
    real = interrupt(monkeypatch, 2)
    with pytest.raises(RuntimeError, match="crash"):  # after the second part; the first is kept
        score_eval(checkpoint, tmp_path / "s.txt", recording)
    parts = sorted(path.name for path in (tmp_path / "s.txt.parts").glob("0*.json"))
    assert parts == ["000000.json", "000001.json"]
    monkeypatch.setattr("slslib.runs.score.score_batch", real)
    with pytest.raises(AudioError, match=damaged.stem):
        score_eval(checkpoint, tmp_path / "s.txt")
    interrupt(monkeypatch, 3)  # two batches of the third part, one of the fourth
    made = score_eval(checkpoint, tmp_path / "s.txt", recording)
    assert made["settings"] == whole["settings"]
    assert (made["n_failures"], made["scores_sha256"]) == (1, whole["scores_sha256"])
    assert (tmp_path / "s.txt").read_bytes() == (tmp_path / "whole.txt").read_bytes()
    with pytest.raises(ScoreError, match="exists"):
        score_eval(checkpoint, tmp_path / "s.txt")


def test_parts_of_other_audio_and_damaged_parts_are_scored_again(
    checkpoint, corpus, tmp_path, monkeypatch
):
    real = interrupt(monkeypatch, 4)
    with pytest.raises(RuntimeError):
        score_eval(checkpoint, tmp_path / "s.txt")
    first, last = (corpus.audio_path(corpus.trials["utterance"].iloc[i]) for i in (0, -1))
    first.write_bytes(last.read_bytes())  # part 0 was scored from another recording
    parts = tmp_path / "s.txt.parts"
    part = parts / "000001.json"
    scored: list[str] = []

    def spy(detector, clips, *others):
        scored.extend(clip.utterance[-1] for clip in clips)
        return real(detector, clips, *others)

    monkeypatch.setattr("slslib.runs.score.score_batch", spy)
    part.write_text(json.dumps(json.loads(part.read_text())[1:]))  # a trial is lost
    score_eval(checkpoint, tmp_path / "s.txt")
    assert "".join(scored) == "0123456789"
    score_eval(checkpoint, tmp_path / "whole.txt")
    assert (tmp_path / "s.txt").read_bytes() == (tmp_path / "whole.txt").read_bytes()


@pytest.mark.parametrize("damage", ["", "[]", "[1]", "{", '[{"utterance": "x"}]'])
def test_a_part_that_is_no_part_is_scored_again(checkpoint, corpus, tmp_path, monkeypatch, damage):
    score_eval(checkpoint, tmp_path / "whole.txt")
    real = interrupt(monkeypatch, 2)
    with pytest.raises(RuntimeError):
        score_eval(checkpoint, tmp_path / "s.txt")
    monkeypatch.setattr("slslib.runs.score.score_batch", real)
    (tmp_path / "s.txt.parts" / "000000.json").write_text(damage)
    score_eval(checkpoint, tmp_path / "s.txt")
    assert (tmp_path / "s.txt").read_bytes() == (tmp_path / "whole.txt").read_bytes()


_SCRIPT = """
import os, sys, threading, time
# Before the clock starts: a library may swallow an interrupt that comes while it is imported.
from slslib.model import detector
from slslib.runs import clips, processes
from slslib.runs import score as module
real = module.score_batch
def slow(*args):
    time.sleep(0.15)
    return real(*args)
module.score_batch = slow
if len(sys.argv) > 4:  # a clock of its own: however busy the machine is, the signal comes in time
    delay, number = float(sys.argv[4]), int(sys.argv[5])
    threading.Timer(delay, os.kill, (os.getpid(), number)).start()
module.score(sys.argv[1], "asvspoof2019-la:eval", sys.argv[3], data=sys.argv[2],
             config=module.ScoreConfig(batch_size=1, chunk=2), progress=False)
"""


@pytest.mark.slow
def test_random_kills_never_lose_or_change_a_score(checkpoint, corpus, tmp_path):
    """Kill a scoring process at random moments until it gets through; compare the bytes."""
    config = ScoreConfig(batch_size=1, chunk=2)
    score_eval(checkpoint, tmp_path / "whole.txt", config)
    out, rng, killed = tmp_path / "s.txt", random.Random(0), 0
    arguments = [sys.executable, "-c", _SCRIPT, str(checkpoint), str(tmp_path / "data"), str(out)]
    for _ in range(4):
        number = rng.choice([signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
        moment = (str(rng.uniform(0.0, 0.1)), str(int(number)))
        done = subprocess.run([*arguments, *moment], stderr=subprocess.DEVNULL, check=False)
        killed += done.returncode != 0
        assert not out.exists() or out.read_bytes() == (tmp_path / "whole.txt").read_bytes()
    subprocess.run(arguments, check=True)
    assert killed >= 2
    assert out.read_bytes() == (tmp_path / "whole.txt").read_bytes()


def test_a_full_disk_leaves_no_half_file(checkpoint, corpus, tmp_path):
    """A file-size limit stands for the full disk; afterwards the run goes on."""
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))\n"
        + _SCRIPT.replace("progress=", "workers=0, progress=")  # shared memory has files too
    )
    assert resource.RLIMIT_FSIZE is not None
    out = tmp_path / "s.txt"
    arguments = [sys.executable, "-c", code, str(checkpoint), str(tmp_path / "data"), str(out)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode != 0
    assert "File too large" in done.stderr
    assert not out.exists()
    assert not list(tmp_path.rglob("*.tmp"))
    config = ScoreConfig(batch_size=1, chunk=2)
    parts = Path(f"{out}.parts")
    if (parts / "fingerprint.json").exists() or parts.exists():
        score_eval(checkpoint, out, config)
    assert len(read_scores(out)) == 10


def test_a_network_that_gives_nan_is_reported(checkpoint, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(Detector, "logits", lambda self, x: torch.full((len(x), 2), float("nan")))
    with pytest.raises(ScoreError, match="LA_E_0000000: no finite score"):
        score_eval(checkpoint, tmp_path / "s.txt")
    assert not (tmp_path / "s.txt").exists()


def test_a_missing_checkpoint_is_named(corpus, tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.pth: no such checkpoint"):
        score_eval(tmp_path / "nothing.pth", tmp_path / "s.txt")
    assert not (tmp_path / "s.txt.parts").exists()
