"""Train the recipe `mini` on MiniSpoof over several seeds and score every track.

    python studies/minispoof_tracks.py --out studies/results/minispoof_tracks.json
    python studies/minispoof_tracks.py --out studies/results/mini_random_start.json \
        --seeds 1234 --tracks -- --backbone random --freeze none --lr 1e-3 --patience 10

Everything goes through the command line. The corpus is a simulation: the numbers say whether it is
a good teacher (dev < LA, DF < In-the-Wild; known < unknown attacks), and nothing about any
benchmark. The classical baselines are in studies/baselines.py. Of each run, the
epochs that the rules of the published trainings would have kept are scored as well. Of training
from random weights, which ends at chance, only the log is kept: ``--tracks`` names no track.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from provenance import provenance, write

from slslib.data.corpora import Corpus, open_corpus
from slslib.data.scorefiles import match, read_scores
from slslib.evaluation import metrics

TRACKS = {
    "dev": "asvspoof2019-la:dev",
    "LA": "asvspoof2021-la",
    "DF": "asvspoof2021-df",
    "In-the-Wild": "in-the-wild",
}
# Rules that choose an epoch, as (quantity, patience): those of the recipes v1 and v2, and of mini.
# While the learning rate rises, the training loss of mini may too, which ends v1's rule at once;
# "v1, patient" goes on.
RULES = {
    "v1": ("train_loss", 1),
    "v1, patient": ("train_loss", 10),
    "v2": ("dev_loss", 10),
    "mini": ("dev_eer_percent", 4),
}


def slslib(*arguments: object) -> float:
    """Run a command; return the seconds it took."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "slslib", *map(str, arguments)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def choose(log: list[dict[str, float]], quantity: str, patience: int) -> int:
    """Return the epoch that a recipe would have kept, of those that were trained."""
    best = 0
    for epoch, row in enumerate(log):
        if row[quantity] < log[best][quantity]:
            best = epoch
        elif epoch - best >= patience:
            break
    return best


def eers(scores: pd.DataFrame, corpus: Corpus, known: set[str]) -> dict[str, Any]:
    """Return the EERs (%) of a track: pooled, known, unknown attacks, and each attack."""
    trials = match(scores, corpus.trials)
    bonafide = trials.score[trials.label == 1].to_numpy()
    spoof = trials[trials.label == 0]

    def eer(part: pd.DataFrame) -> float | None:
        return (
            round(100 * metrics.eer(bonafide, part.score.to_numpy()).value, 2)
            if len(part)
            else None
        )

    return {
        "pooled": eer(spoof),
        "known": eer(spoof[spoof.attack.isin(known)]),
        "unknown": eer(spoof[~spoof.attack.isin(known)]),
        "by_attack": {str(name): eer(part) for name, part in spoof.groupby("attack")},
    }


def mean(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and standard deviation over runs of each track's three EERs."""
    summary: dict[str, Any] = {}
    for track in runs[0]["eer_percent"]:
        for kind in ("pooled", "known", "unknown"):
            values = [run["eer_percent"][track][kind] for run in runs]
            if None not in values:
                spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
                summary.setdefault(track, {})[kind] = {
                    "mean": float(np.mean(values)),
                    "std": spread,
                }
    return summary


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="MiniSpoof, if it exists already")
    parser.add_argument("--recipe", default="mini")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1234, 4321, 4569])
    parser.add_argument(
        "--tracks", nargs="*", choices=TRACKS, default=list(TRACKS), help="to score"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep", type=Path, help="folder that keeps the runs, and may hold some")
    parser.add_argument("options", nargs="*", help="further options of `slslib train`, after --")
    args = parser.parse_args()
    specs = {track: TRACKS[track] for track in args.tracks}
    where = provenance("torch", "transformers", "numpy", "scikit-learn", "praat-parselmouth")
    with tempfile.TemporaryDirectory() as name:
        folder = args.keep or Path(name)
        data, seconds = args.data or folder / "minispoof", {}
        seconds["minispoof"] = slslib("minispoof", data)
        corpora = {track: open_corpus(spec, data) for track, spec in specs.items()}
        known = set(open_corpus("asvspoof2019-la:train", data).trials.attack) - {"-"}
        runs = []
        for seed in args.seeds:
            run = folder / f"run_{seed}"
            options = ("--data", data, "--out", run, "--seed", seed, "--keep", "all", *args.options)
            result: dict[str, Any] = {"seed": seed, "seconds": {}, "eer_percent": {}}
            if run.exists():
                options += ("--resume",)
            result["seconds"]["train"] = slslib("train", args.recipe, *options)
            log = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
            result["dev_eer_percent_by_epoch"] = [float(row["dev_eer_percent"]) for row in log]
            names = ("train_loss", "dev_loss", "dev_eer_percent")
            result["log"] = [{name: float(row[name]) for name in names} for row in log]
            best = json.loads((run / "best.json").read_text())["epoch"]
            chosen = {rule: choose(result["log"], *how) for rule, how in RULES.items()}
            by_epoch: dict[int, dict[str, Any]] = {}
            for epoch in {best, *chosen.values()}:
                by_epoch[epoch] = {}
                for track, spec in specs.items():
                    out = folder / f"{seed}_{epoch}_{track}.txt"
                    if not out.exists():
                        result["seconds"][track] = slslib(
                            "score",
                            "--checkpoint",
                            run / f"epoch_{epoch}.safetensors",
                            "--corpus",
                            spec,
                            "--data",
                            data,
                            "--out",
                            out,
                        )
                    by_epoch[epoch][track] = eers(read_scores(out), corpora[track], known)
            result["best_epoch"], result["eer_percent"] = best, by_epoch[best]
            result["selection"] = {
                rule: {"epoch": epoch, "eer_percent": by_epoch[epoch]}
                for rule, epoch in chosen.items()
            }
            runs.append(result)
            print(json.dumps(result), flush=True)
    what = "equal error rates (%) on MiniSpoof, a simulation, of a recipe over seeds"
    results = {
        "recipe": args.recipe,
        "options": args.options,
        "rules": {rule: {"quantity": q, "patience": p} for rule, (q, p) in RULES.items()},
        "known_attacks": sorted(known),
        "seconds": seconds,
        "summary": mean(runs),
        "runs": runs,
    }
    write(args.out, what, where, results)
    print(json.dumps(results["summary"], indent=1))


if __name__ == "__main__":
    main()
