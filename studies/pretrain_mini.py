"""Pre-train the mini backbone by self-supervision on simulated speech.

    python studies/pretrain_mini.py --minutes 60 \
        --out src/slslib/model/weights/mini_backbone.safetensors

The backbone has XLS-R's geometry (seven convolutions, a frame every 20 ms, 24 pre-norm layers) at
width 64. Its voices are those of `minispoof.voices`; nobody was recorded. Two objectives:

``masked``       (the one that is shipped) spans of frames are replaced by a mask embedding, and
                 from several depths a linear head predicts the cepstra (LFCCs) of every frame,
                 masked or not: masked acoustic prediction, as in Mockingjay (Liu et al., ICASSP
                 2020). A second head predicts their mean and standard deviation over the clip from
                 the mean over time. The convolutions learn first, alone; a regulariser keeps the
                 channels of the residual stream alike in scale (`spread`).
``contrastive``  wav2vec 2.0's own (Baevski et al., NeurIPS 2020), by transformers'
                 `Wav2Vec2ForPreTraining`.

The speech is made first and kept in memory; rooms, microphones, noise, level, polarity and band
limits are drawn anew at each step. A log is written beside the output.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from provenance import provenance, write
from scipy import signal
from scipy.fft import dct
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import Wav2Vec2ForPreTraining
from transformers.models.wav2vec2.modeling_wav2vec2 import (
    _compute_mask_indices,
    _sample_negative_indices,
)

from minispoof.voices import LANGUAGES, Voice, speak
from slslib.data.audio import SAMPLE_RATE
from slslib.model.checkpoints import save_safetensors
from slslib.model.xlsr import XLSR, XLSRConfig, hugging_face
from slsnotebooks.baseline import filterbank

DIMENSIONS = XLSRConfig(width=64, n_heads=4, conv_width=64)
CROP = 32_240  # samples: 100 frames
TAPS = (0, 6, 12, 18, 24)  # layers from which the targets are predicted; 0: the convolutions
BANDS, CEPSTRA = 40, 24  # of a frame: filters, coefficients kept
MASKED, SPAN = 0.35, (4, 12)  # share of frames that is masked, in spans of so many frames
SPREAD = 0.1  # weight of the regulariser of the same name
VALIDATION = 256  # crops


def say(task: tuple[int, int, float]) -> list[np.ndarray]:
    """Say sentences worth some seconds, each by a new voice: int16 arrays."""
    seed, number, seconds = task
    rng = np.random.default_rng([seed, number])
    clips, total = [], 0.0
    while total < seconds:
        voice = Voice.draw(rng, LANGUAGES[int(rng.integers(len(LANGUAGES)))])
        clip = speak(voice, float(rng.uniform(3, 7)), rng)
        clips.append((clip / np.abs(clip).max() * 32_000).astype(np.int16))
        total += len(clip) / SAMPLE_RATE
    return clips


def speech(hours: float, seed: int, jobs: int) -> list[np.ndarray]:
    """Return so many hours of simulated speech in int16, in an order that the seed determines."""
    tasks = [(seed, i, min(900.0, hours * 3600)) for i in range(math.ceil(hours * 4))]
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("forkserver"), max_tasks_per_child=1
    ) as pool:
        parts = tqdm(pool.map(say, tasks), "speech", len(tasks), unit="quarter of an hour")
        return [clip for part in parts for clip in part]


def hear(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a crop and pass it through a random room, microphone, band limit, noise and level."""
    start = int(rng.integers(max(1, len(clip) - CROP + 1)))
    part = clip[start : start + CROP]
    x = np.resize(part, CROP).astype(np.float32)
    if rng.random() < 0.7:
        decay = rng.uniform(0.05, 0.4)
        time_axis = np.arange(int(decay * SAMPLE_RATE)) / SAMPLE_RATE
        room = rng.normal(size=len(time_axis)) * 10 ** (-3 * time_axis / decay)
        room *= 10 ** (-rng.uniform(6, 22) / 20) / np.linalg.norm(room)
        room[0] = 1
        x = signal.fftconvolve(x, room.astype(np.float32))[:CROP]
    spectrum = np.fft.rfft(x)
    frequency = np.linspace(0, SAMPLE_RATE / 2, len(spectrum))
    colour = np.interp(frequency, np.linspace(0, 8000, 9), rng.uniform(-6, 6, 9))
    high = rng.choice([8000, rng.uniform(3400, 8000)])
    colour -= 60 * np.maximum(0, frequency / high - 1) * 10
    # A smooth random phase: the waveform's shape carries nothing, as after any real channel.
    phase = np.interp(frequency, np.linspace(0, 8000, 33), np.cumsum(rng.uniform(-3, 3, 33)))
    x = np.fft.irfft(spectrum * 10 ** (colour / 20) * np.exp(1j * phase), CROP)
    x += rng.normal(size=CROP) * x.std() * 10 ** (-rng.uniform(15, 55) / 20)
    level = 10 ** (-rng.uniform(18, 32) / 20) / max(x.std(), 1e-9)
    return (x * level * rng.choice([-1, 1])).astype(np.float32)


