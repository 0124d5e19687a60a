"""Files: the folders of data and caches, hashes, and writing that is all or nothing.

A run that can be resumed records its inputs and settings before it begins. When it is resumed,
:func:`check_same` compares that record with the present ones.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from difflib import ndiff
from pathlib import Path
from typing import Any

from slslib.errors import ConfigError, FileError


def cache_root() -> Path:
    """Return ``$SLSLIB_CACHE``, or ``~/.cache/slslib``."""
    return Path(os.environ.get("SLSLIB_CACHE") or "~/.cache/slslib").expanduser()


def corpora_root(data: str | Path | None = None) -> Path:
    """Return the corpora's folder: ``data``, else ``$SLSLIB_DATA``, else the working directory."""
    return Path(data or os.environ.get("SLSLIB_DATA") or ".").expanduser()


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of(facts: Any) -> str:
    """Return the SHA-256 of ``facts``, serialised as JSON."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


# Process ids are valid within this machine and, on Linux, within a namespace (as in a container).
_NUMBERING = [Path("/"), *Path("/proc/self/ns").glob("pid")]
_HERE = sha256_of([os.uname().nodename, *(at.stat()[1:3] for at in _NUMBERING)])[:8]


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, renamed to ``path`` at the end: all or nothing.

    If ``path`` does not exist yet, the caller may make a folder of files instead of a file. A
    missing parent folder is created. The bytes are flushed to the disk before the rename, so a
    crash leaves the previous file as it was. (Files further down in a folder are the caller's to
    flush.) Half-written files that killed processes left beside ``path`` are removed. Whether a
    process of another machine or container lives is not known: its files go when they are a day
    old.

    Raises:
        FileError: If the disk is full, read-only or over quota.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    temporary = path.with_name(f".{path.name[:50]}.{os.getpid()}-{id(path)}-{_HERE}.tmp")
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError("it is a device or a pipe")
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in filter(_is_dead, path.parent.glob(".*.[0-9]*-????????.tmp")):
            _remove(left)
        yield temporary
        os.umask(mask := os.umask(0))
        for file in [f for f in (temporary, *temporary.glob("*")) if f.is_file()]:
            file.chmod(0o666 & ~mask)  # safetensors makes files that only their owner can read
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # PyTorch raises the latter for a full disk
        raise FileError(f"cannot write {path}: {error}; free space or write elsewhere") from error
    finally:
        _remove(temporary)


def _is_dead(temporary: Path) -> bool:
    """Tell whether no process writes a temporary file or folder any more."""
    try:
        if not temporary.stem.endswith(_HERE):
            return time.time() - temporary.stat().st_mtime > 86_400
        os.getpriority(os.PRIO_PROCESS, int(temporary.stem.split(".")[-1].split("-")[0]))
    except (FileNotFoundError, ProcessLookupError, ValueError, OverflowError):  # or no process id
        return True
    return False


def _remove(path: Path) -> None:
    """Remove a file or folder, if it exists and can be removed."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write a small text file, all or nothing.

    Raises:
        FileError: If the disk is full, read-only or over quota.
    """
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_json(path: str | Path, facts: Any) -> None:
    """Write a small JSON file, all or nothing.

    Raises:
        FileError: If the disk is full, read-only or over quota.
    """
    write_text(path, json.dumps(facts, indent=1) + "\n")


def lock(folder: str | Path) -> AbstractContextManager[Any]:
    """Return a context manager that holds a folder, which only one run may write.

    The folder is created if it does not exist.

    Raises:
        ConfigError: If another run holds the folder, or it cannot be written.
    """
    from filelock import FileLock

    try:
        return FileLock(Path(folder) / ".lock", timeout=0).acquire()
    except OSError as error:  # filelock's Timeout is one
        what = f"{folder} cannot be written, or another run is writing it ({error})"
        raise ConfigError(f"{what}; wait for that, or choose another --out") from error


def check_same(path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that a run wrote to ``path`` when it began, if they agree with ``facts``.

    Raises:
        ConfigError: If the file is damaged or does not agree; the message lists the differences.
    """
    try:
        began: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        then = {key: began.get(key) for key in facts}
    except (OSError, ValueError, AttributeError) as error:
        what = f"cannot resume: {path} is missing or damaged ({error})"
        raise ConfigError(f"{what}; remove {path.parent} to start again") from error
    old, new = (json.dumps(one, indent=1, sort_keys=True).splitlines() for one in (then, facts))
    changed = [" ".join(line.strip(",").split()) for line in ndiff(old, new) if line[0] in "-+"]
    if changed:
        what = f"{path.parent} holds a run with other inputs or settings (- there, + now)"
        remedy = "resume with those, or remove the folder to start again"
        raise ConfigError(f"{what}: {', '.join(changed)}; {remedy}")
    return began
