"""Build the image of the Dockerfile, and use it as the page on installation says.

    python studies/image.py --out studies/results/image.json

This needs Docker. Where registries cannot be reached, make an image of this name before:

    debootstrap --variant=minbase --include=ca-certificates,python3-venv bookworm debian
    chroot debian python3 -m venv /usr/local
    tar -C debian -c . | docker import --change 'ENV PATH=/usr/local/bin:/usr/bin:/bin' - \
        python:3.11-slim

The container of `detect` has no network, and the page is fetched through the published port.
Memory is the most that the container's first process held resident.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from provenance import ROOT, provenance, write

WHAT = "the image of the Dockerfile, built and used by Docker: size, seconds, memory"
NAME = "slslib"  # of the image and, while it serves the page, of the container
PEAK = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""


def docker(*words: str) -> str:
    """Call Docker; return what it prints."""
    done = subprocess.run(["docker", *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def build(network: str) -> dict[str, Any]:
    """Build the image, nothing of it being kept from before."""
    start = time.perf_counter()
    docker("build", "--quiet", "--no-cache", "--network", network, "-t", NAME, str(ROOT))
    seconds = time.perf_counter() - start
    sizes = [int(docker("image", "inspect", "-f", "{{.Size}}", one)) for one in (NAME, base())]
    return {"seconds": seconds, "mb": sizes[0] / 1e6, "mb_of_base": sizes[1] / 1e6}


def base() -> str:
    """Return the image that the Dockerfile begins with."""
    return re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0]


def detect(folder: Path) -> dict[str, Any]:
    """Score a recording in a container without a network."""
    noise = np.random.default_rng(0).normal(0, 0.1, 160_000)
    sf.write(folder / "call.wav", noise, 16_000)
    command = ["docker", "run", "--rm", "--network", "none", "-v", f"{folder}:/data:ro"]
    command += ["--entrypoint", "python", NAME, "-c", PEAK]
    command += ["slslib", "detect", "call.wav", "--checkpoint", "mini", "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    (row,) = json.loads(done.stdout)["files"]
    peak = int(done.stderr.split()[-1]) * 1024 / 1e9
    return {"llr": row["llr"], "seconds": seconds, "peak_gb": peak}


def page() -> dict[str, Any]:
    """Serve the page, and fetch it through the published port."""
    start = time.perf_counter()
    serve = ["--entrypoint", "python", NAME, "-m", "slsapp", "--host", "0.0.0.0"]
    docker("run", "--rm", "-d", "--name", NAME, "-p", "127.0.0.1::7860", *serve)
    try:
        answer = fetch(f"http://{docker('port', NAME, '7860')}/")
        seconds = time.perf_counter() - start
        assert b"slslib" in answer
        held = re.findall(r"VmHWM:\s+(\d+)", docker("exec", NAME, "cat", "/proc/1/status"))
        return {"seconds": seconds, "peak_gb": int(held[0]) * 1024 / 1e9}
    finally:
        docker("rm", "-f", NAME)


def fetch(url: str, patience_s: float = 120) -> bytes:
    """Return what an address answers, as soon as it does."""
    end = time.monotonic() + patience_s
    while True:
        with suppress(OSError):  # not there yet
            return urllib.request.urlopen(url, timeout=60).read()
        if time.monotonic() > end:
            raise SystemExit(f"{url} does not answer")
        time.sleep(0.1)


def main() -> None:
    """Build, use, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="default", help="of the build, as docker says it")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    where = provenance("numpy")
    where["versions"]["docker"] = docker("version", "-f", "{{.Server.Version}}")
    result: dict[str, Any] = {"build": build(args.network)}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # the image's user reads it
        result |= {"detect": detect(Path(folder)), "page": page()}
    write(args.out, WHAT, where, result)


if __name__ == "__main__":
    main()