def batches(clips: list[np.ndarray], size: int, rng: np.random.Generator) -> Tensor:
    """Draw a batch of crops: float32 ``[size, CROP]``."""
    chosen = rng.integers(len(clips), size=size)
    return torch.from_numpy(np.stack([hear(clips[i], rng) for i in chosen]))


def targets(waveform: Tensor) -> Tensor:
    """Return the cepstra that a frame is to be predicted by: ``[batch, frames, CEPSTRA]``.

    Linear-frequency cepstra (LFCCs) of a 32 ms window around the frame's centre. Cepstra and not
    log spectra: each coefficient is scaled alike below, so that the fine structure of a spectrum,
    where resynthesis shows, counts as much as its outline.
    """
    frames = F.pad(waveform, (56, 56)).unfold(1, 512, 320) * torch.hann_window(512)
    power = torch.fft.rfft(frames).abs().square()
    bank = torch.from_numpy(filterbank(BANDS, 512)).float()
    basis = torch.from_numpy(dct(np.eye(BANDS), norm="ortho")[:, :CEPSTRA]).float()
    return torch.log(power @ bank.T + 1e-6) @ basis


def clip_targets(cepstra: Tensor) -> Tensor:
    """Return mean and standard deviation of the cepstra over time: ``[batch, 2 CEPSTRA]``."""
    return torch.cat([cepstra.mean(1), cepstra.std(1)], -1)


def spread(hidden: Tensor) -> Tensor:
    """Return how far the channels are from zero mean, unit variance and no correlation.

    After Bardes et al., *VICReg* (ICLR 2022). Without it a few channels of the residual stream grow
    large and hide the others from a classifier that sees the sum of all layers.
    """
    x = hidden.flatten(0, 1)
    mean, variance = x.mean(0), x.var(0) + 1e-5
    z = (x - mean) / variance.sqrt()
    correlation = z.T @ z / len(z)
    off = correlation.square().sum() - correlation.diagonal().square().sum()
    scale = (0.5 * variance.log()).square().mean() + (mean.square() / variance).mean()
    return scale + off / len(mean)


def convolve(extractor: nn.Module, waveform: Tensor) -> Tensor:
    """Run the feature extractor channels last: the same numbers to 1e-5 in half the time."""
    first, *others = extractor.conv_layers
    x = F.linear(waveform.unfold(1, 10, 5), first.conv.weight[:, 0], first.conv.bias)
    x = F.gelu(first.layer_norm(x))
    for layer in others:
        weight = layer.conv.weight
        batch, frames, width = x.shape
        n = (frames - weight.shape[2]) // 2 + 1
        pair = weight[:, :, :2].permute(0, 2, 1).reshape(-1, 2 * width)
        y = F.linear(x[:, : 2 * n].reshape(batch, n, -1), pair, layer.conv.bias)
        if weight.shape[2] == 3:
            y = y + F.linear(x[:, 2 : 2 * n + 1 : 2], weight[:, :, 2])
        x = F.gelu(layer.layer_norm(y))
    return x


def spans(batch: int, frames: int, rng: np.random.Generator) -> Tensor:
    """Draw which frames are masked: bool ``[batch, frames]``."""
    mask = np.zeros((batch, frames), dtype=bool)
    for row in mask:
        while row.mean() < MASKED:
            start, length = int(rng.integers(frames)), int(rng.integers(*SPAN))
            row[start : start + length] = True
    return torch.from_numpy(mask)


