"""Score a corpus: one line per trial, complete or not there at all.

The trials are cut into fixed chunks in the order of the protocol. A chunk is scored as a whole,
in batches that never straddle its borders, and written to its own file under ``<out>.parts/``
(temporary name, flush to disk, rename). When all are there they are joined to the score file,
beside it a ``<out>.json`` that says how it was made. So a killed run goes on where it was, to the
same bytes (same machine, settings and number of processes), and several processes (``accelerate
launch``) share the chunks without any other agreement.

A score file has lines ``utterance score``. The score is the log-likelihood ratio
``log p(bona fide) - log p(spoof)``, or ``log p(bona fide)`` where that is asked for, as the
original writes it; ``repr`` makes the reading exact.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout

from slslib.data.corpora import Corpus
from slslib.data.scorefiles import format_score
from slslib.errors import ConfigError, ScoreError
from slslib.files import sha256, write_text
from slslib.model.checkpoints import locate
from slslib.model.detector import Detector
from slslib.model.geometry import Attention
from slslib.runs import processes
from slslib.runs.clips import Clip, TrialDataset, cut, load_batches, stack
from slslib.runs.recipes import Precision


@dataclass(frozen=True)
class ScoreConfig:
    """Settings that determine the bytes of a score file."""

    score: Literal["llr", "logp"] = "llr"
    """llr: log p(bona fide) - log p(spoof); logp: log p(bona fide), as the original writes."""
    batch_size: int = 8
    """Trials per forward pass."""
    chunk: int = 512
    """Trials that are written together, and lost together when the run is killed."""
    on_error: Literal["stop", "record"] = "stop"
    """stop at the first unreadable recording, or record it in <out>.failures.csv and go on."""
    allow_silence: bool = False
    """Score silent and very short recordings too."""
    precision: Precision = "no"
    """Mixed precision: no or bf16."""
    attention: Attention = "eager"
    """Attention kernel: eager (exact) or sdpa (faster)."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.chunk < 1:
            raise ConfigError(
                f"batch_size {self.batch_size} and chunk {self.chunk} must be at least 1"
            )


