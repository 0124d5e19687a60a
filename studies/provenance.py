"""Where a measurement comes from: written beside every number that a script here measures."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def provenance(*packages: str) -> dict[str, Any]:
    """Return commit, command, machine and versions of Python and of some packages."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    status = subprocess.run([*git, "status", "--porcelain", "src"], capture_output=True, text=True)
    # Of absolute paths, which say nothing elsewhere, the last part.
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv]
    return {
        "commit": commit.stdout.strip() or None,
        "uncommitted_changes_in_src": bool(status.stdout.strip()),
        "command": " ".join(["python", f"studies/{Path(words[0]).name}", *words[1:]]),
        "machine": {"cpu": cpu(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
    }


def cpu() -> str:
    """Return the CPU model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write(out: Path, what: str, results: Any, *packages: str) -> None:
    """Write results as JSON, below what they are and where they come from."""
    content = {"what": what, "measured": provenance(*packages), "results": results}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
