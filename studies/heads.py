r"""Other heads on one backbone, and other backbones under one head, trained over several seeds.

    python studies/heads.py --data ../shared --corpus speech --out studies/results/heads.json
    python studies/heads.py --data ../shared --corpus speech --systems AASIST \
        --aasist SSL_Anti-spoofing/model.py --out studies/results/heads_aasist.json
    python studies/heads.py --data ../shared --corpus speech --systems "12 layers" \
        --out studies/results/backbones.json

The heads are SLS, mean pooling, multi-head attentive pooling, and AASIST as it is in
github.com/TakHemlata/SSL_Anti-spoofing. The backbones are the packaged mini backbone, its first 12
layers, and its weights in the layout of WavLM.

Each system is trained by the recipe `mini`, on the simulated corpus MiniSpoof and on CORPUS, a
folder with flac/ and protocols of the partitions train, dev and test. The code below is the example
of the page *Extend it*: classes outside the library. The backbone is a toy, so the numbers say
nothing about XLS-R.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from provenance import provenance, write
from torch import Tensor, nn

from minispoof.corpus import simulation
from slslib import Detector, evaluate, open_corpus, score, train
from slslib.model.detector import load_backbone
from slslib.model.geometry import DetectorConfig
from slslib.model.xlsr import XLSR
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


# page: backbones
def write_backbone(folder: Path, **changes: Any) -> None:
    """Write mini's weights into a backbone of other dimensions, as a transformers folder."""
    mini_backbone = load_backbone("mini")
    backbone = XLSR(replace(mini_backbone.config, **changes))
    backbone.load_state_dict(mini_backbone.state_dict(), strict=False)
    for name, parameter in backbone.named_parameters():
        if "rel_attn_embed" in name:  # WavLM's position bias, which mini lacks
            nn.init.zeros_(parameter)
    backbone.model.save_pretrained(folder)


# page: end
HEADS = {"SLS": Detector, "mean": MeanPoolDetector, "attentive": AttentivePoolDetector}
BACKBONES: dict[str, dict[str, Any]] = {
    "12 layers": {"n_layers": 12},
    "WavLM layout": {"wavlm": True},
}
KEPT = ("n_bonafide", "n_spoof", "eer_percent", "eer_interval_percent")
Task = tuple[str, str, int]  # corpus, system, seed


def measure(
    task: Task, corpora: dict[str, tuple[Path, dict[str, str]]], aasist: Path | None
) -> dict[str, Any]:
    """Train one system with one seed; return its size, seconds and the EER of each test set.

    ``corpora`` has the folder of the data, and the corpus of each part.
    """
    (data, names), system, seed = corpora[task[0]], *task[1:]
    head = aasist_detector(aasist) if system == "AASIST" and aasist else HEADS.get(system, Detector)
    recipe = replace(mini(), train=names["train"], dev=names["dev"], seed=seed)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        if system in BACKBONES:
            write_backbone(Path(folder, "backbone"), **BACKBONES[system])
            recipe = replace(recipe, backbone=f"{folder}/backbone")
        best = train(recipe, run, data=data, progress=False, detector_class=head)
        detector = head.load(best)
        result: dict[str, Any] = {
            "n_parameters": sum(p.numel() for p in detector.parameters()),
            "n_head_parameters": sum(p.numel() for p in detector.head.parameters()),
            "seed": seed,
            "train_seconds": round(time.perf_counter() - started, 1),
            "epoch": detector.metadata["epoch"],
        }
        for name, corpus in names.items():
            if name != "train":
                scores = run / f"{name}.txt"
                score(str(best), corpus, scores, data=data, progress=False, detector_class=head)
                key = open_corpus(corpus, data).protocol
                found = evaluate(scores, key, bootstrap=1000, cluster=("speaker",))
                result[name] = {fact: found[fact] for fact in KEPT}
    return result


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean and standard deviation of the EER of each test set, and the runs."""
    eers = {}
    for name in runs[0]:
        if isinstance(runs[0][name], dict):
            found = [run[name]["eer_percent"] for run in runs]
            spread = float(np.std(found, ddof=1)) if len(found) > 1 else None
            eers[name] = {"mean": float(np.mean(found)), "std": spread}
    return {"eer_percent": eers, "runs": runs}


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="root of CORPUS")
    parser.add_argument("--corpus", default="speech")
    known = [*HEADS, "AASIST", *BACKBONES]
    parser.add_argument("--systems", nargs="+", choices=known, default=[*HEADS])
    parser.add_argument("--aasist", type=Path, help="model.py of SSL_Anti-spoofing")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1234, 4321, 4569])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if "AASIST" in args.systems and not args.aasist:
        parser.error("the system AASIST needs --aasist FILE")
    where = provenance("torch", "transformers", "numpy")
    simulated = {"train": "asvspoof2019-la:train", "dev": "asvspoof2019-la:dev"}
    simulated |= {"LA": "asvspoof2021-la", "DF": "asvspoof2021-df", "In-the-Wild": "in-the-wild"}
    real = {part: f"{args.corpus}:{part}" for part in ("train", "dev", "test")}
    what = (
        "equal error rates of heads and backbones of the size of mini, trained with several seeds"
    )
    corpora = {"simulated": (simulation(), simulated), "real speech": (args.data, real)}
    tasks = [(corpus, one, n) for one in args.systems for corpus in corpora for n in args.seeds]
    n_threads = max(1, (os.cpu_count() or 1) // args.jobs)
    start: Any = {"initializer": torch.set_num_threads, "initargs": (n_threads,)}
    with ProcessPoolExecutor(args.jobs, get_context("spawn"), **start) as pool:
        each = pool.map(partial(measure, corpora=corpora, aasist=args.aasist), tasks)
        runs: dict[str, dict[str, list[Any]]] = {corpus: {} for corpus in corpora}
        for (corpus, system, _), run in zip(tasks, each, strict=True):
            runs[corpus].setdefault(system, []).append(run)
            print(corpus, system, run, flush=True)
            results = {c: {s: summary(r) for s, r in of.items()} for c, of in runs.items()}
            write(args.out, what, where, results)


if __name__ == "__main__":
    main()
