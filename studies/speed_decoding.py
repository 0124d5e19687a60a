r"""Recordings per second: decoding beside soundfile alone, dataset items, batches, `detect`.

    python studies/speed_decoding.py --out studies/results/speed-decoding.json

The clips last 4 s (16 bits, 16 kHz) and are put together from the simulated corpus; `detect` is
given recordings of that corpus as they are. What stands in pairs alternates within this process. A
number is the median with the least and the most beside it, a ratio that of the pairs. *Per core*
means per second of CPU time (user and system) of all processes that took part; only `load_batches`
is timed by the clock. Of `detect`, the time of a call with one recording is subtracted, which pays
for Python, PyTorch and the checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import provenance
import soundfile as sf
import torch

from minispoof.corpus import simulation
from slslib.data import isolate
from slslib.data.audio import N_SAMPLES, SAMPLE_RATE, Decoder, load
from slslib.data.corpora import open_corpus
from slslib.runs.clips import TrialDataset, batched, load_batches, stack

WHAT = "recordings per second: decoding, dataset items, batches of two workers, detect"


def spread(values: Iterable[float], digits: int = 1) -> dict[str, float]:
    """Return median, least and most."""
    kept = [*values]
    found = {"median": statistics.median(kept), "least": min(kept), "most": max(kept)}
    return {name: round(value, digits) for name, value in found.items()}


def write_clips(corpus: Path, folder: Path, n: int) -> None:
    """Write clips of the model's length as FLAC and WAV, from recordings joined and cut."""
    sources = iter(sorted(corpus.rglob("*.flac")))
    rest = np.zeros(0, np.int16)
    for k in range(n):
        while len(rest) < N_SAMPLES:
            rest = np.concatenate([rest, sf.read(next(sources), dtype="int16")[0]])
        for ending in ("flac", "wav"):
            (folder / ending).mkdir(parents=True, exist_ok=True)
            path = folder / ending / f"clip{k:04d}.{ending}"
            sf.write(path, rest[:N_SAMPLES], SAMPLE_RATE, subtype="PCM_16")
        rest = rest[N_SAMPLES:]


def cpu_of(pids: Iterable[int] = ()) -> float:
    """Return the CPU seconds of this process and of others that have one thread."""
    used = [int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids]
    return time.process_time() + sum(used) / 1e9


def rate(decode: Callable[[Path], object], paths: list[Path], isolated: bool = False) -> float:
    """Return the files per second of CPU time."""
    pids = [process.pid for process in isolate._idle] if isolated else []
    before = cpu_of(pids)
    for path in paths:
        decode(path)
    return len(paths) / (cpu_of(pids) - before)


def audit_here(path: Path) -> str:
    """Do in this process what ``isolate.audit`` lets another one do."""
    content = hashlib.md5(usedforsecurity=False)
    for block in Decoder(path).blocks():
        content.update(block.data)
    return content.hexdigest()


