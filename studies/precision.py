"""Measure what bfloat16 does to scores: LLR drift, and the change in EER.

    python studies/precision.py --data ../shared [--corpus speech] [--epochs 3] [--clips 8]

Two models. A small one is trained here on the corpus's train partition from the packaged mini
backbone, by the command line, and scores the test partition with every setting; its EERs are real,
those of a small model. The other has the full 300 million parameters, at random: it shows how much
24 layers of width 1024 add up, not what that does to an EER. "exact" is what the others are
compared with; "bf16" is what `slslib score --precision bf16` computes, "mixed" PyTorch's automatic
mixed precision, which `slslib train --precision bf16` uses. On a CPU; a GPU rounds in the same
places and in another order.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import ROOT, provenance, write
from scipy.stats import spearmanr

from slslib.data.audio import fix_length, load
from slslib.data.corpora import open_corpus
from slslib.data.scorefiles import read_scores
from slslib.model.detector import Detector

OUT = ROOT / "studies" / "results" / "precision.json"
SETTINGS = ("exact", "bf16")


def slslib(*arguments: object) -> str:
    """Run a command and return what it printed."""
    command = [sys.executable, "-m", "slslib", *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def drift(llr: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Compare scores with those of the reference setting, in natural logarithms."""
    difference = np.abs(llr - reference)
    return {
        "max_abs": float(difference.max()),
        "mean_abs": float(difference.mean()),
        "mean_abs_over_spread": float(difference.mean() / reference.std()),
        "rank_correlation": float(spearmanr(llr, reference).statistic),
        "n_distinct": len(np.unique(llr)),
    }


def trained(data: Path, corpus: str, epochs: int, folder: Path) -> dict[str, Any]:
    """Train a small model on real speech and score its test partition with every setting."""
    run = folder / "run"
    slslib(
        "train",
        "mini",
        "--train",
        f"{corpus}:train",
        "--dev",
        f"{corpus}:dev",
        "--max-epochs",
        epochs,
        "--data",
        data,
        "--out",
        run,
    )
    key = open_corpus(f"{corpus}:test", data).protocol
    rows: dict[str, Any] = {}
    reference: np.ndarray | None = None
    for precision in SETTINGS:
        out = folder / f"{precision}.txt"
        slslib(
            "score",
            "--checkpoint",
            run,
            "--corpus",
            f"{corpus}:test",
            "--data",
            data,
            "--out",
            out,
            "--precision",
            precision,
            "--cpu",
        )
        result = json.loads(slslib("evaluate", "--scores", out, "--key", key, "--json"))
        llr = read_scores(out)["score"].to_numpy(float)
        reference = llr if reference is None else reference
        row = {"eer_percent": result["eer_percent"]} | drift(llr, reference)
        rows[precision] = row
    first = next(iter(rows.values()))["eer_percent"]
    for row in rows.values():
        row["eer_change_points"] = row["eer_percent"] - first
    best = json.loads((run / "best.json").read_text())
    counts = {name: result[name] for name in ("n_bonafide", "n_spoof")}
    return counts | {"best_epoch": best, "settings": rows}


def full_size(data: Path, corpus: str, n_clips: int) -> dict[str, Any]:
    """Score some clips with 300 million random weights."""
    test = open_corpus(f"{corpus}:test", data)
    names = test.trials["utterance"].iloc[:: max(1, len(test) // n_clips)][:n_clips]
    paths = [test.audio_path(name) for name in names]
    clips = [torch.from_numpy(fix_length(load(path).samples)) for path in paths]
    rows: dict[str, Any] = {}
    reference: np.ndarray | None = None
    detector = Detector(seed=0).eval()
    for precision in ("exact", "mixed", "bf16"):  # the last changes the weights
        if precision == "bf16":
            detector.backbone.to_bf16()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, precision == "mixed"):
            llr = np.concatenate([detector.llr(clip[None]).numpy() for clip in clips])
        reference = llr if reference is None else reference
        rows[precision] = drift(llr, reference)
        print("full size", precision, rows[precision], flush=True)
    return {"n_clips": len(clips), "spread": float(reference.std()), "settings": rows}


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="root of the corpora")
    parser.add_argument("--corpus", default="speech")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    where = provenance("torch", "transformers", "accelerate")
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        report["mini_trained_on_real_speech"] = trained(
            args.data, args.corpus, args.epochs, Path(folder)
        )
    print(json.dumps(report["mini_trained_on_real_speech"], indent=1), flush=True)
    report["full_size_random_weights"] = full_size(args.data, args.corpus, args.clips)
    what = "what bfloat16 does to scores on a CPU"
    write(args.out, what, where, report)


if __name__ == "__main__":
    main()
