"""How fast this machine scores, in what memory, and what that means in hours.

Batches of noise pass through the call that :mod:`slslib.runs.score` makes for each batch. The time
is the median that PyTorch's benchmark timer finds after a warm-up. It covers the transfer to the
device, the network and the transfer back. It covers neither decoding, which ``--workers`` do at the
same time, nor communication between processes. The *real-time factor* is seconds of computing per
second of audio.

Memory on CUDA is the most that PyTorch had allocated. Elsewhere it is the largest resident set of
the process *so far* (as Linux counts it), so no row is below those before it.
"""

from __future__ import annotations

import resource
from functools import partial
from typing import Any

import numpy as np

from slslib.data.audio import SAMPLE_RATE
from slslib.model.geometry import Attention
from slslib.runs.recipes import Precision
from slslib.runs.score import ScoreConfig, score_batch

TRIALS = {"2021 LA": 181_566, "2021 DF": 611_829, "In-the-Wild": 31_779}
"""The corpora whose hours are estimated, and their numbers of trials."""


def bench(
    *,
    checkpoint: str = "mini",
    batch_size: tuple[int, ...] = (1, 8),
    precision: tuple[Precision, ...] = ("no",),
    attention: Attention = "eager",
    cpu: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure how fast this machine scores, and in what memory.

    The clips are noise. Each time is the median of as many repeats as a steady answer needs; the
    hours for whole corpora are estimated from it. Training shows its own speed while it runs.

    Example: slslib bench --checkpoint random --batch-size 8 32 --precision no bf16

    Args:
        checkpoint: safetensors or .pth file, run folder, hub:owner/name[/file][@revision], mini,
            or random for XLS-R 300M's dimensions with random weights.
        batch_size: Clips per forward pass; each size is measured.
        precision: no, or bf16 for mixed precision; each is measured.
        attention: eager (exact) or sdpa (faster).
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
    from torch.utils.benchmark import Timer

    from slslib.model.detector import Detector
    from slslib.runs import processes
    from slslib.runs.clips import Clip

    sizes = sorted(batch_size)
    settings = [ScoreConfig(batch_size=n, precision=p) for p in precision for n in sizes]
    if checkpoint == "random":
        detector = Detector(seed=0, attention=attention).eval()
    else:
        detector = Detector.load(checkpoint, attention=attention)
    n_samples, rows, errors = detector.config.n_samples, [], []
    noise = 0.1 * np.random.default_rng(0).standard_normal(n_samples, np.float32)
    for config in processes.bar(settings, desc="bench", show=progress):
        clips = [Clip("noise", -1, noise)] * config.batch_size
        accelerator = processes.start(config.precision, cpu=cpu)
        on_cuda = accelerator.device.type == "cuda"
        if on_cuda:
            torch.cuda.empty_cache()  # of the setting before
            torch.cuda.reset_peak_memory_stats()
        call = partial(score_batch, detector, clips, config, accelerator)
        timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
        row: dict[str, Any] = {"batch_size": config.batch_size, "precision": config.precision}
        rows.append(row)
        try:
            detector.to(accelerator.device)
            with processes.deterministic():  # the algorithms that scoring uses
                row["seconds"] = timer.adaptive_autorange().median
        except (MemoryError, torch.OutOfMemoryError) as error:  # other rows are worth having
            row["error"] = str(error).partition("\n")[0] or "not enough memory"
            what = f"batch {config.batch_size}, precision {config.precision}: {row['error']}"
            errors.append(f"{what}; use a smaller --batch-size")
            continue
        per_clip = row["seconds"] / config.batch_size
        row["clips_per_second"] = 1 / per_clip
        row["real_time_factor"] = per_clip * SAMPLE_RATE / n_samples
        resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        row["peak_memory_bytes"] = torch.cuda.max_memory_allocated() if on_cuda else resident
        row["hours"] = {corpus: n * per_clip / 3600 for corpus, n in TRIALS.items()}
    return {
        "checkpoint": str(checkpoint),
        "attention": attention,
        **processes.environment(processes.start(cpu=cpu)),
        "threads": torch.get_num_threads(),
        "rows": rows,
        "errors": errors,
    }
