"""Detection of single recordings: the scores of the windows, and errors that stay local."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from tiny import DETECTOR

from slslib.data.audio import load
from slslib.errors import AudioError, CheckpointError, ConfigError
from slslib.model.detector import Detector
from slslib.runs import processes
from slslib.runs.detect import detect


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "d.safetensors"
    detector = Detector(DETECTOR, seed=5)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.mul_(2.0)
    detector.save(path, {"dev_eer_threshold": 1.25})
    return path


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "in" / "call.wav"
    path.parent.mkdir()
    x = 0.1 * np.random.default_rng(0).standard_normal(10_000)
    sf.write(path, x, 16_000, subtype="PCM_16")
    return path


def test_windows_cover_the_recording(checkpoint, recording):
    result = detect((recording,), checkpoint=checkpoint)
    (one,) = result["files"]
    assert [w["start_s"] for w in one["windows"]] == [0.0, 0.25, 0.375]
    samples = load(recording).samples
    pieces = torch.from_numpy(np.stack([samples[s : s + 4000] for s in (0, 4000, 6000)]))
    with torch.inference_mode():
        want = Detector.load(checkpoint).llr(pieces).tolist()
    assert [w["llr"] for w in one["windows"]] == pytest.approx(want, abs=1e-4)
    assert one["llr"] == pytest.approx(np.mean(want), abs=1e-4)
    assert result["window_s"] == 0.25


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_progress(checkpoint, recording, monkeypatch, terminal):
    """Of the files, and of the windows of one; only of what takes longer than a second."""
    shown, real = [], processes.bar

    def bar(iterable, **options):
        shown.append((options["desc"], options["delay"], options["show"]))
        return real(iterable, **options)

    monkeypatch.setattr(processes, "bar", bar)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    detect((recording,), checkpoint=checkpoint)
    assert shown == [("detect", 1, terminal), ("call.wav", 1, terminal)]


def test_threshold_of_the_checkpoint_or_the_caller(checkpoint, recording):
    stored = detect((recording,), checkpoint=checkpoint)
    assert stored["threshold"] == 1.25
    assert "development" in stored["threshold_source"]
    llr = stored["files"][0]["llr"]
    for threshold, verdict in ((llr - 0.1, "bona fide"), (llr + 0.1, "spoof")):
        result = detect((recording,), checkpoint=checkpoint, threshold=threshold)
        assert result["files"][0]["verdict"] == verdict
        assert result["threshold_source"] == "given"


def test_silent_windows_are_left_out_and_counted(checkpoint, tmp_path):
    x = np.rint(3000 * np.random.default_rng(0).standard_normal(4_000)).astype(np.int16)
    for name, parts in {"spoken": [x, x], "paused": [0 * x, x, 0 * x, 0 * x, x, 0 * x]}.items():
        sf.write(tmp_path / f"{name}.wav", np.concatenate(parts), 16_000)
    files = (tmp_path / "paused.wav", tmp_path / "spoken.wav")
    paused, spoken = detect(files, checkpoint=checkpoint, plot=tmp_path / "x.svg")["files"]
    assert (paused["n_silent"], spoken["n_silent"]) == (4, 0)
    assert [w["llr"] is None for w in paused["windows"]] == [True, False, True, True, False, True]
    assert paused["llr"] == pytest.approx(spoken["llr"], abs=1e-5)
    everything = detect(files[:1], checkpoint=checkpoint, allow_silence=True)["files"][0]
    assert everything["n_silent"] == 0
    assert everything["llr"] != pytest.approx(spoken["llr"], abs=1e-3)


def test_a_format_that_is_not_read_is_named(checkpoint, recording):
    other = recording.with_suffix(".m4a")
    other.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(500))
    result = detect((recording.parent,), checkpoint=checkpoint)
    assert [one["error"] is None for one in result["files"]] == [False, True]
    assert "call.m4a" in result["errors"][0]
    assert "ffmpeg" in result["errors"][0]


def test_one_name_is_one_file(checkpoint, recording):
    assert len(detect(str(recording), checkpoint=checkpoint)["files"]) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"files": ()},
        {"threshold": float("nan")},
        {"plot": "x.docx"},
        {"plot": "no/such/folder/x.png"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_cannot_be_done_is_refused_before_scoring(checkpoint, recording, options):
    options = {"files": (recording,), "checkpoint": checkpoint} | options
    options["plot"] = Path(options["plot"]) if "plot" in options else None
    with pytest.raises(ConfigError):
        detect(**options)


@pytest.mark.parametrize("stored", ["abc", [1.0], float("nan")])
def test_a_stored_threshold_has_to_be_a_number(recording, tmp_path, stored):
    Detector(DETECTOR).save(tmp_path / "d.safetensors", {"dev_eer_threshold": stored})
    with pytest.raises(ConfigError, match="threshold"):
        detect((recording,), checkpoint=tmp_path / "d.safetensors")


def test_a_damaged_file_does_not_stop_the_others(checkpoint, recording):
    bad = recording.parent / "bad.flac"
    bad.write_bytes(recording.read_bytes()[:500])
    result = detect((recording.parent,), checkpoint=checkpoint)
    by_name = {one["file"].rpartition("/")[2]: one for one in result["files"]}
    assert by_name["call.wav"]["verdict"]
    assert by_name["bad.flac"]["llr"] is None
    assert by_name["bad.flac"]["verdict"] is None
    assert "bad.flac" in by_name["bad.flac"]["error"]
    assert result["errors"] == [by_name["bad.flac"]["error"]]


def test_a_folder_without_recordings(checkpoint, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="holds no"):
        detect((tmp_path / "empty",), checkpoint=checkpoint)


@pytest.fixture
def exported(checkpoint):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from slslib.model.onnx import export

    export(str(checkpoint), checkpoint.with_suffix(".onnx"))
    return checkpoint.with_suffix(".onnx")


def test_an_onnx_file_is_scored_alike_and_without_torch(checkpoint, exported, recording):
    """In a program of its own, by the command line; the ending of the name decides."""
    program = (
        "import sys; from slslib import cli; status = cli.run(sys.argv[1:], as_json=True); "
        "loaded = {'torch', 'accelerate', 'transformers', 'onnx'} & set(sys.modules); "
        "sys.exit(f'{loaded} loaded' if loaded else status)"
    )
    command = [sys.executable, "-c", program, "detect", recording, "--checkpoint", exported]
    run = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    got, want = json.loads(run.stdout), detect((recording,), checkpoint=checkpoint)
    assert got["threshold"] == 1.25
    assert got["window_s"] == want["window_s"]
    llrs = [[w["llr"] for w in one["files"][0]["windows"]] for one in (got, want)]
    assert llrs[0] == pytest.approx(llrs[1], abs=1e-4)
    assert len(llrs[0]) == 3


def test_what_is_no_onnx_file_is_refused_by_name(recording, tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "x.onnx").write_bytes(recording.read_bytes())
    with pytest.raises(CheckpointError, match=r"x\.onnx.*slslib export"):
        detect((recording,), checkpoint=str(tmp_path / "x.onnx"))