def decoding(paths: list[Path], repeats: int) -> dict[str, Any]:
    """Compare decoding with ``soundfile.read`` alone, and another process with this one."""
    ways: dict[str, Callable[[Path], object]] = {
        "soundfile": lambda path: sf.read(path, dtype="float32"),
        "load": load,
        "audit_here": audit_here,
        "blocks_isolated": lambda path: list(isolate.blocks_isolated(path)),
        "audit": isolate.audit,
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, decode in ways.items():
            found = rate(decode, paths, isolated=name in ("blocks_isolated", "audit"))
            if repeat:  # the first also imports and starts
                rates[name].append(found)
    row: dict[str, Any] = {f"{name}_per_core": spread(values) for name, values in rates.items()}
    for name, values in rates.items():
        if name != "soundfile":
            pairs = zip(values, rates["soundfile"], strict=True)
            row[f"{name}_to_soundfile"] = spread((ours / alone for ours, alone in pairs), 3)
    pairs = zip(rates["audit"], rates["audit_here"], strict=True)
    return row | {"audit_to_audit_here": spread((there / here for there, here in pairs), 3)}


def items(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Count the items that a dataset gives, plain and with RawBoost."""
    corpus = open_corpus(str(folder))
    datasets = {algo: TrialDataset(corpus, algo=algo) for algo in ("none", "ssi", 4)}
    rates: dict[int | str, list[float]] = {algo: [] for algo in datasets}
    for repeat in range(repeats + 1):
        for algo, dataset in datasets.items():
            before = cpu_of()
            for index in range(len(dataset)):
                dataset[index]
            if repeat:
                rates[algo].append(len(dataset) / (cpu_of() - before))
    return [{"rawboost": algo, "items_per_core": spread(found)} for algo, found in rates.items()]


def batches(folder: Path, workers: int, size: int, repeats: int) -> dict[str, Any]:
    """Count the clips that workers hand over behind the first batch, stacked for the model.

    By the clock the workers set the pace; by its own CPU time, so many could pass this process.
    """
    dataset = TrialDataset(open_corpus(str(folder)))
    order = batched([*range(len(dataset))] * 8, size)
    by_clock, by_cpu = [], []
    for _ in range(repeats):
        loaded = load_batches(dataset, order, workers=workers)
        next(loaded)
        start, before = time.perf_counter(), time.process_time()
        n_clips = sum(len(stack(clips)[1]) for clips in loaded)
        by_clock.append(n_clips / (time.perf_counter() - start))
        by_cpu.append(n_clips / (time.process_time() - before))
    row = {"workers": workers, "batch": size, "clips_per_second": spread(by_clock)}
    return row | {"main_process_per_core": spread(by_cpu)}


def command_seconds(paths: list[Path]) -> float:
    """Return the CPU seconds of ``slslib detect`` and of the process that decodes for it."""
    command = [sys.executable, "-m", "slslib", "detect", *map(str, paths)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    options = ["--checkpoint", "mini", "--json", "--cpu"]
    subprocess.run([*command, *options], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def detect(paths: list[Path], repeats: int) -> dict[str, Any]:
    """Time the command with one recording and with all."""
    seconds = [(command_seconds(paths[:1]), command_seconds(paths)) for _ in range(repeats)]
    return {
        "files": len(paths),
        "seconds_each": spread(sf.info(path).duration for path in paths),
        "cpu_s_one_file": spread((one for one, _ in seconds), 2),
        "cpu_s_all": spread((every for _, every in seconds), 2),
        "files_per_core": spread((len(paths) - 1) / (every - one) for one, every in seconds),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=WHAT)
    parser.add_argument("--clips", type=int, default=100, help="of 4 s")
    parser.add_argument("--files", type=int, default=200, help="given to detect")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    where = provenance.provenance("numpy", "soundfile", "soxr", "torch")
    corpus = simulation()
    results: dict[str, Any] = {"load_average": [round(os.getloadavg()[0], 1)]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clips(corpus, folder, args.clips)
        for ending in ("flac", "wav"):
            row = decoding(sorted((folder / ending).iterdir()), args.repeats)
            results[f"decoding_{ending}"] = {"clips": args.clips, **row}
            print(ending, row, flush=True)
        protocol = "".join(f"clip{k:04d},spoof\n" for k in range(args.clips))
        (folder / "flac" / "labels.csv").write_text(f"file,label\n{protocol}")
        results["dataset"] = items(folder / "flac", max(1, args.repeats // 3))
        print(results["dataset"], flush=True)
        results["load_batches"] = batches(folder / "flac", 2, 32, max(1, args.repeats // 3))
        print(results["load_batches"], flush=True)
        short = sorted((corpus / "ASVspoof2021_DF_eval" / "flac").iterdir())[: args.files]
        results["detect_mini"] = detect(short, max(1, args.repeats // 3))
        print(results["detect_mini"], flush=True)
    results["load_average"].append(round(os.getloadavg()[0], 1))
    if args.out:
        provenance.write(args.out, WHAT, where, results)


if __name__ == "__main__":
    main()
