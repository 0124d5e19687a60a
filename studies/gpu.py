"""Compare a GPU with the CPU: a training step, rounding of the scores, speed and memory.

    python studies/gpu.py [--checkpoint random] [--clips 8] [--batch-size 1 8 32] [--files 4096]
        [--steps 60] [--cpu]

The reference is the CPU in 32 bits. Clips are tones and noises, since the
weights are random unless a checkpoint is named. PyTorch lets a GPU round the inputs of convolutions
to TF32 (11 significant bits) by itself, those of matrix products only on demand; the rows say
which. Speed and memory of scoring are those of `slslib bench`; a training step of the recipe v1 is
timed here in the same way. Then `score` and `train v1` (with RawBoost) work on FLAC files, decoded
by as many processes as is usual; of each, a short run is taken away, which loads and saves as much.
`--cpu` tries the script without a GPU.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import torch
from precision import drift
from provenance import ROOT, provenance, write
from torch import Tensor
from torch.utils.benchmark import Timer

from slsapp.bench import bench
from slslib.data.audio import SAMPLE_RATE
from slslib.model.detector import Detector
from slslib.runs import processes
from slslib.runs.clips import Clip
from slslib.runs.fit import build_optimizer, train_step
from slslib.runs.recipes import WORKERS, TrainConfig, v1
from slslib.runs.score import ScoreConfig, score, score_batch
from slslib.runs.train import train

OUT = ROOT / "studies" / "results" / "gpu.json"
ROUNDING = {  # precision, TF32 in convolutions, TF32 in matrix products
    "float32": ("exact", False, False),
    "PyTorch's default": ("exact", True, False),
    "TF32": ("exact", True, True),
    "bfloat16": ("bf16", False, False),
}
ON_CPU = ("float32", "bfloat16")  # which has no TF32


@contextmanager
def tf32(convolutions: bool, products: bool) -> Iterator[None]:
    """Round the inputs of convolutions and matrix products to TF32 on a GPU, or do not."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = products
    flags = {"enabled": True, "deterministic": True, "benchmark": False}
    try:
        with torch.backends.cudnn.flags(**flags, allow_tf32=convolutions):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def tones_and_noises(n_clips: int, n_samples: int) -> list[Clip]:
    """Return clips of one length: tones, labelled bona fide, and noises, labelled spoof."""
    rng, seconds = np.random.default_rng(0), np.arange(n_samples) / SAMPLE_RATE
    clips = []
    for i in range(n_clips):
        tone = 0.2 * np.sin(2 * np.pi * rng.uniform(100, 400) * seconds)
        samples = tone if i % 2 else 0.1 * rng.standard_normal(n_samples)
        clips.append(Clip(f"clip-{i}", i % 2, samples.astype(np.float32)))
    return clips


def step(
    detector: Detector, clips: list[Clip], config: TrainConfig, *, cpu: bool
) -> tuple[float, dict[str, Tensor], dict[str, Tensor]]:
    """Take one optimizer step without TF32; return loss, gradients and changes of the weights.

    The detector stays as it is. `k_proj.bias` is left out: its true gradient is 0.
    """
    accelerator = processes.start(config.precision, cpu=cpu)
    model = copy.deepcopy(detector).to(accelerator.device).train()
    optimizer = build_optimizer(model, config)
    with tf32(False, False):
        loss = train_step(model, optimizer, clips, config, accelerator)
    before = dict(detector.named_parameters())
    moved = {
        name: parameter.detach().cpu()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not name.endswith("k_proj.bias")
    }
    gradients = {name: model.get_parameter(name).grad.cpu() for name in moved}
    return loss, gradients, {name: moved[name] - before[name].detach().cpu() for name in moved}


def step_differences(ours: Any, reference: Any) -> dict[str, float]:
    """Compare two results of :func:`step`, each difference relative to the reference.

    Gradients: the norm of the worst tensor, where tensors below a ten thousandth of the whole
    gradient count as that large. Changes of the weights: the norm of all. Adam divides a gradient
    by its own size, so where rounding decides the sign of one, its weight goes the other way.
    """

    def norm(tensors: Any) -> float:
        return float(torch.stack([t.double().norm() for t in tensors]).norm())

    (loss, gradients, changes), (loss_0, gradients_0, changes_0) = ours, reference
    if gradients.keys() != gradients_0.keys():
        raise ValueError(f"other weights: {sorted(gradients.keys() ^ gradients_0.keys())}")
    least = 1e-4 * norm(gradients_0.values())
    worst = max(norm([gradients[k] - g]) / max(norm([g]), least) for k, g in gradients_0.items())
    difference = norm([changes[name] - change for name, change in changes_0.items()])
    return {
        "loss": abs(loss - loss_0) / abs(loss_0),
        "gradients": worst,
        "changes_of_weights": difference / norm(changes_0.values()),
    }


def scores(
    detector: Detector, clips: list[Clip], rounding: str, *, cpu: bool, batch_size: int = 1
) -> np.ndarray:
    """Return the scores of clips under one of :data:`ROUNDING`: float64 ``[clips]``."""
    precision, *rounded = ROUNDING[rounding]
    detector = copy.deepcopy(detector).eval().to(processes.start(cpu=cpu).device)
    if precision == "bf16":
        detector.backbone.to_bf16()
    with tf32(*rounded):
        batches = [clips[i : i + batch_size] for i in range(0, len(clips), batch_size)]
        made = [score_batch(detector, batch, ScoreConfig()) for batch in batches]
    return torch.cat(made).cpu().numpy()


