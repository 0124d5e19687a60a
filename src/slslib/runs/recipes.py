"""Training recipes: each a function that returns a full configuration.

``paper``, ``v1`` and ``v2`` follow the authors' and the reproduction's training. ``mini``
fine-tunes the packaged mini backbone on a CPU. ``asvspoof5`` is ours. The functions below spell out
how the recipes differ; the other values are the defaults of :class:`TrainConfig`.
"""

import math
import os
import sys
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from slslib.data.audio import N_SAMPLES
from slslib.data.rawboost import ALGORITHMS, Algorithm, algorithm_name
from slslib.errors import ConfigError
from slslib.model.geometry import Freeze, XLSRConfig

Crop = Literal["first", "random"]
Precision = Literal["exact", "bf16"]
# Processes that decode. Outside Linux, a new one runs the caller's script again and needs a guard.
WORKERS = max(2, min(8, os.cpu_count() or 2)) if sys.platform == "linux" else 0

_LEAST = {"batch_size": 1, "max_epochs": 1, "patience": 1, "n_samples": 1, "hidden_width": 1}
_LEAST |= {"chunk": 1, "lr": 0, "weight_decay": 0, "warmup_steps": 0, "seed": 0}
_OF_INIT = ("backbone", "dimensions", "hidden_width", "n_samples")  # fixed by a whole detector


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines the weights with which a training run ends."""

    recipe: str = "v1"
    """Name under which the run reports itself."""
    train: str | tuple[str, ...] = "asvspoof2019-la:train"
    """Training corpus, NAME[:PARTITION] or a folder with a protocol; several are mixed."""
    dev: str | None = None
    """Development corpus for validation after each epoch; none by default."""
    backbone: str = "hub:facebook/wav2vec2-xls-r-300m/pytorch_model.bin"
    """Initial weights: xlsr2_300m.pt, safetensors, a transformers folder of wav2vec 2.0, HuBERT or
    WavLM, hub:..., mini or random."""
    init: str | None = None
    """Whole detector to start from instead, head included; named as --checkpoint elsewhere."""
    dimensions: XLSRConfig = field(default_factory=XLSRConfig)
    """Dimensions of the backbone if its weights are random."""
    hidden_width: int = 1024
    """Width of the SLS head's hidden layer."""
    n_samples: int = N_SAMPLES
    """Length of a clip in samples at 16 kHz."""
    rawboost: int | Algorithm = 3
    """RawBoost algorithm for training clips, by number or name (stored as number)."""
    augment_dev: bool = False
    """Apply RawBoost to the development clips too."""
    crop: Crop = "first"
    """Which part of a clip that is too long is kept."""
    class_weights: tuple[float, float] = (0.1, 0.9)
    """Weights of [spoof, bona fide] in the cross entropy."""
    batch_size: int = 5
    """Clips per optimizer step, over all processes together."""
    lr: float = 1e-6
    """Learning rate of Adam."""
    weight_decay: float = 1e-4
    """L2 penalty inside Adam (not AdamW)."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly."""
    max_epochs: int = 50
    """Largest number of epochs."""
    monitor: Literal["train_loss", "dev_loss", "dev_eer_percent"] = "train_loss"
    """Quantity whose minimum determines the best epoch."""
    patience: int = 1
    """Number of epochs without a new minimum after which training stops."""
    freeze: Freeze = "none"
    """Part of the backbone that is not trained."""
    precision: Precision = "exact"
    """exact: 32 bits (TF32 in a GPU's convolutions, PyTorch's default); bf16: mixed precision."""
    checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    seed: int = 1234
    """Seed of the head's weights, the order of clips and the augmentation."""

    def __post_init__(self) -> None:
        """Turn the name of a RawBoost algorithm into its number; refuse senseless values."""
        object.__setattr__(self, "rawboost", ALGORITHMS.index(algorithm_name(self.rawboost)))
        check_values(self)
        if len(self.class_weights) != 2 or not all(0 < w < math.inf for w in self.class_weights):
            raise ConfigError(f"class_weights {self.class_weights} are not two positive numbers")
        if self.monitor != "train_loss" and not self.dev:
            raise ConfigError(f"monitor {self.monitor} needs a development corpus (--dev)")

    def check_used(self) -> None:
        """Refuse options that the initial weights already decide.

        Raises:
            ConfigError: If such an option differs from the recipe's value.
        """
        weights, usual = self.init or self.backbone, {self.recipe} & {*RECIPES} or {*RECIPES}
        own, recipes = _OF_INIT if self.init else ("dimensions",), [RECIPES[n]() for n in usual]
        unused = [n for n in own if getattr(self, n) not in [getattr(one, n) for one in recipes]]
        if unused and weights != "random":
            raise ConfigError(f"{weights} brings its own {' and '.join(unused)}: leave them out")


def check_values(config: Any) -> None:
    """Refuse words that an option does not know, and numbers below its least.

    Raises:
        ConfigError: Naming the first such option, its value and what is possible.
    """
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise ConfigError(f"{name} is {value!r}; it must be one of {get_args(kind)}")
        if name in _LEAST and value is not None and not _LEAST[name] <= value < math.inf:  # or NaN
            raise ConfigError(f"{name} is {value}; the least is {_LEAST[name]}")


def v1() -> TrainConfig:
    """Return the reproduction's baseline: no validation, stop when the training loss rises."""
    return TrainConfig(recipe="v1")


def v2() -> TrainConfig:
    """Return the reproduction's second run: early stopping on the development loss."""
    return replace(
        v1(),
        recipe="v2",
        dev="asvspoof2019-la:dev",
        monitor="dev_loss",
        patience=10,
        augment_dev=True,  # Parity: the reproduction's validation data pass RawBoost as well
    )


def paper(seed: int = 1234) -> TrainConfig:
    """Return the authors' training; the paper averages over the seeds 1234, 4321 and 4569."""
    return replace(v1(), recipe="paper", seed=seed)


def mini() -> TrainConfig:
    """Return a training run of minutes on a CPU: the mini backbone, clips of 2 s."""
    return replace(
        v1(),
        recipe="mini",
        dev="asvspoof2019-la:dev",
        backbone="mini",
        dimensions=XLSRConfig(width=64, n_heads=4, conv_width=64),  # for --backbone random
        freeze="conv",
        hidden_width=64,
        n_samples=32_000,
        rawboost=0,  # with algorithm 3, some hundred clips need twice the epochs
        crop="random",
        batch_size=16,
        lr=3e-4,
        warmup_steps=60,
        max_epochs=10,
        monitor="dev_eer_percent",
        patience=4,
        class_weights=(0.5, 0.5),
    )


def asvspoof5() -> TrainConfig:
    """Return a training run on ASVspoof 5; all but its corpora is our choice, and was never run.

    No training of SLS on this corpus is published. The values are those of v2, with three
    exceptions: development clips get no RawBoost, long recordings give random stretches, and
    patience is 3 epochs, which are several times as long as those of ASVspoof 2019. The speech
    comes from Multilingual LibriSpeech, on which XLS-R was pre-trained too: results on it may
    flatter the detector.
    """
    corpora = replace(v2(), train="asvspoof5:train", dev="asvspoof5:dev")
    return replace(corpora, recipe="asvspoof5", augment_dev=False, crop="random", patience=3)


RECIPES = {"v1": v1, "v2": v2, "paper": paper, "mini": mini, "asvspoof5": asvspoof5}
