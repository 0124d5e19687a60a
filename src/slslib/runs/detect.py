"""Score single recordings of any length, window by window.

A recording is divided into windows of the detector's length (4.0375 s), one after another or every
``hop`` seconds. The last window ends with the recording; a recording shorter than one window is
tiled. The windows' log-likelihood ratios are pooled into the recording's score. Windows of digital
silence have no score and are counted. ``slslib score --precision exact`` reads only the first
window; for a recording of one window it writes the same score, up to the last bits. No file is
trusted: another process decodes the files, with limits on memory and time
(:mod:`slslib.data.isolate`).

A detector that is loaded once scores many files, and arrays too:

.. code-block:: python

    detector = Detector.load("detector.safetensors")
    for file in files:
        print(detect(file, checkpoint=detector)["files"][0]["llr"])
    with torch.inference_mode():
        llrs = detector.llr(samples)  # [batch, detector.config.n_samples], float32 mono at 16 kHz
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from slslib.errors import AudioError, ConfigError
from slslib.files import sha256

PUBLISHED = "hub:sukhdeveyash/XLS-R-SLS-Deepfake-Detection/v1/epoch_2.pth"
"""The reproduction's checkpoint."""

_BATCH = 8
_TRAINED = "EER threshold on the development set"
_ELSEWHERE = "the development set's threshold may fail on yours: choose your own (slslib threshold)"
_MINI = "mini knows simulated speech only: its verdict on a real recording is worth nothing"
_MEANING = (
    "The score is the log-likelihood ratio of bona fide against spoofed speech as the training "
    "data has them, no probability; what it is worth on other speech is not known. {}"
    "For a verdict, choose a threshold on recordings of your own: slslib threshold."
)
_SPEECH_FREE = "it holds no speech in any of its {} windows; listen, or leave out --speech-only"
_MEASURED = "On the development data of recipe {}, the EER was {:.1f} %. "
_POOLS: dict[str, Callable[[np.ndarray], Any]] = {
    "mean": np.mean,
    "min": np.min,
    "trimmed": lambda llrs: np.sort(llrs)[len(llrs) // 5 : len(llrs) - len(llrs) // 5].mean(),
}
_UNKNOWN = ("llr", "verdict", "lowest_llr")
_FOUND = ("source_rate", "channels", "over_range", "states_length")
_SHORT = "under half a second, so that the score says little: {} of {} recordings"
_LENGTH = "no length stated, so that a cut or damaged copy may pass for whole: {} of {} recordings"
_USUAL = {"hop_s": None, "pool": "mean", "allow_silence": False, "speech_only": False}
"""The settings by which training scores."""


def detect(
    files: tuple[Path, ...],
    *,
    checkpoint: Any = PUBLISHED,
    threshold: float | Path | None = None,
    hop: float | None = None,
    pool: Literal["mean", "min", "trimmed"] = "mean",
    allow_silence: bool = False,
    speech_only: bool = False,
    cpu: bool = False,
) -> dict[str, Any]:
    """Score single recordings of any length, window by window, and give a verdict.

    The score is the log-likelihood ratio of bona fide against spoof, pooled over windows of the
    detector's length. Without a threshold there is no verdict. Another process decodes the files,
    within limits.

    ``slslib detect`` can also write and draw the result: :func:`slsapp.detections.detect`.

    Args:
        files: Recordings, or folders of them.
        checkpoint: safetensors or .pth file, run folder, hub:owner/name[/file][@revision], mini, or
            .onnx file of slslib export, which is scored on the CPU without PyTorch. From Python,
            also a detector that Detector.load returned, on the device where it is.
        threshold: Scores above it are called bona fide. It is a number, or a file that slslib
            threshold wrote. The default is such a file beside the checkpoint, else the checkpoint's
            own development threshold (not with hop, pool, allow_silence or speech_only, which
            change the scores), else none.
        hop: Seconds from one window to the next; default the window's length.
        pool: The recording's score is the mean of the windows' scores, the lowest, or the mean
            without the lowest and highest fifth.
        allow_silence: Score silent and very short recordings too.
        speech_only: Leave out windows with less than 0.25 s of speech, by Silero VAD (the extra
            speech), whatever else they hold; a recording of only such windows has no score.
        cpu: Use the CPU even if there is a GPU.

    Returns:
        A dictionary with these entries.

        * ``checkpoint``, ``checkpoint_sha256``, ``threshold``, ``threshold_source``, ``meaning``
          (of a score without a threshold), ``window_s``, ``hop_s`` (null: the window), ``pool``,
          ``allow_silence``, ``speech_only``; ``errors`` and ``warnings`` (texts).
        * ``files``: for each file its ``file``, ``llr``, ``verdict``, ``lowest_llr`` (of a window),
          ``n_silent`` (windows left out because all their samples are equal), ``n_speech_free``
          (windows left out because they hold other sound than speech; null: not asked for),
          ``duration_s``, ``source_rate``, ``channels``, ``resampled`` (to 16 kHz), ``averaged`` (to
          one channel), ``over_range`` (samples of FLAC), ``states_length`` (false: a cut copy
          cannot be told from a whole one), ``windows`` (``start_s``, ``llr``, null if left out) and
          ``error``.

    Raises:
        ConfigError: There is no file; the threshold is not finite, or was chosen for other scores;
            the pool or the hop is not possible; or options contradict each other.
        CheckpointError: The checkpoint cannot be read.
        AudioError: A folder holds no recordings. Errors of single files are in the result.
    """
    from slslib.data.audio import SAMPLE_RATE, Recording, is_silent, windows
    from slslib.data.isolate import blocks_isolated
    from slslib.data.speech import SPEECH_S, speech_s
    from slslib.runs import processes

    if allow_silence and speech_only:
        raise ConfigError("--allow-silence scores what --speech-only leaves out: choose one")
    recordings = listed(files)
    if pool not in _POOLS:
        raise ConfigError(f"pool {pool!r}: it must be one of {', '.join(_POOLS)}")
    score, n_samples, metadata, (name, path, digest) = _open(checkpoint, cpu)
    n_hop = n_samples if hop is None else np.rint(hop * SAMPLE_RATE)
    if not 0 < n_hop <= n_samples:
        raise ConfigError(f"hop {hop} s: it must lie in (0, {n_samples / SAMPLE_RATE:g}]")
    scores = {"checkpoint_sha256": digest, "hop_s": hop, "pool": pool}
    scores |= {"allow_silence": allow_silence, "speech_only": speech_only}
    limit, source = _threshold(threshold, path, metadata, scores)
    recipe, eer, measured = str(metadata.get("recipe", "")), metadata.get("dev_eer_percent"), ""
    if isinstance(eer, int | float) and 0 <= eer <= 100 and re.fullmatch(r"[\w-]{1,40}", recipe):
        measured = _MEASURED.format(recipe, eer)
    rows: list[dict[str, Any]] = []
    for recording in processes.bar(recordings, desc="detect", delay=1, show=len(recordings) > 1):
        row: dict[str, Any] = {"file": str(recording), **dict.fromkeys(_UNKNOWN), "n_silent": 0}
        found, scored, n_free, row["error"] = Recording(str(recording)), [], 0, None
        how = {"allow_silence": allow_silence, "any_length": True}
        blocks = blocks_isolated(recording, found=found, **how)
        show = len(recordings) == 1 or sys.stderr.isatty()
        pieces = windows(blocks, n_samples, int(n_hop))
        shown = iter(processes.bar(pieces, desc=recording.name, delay=1, show=show))
        try:
            while batch := list(islice(shown, _BATCH)):
                samples = np.stack([window for _, window in batch])
                llrs = score(samples)
                if llrs.shape != (len(batch),) or not np.isfinite(llrs).all():
                    raise AudioError(f"{recording}: no finite score; use another checkpoint")
                silent = is_silent(samples) & (not allow_silence)
                row["n_silent"] += int(silent.sum())
                left_out = silent | (speech_s(samples) < SPEECH_S) if speech_only else silent
                n_free += int((left_out & ~silent).sum())
                for (start, _), llr, is_out in zip(batch, llrs.tolist(), left_out, strict=True):
                    scored.append({"start_s": start, "llr": None if is_out else llr})
            heard = [window["llr"] for window in scored if window["llr"] is not None]
            if not heard:
                raise AudioError(f"{recording}: {_SPEECH_FREE.format(len(scored))}")
            row |= {"llr": float(_POOLS[pool](np.array(heard))), "lowest_llr": min(heard)}
            if limit is not None:
                row["verdict"] = "bona fide" if row["llr"] > limit else "spoof"
        except AudioError as error:
            scored, row["error"] = [], str(error)
        row["n_speech_free"] = n_free if speech_only else None
        row |= {key: vars(found)[key] for key in _FOUND}
        row["duration_s"] = found.n_source_frames / max(1, found.source_rate)
        row["resampled"] = found.source_rate not in (0, SAMPLE_RATE)
        row |= {"averaged": found.channels > 1, "windows": scored}
        rows.append(row)
    made: dict[str, Any] = {"checkpoint": name, **scores, "threshold": limit}
    made |= {"threshold_source": source, "meaning": None, "window_s": n_samples / SAMPLE_RATE}
    if limit is None:
        made["meaning"] = _MEANING.format(measured)
    made |= {"files": rows, "errors": [row["error"] for row in rows if row["error"]]}
    made["warnings"] = [_MINI] if _is_mini(metadata) else [_ELSEWHERE] * (source == _TRAINED)
    done = [row for row in rows if not row["error"]]
    if n_short := sum(row["duration_s"] < 0.5 for row in done):
        made["warnings"].append(_SHORT.format(n_short, len(rows)))
    if n_unstated := sum(not row["states_length"] for row in done):
        made["warnings"].append(_LENGTH.format(n_unstated, len(rows)))
    if n := sum(row["resampled"] or row["averaged"] for row in done):
        made["warnings"].append(f"resampled or averaged to mono: {n} of {len(rows)} recordings")
    return made


def listed(files: Any) -> list[Path]:
    """Return the recordings that ``files`` of :func:`detect` names, directly or by folders.

    Raises:
        ConfigError: There is none.
        AudioError: A folder holds no recordings.
    """
    from slslib.data.audio import list_recordings

    given = [*files] if isinstance(files, Iterable) and not isinstance(files, str) else [files]
    if not all(isinstance(one, str | Path) for one in given):
        raise ConfigError("detect takes names of files; for an array, call the llr of a Detector")
    # Path.is_dir() raises an error for a name that is too long.
    found = [list_recordings(p) if os.path.isdir(p) else [Path(p)] for p in given]  # noqa: PTH112
    if not found:
        raise ConfigError("nothing to score: name recordings, or folders of them")
    return [*chain(*found)]


def _open(checkpoint: Any, cpu: bool) -> tuple[Any, ...]:
    """Load a checkpoint, unless it is loaded already.

    Returns:
        What scores a batch of windows; their length; the metadata; name, file and SHA-256.
    """
    name = str(checkpoint) if isinstance(checkpoint, str | Path) else ""
    if name.endswith(".onnx"):
        from slslib.model.onnx import OnnxDetector

        exported, source = OnnxDetector(name), (name, Path(name), sha256(name))
        return exported.llr, exported.n_samples, exported.metadata, source
    import torch

    from slslib.model.detector import Detector
    from slslib.runs import processes

    detector = Detector.load(name).to(processes.start(cpu=cpu).device) if name else checkpoint
    if not getattr(detector, "name", "") or detector.training:
        raise ConfigError("detect takes a detector as Detector.load returns it: save it, load it")

    def score(samples: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), processes.deterministic(tf32=False):
            return detector.llr(torch.from_numpy(samples).to(detector.device)).cpu().numpy()

    return score, detector.config.n_samples, detector.metadata, detector.source


def _is_mini(metadata: dict[str, Any]) -> bool:
    """Tell whether these are the packaged weights, under any name and in any format."""
    with (Path(__file__).parents[1] / "model/weights/mini_detector.safetensors").open("rb") as f:
        about = json.loads(f.read(int.from_bytes(f.read(8), "little")))["__metadata__"]["slslib"]
    return metadata.get("train_loss") == json.loads(about)["metadata"]["train_loss"]


def _threshold(
    given: Any, checkpoint: Path, metadata: dict[str, Any], scores: dict[str, Any]
) -> tuple[float | None, str]:
    """Return the threshold and its source; refuse one that was chosen for other scores."""
    beside = checkpoint.with_name(f"{checkpoint.name}.threshold.json")
    given, source = beside if given is None and beside.is_file() else given, "given"
    if isinstance(given, str | Path):
        try:
            stored = {**json.loads(Path(given).read_text(encoding="utf-8"))}
        except (OSError, ValueError, TypeError, RecursionError) as error:
            why = getattr(error, "strerror", None) or error
            text = f"{given} is neither a number nor a file that slslib threshold wrote ({why})"
            raise ConfigError(text) from error
        for key, value in scores.items():
            if (other := stored.get(key, _USUAL.get(key))) != value:
                was, now = ("unset" if x is None else f"{x!r:.70}" for x in (other, value))
                what = f"{given} was chosen for {key} {was}, and these scores have {now}"
                raise ConfigError(f"{what}; choose one for them (slslib threshold, --threshold)")
        given, source = stored.get("threshold", ""), str(given)
    elif given is None:
        given, source = metadata.get("dev_eer_threshold"), _TRAINED
        if given is None or scores != scores | _USUAL:
            return None, "none"
    if type(given) is bool or not isinstance(given, int | float) or not abs(given) < 1e308:
        raise ConfigError(f"the threshold {given!r:.70} ({source}) is no number; give --threshold")
    return given, source
