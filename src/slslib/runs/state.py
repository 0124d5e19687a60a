"""Where a training run stands, and the files that say so.

``state.pt`` holds everything needed to go on: weights, the optimizer's state and the position.
``log.csv`` and ``best.json`` repeat the position's history for people.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from slslib.errors import TrainingError
from slslib.files import write_text, writing
from slslib.model.detector import Detector
from slslib.runs.recipes import TrainConfig


@dataclass
class Position:
    """Where a run stands, exactly: all of it is restored by a resume."""

    epoch: int = 0
    step: int = 0  # optimizer steps done in this epoch
    loss_sum: float = 0.0  # over the clips of this epoch so far
    n_clips: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = -1
    best_value: float = math.inf
    waited: int = 0  # epochs since the best one

    def finished(self, config: TrainConfig) -> bool:
        """Tell whether the recipe says to stop."""
        return self.epoch >= config.max_epochs or self.waited >= config.patience

    def advance(self, row: dict[str, Any], config: TrainConfig) -> None:
        """Go on to the next epoch, after one whose results are ``row``."""
        self.history.append(row)
        self.waited += 1
        if row[config.monitor] < self.best_value:
            self.best_epoch, self.best_value, self.waited = self.epoch, row[config.monitor], 0
        self.epoch, self.step, self.loss_sum, self.n_clips = self.epoch + 1, 0, 0.0, 0


def save(
    path: Path, detector: Detector, optimizer: torch.optim.Optimizer, position: Position
) -> None:
    """Write everything a resume needs to one file, all or nothing.

    Raises:
        FileError: If the disk is full, read-only or over quota.
    """
    state = {
        "model": detector.state_dict(),
        "optimizer": optimizer.state_dict(),
        "position": asdict(position),
    }
    with writing(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # PyTorch's own words for a full disk
            raise OSError(str(error)) from error


def restore(path: Path, detector: Detector, optimizer: torch.optim.Optimizer) -> Position:
    """Bring a detector and its optimizer to where :func:`save` found them.

    Raises:
        TrainingError: If the file is damaged or does not fit the detector.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        detector.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return Position(**state["position"])
    except Exception as error:  # whatever PyTorch raises for a damaged file
        cause = " ".join(str(error).split())
        raise TrainingError(
            f"{path} is damaged or does not fit the model: {cause}; remove it to begin again"
        ) from error


def write_reports(out: Path, position: Position, monitor: str) -> None:
    """Write ``log.csv`` and ``best.json`` where they do not say the same already."""
    best = {
        "file": f"epoch_{position.best_epoch}.safetensors",
        "epoch": position.best_epoch,
        monitor: position.best_value,
    }
    log = pd.DataFrame(position.history).to_csv(index=False, lineterminator="\n")
    for name, text in (("log.csv", log), ("best.json", json.dumps(best, indent=1) + "\n")):
        if not (out / name).exists() or (out / name).read_text() != text:
            write_text(out / name, text)
