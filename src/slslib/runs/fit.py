"""The training loop, and what it is made of: detector, optimizer, step, validation.

The loss is the cross entropy weighted by class, on log-softmax outputs. With several processes
(``accelerate launch``) a batch is split between them and the weights of the whole batch normalise
the loss, so the step is that of one process; on CUDA the BatchNorm statistics are shared too.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm

from slslib.errors import ConfigError, TrainingError
from slslib.evaluation import metrics
from slslib.model.checkpoints import locate
from slslib.model.detector import Detector, load_backbone
from slslib.model.geometry import DetectorConfig
from slslib.runs import processes, state
from slslib.runs.clips import (
    Clip,
    TrialDataset,
    batched,
    epoch_batches,
    load_batches,
    stack,
)
from slslib.runs.recipes import TrainConfig


@dataclass
class Run:
    """What a training run works with; :func:`fit` moves all of it forward."""

    config: TrainConfig
    out: Path
    accelerator: Accelerator
    detector: Detector
    optimizer: torch.optim.Optimizer
    position: state.Position
    train: TrialDataset
    dev: TrialDataset | None
    workers: int = 0
    progress: bool = True

    def save(self) -> None:
        """Write ``state.pt``, in the main process."""
        if self.accelerator.is_main_process:
            state.save(self.out / "state.pt", self.detector, self.optimizer, self.position)


def initial_weights(config: TrainConfig) -> Path | None:
    """Return the local file of a recipe's initial weights; None where they are random.

    Raises:
        CheckpointError: If it cannot be had.
    """
    if config.init is not None:
        return locate(config.init)
    return None if config.backbone == "random" else locate(config.backbone, "backbone")


def build_detector(config: TrainConfig, initial: Path | None) -> Detector:
    """Build the detector that a recipe starts from.

    Args:
        config: The recipe.
        initial: What :func:`initial_weights` returns for it.

    Raises:
        CheckpointError: If the initial weights cannot be read.
        ConfigError: If the detector to go on from is made for other clips or another head.
    """
    whole = Detector.load(initial) if initial and config.init else None
    backbone = whole.backbone if whole else load_backbone(initial) if initial else None
    dimensions = backbone.config if backbone else config.dimensions
    shape = DetectorConfig(dimensions, config.hidden_width, config.n_samples)
    if whole and whole.config != shape:
        raise ConfigError(
            f"{initial} takes {whole.config.n_samples} samples and has a hidden layer of width "
            f"{whole.config.hidden_width}: add --n-samples {whole.config.n_samples} "
            f"--hidden-width {whole.config.hidden_width}"
        )
    detector = Detector(
        shape, seed=config.seed, attention=config.attention, checkpointing=config.checkpointing
    )
    if whole:
        detector.load_state_dict(whole.state_dict())
    elif backbone:
        detector.backbone.load_state_dict(backbone.state_dict())
    detector.backbone.freeze(config.freeze)
    return detector


def build_optimizer(detector: Detector, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimizer of what is trained: Adam, with an L2 penalty inside the gradient."""
    trained = [p for p in detector.parameters() if p.requires_grad]
    return torch.optim.Adam(trained, lr=config.lr, weight_decay=config.weight_decay)


def fit(
    run: Run,
    *,
    save_steps: int = 1000,
    keep: str = "best",
    max_steps: int | None = None,
    events: Any = None,
) -> None:
    """Train until the recipe says to stop.

    Args:
        run: The run, at the beginning or restored.
        save_steps: Optimizer steps between saves within an epoch.
        keep: ``"best"`` or ``"all"``.
        max_steps: Steps at most.
        events: TensorBoard's writer, if any.

    Raises:
        TrainingError: If the loss or a weight is not finite, or if a signal or ``max_steps``
            stops the run; its state is then saved.
        AudioError: If a recording cannot be read.
    """
    config, position, accelerator = run.config, run.position, run.accelerator
    model: nn.Module = run.detector
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    model, run.optimizer = accelerator.prepare(model, run.optimizer)
    class_weights = torch.tensor(config.class_weights, device=accelerator.device)
    share = config.batch_size // accelerator.num_processes
    mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    steps_taken = 0
    with _signals() as received:
        while not position.finished(config):
            epoch, run.train.epoch = position.epoch, position.epoch
            batches = epoch_batches(
                len(run.train), config.batch_size, seed=config.seed, epoch=epoch
            )
            todo = [batch[mine] for batch in batches[position.step :]]
            model.train()
            bar = processes.bar(
                total=len(batches),
                initial=position.step,
                desc=f"epoch {epoch}",
                unit="batch",
                leave=False,
                show=run.progress,
            )
            for clips in load_batches(run.train, todo, workers=run.workers):
                if _any_process(accelerator, bool(received) or steps_taken == max_steps):
                    run.save()
                    accelerator.wait_for_everyone()  # a process that exits takes the others along
                    reason = f"signal {received[0]}" if received else f"{steps_taken} steps"
                    raise TrainingError(
                        f"stopped by {reason} in epoch {epoch}, step {position.step}; the state is "
                        "saved, go on with --resume"
                    )
                _set_learning_rate(run, epoch * len(batches) + position.step)
                loss = train_step(model, run.optimizer, clips, class_weights, accelerator)
                if not math.isfinite(loss):
                    utterances = ", ".join(clip.utterance for clip in clips)
                    raise TrainingError(
                        f"the loss is {loss} in epoch {epoch}, step {position.step} (utterances "
                        f"{utterances}); nothing was saved of this step, the last good state is in "
                        f"{run.out}: lower the learning rate or use --precision no"
                    )
                position.loss_sum += loss * config.batch_size
                position.n_clips += config.batch_size
                position.step += 1
                steps_taken += 1
                if position.step % save_steps == 0 and position.step < len(batches):
                    run.save()
                bar.update()
                bar.set_postfix(loss=f"{position.loss_sum / position.n_clips:.4g}", refresh=False)
            bar.close()
            results = {"train_loss": position.loss_sum / position.n_clips}
            if run.dev is not None:
                results |= _validate(run, run.dev)
            results["lr"] = run.optimizer.param_groups[0]["lr"]
            _finish_epoch(run, results, keep, events)


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


