"""Decode untrusted files in a process of their own, within limits.

A decoder is C code that reads hostile bytes. Here it runs in another interpreter, which is started
once and decodes file after file. POSIX ``setrlimit`` limits what a file may take: memory (not on
macOS), CPU time, open files and written files. An alarm limits the time for a block. A process is
replaced if it crashed, broke a limit, has grown, or was left in the middle of a file. A crash or a
kill becomes an :class:`~slslib.errors.AudioError`, like any other bad file. This contains accidents
and exhausted resources. It is no sandbox: the process has the user's rights.

A request is one line of JSON on standard input; the end of the input ends the process. The answer
is blocks of samples, followed by what was found, as JSON. The length in bytes precedes each part;
before the last part, it has a minus sign.

:mod:`multiprocessing` and process pools are not used. They either run the caller's main script
again, which then never ends if it has no guard, or copy a process that has threads running.
"""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from resource import RLIMIT_AS, RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_NOFILE, getrlimit, setrlimit
from subprocess import DEVNULL, PIPE, Popen
from typing import Any

import numpy as np

from slslib.data.audio import N_SAMPLES, Decoder, Mono, Recording
from slslib.errors import AudioError

MEMORY = 512 << 20
"""Bytes of address space for a file, beyond those of the interpreter and its libraries."""
CPU_SECONDS = 60
"""CPU seconds for any file, in addition to those for its size."""
BYTES_PER_SECOND = 100_000
"""Bytes to be decoded per CPU second, at least. A small file that holds hours is a trap."""
WALL_SECONDS = 120
"""Seconds to decode one block of samples."""

# -P keeps Python from importing anything from the working directory.
_COMMAND = (sys.executable, "-P", "-c", "from slslib.data import isolate; isolate.serve()")
_idle: list[Popen[bytes]] = []
os.register_at_fork(after_in_child=_idle.clear)  # the pipes are the parent's


def blocks_isolated(
    path: str | os.PathLike[str], *, found: Recording | None = None, **options: Any
) -> Iterator[Mono]:
    """Do what :meth:`slslib.data.audio.Decoder.blocks` does, in another process and within limits.

    Args:
        path: A recording.
        found: A recording that is filled with what was found, at the end.
        options: Those of :class:`~slslib.data.audio.Decoder` and its ``blocks``, and ``is_audit``,
            which yields no block. By default, silence at the beginning is accepted, but not silence
            throughout.

    Raises:
        AudioError: As for :func:`slslib.data.audio.load`, and if the process crashed or broke a
            limit.
    """
    folder = "/" if Path(path).is_absolute() else str(Path.cwd())
    request = os.fspath(path), folder, {"heard": sys.maxsize} | options
    process, is_reusable = _start(), False
    assert process.stdin and process.stdout
    try:
        with suppress(BrokenPipeError):
            os.write(process.stdin.fileno(), json.dumps(request).encode() + b"\n")
        while length := int.from_bytes(process.stdout.read(4), "little", signed=True):
            data = process.stdout.read(abs(length))
            if len(data) == -length:
                facts, is_reusable = json.loads(data)
                break
            yield np.frombuffer(data, np.float32, len(data) // 4).copy()
        else:
            status = process.wait()
            ending = f"was killed by {signal.Signals(-status).name}" if status < 0 else "failed"
            raise AudioError(f"{path}: the decoder {ending}; the file is damaged or hostile.")
    finally:
        if is_reusable and len(_idle) < (os.cpu_count() or 1):
            _idle.append(process)
        else:
            with process:
                process.kill()
    vars(found or Recording("")).update(facts)
    if facts["problem"]:
        raise AudioError(facts["problem"])


def audit(
    path: str | os.PathLike[str], n_samples: int = N_SAMPLES, *, allow_silence: bool = False
) -> Recording:
    """Decode a whole file in another process, and say what it holds and what is wrong with it.

    Bad input raises no error: ``problem`` of the :class:`~slslib.data.audio.Recording` describes
    it. The first ``n_samples`` at 16 kHz, which a model hears, must not be silence.
    """
    audited = Recording(os.fspath(path))
    try:
        options = {"allow_silence": allow_silence, "heard": n_samples, "is_audit": True}
        list(blocks_isolated(path, found=audited, **options))
    except AudioError as error:
        audited.problem = str(error)
    return audited


def _start() -> Popen[bytes]:
    """Return a process that waits for a file: an idle one, or a new one."""
    with suppress(IndexError):
        if (process := _idle.pop()).poll() is None:
            return process
        process.communicate()  # closes the pipes
    env = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    # Otherwise glibc gives memory back to the kernel, and asks for it again, at each file.
    env |= {"MALLOC_TRIM_THRESHOLD_": str(1 << 26), "MALLOC_MMAP_THRESHOLD_": str(1 << 25)}
    # The process has its own group, so that Ctrl-C reaches only the parent.
    return Popen(_COMMAND, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=env, process_group=0)


def _restrict(path: Path) -> int:
    """Limit what this process may take for a file; return its present address space in bytes."""
    # Path.is_file() raises an error if it may not look there.
    vm, n_bytes = Path("/proc/self/statm"), path.stat().st_size if os.path.isfile(path) else 0  # noqa: PTH113
    size = int(vm.read_text().split()[0]) * os.sysconf("SC_PAGESIZE") if vm.exists() else MEMORY
    cpu_seconds = int(time.process_time()) + 1 + CPU_SECONDS + n_bytes // BYTES_PER_SECOND
    limits = {RLIMIT_AS: size + MEMORY, RLIMIT_CPU: cpu_seconds}
    for which, soft in {**limits, RLIMIT_FSIZE: 0, RLIMIT_NOFILE: 64}.items():
        # Refused if a lower limit holds already, and by macOS if it is below present use.
        with suppress(ValueError, OSError):
            setrlimit(which, (soft, getrlimit(which)[1]))  # a lower hard limit could not be raised
    return size


def serve() -> None:
    """Decode the files that standard input names, each within limits. This runs in the child."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints must not get into the answer
    for line in sys.stdin.buffer:
        path, folder, options = json.loads(line)
        is_audit, any_length = options.pop("is_audit", False), options.pop("any_length", False)
        os.chdir(folder)
        size = _restrict(Path(path))
        signal.alarm(WALL_SECONDS)
        decoder, content = Decoder(path, any_length=any_length), hashlib.md5(usedforsecurity=False)
        found = vars(decoder.recording)
        try:
            for block in decoder.blocks(**options):
                signal.alarm(0)  # the reader may take its time
                if is_audit:
                    content.update(block.data)
                elif len(block):
                    answers.write(block.nbytes.to_bytes(4, "little") + block.tobytes())
                signal.alarm(WALL_SECONDS)
            found["content"] = content.hexdigest()
        except AudioError as error:
            found["problem"] = str(error)
        except MemoryError:
            found["problem"] = f"{path}: decoding needs more than {MEMORY >> 20} MB of memory."
            size = sys.maxsize
        signal.alarm(0)
        del found["samples"]
        data = json.dumps([found, size < 2 * MEMORY]).encode()
        answers.write((-len(data)).to_bytes(4, "little", signed=True) + data)
        answers.flush()
