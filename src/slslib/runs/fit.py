"""The training loop and its parts: detector, optimizer, position, step, validation.

The loss is the class-weighted cross entropy of log-softmax outputs. With several processes
(``accelerate launch``) each batch is split between them. The loss is normalised by the class
weights of the whole batch, so a step is the same as in one process. On CUDA the processes also
share the BatchNorm statistics.

``state.pt`` holds everything needed to go on: weights, the optimizer's state and the position.
``log.csv`` and ``best.json`` repeat the position's history for people.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm

from slslib.errors import TrainingError, usable
from slslib.evaluation import metrics
from slslib.files import write_json, write_text, writing
from slslib.model.checkpoints import locate
from slslib.model.detector import Detector, load_backbone
from slslib.model.foreign import KEY
from slslib.model.geometry import DetectorConfig
from slslib.runs import processes
from slslib.runs.clips import Clip, TrialDataset, batched, epoch_batches, load_batches, stack
from slslib.runs.recipes import TrainConfig

_REMEDY = "start a new run: --init LAST_EPOCH and a lower --lr, or --precision exact"


@dataclass
class Position:
    """The exact point that a run has reached; a resume restores all of it."""

    epoch: int = 0
    step: int = 0  # optimizer steps done in this epoch
    loss_sum: float = 0.0  # over the clips of this epoch so far
    history: list[dict[str, Any]] = field(default_factory=list)  # a row for each finished epoch

    def best_epoch(self, monitor: str) -> int:
        """Return the first epoch with the least value of ``monitor``; -1 if none is finished."""
        values = [row[monitor] for row in self.history]
        return values.index(min(values)) if values else -1

    def finished(self, config: TrainConfig) -> bool:
        """Tell whether the recipe says to stop."""
        waited = self.epoch - 1 - self.best_epoch(config.monitor)
        return self.epoch >= config.max_epochs or waited >= config.patience


@dataclass
class Run:
    """Everything a training run works with; :func:`fit` moves it forward."""

    config: TrainConfig
    out: Path
    accelerator: Accelerator
    detector: Detector
    optimizer: torch.optim.Optimizer
    sets: list[TrialDataset]  # the training set and, if there is one, the development set
    workers: int = 0
    progress: bool = True
    position: Position = field(default_factory=Position)
    signals: list[int] = field(default_factory=list)  # received so far: the first one stops
    converted: set[str] = field(default_factory=set)  # utterances that were resampled or mixed down

    @property
    def metadata(self) -> dict[str, Any]:
        """What a file of the present weights tells; between epochs, the results of the last one."""
        results = [] if self.position.step else self.position.history[-1:]
        return {"recipe": self.config.recipe, "seed": self.config.seed} | dict(*results)

    def save(self) -> None:
        """Write ``state.pt``, all or nothing, in the main process; it is a checkpoint, too."""
        self.check_finite()
        if self.accelerator.is_main_process:
            state = {"model": self.detector.state_dict(), "optimizer": self.optimizer.state_dict()}
            state |= {"position": asdict(self.position), KEY: self.detector.describe(self.metadata)}
            with writing(self.out / "state.pt") as temporary:
                torch.save(state, temporary)

    def check_finite(self) -> None:
        """Check the weights before they are written.

        Raises:
            TrainingError: If a weight is not finite.
        """
        for name, tensor in self.detector.state_dict().items():
            if not bool(tensor.isfinite().all()):
                raise TrainingError(f"{name} holds NaN or infinite values; {_REMEDY}")

    def restore(self) -> None:
        """Restore what :meth:`save` wrote.

        Raises:
            CheckpointError: If the file is damaged or does not fit the detector.
        """
        path = self.out / "state.pt"
        with usable(path, remedy="remove it to begin again"):
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.detector.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.position = Position(**state["position"])


def initial_weights(config: TrainConfig) -> Path | None:
    """Return the local file of a recipe's initial weights; None if they are random.

    Raises:
        CheckpointError: If the file cannot be obtained.
    """
    if config.init is None:
        return None if config.backbone == "random" else locate(config.backbone, "backbone")
    return locate(config.init)


def build_detector(
    config: TrainConfig, initial: Path | None, detector_class: type[Detector] = Detector
) -> Detector:
    """Build the detector from which a recipe starts.

    Args:
        config: The recipe.
        initial: What :func:`initial_weights` returns for it.
        detector_class: :class:`~slslib.model.detector.Detector`, or a subclass with another head.

    Raises:
        CheckpointError: If the initial weights cannot be read.
    """
    load: Any = detector_class.load if config.init else load_backbone
    source = load(initial) if initial else None
    shape: Any = source.config if source else config.dimensions
    if not config.init:
        shape = DetectorConfig(shape, config.hidden_width, config.n_samples)
    detector = detector_class(shape, seed=config.seed, checkpointing=config.checkpointing)
    if source:
        (detector if config.init else detector.backbone).load_state_dict(source.state_dict())
    detector.backbone.freeze(config.freeze)
    return detector


def build_optimizer(detector: Detector, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimizer of the trained weights: Adam, with an L2 penalty inside the gradient."""
    trained = [p for p in detector.parameters() if p.requires_grad]
    return torch.optim.Adam(trained, lr=config.lr, weight_decay=config.weight_decay)


