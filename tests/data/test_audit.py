"""The audit finds what was planted, in one process and in several, and nothing else."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from make_flac import write_flac

from slslib.data import isolate
from slslib.data.audit import verify
from slslib.errors import AudioError, ProtocolError


def noise(seed: int, n: int = 8_000, channels: int = 1) -> np.ndarray:
    x = np.random.default_rng(seed).normal(0, 2_000, (n, channels))
    return np.rint(x).astype(np.int16)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Data root with a corpus ``c`` in which there is one of everything."""
    audio = tmp_path / "c" / "flac"
    audio.mkdir(parents=True)
    for i in range(6):
        sf.write(audio / f"good{i}.flac", noise(i), 16_000)
    shutil.copy(audio / "good0.flac", audio / "copy.flac")
    sf.write(audio / "slow.flac", noise(10), 8_000)
    sf.write(audio / "stereo.flac", noise(11, channels=2), 16_000)
    sf.write(audio / "unnamed.flac", noise(12), 16_000)
    sf.write(audio / "cut.flac", noise(13), 16_000)
    data = (audio / "cut.flac").read_bytes()
    (audio / "cut.flac").write_bytes(data[: len(data) * 3 // 4])
    sf.write(audio / "other.flac", noise(14), 16_000)
    data = bytearray((audio / "other.flac").read_bytes())
    data[30] ^= 1
    (audio / "other.flac").write_bytes(data)
    sf.write(audio / "silent.flac", np.zeros(8_000), 16_000)
    loud = noise(15).astype(np.int64)
    loud[4_000] = 70_000
    write_flac(audio / "loud.flac", loud, with_md5=False)
    names = [f"good{i}" for i in range(6)] + (
        ["copy", "slow", "stereo", "cut", "other", "silent", "loud", "absent"]
    )
    lines = [f"S {name} - - bonafide\n" for name in names]
    (tmp_path / "c" / "protocols").mkdir()
    (tmp_path / "c" / "protocols" / "c.cm.train.trn.txt").write_text("".join(lines[:9]))
    (tmp_path / "c" / "protocols" / "c.cm.eval.trl.txt").write_text("".join(lines[9:]))
    return tmp_path


@pytest.mark.parametrize("jobs", [1, 3])
def test_everything_planted_is_found(planted: Path, jobs: int) -> None:
    report = verify("c", data=planted, jobs=jobs)
    assert (report["n_trials"], report["n_usable"]) == (14, 10)
    assert not report["sound"]
    assert report["missing"] == ["absent"]
    assert set(report["unusable"]) == {"cut", "other", "silent"}
    assert "truncated or damaged" in report["unusable"]["cut"]
    assert "MD5" in report["unusable"]["other"]
    assert report["duplicates"] == [["good0", "copy"]]
    assert [Path(path).name for path in report["extra"]] == ["unnamed.flac"]
    assert list(report["over_range"]) == ["loud"]
    assert report["md5"] == {"ok": 10, "absent": 1, "bad": 1, "unchecked": 1}
    assert report["sample_rates"] == {16_000: 12, 8_000: 1}
    assert report["channels"] == {1: 12, 2: 1}
    assert sum(report["decoders"].values()) == 13
    assert report["seconds"]["max"] == 1
    assert report["seconds"]["median"] == 0.5
    assert set(report["protocol_sha256"]) == {"train", "eval"}


def test_a_partition_alone(planted: Path) -> None:
    report = verify("c:train", data=planted)
    assert report["sound"]
    assert len(report["extra"]) == 5


def test_several_processes_find_the_same(planted: Path) -> None:
    assert verify("c", data=planted, jobs=2) == verify("c", data=planted, jobs=1)


def test_silence_may_be_allowed(planted: Path) -> None:
    report = verify("c:eval", data=planted, allow_silence=True)
    assert set(report["unusable"]) == {"cut", "other"}


def test_a_beginning_is_judged_as_the_model_hears_it(tmp_path: Path) -> None:
    """A recording that begins with three seconds of zeros is silence to a model that hears two."""
    sf.write(tmp_path / "late.wav", np.append(np.zeros(48_000), noise(0) / 32_768), 16_000)
    assert verify(str(tmp_path))["sound"]
    report = verify(str(tmp_path), n_samples=32_000)
    assert (report["sound"], report["heard_seconds"]) == (False, 2.0)
    assert "its first 32000 16-kHz samples are all equal" in report["unusable"]["late.wav"]


def test_the_report_as_json(planted: Path) -> None:
    written = json.loads(json.dumps(verify("c", data=planted)))
    assert written["sound"] is False
    assert written["sample_rates"] == {"16000": 12, "8000": 1}
    (error,) = written["errors"]
    assert "10 of 14" in error
    assert verify("c:train", data=planted)["errors"] == []


def test_a_folder_without_a_protocol(planted: Path) -> None:
    report = verify("c/flac", data=planted)
    assert report["n_trials"] == 14
    assert report["extra"] == []
    assert "cut.flac" in report["unusable"]
    assert verify(str(planted / "c" / "flac"))["unusable"] == report["unusable"]
    shutil.rmtree(planted / "c" / "protocols")
    assert "flac/cut.flac" in verify("c", data=planted)["unusable"]


def test_a_protocol_beside_the_recordings_is_used(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    for name in ("a.wav", "b.wav"):
        sf.write(tmp_path / "own" / name, 0.1 * np.random.default_rng(0).normal(size=800), 16_000)
    (tmp_path / "own" / "labels.csv").write_text("file,label\na.wav,spoof\nc.wav,bonafide\n")
    for spec in ("own", "own:labels"):
        report = verify(spec, data=tmp_path)
        assert report["missing"] == ["c.wav"]
        assert [Path(file).name for file in report["extra"]] == ["b.wav"]


def test_a_format_that_is_not_read_makes_a_folder_unsound(planted: Path) -> None:
    (planted / "c" / "flac" / "more.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    report = verify("c/flac", data=planted)
    assert report["n_trials"] == 15
    assert "ffmpeg" in report["unusable"]["more.m4a"]


@pytest.mark.usefixtures("_new_decoders")
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_file_that_crashes_the_decoder_or_never_ends(
    planted: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    """Both are unusable files, and the others are audited."""
    script = (
        "import os, signal, time\n"
        "from slslib.data import isolate\n"
        "isolate.WALL_SECONDS, blocks = 2, isolate.Decoder.blocks\n"
        "def hostile(self, **options):\n"
        "    if 'good1' in self.recording.path: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    if 'good3' in self.recording.path: time.sleep(60)\n"
        "    return blocks(self, **options)\n"
        "isolate.Decoder.blocks = hostile\n"
        "isolate.serve()"
    )
    monkeypatch.setattr(isolate, "_COMMAND", (sys.executable, "-P", "-c", script))
    report = verify("c:train", data=planted, jobs=jobs)
    assert (report["n_trials"], report["n_usable"], report["sound"]) == (9, 7, False)
    assert set(report["unusable"]) == {"good1", "good3"}
    assert "SIGSEGV" in report["unusable"]["good1"]
    assert "SIGALRM" in report["unusable"]["good3"]


def test_nothing_of_a_corpus_is_there(planted: Path) -> None:
    shutil.rmtree(planted / "c" / "flac")
    report = verify("c", data=planted)
    assert (report["n_trials"], len(report["missing"]), report["n_usable"]) == (14, 14, 0)
    assert report["seconds"] == {"min": 0, "median": 0, "max": 0, "total": 0}
    assert "0 of 14" in report["errors"][0]


def test_progress_is_shown_on_a_terminal(
    planted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    verify("c:train", data=planted)
    assert "9/9" in capsys.readouterr().err


def test_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no audio"):
        verify(str(tmp_path))
    with pytest.raises(ProtocolError, match="none"):
        verify("none", data=tmp_path)


@pytest.mark.shared
def test_reference_speech_is_sound(shared: Path) -> None:
    report = verify("speech", data=shared, jobs=2)
    assert report["sound"]
    assert (report["n_trials"], report["md5"]) == (1_210, {"ok": 1_210})
    assert report["over_range"] == {}
    assert report["extra"] == []


@pytest.mark.shared
def test_asvspoof_samples_are_sound_and_one_is_over_range(shared: Path) -> None:
    report = verify("speech/asvspoof_samples", data=shared)
    assert report["sound"]
    assert report["n_trials"] == 3
    ((name, found),) = report["over_range"].items()
    assert "2014017" in name
    if sf.__libsndfile_version__ == "1.2.0":
        assert found["samples"] == 18
        assert found["peak"] == pytest.approx(5.61, abs=0.005)
