"""Decode untrusted files in a process of its own.

A decoder is C code that reads hostile bytes. Here it runs in a fresh interpreter that answers with
one line of JSON for each window (:func:`windows_isolated`) or file (:func:`audit_isolated`), and
whose answers are checked and bounded. A crash, a kill or a timeout is an
:class:`~slslib.errors.AudioError`, or the problem of one audited file, like any other bad file.

Windows are made within limits on memory, CPU time, open files and written files; those of POSIX
``setrlimit``, of which macOS ignores the one on memory. This contains accidents and resource
exhaustion. It is no sandbox: the child runs with the user's rights.

No pool of processes is used, because those start with :mod:`multiprocessing`, which runs the
caller's main script again (so that a script without a guard never ends) and imports from the
working directory, or copies a process that has threads running.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slslib.data.audio import N_SAMPLES, FileAudit, Mono, audit, windows
from slslib.errors import AudioError, ConfigError

# -P: nothing is imported from the working directory.
_COMMAND = [sys.executable, "-P", "-m", "slslib.data.isolate"]
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_Path = str | os.PathLike[str]
_LONGEST_WINDOW = 1 << 18  # samples
_LONGEST_ANSWER = 2 << 20  # bytes; a window takes 16 for each 3 samples


@dataclass(frozen=True)
class Limits:
    """What the decoding process may use.

    Attributes:
        memory: Bytes of address space beyond those of the interpreter with its libraries.
        cpu_seconds: CPU time, of which starting takes about one second.
        wall_seconds: Time to wait for the next answer of the process.
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
    if not 0 < n_samples <= _LONGEST_WINDOW:
        raise ConfigError(f"n_samples is {n_samples}; give 1 to {_LONGEST_WINDOW}")
    limits = limits or Limits()
    options = {"n_samples": n_samples, "hop": hop, "allow_silence": allow_silence}
    process = _start([path], options, limits)
    try:
        while answer := _answer(process, path, limits):
            if "error" in answer:
                raise AudioError(answer["error"])
            yield _window(answer, path, n_samples)
    finally:
        _stop(process)


def audit_isolated(
    paths: Sequence[str | os.PathLike[str]], *, allow_silence: bool = False
) -> Iterator[FileAudit]:
    """Do what :func:`slslib.data.audio.audit` does with each file, in order, in another process.

    The process starts at once and works ahead of the caller. A crash is a problem of the file that
    it was at; another process goes on behind it.
    """
    options = {"allow_silence": allow_silence}
    return _audits(_start(paths, options), paths, options)


def _audits(
    process: subprocess.Popen[bytes],
    paths: Sequence[_Path],
    options: dict[str, Any],
) -> Iterator[FileAudit]:
    try:
        for done, path in enumerate(paths, 1):
            try:
                report = FileAudit(**_answer(process, path, Limits()))
            except AudioError as error:
                report = FileAudit(os.fspath(path), problem=str(error))
                _stop(process)
                process = _start(paths[done:], options)
            yield report
    finally:
        _stop(process)


def _start(
    paths: Sequence[_Path], options: dict[str, Any], limits: Limits | None = None
) -> subprocess.Popen[bytes]:
    request = [[os.fspath(path) for path in paths], options, limits and asdict(limits)]
    with tempfile.TemporaryFile("w+") as file:  # longer than arguments or a pipe may be
        json.dump(request, file)
        file.seek(0)
        return subprocess.Popen(
            _COMMAND,
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libmpg123 writes there
            env=os.environ | _ONE_THREAD,
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    with process:  # closes the pipe and waits
        process.kill()


def _answer(process: subprocess.Popen[bytes], path: _Path, limits: Limits) -> dict[str, Any]:
    """Return the child's next answer, or raise what became of the child."""
    assert process.stdout is not None
    end = time.monotonic() + limits.wall_seconds
    timer = threading.Timer(limits.wall_seconds, process.kill)
    timer.start()
    try:
        line = process.stdout.readline(_LONGEST_ANSWER)
    finally:
        timer.cancel()
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(answer := json.loads(line), dict):
            return answer
    late = time.monotonic() >= end
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    code = process.returncode
    why = f"ended without a result (exit status {code})"
    if late:
        why = f"gave no answer for more than {limits.wall_seconds:g} s"
    elif code is not None and code < 0:
        why = f"was killed by {signal.Signals(-code).name}"
    raise AudioError(f"{path}: the decoder {why}; the file is damaged or hostile: do not use it.")


def _window(answer: dict[str, Any], path: _Path, n_samples: int) -> tuple[float, Mono]:
    """Return start and samples of a window, if they are that."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        window = np.frombuffer(b64decode(answer["samples"]), "<f4").astype(np.float32)
        if len(window) == n_samples and np.isfinite(window).all():
            return float(answer["start"]), window
    raise AudioError(f"{path}: the decoder returned something else than {n_samples} samples.")


def _restrict(limits: Limits) -> None:
    """Lower the limits of this process."""
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[0]) if statm.exists() else 1 << 18
    memory = limits.memory + pages * resource.getpagesize()
    for which, soft, hard in (
        (resource.RLIMIT_AS, memory, memory),
        # SIGXCPU comes at the soft limit; at the hard one SIGKILL, which says less.
        (resource.RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds + 1),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
    ):
        # Refused where a lower limit holds already, and by macOS below present use.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(which, (soft, hard))


def _answers(
    paths: list[str], options: dict[str, Any], limits: dict[str, Any] | None
) -> Iterator[dict[str, Any]]:
    """Audit files, or make windows of one within limits; runs in the child."""
    if limits is None:
        for path in paths:
            yield vars(audit(path, **options))
        return
    _restrict(Limits(**limits))
    try:
        for start, samples in windows(paths[0], **options):
            yield {"start": start, "samples": b64encode(samples.astype("<f4").tobytes()).decode()}
        yield {}
    except AudioError as error:
        yield {"error": str(error)}
    except MemoryError:
        megabytes = limits["memory"] >> 20
        yield {"error": f"{paths[0]}: decoding needs more than {megabytes} MB of memory."}


def _serve() -> None:
    for answer in _answers(*json.load(sys.stdin)):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
