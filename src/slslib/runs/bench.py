"""How fast this machine scores and trains, in what memory, and what that means in hours.

Batches of noise pass through the call that :mod:`slslib.runs.score` makes for each batch, and
through steps like those of :mod:`slslib.runs.train`. A time is the median of several repeats after
a warm-up. It holds the way to the device, the network and the way back, and no decoding, which
``--workers`` do beside it, and no work between processes. The *real-time factor* is seconds of
computing per second of audio.

Memory on CUDA is the most that PyTorch had allocated; elsewhere it is the largest resident set of
the process *so far*, so no row is below those before it.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from rich.table import Table
from torch import Tensor

from slslib.data.audio import SAMPLE_RATE
from slslib.errors import ConfigError
from slslib.model.checkpoints import locate
from slslib.model.detector import Detector
from slslib.model.geometry import Attention
from slslib.runs import processes, recipes
from slslib.runs.clips import Clip
from slslib.runs.recipes import Precision, TrainConfig
from slslib.runs.score import ScoreConfig, score_batch
from slslib.runs.train import build_optimizer, train_step

TRIALS = {
    "score": {"2021 LA": 181_566, "2021 DF": 611_829, "In-the-Wild": 31_779},
    "train": {"2019 LA, epoch": 25_380},
}
"""What the hours are estimated for."""


def bench(
    checkpoint: str | Path = "mini",
    *,
    batch_sizes: Sequence[int] = (1, 8),
    precisions: Sequence[Precision] = ("no",),
    attention: Attention = "eager",
    repeats: int = 5,
    scoring_only: bool = False,
    cpu: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure scoring, and training steps of the recipe that the checkpoint names (else ``v1``).

    Args:
        checkpoint: As for :func:`slslib.runs.score.score`, or ``"random"``: the dimensions of XLS-R
            300M with random weights, which are as fast as others.
        batch_sizes: Clips per forward pass in scoring; a training step has its recipe's.
        precisions: ``"no"`` or ``"bf16"``, each of which is measured.
        attention: Attention kernel of scoring and of training.
        repeats: Repeats whose median is taken.
        scoring_only: Leave out training, which needs several times the memory.
        cpu: Use the CPU even where there is a GPU.
        progress: Show a progress bar on standard error.

    Returns:
        Detector, machine and ``rows``: for each setting ``seconds`` of a batch,
        ``clips_per_second``, ``real_time_factor``, ``peak_memory_bytes`` and, by corpus, ``hours``;
        or, where the memory was not enough, ``error``.

    Raises:
        ConfigError: A number is below 1, or several processes were launched.
        CheckpointError: The checkpoint cannot be read.
    """
    if min(batch_sizes, default=0) < 1 or not precisions or repeats < 1:
        raise ConfigError(
            f"batch sizes {list(batch_sizes)}, precisions {list(precisions)}, {repeats} repeats: "
            "give at least one of each, and numbers of at least 1"
        )
    accelerator = processes.start(cpu=cpu)
    if accelerator.num_processes > 1:
        raise ConfigError(
            f"bench measures one process, and {accelerator.num_processes} were launched: run "
            "`slslib bench` without accelerate or torchrun"
        )
    machine = processes.about(accelerator)
    configs: list[ScoreConfig | TrainConfig] = [
        ScoreConfig(batch_size=size, precision=precision, attention=attention)
        for precision in precisions
        for size in sorted(batch_sizes)
    ]
    if checkpoint == "random":
        detector = Detector(seed=0, attention=attention)
    else:
        detector = Detector.load(locate(checkpoint), attention=attention)
    recipe = recipes.RECIPES.get(str(detector.metadata.get("recipe")), recipes.v1)()
    if not scoring_only:
        configs += [replace(recipe, precision=p, attention=attention) for p in precisions]
    # The algorithms that scoring and training use.
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
        bar = processes.bar(
            iterable=configs, desc="bench", unit="setting", leave=False, show=progress
        )
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
    }


