"""Devices and processes, through Accelerate.

Under ``accelerate launch`` (or ``torchrun``) several processes run the same command; otherwise
there is one, on the GPU if there is one.
"""

from __future__ import annotations

import os
import platform
import sys
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from tqdm import tqdm

from slslib import __version__

# A process that has nothing left to do waits for the others, however long they take.
_PATIENCE = timedelta(days=7)


def start(precision: str = "no", *, cpu: bool = False) -> Accelerator:
    """Return an accelerator for one call.

    Accelerate keeps the first one's settings for the life of a process; here each call has its own.

    Args:
        precision: ``"no"``, or ``"bf16"`` for mixed precision.
        cpu: Use the CPU even where there is a GPU.
    """
    if not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)
    patience = InitProcessGroupKwargs(timeout=_PATIENCE)
    return Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=[patience])


def environment(accelerator: Accelerator) -> dict[str, Any]:
    """Describe what computes a result: device, number of processes, versions."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "processes": accelerator.num_processes,
        "slslib": __version__,
        "torch": torch.__version__,
    }


def is_main() -> bool:
    """Tell whether this process is the one that reports."""
    return os.environ.get("RANK", "0") == "0"


def bar(*, show: bool, **options: Any) -> Any:
    """Return a tqdm progress bar that the reporting process alone shows; a log file gets little."""
    interval = 0.5 if sys.stderr.isatty() else 30
    return tqdm(disable=not (show and is_main()), mininterval=interval, **options)
