"""Measure what kept layers save where a head is trained and its backbone is not.

    python studies/frozen_layers.py --clips 32 --out studies/results/frozen_layers.json

XLS-R 300M's size with random weights; clips of MiniSpoof's training set. An epoch is a pass of an
SLS head over all clips, with gradients, in batches of 8: from kept layers, and with the backbone
computed for each batch, as training with ``--freeze backbone`` does.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import tyro
from provenance import provenance, write
from torch.nn import functional as F
from torch.utils.data import DataLoader

from minispoof.corpus import simulation
from slslib.data.corpora import open_corpus
from slslib.files import cache_root
from slslib.model.detector import Detector
from slslib.runs.clips import TrialDataset, read_clips
from slsnotebooks.probing import frozen_layers

WHAT = "seconds and bytes of kept layers, at XLS-R 300M's size with random weights"


def main(out: Path, clips: int = 32, threads: int = 2) -> None:
    """Measure and write the JSON file."""
    torch.set_num_threads(threads)
    where, load = provenance("torch", "transformers"), os.getloadavg()
    corpus = open_corpus("asvspoof2019-la:train", simulation())
    trials = corpus.trials.sample(clips, random_state=0).reset_index(drop=True)
    dataset, detector = TrialDataset(replace(corpus, trials=trials)), Detector().eval()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SLSLIB_CACHE"] = folder
        first, pairs = timed(lambda: frozen_layers(detector.backbone, dataset))
        again, pairs = timed(lambda: frozen_layers(detector.backbone, dataset))
        files = [*(cache_root() / "frozen_layers").iterdir()]
        size = sum(file.stat().st_size for file in files)

        def from_kept() -> None:
            for layers, labels in DataLoader(pairs, batch_size=8, shuffle=True):
                step(detector, layers.float().unbind(1), labels)

        kept, _ = timed(from_kept)
    batches = [read_clips(dataset, range(i, min(i + 8, clips))) for i in range(0, clips, 8)]

    def computed() -> None:
        for waveforms, labels in batches:
            with torch.no_grad():
                layers = list(detector.backbone.layers(waveforms))
            step(detector, layers, labels)

    epoch, _ = timed(computed)
    result = {"clips": clips, "threads": threads, "load_before": load}
    result |= {"mb_per_clip": size / 1e6 / clips}
    result |= {"first_s": first, "again_s": again, "epoch_from_kept_s": kept, "epoch_s": epoch}
    write(out, WHAT, where, result)


def step(detector: Detector, layers: object, labels: torch.Tensor) -> None:
    """Compute the gradient of the head for a batch."""
    detector.head.zero_grad()
    F.cross_entropy(detector.head(layers), labels).backward()


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of a call, and what it returned."""
    start = time.perf_counter()
    returned = call()
    return time.perf_counter() - start, returned


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
