"""Detection of single recordings: the scores of the windows, and errors that stay local."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from make_mp4 import write_av
from tiny import DETECTOR

from slslib.data import speech
from slslib.data.audio import load
from slslib.errors import AudioError, CheckpointError, ConfigError
from slslib.evaluation import tables
from slslib.files import sha256, write_json
from slslib.model.convert import convert
from slslib.model.detector import Detector
from slslib.runs import detect as module
from slslib.runs import processes
from slslib.runs.detect import detect


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
def test_progress_is_shown(checkpoint, recording, monkeypatch, terminal):
    """Of several files, and of the windows of one; only of what takes longer than a second."""
    shown, real = [], processes.bar

    def bar(iterable, **options):
        shown.append((options["desc"], options["delay"], options["show"]))
        return real(iterable, **options)

    monkeypatch.setattr(processes, "bar", bar)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    detect((recording,), checkpoint=checkpoint)
    assert shown == [("detect", 1, False), ("call.wav", 1, True)]
    shown.clear()
    detect((recording, recording), checkpoint=checkpoint)
    assert shown == [("detect", 1, True), *[("call.wav", 1, terminal)] * 2]


def test_without_a_threshold_there_is_no_verdict(checkpoint, recording, tmp_path):
    detector = Detector.load(checkpoint)
    for metadata, said in (
        ({"recipe": "v2", "dev_eer_percent": 3.25}, "recipe v2, the EER was 3.2 %"),
        ({}, "not known"),
    ):
        detector.save(tmp_path / "none.safetensors", {"epoch": 0, **metadata})
        result = detect((recording,), checkpoint=tmp_path / "none.safetensors")
        assert (result["threshold"], result["threshold_source"]) == (None, "none")
        assert result["files"][0]["verdict"] is None
        assert isinstance(result["files"][0]["llr"], float)
        assert said in result["meaning"]
        assert "slslib threshold" in result["meaning"]
        assert result["meaning"].split()[0] in tables.detect(result)
        assert not result["warnings"]
    assert detect((recording,), checkpoint=checkpoint)["meaning"] is None


def test_a_threshold_file(checkpoint, recording, tmp_path):
    facts = {"threshold": -7, "checkpoint": "d", "checkpoint_sha256": sha256(checkpoint)}
    facts |= {"hop_s": None, "pool": "mean", "allow_silence": False}
    given, beside = tmp_path / "given.json", tmp_path / "d.safetensors.threshold.json"
    write_json(given, facts)
    result = detect((recording,), checkpoint=checkpoint, threshold=given)
    assert (result["threshold"], result["threshold_source"]) == (-7, str(given))
    assert detect((recording,), checkpoint=checkpoint)["threshold"] == 1.25
    write_json(beside, facts | {"threshold": -8})
    assert detect((recording,), checkpoint=checkpoint)["threshold"] == -8
    assert detect((recording,), checkpoint=checkpoint, threshold=3)["threshold"] == 3
    for other in ({"hop": 0.1}, {"pool": "min"}, {"allow_silence": True}):
        with pytest.raises(ConfigError, match=f"{next(iter(other))}.*slslib threshold"):
            detect((recording,), checkpoint=checkpoint, **other)
    wrong = [facts | {"checkpoint_sha256": "0"}, {}, [1], facts | {"threshold": "a"}]
    wrong += [[*facts.items()], facts | {"threshold": True}, facts | {"threshold": 10**400}]
    for text in (*map(json.dumps, wrong), "[" * 100_000):
        given.write_text(text)
        with pytest.raises(ConfigError, match=r"given.json"):
            detect((recording,), checkpoint=checkpoint, threshold=given)
    with pytest.raises(ConfigError, match=r"absent.json"):
        detect((recording,), checkpoint=checkpoint, threshold=tmp_path / "absent.json")


def test_hop_and_pool(checkpoint, recording):
    plain = detect((recording,), checkpoint=checkpoint)["files"][0]
    for pool, pooled in (("mean", np.mean), ("min", np.min), ("trimmed", _trimmed)):
        result = detect((recording,), checkpoint=checkpoint, hop=0.05, pool=pool)
        assert (result["hop_s"], result["pool"]) == (0.05, pool)
        (one,) = result["files"]
        starts = [window["start_s"] for window in one["windows"]]
        assert starts == pytest.approx([*np.arange(0, 0.36, 0.05), 0.375])
        llrs = [window["llr"] for window in one["windows"]]
        assert one["llr"] == pytest.approx(pooled(llrs))
        assert llrs[5] == pytest.approx(plain["windows"][1]["llr"], abs=1e-4)  # at 0.25 s


def _trimmed(llrs):
    assert len(llrs) == 9
    return np.mean(sorted(llrs)[1:-1])


def test_what_was_converted_is_said(checkpoint, recording):
    x = 0.1 * np.random.default_rng(0).standard_normal((22_050, 2))
    sf.write(recording.with_name("b.wav"), x, 44_100)
    recording.with_name("z.wav").write_bytes(b"RIFF")
    sf.write(recording.with_name("d.flac"), x, 44_100)
    cut = recording.with_name("d.flac").read_bytes()[:-3000]
    recording.with_name("d.flac").write_bytes(cut)
    result = detect((recording.parent,), checkpoint=checkpoint)
    keys = ("duration_s", "source_rate", "channels", "resampled", "averaged", "over_range")
    found = [tuple(one[key] for key in keys) for one in result["files"]]
    assert found[:2] == [(0.5, 44_100, 2, True, True, 0), (0.625, 16_000, 1, False, False, 0)]
    assert found[2][1:5] == (44_100, 2, True, True)
    assert found[3][:5] == (0, 0, 0, False, False)
    assert len(result["errors"]) == 2
    _, warning = result["warnings"]  # which does not count what has no score
    assert warning == "resampled or averaged to mono: 1 of 4 recordings"
    assert result["checkpoint_sha256"] == sha256(checkpoint)
    assert not detect((recording,), checkpoint=checkpoint, threshold=0)["warnings"]


def test_very_short_recordings_are_told(checkpoint, recording):
    sf.write(recording.with_name("c.wav"), 0.1 * np.ones(7_000) * (-1) ** np.arange(7_000), 16_000)
    warnings = detect((recording.parent,), checkpoint=checkpoint, threshold=0)["warnings"]
    assert warnings == ["under half a second, so that the score says little: 1 of 2 recordings"]


@pytest.mark.parametrize("files", [np.zeros(4000), [np.zeros(4000)], [3]])
def test_only_names_are_files(checkpoint, files):
    with pytest.raises(ConfigError, match="names of files"):
        detect(files, checkpoint=checkpoint)


def test_lowest_windows_are_named(checkpoint, recording):
    x = 0.1 * np.random.default_rng(0).standard_normal(16_000 * 75)
    sf.write(recording, x, 16_000)
    result = detect((recording,), checkpoint=checkpoint)
    (one,) = result["files"]
    lowest = min(one["windows"], key=lambda window: window["llr"])
    minutes, seconds = divmod(int(lowest["start_s"]), 60)
    assert f"{lowest['llr']:.2f} at {minutes}:{seconds:02}" in tables.detect(result)
    assert "1:15" in tables.detect(result)


def test_a_loaded_detector_scores_files_and_arrays(checkpoint, recording, capsys, monkeypatch):
    """The program in the module's documentation runs, and gives detect's scores."""
    wanted = detect((recording,), checkpoint=str(checkpoint))["files"][0]["llr"]
    program = textwrap.dedent((module.__doc__ or "").partition("code-block:: python")[2])
    monkeypatch.chdir(checkpoint.parent)
    checkpoint.rename("detector.safetensors")
    names = {"torch": torch, "detect": detect, "Detector": Detector, "files": [recording]}
    names["samples"] = torch.zeros(1, 4000)
    exec(program, names)
    assert float(capsys.readouterr().out) == wanted
    assert names["llrs"].shape == (1,)


def test_a_loaded_detector_stays_what_it_was(checkpoint, recording):
    """Whatever becomes of the file: its scores, its name and its hash."""
    wanted, detector = detect((recording,), checkpoint=str(checkpoint)), Detector.load(checkpoint)
    assert detect((recording,), checkpoint=detector) == wanted
    Detector(DETECTOR, seed=9).save(checkpoint)
    assert detect((recording,), checkpoint=detector) == wanted
    assert detect((recording,), checkpoint=str(checkpoint)) != wanted


def test_a_detector_of_no_file_is_refused(recording):
    with pytest.raises(ConfigError, match="save it"):
        detect((recording,), checkpoint=Detector(DETECTOR, seed=1))


def test_mini_stays_mini_under_another_name(recording, tmp_path):
    """Converted, published and retitled; a training by the recipe of this name is another."""
    detector = Detector.load("mini")
    detector.save(tmp_path / "fine.safetensors")
    convert("mini", tmp_path / "fine.pth")
    detector.save_pretrained(tmp_path / "published")
    for name in ("fine.safetensors", "fine.pth", "published/model.safetensors"):
        made = detect((recording,), checkpoint=tmp_path / name)
        assert "worth nothing" in made["warnings"][0], name
    detector.save(tmp_path / "own.safetensors", detector.metadata | {"train_loss": 0.25})
    (warning,) = detect((recording,), checkpoint=tmp_path / "own.safetensors")["warnings"]
    assert "the development set's threshold may fail" in warning


def test_mini_stays_mini_when_it_is_loaded(recording):
    made = detect((recording,), checkpoint=Detector.load("mini"))
    assert made["checkpoint"] == "mini"
    assert "worth nothing" in made["warnings"][0]


def test_threshold_of_the_checkpoint_or_the_caller(checkpoint, recording):
    stored = detect((recording,), checkpoint=checkpoint)
    assert stored["threshold"] == 1.25
    assert "development" in stored["threshold_source"]
    llr = stored["files"][0]["llr"]
    for threshold, verdict in ((llr - 0.1, "bona fide"), (llr + 0.1, "spoof")):
        result = detect((recording,), checkpoint=checkpoint, threshold=threshold)
        assert result["files"][0]["verdict"] == verdict
        assert result["threshold_source"] == "given"


OTHERS = [{"hop": 0.1}, {"pool": "min"}, {"allow_silence": True}, {"speech_only": True}]


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_a_threshold_of_the_training_is_for_its_scores_only(
    checkpoint, recording, other, loud_is_speech
):
    result = detect((recording,), checkpoint=checkpoint, **other)
    assert (result["threshold"], result["threshold_source"]) == (None, "none")
    assert result["files"][0]["verdict"] is None
    assert "slslib threshold" in result["meaning"]
    assert result["allow_silence"] == other.get("allow_silence", False)
    given = detect((recording,), checkpoint=checkpoint, threshold=0.5, **other)
    assert given["files"][0]["verdict"]


def test_silent_windows_are_left_out_and_counted(checkpoint, tmp_path):
    x = np.rint(3000 * np.random.default_rng(0).standard_normal(4_000)).astype(np.int16)
    for name, parts in {"spoken": [x, x], "paused": [0 * x, x, 0 * x, 0 * x, x, 0 * x]}.items():
        sf.write(tmp_path / f"{name}.wav", np.concatenate(parts), 16_000)
    files = (tmp_path / "paused.wav", tmp_path / "spoken.wav")
    paused, spoken = detect(files, checkpoint=checkpoint)["files"]
    assert (paused["n_silent"], spoken["n_silent"]) == (4, 0)
    assert [w["llr"] is None for w in paused["windows"]] == [True, False, True, True, False, True]
    assert paused["llr"] == pytest.approx(spoken["llr"], abs=1e-5)
    everything = detect(files[:1], checkpoint=checkpoint, allow_silence=True)["files"][0]
    assert everything["n_silent"] == 0
    assert everything["llr"] != pytest.approx(spoken["llr"], abs=1e-3)


@pytest.fixture
def loud_is_speech(monkeypatch):
    """Let the mean amplitude of a window be the seconds of speech in it."""
    monkeypatch.setattr(speech, "speech_s", lambda windows: abs(windows).sum(axis=1) / 40)


def test_windows_without_speech_are_left_out_and_counted(checkpoint, tmp_path, loud_is_speech):
    x = np.rint(3000 * np.random.default_rng(0).standard_normal(4_000)).astype(np.int16)
    quiet = x // 100
    for name, parts in {
        "all": [x, x],
        "part": [quiet, x, 0 * x, quiet, x],
        "none": [quiet],
    }.items():
        sf.write(tmp_path / f"{name}.wav", np.concatenate(parts), 16_000)
    files = tuple(tmp_path / f"{name}.wav" for name in ("all", "part", "none"))
    plain = detect(files, checkpoint=checkpoint)
    found = detect(files, checkpoint=checkpoint, speech_only=True)
    assert (plain["speech_only"], found["speech_only"]) == (False, True)
    assert [one["n_speech_free"] for one in plain["files"]] == [None, None, None]
    whole, part, none = found["files"]
    assert (whole["n_speech_free"], whole["llr"]) == (0, plain["files"][0]["llr"])
    assert (part["n_silent"], part["n_speech_free"]) == (1, 2)
    llrs = [window["llr"] for window in part["windows"]]
    assert [llr is None for llr in llrs] == [True, False, True, True, False]
    assert llrs[1::3] == [plain["files"][1]["windows"][k]["llr"] for k in (1, 4)]
    assert part["llr"] == np.mean(llrs[1::3])
    assert (none["llr"], none["verdict"], none["n_speech_free"]) == (None, None, 1)
    assert "no speech in any of its 1 windows" in found["errors"][0]
    assert "n speech free" in tables.detect(found)
    assert "n speech free" not in tables.detect(plain)


def test_scores_of_speech_alone_need_a_threshold_of_their_own(
    checkpoint, recording, tmp_path, loud_is_speech
):
    old = {"threshold": -7, "checkpoint": "d", "checkpoint_sha256": sha256(checkpoint)}
    old |= {"hop_s": None, "pool": "mean", "allow_silence": False}  # before there was this option
    path = tmp_path / "old.json"
    write_json(path, old)
    assert detect((recording,), checkpoint=checkpoint, threshold=path)["threshold"] == -7
    with pytest.raises(ConfigError, match=r"speech_only False.*True"):
        detect((recording,), checkpoint=checkpoint, threshold=path, speech_only=True)
    write_json(path, old | {"speech_only": True})
    how = {"checkpoint": checkpoint, "threshold": path, "speech_only": True}
    assert detect((recording,), **how)["threshold"] == -7
    with pytest.raises(ConfigError, match="choose one"):
        detect((recording,), checkpoint=checkpoint, speech_only=True, allow_silence=True)


def test_a_format_that_is_not_read_is_named(checkpoint, recording):
    write_av(recording.with_name("b.m4a"), np.zeros(9_000, np.int16) + 99)
    recording.with_name("c.amr").write_bytes(b"#!AMR\n" + bytes(500))
    result = detect((recording.parent,), checkpoint=checkpoint)
    assert [one["error"] is None for one in result["files"]] == [True, False, True]
    assert "c.amr" in result["errors"][0]
    assert "ffmpeg" in result["errors"][0]


def test_a_recording_without_a_length_is_scored_and_told(checkpoint, recording):
    x = np.rint(3000 * np.random.default_rng(0).standard_normal(24_000)).astype(np.int16)
    write_av(recording.with_name("b.webm"), x, 48_000, codec="libopus", live="1")
    result = detect((recording.parent,), checkpoint=checkpoint, threshold=0)
    assert not result["errors"]
    assert [one["states_length"] for one in result["files"]] == [False, True]
    assert result["warnings"][0].startswith("no length stated")
    assert "1 of 2 recordings" in result["warnings"][0]
    assert "0:00 or more" in tables.detect(result)


def test_a_cut_of_a_wav_from_a_pipe_cannot_be_seen(checkpoint, recording):
    data = recording.read_bytes()
    recording.write_bytes(data[:40] + b"\xff\xff\xff\xff" + data[44 : len(data) // 2])
    result = detect((recording,), checkpoint=checkpoint)
    assert not result["files"][0]["states_length"]
    assert any("no length stated" in text for text in result["warnings"])


def test_windows_of_one_value_are_silent(checkpoint, recording):
    sound, rate = sf.read(recording, dtype="float32")
    n = 64_600 // 2
    joined = np.concatenate([sound[:n], np.full(4 * 64_600, 0.25, np.float32), sound[:n]])
    sf.write(recording, joined, rate)
    (one,) = detect((recording,), checkpoint=checkpoint)["files"]
    silent = [window["llr"] is None for window in one["windows"]]
    assert one["n_silent"] == sum(silent) >= 3
    assert not silent[0]


def test_one_name_is_one_file(checkpoint, recording):
    assert len(detect(str(recording), checkpoint=checkpoint)["files"]) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"files": ()},
        {"files": 3},
        {"threshold": float("nan")},
        {"hop": 0.0},
        {"hop": 0.3},
        {"hop": 1e-9},
        {"hop": float("nan")},
        {"hop": float("inf")},
        {"pool": "max"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_cannot_be_done_is_refused_before_scoring(checkpoint, recording, options):
    options = {"files": (recording,), "checkpoint": checkpoint} | options
    with pytest.raises(ConfigError):
        detect(**options)


@pytest.mark.parametrize(
    "stored", ["abc", [1.0], float("nan"), True, 10**400], ids=lambda one: f"{one!s:.9}"
)
def test_a_stored_threshold_has_to_be_a_number(recording, tmp_path, stored):
    Detector(DETECTOR).save(tmp_path / "d.safetensors", {"dev_eer_threshold": stored})
    with pytest.raises(ConfigError, match="threshold"):
        detect((recording,), checkpoint=tmp_path / "d.safetensors")


def test_a_number_of_numpy_is_a_threshold(checkpoint, recording):
    assert detect((recording,), checkpoint=checkpoint, threshold=np.float64(1))["threshold"] == 1


@pytest.mark.parametrize("percent", [10**400, -1, float("nan"), {}, "3"], ids=type)
def test_only_an_error_rate_is_told_of_the_training(recording, tmp_path, percent):
    path = tmp_path / "d.safetensors"
    Detector(DETECTOR).save(path, {"recipe": "v1", "dev_eer_percent": percent})
    assert "development data" not in detect((recording,), checkpoint=path)["meaning"]


@pytest.mark.parametrize(
    "recipe", ["", "a\x1b[31mb", "![x](http://e/x.png)", "A" * 41, "a b", ["v1"]]
)
def test_only_a_plain_word_names_the_recipe(recording, tmp_path, recipe):
    """The text comes to terminals and, as Markdown, to the page."""
    path = tmp_path / "d.safetensors"
    Detector(DETECTOR).save(path, {"recipe": recipe, "dev_eer_percent": 1.0})
    assert "recipe" not in detect((recording,), checkpoint=path)["meaning"]


@pytest.mark.parametrize("returned", [[0.5], 0.5, [[0.5] * 3], [0.5, float("nan"), 0.5]], ids=str)
def test_each_window_needs_a_finite_score(checkpoint, recording, monkeypatch, returned):
    opened = (lambda samples: np.array(returned)), 4000, {}, (str(checkpoint), checkpoint, "0")
    monkeypatch.setattr(module, "_open", lambda *_: opened)
    result = detect((recording,), checkpoint=checkpoint)
    assert "call.wav: no finite score" in result["errors"][0]


def test_a_name_that_is_too_long_does_not_stop_the_others(checkpoint, recording):
    result = detect((Path("a" * 5_000 + ".wav"), recording), checkpoint=checkpoint)
    assert [one["llr"] is None for one in result["files"]] == [True, False]


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


def test_an_impossible_name_does_not_stop_the_others(checkpoint, recording):
    files = (Path("x" * 300 + ".wav"), recording)
    impossible, sound = detect(files, checkpoint=checkpoint)["files"]
    assert "cannot be opened" in impossible["error"]
    assert sound["error"] is None


def test_a_folder_without_recordings(checkpoint, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="holds no"):
        detect((tmp_path / "empty",), checkpoint=checkpoint)


@pytest.fixture
def exported(checkpoint):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from slsapp.export import export

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
