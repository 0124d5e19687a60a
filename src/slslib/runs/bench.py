"""How fast this machine scores and trains, in what memory, and what that means in hours.

Batches of noise pass through the call that :mod:`slslib.runs.score` makes for each batch, and
through the step of :mod:`slslib.runs.fit`. A time is the median that PyTorch's benchmark timer
finds, after a warm-up. It holds the way to the device, the network and the way back, and no
decoding, which ``--workers`` do beside it, and no work between processes. The *real-time factor* is
seconds of computing per second of audio.

Memory on CUDA is the most that PyTorch had allocated; elsewhere it is the largest resident set of
the process *so far* (as Linux counts it), so no row is below those before it.
"""

from __future__ import annotations

import resource
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from slslib.data.audio import SAMPLE_RATE
from slslib.model.geometry import Attention
from slslib.runs.recipes import RECIPES, Precision, TrainConfig, v1
from slslib.runs.score import ScoreConfig, score_batch

if TYPE_CHECKING:
    from slslib.model.detector import Detector

TRIALS = {
    "score": {"2021 LA": 181_566, "2021 DF": 611_829, "In-the-Wild": 31_779},
    "train": {"2019 LA, epoch": 25_380},
}
"""What the hours are estimated for."""
_REMEDY = "use a smaller --batch-size or --scoring-only"


def bench(
    *,
    checkpoint: str = "mini",
    batch_size: tuple[int, ...] = (1, 8),
    precision: tuple[Precision, ...] = ("no",),
    attention: Attention = "eager",
    scoring_only: bool = False,
    cpu: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure how fast this machine scores and trains, and in what memory.

    Clips of noise; the median of repeats, as many as a steady answer needs. Hours for whole corpora
    are estimated from it. Training steps are those of the recipe that the checkpoint names, else of
    v1.

    Example: slslib bench --checkpoint random --batch-size 8 32 --precision no bf16

    Args:
        checkpoint: safetensors or .pth file, run folder, hub:owner/name[/file][@revision], mini,
            or random for XLS-R 300M's dimensions with random weights.
        batch_size: Clips per forward pass in scoring, each measured; training has its recipe's.
        precision: no, or bf16 for mixed precision; each is measured.
        attention: eager (exact) or sdpa (faster).
        scoring_only: Leave out training, which needs several times the memory.
        cpu: Use the CPU even where there is a GPU.
        progress: Show a progress bar on standard error.

    Returns:
        Detector, machine and ``rows``: for each setting ``seconds`` of a batch,
        ``clips_per_second``, ``real_time_factor``, ``peak_memory_bytes`` and, by corpus, ``hours``;
        or, where the memory was not enough, ``error``, which ``errors`` repeats.

    Raises:
        ConfigError: A batch size is below 1.
        CheckpointError: The checkpoint cannot be read.
    """
    import torch

    from slslib.model.detector import Detector
    from slslib.runs import processes

    if checkpoint == "random":
        detector = Detector(seed=0, attention=attention)
    else:
        detector = Detector.load(checkpoint, attention=attention)
    recipe = RECIPES.get(str(detector.metadata.get("recipe")), v1)()
    settings = [("score", size, p) for p in precision for size in sorted(batch_size)]
    if not scoring_only:
        settings += [("train", recipe.batch_size, p) for p in precision]
    rows, errors = [], []
    # The algorithms that scoring and training use.
    with processes.deterministic():
        for work, size, p in processes.bar(settings, desc="bench", show=progress):
            row = {"work": work, "batch_size": size, "precision": p}
            try:
                row |= _measure(detector, work, size, replace(recipe, precision=p), cpu)
            except (MemoryError, torch.OutOfMemoryError) as error:  # earlier rows are worth having
                row["error"] = why = str(error).partition("\n")[0] or "not enough memory"
                errors.append(f"{work}, batch {size}, precision {p}: {why}; {_REMEDY}")
            rows.append(row)
    return {
        "checkpoint": str(checkpoint),
        "parameters": sum(p.numel() for p in detector.parameters()),
        "clip_seconds": detector.config.n_samples / SAMPLE_RATE,
        "recipe": recipe.recipe,
        "attention": attention,
        **processes.environment(processes.start(cpu=cpu)),
        "threads": torch.get_num_threads(),
        "rows": rows,
        "errors": errors,
    }


def _measure(
    detector: Detector, work: str, size: int, recipe: TrainConfig, cpu: bool
) -> dict[str, Any]:
    """Return speed and memory of one setting."""
    import torch
    from torch.utils.benchmark import Timer

    from slslib.runs import fit, processes
    from slslib.runs.clips import Clip

    detector.zero_grad(set_to_none=True)  # of the setting before, as is the cache
    torch.cuda.empty_cache()
    accelerator = processes.start(recipe.precision, cpu=cpu)
    noise = 0.1 * np.random.default_rng(0).standard_normal(detector.config.n_samples, np.float32)
    clips = [Clip("noise", i % 2, noise) for i in range(size)]
    detector.to(accelerator.device).train(work == "train").backbone.freeze(recipe.freeze)
    config = ScoreConfig(batch_size=size, precision=recipe.precision)
    call: Any = partial(score_batch, detector, clips, config, accelerator)
    if work == "train":
        optimizer = fit.build_optimizer(detector, recipe)
        call = partial(fit.train_step, detector, optimizer, clips, recipe, accelerator)
    on_cuda = accelerator.device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    seconds = timer.adaptive_autorange().median
    per_clip = seconds / size
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": seconds,
        "clips_per_second": 1 / per_clip,
        "real_time_factor": per_clip * SAMPLE_RATE / detector.config.n_samples,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_cuda else peak,
        "hours": {corpus: n * per_clip / 3600 for corpus, n in TRIALS[work].items()},
    }
