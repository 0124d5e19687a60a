"""Decode an untrusted file in a process of its own.

A decoder is C code that reads hostile bytes. Here it runs in a fresh interpreter with limits on
memory, CPU time, open files and written files, and returns samples through a pipe whose reader
believes nothing: every length is bounded before it is read. A crash, a kill or a timeout is an
:class:`~slslib.errors.AudioError` like any other bad file.

The limits are those of POSIX ``setrlimit``; macOS ignores the one on memory. This contains
accidents and resource exhaustion. It is no sandbox: the child runs with the user's rights.

:func:`audit_isolated` uses the same arrangement, without limits, for the many files of a corpus.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np

from slslib.data.audio import N_SAMPLES, FileAudit, Mono, audit, windows
from slslib.errors import AudioError, ConfigError

_COMMAND = [
    sys.executable,
    "-P",
    "-m",
    "slslib.data.isolate",
]  # -P: nothing from the working directory
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_MAX_MESSAGE = 4 << 20
_LONGEST = 1 << 18  # samples of a window


@dataclass(frozen=True)
class Limits:
    """What the decoding process may use.

    Attributes:
        memory: Bytes of address space beyond those of the interpreter with its libraries.
        cpu_seconds: CPU time, of which starting takes about one second.
        wall_seconds: Time to wait for the process, in all.
    """

    memory: int = 512 << 20
    cpu_seconds: int = 60
    wall_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ConfigError(f"the limit {name} is {value}; give a positive number")


def windows_isolated(
    path: str | os.PathLike[str],
    n_samples: int = N_SAMPLES,
    hop: int = N_SAMPLES,
    *,
    allow_silence: bool = False,
    limits: Limits | None = None,
) -> Iterator[tuple[float, Mono]]:
    """Do what :func:`slslib.data.audio.windows` does, in another process and within limits.

    The time that the caller spends on a window does not count.

    Args:
        path: The file.
        n_samples: Length of a window, at 16 kHz.
        hop: Samples from the start of a window to that of the next.
        allow_silence: As in :func:`slslib.data.audio.windows`.
        limits: What the process may use; by default ``Limits()``.

    Raises:
        AudioError: As :func:`slslib.data.audio.windows`, and if the process crashed or broke a
            limit.
    """
    if not 0 < n_samples <= _LONGEST:
        raise ConfigError(f"n_samples is {n_samples}; give 1 to {_LONGEST}")
    limits = limits or Limits()
    options = {"n_samples": n_samples, "hop": hop, "allow_silence": allow_silence}
    # JSON, because it also carries names that are not valid UTF-8. ``absolute``: no option, no URL.
    argument = json.dumps([str(Path(path).absolute()), options, asdict(limits)])
    left = limits.wall_seconds
    process = _start(argument)
    try:
        while True:
            started = time.monotonic()
            timer = threading.Timer(left, process.kill)
            timer.start()
            try:
                kind, payload = _receive(process)
            finally:
                timer.cancel()
                left -= time.monotonic() - started
            if left <= 0:
                raise AudioError(
                    f"{path}: decoding took more than {limits.wall_seconds:g} s and was stopped; "
                    "the file is hostile or very long: raise the limit, or read a part of it."
                )
            if kind == b"R":
                return
            if kind == b"E":
                raise AudioError(payload.decode("utf-8", "replace"))
            if kind != b"S":
                raise AudioError(f"{path}: {_death(process, limits)}.")
            if len(payload) != 8 + 4 * n_samples:
                raise AudioError(f"{path}: the decoder returned a window of another length.")
            window = np.frombuffer(payload[8:], "<f4").astype(np.float32)
            if not np.isfinite(window).all():
                raise AudioError(f"{path}: the decoder returned NaN or infinite samples.")
            yield struct.unpack("<d", payload[:8])[0], window
    finally:
        _stop(process)


def audit_isolated(
    paths: Sequence[str | os.PathLike[str]], *, allow_silence: bool = False
) -> Iterator[FileAudit]:
    """Do what :func:`slslib.data.audio.audit` does with each file, in order, in another process.

    The process starts at once and works ahead of the caller. A crash is a problem of the file that
    it was at; another process goes on behind it. (No pool of :mod:`multiprocessing` does that, and
    those import the caller's main script again, or copy a process that has threads running.)
    """
    names = [os.fspath(path) for path in paths]
    return _audits(_start_audit(names, allow_silence), names, allow_silence)


def _audits(
    process: subprocess.Popen[bytes], names: list[str], allow_silence: bool
) -> Iterator[FileAudit]:
    done = 0
    while True:
        try:
            for reply in process.stdout or ():
                yield FileAudit(**json.loads(reply))
                done += 1
            code = process.wait()
        finally:
            _stop(process)
        if done >= len(names):
            return
        problem = (
            f"{names[done]}: the decoder crashed on it (exit status {code}); the file is damaged "
            "or hostile: fetch or make it again."
        )
        yield FileAudit(names[done], problem=problem)
        done += 1
        process = _start_audit(names[done:], allow_silence)


def _start_audit(names: list[str], allow_silence: bool) -> subprocess.Popen[bytes]:
    with tempfile.TemporaryFile("w+") as request:  # longer than arguments or a pipe may be
        json.dump([names, allow_silence], request)
        request.seek(0)
        return _start(stdin=request)


def _start(*arguments: str, stdin: int | IO[str] = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*_COMMAND, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # libmpg123 writes there; errors come through the pipe
        env=os.environ | _ONE_THREAD,
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    with process:  # closes the pipe and waits
        process.kill()


def _receive(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Read kind (1 byte), length (4) and payload of a message; ``(b"", b"")`` at a broken end."""
    assert process.stdout is not None
    head = process.stdout.read(5)
    if len(head) < 5 or (length := int.from_bytes(head[1:], "little")) > _MAX_MESSAGE:
        return b"", b""
    payload = process.stdout.read(length)
    return (head[:1], payload) if len(payload) == length else (b"", b"")


def _death(process: subprocess.Popen[bytes], limits: Limits) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    code = process.returncode
    if code == -signal.SIGXCPU:
        why = f"used more than {limits.cpu_seconds} s of CPU time and was stopped"
    elif code is not None and code < 0:
        why = f"was killed by {signal.Signals(-code).name}"
    else:
        why = f"ended without a result (exit status {code})"
    return f"the decoder {why}; the file is damaged or hostile: do not use it"


def _restrict(limits: Limits) -> None:
    """Lower the limits of this process."""
    statm = Path("/proc/self/statm")
    taken = (
        int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else 1 << 30
    )
    for which, soft, hard in (
        (resource.RLIMIT_AS, limits.memory + taken, limits.memory + taken),
        # SIGXCPU comes at the soft limit; at the hard one SIGKILL, which says less.
        (resource.RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds + 1),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
    ):
        # Refused where a lower limit holds already, and by macOS below present use.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(which, (soft, hard))


def _audit_all() -> None:
    """Audit the files that stdin names, one JSON line each; runs in the child."""
    names, allow_silence = json.load(sys.stdin)
    for name in names:
        found = audit(name, allow_silence=allow_silence)
        sys.stdout.write(json.dumps(vars(found)) + "\n")
        sys.stdout.flush()


def _serve(argument: str, pipe: IO[bytes]) -> None:
    """Decode as asked and write messages; runs in the child."""

    def send(kind: bytes, payload: bytes) -> None:
        pipe.write(kind + len(payload).to_bytes(4, "little") + payload)
        pipe.flush()

    path, options, limits = json.loads(argument)
    _restrict(Limits(**limits))
    try:
        for start, window in windows(path, **options):
            send(b"S", struct.pack("<d", start) + window.astype("<f4").tobytes())
        send(b"R", b"")
    except AudioError as error:
        send(b"E", str(error).encode("utf-8", "replace"))
    except MemoryError:
        megabytes = limits["memory"] >> 20
        send(b"E", f"{path}: decoding needs more than {megabytes} MB of memory.".encode())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _serve(sys.argv[1], sys.stdout.buffer)
    else:
        _audit_all()
