"""Score single recordings of any length, window by window.

A recording is divided into windows of the detector's length (4.0375 s). The last window ends with
the recording; a recording shorter than one window is tiled. The score is the mean of the windows'
log-likelihood ratios. Windows of digital silence have no score and are counted. For a recording of
one window this is the score that ``slslib score --precision exact`` writes, which reads the first
window only. No file is trusted: another process decodes them, with limits on memory and time
(:mod:`slslib.data.isolate`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from slslib.errors import AudioError, ConfigError

Scorer = Callable[[np.ndarray], np.ndarray]

_BATCH = 8
_MINI = "mini knows simulated speech only: what it says of a real recording is worth nothing"


def detect(
    files: tuple[Path, ...],
    *,
    checkpoint: str = "hub:sukhdeveyash/XLS-R-SLS-Deepfake-Detection/v1/epoch_2.pth",
    threshold: float | None = None,
    allow_silence: bool = False,
    plot: Path | None = None,
    cpu: bool = False,
) -> dict[str, Any]:
    """Score single recordings of any length, window by window, and give a verdict.

    The score is the log-likelihood ratio of bona fide against spoof, averaged over windows of the
    detector's length. Another process decodes the files, within limits. A terminal shows
    the progress of what takes longer than a second.

    Example: slslib detect call.wav --checkpoint runs/v1 --plot call.png

    Args:
        files: Recordings, or folders of them.
        checkpoint: safetensors or .pth file, run folder, hub:owner/name[/file][@revision], mini, or
            .onnx file of slslib export, which is scored on the CPU without PyTorch.
        threshold: Scores above it are called bona fide; default the checkpoint's own
            development threshold, else 0.
        allow_silence: Score silent and very short recordings too.
        plot: Draw the score of each window over time into this file.
        cpu: Use the CPU even where there is a GPU.

    Returns:
        ``checkpoint``, ``threshold``, ``threshold_source``, ``window_s``, ``errors`` and
        ``warnings`` (texts) and ``files``: for each its ``file``, ``llr`` (mean over windows),
        ``verdict``, ``lowest_llr`` (of a window), ``n_silent`` (windows of zeros, which are left
        out), ``windows`` (``start_s``, ``llr``) and ``error``.

    Raises:
        ConfigError: There is no file, no finite threshold, or the plot has an unknown format.
        CheckpointError: The checkpoint cannot be read.
        AudioError: A folder holds no recordings. Errors of single files are in the result.
    """
    from slslib.data.audio import SAMPLE_RATE, list_recordings
    from slslib.runs import processes

    recordings: list[Path] = []
    given: Any = files
    for path in map(Path, [given] if isinstance(given, str | Path) else given):
        recordings += list_recordings(path) if path.is_dir() else [path]
    if not recordings:
        raise ConfigError("nothing to score: name recordings, or folders of them")
    if plot:
        from matplotlib.figure import Figure

        from slslib.evaluation.plots import plot_windows

        known = Figure().canvas.get_supported_filetypes()
        if plot.suffix[1:].lower() not in known or not plot.parent.is_dir():
            raise ConfigError(f"{plot}: no such folder, or not one of {', '.join(known)}")
    score, n_samples, metadata, _ = _open(checkpoint, cpu)
    source = "given"
    if threshold is None:
        threshold = metadata.get("dev_eer_threshold")
        source = "EER threshold on the development set"
    if threshold is None:
        threshold, source = 0.0, "none stored; 0 means equal likelihoods under the training"
    if not isinstance(threshold, int | float) or not math.isfinite(threshold):
        raise ConfigError(f"the threshold {threshold!r} ({source}) is no number; give --threshold")
    rows: list[dict[str, Any]] = []
    for recording in processes.bar(recordings, desc="detect", delay=1, show=sys.stderr.isatty()):
        row: dict[str, Any] = {"file": str(recording), "llr": None, "verdict": None}
        row |= {"lowest_llr": None, "n_silent": 0, "windows": [], "error": None}
        try:
            row["windows"] = _score_windows(score, n_samples, recording, allow_silence)
            llrs = [window["llr"] for window in row["windows"] if window["llr"] is not None]
            row |= {"llr": float(np.mean(llrs)), "lowest_llr": min(llrs)}
            row["n_silent"] = len(row["windows"]) - len(llrs)
            row["verdict"] = "bona fide" if row["llr"] > threshold else "spoof"
        except AudioError as error:
            row["error"] = str(error)
        rows.append(row)
    made: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "threshold": threshold,
        "threshold_source": source,
        "window_s": n_samples / SAMPLE_RATE,
        "files": rows,
        "warnings": [_MINI] if str(checkpoint) == "mini" else [],
        "errors": [row["error"] for row in rows if row["error"]],
    }
    if plot and len(made["errors"]) < len(rows):
        plot_windows(made)[0].savefig(plot)
    return made


def _open(checkpoint: str, cpu: bool) -> tuple[Scorer, int, dict[str, Any], Path]:
    """Load a checkpoint: what scores a batch of windows, their length, the metadata, the file."""
    if str(checkpoint).endswith(".onnx"):
        from slslib.model.onnx import OnnxDetector

        exported = OnnxDetector.load(checkpoint)
        return exported.llr, exported.n_samples, exported.metadata, Path(checkpoint)
    import torch

    from slslib.model.checkpoints import locate
    from slslib.model.detector import Detector
    from slslib.runs import processes

    path = locate(checkpoint)
    detector = Detector.load(path).to(processes.start(cpu=cpu).device)

    def score(samples: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), processes.deterministic(tf32=False):
            return detector.llr(torch.from_numpy(samples).to(detector.device)).cpu().numpy()

    return score, detector.config.n_samples, detector.metadata, path


def _score_windows(
    score: Scorer, n_samples: int, recording: Path, allow_silence: bool
) -> list[dict[str, float | None]]:
    """Score the windows of a recording; digital silence has no score unless it is allowed."""
    from slslib.data.audio import windows
    from slslib.data.isolate import blocks_isolated
    from slslib.runs import processes

    decoded = windows(blocks_isolated(recording, allow_silence=allow_silence), n_samples)
    bar = processes.bar(decoded, desc=recording.name, delay=1, show=sys.stderr.isatty())
    shown, scored = iter(bar), list[dict[str, float | None]]()
    while batch := list(islice(shown, _BATCH)):
        llrs = score(np.stack([samples for _, samples in batch])).tolist()
        if not np.isfinite(llrs).all():
            raise AudioError(f"{recording}: its score is not finite; use another checkpoint")
        for (start, window), llr in zip(batch, llrs, strict=True):
            scored.append({"start_s": start, "llr": llr if allow_silence or window.any() else None})
    return scored
