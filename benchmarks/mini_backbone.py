"""Is the mini backbone's pre-training worth it? Probe every layer, against random weights.

    python benchmarks/mini_backbone.py --data DATA --out results/mini_backbone.json

A clip is described by the mean and the standard deviation over time of one layer; a logistic
regression is fitted on MiniSpoof's training partition (a simulation) and tested on the others. The
curves of fine-tuning from both starts come from `minispoof_tracks.py`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from slslib import audio, metrics
from slslib.detector import load_backbone
from slslib.protocols import Corpus, open_corpus
from slslib.xlsr import XLSR

N_SAMPLES = 48_000  # 3 s of each clip


def describe(backbone: XLSR, corpus: Corpus) -> np.ndarray:
    """Return mean and standard deviation over time: ``[clips, layers, 2 * width]``."""
    parts = []
    utterances = corpus.trials.utterance.to_list()
    for i in tqdm(range(0, len(utterances), 16), corpus.partition, leave=False):
        clips = [audio.load(corpus.audio_path(u)).samples for u in utterances[i : i + 16]]
        waveform = torch.from_numpy(np.stack([audio.fix_length(c, N_SAMPLES) for c in clips]))
        with torch.inference_mode():
            layers = backbone(waveform)
        parts.append(torch.cat([layers.mean(2), layers.std(2)], -1))
    return torch.cat(parts).numpy()


def probe(backbone: XLSR, train: Corpus, tests: dict[str, Corpus]) -> dict[str, list[float]]:
    """Return the EER (%) of the probe on each layer, for each test corpus."""
    x, y = describe(backbone, train), train.trials.label.to_numpy()
    others = {name: describe(backbone, corpus) for name, corpus in tests.items()}
    result: dict[str, list[float]] = {name: [] for name in tests}
    for layer in range(x.shape[1]):
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
        ).fit(x[:, layer], y)
        for name, corpus in tests.items():
            scores = model.decision_function(others[name][:, layer])
            label = corpus.trials.label.to_numpy()
            eer = metrics.eer(scores[label == 1], scores[label == 0]).value
            result[name].append(round(100 * eer, 2))
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
    train = open_corpus("asvspoof2019-la:train", args.data)
    specs = {"dev": "asvspoof2019-la:dev", "LA": "asvspoof2021-la", "DF": "asvspoof2021-df"}
    tests = {name: open_corpus(spec, args.data) for name, spec in specs.items()}
    pretrained = load_backbone(args.backbone).eval()
    report: dict[str, Any] = {
        "what": "EER (%) of logistic regression on each layer of the mini backbone, pre-trained "
        "and with random weights, on MiniSpoof, a simulation; measured here",
        "pretrained": probe(pretrained, train, tests),
        "random": [],
    }
    for seed in args.seeds:
        torch.manual_seed(seed)
        random = XLSR(replace(pretrained.config), attention="sdpa").eval()
        report["random"].append(probe(random, train, tests))
    report |= where
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    for name in tests:
        best = min(report["pretrained"][name])
        print(name, "pre-trained", best, "random", [min(run[name]) for run in report["random"]])


if __name__ == "__main__":
    main()
