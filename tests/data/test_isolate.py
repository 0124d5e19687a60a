"""Decoding in another process: the same result, and an error for whatever happens there."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from make_flac import write_bomb

from slslib.data import isolate
from slslib.data.audio import audit, windows
from slslib.data.isolate import Limits, audit_isolated, windows_isolated
from slslib.errors import AudioError, ConfigError

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")


def _window(samples: bytes) -> bytes:
    """Return what the child says of a window."""
    return json.dumps({"start": 0, "samples": b64encode(samples).decode()}).encode() + b"\n"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "-x y.flac"
    sf.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (30_000, 2)), 22_050)
    return path


def test_windows_are_the_same(recording: Path) -> None:
    here, there = windows(recording, 4_000, 3_000), windows_isolated(recording, 4_000, 3_000)
    for (start, window), (other_start, other) in zip(here, there, strict=True):
        assert start == other_start
        np.testing.assert_array_equal(window, other)


def test_stopping_early_stops_the_process(tmp_path: Path) -> None:
    path = write_bomb(tmp_path / "x.flac", 4_000)
    found = windows_isolated(path)
    assert next(found)[0] == 0
    found.close()  # returns only once the process is gone


def test_errors_are_those_of_windows(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such file"):
        next(windows_isolated(tmp_path / "x.wav"))
    path = write_bomb(tmp_path / "x.flac", 10, value=0)
    with pytest.raises(AudioError, match="all zero"):
        list(windows_isolated(path))
    found = list(windows_isolated(path, allow_silence=True))
    assert len(found) == -(-10 * 65_535 // 64_600)
    assert not any(window.any() for _, window in found)


@posix
def test_cpu_limit(tmp_path: Path) -> None:
    path = write_bomb(tmp_path / "x.flac", 8_000)
    with pytest.raises(AudioError, match="SIGXCPU"):
        for _ in windows_isolated(path, limits=Limits(cpu_seconds=1)):
            pass


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS")
def test_memory_limit(tmp_path: Path) -> None:
    path = write_bomb(tmp_path / "x.flac", 2_000)
    with pytest.raises(AudioError, match="needs more than 1 MB"):
        list(windows_isolated(path, limits=Limits(memory=1 << 20)))


def test_wall_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(isolate, "_COMMAND", command)
    with pytest.raises(AudioError, match=r"more than 0\.5 s"):
        next(windows_isolated(tmp_path / "x.wav", limits=Limits(wall_seconds=0.5)))


LIES = {
    "nothing": (b"", "exit status 0"),
    "noise": (b"Segmentation fault\n" * 3, "without a result"),
    "no end": (b"[" * 100_000, "without a result"),
    "another type": (b"[1, 2]\n", "without a result"),
    "no window": (b'{"start": 0}\n', "2 samples"),
    "half a sample": (_window(bytes(7)), "2 samples"),
    "too much": (_window(bytes(1 << 20)), "2 samples"),
    "NaN": (_window(struct.pack("<ff", 0, float("nan"))), "2 samples"),
}


@pytest.mark.parametrize("lie", LIES)
def test_the_parent_believes_nothing(
    lie: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said, message = LIES[lie]
    (tmp_path / "said").write_bytes(said)
    script = f"import sys; sys.stdout.buffer.write(open({str(tmp_path / 'said')!r}, 'rb').read())"
    monkeypatch.setattr(isolate, "_COMMAND", [sys.executable, "-c", script])
    with pytest.raises(AudioError, match=message):
        list(windows_isolated(tmp_path / "x.wav", 2))


def test_an_endless_line_is_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = "import sys\nwhile True: sys.stdout.write('x' * 65_536)"
    monkeypatch.setattr(isolate, "_COMMAND", [sys.executable, "-c", script])
    with pytest.raises(AudioError):
        list(windows_isolated(tmp_path / "x.wav", 2))


def test_a_script_without_a_guard_runs_once(recording: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from slslib.data.isolate import audit_isolated, windows_isolated\n"
        "print(len(list(windows_isolated(sys.argv[1]))), len(list(audit_isolated(sys.argv[1:]))))"
    )
    command = [sys.executable, script, recording]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert done.stdout.split() == [b"1", b"1"]


@posix
def test_a_crash_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr(isolate, "_COMMAND", [sys.executable, "-c", crash])
    with pytest.raises(AudioError, match="killed by SIGSEGV"):
        list(windows_isolated(tmp_path / "x.wav"))
    crashed = list(audit_isolated([tmp_path / "x.wav"] * 2))  # a new process for the next file
    assert ["SIGSEGV" in str(found.problem) for found in crashed] == [True, True]


@posix
def test_the_child_cannot_write_files(tmp_path: Path) -> None:
    script = (
        "import sys; from slslib.data.isolate import Limits, _restrict; _restrict(Limits());"
        "open(sys.argv[1], 'wb', buffering=0).write(b'x')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "x"], capture_output=True, check=False
    )
    assert b"File too large" in done.stderr
    assert (tmp_path / "x").stat().st_size == 0


def test_a_module_beside_the_file_is_not_imported(
    recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (recording.parent / "soundfile.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(recording.parent)
    assert len(list(windows_isolated(recording.name))) == len(list(windows(recording)))


def test_an_isolated_audit_is_the_same(recording: Path, tmp_path: Path) -> None:
    paths = [recording, tmp_path / "none.wav", recording]
    assert list(audit_isolated(paths)) == [audit(path) for path in paths]


@posix
def test_an_audit_goes_on_behind_a_crash(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import os, signal; from slslib.data import isolate; audit = isolate.audit\n"
        "def fragile(path, **options):\n"
        "    if 'bomb' in path: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return audit(path, **options)\n"
        "isolate.audit = fragile; isolate._serve()"
    )
    monkeypatch.setattr(isolate, "_COMMAND", [sys.executable, "-c", script])
    bomb = tmp_path / "bomb.wav"
    found = list(audit_isolated([recording, bomb, recording, bomb]))
    assert found[0] == found[2] == audit(recording)
    assert ["SIGSEGV" in str(one.problem) for one in found] == [False, True, False, True]
    assert str(bomb) in str(found[1].problem)


@pytest.mark.parametrize("name", ["memory", "cpu_seconds", "wall_seconds"])
def test_limits_are_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: 0})


def test_window_length_is_bounded(recording: Path) -> None:
    with pytest.raises(ConfigError, match="n_samples"):
        next(windows_isolated(recording, 1 << 30))
