"""How fast this machine scores and trains, in what memory, and what that means in hours.

Batches of noise pass through the call that :mod:`slslib.runs.score` makes for each batch, and
through the step of :mod:`slslib.runs.fit`. A time is the median of several repeats after
a warm-up. It holds the way to the device, the network and the way back, and no decoding, which
``--workers`` do beside it, and no work between processes. The *real-time factor* is seconds of
computing per second of audio.

Memory on CUDA is the most that PyTorch had allocated; elsewhere it is the largest resident set of
the process *so far*, so no row is below those before it.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import replace
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from slslib.errors import ConfigError
from slslib.model.geometry import Attention
from slslib.runs.recipes import RECIPES, Precision, TrainConfig, v1
from slslib.runs.score import ScoreConfig, score_batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from accelerate import Accelerator

    from slslib.model.detector import Detector

TRIALS = {
    "score": {"2021 LA": 181_566, "2021 DF": 611_829, "In-the-Wild": 31_779},
    "train": {"2019 LA, epoch": 25_380},
}
"""What the hours are estimated for."""


def bench(
    *,
    checkpoint: str = "mini",
    batch_size: tuple[int, ...] = (1, 8),
    precision: tuple[Precision, ...] = ("no",),
    attention: Attention = "eager",
    repeats: int = 5,
    scoring_only: bool = False,
    cpu: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure how fast this machine scores and trains, and in what memory.

    Clips of noise; the median of repeats. Hours for whole corpora are estimated from it. Training
    steps are those of the recipe that the checkpoint names, else of v1.

    Example: slslib bench --checkpoint random --batch-size 8 32 --precision no bf16

    Args:
        checkpoint: safetensors or .pth file, run folder, hub:owner/name[/file][@revision], mini,
            or random for XLS-R 300M's dimensions with random weights.
        batch_size: Clips per forward pass in scoring, each measured; training has its recipe's.
        precision: no, or bf16 for mixed precision; each is measured.
        attention: eager (exact) or sdpa (faster).
        repeats: Repeats whose median is taken, after one to warm up.
        scoring_only: Leave out training, which needs several times the memory.
        cpu: Use the CPU even where there is a GPU.
        progress: Show a progress bar on standard error.

    Returns:
        Detector, machine and ``rows``: for each setting ``seconds`` of a batch,
        ``clips_per_second``, ``real_time_factor``, ``peak_memory_bytes`` and, by corpus, ``hours``;
        or, where the memory was not enough, ``error``, which ``errors`` repeats.

    Raises:
        ConfigError: A number is below 1, or several processes were launched.
        CheckpointError: The checkpoint cannot be read.
    """
    if min(batch_size, default=0) < 1 or not precision or repeats < 1:
        raise ConfigError("batch_size, precision and repeats: give one of each, of at least 1")
    import torch

    from slslib.data.audio import SAMPLE_RATE
    from slslib.model.checkpoints import locate
    from slslib.model.detector import Detector
    from slslib.runs import processes

    accelerator = processes.start(cpu=cpu)
    if accelerator.num_processes > 1:
        raise ConfigError(
            f"bench measures one process, and {accelerator.num_processes} were launched: run it "
            "without accelerate or torchrun"
        )
    machine = processes.environment(accelerator)
    if checkpoint == "random":
        detector = Detector(seed=0, attention=attention)
    else:
        detector = Detector.load(locate(checkpoint), attention=attention)
    recipe = RECIPES.get(str(detector.metadata.get("recipe")), v1)()
    configs: list[ScoreConfig | TrainConfig] = [
        ScoreConfig(batch_size=size, precision=p, attention=attention)
        for p in precision
        for size in sorted(batch_size)
    ]
    if not scoring_only:
        configs += [replace(recipe, precision=p, attention=attention) for p in precision]
    # The algorithms that scoring and training use.
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
        bar = processes.bar(iterable=configs, desc="bench", leave=False, show=progress)
        rows = [_measure(detector, config, repeats, cpu) for config in bar]
    return {
        "checkpoint": str(checkpoint),
        "parameters": sum(p.numel() for p in detector.parameters()),
        "clip_seconds": detector.config.n_samples / SAMPLE_RATE,
        "recipe": recipe.recipe,
        "attention": attention,
        "repeats": repeats,
        **machine,
        "threads": torch.get_num_threads(),
        "rows": rows,
        "errors": [
            f"{row['work']}, batch {row['batch_size']}, precision {row['precision']}: "
            f"{row['error']}; use a smaller --batch-size or --scoring-only"
            for row in rows
            if "error" in row
        ],
    }


def _measure(
    detector: Detector, config: ScoreConfig | TrainConfig, repeats: int, cpu: bool
) -> dict[str, Any]:
    """Return the row of one setting, or why there is none: the rows before it are worth having."""
    import torch

    from slslib.data.audio import SAMPLE_RATE
    from slslib.runs import processes

    work = "score" if isinstance(config, ScoreConfig) else "train"
    row = {"work": work, "batch_size": config.batch_size, "precision": config.precision}
    accelerator = processes.start(config.precision, cpu=cpu)
    on_cuda, seconds = accelerator.device.type == "cuda", []
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    try:
        call = _call(detector.to(accelerator.device), config, accelerator)
        for _ in range(1 + repeats):  # kernels are chosen and memory is allocated in the first
            begin = perf_counter()
            call()
            if on_cuda:
                torch.cuda.synchronize()
            seconds.append(perf_counter() - begin)
    except (MemoryError, torch.OutOfMemoryError) as error:
        row["error"] = (str(error).splitlines() or ["not enough memory"])[0]
    if "error" in row:  # not above, where the error still holds what was allocated
        detector.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        return row
    typical = median(seconds[1:])
    per_clip = typical / config.batch_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    return row | {
        "seconds": typical,
        "clips_per_second": 1 / per_clip,
        "real_time_factor": per_clip * SAMPLE_RATE / detector.config.n_samples,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_cuda else peak,
        "hours": {corpus: n * per_clip / 3600 for corpus, n in TRIALS[work].items()},
    }


def _call(
    detector: Detector, config: ScoreConfig | TrainConfig, accelerator: Accelerator
) -> Callable[[], object]:
    """Return what scores a batch of noise, or takes a step of training on it."""
    import torch

    from slslib.runs import fit
    from slslib.runs.clips import Clip

    noise = 0.1 * np.random.default_rng(0).standard_normal(detector.config.n_samples, np.float32)
    clips = [Clip("noise", i % 2, noise) for i in range(config.batch_size)]
    if isinstance(config, ScoreConfig):
        detector.eval()
        return lambda: score_batch(detector, clips, config, accelerator)
    detector.train().backbone.freeze(config.freeze)
    optimizer = fit.build_optimizer(detector, config)
    class_weights = torch.tensor(config.class_weights, device=accelerator.device)

    def model(waveforms: torch.Tensor) -> torch.Tensor:
        with accelerator.autocast():
            return detector(waveforms)

    return lambda: fit.train_step(model, optimizer, clips, class_weights, accelerator)
