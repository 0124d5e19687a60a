"""Decoding in another process: the same result, and an error for whatever happens there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from make_flac import write_bomb

from slslib.data import isolate
from slslib.data.audio import Decoder
from slslib.data.isolate import audit, blocks_isolated
from slslib.errors import AudioError

pytestmark = pytest.mark.usefixtures("_new_decoders")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "-x y.flac"
    sf.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (90_000, 2)), 22_050)
    return path


def decoded(path: Path) -> np.ndarray:
    return np.concatenate(list(blocks_isolated(path)))


def limited(monkeypatch: pytest.MonkeyPatch, limits: str) -> None:
    """Start the child with other limits."""
    script = f"from slslib.data import isolate as i\n{limits}\ni.serve()"
    monkeypatch.setattr(isolate, "_COMMAND", (sys.executable, "-P", "-c", script))


def test_samples_are_the_same(recording: Path) -> None:
    here, there = Decoder(recording).blocks(), blocks_isolated(recording)
    np.testing.assert_array_equal(np.concatenate(list(here)), np.concatenate(list(there)))


def test_stopping_early_stops_the_process(tmp_path: Path) -> None:
    path = write_bomb(tmp_path / "x.flac", 4_000)
    blocks = blocks_isolated(path)
    assert len(next(blocks)) == 65_536
    blocks.close()  # returns only once the process is gone


def test_errors_are_those_of_decoding(tmp_path: Path) -> None:
    for name in ("x.wav", "nul\0.wav", "\udcff.wav", "x" * 300):
        with pytest.raises(AudioError, match=r"no such file|cannot be opened"):
            next(blocks_isolated(tmp_path / name))
    path = write_bomb(tmp_path / "x.flac", 10, value=0)
    with pytest.raises(AudioError, match="all equal"):
        list(blocks_isolated(path))
    silence = np.concatenate(list(blocks_isolated(path, allow_silence=True)))
    assert len(silence) == 10 * 65_536
    assert not silence.any()


def test_cpu_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, "i.CPU_SECONDS = 1")
    path = write_bomb(tmp_path / "x.flac", 24_000)
    assert path.stat().st_size < isolate.BYTES_PER_SECOND * 10  # hours in a small file
    with pytest.raises(AudioError, match="SIGXCPU"):
        for _ in blocks_isolated(path):
            pass


def test_a_large_file_gets_more_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []
    monkeypatch.setattr(isolate.time, "process_time", lambda: 7.3)
    monkeypatch.setattr(isolate, "setrlimit", lambda *limit: limits.append(limit))
    for size in (0, 100, 50_000_000):
        (tmp_path / "x.mp3").write_bytes(b"")
        os.truncate(tmp_path / "x.mp3", size)
        isolate._restrict(tmp_path / "x.mp3")
    found = [soft for which, (soft, _) in limits if which == isolate.RLIMIT_CPU]
    assert found == [68, 68, 568]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS")
def test_memory_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, "i.MEMORY = 1 << 20")
    path = tmp_path / "x.wav"  # whose blocks are of 2 MB, which no part of a heap holds by chance
    sf.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (200_000, 8)), 16_000)
    with pytest.raises(AudioError, match="needs more than 1 MB"):
        list(blocks_isolated(path))
    assert not isolate._idle


def child(monkeypatch: pytest.MonkeyPatch, body: str, setup: str = "pass") -> None:
    """Let the child run ``body`` at the second block of a recording."""
    script = (
        "import os, signal, sys, time\n"
        "import numpy as np\n"
        "from slslib.data import isolate\n"
        f"{setup}\n"
        "def blocks(self, **options):\n"
        "    yield np.zeros(3, np.float32)\n"
        f"    {body}\n"
        "isolate.Decoder.blocks = blocks\n"
        "isolate.serve()"
    )
    monkeypatch.setattr(isolate, "_COMMAND", (sys.executable, "-P", "-c", script))


def test_wall_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    child(monkeypatch, "time.sleep(60)", "isolate.WALL_SECONDS = 1")
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
    assert audit(tmp_path / "x.wav").problem == str(error.value)
    assert not isolate._idle


def test_what_the_child_says_beside_its_answer_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child(monkeypatch, "os.write(1, b'x' * 99); os.write(2, bytes(1 << 20))")
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
    assert len(done.stdout.split()) == 1


def test_a_module_beside_the_file_is_not_imported(
    recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (recording.parent / "soundfile.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(recording.parent)
    assert len(list(blocks_isolated(recording.name))) > 0


# --- one process for many files ---------------------------------------------------------------


def pids() -> list[int]:
    return [process.pid for process in isolate._idle]


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + 20
    while is_running(pid):
        assert time.monotonic() < end, "the decoder outlived its parent"
        time.sleep(0.02)


def test_one_process_decodes_all(recording: Path, tmp_path: Path) -> None:
    expected = np.concatenate(list(Decoder(recording).blocks()))
    np.testing.assert_array_equal(decoded(recording), expected)
    first = pids()
    for _ in range(3):
        with pytest.raises(AudioError, match="no such file"):
            decoded(tmp_path / "absent.wav")
        assert audit(recording).problem is None
        np.testing.assert_array_equal(decoded(recording), expected)
        assert pids() == first


def test_the_audit_finds_what_decoding_finds(recording: Path) -> None:
    decoder = Decoder(recording)
    samples = np.concatenate(list(decoder.blocks()))
    found = audit(recording)
    assert vars(found) | {"content": "", "samples": 0} == vars(decoder.recording) | {"samples": 0}
    louder = recording.with_name("louder.wav")
    sf.write(louder, samples, 16_000, subtype="FLOAT")
    assert audit(louder).content == found.content, "equal samples, whatever holds them"


def test_two_recordings_at_once(recording: Path) -> None:
    pairs = list(zip(blocks_isolated(recording), blocks_isolated(recording), strict=True))
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)
    assert len(set(pids())) == 2


def test_a_process_left_in_the_middle_is_not_used_again(recording: Path) -> None:
    decoded(recording)
    (before,) = pids()
    blocks = blocks_isolated(recording)
    next(blocks)
    blocks.close()
    assert not is_running(before)
    np.testing.assert_array_equal(
        decoded(recording), np.concatenate(list(Decoder(recording).blocks()))
    )


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_an_idle_process_that_ended_is_replaced(recording: Path, kind: signal.Signals) -> None:
    expected = decoded(recording)
    (before,) = pids()
    os.kill(before, kind)
    wait_until_gone(before)
    np.testing.assert_array_equal(decoded(recording), expected)
    assert pids() != [before]


def test_each_file_has_the_whole_cpu_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "end = time.process_time() + 1.1\n    while time.process_time() < end: pass"
    child(monkeypatch, body, "isolate.CPU_SECONDS = 2")
    for _ in range(3):
        list(blocks_isolated(tmp_path / "x.wav"))
    assert len(pids()) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc/self/statm")
def test_a_process_that_grows_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its leak is never charged to a file."""
    setup = "kept = []; isolate.MEMORY = 400 << 20"
    child(monkeypatch, "kept.append(np.zeros(200 << 20, np.uint8))", setup)
    used = set()
    for _ in range(12):
        list(blocks_isolated(tmp_path / "x.wav"))
        used |= set(pids())
    assert 2 <= len(used) <= 4


