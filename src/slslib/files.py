"""Hashes of files, and the folder that keeps what was fetched or computed once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def cache_root() -> Path:
    """Return ``$SLSLIB_CACHE``, or ``~/.cache/slslib``."""
    return Path(os.environ.get("SLSLIB_CACHE") or Path.home() / ".cache" / "slslib")


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def git_sha1(path: str | Path) -> str:
    """Return the name that git gives to the content of a (small) file: a SHA-1 in hexadecimal."""
    content = Path(path).read_bytes()
    header = b"blob %d\0" % len(content)
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()
