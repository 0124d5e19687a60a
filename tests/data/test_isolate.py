"""Decoding in another process: the same result, and an error for whatever happens there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from make_flac import write_bomb

from slslib.data import isolate
from slslib.data.audio import Decoder
from slslib.data.isolate import blocks_isolated
from slslib.errors import AudioError


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "-x y.flac"
    sf.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (90_000, 2)), 22_050)
    return path


def test_samples_are_the_same(recording: Path) -> None:
    here, there = Decoder(recording).blocks(), blocks_isolated(recording)
    np.testing.assert_array_equal(np.concatenate(list(here)), np.concatenate(list(there)))


def test_stopping_early_stops_the_process(tmp_path: Path) -> None:
    path = write_bomb(tmp_path / "x.flac", 4_000)
    blocks = blocks_isolated(path)
    assert len(next(blocks)) == 65_536
    blocks.close()  # returns only once the process is gone


def test_errors_are_those_of_decoding(tmp_path: Path) -> None:
    for name in ("x.wav", "nul\0.wav", "\udcff.wav"):
        with pytest.raises(AudioError, match=r"no such file|cannot be opened"):
            next(blocks_isolated(tmp_path / name))
    path = write_bomb(tmp_path / "x.flac", 10, value=0)
    with pytest.raises(AudioError, match="all zero"):
        list(blocks_isolated(path))
    silence = np.concatenate(list(blocks_isolated(path, allow_silence=True)))
    assert len(silence) == 10 * 65_535
    assert not silence.any()


def test_cpu_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolate, "CPU_SECONDS", 1)
    path = write_bomb(tmp_path / "x.flac", 24_000)
    assert path.stat().st_size < isolate.BYTES_PER_SECOND * 10  # hours in a small file
    with pytest.raises(AudioError, match="SIGXCPU"):
        for _ in blocks_isolated(path):
            pass


def test_a_large_file_gets_more_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = []
    monkeypatch.setattr(isolate, "_COMMAND", (sys.executable, "-c", "pass"))
    monkeypatch.setattr(isolate.json, "dumps", lambda request: requests.append(request) or "")
    for size in (0, 100, 50_000_000):
        (tmp_path / "x.mp3").write_bytes(b"")
        os.truncate(tmp_path / "x.mp3", size)
        list(blocks_isolated(tmp_path / "x.mp3"))
    assert [request[3] for request in requests] == [60, 60, 560]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS")
def test_memory_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolate, "MEMORY", 1 << 20)
    path = write_bomb(tmp_path / "x.flac", 2_000)
    with pytest.raises(AudioError, match="needs more than 1 MB"):
        list(blocks_isolated(path))


def child(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Let the child run ``body`` at the second block of a recording."""
    script = (
        "import json, os, signal, sys, time\n"
        "import numpy as np\n"
        "from slslib.data import isolate\n"
        "def blocks(self, **options):\n"
        "    yield np.zeros(3, np.float32)\n"
        f"    {body}\n"
        "isolate.Decoder.blocks = blocks\n"
        "isolate._serve(*json.loads(sys.argv[1]))"
    )
    monkeypatch.setattr(isolate, "_COMMAND", (sys.executable, "-P", "-c", script))


def test_wall_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(isolate, "WALL_SECONDS", 1)
    child(monkeypatch, "time.sleep(60)")
    with pytest.raises(AudioError, match="SIGALRM"):
        list(blocks_isolated(tmp_path / "x.wav"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("raise RuntimeError", "failed"),
        ("os._exit(7)", "failed"),
        ("os.write(1, b'Abort'); os.abort()", "SIGABRT"),
    ],
)
def test_a_crash_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, message: str
) -> None:
    child(monkeypatch, body)
    with pytest.raises(AudioError, match=message) as error:
        list(blocks_isolated(tmp_path / "x.wav"))
    assert str(tmp_path / "x.wav") in str(error.value)


def test_what_the_child_says_beside_its_answer_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child(monkeypatch, "os.write(2, bytes(1 << 20))")
    (block,) = blocks_isolated(tmp_path / "x.wav")
    np.testing.assert_array_equal(block, np.zeros(3))


def test_the_child_cannot_write_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    child(monkeypatch, f"open({str(tmp_path / 'x')!r}, 'wb', buffering=0).write(b'x')")
    with pytest.raises(AudioError, match="failed"):
        list(blocks_isolated(tmp_path / "x.wav"))
    assert (tmp_path / "x").stat().st_size == 0


def test_a_script_without_a_guard_runs_once(recording: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from slslib.data.isolate import blocks_isolated\n"
        "from slslib.data.audit import verify\n"
        "verify(sys.argv[2], jobs=2)\n"
        "print(len(list(blocks_isolated(sys.argv[1]))))"
    )
    command = [sys.executable, script, recording, tmp_path]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert done.stdout.split() == [b"1"]


def test_a_module_beside_the_file_is_not_imported(
    recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (recording.parent / "soundfile.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(recording.parent)
    assert len(list(blocks_isolated(recording.name))) > 0