def test_threads_share_the_processes(recording: Path) -> None:
    expected = decoded(recording)
    with ThreadPoolExecutor(4) as pool:
        for samples in pool.map(decoded, [recording] * 24):
            np.testing.assert_array_equal(samples, expected)
    assert len(set(pids())) == len(pids()) <= (os.cpu_count() or 1)


def _decode_in_worker(path: Path, connection: Connection) -> None:
    connection.send((len(isolate._idle), decoded(path), pids()))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_worker_has_its_own(recording: Path) -> None:
    expected = decoded(recording)
    ours, theirs = get_context("fork").Pipe()
    worker = get_context("fork").Process(target=_decode_in_worker, args=(recording, theirs))
    worker.start()
    n_idle, samples, other = ours.recv()
    worker.join()
    assert n_idle == 0
    np.testing.assert_array_equal(samples, expected)
    assert set(other).isdisjoint(pids())
    np.testing.assert_array_equal(decoded(recording), expected)


def test_the_working_directory_may_change(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = decoded(recording)
    monkeypatch.chdir(recording.parent)
    np.testing.assert_array_equal(decoded(Path(recording.name)), expected)


PARENT = """
import os, sys, time
from slslib.data import isolate
blocks = isolate.blocks_isolated(sys.argv[1])
next(blocks)
if sys.argv[2] == "idle":
    list(blocks)
    pid = isolate._idle[0].pid
else:
    pid = blocks.gi_frame.f_locals["process"].pid
try:
    print(pid, flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    blocks.close()
    print(isolate._idle != [] or len(list(isolate.blocks_isolated(sys.argv[1]))) > 0)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_it_does_not_outlive_a_killed_parent(recording: Path, tmp_path: Path, state: str) -> None:
    path = recording if state == "idle" else write_bomb(tmp_path / "x.flac", 400)
    command = [sys.executable, "-c", PARENT, path, state]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    wait_until_gone(pid)


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_ctrl_c_is_the_parents_business(recording: Path, tmp_path: Path, state: str) -> None:
    path = recording if state == "idle" else write_bomb(tmp_path / "x.flac", 400)
    command = [sys.executable, "-c", PARENT, path, state]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, start_new_session=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        os.killpg(parent.pid, signal.SIGINT)
        out, error = parent.communicate(timeout=60)
    assert (out.split(), error) == ([b"True"], b"")
    wait_until_gone(pid)
