"""Train a detector: files that are never half-written, and a resume that changes nothing.

A run is a folder:

=======================  ======================================================================
``config.json``          configuration, dimensions, versions and the SHA-256 of the initial weights
                         and of the protocols, written before the first step
``log.csv``              one row per finished epoch
``epoch_N.safetensors``  the detector after epoch N (counted from 0)
``best.json``            which of them is the best so far, and why
``state.pt``             everything needed to go on: weights, Adam's moments, position, history
=======================  ======================================================================

The loop itself is :func:`slslib.runs.fit.fit`. PyTorch loads when a run starts, not before.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slslib.errors import ConfigError, TrainingError
from slslib.files import corpora_root, sha256, write_text
from slslib.model.geometry import XLSRConfig
from slslib.runs.recipes import TrainConfig

if TYPE_CHECKING:
    from slslib.data.corpora import Corpus


def train(
    config: TrainConfig,
    out: Path,
    *,
    data: str | Path | None = None,
    resume: bool = False,
    workers: int = 0,
    save_steps: int = 1000,
    keep: Literal["best", "all"] = "best",
    cpu: bool = False,
    tensorboard: bool = False,
    max_steps: int | None = None,
    progress: bool = True,
) -> Path:
    """Train a detector by a recipe.

    Every value of a recipe is an option: `slslib train v1 --help` lists them.

    Example: slslib train v1 --data ~/corpora --out runs/v1

    Args:
        config: The recipe.
        out: Folder of the run; it must be new unless the run is resumed.
        data: Folder that holds the corpora; default SLSLIB_DATA.
        resume: Go on where the run in --out stopped, to the same weights bit for bit (same
            machine and settings).
        workers: Processes that decode and augment; no influence on the result.
        save_steps: Optimizer steps between saves within an epoch; no influence on the result.
        keep: Epoch checkpoints to keep.
        cpu: Train on the CPU even where there is a GPU.
        tensorboard: Write TensorBoard event files beside log.csv.
        max_steps: Stop, resumable, after this many steps.
        progress: Show progress bars and a line per epoch on standard error.

    Returns:
        The best checkpoint.

    Raises:
        TrainingError: The loss is not finite, the run was stopped, or it cannot be resumed.
        ConfigError: Settings that contradict each other or the data.
        AudioError: A recording cannot be read.
        CheckpointError: The initial weights cannot be read.
        FileError: A file cannot be written.
    """
    config.check_used()
    if save_steps < 1 or (max_steps is not None and max_steps < 1):
        raise ConfigError(f"save_steps {save_steps} and max_steps {max_steps} must be at least 1")
    import torch

    from slslib.runs import fit, processes, state
    from slslib.runs.clips import TrialDataset

    out = Path(out)
    accelerator = processes.start(config.precision, cpu=cpu)
    if config.batch_size % accelerator.num_processes:
        raise ConfigError(
            f"a batch of {config.batch_size} cannot be split over {accelerator.num_processes} "
            "processes; use another number of processes or --batch-size"
        )
    corpus = _open(config.train, data, config.batch_size)
    dev_corpus = _open(config.dev, data, 2) if config.dev else None
    described = [_describe(c) for c in (corpus, dev_corpus) if c is not None]
    began = _check_same(config, out, described) if resume else None
    if began is None and (out / "config.json").exists():
        raise ConfigError(f"{out} already holds a run; choose a new folder or add --resume")

    position = state.Position()
    if began and (out / "state.pt").is_file():  # the initial weights are not needed any more
        dimensions = XLSRConfig(**began["detector"]["backbone"])
        same = replace(config, init=None, backbone="random", dimensions=dimensions)
        detector = fit.build_detector(same, None)
        optimizer = fit.build_optimizer(detector, config)
        position = state.restore(out / "state.pt", detector, optimizer)
    else:
        initial = fit.initial_weights(config)
        initial_sha256 = initial and sha256(initial)
        if began and began["initial_sha256"] != initial_sha256:
            raise TrainingError(
                f"cannot resume {out}: {initial} is not the file it began with; bring that one "
                "back or start a new run"
            )
        detector = fit.build_detector(config, initial)
        optimizer = fit.build_optimizer(detector, config)
    accelerator.wait_for_everyone()  # every process has looked for config.json by now
    if accelerator.is_main_process and not began:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot create {out}: {error}; choose another --out") from error
        description = {
            "config": asdict(config),
            "detector": asdict(detector.config),
            "initial_sha256": initial_sha256,
            "data": described,
            **processes.environment(accelerator),
            "python": platform.python_version(),
        }
        write_text(out / "config.json", json.dumps(description, indent=1) + "\n")
    if accelerator.is_main_process and position.history:
        # A kill may have come between the state and these.
        state.write_reports(out, position, config.monitor)

    clip_settings: dict[str, Any] = {"n_samples": config.n_samples, "seed": config.seed}
    train_set = TrialDataset(corpus, algo=config.rawboost, crop=config.crop, **clip_settings)
    dev_algo = config.rawboost if config.augment_dev else 0
    dev_set = TrialDataset(dev_corpus, algo=dev_algo, **clip_settings) if dev_corpus else None
    run = fit.Run(
        config,
        out,
        accelerator,
        detector,
        optimizer,
        position,
        train_set,
        dev_set,
        workers=workers,
        progress=progress,
    )
    events = _event_writer(out) if tensorboard and accelerator.is_main_process else None
    # Parity: the authors train with deterministic cuDNN and without its benchmark mode.
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
        fit.fit(run, save_steps=save_steps, keep=keep, max_steps=max_steps, events=events)
    return out / f"epoch_{position.best_epoch}.safetensors"


def _open(name: str, data: str | Path | None, at_least: int) -> Corpus:
    """Open a corpus that has labels, both of them, and trials enough."""
    from slslib.data.corpora import open_corpus

    corpus = open_corpus(name, corpora_root(data))
    labels = set(corpus.trials["label"])
    if labels != {0, 1} or len(corpus) < at_least:
        raise ConfigError(
            f"{corpus.name}:{corpus.partition} has {len(corpus)} trials, of labels "
            f"{sorted(labels)}; at least {at_least} trials are needed, each spoof (0) or bona fide "
            "(1), and both of them"
        )
    return corpus


def _describe(corpus: Corpus) -> dict[str, Any]:
    return {
        "corpus": corpus.name,
        "partition": corpus.partition,
        "n_bonafide": int((corpus.trials["label"] == 1).sum()),
        "n_spoof": int((corpus.trials["label"] == 0).sum()),
        "protocol_sha256": corpus.protocol_sha256,
    }


def _check_same(config: TrainConfig, out: Path, described: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a run says it began with; refuse to resume it with other settings or data."""
    path = out / "config.json"
    try:
        began: dict[str, Any] = json.loads(path.read_text())
        then = asdict(TrainConfig(**began["config"])) | {"data": began["data"]}
        _ = began["detector"]["backbone"], began["initial_sha256"]
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise TrainingError(f"cannot resume {out}: {path} is not usable ({error})") from error
    now = asdict(config) | {"data": described}
    changed = [f"{name} {then[name]!r} -> {now[name]!r}" for name in now if now[name] != then[name]]
    if changed:
        raise TrainingError(
            f"cannot resume {out} with other settings: {'; '.join(changed)}; resume with those it "
            "began with (--data too) or start a new run"
        )
    return began


def _event_writer(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("--tensorboard needs `pip install tensorboard`") from error
    return SummaryWriter(str(out / "tensorboard"))
