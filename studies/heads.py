r"""Heads on one backbone: SLS, mean pooling, multi-head attentive pooling, and AASIST by import.

    python studies/heads.py --data ../shared --corpus speech --out studies/results/heads.json
    python studies/heads.py --data ../shared --corpus speech --aasist SSL_Anti-spoofing/model.py \
        --out studies/results/heads_aasist.json

AASIST is that of github.com/TakHemlata/SSL_Anti-spoofing, as it is there; with `--aasist`, it alone
is measured.

Each head is trained by the recipe `mini` over several seeds, on the simulated corpus MiniSpoof and
on CORPUS, a folder with flac/ and protocols of the partitions train, dev and test. The heads below
are the example of the page *Extend it*: classes outside the library. The backbone is the packaged
mini backbone, so the numbers compare heads on a toy and say nothing about XLS-R.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from provenance import provenance, write
from torch import Tensor, nn

from minispoof.corpus import simulation
from slslib import Detector, evaluate, open_corpus, score, train
from slslib.model.geometry import DetectorConfig
from slslib.runs.recipes import mini


# page: mean
class MeanPool(nn.Module):
    """The mean over layers and time, and one linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.output = nn.Linear(width, 2)

    def forward(self, layers: Iterable[Tensor]) -> Tensor:
        means = [layer.mean(dim=1) for layer in layers]  # each [batch, width]
        return self.output(torch.stack(means).mean(dim=0))


class MeanPoolDetector(Detector):
    def build_head(self, config: DetectorConfig) -> nn.Module:
        return MeanPool(config.backbone.width)


# page: attentive
class AttentivePool(nn.Module):
    """Multi-head factorized attentive pooling: one weighted sum of the layers says where to look,
    another one what is there.
    """

    def __init__(self, width: int, n_layers: int, size: int = 64, n_heads: int = 8) -> None:
        super().__init__()
        self.layer_weights = nn.Parameter(torch.zeros(2, n_layers))
        self.key, self.value = nn.Linear(width, n_heads), nn.Linear(width, size)
        self.output = nn.Linear(n_heads * size, 2)

    def forward(self, layers: Iterable[Tensor]) -> Tensor:
        sums = [0, 0]
        for n, layer in enumerate(layers):
            for k, weights in enumerate(self.layer_weights.softmax(dim=1)):
                sums[k] = sums[k] + weights[n] * layer  # [batch, frames, width]
        attention = self.key(sums[0]).softmax(dim=1)  # over the frames, one for each head
        pooled = torch.einsum("bth,bts->bhs", attention, self.value(sums[1]))
        return self.output(pooled.flatten(1))


class AttentivePoolDetector(Detector):
    def build_head(self, config: DetectorConfig) -> nn.Module:
        return AttentivePool(config.backbone.width, config.backbone.n_layers)


# page: last
class LastLayer(nn.Module):
    """A head from elsewhere that takes the last layer."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, layers: Iterable[Tensor]) -> Tensor:
        *_, last = layers  # [batch, frames, width]
        return self.head(last)


# page: aasist
class Given(nn.Module):
    """Stands in for another program's backbone: the features are given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_dim = width

    def extract_feat(self, features: Tensor) -> Tensor:
        return features


def aasist_detector(model_py: Path) -> type[Detector]:
    """Return a detector with the AASIST head of SSL_Anti-spoofing/model.py, which is imported."""
    sys.modules.setdefault("fairseq", ModuleType("fairseq"))  # which its own backbone needs
    spec: Any = spec_from_file_location("ssl_anti_spoofing", model_py)
    program: Any = module_from_spec(spec)
    spec.loader.exec_module(program)

    class AASISTDetector(Detector):
        def build_head(self, config: DetectorConfig) -> nn.Module:
            program.SSLModel = lambda device: Given(config.backbone.width)
            return LastLayer(program.Model(None, "cpu"))

    return AASISTDetector


# page: end
HEADS = {"SLS": Detector, "mean": MeanPoolDetector, "attentive": AttentivePoolDetector}
KEPT = ("n_bonafide", "n_spoof", "eer_percent", "eer_interval_percent")


def measure(
    head: type[Detector], data: Path, names: dict[str, str], seed: int, folder: Path
) -> dict[str, Any]:
    """Train one head with one seed; return its size, seconds and the EER of each test set."""
    recipe = replace(mini(), train=names["train"], dev=names["dev"], seed=seed)
    started = time.perf_counter()
    best = train(recipe, folder, data=data, progress=False, detector_class=head)
    detector = head.load(best)
    result: dict[str, Any] = {
        "n_head_parameters": sum(p.numel() for p in detector.head.parameters()),
        "seed": seed,
        "train_seconds": round(time.perf_counter() - started, 1),
        "epoch": detector.metadata["epoch"],
    }
    for name, corpus in names.items():
        if name != "train":
            scores = folder / f"{name}.txt"
            score(str(best), corpus, scores, data=data, progress=False, detector_class=head)
            key = open_corpus(corpus, data).protocol
            found = evaluate(scores, key, bootstrap=1000, cluster=("speaker",))
            result[name] = {fact: found[fact] for fact in KEPT}
    return result


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="root of CORPUS")
    parser.add_argument("--corpus", default="speech")
    parser.add_argument("--aasist", type=Path, help="model.py of SSL_Anti-spoofing")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1234, 4321, 4569])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    where = provenance("torch", "transformers", "numpy")
    chosen = {"AASIST": aasist_detector(args.aasist)} if args.aasist else HEADS
    simulated = {"train": "asvspoof2019-la:train", "dev": "asvspoof2019-la:dev"}
    simulated |= {"LA": "asvspoof2021-la", "DF": "asvspoof2021-df", "In-the-Wild": "in-the-wild"}
    real = {part: f"{args.corpus}:{part}" for part in ("train", "dev", "test")}
    results: dict[str, Any] = {}
    for corpus, data, names in (
        ("simulated", simulation(), simulated),
        ("real speech", args.data, real),
    ):
        for head, kind in chosen.items():
            runs = []
            for seed in args.seeds:
                with tempfile.TemporaryDirectory() as folder:
                    runs.append(measure(kind, data, names, seed, Path(folder)))
                print(corpus, head, runs[-1], flush=True)
            eers = {
                name: {
                    "mean": float(np.mean([run[name]["eer_percent"] for run in runs])),
                    "std": float(np.std([run[name]["eer_percent"] for run in runs], ddof=1)),
                }
                for name in names
                if name != "train" and len(runs) > 1
            }
            results.setdefault(corpus, {})[head] = {"eer_percent": eers, "runs": runs}
    what = "equal error rates of heads on the mini backbone, each trained with several seeds"
    write(args.out, what, where, results)


if __name__ == "__main__":
    main()
