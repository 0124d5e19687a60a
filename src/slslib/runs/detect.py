"""Score single recordings of any length, window by window.

A recording is divided into windows of the detector's length (4.0375 s), the last one ending with
the recording; a shorter recording is tiled. Its score is the mean of the windows' log-likelihood
ratios, so for recordings up to one window it is the score that :mod:`slslib.runs.score` writes,
which reads only the first window. Files are taken as untrusted: each is decoded in a process of its
own with limits on memory and time (:mod:`slslib.data.isolate`).
"""

from __future__ import annotations

from collections.abc import Iterator
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
        ``files``: for each its ``file``, ``llr`` (mean over windows), ``verdict``, ``windows``
        (``start_s``, ``llr``) and ``error``.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        AudioError: A folder holds no recordings. Errors of single files are in the result.
    """
    from slslib.data.audio import SAMPLE_RATE, list_recordings
    from slslib.model.checkpoints import locate
    from slslib.model.detector import Detector
    from slslib.runs import processes

    recordings: list[Path] = []
    for path in map(Path, files):
        recordings += list_recordings(path) if path.is_dir() else [path]
    detector = Detector.load(locate(checkpoint)).to(processes.start(cpu=cpu).device)
    source = "given"
    if threshold is None:
        threshold = detector.metadata.get("dev_eer_threshold")
        source = "EER threshold on the development set"
    if threshold is None:
        threshold, source = 0.0, "none stored; 0 means equal likelihoods under the training"
    results: list[dict[str, Any]] = []
    for recording in recordings:
        result: dict[str, Any] = dict.fromkeys(("file", "llr", "verdict", "windows", "error"))
        result |= {"file": str(recording), "windows": []}
        try:
            windows = list(_score_windows(detector, recording, allow_silence))
            llr = float(np.mean([window["llr"] for window in windows]))
            verdict = "bona fide" if llr > threshold else "spoof"
            result |= {"llr": llr, "verdict": verdict, "windows": windows}
        except AudioError as error:
            result["error"] = str(error)
        results.append(result)
    made: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "threshold": threshold,
        "threshold_source": source,
        "window_s": detector.config.n_samples / SAMPLE_RATE,
        "files": results,
        "errors": [result["error"] for result in results if result["error"]],
    }
    if plot and len(made["errors"]) < len(results):
        from slslib.evaluation.plots import plot_windows, save

        save(plot_windows(made), plot)
    return made


def _score_windows(
    detector: Detector, recording: Path, allow_silence: bool
) -> Iterator[dict[str, float]]:
    import torch

    from slslib.data.audio import windows
    from slslib.data.isolate import blocks_isolated

    n_samples, device = detector.config.n_samples, next(detector.parameters()).device
    decoded = windows(blocks_isolated(recording, allow_silence=allow_silence), n_samples, n_samples)
    while batch := list(islice(decoded, _BATCH)):
        waveforms = torch.from_numpy(np.stack([samples for _, samples in batch]))
        with torch.inference_mode():
            scores = detector.llr(waveforms.to(device)).tolist()
        if not np.isfinite(scores).all():
            raise AudioError(
                f"{recording}: the detector's score is not finite; check that its samples lie in "
                "-1..1"
            )
        for (start, _), llr in zip(batch, scores, strict=True):
            yield {"start_s": start, "llr": llr}