class Masked(nn.Module):
    """Masked acoustic prediction."""

    def __init__(self, backbone: XLSR, some: Tensor) -> None:
        """Take the scale of the targets from some waveforms."""
        super().__init__()
        self.backbone = backbone
        width = backbone.config.width
        self.mask = nn.Parameter(torch.rand(width) - 0.5)
        scales, heads = [], []
        cepstra = targets(some)
        for target in (cepstra.flatten(0, 1), clip_targets(cepstra)):
            scales.append((target.mean(0), target.std(0)))
            bands = target.shape[-1]
            heads.append(
                nn.ModuleList(
                    nn.Sequential(nn.LayerNorm(width), nn.Linear(width, bands)) for _ in TAPS
                )
            )
        self.scale, self.clip_scale = scales
        self.heads, self.clip_heads = heads
        self.front_only, self.convolutions_learn = False, True

    def losses(self, tap: int, hidden: Tensor, frame: Tensor, clip: Tensor) -> tuple[Tensor, ...]:
        """Return the errors of a depth: of each frame ``[batch, frames]``, of the clips."""
        frame_error = (self.heads[tap](hidden) - frame).abs().mean(-1)
        norm, linear = self.clip_heads[tap]
        clip_error = (linear(norm(hidden).mean(1)) - clip).abs().mean()
        return frame_error, clip_error

    def forward(self, waveform: Tensor, rng: np.random.Generator) -> tuple[Tensor, dict]:
        model = self.backbone.model
        with torch.set_grad_enabled(self.convolutions_learn and torch.is_grad_enabled()):
            hidden = convolve(model.feature_extractor, waveform)
        hidden, _ = model.feature_projection(hidden)
        cepstra = targets(waveform)
        frame = (cepstra - self.scale[0]) / self.scale[1]
        clip = (clip_targets(cepstra) - self.clip_scale[0]) / self.clip_scale[1]
        error, clip_error = self.losses(0, hidden, frame, clip)
        loss = error.mean() + clip_error
        parts = {"seen_0": error.mean().item(), "clip_0": clip_error.item()}
        if self.front_only:
            return loss, parts
        mask = spans(*hidden.shape[:2], rng)
        hidden = torch.where(mask[..., None], self.mask, hidden)
        hidden = hidden + model.encoder.pos_conv_embed(hidden)
        total = torch.zeros_like(hidden)
        for number, layer in enumerate(model.encoder.layers, 1):
            hidden = layer(hidden)
            total = total + hidden
            if number in TAPS:
                error, clip_error = self.losses(TAPS.index(number), hidden, frame, clip)
                masked, seen = error[mask].mean(), error[~mask].mean()
                loss = loss + masked + seen + clip_error + SPREAD * spread(hidden)
                parts[f"masked_{number}"] = masked.item()
                parts[f"seen_{number}"] = seen.item()
                parts[f"clip_{number}"] = clip_error.item()
        even = spread(total / len(model.encoder.layers))
        return loss + SPREAD * even, parts | {"spread": even.item()}


class Contrastive(nn.Module):
    """wav2vec 2.0's objective, by transformers."""

    def __init__(self, backbone: XLSR) -> None:
        super().__init__()
        config = hugging_face(backbone.config)
        config.update({"codevector_dim": 64, "proj_codevector_dim": 64})
        config.update({"num_codevectors_per_group": 64, "num_negatives": 50})
        self.model = Wav2Vec2ForPreTraining(config)
        self.model.wav2vec2.masked_spec_embed = nn.Parameter(torch.rand(config.hidden_size))
        extractor = backbone.model.feature_extractor.state_dict()
        self.model.wav2vec2.feature_extractor.load_state_dict(extractor)
        self.steps = 0

    def forward(self, waveform: Tensor, rng: np.random.Generator) -> tuple[Tensor, dict]:
        frames = DIMENSIONS.n_frames(waveform.shape[1])
        # transformers draws from the global generator
        np.random.seed(int(rng.integers(2**31)))  # noqa: NPY002
        shape = (len(waveform), frames)
        mask = _compute_mask_indices(shape, mask_prob=0.65, mask_length=10)
        negatives = _sample_negative_indices(shape, self.model.config.num_negatives, mask)
        self.model.set_gumbel_temperature(max(2 * 0.999**self.steps, 0.5))
        self.steps += self.training
        out = self.model(
            waveform,
            mask_time_indices=torch.from_numpy(mask),
            sampled_negative_indices=torch.from_numpy(negatives),
        )
        return out.loss / mask.sum(), {"perplexity": float(out.codevector_perplexity)}

    @property
    def backbone_state(self) -> dict[str, Tensor]:
        """The tensors that the backbone shares with the objective's model."""
        return {k: v for k, v in self.model.wav2vec2.state_dict().items() if "masked" not in k}


