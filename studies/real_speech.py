"""Train on real speech on a CPU, test on other sources.

    python studies/real_speech.py --data ../shared --corpus speech \
        --out studies/results/real_speech.json

CORPUS is a folder with flac/ and protocols of partitions train, dev and test. Everything goes
through the command line. The classical baselines are in studies/baselines.py. The recipe `mini`
starts from the mini backbone, pre-trained on simulated speech; `-- --backbone random --freeze none`
from random weights. The numbers say nothing about the
method with XLS-R's weights.
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
from provenance import provenance, write

from slslib.data.corpora import open_corpus

KEPT = ("n_bonafide", "n_spoof", "eer_percent", "eer_rule", "eer_interval_percent")


def slslib(*arguments: object) -> tuple[str, float]:
    """Run a command; return what it printed and the seconds it took."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "slslib", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout, time.perf_counter() - start


def evaluate(scores: Path, key: Path) -> dict[str, Any]:
    """Return EER and both intervals: trials resampled, and speakers resampled."""
    call = ("evaluate", "--scores", scores, "--key", key, "--bootstrap", 1000, "--json")
    result = json.loads(slslib(*call)[0])
    by_speaker = json.loads(slslib(*call, "--cluster", "speaker")[0])
    return {name: result[name] for name in KEPT} | {
        "eer_interval_by_speaker_percent": by_speaker["eer_interval_percent"]
    }


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="root of the corpora")
    parser.add_argument("--corpus", default="speech")
    parser.add_argument("--recipe", default="mini")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1234, 4321, 4569])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("options", nargs="*", help="further options of `slslib train`, after --")
    args = parser.parse_args()
    where = provenance("torch", "transformers", "numpy", "scikit-learn", "soundfile")
    partitions = {p: open_corpus(f"{args.corpus}:{p}", args.data) for p in ("train", "dev", "test")}

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = []
        for seed in args.seeds:
            run = folder / f"run_{seed}"
            train = ("train", args.recipe, "--data", args.data, "--out", run, "--seed", seed)
            train += ("--train", f"{args.corpus}:train", "--dev", f"{args.corpus}:dev")
            _, seconds = slslib(*train, *args.options)
            result: dict[str, Any] = {"seed": seed, "train_seconds": round(seconds, 1)}
            log = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
            result["best"] = json.loads((run / "best.json").read_text())
            result["dev_eer_percent_by_epoch"] = [
                round(float(row["dev_eer_percent"]), 3) for row in log
            ]
            for part in ("dev", "test"):
                scores = folder / f"sls_{seed}_{part}.txt"
                corpus = ("--corpus", f"{args.corpus}:{part}", "--data", args.data)
                slslib("score", "--checkpoint", run, *corpus, "--out", scores)
                result[part] = evaluate(scores, partitions[part].protocol)
            runs.append(result)
            config = json.loads((run / "config.json").read_text())["config"]
    eers = [run["test"]["eer_percent"] for run in runs]
    what = (
        "equal error rate on real human and real synthetic speech, from other repositories in "
        "test than in train"
    )
    results = {
        "sls": {
            "recipe": args.recipe,
            "config": config,
            "runs": runs,
            "test_eer_percent_mean": float(np.mean(eers)),
            "test_eer_percent_std": float(np.std(eers, ddof=1)) if len(eers) > 1 else None,
        },
        "protocol_sha256": {p: c.protocol_sha256 for p, c in partitions.items()},
    }
    write(args.out, what, where, results)
    print(json.dumps([run["test"] for run in runs], indent=1))


if __name__ == "__main__":
    main()
