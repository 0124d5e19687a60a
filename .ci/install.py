"""Fill a virtual environment with slslib and the pinned packages of constraints.txt.

Run by the Makefile: `python3.11 .ci/install.py VENV [TORCH_INDEX]`. Standard library only.

* Only wheels are installed: no compiler is needed.
* `VENV/.slslib-installing` exists while an install runs. Where an earlier one was interrupted, the
  environment is emptied first, because a half-written package can look complete to pip.
* `VENV/.slslib-installed` is written last. It holds the TORCH_INDEX that PyTorch came from.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

EXTRAS = "book,test"
NEEDED_GB = 4.0
PIP_FLAGS = ["--disable-pip-version-check", "--no-input", "--only-binary", ":all:"]


class InstallError(Exception):
    """The environment cannot be made; the message says why and what to do."""


def say(text: str) -> None:
    """Print one progress line."""
    print(f"slslib: {text}", flush=True)


def check_disk(folder: Path) -> None:
    """Refuse to start where the packages will not fit."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    if free < NEEDED_GB:
        raise InstallError(
            f"{free:.1f} GB are free on the disk of {folder}, and the packages need about "
            f"{NEEDED_GB:.0f} GB. Free some space, or choose another disk with "
            "`make VENV=/path/to/venv`."
        )


def create(env: Path) -> None:
    """Create the environment, or empty the one that an interrupted install left."""
    interrupted = (env / ".slslib-installing").exists()
    if env.exists() and any(env.iterdir()) and not (env / "pyvenv.cfg").exists():
        raise InstallError(
            f"{env} exists and is not a virtual environment. Move it away, or choose another "
            "folder with `make VENV=/path/to/venv`."
        )
    if (env / "bin/python").exists() and not interrupted:
        probe = "import sys, pip; print('%d.%d' % sys.version_info[:2])"
        check = subprocess.run([env / "bin/python", "-c", probe], capture_output=True, text=True)
        version, ours = check.stdout.strip(), f"{sys.version_info.major}.{sys.version_info.minor}"
        if version == ours:
            return
        if version:
            raise InstallError(
                f"{env} holds Python {version}, and the pinned packages are for {ours}. Remove it, "
                "or choose another folder with `make VENV=/path/to/venv`."
            )
    say(f"creating {env} with Python {sys.version.split()[0]}")
    venv.create(env, clear=env.exists(), with_pip=True, symlinks=True)


def pip(env: Path, what: str, *arguments: str) -> None:
    """Run `pip install`, log to VENV/install.log and show one line that moves on a terminal."""
    say(what)
    log, start, n_seen = env / "install.log", time.monotonic(), 0
    command = [env / "bin/python", "-m", "pip", "install", *PIP_FLAGS, *arguments]
    with (
        log.open("a") as out,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            out.write(line)
            n_seen += line.startswith(("Collecting", "Processing"))
            if sys.stdout.isatty():
                seconds = time.monotonic() - start
                print(f"\r        {n_seen} packages, {seconds:.0f} s ", end="", flush=True)
    if sys.stdout.isatty():
        print("\r" + " " * 40 + "\r", end="")
    if process.returncode:
        raise InstallError(explain(log))


def explain(log: Path) -> str:
    """Turn the end of pip's log into one sentence with a remedy."""
    text = log.read_text(errors="replace")[-20000:]
    if re.search(r"No space left on device|Errno 28|Disk quota exceeded|Errno 122", text):
        return (
            f"the disk is full: pip could not write its files. Free about {NEEDED_GB:.0f} GB on "
            "the disk of the environment and of TMPDIR, then run make again."
        )
    if re.search(r"NewConnectionError|ConnectTimeout|Name or service|Network is unreachable", text):
        return (
            f"the package index cannot be reached. Check the network or pip's configuration, then "
            f"run make again. Log: {log}"
        )
    errors = re.findall(r"^ERROR: (.+)$", text, flags=re.MULTILINE)
    cause = errors[-1] if errors else "pip failed"
    return f"{cause.strip()} (the whole log: {log})"


def install(env: Path, torch_index: str) -> None:
    """Make the environment complete and current."""
    root = Path(__file__).resolve().parent.parent
    stamp, started = env / ".slslib-installed", time.monotonic()
    previous_index = stamp.read_text().strip() if stamp.exists() else ""
    if not stamp.exists():
        check_disk(env.absolute())
    create(env)
    marker = env / ".slslib-installing"
    marker.touch()
    stamp.unlink(missing_ok=True)
    (env / "install.log").unlink(missing_ok=True)

    constraints = str(root / "constraints.txt")
    pins = Path(constraints).read_text()
    torch = next(line for line in pins.splitlines() if line.startswith("torch=="))
    chosen = ["--index-url", torch_index] if torch_index else []
    if torch_index and torch_index != previous_index:
        subprocess.run(
            [env / "bin/python", "-m", "pip", "uninstall", "-q", "-y", "torch"], capture_output=True
        )
    source = torch_index or "pip's configured index"
    pip(env, f"installing {torch} from {source}", torch, *chosen)
    n_pins = sum("==" in line for line in pins.splitlines())
    what = f"installing slslib and its packages (at most {n_pins}; a few minutes the first time)"
    pip(env, what, "-c", constraints, "-e", f"{root}[{EXTRAS}]")

    stamp.write_text((torch_index or previous_index) + "\n")
    marker.unlink()
    say(f"{env} is ready after {time.monotonic() - started:.0f} s")


def main() -> int:
    """Run the installation; print one line and return 1 where it cannot be done."""
    env, torch_index = Path(sys.argv[1]), (sys.argv[2:] or [""])[0]
    try:
        install(env, torch_index)
    except InstallError as error:
        message = str(error)
    except OSError as error:
        message = f"{error}. Check that the disk is writable and not full, then run make again."
    except subprocess.CalledProcessError as error:
        detail = (error.output or b"").decode(errors="replace").strip().splitlines()[-1:]
        message = (
            f"creating the environment failed ({' '.join(detail) or error}). Is the disk full?"
        )
    except KeyboardInterrupt:
        message = "interrupted; run make again to install from the start."
    else:
        return 0
    with contextlib.suppress(BrokenPipeError):
        print(f"slslib: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