def fit(run: Run, *, save_steps: int, keep: str, max_steps: int | None) -> None:
    """Train until the recipe ends the run, or until a signal or ``max_steps`` interrupts it.

    Args:
        run: The run, at its beginning or restored.
        save_steps: Optimizer steps between saves within an epoch.
        keep: ``"best"`` or ``"all"``.
        max_steps: Most steps to take. After them the state is saved, as it is after a signal.

    Raises:
        TrainingError: If the loss or a weight is not finite.
        AudioError: If a recording cannot be read.
    """
    config, position, accelerator = run.config, run.position, run.accelerator
    dataset, *dev = run.sets
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(run.detector)  # type: ignore[no-untyped-call]
    model, run.optimizer = accelerator.prepare(run.detector, run.optimizer)
    for state in run.optimizer.state.values():  # of a resumed run, on the GPU; Adam waits for each
        state["step"] = state["step"].cpu()
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    # Several processes tell each other when to stop; one alone must not wait for its GPU.
    told = accelerator.device if accelerator.num_processes > 1 else "cpu"
    steps_taken = 0
    while not position.finished(config):
        epoch = dataset.epoch = position.epoch
        batches = epoch_batches(len(dataset), config.batch_size, seed=config.seed, epoch=epoch)
        todo = [batch[mine] for batch in batches[position.step :]]
        model.train()
        loaded = load_batches(dataset, todo, workers=run.workers)
        done, total = epoch * len(batches) + position.step, config.max_epochs * len(batches)
        # The bar counts all epochs, so that it estimates the time of the whole run.
        steps = {"initial": done, "total": total}
        bar = processes.bar(loaded, desc=f"epoch {epoch}", show=run.progress, **steps)
        for clips in bar:
            stop = bool(run.signals) or steps_taken == max_steps
            if accelerator.reduce(torch.tensor(int(stop), device=told)):  # any process stops
                run.save()
                accelerator.wait_for_everyone()  # a process that exits takes the others along
                return
            done += 1
            run.converted |= {clip.utterance for clip in clips if clip.converted}
            rise = min(1.0, done / max(1, config.warmup_steps))
            run.optimizer.param_groups[0]["lr"] = config.lr * rise
            loss = train_step(model, run.optimizer, clips, config, accelerator)
            position.loss_sum += loss * config.batch_size
            position.step += 1
            steps_taken += 1
            if position.step % save_steps == 0 and position.step < len(batches):
                run.save()
            mean = position.loss_sum / (position.step * config.batch_size)
            bar.set_postfix_str(f"loss {mean:.4g}", refresh=False)
        run.check_finite()
        results = {"train_loss": mean} | (_validate(run, dev[0]) if dev else {})
        results["lr"] = run.optimizer.param_groups[0]["lr"]
        _finish_epoch(run, results, keep)


def train_step(
    model: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    clips: list[Clip],
    config: TrainConfig,
    accelerator: Accelerator,
) -> float:
    """Take an optimizer step and return the loss of the whole batch.

    Raises:
        TrainingError: If the loss is not finite; the weights are then unchanged.
    """
    optimizer.zero_grad()  # before the forward pass, which needs the memory
    waveforms, labels = stack(clips, accelerator.device)
    with accelerator.autocast():
        log_probs = model(waveforms)
    loss, of_all = weighted_nll(log_probs, labels, config.class_weights, accelerator)
    accelerator.backward(loss)
    reported = float(of_all)  # waits for a GPU, which has all of the backward pass to do by now
    if not math.isfinite(reported):
        names = ", ".join(clip.utterance for clip in clips)
        raise TrainingError(f"the loss is {reported} (utterances {names}); {_REMEDY}")
    optimizer.step()
    return reported