def training_speed(
    detector: Detector, clips: list[Clip], config: TrainConfig, *, cpu: bool
) -> dict[str, Any]:
    """Return the median time of an optimizer step and, on a GPU, the memory that it takes."""
    accelerator = processes.start(config.precision, cpu=cpu)
    model = copy.deepcopy(detector).to(accelerator.device).train()
    arguments = model, build_optimizer(model, config), clips, config, accelerator
    if not cpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    timer = Timer(
        "train_step(*arguments)",
        globals={"train_step": train_step, "arguments": arguments},
        num_threads=torch.get_num_threads(),
    )
    with processes.deterministic():
        seconds = timer.adaptive_autorange().median
    memory = None if cpu else torch.cuda.max_memory_allocated()
    row = {"precision": config.precision, "batch_size": len(clips), "seconds": seconds}
    return row | {"steps_per_second": 1 / seconds, "peak_memory_bytes": memory}


def flac_corpus(folder: Path, n_files: int, n_samples: int) -> str:
    """Write a corpus of FLAC files, which are links to 32 of them."""
    (folder / "flac").mkdir(parents=True)
    clips = tones_and_noises(32, n_samples)
    for clip in clips:
        sf.write(folder / f"{clip.utterance}.flac", clip.waveform, SAMPLE_RATE)
    lines = ["utterance,label\n"]
    for i in range(n_files):
        os.link(folder / f"clip-{i % 32}.flac", folder / "flac" / f"file-{i}.flac")
        lines.append(f"file-{i},{'bonafide' if i % 2 else 'spoof'}\n")
    (folder / "trials.csv").write_text("".join(lines))
    return str(folder)


def commands(
    detector: Detector, n_files: int, n_steps: int, precision: str, *, cpu: bool
) -> dict[str, float]:
    """Return clips per second of `score` and seconds per step of `train v1`, both from FLAC."""
    config = replace(v1(), precision=precision, max_epochs=1_000)
    usual = {"cpu": cpu, "progress": False}
    with tempfile.TemporaryDirectory() as name:
        checkpoint = Path(name) / "detector.safetensors"
        detector.save(checkpoint)
        times = []
        for size, steps in ((32, 2), (n_files, n_steps)):
            corpus = flac_corpus(Path(name) / f"c{size}", size, detector.config.n_samples)
            start = time.perf_counter()
            settings = ScoreConfig(precision=precision)
            score(str(checkpoint), corpus, Path(name) / f"{size}.txt", config=settings, **usual)
            scored = time.perf_counter()
            mine = replace(config, train=corpus, init=str(checkpoint))
            train(mine, Path(name) / f"run{size}", max_steps=steps, **usual)
            times.append((scored - start, time.perf_counter() - scored))
    (short_score, short_train), (long_score, long_train) = times
    return {
        "precision": precision,
        "workers": WORKERS,
        "score_clips_per_second": (n_files - 32) / (long_score - short_score),
        "train_seconds_per_step": (long_train - short_train) / (n_steps - 2),
    }


def measure(
    checkpoint: str, n_clips: int, batch_sizes: list[int], n_files: int, n_steps: int, *, cpu: bool
) -> dict[str, Any]:
    """Measure all; with `cpu` the CPU stands in the place of the GPU."""
    device = processes.environment(processes.start(cpu=cpu))
    if not cpu:
        gpu = torch.cuda.get_device_properties(0)
        device |= {
            "memory_bytes": gpu.total_memory,
            "compute_capability": f"{gpu.major}.{gpu.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    detector = Detector(seed=0) if checkpoint == "random" else Detector.load(checkpoint)
    clips = tones_and_noises(n_clips, detector.config.n_samples)
    config = replace(v1(), lr=1e-3)
    batch = clips[: config.batch_size]
    reference = scores(detector, clips, "float32", cpu=True)
    first = step(detector, batch, config, cpu=True)
    moved = {
        rounding: drift(scores(detector, clips, rounding, cpu=cpu), reference)
        for rounding in (ON_CPU if cpu else ROUNDING)
    }
    rows: dict[str, Any] = {"device": device, "scores": moved}
    rows |= {"training": [], "bench": [], "commands": []}
    rows["step"] = step_differences(step(detector, batch, config, cpu=cpu), first)
    for precision in ("exact", "bf16"):
        mixed = replace(config, precision=precision)
        rows["training"].append(training_speed(detector, batch, mixed, cpu=cpu))
        options = {"batch_size": tuple(batch_sizes), "precision": precision, "cpu": cpu}
        rows["bench"].append(bench(checkpoint=checkpoint, **options))
        rows["commands"].append(commands(detector, n_files, n_steps, precision, cpu=cpu))
    return rows


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="random", help="a detector, or random (full size)")
    parser.add_argument("--clips", type=int, default=8, help="clips to score")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--files", type=int, default=4096, help="FLAC files to score")
    parser.add_argument("--steps", type=int, default=60, help="training steps on them")
    parser.add_argument("--cpu", action="store_true", help="try the script without a GPU")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    if not (args.cpu or torch.cuda.is_available()):
        parser.error("PyTorch finds no CUDA device; --cpu tries the script without one")
    where = provenance("torch", "transformers", "accelerate")
    numbers = args.clips, args.batch_size, args.files, args.steps
    results = measure(args.checkpoint, *numbers, cpu=args.cpu)
    what = "a training step, scores, speed and memory on a GPU, compared with the CPU in 32 bits"
    write(args.out, what, where, results)


if __name__ == "__main__":
    main()
