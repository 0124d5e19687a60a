"""Files: where data and caches lie, hashes, and writing that happens whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slslib.errors import FileError


def cache_root() -> Path:
    """Return ``$SLSLIB_CACHE``, or ``~/.cache/slslib``."""
    return Path(os.environ.get("SLSLIB_CACHE") or Path.home() / ".cache" / "slslib")


def corpora_root(data: str | Path | None = None) -> Path:
    """Return the folder that holds the corpora: ``data``, else ``$SLSLIB_DATA``, else here."""
    return Path(data or os.environ.get("SLSLIB_DATA") or ".")


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Give a temporary file beside ``path`` that takes its name at the end: all or nothing.

    A folder of files may be made there instead, for a ``path`` that is new.
    The bytes are flushed to the disk before the rename; a crash leaves the previous file as it
    was.

    Raises:
        FileError: If the disk is full, read-only or over quota.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.umask(mask := os.umask(0))
        for file in temporary.iterdir() if temporary.is_dir() else [temporary]:
            file.chmod(0o666 & ~mask)  # safetensors makes files that only their owner can read
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise FileError(
            f"cannot write {path}: {error}; free some space or choose another folder"
        ) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a small text file, all or nothing.

    Raises:
        FileError: If the disk is full, read-only or over quota.
    """
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
