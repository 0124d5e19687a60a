"""Measure EER, intervals and the reading of files on as many trials as ASVspoof 2021 DF has.

    python studies/metrics.py --out studies/results/metrics.json

The scores are drawn at random, as is the key, which has the shape of the official one: 22,617 bona
fide and 589,212 spoofed trials of 93 speakers and 110 attacks. Beside each number stands that of a
naive loop, which draws the trials of a replicate and computes its EER from scratch; it is timed on
a few replicates and the time per replicate is what is compared. Each measurement is the best of
three; memory is the peak of a process of its own that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
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
from slslib.data.scorefiles import format_score, match, read_scores
from slslib.evaluation import intervals, metrics
from slslib.evaluation.evaluate import evaluate

N_BONAFIDE, N_SPOOF, N_SPEAKERS, N_ATTACKS = 22_617, 589_212, 93, 110
REPLICATES, NAIVE = 1000, 5
PARTS = ("point", "iid", "speaker", "two_way", "paired", "files")


def trials() -> pd.DataFrame:
    """Draw a score table with speakers, attacks and two systems."""
    rng = np.random.default_rng(0)
    n = N_BONAFIDE + N_SPOOF
    label = np.zeros(n, np.int8)
    label[rng.permutation(n)[:N_BONAFIDE]] = 1
    speaker = rng.integers(N_SPEAKERS, size=n)
    attack = rng.integers(N_ATTACKS, size=n)
    shift = rng.normal(0, 0.4, N_SPEAKERS)[speaker]
    shift += np.where(label == 1, 4.0, rng.normal(0, 0.6, N_ATTACKS)[attack])
    a = shift + rng.normal(size=n)
    names = np.char.add("A", attack.astype(str))
    return pd.DataFrame(
        {
            "utterance": [f"DF_E_{2_000_000 + k}" for k in range(n)],
            "label": label,
            "speaker": np.char.add("S", speaker.astype(str)),
            "attack": np.where(label == 1, "-", names),
            "a": a,
            "b": a + 0.5 * rng.normal(size=n),
        }
    )


def naive(table: pd.DataFrame, part: str) -> float:
    """Seconds for one replicate of a loop that draws the trials and computes the EER."""
    rng = np.random.default_rng(0)
    values, labels = table["a"].to_numpy(), table["label"].to_numpy()
    other = table["b"].to_numpy()
    members = [np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)]
    codes = {name: pd.factorize(table[name])[0] for name in ("speaker", "attack")}

    def eer(scores: np.ndarray, drawn: np.ndarray) -> float:
        kinds = labels[drawn]
        return metrics.eer(scores[drawn][kinds == 1], scores[drawn][kinds == 0]).value

    start = time.perf_counter()
    for _ in range(NAIVE):
        if part in ("speaker", "two_way"):
            weight = np.ones(values.size, np.int64)
            for name in ("speaker", "attack")[: 1 + (part == "two_way")]:
                n = codes[name].max() + 1
                times = rng.multinomial(n, np.full(n, 1 / n))[codes[name]]
                weight *= np.where((name == "attack") & (labels == 1), 1, times)
            drawn = np.repeat(np.arange(values.size), weight)
        else:
            drawn = np.concatenate([rng.choice(m, m.size) for m in members])
        eer(values, drawn)
        if part == "paired":
            eer(other, drawn)
    return (time.perf_counter() - start) / NAIVE


def job(table: pd.DataFrame, part: str) -> Callable[[], object]:
    """Return the call that is timed."""
    values, labels = table["a"].to_numpy(), table["label"].to_numpy()
    bonafide, spoof = values[labels == 1], values[labels == 0]
    rng = np.random.default_rng(1)
    factors = [table[name] for name in ("speaker", "attack")]
    return {
        "point": lambda: metrics.eer(bonafide, spoof),
        "iid": lambda: intervals.bootstrap_eer(bonafide, spoof, REPLICATES, seed=rng),
        "speaker": lambda: intervals.cluster_bootstrap_eer(
            values, labels, factors[:1], REPLICATES, seed=rng
        ),
        "two_way": lambda: intervals.cluster_bootstrap_eer(
            values, labels, factors, REPLICATES, seed=rng
        ),
        "paired": lambda: intervals.paired_bootstrap(
            values, table["b"].to_numpy(), labels, REPLICATES, seed=rng
        ),
    }[part]


def best_of(call: Callable[[], object], n: int = 3) -> float:
    """Seconds of the fastest of some calls."""
    seconds = []
    for _ in range(n):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure(part: str) -> dict[str, Any]:
    """Time one part in this process."""
    table = trials()
    if part != "files":
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        call = job(table, part)
        result = {"seconds": best_of(call), "peak_mb": _peak(), "peak_mb_before": before / 1024}
        if part != "point":
            result["naive_seconds"] = REPLICATES * naive(table, part)
            result["times_faster"] = result["naive_seconds"] / result["seconds"]
        return result
    with tempfile.TemporaryDirectory() as name:
        key, scores = Path(name, "trial_metadata.txt"), Path(name, "scores.txt")
        key.write_text(
            "".join(
                f"{s} {u} nocodec asvspoof {a} {'bonafide' if y else 'spoof'} notrim eval "
                "neural_vocoder_autoregressive Task1 team01 FF E\n"
                for s, u, a, y in zip(
                    *(table[c] for c in ("speaker", "utterance", "attack", "label")), strict=True
                )
            )
        )
        scores.write_text(
            "".join(
                f"{u} {format_score(s)}\n"
                for u, s in zip(table["utterance"], table["a"], strict=True)
            )
        )
        read_key, read = read_protocol(key), read_scores(scores)
        return {
            "read_key_seconds": best_of(lambda: read_protocol(key)),
            "read_scores_seconds": best_of(lambda: read_scores(scores)),
            "match_seconds": best_of(lambda: match(read, read_key)),
            "evaluate_seconds": best_of(lambda: evaluate(scores, key, bootstrap=REPLICATES), 1),
            "peak_mb": _peak(),
        }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure each part in a process of its own and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", choices=PARTS, help="measure only this, in this process")
    args = parser.parse_args()
    if args.part:
        print(json.dumps(measure(args.part)))
        return
    where = provenance("numpy", "scipy", "pandas")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    results = {}
    for part in PARTS:
        command = [sys.executable, __file__, "--part", part]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
        results[part] = {k: float(f"{v:.4g}") for k, v in json.loads(done.stdout).items()}
        print(part, results[part])
    settings = {
        "n_bonafide": N_BONAFIDE,
        "n_spoof": N_SPOOF,
        "speakers": N_SPEAKERS,
        "attacks": N_ATTACKS,
        "replicates": REPLICATES,
        "naive_replicates_timed": NAIVE,
        "threads": 1,
    }
    if args.out:
        what = "seconds and memory of the metrics and intervals at the size of 2021 DF"
        write(args.out, what, where, {"settings": settings, "parts": results})


if __name__ == "__main__":
    main()