def weighted_nll(
    log_probs: Tensor, labels: Tensor, class_weights: Any, accelerator: Accelerator
) -> tuple[Tensor, Tensor]:
    """Return the class-weighted cross entropy of the whole batch, to differentiate and to report.

    With several processes, the weights are summed over the whole batch, so that the averaged
    gradient equals that of one process.
    """
    weighted, weights = _sums(log_probs, labels, class_weights)
    loss = weighted * accelerator.num_processes / accelerator.reduce(weights, "sum")
    return loss, accelerator.reduce(loss.detach(), "mean")


def _sums(log_probs: Tensor, labels: Tensor, class_weights: Any) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of the cross entropies, and the sum of the weights."""
    # Computed on the device: a copy of the weights to it would wait for the step before.
    weights = (labels == 0) * class_weights[0] + (labels == 1) * class_weights[1]
    return -(weights * log_probs.float().gather(1, labels[:, None])[:, 0]).sum(), weights.sum()


def _finish_epoch(run: Run, results: dict[str, float], keep: str) -> None:
    """Write the checkpoint of the epoch if it is kept, then the log, and the state last."""
    config, position, epoch = run.config, run.position, run.position.epoch
    before = position.best_epoch(config.monitor)
    position.history.append({"epoch": epoch, **results})
    position.epoch, position.step, position.loss_sum = epoch + 1, 0, 0.0
    best = position.best_epoch(config.monitor)
    if run.accelerator.is_main_process:
        if best == epoch or keep == "all":
            run.detector.save(run.out / f"epoch_{epoch}.safetensors", run.metadata)
        write_text(run.out / "log.csv", pd.DataFrame(position.history).to_csv(index=False))
        facts = {"epoch": best, config.monitor: position.history[best][config.monitor]}
        write_json(run.out / "best.json", {"file": f"epoch_{best}.safetensors", **facts})
        run.save()
        if keep == "best" and best == epoch:
            (run.out / f"epoch_{before}.safetensors").unlink(missing_ok=True)
        if run.progress:
            text = ", ".join(f"{name} {value:.4g}" for name, value in results.items())
            tqdm.write(f"epoch {epoch}: {text}", file=sys.stderr)
        if (n := len(run.converted)) and epoch == 0:
            tqdm.write(f"warning: {n} recordings were resampled or mixed down", file=sys.stderr)
    run.accelerator.wait_for_everyone()


@torch.no_grad()
def _validate(run: Run, dev: TrialDataset) -> dict[str, float]:
    """Return loss, accuracy, EER and its threshold on the development corpus."""
    accelerator, config = run.accelerator, run.config
    dev.epoch = run.position.epoch
    run.detector.eval()
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    batches = batched(range(len(dev)), config.batch_size)[mine]
    loaded = load_batches(dev, batches, workers=run.workers)
    done: list[tuple[Tensor, Tensor, Tensor]] = []  # of each batch: loss, log-probs, labels
    for clips in processes.bar(loaded, desc="validate", show=run.progress, total=len(batches)):
        run.converted |= {clip.utterance for clip in clips if clip.converted}
        waveforms, labels = stack(clips, accelerator.device)
        # The unwrapped module: processes may hold different numbers of batches.
        with accelerator.autocast():
            log_probs = run.detector(waveforms).float()
        weighted, weights = _sums(log_probs, labels, config.class_weights)
        done.append((weighted / weights * len(labels), log_probs, labels))
    here = [tuple(one.cpu() for one in batch) for batch in done]  # a GPU is waited for but once
    losses, *outputs = zip(*gather_object(here), strict=True)
    log_probs, labels = map(torch.cat, outputs)
    llr = run.detector.llr_of(log_probs).numpy()
    result = metrics.eer(llr[labels.numpy() == 1], llr[labels.numpy() == 0])
    return {
        "dev_loss": float(torch.stack(losses).sum()) / len(labels),
        "dev_accuracy": float((log_probs.argmax(1) == labels).double().mean()),
        "dev_eer_percent": 100 * float(result.value),
        "dev_eer_threshold": float(result.threshold),
    }
