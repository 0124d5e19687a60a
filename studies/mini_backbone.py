"""Is the mini backbone's pre-training worth it? Probe every layer, against random weights.

    python studies/mini_backbone.py --data DATA --out studies/results/mini_backbone.json

A clip is described by the mean over time of one layer; a logistic regression is fitted on
MiniSpoof's training partition (a simulation) and tested on the others, so with other attacks and
channels than it has seen. The curves of fine-tuning from both starts come from
`minispoof_tracks.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from minispoof_tracks import TRACKS
from provenance import provenance, write
from torch import Tensor

from slslib.data.corpora import open_corpus
from slslib.evaluation import metrics
from slslib.model.detector import load_backbone
from slslib.model.xlsr import XLSR
from slsnotebooks.baseline import classifier
from slsnotebooks.probing import layer_means, sample

N_SAMPLES = 48_000  # 3 s of each clip
Clips = tuple[Tensor, np.ndarray]  # waveforms and labels


def read(spec: str, data: Path) -> Clips:
    """Read the clips of a corpus and their labels."""
    corpus = open_corpus(spec, data)
    per_class = int(corpus.trials["label"].value_counts().min())  # all: the classes are equal
    trials, waveforms = sample(corpus, per_class, n_samples=N_SAMPLES)
    return waveforms, trials["label"].to_numpy()


def eers(backbone: XLSR, train: Clips, tests: dict[str, Clips]) -> dict[str, list[float]]:
    """Return the EER (%) of the probe on each layer, for each test corpus."""
    x, y = layer_means(backbone, train[0]), train[1]
    models = [classifier().fit(x[:, layer], y) for layer in range(x.shape[1])]
    result: dict[str, list[float]] = {}
    for name, (waveforms, label) in tests.items():
        features = layer_means(backbone, waveforms)
        scores = [model.decision_function(features[:, i]) for i, model in enumerate(models)]
        values = [metrics.eer(s[label == 1], s[label == 0]).value for s in scores]
        result[name] = [round(100 * value, 2) for value in values]
    return result


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="MiniSpoof")
    parser.add_argument("--backbone", default="mini")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of random weights")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    where = provenance("torch", "transformers", "numpy", "scikit-learn")
    torch.set_num_threads(1)
    train = read("asvspoof2019-la:train", args.data)
    tests = {name: read(spec, args.data) for name, spec in TRACKS.items()}
    pretrained = load_backbone(args.backbone)
    what = (
        "EER (%) of logistic regression on the mean over time of each layer of the mini "
        "backbone, pre-trained and with random weights, on MiniSpoof, a simulation"
    )
    report: dict[str, Any] = {"pretrained": eers(pretrained, train, tests), "random": []}
    for seed in args.seeds:
        torch.manual_seed(seed)
        random = XLSR(pretrained.config).eval()
        report["random"].append(eers(random, train, tests))
    write(args.out, what, where, report)
    for name in tests:
        best = min(report["pretrained"][name])
        print(name, "pre-trained", best, "random", [min(run[name]) for run in report["random"]])


if __name__ == "__main__":
    main()
