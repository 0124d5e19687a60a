"""Measure the speed and the memory with which this machine scores, and estimate hours from them.

Batches of noise pass through the call that :mod:`slslib.runs.score` makes for each batch. The time
is the median that PyTorch's benchmark timer finds after a warm-up. It covers the transfer to the
device, the network and the transfer back. It does not cover decoding, which ``--workers`` do at the
same time, or communication between processes. The *real-time factor* is seconds of computing per
second of audio.

On CUDA, the memory is the most that PyTorch had allocated. Elsewhere it is the largest resident set
of the process *so far* (as Linux counts it), so no row is below the rows before it.
"""

import resource
from typing import Any, get_args

import numpy as np

from slslib.data.audio import SAMPLE_RATE
from slslib.errors import ConfigError
from slslib.runs.recipes import Precision
from slslib.runs.score import ScoreConfig, score_batch


def bench(
    *,
    checkpoint: str = "mini",
    batch_size: tuple[int, ...] = (1, 8),
    precision: Precision = "exact",
    cpu: bool = False,
) -> dict[str, Any]:
    """Measure how fast this machine scores, and in what memory.

    The clips are noise. Each time is the median of as many repeats as a steady answer needs. The
    hours for the 611,829 trials of ASVspoof 2021 DF are estimated from it. Training shows its own
    speed while it runs.

    Example: slslib bench --checkpoint random --batch-size 8 32 --precision bf16

    Args:
        checkpoint: safetensors or .pth file, run folder, hub:owner/name[/file][@revision], mini,
            or random for XLS-R 300M's dimensions with random weights.
        batch_size: Clips per forward pass; each size is measured.
        precision: exact, or bf16 to round products.
        cpu: Use the CPU even if there is a GPU.

    Returns:
        Detector, machine, settings and ``rows``. Each row has a ``batch_size``, the ``seconds`` of
        a batch, ``clips_per_second``, ``real_time_factor``, ``peak_memory_bytes`` and
        ``hours_of_2021_DF``.

    Raises:
        ConfigError: A batch size is below 1.
        CheckpointError: The checkpoint cannot be read.
    """
    import torch
    from torch.utils.benchmark import Timer

    from slslib.model.detector import Detector
    from slslib.runs import processes
    from slslib.runs.clips import Clip

    if precision not in get_args(Precision) or not batch_size:
        text = "it must be exact or bf16, with one batch size or more"
        raise ConfigError(f"precision {precision!r}, batch sizes {batch_size}: {text}")
    accelerator = processes.start(cpu=cpu)
    detector = Detector(seed=0).eval() if checkpoint == "random" else Detector.load(checkpoint)
    detector.to(accelerator.device)
    if precision == "bf16":
        detector.backbone.to_bf16()
    n_samples, threads = detector.config.n_samples, torch.get_num_threads()
    noise = 0.1 * np.random.default_rng(0).standard_normal(n_samples, np.float32)
    on_cuda, rows = accelerator.device.type == "cuda", []
    for size in sorted(batch_size):
        batch = detector, [Clip("", -1, noise)] * size, ScoreConfig(batch_size=size)
        names = {"score_batch": score_batch, "batch": batch}
        timer = Timer("score_batch(*batch).tolist()", globals=names, num_threads=threads)
        if on_cuda:
            torch.cuda.reset_peak_memory_stats()
        with processes.deterministic(tf32=False):  # the algorithms that scoring uses
            seconds = timer.adaptive_autorange().median
        resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        row = {
            "batch_size": size,
            "seconds": seconds,
            "clips_per_second": size / seconds,
            "real_time_factor": seconds / size * SAMPLE_RATE / n_samples,
            "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_cuda else resident,
            "hours_of_2021_DF": 611_829 * seconds / size / 3600,
        }
        rows.append(row)
    return {
        "checkpoint": str(checkpoint),
        "precision": precision,
        **processes.environment(accelerator),
        "threads": threads,
        "rows": rows,
    }
