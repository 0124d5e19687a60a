"""Decode an untrusted file in a process of its own, within limits.

A decoder is C code that reads hostile bytes. Here it runs in a fresh interpreter. POSIX
``setrlimit`` limits its memory (not on macOS), CPU time, open files and written files, and an alarm
limits the time for a block. The child writes the samples to its standard output, or to its standard
error why it refuses the file. A crash or a kill becomes an :class:`~slslib.errors.AudioError`, as
any other bad file does. This contains accidents and exhausted resources. It is no sandbox: the
child has the user's rights.

:mod:`multiprocessing` and process pools are not used. They either run the caller's main script
again, which then never ends if it has no guard, or copy a process that has threads running.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from slslib.data.audio import Decoder, Mono
from slslib.errors import AudioError

MEMORY = 512 << 20
"""Bytes of address space beyond those of the interpreter with its libraries."""
CPU_SECONDS = 60
"""CPU time, of which starting takes about one second, beside that for the file's size."""
BYTES_PER_SECOND = 100_000
"""What is decoded in a second of CPU time at least; hours in a small file are a trap."""
WALL_SECONDS = 120
"""Time to decode one block of samples."""

# -P: nothing is imported from the working directory.
_COMMAND = (sys.executable, "-P", "-m", "slslib.data.isolate")
_REFUSED = 3  # the exit status, where standard error says why


def blocks_isolated(path: str | os.PathLike[str], *, allow_silence: bool = False) -> Iterator[Mono]:
    """Do what :meth:`slslib.data.audio.Decoder.blocks` does, in another process and within limits.

    Silence at the beginning is accepted; that of the whole recording is not.

    Raises:
        AudioError: As :func:`slslib.data.audio.load`, and if the process crashed or broke a limit.
    """
    size = Path(path).stat().st_size if Path(path).is_file() else 0
    cpu_seconds = CPU_SECONDS + size // BYTES_PER_SECOND
    request = json.dumps([os.fspath(path), allow_silence, MEMORY, cpu_seconds, WALL_SECONDS])
    with subprocess.Popen(
        [*_COMMAND, request],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout and process.stderr
        try:
            while data := process.stdout.read(1 << 18):
                yield np.frombuffer(data[: len(data) // 4 * 4], "<f4").astype(np.float32)
            reason = process.stderr.read(1 << 16).decode(errors="replace")
            status = process.wait()
        finally:
            process.kill()
    if status == _REFUSED:
        raise AudioError(reason)
    if status:
        ending = f"was killed by {signal.Signals(-status).name}" if status < 0 else "failed"
        raise AudioError(f"{path}: the decoder {ending}; the file is damaged or hostile.")


def _restrict(memory: int, cpu_seconds: int) -> None:
    """Lower the limits of this process."""
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[0]) if statm.exists() else 1 << 18
    memory += pages * resource.getpagesize()
    for which, soft, hard in (
        (resource.RLIMIT_AS, memory, memory),
        # SIGXCPU comes at the soft limit; at the hard one SIGKILL, which says less.
        (resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
    ):
        # Refused where a lower limit holds already, and by macOS below present use.
        with suppress(ValueError, OSError):
            resource.setrlimit(which, (soft, hard))


def _serve(
    path: str, allow_silence: bool, memory: int, cpu_seconds: int, wall_seconds: int
) -> None:
    """Decode a file within limits; runs in the child."""
    stderr = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libmpg123 writes there
    _restrict(memory, cpu_seconds)
    signal.alarm(wall_seconds)
    try:
        for block in Decoder(path).blocks(allow_silence=allow_silence, heard=sys.maxsize):
            signal.alarm(0)  # the reader may take its time
            sys.stdout.buffer.write(block.astype("<f4").tobytes())
            signal.alarm(wall_seconds)
        return
    except AudioError as error:
        reason = str(error)
    except MemoryError:
        reason = f"{path}: decoding needs more than {memory >> 20} MB of memory."
    os.write(stderr, reason.encode(errors="replace")[: 1 << 16])
    sys.exit(_REFUSED)


if __name__ == "__main__":
    _serve(*json.loads(sys.argv[1]))
