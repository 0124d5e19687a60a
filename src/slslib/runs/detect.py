"""Score single recordings of any length, window by window.

A recording is divided into windows of the detector's length (4.0375 s), the last one ending with
the recording; a shorter recording is tiled. Its score is the mean of the windows' log-likelihood
ratios, so for recordings up to one window it is the score that :mod:`slslib.runs.score` writes,
which reads only the first window. Files are taken as untrusted: each is decoded in a process of its
own with limits on memory and time (:mod:`slslib.data.isolate`).
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slslib.errors import AudioError

if TYPE_CHECKING:
    from slslib.model.detector import Detector

_BATCH = 8


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
    detector's length. Files are decoded in a process of their own with limits.

    Example: slslib detect call.wav --checkpoint runs/v1 --plot call.png

    Args:
        files: Recordings, or folders of them.
        checkpoint: safetensors or .pth file, run folder, hub:owner/name[/file][@revision], or mini.
        threshold: Scores above it are called bona fide; default the checkpoint's own
            development threshold, else 0.
        allow_silence: Score silent and very short recordings too.
        plot: Draw the score of each window over time into this file.
        cpu: Use the CPU even where there is a GPU.

    Returns:
        ``checkpoint``, ``threshold``, ``threshold_source``, ``window_s``, ``errors`` (texts) and
        ``files``: for each its ``file``, ``llr`` (mean over windows), ``verdict``, ``lowest_llr``
        (of a window), ``windows`` (``start_s``, ``llr``) and ``error``.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        AudioError: A folder holds no recordings. Errors of single files are in the result.
    """
    from slslib.data.audio import SAMPLE_RATE, list_recordings
    from slslib.model.detector import Detector
    from slslib.runs import processes

    recordings: list[Path] = []
    for path in map(Path, files):
        recordings += list_recordings(path) if path.is_dir() else [path]
    detector = Detector.load(checkpoint).to(processes.start(cpu=cpu).device)
    source = "given"
    if threshold is None:
        threshold = detector.metadata.get("dev_eer_threshold")
        source = "EER threshold on the development set"
    if threshold is None:
        threshold, source = 0.0, "none stored; 0 means equal likelihoods under the training"
    rows: list[dict[str, Any]] = []
    for recording in recordings:
        row: dict[str, Any] = {"file": str(recording), "llr": None, "verdict": None}
        row |= {"lowest_llr": None, "windows": [], "error": None}
        try:
            row["windows"] = _score_windows(detector, recording, allow_silence)
            llrs = [window["llr"] for window in row["windows"]]
            row |= {"llr": float(np.mean(llrs)), "lowest_llr": min(llrs)}
            row["verdict"] = "bona fide" if row["llr"] > threshold else "spoof"
        except AudioError as error:
            row["error"] = str(error)
        rows.append(row)
    made: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "threshold": threshold,
        "threshold_source": source,
        "window_s": detector.config.n_samples / SAMPLE_RATE,
        "files": rows,
        "errors": [row["error"] for row in rows if row["error"]],
    }
    if plot and len(made["errors"]) < len(rows):
        from slslib.evaluation.plots import plot_windows

        plot_windows(made)[0].savefig(plot)
    return made


def _score_windows(
    detector: Detector, recording: Path, allow_silence: bool
) -> list[dict[str, float]]:
    import torch

    from slslib.data.audio import windows
    from slslib.data.isolate import blocks_isolated

    n_samples, device = detector.config.n_samples, next(detector.parameters()).device
    decoded = windows(blocks_isolated(recording, allow_silence=allow_silence), n_samples)
    scored = []
    while batch := list(islice(decoded, _BATCH)):
        starts, samples = zip(*batch, strict=True)
        with torch.inference_mode():
            llrs = detector.llr(torch.from_numpy(np.stack(samples)).to(device)).tolist()
        scored += [{"start_s": s, "llr": llr} for s, llr in zip(starts, llrs, strict=True)]
    if not np.isfinite([window["llr"] for window in scored]).all():
        raise AudioError(f"{recording}: its score is not finite; check that samples lie in -1..1")
    return scored
