"""Score single recordings of any length, window by window.

A recording is cut into windows of the detector's length (4.0375 s), the last one ending with the
recording; a shorter recording is tiled. Its score is the mean of the windows' log-likelihood
ratios, so for recordings up to one window it is the score that :mod:`slslib.runs.score` writes,
which reads only the first window. Files are taken as untrusted: each is decoded in a process of its
own with limits on memory and time (:mod:`slslib.data.isolate`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from slslib.data.audio import AUDIO_SUFFIXES, SAMPLE_RATE
from slslib.data.isolate import windows_isolated
from slslib.errors import AudioError
from slslib.model.checkpoints import locate
from slslib.model.detector import Detector
from slslib.runs import processes

_BATCH = 8


def detect(
    files: Sequence[str | Path],
    checkpoint: str | Path,
    *,
    threshold: float | None = None,
    allow_silence: bool = False,
    cpu: bool = False,
) -> dict[str, Any]:
    """Score recordings.

    Args:
        files: Recordings, or folders whose recordings are meant.
        checkpoint: File, run folder or ``hub:owner/name[/file][@revision]``.
        threshold: A score above it is called bona fide; by default the checkpoint's
            development threshold, else 0.
        allow_silence: Accept silent and very short recordings.
        cpu: Use the CPU even where there is a GPU.

    Returns:
        ``checkpoint``, ``threshold``, ``threshold_source`` and ``files``: for each its ``file``,
        ``llr`` (mean over windows), ``verdict``, ``windows`` (``start_s``, ``llr``) and ``error``.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        AudioError: A folder holds no recordings. Errors of single files are in the result.
    """
    path = locate(checkpoint)
    paths = list(_expand(files))
    device = processes.start(cpu=cpu).device
    detector = Detector.load(path).to(device)
    source = "given"
    if threshold is None:
        threshold = detector.metadata.get("dev_eer_threshold")
        source = "EER threshold on the development set"
        if threshold is None:
            threshold, source = 0.0, "none stored; 0 means equal likelihoods under the training"
    results = []
    for file in paths:
        one: dict[str, Any] = {"file": str(file), "llr": None, "verdict": None, "windows": []}
        one["error"] = None
        try:
            one["windows"] = list(_score_windows(detector, file, allow_silence, device))
            one["llr"] = float(np.mean([window["llr"] for window in one["windows"]]))
            one["verdict"] = "bona fide" if one["llr"] > threshold else "spoof"
        except AudioError as error:
            one["windows"], one["error"] = [], str(error)
        results.append(one)
    return {
        "checkpoint": str(checkpoint),
        "threshold": threshold,
        "threshold_source": source,
        "window_s": detector.config.n_samples / SAMPLE_RATE,
        "files": results,
    }


def _score_windows(
    detector: Detector, file: Path, allow_silence: bool, device: torch.device
) -> Iterator[dict[str, float]]:
    n_samples = detector.config.n_samples
    windows = windows_isolated(file, n_samples, n_samples, allow_silence=allow_silence)
    while batch := list(islice(windows, _BATCH)):
        waveforms = torch.from_numpy(np.stack([samples for _, samples in batch]))
        with torch.inference_mode():
            scores = detector.llr(waveforms.to(device)).tolist()
        if not np.isfinite(scores).all():
            raise AudioError(
                f"{file}: the detector's score is not finite; check that its samples lie in -1..1"
            )
        for (start, _), llr in zip(batch, scores, strict=True):
            yield {"start_s": start, "llr": llr}


def _expand(files: Iterable[str | Path]) -> Iterator[Path]:
    for file in map(Path, files):
        if not file.is_dir():
            yield file
            continue
        inside = sorted(p for p in file.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
        if not inside:
            raise AudioError(
                f"{file} holds no recordings ({', '.join(AUDIO_SUFFIXES)}); name the files"
            )
        yield from inside


def render(result: dict[str, Any]) -> Table:
    """Lay the result out for a terminal."""
    table = Table(
        title=f"{result['checkpoint']}; threshold {result['threshold']:.3f} "
        f"({result['threshold_source']})",
        caption=f"LLR: natural logarithm, mean over windows of {result['window_s']:.2f} s; "
        "higher is more bona fide",
    )
    for column in ("file", "LLR", "lowest window", "windows", "verdict"):
        table.add_column(column, justify="left" if column in ("file", "verdict") else "right")
    for one in result["files"]:
        if one["error"]:
            table.add_row(one["file"], "", "", "", "not scored")
            continue
        scores = [window["llr"] for window in one["windows"]]
        table.add_row(
            one["file"], f"{one['llr']:.3f}", f"{min(scores):.3f}", str(len(scores)), one["verdict"]
        )
    return table
