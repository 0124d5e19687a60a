"""Devices and processes, through Accelerate.

Under ``accelerate launch`` (or ``torchrun``) several processes run the same command. Otherwise
there is one, on the GPU if there is one. Only the functions that need PyTorch load it.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from slslib import __version__

if TYPE_CHECKING:
    from accelerate import Accelerator


def start(precision: str = "exact", *, cpu: bool = False) -> Accelerator:
    """Return an accelerator for one call.

    Accelerate keeps the settings of the first accelerator for the life of a process. Here each call
    has its own.

    Args:
        precision: ``"exact"``, or ``"bf16"`` for mixed precision.
        cpu: Use the CPU even if there is a GPU.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import InitProcessGroupKwargs

    if not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)
    # A process that has nothing left to do waits for the others, however long they take.
    patience = InitProcessGroupKwargs(timeout=timedelta(days=7))
    mixed = "no" if precision == "exact" else precision
    return Accelerator(mixed_precision=mixed, cpu=cpu, kwargs_handlers=[patience])


def environment(accelerator: Accelerator) -> dict[str, Any]:
    """Describe what computes a result: device, number of processes, versions."""
    import torch

    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "processes": accelerator.num_processes,
        "slslib": __version__,
        "torch": torch.__version__,
    }


def deterministic(*, tf32: bool = True) -> AbstractContextManager[None]:
    """Return a context with deterministic cuDNN and without its benchmark mode.

    Args:
        tf32: Let convolutions round their inputs to TF32, as PyTorch does by default.
    """
    import torch

    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32)


@contextmanager
def signals(*others: int) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, for work that stops by itself; a second signal of a kind kills.

    Args:
        others: Further signals. In the end, their handlers are as before, whoever changes them
            meanwhile.
    """
    received: list[int] = []

    def note(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    with ExitStack() as after:
        with suppress(ValueError):  # a thread may not set handlers
            for kind in (signal.SIGINT, signal.SIGTERM, *others):
                after.callback(signal.signal, kind, signal.signal(kind, note) or signal.SIG_DFL)
        yield received


def bar(iterable: Iterable[Any], *, show: bool, **options: Any) -> Any:
    """Return a tqdm progress bar, shown by the first process only, and rarely in a log file."""
    show = show and os.environ.get("RANK", "0") == "0"
    interval = 0.5 if sys.stderr.isatty() else 30
    return tqdm(iterable, disable=not show, leave=False, mininterval=interval, **options)
