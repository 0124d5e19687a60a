"""Train a detector. Files are never half-written, and a resume does not change the result.

A run is a folder:

=======================  ======================================================================
``config.json``          configuration, dimensions, versions and the SHA-256 of the initial weights
                         and of the protocols, written before the first step
``log.csv``              one row per finished epoch
``epoch_N.safetensors``  the detector after epoch N (counted from 0)
``best.json``            which of them is the best so far, and why
``state.pt``             everything needed to go on: weights, Adam's moments, position, history
=======================  ======================================================================

The loop itself is :func:`slslib.runs.fit.fit`. PyTorch is loaded only when a run starts.
"""

import signal
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from slslib.errors import ConfigError
from slslib.files import check_same, lock, sha256, sha256_of, write_json
from slslib.runs.recipes import WORKERS, TrainConfig

_SWAPPED = "warning: every development EER is above 50 %: labels look swapped, or it is chance"


def train(
    config: TrainConfig,
    out: Path | None = None,
    *,
    data: str | Path | None = None,
    resume: bool = False,
    workers: int = WORKERS,
    save_steps: int = 1000,
    keep: Literal["best", "all"] = "best",
    allow_silence: bool = False,
    cpu: bool = False,
    max_steps: int | None = None,
    progress: bool = True,
    detector_class: type[Any] | None = None,
) -> Path:
    """Train a detector by a recipe: v1, v2, paper, mini or asvspoof5.

    v1 is the reproduction's baseline. v2 is its second run, with early stopping on a development
    set. paper is the authors' training. mini takes minutes on a CPU. asvspoof5 is our own choice
    for that corpus. --train may be given several times, to mix corpora. Every value of a recipe is
    an option: `slslib train mini --help` lists them.

    Example: slslib train v1 --data ~/corpora

    Args:
        config: The recipe.
        out: Folder of the run, by default runs/RECIPE; it must be new unless the run is resumed.
        data: Folder that holds the corpora; default SLSLIB_DATA.
        resume: Continue the run in --out where it stopped, to the same weights bit for bit (same
            machine and settings).
        workers: Processes that decode and augment; their number does not change the result. With 0,
            this process decodes, and a recording that crashes the decoder ends it.
        save_steps: Optimizer steps between saves within an epoch. A kill may lose this many; the
            result does not change. SIGINT and SIGTERM lose nothing: they wait for a save.
        keep: Epoch checkpoints to keep.
        allow_silence: Train on silent and very short recordings too; without it, the first one
            stops the run. It may be given with --resume.
        cpu: Train on the CPU even if there is a GPU.
        max_steps: Stop after this many steps with exit status 0; --resume continues from there.
        progress: Show bars and a line per epoch on standard error; --no-progress shows neither.
        detector_class: A subclass of Detector with another head; only from Python.

    Returns:
        The best checkpoint; if ``max_steps`` ended the run before the recipe did, the saved state.

    Raises:
        TrainingError: The loss is not finite.
        KeyboardInterrupt: SIGINT stopped the run; its state is saved.
        ConfigError: Settings contradict each other or the data, or the folder is that of another
            run.
        AudioError: A recording cannot be read.
        CheckpointError: The initial weights or the saved state cannot be read.
        FileError: A file cannot be written.
    """
    config.check_used()
    if save_steps < 1:
        raise ConfigError(f"save_steps {save_steps} must be at least 1")
    if not config.train:
        raise ConfigError("there is no training corpus: name one (--train)")
    from slslib.data.corpora import mix, open_corpus
    from slslib.model.detector import Detector
    from slslib.runs import fit, processes
    from slslib.runs.clips import TrialDataset, describe, sizes

    out = Path(out or f"runs/{config.recipe}")
    accelerator = processes.start(config.precision, cpu=cpu)
    if config.batch_size % (n := accelerator.num_processes):
        raise ConfigError(f"--batch-size {config.batch_size} cannot be split over {n} processes")
    several = [config.train] if isinstance(config.train, str) else config.train
    trained = [open_corpus(one, data) for one in several]
    dev = [open_corpus(config.dev, data)] if config.dev else []
    corpora = [mix(trained) if len(trained) > 1 else trained[0], *dev]
    for corpus in corpora:
        if set(corpus.trials["label"]) != {0, 1} or len(corpus) < config.batch_size:
            what = f"{corpus.protocol} has {len(corpus)} trials of the partition"
            needed = f"{config.batch_size} are needed, all with labels, and of both classes"
            raise ConfigError(f"{what}; at least {needed}")
    initial, opened = fit.initial_weights(config), [*trained, *dev]
    facts = {
        "config": asdict(config),
        "initial_sha256": initial and sha256(initial),
        "data": [describe(one) | {"sizes_sha256": sha256_of(sizes(one))} for one in opened],
    }
    with lock(out) if accelerator.is_main_process else nullcontext():
        if resume:
            check_same(out / "config.json", facts)
        elif (out / "config.json").exists():
            raise ConfigError(f"{out} already holds a run; choose a new folder or add --resume")
        detector = fit.build_detector(config, initial, detector_class or Detector)
        clips: Any = {"seed": config.seed, "allow_silence": allow_silence}
        clips["n_samples"] = detector.config.n_samples
        sets = [TrialDataset(corpora[0], algo=config.rawboost, crop=config.crop, **clips)]
        dev_algo = config.rawboost if config.augment_dev else 0
        sets += [TrialDataset(corpus, algo=dev_algo, **clips) for corpus in corpora[1:]]
        optimizer = fit.build_optimizer(detector, config)
        run = fit.Run(config, out, accelerator, detector, optimizer, sets, workers, progress)
        accelerator.wait_for_everyone()  # every process has looked for config.json by now
        if resume and (out / "state.pt").exists():
            run.restore()
        elif accelerator.is_main_process:
            facts |= {"detector": asdict(detector.config), **processes.environment(accelerator)}
            write_json(out / "config.json", facts)
        # Parity: the authors train with deterministic cuDNN and without its benchmark mode.
        with processes.deterministic(), processes.signals() as run.signals:
            fit.fit(run, save_steps=save_steps, keep=keep, max_steps=max_steps)
    if min((row["dev_eer_percent"] for row in run.position.history if config.dev), default=0) > 50:
        accelerator.print(_SWAPPED, file=sys.stderr)
    if not run.position.finished(config):
        where = f"epoch {run.position.epoch}, step {run.position.step}"
        text = f"stopped in {where}; the state is saved, go on with --resume"
        accelerator.print(text, file=sys.stderr)
        if run.signals:  # the first signal now does what it would have done at once
            signal.raise_signal(run.signals[0])
        return out / "state.pt"
    return out / f"epoch_{run.position.best_epoch(config.monitor)}.safetensors"
