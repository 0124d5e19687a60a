"""Score a corpus: one line per trial, complete or not there at all.

The trials are divided into fixed chunks in the order of the protocol. A chunk is scored as a whole,
in batches that never straddle its borders, and written to its own file under ``<out>.parts/``
(temporary name, flush to disk, rename). When all are there they are joined to the score file,
beside it a ``<out>.json`` that says how it was made. So a killed run goes on where it was, to the
same bytes (same machine, settings and number of processes), and several processes (``accelerate
launch``) share the chunks without any other agreement.

A score file has lines ``utterance score``. The score is the log-likelihood ratio
``log p(bona fide) - log p(spoof)``, or ``log p(bona fide)`` where that is asked for, as the
original writes it; ``repr`` makes the reading exact. PyTorch loads when a run starts, not before.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slslib.errors import ConfigError, ScoreError
from slslib.files import corpora_root, sha256, write_text
from slslib.model.geometry import Attention
from slslib.runs.recipes import Precision

if TYPE_CHECKING:
    from accelerate import Accelerator

    from slslib.data.corpora import Corpus
    from slslib.model.detector import Detector
    from slslib.runs.clips import Clip


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
        """Refuse sizes below one."""
        if self.batch_size < 1 or self.chunk < 1:
            raise ConfigError(
                f"batch_size {self.batch_size} and chunk {self.chunk} must be at least 1"
            )


def score(
    checkpoint: str,
    corpus: str,
    out: Path,
    *,
    data: str | Path | None = None,
    config: ScoreConfig = ScoreConfig(),
    workers: int = 0,
    cpu: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Score every trial of a corpus into a score file; a killed run goes on where it was.

    Example: slslib score --checkpoint runs/v1 --corpus asvspoof2021-df --data ~/corpora
    --out scores.txt

    Args:
        checkpoint: safetensors or .pth file, run folder, hub:owner/name[/file][@revision], or mini.
        corpus: asvspoof2019-la:eval, asvspoof2021-la, asvspoof2021-df, in-the-wild, or a folder.
        out: Score file to write; beside it <out>.json says how it was made.
        data: Folder that holds the corpora; default SLSLIB_DATA.
        config: Settings that determine the bytes of the score file.
        workers: Processes that decode; no influence on the result.
        cpu: Use the CPU even where there is a GPU.
        progress: Show a progress bar on standard error.

    Returns:
        The provenance that is also written to ``<out>.json``: hashes, settings, versions, counts
        of decoders, of over-range and of converted files, number of failures; and ``errors`` where
        there are failures. Of several processes the first alone returns it, the others nothing.

    Raises:
        AudioError: A recording cannot be read (unless ``on_error="record"``).
        CheckpointError: The checkpoint cannot be read.
        FileError: A file cannot be written.
        ScoreError: ``out`` exists or is being written, or a resume does not match it.
    """
    import torch

    from slslib.data.corpora import open_corpus
    from slslib.model.checkpoints import locate
    from slslib.runs import processes
    from slslib.runs.clips import batched

    out = Path(out)
    trials = open_corpus(corpus, corpora_root(data))
    path = locate(checkpoint)
    accelerator = processes.start(config.precision, cpu=cpu)
    fingerprint = {
        "checkpoint": path.name,
        "checkpoint_sha256": sha256(path),
        "corpus": trials.name,
        "partition": trials.partition,
        "protocol_sha256": trials.protocol_sha256,
        "n_trials": len(trials),
        "settings": asdict(config),
        **processes.environment(accelerator),  # each may change the last bit
    }
    parts = _beside(out, ".parts")
    if out.exists():
        made = _finished(out, fingerprint)
        shutil.rmtree(parts, ignore_errors=True)  # of a run killed just after its last step
        return made
    chunks = batched(range(len(trials)), config.chunk)
    files = [parts / f"{i:06d}.json" for i in range(len(chunks))]
    made = {}
    with _lock(parts) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            _check_fingerprint(parts / "fingerprint.json", fingerprint)
        accelerator.wait_for_everyone()
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        todo = {
            file: batched(chunk, config.batch_size)
            for file, chunk in zip(files[mine], chunks[mine], strict=True)
            if not file.exists()
        }
        # The same bytes again need the same convolution algorithms again.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
            _score_chunks(path, trials, config, accelerator, todo, workers, progress)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            made = _join(out, files, fingerprint)
            shutil.rmtree(parts)
        accelerator.wait_for_everyone()
    return made