def score(
    checkpoint: str | Path,
    corpus: Corpus,
    out: str | Path,
    config: ScoreConfig | None = None,
    *,
    workers: int = 0,
    cpu: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Score every trial of a corpus and return how it was done.

    Args:
        checkpoint: File, run folder or ``hub:owner/name[/file][@revision]``.
        corpus: The trials.
        out: Score file to write.
        config: Settings.
        workers: Processes that decode; no influence on the result.
        cpu: Use the CPU even where there is a GPU.
        progress: Show a progress bar on standard error.

    Returns:
        The provenance that is also written to ``<out>.json``: hashes, settings, versions, counts
        of decoders, of over-range and of converted files, number of failures.

    Raises:
        AudioError: A recording cannot be read (unless ``on_error="record"``).
        CheckpointError: The checkpoint cannot be read.
        ScoreError: ``out`` exists or is being written, or a resume does not match it.
    """
    config = config or ScoreConfig()
    out = Path(out)
    path = locate(checkpoint)
    accelerator = processes.start(config.precision, cpu=cpu)
    fingerprint = _fingerprint(path, corpus, config, accelerator)
    done = _already_done(out, fingerprint)
    parts = _beside(out, ".parts")
    if done is not None:
        shutil.rmtree(parts, ignore_errors=True)  # of a run killed just after its last step
        return done
    chunks = cut(range(len(corpus)), config.chunk)
    made: dict[str, Any] = {}
    with _lock(parts) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            _check_fingerprint(parts, fingerprint)
        accelerator.wait_for_everyone()
        # The same bytes again need the same convolution algorithms again.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
            _score_chunks(path, corpus, config, accelerator, parts, chunks, workers, progress)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            made = _join(out, parts, len(chunks), fingerprint)
            shutil.rmtree(parts)
        accelerator.wait_for_everyone()
    return made


def _score_chunks(
    path: Path, corpus: Corpus, config: ScoreConfig, accelerator: Accelerator, parts: Path,
    chunks: list[Sequence[int]], workers: int, progress: bool,
) -> None:  # fmt: skip
    """Score this process's share of the chunks that are not there yet."""
    mine = range(accelerator.process_index, len(chunks), accelerator.num_processes)
    todo = [i for i in mine if not _part(parts, i).exists()]
    if not todo:
        return
    detector = Detector.load(path, attention=config.attention).to(accelerator.device)
    dataset = TrialDataset(
        corpus, n_samples=detector.config.n_samples, allow_silence=config.allow_silence
    )
    batches = {i: cut(chunks[i], config.batch_size) for i in todo}
    clips = load_batches(dataset, [b for cuts in batches.values() for b in cuts], workers=workers)
    total = sum(len(chunks[i]) for i in mine)
    done = total - sum(len(chunks[i]) for i in todo)
    with processes.bar(total=total, initial=done, unit="trial", desc="score", show=progress) as bar:
        for i in todo:
            lines: list[tuple[str, str]] = []
            seen: list[Clip] = []
            for _ in batches[i]:
                batch = next(clips)
                lines += score_batch(detector, batch, config, accelerator)
                seen += batch
                bar.update(len(batch))
            write_text(_part(parts, i), json.dumps(_summary(lines, seen)))


@torch.inference_mode()
def score_batch(
    detector: Detector, clips: list[Clip], config: ScoreConfig, accelerator: Accelerator
) -> list[tuple[str, str]]:
    """Return ``(utterance, score)`` of each readable clip of one batch.

    Raises:
        AudioError: A clip is unreadable (unless ``on_error="record"``).
        ScoreError: A score is not finite.
    """
    if config.on_error == "record":
        clips = [clip for clip in clips if clip.error is None]
    if not clips:
        return []
    waveforms, _ = stack(clips)
    with accelerator.autocast():
        logits = detector.logits(waveforms.to(accelerator.device))
    if config.score == "llr":
        values = detector.llr_of(logits)
    else:
        values = logits.float().log_softmax(dim=1)[:, 1]
    if not bool(torch.isfinite(values).all()):
        names = ", ".join(clip.utterance for clip in clips)
        raise ScoreError(
            f"the network gives a score that is not finite for one of {names}; use --precision no "
            "or another checkpoint"
        )
    return [
        (clip.utterance, format_score(value))
        for clip, value in zip(clips, values.tolist(), strict=True)
    ]


def _summary(lines: list[tuple[str, str]], clips: list[Clip]) -> dict[str, Any]:
    sound = [clip for clip in clips if clip.error is None]
    return {
        "scores": lines,
        "failures": [(c.utterance, str(c.error)) for c in clips if c.error is not None],
        "decoders": Counter(clip.decoder for clip in sound),
        "over_range": sum(clip.over_range for clip in sound),
        "converted": sum(clip.converted for clip in sound),
    }


def _join(out: Path, parts: Path, n_chunks: int, fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Write failures, provenance and, last, the score file."""
    made_of = [json.loads(_part(parts, i).read_text()) for i in range(n_chunks)]
    lines = [f"{utterance} {value}\n" for part in made_of for utterance, value in part["scores"]]
    failures = [failure for part in made_of for failure in part["failures"]]
    text = "".join(lines)
    failed = _beside(out, ".failures.csv")
    if failures:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([("utterance", "error"), *failures])
        write_text(failed, table.getvalue())
    else:
        failed.unlink(missing_ok=True)
    made = {
        **fingerprint,
        "scores_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "n_scores": len(lines),
        "n_failures": len(failures),
        "decoders": dict(sum((Counter(part["decoders"]) for part in made_of), Counter())),
        "n_over_range": sum(part["over_range"] for part in made_of),
        "n_converted": sum(part["converted"] for part in made_of),
    }
    write_text(_beside(out, ".json"), json.dumps(made, indent=1) + "\n")
    write_text(out, text)
    return made


def _fingerprint(
    path: Path, corpus: Corpus, config: ScoreConfig, accelerator: Accelerator
) -> dict[str, Any]:
    return {
        "checkpoint": path.name,
        "checkpoint_sha256": sha256(path),
        "corpus": corpus.name,
        "partition": corpus.partition,
        "protocol_sha256": corpus.protocol_sha256,
        "n_trials": len(corpus),
        "settings": asdict(config),
        **processes.about(accelerator),  # each may change the last bit
    }


def _already_done(out: Path, fingerprint: dict[str, Any]) -> dict[str, Any] | None:
    """Return the provenance of a finished, identical run; refuse to overwrite anything else."""
    if not out.exists():
        return None
    try:
        made: dict[str, Any] = json.loads(_beside(out, ".json").read_text())
        same = all(made.get(key) == value for key, value in fingerprint.items())
        if same and made["scores_sha256"] == sha256(out):
            return made
    except (OSError, ValueError, KeyError):
        pass
    raise ScoreError(
        f"{out} exists and was not written by this very run; remove it or choose another --out"
    )


def _check_fingerprint(parts: Path, fingerprint: dict[str, Any]) -> None:
    path = parts / "fingerprint.json"
    if not path.exists():
        write_text(path, json.dumps(fingerprint, indent=1) + "\n")
        return
    try:
        both = (json.loads(path.read_text()), fingerprint)
        before, now = ({**about, **about["settings"], "settings": None} for about in both)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScoreError(f"{path} is damaged: {error}; remove {parts} to start again") from error
    changed = [f"{k} {before.get(k)!r} -> {v!r}" for k, v in now.items() if before.get(k) != v]
    if changed:
        raise ScoreError(
            f"{parts} holds a run with other inputs or settings: {'; '.join(changed)}; resume with "
            "those, or remove the folder to start again"
        )


def _lock(parts: Path) -> AbstractContextManager[Any]:
    """Hold the folder of parts, which only one run may write, until the context is left."""
    try:
        parts.mkdir(parents=True, exist_ok=True)
        return FileLock(parts / "lock", timeout=0).acquire()
    except Timeout as error:
        raise ScoreError(
            f"{parts} is being written by another run; wait for it or choose another --out"
        ) from error
    except OSError as error:
        raise ScoreError(f"cannot write {parts}: {error}; choose another --out") from error


def _part(parts: Path, i: int) -> Path:
    return parts / f"{i:06d}.json"


def _beside(out: Path, suffix: str) -> Path:
    return out.with_name(out.name + suffix)