def _measure(
    detector: Detector, config: ScoreConfig | TrainConfig, repeats: int, cpu: bool
) -> dict[str, Any]:
    """Return the row of one setting, or why there is none: the rows before it are worth having."""
    work = "score" if isinstance(config, ScoreConfig) else "train"
    row = {"work": work, "batch_size": config.batch_size, "precision": config.precision}
    try:
        return row | _numbers(detector, config, repeats, cpu)
    except (MemoryError, torch.OutOfMemoryError) as error:
        cause = (str(error).splitlines() or ["not enough memory"])[0]
    # Not above, where the error still holds what was allocated.
    detector.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    return row | {"error": cause}


def _numbers(
    detector: Detector, config: ScoreConfig | TrainConfig, repeats: int, cpu: bool
) -> dict[str, Any]:
    """Measure one setting."""
    accelerator = processes.start(config.precision, cpu=cpu)
    device, n_samples = accelerator.device, detector.config.n_samples
    detector.to(device)
    noise = 0.1 * np.random.default_rng(0).standard_normal(n_samples, np.float32)
    clips = [Clip("noise", i % 2, noise) for i in range(config.batch_size)]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    call: Callable[[], object]
    if isinstance(config, ScoreConfig):
        work, call = "score", partial(score_batch, detector.eval(), clips, config, accelerator)
    else:
        work, call = "train", _training(detector, clips, config, accelerator)
    seconds = _median_seconds(call, repeats)
    each = seconds / config.batch_size
    return {
        "seconds": seconds,
        "clips_per_second": 1 / each,
        "real_time_factor": each * SAMPLE_RATE / n_samples,
        "peak_memory_bytes": _peak_memory(device),
        "hours": {corpus: n * each / 3600 for corpus, n in TRIALS[work].items()},
    }


def _training(
    detector: Detector, clips: list[Clip], config: TrainConfig, accelerator: Accelerator
) -> Callable[[], object]:
    """Return a function that takes one step of training."""
    detector.train().backbone.freeze(config.freeze)
    optimizer = build_optimizer(detector, config)
    class_weights = torch.tensor(config.class_weights, device=accelerator.device)

    def model(waveforms: Tensor) -> Tensor:
        with accelerator.autocast():
            return cast(Tensor, detector(waveforms))

    return partial(train_step, model, optimizer, clips, class_weights, accelerator)


def _median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Time a call after a warm-up, in which kernels are chosen and memory is allocated."""
    times = []
    for _ in range(1 + repeats):
        start = _clock()
        call()
        times.append(_clock() - start)
    return median(times[1:])


def _clock() -> float:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return perf_counter()


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if not status.exists():  # a Mac, which counts in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # On Linux ru_maxrss would begin with the parent's.
    return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024


def render(result: dict[str, Any]) -> Table:
    """Lay the result out for a terminal."""
    table = Table(
        title=f"{result['checkpoint']}: {result['parameters'] / 1e6:.1f} M parameters, clips of "
        f"{result['clip_seconds']:.2f} s, {result['attention']} attention; {result['device']}, "
        f"{result['threads']} threads",
        caption="RTF: real-time factor, seconds of computing per second of audio. Hours are "
        "estimates, and hold where --workers decode as many clips per second.",
    )
    hours = dict.fromkeys(corpus for row in result["rows"] for corpus in row.get("hours", ()))
    columns = ("batch", "precision", "clips/s", "RTF", "peak GB")
    table.add_column("work")
    for column in (*columns, *(f"{corpus} h" for corpus in hours)):
        table.add_column(column, justify="right")
    for row in result["rows"]:
        work = row["work"] if row["work"] == "score" else f"train {result['recipe']}"
        if "error" in row:
            table.add_row(work, str(row["batch_size"]), row["precision"], "failed")
            continue
        numbers = (row["clips_per_second"], row["real_time_factor"], row["peak_memory_bytes"] / 1e9)
        table.add_row(
            work, str(row["batch_size"]), row["precision"], *map(_short, numbers),
            *(_short(row["hours"][corpus]) if corpus in row["hours"] else "" for corpus in hours),
        )  # fmt: skip
    return table


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
