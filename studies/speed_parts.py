"""Measure where the time of scoring goes, and what the size of a batch does.

    python studies/speed_parts.py --original FOLDER

The authors' model and ours, with the same random weights at XLS-R 300M's full size, as
`studies/speed.py` builds them, in processes of their own that take turns. PyTorch's profiler gives
the seconds of each operation without those that it calls. The parts are sums of these by the
operation's name, the median of the passes. The profiler's own cost is in them.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import tyro
from provenance import ROOT, provenance, write
from speed import SETTINGS, compare, original_scoring, our_scoring, worker
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from slslib.data.audio import N_SAMPLES
from slslib.model.detector import Detector
from slslib.model.foreign import authors_name
from slslib.model.products import Linear

# The first word that an operation's name holds decides; what holds none is the rest.
PARTS = {
    "convolutions": ("convolution", "conv2d", "conv1d"),
    "attention": ("scaled_dot_product", "bmm", "softmax"),
    "matrix products": ("mm", "linear"),
    "LayerNorm": ("layer_norm",),
    "GELU": ("gelu",),
    "copies": ("copy", "clone", "contiguous", "cat", "stack", "fill", "zero"),
    "the rest": ("",),
}
BATCHES = (1, 2, 4, 8, 16)
SYSTEMS = ("original", *SETTINGS)


def part(operation: str) -> str:
    """Return the part that an operation belongs to."""
    return next(name for name, words in PARTS.items() if any(word in operation for word in words))


def profiled(build: Callable[..., Any], *arguments: Any) -> Any:
    """Return a function that gives the seconds of each part of one call."""
    call = build(*arguments)

    def parts() -> list[float]:
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            call()
        seconds = dict.fromkeys(PARTS, 0.0)
        for operation in seen.key_averages():
            seconds[part(operation.key)] += operation.self_cpu_time_total / 1e6
        return [*seconds.values()]

    return parts


def builders(original: Path, weights: Path, n_clips: int) -> dict[str, tuple[Any, ...]]:
    """Return what `worker` needs to score a batch, by the name of the system."""
    ours = {name: (our_scoring, weights, n_clips, options) for name, options in SETTINGS.items()}
    return {"original": (original_scoring, weights, n_clips, original, False), **ours}


def measure_parts(original: Path, weights: Path, n_clips: int, passes: int) -> dict[str, Any]:
    """Return the seconds of each part, by system."""
    with ExitStack() as stack:
        calls = {
            name: stack.enter_context(worker(profiled, *arguments))
            for name, arguments in builders(original, weights, n_clips).items()
        }
        made = [{name: call().numbers for name, call in calls.items()} for _ in range(passes)]
    return {
        name: {
            which: round(statistics.median(one[name][i] for one in made), 4)
            for i, which in enumerate(PARTS)
        }
        for name in SYSTEMS
    }


def measure_batches(original: Path, weights: Path, pairs: int) -> list[dict[str, Any]]:
    """Return what `speed.compare` measures, for each size of a batch and setting."""
    rows = []
    for n_clips in BATCHES:
        reference, *ours = builders(original, weights, n_clips).items()
        with worker(*reference[1]) as there:
            for name, arguments in ours:
                with worker(*arguments) as here:
                    found = compare(name, there, here, pairs, True)
                rows.append({"clips": n_clips, "setting": name, **found})
    return rows


def count_gflop(weights: Path) -> float:
    """Count the floating-point operations of one clip, in units of 1e9."""
    formulas = {
        torch.ops.mkldnn._linear_pointwise: lambda x, weight, *_, **__: (
            2 * math.prod(x) * weight[0]
        ),
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
            lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
        ),
    }
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=formulas) as counted:
        Detector.load(weights).logits(torch.zeros(1, N_SAMPLES))
    return round(counted.get_total_flops() / 1e9, 1)


def best_rate(setting: str, size: int = 4096, repeats: int = 10) -> float:
    """Return the GFLOP/s of the fastest of some large products."""
    layer, rows, seconds = Linear(size, size), torch.randn(size, size), []
    if setting == "bf16":
        layer.to_bf16()
        rows = rows.bfloat16()
    with torch.inference_mode():
        for _ in range(repeats):
            began = time.perf_counter()
            layer(rows)
            seconds.append(time.perf_counter() - began)
    return round(2 * size**3 / min(seconds) / 1e9, 1)


def measure_product(weights: Path) -> dict[str, Any]:
    """Return the operations of a clip and the best rate of each setting."""
    rates = {name: best_rate(name) for name in SETTINGS}
    return {"gflop_per_clip": count_gflop(weights), "best_gflop_per_second": rates}


def main(
    original: Path,
    clips: int = 4,
    passes: int = 5,
    threads: int = 2,
    out: Path = ROOT / "studies" / "results" / "speed-parts.json",
) -> None:
    """Measure and write the JSON file.

    Args:
        original: Checkout of the authors' repository.
        clips: Clips of the batch whose parts are measured.
        passes: Measurements of each number.
        threads: Threads of each process.
        out: File to write.
    """
    os.environ |= {"OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    torch.set_num_threads(threads)
    where, load = provenance("torch", "transformers", "fairseq-fixed", "numpy"), os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        state, weights = Detector(seed=0).state_dict(), Path(folder) / "weights.pth"
        torch.save({f"module.{authors_name(n)}": t for n, t in state.items()}, weights)
        del state
        parts = measure_parts(original.resolve(), weights, clips, passes)
        batches = measure_batches(original.resolve(), weights, passes)
        products = measure_product(weights)
    conditions = {"clips": clips, "passes": passes, "threads": threads}
    conditions |= {"load_before": load, "load_after": os.getloadavg()}
    results = {"conditions": conditions, "parts_seconds": parts, "batches": batches}
    results["products"] = products
    write(out, "where the time of scoring goes, and what the size of a batch does", where, results)


if __name__ == "__main__":
    tyro.cli(main)
