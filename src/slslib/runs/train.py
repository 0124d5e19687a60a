"""Train a detector: one loop, checkpoints that are never half-written, exact resume.

A run is a folder:

=======================  ======================================================================
``config.json``          configuration, dimensions, versions and the SHA-256 of the initial weights
                         and of the protocols, written before the first step
``log.csv``              one row per finished epoch
``epoch_N.safetensors``  the detector after epoch N (counted from 0)
``best.json``            which of them is the best so far, and why
``state.safetensors``    everything needed to go on: weights, Adam's moments, position, history
=======================  ======================================================================

The loss is the cross entropy weighted by class, on log-softmax outputs. With several processes
(``accelerate launch``) a batch is split between them and the weights of the whole batch normalise
the loss, so the step is that of one process; on CUDA the BatchNorm statistics are shared too.
"""

from __future__ import annotations

import json
import math
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm

from slslib.data.corpora import Corpus, open_corpus
from slslib.errors import CheckpointError, ConfigError, TrainingError
from slslib.evaluation import metrics
from slslib.files import sha256, write_text
from slslib.model.checkpoints import locate, read_safetensors, save_safetensors
from slslib.model.detector import Detector, DetectorConfig, load_backbone, load_state
from slslib.runs import processes
from slslib.runs.clips import Clip, TrialDataset, cut, epoch_batches, load_batches, stack
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


@dataclass
class Run:
    """The parts of a training run that the functions below share."""

    config: TrainConfig
    out: Path
    accelerator: Accelerator
    detector: Detector
    model: nn.Module  # the detector as Accelerate wraps it
    optimizer: torch.optim.Optimizer
    train: TrialDataset
    dev: TrialDataset | None
    workers: int
    progress: bool
    position: Position
    steps_left: float = math.inf  # that this call may take
    stop: list[int] = field(default_factory=list)  # signals received


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    data_root: str | Path,
    resume: bool = False,
    workers: int = 0,
    save_steps: int = 1000,
    keep: str = "best",
    cpu: bool = False,
    tensorboard: bool = False,
    progress: bool = True,
    max_steps: int | None = None,
) -> Path:
    """Train by a recipe and return the path of the best checkpoint.

    Args:
        config: The recipe.
        out: Folder of the run; must be new unless ``resume``.
        data_root: Folder that holds the corpora.
        resume: Go on where the run in ``out`` stopped, to the same weights bit for bit (same
            machine and settings).
        workers: Processes that decode and augment; no influence on the result.
        save_steps: Optimizer steps between saves within an epoch; no influence on the result.
        keep: ``"best"`` keeps the best epoch's checkpoint only, ``"all"`` every one.
        cpu: Train on the CPU even where there is a GPU.
        tensorboard: Write event files beside the CSV (needs the ``tensorboard`` package).
        progress: Show progress bars and a line per epoch on standard error.
        max_steps: Stop, resumable, after this many steps of this call.

    Raises:
        TrainingError: The loss is not finite, or the run cannot be resumed.
        ConfigError: Settings that contradict each other or the data.
        AudioError: A recording cannot be read.
        CheckpointError: The initial weights cannot be read or a checkpoint cannot be written.
    """
    out = Path(out)
    if save_steps < 1 or (max_steps is not None and max_steps < 1):
        raise ConfigError(f"save_steps {save_steps} and max_steps {max_steps} must be at least 1")
    accelerator = processes.start(config.precision, cpu=cpu)
    run = _set_up(config, out, accelerator, data_root, resume, workers, progress)
    if max_steps is not None:
        run.steps_left = max_steps
    if accelerator.is_main_process and run.position.history:
        _write_reports(run)  # a kill may have come between the state and these
    events = _event_writer(out) if tensorboard and accelerator.is_main_process else None
    # Parity: the authors train with deterministic cuDNN and without its benchmark mode.
    cudnn = torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False)
    with _signals(run.stop), cudnn:
        while not run.position.finished(config) and not _told_to_stop(run):
            if _train_epoch(run, save_steps):
                _finish_epoch(run, keep, events)
    if not run.position.finished(config):
        _save_state(run)
        run.accelerator.wait_for_everyone()  # a process that exits takes the others with it
        why = f"signal {run.stop[0]}" if run.stop else f"{max_steps} steps"
        raise TrainingError(
            f"stopped by {why} in epoch {run.position.epoch}, step {run.position.step}; the state "
            f"is saved, go on with --resume"
        )
    return out / f"epoch_{run.position.best_epoch}.safetensors"


