r"""Seconds and memory of ``evaluate`` on as many trials as ASVspoof 2021 DF has.

    python studies/speed_evaluate.py --before OTHER/src --out studies/results/speed-evaluate.json

A key and the scores of two systems are drawn from a seed. They have the form of the official files:
611,829 trials in the order of their names, 533,928 of them in phase ``eval``, a key of 13 columns,
and scores of which one in a hundred is rounded and so tied. The *shuffled* scores are those of the
first system in another order.

Each measurement is a new process with one thread, and the two versions alternate. A command counts
whole, with the start of Python; of a part, the seconds are those of the call alone, and the peak of
memory that of its process. ``read_csv`` is the yardstick: pandas alone, without a check, on key and
scores. A number is the median of the repeats, with the least and the most beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from provenance import provenance, write

from slslib.data.protocols import read_protocol
from slslib.data.scorefiles import match, read_scores
from slslib.evaluation.intervals import bootstrap_eer

SCRIPT = str(Path(__file__).resolve())
SOURCE = Path(SCRIPT).parent.parent / "src"
PHASES = {"progress": 59_325, "eval": 533_928, "hidden": 18_576}
N, N_BONAFIDE = sum(PHASES.values()), 22_617
CODECS = "nocodec low_mp3 high_mp3 low_m4a high_m4a low_ogg high_ogg mp3m4a oggm4a".split()
VOCODERS = ["neural_vocoder_autoregressive", "neural_vocoder_nonautoregressive"]
VOCODERS += ["traditional_vocoder", "unknown", "waveform_concatenation"]

FILES = ["evaluate", "--json", "--key", "key.txt", "--scores"]
CALLS: dict[str, str | list[str]] = {  # what follows "slslib", or the name of a part
    "evaluate": [*FILES, "a.txt"],
    "evaluate, scores shuffled": [*FILES, "shuffled.txt"],
    "evaluate, three breakdowns": [*FILES, "a.txt", "--by", "attack", "codec", "vocoder"],
    "read_csv": "read_csv",
    "reading": "reading",
    "matching": "matching",
    "1,000 replicates, speakers and attacks": "clustered",
    "1,000 replicates, two systems": "paired",
}


def write_files(folder: Path, seed: int) -> None:
    """Draw a key, the scores of two systems, and those of the first in another order."""
    rng = np.random.default_rng(seed)
    is_bonafide = rng.permutation(N) < N_BONAFIDE
    names = [f"DF_E_{k}" for k in 2_000_000 + np.sort(rng.choice(3_000_000, N, replace=False))]
    attacks = [f"A{k:02d}" for k in range(7, 20)]
    attacks += [f"Task{task}-team{k:02d}" for task in (1, 2) for k in range(1, 46)]
    speakers = [f"LA_{k:04d}" for k in range(48)] + [f"VCC2T{k}" for k in range(45)]
    drawn = (speakers, CODECS, ["asvspoof", "vcc2018", "vcc2020"], attacks, VOCODERS)
    columns = [np.array(words)[rng.integers(len(words), size=N)] for words in drawn]
    phases = rng.permutation(np.repeat(list(PHASES), list(PHASES.values())))
    with (folder / "key.txt").open("w") as key:
        for name, genuine, phase, speaker, codec, source, attack, vocoder in zip(
            names, is_bonafide, phases, *columns, strict=True
        ):
            made = "bonafide bonafide" if genuine else f"{attack} spoof"
            last = "bonafide - - - -" if genuine else f"{vocoder} Task1 team20 FF E"
            key.write(f"{speaker} {name} {codec} {source} {made} notrim {phase} {last}\n")
    for system in "ba":
        scores = rng.normal(8 * is_bonafide - 10, 3).astype(np.float32)
        scores = np.where(rng.random(N) < 0.01, scores.round(), scores).tolist()
        lines = [f"{name} {score!r}\n" for name, score in zip(names, scores, strict=True)]
        (folder / f"{system}.txt").write_text("".join(lines))
    (folder / "shuffled.txt").write_text("".join(rng.permutation(lines)))


def prepare(part: str) -> Callable[[], object]:
    """Return the call that is timed, on the files of the current folder."""
    if part == "read_csv":
        return lambda: [pd.read_csv(name, sep=" ", header=None) for name in ("key.txt", "a.txt")]
    if part == "reading":
        return lambda: [read_protocol("key.txt"), read_scores("a.txt")]
    key, scores = read_protocol("key.txt"), read_scores("a.txt")
    if part == "matching":
        return lambda: match(scores, key)
    trials, paired = match(scores, key), part == "paired"
    clusters = [] if paired else [trials["speaker"], trials["attack"]]
    other = match(read_scores("b.txt"), key)["score"] if paired else None
    return lambda: bootstrap_eer(
        trials["score"], trials["label"], clusters, 1000, seed=0, other=other
    )


def measure(source: Path, folder: Path, call: str | list[str]) -> dict[str, float]:
    """Run one call in a new process and return its seconds and its peak of memory."""
    script = [SCRIPT, "--part", str(call)]
    command = [sys.executable, *(script if isinstance(call, str) else ["-m", "slslib", *call])]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment = os.environ | threads | {"PYTHONPATH": str(source)}
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.read())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    whole = {"cpu_s": usage.ru_utime + usage.ru_stime, "wall_s": wall}
    return (said if isinstance(call, str) else whole) | {"peak_mb": usage.ru_maxrss / 1024}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="src folder of an older version, beside ours")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", help="measure only this, in this process")
    args = parser.parse_args()
    if args.part == "files":  # in a process of its own: children inherit the peak of memory
        write_files(Path(), args.seed)
        return
    if args.part:
        timed = prepare(args.part)
        cpu, wall = time.process_time(), time.perf_counter()
        timed()
        took = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        print(json.dumps(took))
        return
    where, load = provenance("numpy", "scipy", "pandas"), [round(os.getloadavg()[0], 1)]
    versions = {"before": args.before.resolve()} if args.before else {}
    versions |= {"after": SOURCE}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        files = [sys.executable, SCRIPT, "--part", "files", "--seed", str(args.seed)]
        subprocess.run(files, cwd=name, check=True)
        for title, call in CALLS.items():
            taken: dict[str, list[dict[str, float]]] = {version: [] for version in versions}
            for _ in range(args.repeats):
                for version, source in versions.items():
                    taken[version].append(measure(source, Path(name), call))
            rows.append({"call": title})
            for version, runs in taken.items():
                for quantity in runs[0]:
                    values = [round(run[quantity], 3) for run in runs]
                    rows[-1][f"{version}_{quantity}"] = round(statistics.median(values), 3)
                    rows[-1][f"{version}_range_{quantity}"] = [min(values), max(values)]
            print(rows[-1])
    settings = {"n": N, "phases": PHASES, "n_bonafide": N_BONAFIDE, "seed": args.seed}
    load.append(round(os.getloadavg()[0], 1))
    settings |= {"repeats": args.repeats, "threads": 1, "load_at_start_and_end": load}
    if args.out:
        what = "seconds and memory of evaluate at the size of 2021 DF; median of repeats"
        write(args.out, what, where, {"settings": settings, "calls": rows})


if __name__ == "__main__":
    main()
