"""Dimensions and recipes small enough for a test."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slslib.model.foreign import authors_name
from slslib.model.geometry import DetectorConfig, XLSRConfig
from slslib.runs.recipes import TrainConfig, v1

DIMENSIONS = XLSRConfig(width=16, n_layers=3, n_heads=2, conv_width=8, pos_kernel=8, pos_groups=4)
DETECTOR = DetectorConfig(DIMENSIONS, hidden_width=8, n_samples=4000)

PRETRAINING = {
    "mask_emb": (16,),
    "quantizer.vars": (1, 8, 4),
    "quantizer.weight_proj.weight": (8, 8),
    "quantizer.weight_proj.bias": (8,),
    "project_q.weight": (8, 8),
    "project_q.bias": (8,),
    "final_proj.weight": (8, 16),
    "final_proj.bias": (8,),
}


def authors_file(detector: nn.Module) -> dict[str, Tensor]:
    """Return what an authors' file holds, with parts for pre-training of sizes of their own."""
    parts = {f"ssl_model.model.{name}": torch.rand(size) for name, size in PRETRAINING.items()}
    return {authors_name(name): t for name, t in detector.state_dict().items()} | parts


def told(state: Mapping[str, Tensor], config: DetectorConfig, prefix: str = "") -> OrderedDict:
    """Return a state dict that tells its heads, as `slslib convert` writes it."""
    state = OrderedDict((prefix + name, tensor) for name, tensor in state.items())
    state._metadata = {at: {"slslib": {"config": asdict(config)}} for at in ("", prefix[:-1])}
    return state


def cuda(*values: Any, count: int = 1) -> Any:
    """Return the GPU and further values of a test, skipped where there are fewer GPUs."""
    few = torch.cuda.device_count() < count
    skip = pytest.mark.skipif(few, reason=f"needs {count} CUDA device(s)")
    return pytest.param("cuda", *values, marks=(pytest.mark.cuda, skip))


def weights(run: Path) -> dict[str, Tensor]:
    """Return the final state of a training run: weights, moments and step counts."""
    state = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
    tensors = {f"model.{name}": tensor for name, tensor in state["model"].items()}
    for i, moments in state["optimizer"]["state"].items():
        tensors |= {f"adam.{key}.{i}": tensor for key, tensor in moments.items()}
    assert len(tensors) > len(state["model"])
    return tensors


def recipe(**changes: object) -> TrainConfig:
    """Return a training run of a few steps: 12 clips, 4 a batch, 3 steps an epoch."""
    tiny = replace(
        v1(),
        dev="asvspoof2019-la:dev",
        monitor="dev_loss",
        backbone="random",
        dimensions=DIMENSIONS,
        hidden_width=8,
        n_samples=4000,
        batch_size=4,
        lr=1e-3,
        max_epochs=3,
        patience=9,
    )
    if {"backbone", "init"} & changes.keys():  # which bring their dimensions
        changes = {"dimensions": v1().dimensions, "backbone": v1().backbone, **changes}
    if "init" in changes:
        changes = {"hidden_width": v1().hidden_width, "n_samples": v1().n_samples, **changes}
    return replace(tiny, **changes)


FLAGS = [
    *("--backbone", "random", "--width", 16, "--n-layers", 3, "--n-heads", 2, "--conv-width", 8),
    *("--pos-kernel", 8, "--pos-groups", 4, "--hidden-width", 8, "--n-samples", 4000),
    *("--batch-size", 4, "--lr", 1e-3),
]
