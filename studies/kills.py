"""Kill runs, fill their disk, start them twice, move them; and see that they end as undisturbed.

A run is a copy of this process, which has imported everything: a second instead of eight. Killing
means SIGKILL, SIGINT or SIGTERM, to the process or to its whole group, at a random moment of its
life. Then the same command runs until it is done.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from provenance import ROOT

from slslib import cli
from slslib.model.detector import Detector
from slslib.runs.train import train

sys.path.append(str(ROOT / "tests"))

from tiny import DETECTOR, recipe, weights

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
PATIENCE_S = 40
"""A run that a signal did not end by then hangs."""
ORPHANED_S = 12
"""Processes of a killed run that live on for so long stay; PyTorch's look every five seconds."""
_FORK = multiprocessing.get_context("fork")


@dataclass
class Job:
    """A command, and the files it reads and writes, all in one folder."""

    folder: Path
    corpus: str = ""  # to score; nothing for training

    @property
    def out(self) -> Path:
        """The score file, or the folder of the training run."""
        return self.folder / ("scores.txt" if self.corpus else "run")

    def __call__(self, workers: int = 0) -> None:
        """Run the command, as a user would start it or go on with it."""
        data = self.folder / "data"
        if not self.corpus:
            options: Any = {"data": data, "workers": workers, "save_steps": 2, "progress": False}
            is_begun = (self.out / "config.json").exists()
            train(recipe(max_epochs=3), self.out, resume=is_begun, **options)
            return
        words = ["score", "--corpus", self.corpus, "--data", data, "--out", self.out]
        words += ["--checkpoint", self.folder / "detector.safetensors", "--workers", workers]
        words += ["--batch-size", 2, "--chunk", 4, "--cpu", "--no-progress"]
        sys.argv = ["slslib", *map(str, words)]
        cli.main()

    def result(self) -> Any:
        """Return what a finished run leaves: the file's bytes, or weights and Adam's moments."""
        return self.out.read_bytes() if self.corpus else weights(self.out)

    def is_wrong(self, expected: Any) -> bool:
        """Tell whether a score file is there under its name that is not the expected one."""
        return bool(self.corpus) and self.out.exists() and self.out.read_bytes() != expected

    def clear(self) -> None:
        """Remove what the command wrote."""
        for path in self.folder.glob(f"{self.out.name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def is_same(a: Any, b: Any) -> bool:
    """Compare two results bit by bit."""
    if isinstance(a, bytes):
        return a == b
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def start(job: Job, workers: int = 0, limit: int | None = None) -> Any:
    """Start a job in a process of its own; no file may have more bytes than ``limit``."""
    process = _FORK.Process(target=_run, args=(job, workers, limit))
    process.start()
    return process


def _run(job: Job, workers: int, limit: int | None) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    stream = os.open(_log(job), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    code: Any = 0
    try:
        job(workers)
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        code = 1
    # Only now, when what the job held is let go, as at the end of a program.
    sys.exit(code)


def _log(job: Job) -> Path:
    return job.folder.with_name("log")  # not on the disk that is full


def said(job: Job) -> str:
    """Return what the last run wrote to its standard output and error, in one line."""
    return " ".join(_log(job).read_text(errors="replace").split())


def finish(job: Job, workers: int = 0) -> int:
    """Run a job until it is done; return how often it was told that another run holds its folder.

    Raises:
        RuntimeError: It fails for another reason.
    """
    for refused in range(100):
        process = start(job, workers)
        process.join()
        if process.exitcode == 0:
            return refused
        if "another run" not in said(job):
            break
        time.sleep(0.2)
    raise RuntimeError(f"a run that was interrupted cannot go on: {said(job)}")


class Kill(NamedTuple):
    """How a run was killed: by what (nothing: it was done), its group, and whether it hung."""

    signal: str
    group: int
    hung: bool


def kill(job: Job, workers: int, seconds: float, rng: random.Random) -> Kill:
    """Start a job and send it a signal at a random moment; end it where that hangs."""
    number, group = rng.choice(SIGNALS), rng.random() < 0.5
    process = start(job, workers)
    time.sleep(rng.uniform(0, seconds))
    with suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(process.pid, number)
    process.join(PATIENCE_S)
    if is_hung := process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    return Kill(number.name if process.exitcode else "", process.pid, is_hung)


def leaves_processes(group: int) -> bool:
    """Tell whether processes of a run outlive it; they are ended."""
    end = time.monotonic() + ORPHANED_S
    try:
        while time.monotonic() < end:
            os.killpg(group, 0)
            time.sleep(0.1)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def timed(job: Job, workers: int = 0) -> float:
    """Run a job undisturbed; return its seconds."""
    began = time.monotonic()
    finish(job, workers)
    return time.monotonic() - began


def killed(job: Job, expected: Any, workers: int, n: int, rng: random.Random) -> dict[str, Any]:
    """Kill ``n`` runs, each begun anew, and end each; count what came of it."""
    job.clear()
    seconds = timed(job, workers)
    row: dict[str, Any] = {"command": "score" if job.corpus else "train", "workers": workers}
    row |= {"kills": 0, "signals": Counter(), "under_way": 0, "same": 0, "wrong_before_the_end": 0}
    row |= {"hung": 0, "left_processes": 0, "held_by_another": 0, "leftovers": 0}
    while row["kills"] < n:
        job.clear()
        done = kill(job, workers, seconds, rng)
        row["wrong_before_the_end"] += job.is_wrong(expected)
        is_begun = any(job.folder.glob(f"{job.out.name}*/*.*"))
        refused = finish(job, workers)
        orphans = leaves_processes(done.group)
        if done.signal:
            row["kills"] += 1
            row["signals"][done.signal] += 1
            row["under_way"] += is_begun
            row["same"] += is_same(job.result(), expected)
            row["hung"] += done.hung
            row["left_processes"] += orphans
            row["held_by_another"] += refused > 0
            row["leftovers"] += bool(leftovers(job))
    job.clear()
    return row


def leftovers(job: Job) -> list[str]:
    """Return the names of temporary files, and of parts beside a finished score file."""
    found = [path.name for path in job.folder.glob("**/.*.tmp")]
    return found + [path.name for path in job.folder.glob("*.parts") if job.out.is_file()]


def full_disks(job: Job, expected: Any, limits: list[int]) -> dict[str, Any]:
    """Run a job that may write so many bytes into a file, then without limit."""
    row = {"limits_bytes": limits, "failed": 0, "said_why": 0, "at_the_last_file": 0, "same": 0}
    row |= {"wrong_before_the_end": 0, "leftovers": 0}
    for limit in limits:
        job.clear()
        process = start(job, limit=limit)
        process.join()
        row["failed"] += process.exitcode != 0
        row["said_why"] += "cannot write" in said(job) or "cannot be written" in said(job)
        row["at_the_last_file"] += Path(f"{job.out}.json").exists()
        row["leftovers"] += bool(leftovers(job))
        row["wrong_before_the_end"] += job.is_wrong(expected)
        finish(job)
        row["same"] += is_same(job.result(), expected)
    job.clear()
    return row


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount an empty disk over a folder; tell whether that was allowed."""
    done = subprocess.run(["mount", "-t", "tmpfs", "none", folder], capture_output=True)
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", folder], check=True)


def small_disks(job: Job, expected: Any, pages: list[int]) -> dict[str, Any] | None:
    """Run a job on a disk with room for so many pages, then with room enough.

    Returns:
        Counts, or nothing where disks cannot be mounted.
    """
    row = {"pages_left": pages, "failed": 0, "said_why": 0, "same": 0, "wrong_before_the_end": 0}
    disk = job.folder.with_name("disk")
    disk.mkdir()
    with small_disk(disk) as is_allowed:
        if not is_allowed:
            return None
        small = Job(disk, job.corpus)
        for n_pages in pages:
            small.clear()
            for name in ("data", "detector.safetensors"):
                (disk / name).unlink(missing_ok=True)
                (disk / name).symlink_to(job.folder / name)
            _resize(disk, f"nr_blocks={n_pages}")
            process = start(small)
            process.join()
            row["failed"] += process.exitcode != 0
            row["said_why"] += "No space left" in said(small)
            row["wrong_before_the_end"] += small.is_wrong(expected)
            _resize(disk, "size=64m")
            finish(small)
            row["same"] += is_same(small.result(), expected)
    return row


def _resize(disk: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", disk], check=True)


def two_writers(job: Job, expected: bytes, n: int) -> dict[str, Any]:
    """Start a job twice at once."""
    row = {"pairs": n, "one_refused": 0, "both_done": 0, "otherwise": 0, "same": 0}
    for _ in range(n):
        job.clear()
        pair = [start(job), start(job)]
        for process in pair:
            process.join()
        codes = sorted(process.exitcode for process in pair)
        kinds = {(0, 2): "one_refused", (0, 0): "both_done"}  # the later found it finished
        row[kinds.get((codes[0], codes[1]), "otherwise")] += 1
        finish(job)
        row["same"] += is_same(job.result(), expected)
    job.clear()
    return row


def moved(job: Job, expected: Any, n: int, rng: random.Random) -> dict[str, Any]:
    """Kill a job, move its folder with all it reads, and go on there."""
    row = {"command": "score" if job.corpus else "train", "moves": 0, "under_way": 0, "same": 0}
    job.clear()
    seconds = timed(job)
    while row["moves"] < n:
        job.clear()
        if not kill(job, 0, seconds, rng).signal:
            continue
        row["under_way"] += any(job.folder.glob(f"{job.out.name}*/*.*"))
        there = Job(job.folder.with_name("moved"), job.corpus)
        job.folder.rename(there.folder)
        finish(there)
        row["same"] += is_same(there.result(), expected)
        row["moves"] += 1
        there.folder.rename(job.folder)
    job.clear()
    return row


def count(
    folder: Path, data: Path, corpus: str, n: int, n_training: int, seed: int
) -> dict[str, Any]:
    """Do all of this; return the counts.

    Args:
        folder: An empty folder.
        data: The simulated corpora, which are copied.
        corpus: The one to score.
        n: Kills of scoring, half of them at two workers.
        n_training: Kills of training, a third each at 0, 1 and 2 workers.
        seed: Of moments and signals.
    """
    rng, here = random.Random(seed), folder / "here"
    shutil.copytree(data, here / "data")
    Detector(DETECTOR, seed=seed).save(here / "detector.safetensors")
    scoring, training = Job(here, corpus), Job(here)
    finish(scoring)
    scores, facts = scoring.result(), Path(f"{scoring.out}.json").stat().st_size
    finish(training)
    state, saved = training.result(), (training.out / "state.pt").stat().st_size
    limits = [200, 700, facts - 1, len(scores) // 2, len(scores) - 1]
    few = max(1, n // 10)
    return {
        "seed": seed,
        "n_trials": len(scores.splitlines()),
        "killed": [
            *(killed(scoring, scores, workers, n // 2, rng) for workers in (0, 2)),
            *(killed(training, state, workers, n_training // 3, rng) for workers in (0, 1, 2)),
        ],
        "full_disk": [
            {"command": "score"} | full_disks(scoring, scores, limits),
            {"command": "train"} | full_disks(training, state, [1_000, saved // 2, saved - 1]),
        ],
        "small_disk": small_disks(scoring, scores, list(range(4, 4 + 2 * few, 2))),
        "two_writers": two_writers(scoring, scores, few),
        "moved": [moved(scoring, scores, few, rng), moved(training, state, few, rng)],
    }