def _finish_epoch(run: Run, results: dict[str, float], keep: str, events: Any) -> None:
    """Decide, and write the epoch's checkpoint, the state and the log."""
    config, position = run.config, run.position
    epoch, best_before = position.epoch, position.best_epoch
    for name, tensor in run.detector.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingError(
                f"{name} holds NaN or infinite values after epoch {epoch}; the last good "
                f"checkpoint is in {run.out}: lower the learning rate or use --precision no"
            )
    row = {"epoch": epoch, **results, "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    position.advance(row, config)
    is_best = position.best_epoch == epoch
    if run.accelerator.is_main_process:
        if is_best or keep == "all":
            metadata = {"recipe": config.recipe, "seed": config.seed, **row}
            run.detector.save(run.out / f"epoch_{epoch}.safetensors", metadata)
        run.save()
        state.write_reports(run.out, position, config.monitor)
        if keep == "best" and is_best:
            (run.out / f"epoch_{best_before}.safetensors").unlink(missing_ok=True)
        if events:
            for name, value in results.items():
                events.add_scalar(name, value, epoch)
            events.flush()
        if run.progress:
            text = ", ".join(f"{name} {value:.4g}" for name, value in results.items())
            tqdm.write(f"epoch {epoch}: {text}{' (best)' if is_best else ''}", file=sys.stderr)
    run.accelerator.wait_for_everyone()


@torch.no_grad()
def _validate(run: Run, dev: TrialDataset) -> dict[str, float]:
    """Return loss, accuracy, EER and its threshold on the development corpus."""
    accelerator, config = run.accelerator, run.config
    dev.epoch = run.position.epoch
    run.detector.eval()
    batches = batched(range(len(dev)), config.batch_size)
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    class_weights = torch.tensor(config.class_weights, device=accelerator.device)
    done: list[tuple[Tensor, Tensor, Tensor]] = []  # of each batch: loss, log-probs, labels
    clips_of_batches = load_batches(dev, mine, workers=run.workers)
    for clips in processes.bar(
        iterable=clips_of_batches, total=len(mine), desc="validate", leave=False, show=run.progress
    ):
        waveforms, labels = (t.to(accelerator.device) for t in stack(clips))
        # The unwrapped module: processes may hold different numbers of batches.
        with accelerator.autocast():
            log_probs = run.detector(waveforms).float()
        weights = class_weights[labels]
        nll = -(weights * log_probs.gather(1, labels[:, None])[:, 0]).sum() / weights.sum()
        done.append(((nll * len(labels)).cpu(), log_probs.cpu(), labels.cpu()))
    losses, *outputs = zip(*gather_object(done), strict=True)
    log_probs, labels = map(torch.cat, outputs)
    llr = run.detector.llr_of(log_probs).numpy()
    result = metrics.eer(llr[labels.numpy() == 1], llr[labels.numpy() == 0])
    return {
        "dev_loss": float(torch.stack(losses).sum()) / len(labels),
        "dev_accuracy": float((log_probs.argmax(1) == labels).double().mean()),
        "dev_eer_percent": 100 * float(result.value),
        "dev_eer_threshold": float(result.threshold),
    }


def _set_learning_rate(run: Run, step: int) -> None:
    rise = min(1.0, (step + 1) / max(1, run.config.warmup_steps))
    for group in run.optimizer.param_groups:
        group["lr"] = run.config.lr * rise


def _any_process(accelerator: Accelerator, told: bool) -> bool:
    """Tell, the same to every process, whether one of them was told to stop."""
    return bool(accelerator.reduce(torch.tensor(float(told), device=accelerator.device), "sum"))


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM so that the loop can stop at a step; the second one kills."""
    received: list[int] = []

    def handler(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    try:
        before = {n: signal.signal(n, handler) for n in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield received
    finally:
        for number, old in before.items():
            signal.signal(number, old)
