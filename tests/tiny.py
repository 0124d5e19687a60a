"""Dimensions and recipes small enough for a test."""

from __future__ import annotations

from dataclasses import replace

from slslib.model.geometry import DetectorConfig, XLSRConfig
from slslib.runs.recipes import TrainConfig, v1

DIMENSIONS = XLSRConfig(width=16, n_layers=3, n_heads=2, conv_width=8, pos_kernel=8, pos_groups=4)
DETECTOR = DetectorConfig(DIMENSIONS, hidden_width=8, n_samples=4000)


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
