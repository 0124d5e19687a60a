"""EER of LFCC and logistic regression, trained on one corpus and tested on another.

    python benchmarks/lfcc_baseline.py --data ../shared --train speech:train --test speech:test

The interval is the 2.5 and 97.5 percentile of 1,000 bootstrap replicates that draw trials, of each
class apart, with replacement.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

from slslib.lfcc import baseline_scores
from slslib.metrics import eer
from slslib.protocols import open_corpus

ROOT = Path(__file__).resolve().parent.parent


def interval(bonafide: np.ndarray, spoof: np.ndarray, n: int, seed: int) -> list[float]:
    """Return the 95 % interval of the official EER in percent over bootstrap replicates."""
    rng = np.random.default_rng(seed)
    replicates = [
        100 * eer(rng.choice(bonafide, len(bonafide)), rng.choice(spoof, len(spoof))).value
        for _ in range(n)
    ]
    return [round(float(bound), 3) for bound in np.percentile(replicates, [2.5, 97.5])]


def cpu() -> str:
    """Return the CPU model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    """Train, score, print and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="root of the corpora")
    parser.add_argument("--train", default="speech:train")
    parser.add_argument("--test", nargs="+", default=["speech:test"])
    parser.add_argument("--deltas", action="store_true")
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1234, help="of the bootstrap")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    train = open_corpus(args.train, args.data)
    results = []
    for spec in args.test:
        test = open_corpus(spec, args.data)
        scores = baseline_scores(train, test, deltas=args.deltas).score.to_numpy()
        labels = test.trials.label.to_numpy()
        bonafide, spoof = scores[labels == 1], scores[labels == 0]
        result = {
            "test": spec,
            "protocol_sha256": test.protocol_sha256,
            "n_bonafide": len(bonafide),
            "n_spoof": len(spoof),
            "eer_percent": 100 * eer(bonafide, spoof).value,
            "eer_rule": "official",
            "eer_interval_percent": interval(bonafide, spoof, args.bootstrap, args.seed),
        }
        print(json.dumps(result, indent=1))
        results.append(result)

    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    report = {
        "system": "LFCC mean and standard deviation, logistic regression",
        "train": args.train,
        "train_protocol_sha256": train.protocol_sha256,
        "results": results,
        "interval": f"{args.bootstrap} bootstrap replicates of trials within each class, 95 %",
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip() or None,
        "command": " ".join(["python", "benchmarks/lfcc_baseline.py", *sys.argv[1:]]),
        "machine": {"cpu": cpu(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("numpy", "scipy", "scikit-learn", "soundfile")},
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
