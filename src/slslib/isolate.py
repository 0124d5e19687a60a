"""Decode an untrusted file in a process of its own.

A decoder is C code that reads hostile bytes. Here it runs in a fresh interpreter with limits on
memory, CPU time, open files and written files, and returns samples through a pipe whose reader
believes nothing: every length is bounded before it is read. A crash, a kill or a timeout is an
:class:`~slslib.errors.AudioError` like any other bad file.

The limits are those of POSIX ``setrlimit``. Where the module :mod:`resource` is missing (Windows),
only the timeout and the bounds of the pipe hold; macOS ignores the limit on memory. This contains
accidents and resource exhaustion. It is no sandbox: the child runs with the user's rights.

:class:`Auditor` uses the same arrangement, without limits, for the many files of a corpus.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from slslib.audio import N_SAMPLES, FileAudit, Mono, audit, windows
from slslib.errors import AudioError, ConfigError

_COMMAND = [sys.executable, "-P", "-m", "slslib.isolate"]  # -P: nothing from the working directory
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
    """Do what :func:`slslib.audio.windows` does, in another process and within limits.

    The time that the caller spends on a window does not count.

    Args:
        path: The file.
        n_samples: Length of a window, at 16 kHz.
        hop: Samples from the start of a window to that of the next.
        allow_silence: As in :func:`slslib.audio.windows`.
        limits: What the process may use; by default ``Limits()``.

    Raises:
        AudioError: As :func:`slslib.audio.windows`, and if the process crashed or broke a limit.
    """
    if not 0 < n_samples <= _LONGEST:
        raise ConfigError(f"n_samples is {n_samples}; give 1 to {_LONGEST}")
    options = {"n_samples": n_samples, "hop": hop, "allow_silence": allow_silence}
    for kind, payload in _messages(path, options, limits or Limits()):
        if kind == b"S":
            if len(payload) != 8 + 4 * n_samples:
                raise AudioError(f"{path}: the decoder returned a window of another length.")
            yield struct.unpack("<d", payload[:8])[0], _floats(path, payload[8:])


class Auditor:
    """A process that audits one file after the other; a context manager.

    Its own interpreter, not one of :mod:`multiprocessing`: those import the caller's main script
    again, or copy a process that has threads running; and a pool cannot tell on which file a
    decoder crashed.
    """

    def __init__(self, allow_silence: bool) -> None:
        self._allow_silence = allow_silence
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Auditor:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def audit(self, path: str | os.PathLike[str]) -> FileAudit:
        """Do what :func:`slslib.audio.audit` does; a crash is a problem of the file."""
        if self._process is None:
            self._process = subprocess.Popen(
                _COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libmpg123 writes there
                text=True,
                env=os.environ | _ONE_THREAD,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([os.fspath(path), self._allow_silence]) + "\n")
            self._process.stdin.flush()
        if reply := self._process.stdout.readline():
            return FileAudit(**json.loads(reply))
        code = self._process.wait()
        self.__exit__()
        problem = (
            f"{path}: the decoder crashed on it (exit status {code}); the file is damaged or "
            "hostile: fetch or make it again."
        )
        return FileAudit(str(path), problem=problem)


def _messages(
    path: str | os.PathLike[str], options: dict[str, Any], limits: Limits
) -> Iterator[tuple[bytes, bytes]]:
    """Run the decoder and yield its messages: windows ``S``, and ``R`` after the last."""
    # JSON, because it also carries names that are not valid UTF-8. ``abspath``: no option, no URL.
    argument = json.dumps([str(Path(path).absolute()), options, asdict(limits)])
    process = subprocess.Popen(
        [*_COMMAND, argument],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # libmpg123 writes there; errors come through the pipe
        env=os.environ | _ONE_THREAD,
    )
    assert process.stdout is not None
    left = limits.wall_seconds
    try:
        while True:
            started = time.monotonic()
            timer = threading.Timer(left, process.kill)
            timer.start()
            try:
                kind, payload = _receive(process.stdout)
            finally:
                timer.cancel()
                left -= time.monotonic() - started
            if left <= 0:
                raise AudioError(
                    f"{path}: decoding took more than {limits.wall_seconds:g} s and was stopped; "
                    "the file is hostile or very long: raise the limit, or read a part of it."
                )
            if kind == b"E":
                raise AudioError(payload.decode("utf-8", "replace"))
            if kind not in (b"S", b"R"):
                raise AudioError(f"{path}: {_death(process, limits)}.")
            yield kind, payload
            if kind == b"R":
                return
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def _receive(pipe: IO[bytes]) -> tuple[bytes, bytes]:
    """Read kind (1 byte), length (4) and payload of a message; ``(b"", b"")`` at a broken end."""
    head = pipe.read(5)
    if len(head) < 5 or (length := int.from_bytes(head[1:], "little")) > _MAX_MESSAGE:
        return b"", b""
    payload = pipe.read(length)
    return (head[:1], payload) if len(payload) == length else (b"", b"")


def _death(process: subprocess.Popen[bytes], limits: Limits) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    code = process.returncode
    if code is not None and -code == getattr(signal, "SIGXCPU", None):
        why = f"used more than {limits.cpu_seconds} s of CPU time and was stopped"
    elif code is not None and code < 0:
        why = f"was killed by {signal.Signals(-code).name}"
    else:
        why = f"ended without a result (exit status {code})"
    return f"the decoder {why}; the file is damaged or hostile: do not use it"


def _floats(path: str | os.PathLike[str], payload: bytes) -> Mono:
    samples = np.frombuffer(payload, "<f4").astype(np.float32)
    if not np.isfinite(samples).all():
        raise AudioError(f"{path}: the decoder returned NaN or infinite samples.")
    return samples


def _restrict(limits: Limits) -> None:
    """Lower the limits of this process."""
    try:
        import resource
    except ImportError:  # Windows
        return
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        taken = pages * resource.getpagesize()
    except OSError:  # no /proc
        taken = 1 << 30
    wanted = {
        resource.RLIMIT_AS: limits.memory + taken,
        resource.RLIMIT_CPU: limits.cpu_seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    for which, value in wanted.items():
        # SIGXCPU comes at the soft limit; at the hard one SIGKILL, which says less.
        ceiling = value + (which == resource.RLIMIT_CPU)
        hard = resource.getrlimit(which)[1]
        if hard != resource.RLIM_INFINITY:
            value, ceiling = min(value, hard), min(ceiling, hard)
        # macOS refuses some limits below present use.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(which, (value, ceiling))


def _audit_all() -> None:
    """Audit the files named on stdin, one JSON line each; runs in the child of an Auditor."""
    for line in sys.stdin:
        path, allow_silence = json.loads(line)
        found = asdict(audit(path, allow_silence=allow_silence))
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


def _serve(argument: str, pipe: IO[bytes]) -> None:
    """Decode as asked and write messages; runs in the child."""

    def send(kind: bytes, payload: bytes) -> None:
        pipe.write(kind + len(payload).to_bytes(4, "little") + payload)

    path, options, limits = json.loads(argument)
    _restrict(Limits(**limits))
    try:
        for start, window in windows(path, **options):
            send(b"S", struct.pack("<d", start) + window.astype("<f4").tobytes())
            pipe.flush()
        send(b"R", b"")
    except AudioError as error:
        send(b"E", str(error).encode("utf-8", "replace"))
    except MemoryError:
        megabytes = limits["memory"] >> 20
        send(b"E", f"{path}: decoding needs more than {megabytes} MB of memory.".encode())
    pipe.flush()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _serve(sys.argv[1], sys.stdout.buffer)
    else:
        _audit_all()