def _set_up(
    config: TrainConfig, out: Path, accelerator: Accelerator, data_root: str | Path,
    resume: bool, workers: int, progress: bool,
) -> Run:  # fmt: skip
    """Check everything that can be checked, then build the run."""
    world = accelerator.num_processes
    if config.batch_size % world:
        raise ConfigError(
            f"a batch of {config.batch_size} cannot be split over {world} processes; "
            f"use another number of processes or --batch-size"
        )
    train_corpus = _labelled(open_corpus(config.train, data_root), config.batch_size)
    dev_corpus = _labelled(open_corpus(config.dev, data_root), 2) if config.dev else None
    state = out / "state.safetensors"
    data = _describe(train_corpus, dev_corpus)
    position = Position()
    if resume:
        dimensions, began_with = _check_same(config, out, data)
    elif (out / "config.json").exists():
        raise ConfigError(f"{out} already holds a run; choose a new folder or add --resume")
    if resume and state.is_file():
        detector, optimizer, position = _load_state(state, config, dimensions)
    else:
        initial_sha256 = _initial_sha256(config)
        if resume and began_with != initial_sha256:
            raise TrainingError(
                f"cannot resume {out}: {config.init or config.backbone} is not the file it began "
                "with; bring that one back or start a new run"
            )
        detector = build_detector(config)
        optimizer = build_optimizer(detector, config)
    accelerator.wait_for_everyone()  # every process has looked for config.json by now
    if accelerator.is_main_process and not resume:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot create {out}: {error}; choose another --out") from error
        about = {
            "config": asdict(config),
            "detector": asdict(detector.config),
            "initial_sha256": initial_sha256,
            "data": data,
            **processes.about(accelerator),
            "python": platform.python_version(),
        }
        write_text(out / "config.json", json.dumps(about, indent=1) + "\n")
    model: nn.Module = detector
    if world > 1 and accelerator.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    model, optimizer = accelerator.prepare(model, optimizer)
    dataset = partial(TrialDataset, n_samples=config.n_samples, seed=config.seed)
    train_set = dataset(train_corpus, algo=config.rawboost, crop=config.crop)
    dev_algo = config.rawboost if config.augment_dev else 0
    dev_set = dataset(dev_corpus, algo=dev_algo) if dev_corpus else None
    return Run(
        config, out, accelerator, detector, model, optimizer, train_set, dev_set, workers,
        progress, position,
    )  # fmt: skip


def _initial_sha256(config: TrainConfig) -> str | None:
    """Hash the file of initial weights; None where they are random."""
    if config.init is None and config.backbone == "random":
        return None
    return sha256(locate(config.init) if config.init else locate(config.backbone, "backbone"))


def build_detector(config: TrainConfig) -> Detector:
    """Build the detector that a recipe starts from.

    Raises:
        CheckpointError: If the initial weights cannot be read.
        ConfigError: If the detector to go on from is made for other clips or another head.
    """
    before = Detector.load(config.init) if config.init else None
    backbone = before.backbone if before is not None else None
    if before is None and config.backbone != "random":
        backbone = load_backbone(config.backbone)
    dimensions = backbone.config if backbone is not None else config.dimensions
    shape = DetectorConfig(dimensions, config.hidden_width, config.n_samples)
    if before is not None and before.config != shape:
        raise ConfigError(
            f"{config.init} takes {before.config.n_samples} samples and has a hidden layer of "
            f"width {before.config.hidden_width}: add --n-samples {before.config.n_samples} "
            f"--hidden-width {before.config.hidden_width}"
        )
    detector = Detector(
        shape, seed=config.seed, attention=config.attention, checkpointing=config.checkpointing
    )
    if before is not None:
        detector.load_state_dict(before.state_dict())
    elif backbone is not None:
        detector.backbone.load_state_dict(backbone.state_dict())
    detector.backbone.freeze(config.freeze)
    return detector


