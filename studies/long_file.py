"""Measure what an hour of sound takes in `slslib detect`: time, and memory.

    python studies/long_file.py --out studies/results/long_file.json

The sound is noise in a FLAC file at 44.1 kHz, with the default hop. The command is the one that
people type, in a process of its own, loading included; memory is the most that it held resident,
and the most that the process held which decodes for it. Detectors: the packaged `mini`, and
XLS-R 300M with random weights (`--minutes 1` leaves out its hour, which took 24 minutes). `--plot`
is measured with 36,000 windows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

import numpy as np
import soundfile as sf
from provenance import provenance, write

from slslib.model.detector import Detector

WHAT = "time and memory of slslib detect on long files; noise, 44.1 kHz, one thread"
RATE = 44_100
# Prints the peaks of this process and of the one that decodes, in kB. (What getrusage gives for a
# new process is at least what its parent held.)
PROGRAM = """
import json, re, sys
from pathlib import Path
from slslib import cli
from slslib.data import isolate
status = cli.run(sys.argv[1:], as_json=True)
files = [Path(f"/proc/{pid}/status").read_text() for pid in ("self", isolate._idle[0].pid)]
peaks = [int(re.search(r"VmHWM:\\s+(\\d+)", text)[1]) for text in files]
print(json.dumps(peaks), file=sys.stderr)
sys.exit(status)
"""


def noise(path: Path, minutes: float) -> Path:
    """Write noise, minute by minute."""
    rng = np.random.default_rng(0)
    with sf.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for _ in range(round(60 * minutes)):
            file.write(rng.normal(0, 0.1, RATE).clip(-1, 1))
    return path


def measure(*arguments: object) -> dict[str, Any]:
    """Run the command; return its seconds and peaks, and how many windows there were."""
    command = [sys.executable, "-c", PROGRAM, "detect", *map(str, arguments)]
    before, start = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, after = time.perf_counter() - start, getrusage(RUSAGE_CHILDREN)
    (row,) = json.loads(done.stdout)["files"]
    own, decoder = json.loads(done.stderr.strip().splitlines()[-1])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "audio_s": row["duration_s"],
        "n_windows": len(row["windows"]),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_gb": own / 1e6,
        "decoder_peak_gb": decoder / 1e6,
    }


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mini", type=int, default=60, help="minutes for mini")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 60], help="for XLS-R 300M")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    where = provenance("torch", "soundfile", "soxr", "matplotlib")
    os.environ["OMP_NUM_THREADS"] = "1"
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result["plot of 36,000 windows"] = {"seconds": plot_seconds()}
        for minutes in (1, args.mini):
            file = noise(folder / f"mini_{minutes}.flac", minutes)
            result[f"mini, {minutes} min"] = measure(file, "--checkpoint", "mini")
            write(args.out, WHAT, where, result)
        Detector(seed=0).save(folder / "random.safetensors")
        for minutes in args.minutes:
            file = noise(folder / f"{minutes}.flac", minutes)
            found = measure(file, "--checkpoint", folder / "random.safetensors")
            result[f"XLS-R 300M, {minutes:g} min"] = found
            write(args.out, WHAT, where, result)  # the next one may take long


def plot_seconds() -> float:
    """Return what drawing and saving 36,000 windows takes."""
    from slsapp.timeline import plot_windows

    llrs = np.random.default_rng(0).standard_normal(36_000).tolist()
    windows = [{"start_s": k / 10, "llr": llr} for k, llr in enumerate(llrs)]
    one: dict[str, Any] = {"file": "a.wav", "llr": 0.0, "verdict": None, "duration_s": 3604.0}
    made = {"threshold": 0.0, "window_s": 4.0, "hop_s": 0.1, "files": [one | {"windows": windows}]}
    start = time.perf_counter()
    plot_windows(made)[0].savefig(os.devnull, format="png")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
