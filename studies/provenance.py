"""Where a measurement comes from: the one layout of ``studies/results``.

Every file holds ``what`` was measured, its ``provenance`` and the ``results``. The provenance is
taken when a script starts: the commit, whether ``src`` or ``studies`` held uncommitted changes
(then measure again before the file is committed), the command at that commit, the day, the machine
and the versions.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def provenance(*packages: str) -> dict[str, Any]:
    """Return commit, command, day, machine and versions of Python and of some packages."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    paths = ["src", "studies", ":!studies/results"]
    changes = subprocess.run(
        [*git, "status", "--porcelain", "--", *paths], capture_output=True, text=True
    )
    # Of absolute paths, which say nothing elsewhere, the last part.
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv]
    return {
        "commit": commit.stdout.strip() or None,
        "uncommitted_changes": bool(changes.stdout.strip()),
        "command": " ".join(["python", f"studies/{Path(words[0]).name}", *words[1:]]),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
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


def write(out: Path, what: str, where: dict[str, Any], results: Any) -> None:
    """Write results as JSON, below what they are and where they come from."""
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {"what": what, "provenance": where, "results": results}
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read(name: str) -> Any:
    """Return the results that a file of ``studies/results`` holds, by its name without ending."""
    path = ROOT / "studies" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["results"]