def build_optimizer(detector: Detector, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimizer of what is trained: Adam, with an L2 penalty inside the gradient."""
    trained = [p for p in detector.parameters() if p.requires_grad]
    return torch.optim.Adam(trained, lr=config.lr, weight_decay=config.weight_decay)


def _train_epoch(run: Run, save_steps: int) -> bool:
    """Train to the end of the epoch and return True, or False if told to stop within it."""
    config, at, accelerator = run.config, run.position, run.accelerator
    run.train.epoch = at.epoch
    batches = epoch_batches(len(run.train), config.batch_size, seed=config.seed, epoch=at.epoch)
    share = config.batch_size // accelerator.num_processes
    first = accelerator.process_index * share
    mine = [batch[first : first + share] for batch in batches[at.step :]]
    class_weights = torch.tensor(config.class_weights, device=accelerator.device)
    run.model.train()
    with processes.bar(
        total=len(batches), initial=at.step, desc=f"epoch {at.epoch}", unit="batch", leave=False,
        show=run.progress,
    ) as bar:  # fmt: skip
        for clips in load_batches(run.train, mine, workers=run.workers):
            _set_learning_rate(run, at.epoch * len(batches) + at.step)
            reported = train_step(run.model, run.optimizer, clips, class_weights, accelerator)
            if not math.isfinite(reported):
                names = ", ".join(clip.utterance for clip in clips)
                raise TrainingError(
                    f"the loss is {reported} in epoch {at.epoch}, step {at.step} (utterances "
                    f"{names}); nothing was saved of this step, the last good state is in "
                    f"{run.out}: lower the learning rate or use --precision no"
                )
            at.loss_sum += reported * config.batch_size
            at.n_clips += config.batch_size
            at.step += 1
            run.steps_left -= 1
            bar.update()
            bar.set_postfix(loss=f"{at.loss_sum / at.n_clips:.4g}", refresh=False)
            if at.step < len(batches):
                if _told_to_stop(run):
                    return False
                if at.step % save_steps == 0:
                    _save_state(run)
    return True


def train_step(
    model: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    clips: list[Clip],
    class_weights: Tensor,
    accelerator: Accelerator,
) -> float:
    """Take an optimizer step, unless the loss is not finite; return the loss of the whole batch."""
    waveforms, labels = (t.to(accelerator.device) for t in stack(clips))
    loss, reported = weighted_nll(model(waveforms), labels, class_weights, accelerator)
    if math.isfinite(reported):
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
    return reported


def weighted_nll(
    log_probs: Tensor, labels: Tensor, class_weights: Tensor, accelerator: Accelerator
) -> tuple[Tensor, float]:
    """Return the class-weighted cross entropy of the whole batch: to differentiate, to report.

    Over several processes the sum of weights is that of the whole batch, so that the averaged
    gradient equals that of one process.
    """
    weights = class_weights[labels]
    weighted = -(weights * log_probs.float().gather(1, labels[:, None])[:, 0]).sum()
    total = accelerator.reduce(weights.sum(), "sum")
    loss = weighted * accelerator.num_processes / total
    return loss, float(accelerator.reduce(loss.detach(), "mean"))


def _finish_epoch(run: Run, keep: str, events: Any) -> None:
    """Validate, decide, write the epoch's checkpoint, the log and the state."""
    at, config = run.position, run.config
    row: dict[str, Any] = {"epoch": at.epoch, "train_loss": at.loss_sum / at.n_clips}
    if run.dev is not None:
        row |= validate(run)
    row["lr"] = run.optimizer.param_groups[0]["lr"]
    _check_weights(run)
    numbers = {name: value for name, value in row.items() if isinstance(value, float)}
    row["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    epoch, previous = at.epoch, at.best_epoch
    _advance(at, row, config)
    if run.accelerator.is_main_process:
        if at.best_epoch == epoch or keep == "all":
            metadata = {"recipe": config.recipe, "seed": config.seed, **row}
            run.detector.save(run.out / f"epoch_{epoch}.safetensors", metadata)
        _save_state(run)
        _write_reports(run)
        if keep == "best" and previous != at.best_epoch:
            (run.out / f"epoch_{previous}.safetensors").unlink(missing_ok=True)
        if events:
            for name, value in numbers.items():
                events.add_scalar(name, value, epoch)
            events.flush()
        if run.progress:
            text = ", ".join(f"{name} {v:.4g}" for name, v in numbers.items() if name != "lr")
            star = " (best)" if at.best_epoch == epoch else ""
            tqdm.write(f"epoch {epoch}: {text}{star}", file=sys.stderr)
    run.accelerator.wait_for_everyone()


def _advance(at: Position, row: dict[str, Any], config: TrainConfig) -> None:
    at.history.append(row)
    at.waited += 1
    if row[config.monitor] < at.best_value:
        at.best_epoch, at.best_value, at.waited = at.epoch, row[config.monitor], 0
    at.epoch, at.step, at.loss_sum, at.n_clips = at.epoch + 1, 0, 0.0, 0


@torch.no_grad()
def validate(run: Run) -> dict[str, float]:
    """Return loss, accuracy, EER and its threshold on the development corpus."""
    assert run.dev is not None
    accelerator, config = run.accelerator, run.config
    run.dev.epoch = run.position.epoch
    run.model.eval()
    rank, world = accelerator.process_index, accelerator.num_processes
    batches = cut(range(len(run.dev)), config.batch_size)[rank::world]
    class_weights = torch.tensor(config.class_weights, device=accelerator.device)
    done: list[tuple[Tensor, Tensor, Tensor]] = []  # of each batch: loss, outputs, labels
    with processes.bar(
        total=len(batches), desc="validate", unit="batch", leave=False, show=run.progress
    ) as bar:
        for clips in load_batches(run.dev, batches, workers=run.workers):
            waveforms, truth = (t.to(accelerator.device) for t in stack(clips))
            # The unwrapped module: processes may hold different numbers of batches.
            with accelerator.autocast():
                out = run.detector(waveforms).float()
            weights = class_weights[truth]
            nll = -(weights * out.gather(1, truth[:, None])[:, 0]).sum() / weights.sum()
            done.append(((nll * len(truth)).cpu(), out.cpu(), truth.cpu()))
            bar.update()
    losses, outputs, labels = zip(*gather_object(done), strict=True)
    out, truth = torch.cat(outputs), torch.cat(labels)
    llr = run.detector.llr_of(out).numpy()
    result = metrics.eer(llr[truth.numpy() == 1], llr[truth.numpy() == 0])
    return {
        "dev_loss": float(torch.stack(losses).sum()) / len(truth),
        "dev_accuracy": float((out.argmax(1) == truth).double().mean()),
        "dev_eer_percent": 100 * result.value,
        "dev_eer_threshold": result.threshold,
    }


def _set_learning_rate(run: Run, step: int) -> None:
    rise = min(1.0, (step + 1) / max(1, run.config.warmup_steps))
    for group in run.optimizer.param_groups:
        group["lr"] = run.config.lr * rise


def _check_weights(run: Run) -> None:
    for name, tensor in run.detector.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingError(
                f"{name} holds NaN or infinite values after epoch {run.position.epoch}; the last "
                f"good checkpoint is in {run.out}: lower the learning rate or use --precision no"
            )


def _labelled(corpus: Corpus, at_least: int) -> Corpus:
    labels = set(corpus.trials["label"])
    if labels != {0, 1} or len(corpus) < at_least:
        raise ConfigError(
            f"{corpus.name}:{corpus.partition} has {len(corpus)} trials, of labels "
            f"{sorted(labels)}; at least {at_least} trials are needed, each spoof (0) or bona fide "
            "(1), and both of them"
        )
    return corpus


def _told_to_stop(run: Run) -> bool:
    """Tell, the same to every process, whether a signal came to one or no step is left."""
    told = torch.tensor(len(run.stop) + (run.steps_left <= 0), device=run.accelerator.device)
    return bool(run.accelerator.reduce(told, "sum"))


def _save_state(run: Run) -> None:
    """Write everything a resume needs to one file, atomically."""
    if not run.accelerator.is_main_process:
        return
    tensors = {f"model.{k}": v for k, v in run.detector.state_dict().items()}
    for name, parameter in run.detector.named_parameters():
        for key, value in run.optimizer.state.get(parameter, {}).items():
            tensors[f"adam.{key}.{name}"] = torch.as_tensor(value)
    about = {"position": asdict(run.position)}
    save_safetensors(run.out / "state.safetensors", tensors, about)


def _load_state(
    path: Path, config: TrainConfig, dimensions: dict[str, Any]
) -> tuple[Detector, torch.optim.Optimizer, Position]:
    """Read what :func:`_save_state` wrote; the initial weights are not needed."""
    tensors, about = read_safetensors(path)
    prefix = "model."
    # Copies, in torch's own memory, which is aligned: see slslib.runs.clips.stack.
    weights = {
        k.removeprefix(prefix): v.clone() for k, v in tensors.items() if k.startswith(prefix)
    }
    detector = Detector.from_config(
        dimensions, attention=config.attention, where=path.with_name("config.json")
    )
    load_state(detector, weights, path)
    detector.backbone.checkpointing = config.checkpointing
    detector.backbone.freeze(config.freeze)
    optimizer = build_optimizer(detector, config)
    for name, parameter in detector.named_parameters():
        shapes = {"step": (), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
        moments = {
            key: tensors[full].clone()
            for key in shapes
            if (full := f"adam.{key}.{name}") in tensors
        }
        if moments and {key: tensor.shape for key, tensor in moments.items()} != shapes:
            raise CheckpointError(
                f"{path} does not fit the model: Adam's moments of {name!r} have other shapes"
            )
        if moments:
            optimizer.state[parameter] = moments
    try:
        return detector, optimizer, Position(**about["position"])
    except (KeyError, TypeError) as error:
        raise TrainingError(f"{path} holds no training position: {error}") from error


def _check_same(
    config: TrainConfig, out: Path, data: list[dict[str, Any]]
) -> tuple[dict[str, Any], str | None]:
    """Refuse to resume with other settings or data than the run began with.

    Returns:
        Its detector's dimensions and the SHA-256 of its initial weights.
    """
    path = out / "config.json"
    try:
        about = json.loads(path.read_text())
        then, data_then = asdict(TrainConfig(**about["config"])), about["data"]
        weights = about["detector"], about["initial_sha256"]
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise TrainingError(f"cannot resume {out}: {path} is not usable ({error})") from error
    now = asdict(config)
    changed = [f"{k} {then[k]!r} -> {now[k]!r}" for k in now if now[k] != then[k]]
    if changed:
        raise TrainingError(
            f"cannot resume {out} with other settings: {'; '.join(changed)}; "
            "resume with those it began with or start a new run"
        )
    if data_then != data:
        raise TrainingError(
            f"cannot resume {out}: the protocols under --data are not those it began with; give "
            "the folder of the first call or start a new run"
        )
    return weights


def _write_reports(run: Run) -> None:
    at = run.position
    best = {
        "file": f"epoch_{at.best_epoch}.safetensors",
        "epoch": at.best_epoch,
        run.config.monitor: at.best_value,
    }
    log = pd.DataFrame(at.history).to_csv(index=False, lineterminator="\n")
    texts = {"log.csv": log, "best.json": json.dumps(best, indent=1) + "\n"}
    for name, text in texts.items():
        path = run.out / name
        if not path.exists() or path.read_text() != text:
            write_text(path, text)


def _describe(*corpora: Corpus | None) -> list[dict[str, Any]]:
    return [
        {
            "corpus": c.name,
            "partition": c.partition,
            "n_bonafide": int((c.trials["label"] == 1).sum()),
            "n_spoof": int((c.trials["label"] == 0).sum()),
            "protocol_sha256": c.protocol_sha256,
        }
        for c in corpora
        if c is not None
    ]


@contextmanager
def _signals(received: list[int]) -> Iterator[None]:
    """Collect SIGINT and SIGTERM so that the loop can stop at a step; the second one kills."""

    def handler(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    try:
        before = {n: signal.signal(n, handler) for n in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _event_writer(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("--tensorboard needs `pip install tensorboard`") from error
    return SummaryWriter(str(out / "tensorboard"))
