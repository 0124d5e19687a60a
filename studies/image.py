"""Run the steps of the Dockerfile in a folder of Debian, and use what they made.

    debootstrap --variant=minbase --include=ca-certificates,python3-venv bookworm debian
    cp torch-*.whl debian/opt/wheels  # where download.pytorch.org cannot be reached; PIP_FIND_LINKS
    python studies/image.py debian --out studies/results/image.json

This stands in for `docker build` where there is no Docker; it needs root. A virtual environment in
/usr/local stands for the Python of the base image. pip's settings (PIP_*) and certificates are
those of this machine. Then, as the image's user, `slslib detect` scores a recording without a
network, and the page is served and fetched through this machine's address. Memory is the most that
a process held resident.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from provenance import ROOT, provenance, write

WHAT = "the steps of the Dockerfile in a folder of Debian: size, start, memory of what they made"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
PEAK = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""


class Image:
    """A folder of Debian, and the user, folder and command that the steps have set."""

    def __init__(self, root: Path) -> None:
        self.root, self.user, self.folder, self.entry = root, "root", "/", [""]

    def command(self, words: list[str], *unshared: str) -> list[str]:
        """Return what runs a command inside; with --net it has no network."""
        env = ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        env += [f"{name}={value}" for name, value in os.environ.items() if name[:4] == "PIP_"]
        inside = f"export HOME=~{self.user} && cd {self.folder} && exec {shlex.join(words)}"
        chroot = ["chroot", f"--userspec={self.user}", str(self.root), "env", "-i", *env]
        shell = f"mount -t proc proc {shlex.quote(f'{self.root}/proc')} && "
        shell += f"exec {shlex.join([*chroot, 'sh', '-c', inside])}"
        flags = ["--mount", "--pid", "--fork", "--kill-child", *unshared]
        return ["unshare", *flags, "sh", "-c", shell]

    def step(self, kind: str, rest: str) -> None:
        """Do one step of a Dockerfile."""
        if kind == "WORKDIR":
            self.folder = rest
            (self.root / rest[1:]).mkdir(parents=True, exist_ok=True)
        elif kind == "COPY":
            *sources, target = rest.split()
            for source in sources:
                where = self.root / self.folder[1:] / target
                if (ROOT / source).is_dir():
                    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
                    shutil.copytree(ROOT / source, where, ignore=ignored)
                else:
                    shutil.copy(ROOT / source, where)
        elif kind == "RUN":
            subprocess.run(self.command(["sh", "-c", rest]), check=True)
        elif kind == "USER":
            self.user = rest
        elif kind == "ENTRYPOINT":
            self.entry = json.loads(rest)

    def megabytes(self) -> float:
        """Return what the files take."""
        said = subprocess.run(["du", "-xsk", self.root], check=True, capture_output=True, text=True)
        return int(said.stdout.split()[0]) * 1024 / 1e6


def detect(image: Image) -> dict[str, Any]:
    """Score a recording without a network."""
    noise = np.random.default_rng(0).normal(0, 0.1, 160_000)
    sf.write(image.root / "data" / "call.wav", noise, 16_000)
    words = [*image.entry, "detect", "call.wav", "--checkpoint", "mini", "--json"]
    command = image.command(["python", "-c", PEAK, *words], "--net")
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    (row,) = json.loads(done.stdout)["files"]
    peak = int(done.stderr.split()[-1]) * 1024 / 1e9
    return {"llr": row["llr"], "seconds": seconds, "peak_gb": peak}


def own_address() -> str:
    """Return an address of this machine that is not the loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("192.0.2.1", 9))  # sends nothing
        return one.getsockname()[0]


def peak_gb(root: Path) -> float:
    """Return the most that the processes in a folder held, taken together."""
    peaks = []
    for one in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is not ours
            if (one / "root").readlink() == root:
                peaks += re.findall(r"VmHWM:\s+(\d+)", (one / "status").read_text())
    return sum(map(int, peaks)) * 1024 / 1e9


def page(image: Image) -> dict[str, Any]:
    """Serve the page at all addresses, and fetch it through another than the loopback's."""
    with socket.create_server(("0.0.0.0", 0)) as free:
        port = free.getsockname()[1]
    command = image.command(["python", "-m", "slsapp", "--host", "0.0.0.0", "--port", str(port)])
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            answer = fetch(f"http://{own_address()}:{port}/")
            seconds = time.perf_counter() - start
            assert b"slslib" in answer
            return {"seconds": seconds, "peak_gb": peak_gb(image.root)}
        finally:
            process.kill()  # unshare holds SIGTERM back


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
    parser.add_argument("folder", type=Path, help="of Debian, as debootstrap makes it; is changed")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    where = provenance("numpy")
    image = Image(args.folder.resolve())
    subprocess.run(image.command(["python3", "-m", "venv", "/usr/local"]), check=True)
    for name in (CERTIFICATES, "etc/hosts", "etc/resolv.conf"):
        shutil.copy(Path("/", name), image.root / name)
    before, start = image.megabytes(), time.perf_counter()
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            image.step(*line.split(maxsplit=1))
    result: dict[str, Any] = {"steps": {"seconds": time.perf_counter() - start}}
    result["steps"] |= {"mb_before": before, "mb_after": image.megabytes()}
    result |= {"detect": detect(image), "page": page(image)}
    write(args.out, WHAT, where, result)


if __name__ == "__main__":
    main()