def main() -> None:
    """Make the speech, pre-train, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objective", choices=("masked", "contrastive"), default="masked")
    parser.add_argument("--hours", type=float, default=4.0, help="of simulated speech")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training")
    parser.add_argument("--steps", type=int, help="of training, instead of minutes")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--front", type=float, default=0.35, help="share for convolutions alone")
    parser.add_argument("--learn-convolutions", type=float, default=0.8, help="until this share")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    where = provenance("torch", "transformers", "numpy", "praat-parselmouth")
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(args.seed)
    clips = speech(args.hours, args.seed, args.jobs)
    held_out = speech(min(0.25, args.hours), args.seed + 1, args.jobs)
    check = batches(held_out, VALIDATION, np.random.default_rng(0)).split(32)

    backbone = XLSR(DIMENSIONS)
    for convolution in backbone.model.feature_extractor.conv_layers:
        # The default bias of about 0.3 would drown a waveform at -26 dBFS before the first norm.
        nn.init.zeros_(convolution.conv.bias)
    objective: Masked | Contrastive = (
        Masked(backbone, batches(clips, 256, np.random.default_rng(1)))
        if args.objective == "masked"
        else Contrastive(backbone)
    )
    optimizer = torch.optim.AdamW(objective.parameters(), args.lr, (0.9, 0.98), weight_decay=0.01)

    log: list[dict[str, float]] = []
    start, step, last = time.monotonic(), 0, False
    bar = tqdm(
        total=args.steps or args.minutes,
        unit="step" if args.steps else "min",
        bar_format="{desc}: {percentage:3.1f} %|{bar}| [{elapsed}<{remaining}]",
        mininterval=5,
    )
    while not last:
        elapsed = (time.monotonic() - start) / 60
        done = step / args.steps if args.steps else elapsed / args.minutes
        last = step + 1 == args.steps if args.steps else done >= 1
        if isinstance(objective, Masked):  # the convolutions alone, all, the layers alone
            objective.front_only = done < args.front
            objective.convolutions_learn = done < args.learn_convolutions
        warm = min(1.0, (step + 1) / 300)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * warm * max(0.02, 0.5 * (1 + math.cos(math.pi * min(done, 1))))
        loss, parts = objective(batches(clips, args.batch, rng), rng)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        step += 1
        if not torch.isfinite(loss):
            raise SystemExit(f"the loss is {float(loss)} at step {step}")
        if step % 250 == 0 or last:
            objective.eval()
            with torch.inference_mode():
                fixed = np.random.default_rng(0)
                seen = [objective(part, fixed) for part in check]
            objective.train()
            row = {"step": step, "minutes": round(elapsed, 2), "train_loss": loss.item()}
            row["held_out_loss"] = float(np.mean([float(value) for value, _ in seen]))
            row |= {name: float(np.mean([p[name] for _, p in seen])) for name in parts}
            log.append(row)
            tqdm.write(json.dumps({k: round(v, 4) for k, v in row.items()}))
            if isinstance(objective, Contrastive):
                backbone.model.load_state_dict(objective.backbone_state, strict=False)
            card = {
                "what": "mini backbone: XLS-R's geometry at width 64, pre-trained on simulated "
                "speech (minispoof.voices); not a speech model for anything but this book",
                "objective": args.objective,
                "hours": args.hours,
                "steps": step,
                "batch": args.batch,
                "crop_samples": CROP,
                "lr": args.lr,
                "seed": args.seed,
                "dimensions": asdict(DIMENSIONS),
            }
            args.out.parent.mkdir(parents=True, exist_ok=True)
            tensors = {f"backbone.{name}": t for name, t in backbone.state_dict().items()}
            about = {"config": {"backbone": card["dimensions"]}, "card": card}
            save_safetensors(args.out, tensors, about)
            write(args.out.with_suffix(".log.json"), "pre-training of a mini backbone", where, log)
        bar.update(1 if args.steps else elapsed - bar.n)
    bar.close()


if __name__ == "__main__":
    main()