def _score_chunks(
    path: Path,
    corpus: Corpus,
    config: ScoreConfig,
    accelerator: Accelerator,
    todo: dict[Path, list[Sequence[int]]],
    workers: int,
    progress: bool,
) -> None:
    """Score chunks, given as batches of indices, each into its file."""
    from slslib.model.detector import Detector
    from slslib.runs import processes
    from slslib.runs.clips import TrialDataset, load_batches

    if not todo:
        return
    detector = Detector.load(path, attention=config.attention).to(accelerator.device)
    dataset = TrialDataset(
        corpus, n_samples=detector.config.n_samples, allow_silence=config.allow_silence
    )
    batches = [batch for chunk in todo.values() for batch in chunk]
    loaded = load_batches(dataset, batches, workers=workers)
    with processes.bar(
        total=sum(map(len, batches)), unit="trial", desc="score", show=progress
    ) as bar:
        for file, chunk in todo.items():
            scores: list[tuple[str, str]] = []
            clips: list[Clip] = []
            for batch in islice(loaded, len(chunk)):
                scores += score_batch(detector, batch, config, accelerator)
                clips += batch
                bar.update(len(batch))
            sound = [clip for clip in clips if clip.error is None]
            part = {
                "scores": scores,
                "failures": [(c.utterance, str(c.error)) for c in clips if c.error is not None],
                "decoders": Counter(clip.decoder for clip in sound),
                "over_range": sum(clip.over_range for clip in sound),
                "converted": sum(clip.converted for clip in sound),
            }
            write_text(file, json.dumps(part))


def score_batch(
    detector: Detector, clips: list[Clip], config: ScoreConfig, accelerator: Accelerator
) -> list[tuple[str, str]]:
    """Return ``(utterance, score)`` of each readable clip of one batch.

    Raises:
        AudioError: A clip is unreadable (unless ``on_error="record"``).
        ScoreError: A score is not finite.
    """
    import torch

    from slslib.data.scorefiles import format_score
    from slslib.runs.clips import stack

    if config.on_error == "record":
        clips = [clip for clip in clips if clip.error is None]
    if not clips:
        return []
    waveforms, _ = stack(clips)
    with torch.inference_mode():
        with accelerator.autocast():
            logits = detector.logits(waveforms.to(accelerator.device))
        if config.score == "llr":
            scores = detector.llr_of(logits).tolist()
        else:
            scores = logits.float().log_softmax(dim=1)[:, 1].tolist()
    utterances = [clip.utterance for clip in clips]
    if not all(map(math.isfinite, scores)):
        raise ScoreError(
            f"the network gives a score that is not finite for one of {', '.join(utterances)}; use "
            "--precision no or another checkpoint"
        )
    return list(zip(utterances, map(format_score, scores), strict=True))


def _join(out: Path, files: list[Path], fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Write failures, provenance and, last, the score file."""
    parts = [json.loads(file.read_text()) for file in files]
    text = "".join(f"{utterance} {value}\n" for p in parts for utterance, value in p["scores"])
    failures = [failure for part in parts for failure in part["failures"]]
    if failures:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([("utterance", "error"), *failures])
        write_text(_beside(out, ".failures.csv"), table.getvalue())
    else:
        _beside(out, ".failures.csv").unlink(missing_ok=True)
    made = {
        **fingerprint,
        "scores_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "n_scores": sum(len(part["scores"]) for part in parts),
        "n_failures": len(failures),
        "decoders": dict(sum((Counter(part["decoders"]) for part in parts), Counter())),
        "n_over_range": sum(part["over_range"] for part in parts),
        "n_converted": sum(part["converted"] for part in parts),
    }
    write_text(_beside(out, ".json"), json.dumps(made, indent=1) + "\n")
    write_text(out, text)
    return _with_errors(made, out)


def _with_errors(made: dict[str, Any], out: Path) -> dict[str, Any]:
    if not made["n_failures"]:
        return made
    what = f"{made['n_failures']} recordings could not be read and have no score"
    return made | {"errors": [f"{what}; {_beside(out, '.failures.csv')} names them"]}


def _finished(out: Path, fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Return what a finished, identical run made; refuse to overwrite anything else."""
    try:
        made: dict[str, Any] = json.loads(_beside(out, ".json").read_text())
        if made == made | fingerprint and made["scores_sha256"] == sha256(out):
            return _with_errors(made, out)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ScoreError(
        f"{out} exists and was not written by this very run; remove it or choose another --out"
    )


def _check_fingerprint(file: Path, fingerprint: dict[str, Any]) -> None:
    """Refuse to go on with parts that were made of other inputs or with other settings."""
    if not file.exists():
        write_text(file, json.dumps(fingerprint, indent=1) + "\n")
        return
    try:
        began = json.loads(file.read_text())
        then, now = ({**f, **f["settings"], "settings": None} for f in (began, fingerprint))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScoreError(
            f"{file} is damaged: {error}; remove {file.parent} to start again"
        ) from error
    changed = [f"{k} {then.get(k)!r} -> {v!r}" for k, v in now.items() if then.get(k) != v]
    if changed:
        raise ScoreError(
            f"{file.parent} holds a run with other inputs or settings: {'; '.join(changed)}; "
            "resume with those, or remove the folder to start again"
        )


def _lock(parts: Path) -> AbstractContextManager[Any]:
    """Hold the folder of parts, which only one run may write, until the context is left."""
    from filelock import FileLock, Timeout

    try:
        parts.mkdir(parents=True, exist_ok=True)
        return FileLock(parts / "lock", timeout=0).acquire()
    except Timeout as error:
        raise ScoreError(
            f"{parts} is being written by another run; wait for it or choose another --out"
        ) from error
    except OSError as error:
        raise ScoreError(f"cannot write {parts}: {error}; choose another --out") from error


def _beside(out: Path, suffix: str) -> Path:
    return out.with_name(out.name + suffix)
