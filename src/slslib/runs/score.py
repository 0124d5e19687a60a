"""Score a corpus: a score file holds every trial, or it does not exist.

The trials are divided into fixed chunks in the order of the protocol. A chunk is scored as a whole,
in batches that never straddle its borders, and written to its own file under ``<out>.parts/``
(temporary name, flush to disk, rename). When all parts are there, they are joined into the score
file, and ``<out>.json`` says how it was made. So a killed run continues where it stopped and gives
the same bytes (on the same machine, with the same settings and number of processes). Several
processes (``accelerate launch``) can share the chunks without other coordination. The sizes of the
recordings stand for their content, because hashing them would take as long as the run. Recordings
that were replaced are scored again.

A score file has lines ``utterance score``. The score is the log-likelihood ratio
``log p(bona fide) - log p(spoof)`` or, if asked for, ``log p(bona fide)``, which the original
writes. Scores are written by ``repr``, so reading them is exact. PyTorch is loaded only when a run
starts.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slslib.errors import ConfigError, ScoreError
from slslib.files import check_same, lock, sha256, sha256_of, write_json, write_text
from slslib.runs.recipes import WORKERS, check_values

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from slslib.model.detector import Detector
    from slslib.runs.clips import Clip, TrialDataset

_BF16_UNITS = ("avx512_bf16", "amx_bf16", "bf16")  # as PyTorch names them on x86 and Arm
_WIDE = 512  # least width of a backbone for which they pay
_N_TRIED = 8  # clips scored both ways


@dataclass(frozen=True)
class ScoreConfig:
    """Settings that determine the bytes of a score file."""

    score: Literal["llr", "logp"] = "llr"
    """llr: log p(bona fide) - log p(spoof); logp: log p(bona fide), which the original writes."""
    batch_size: int | None = None
    """Trials per forward pass; default 8 on a CPU, on a GPU what fits its memory, at most 64."""
    chunk: int = 512
    """Trials that are written together, and lost together if the run is killed."""
    on_error: Literal["stop", "record"] = "stop"
    """stop at the first unreadable recording, or record it in <out>.failures.csv and go on. A run
    that stopped goes on where it was if it is started again with record."""
    allow_silence: bool = False
    """Score silent and very short recordings too."""
    precision: Literal["auto", "exact", "bf16"] = "auto"
    """exact computes in 32 bits; bf16 rounds products; auto rounds them if that is faster and
    changes the first scores by less than a twentieth of their spread."""

    def __post_init__(self) -> None:
        """Refuse words that are not known, and sizes below one."""
        check_values(self)


def score(
    checkpoint: str,
    corpus: str,
    out: Path,
    *,
    data: str | Path | None = None,
    config: ScoreConfig = ScoreConfig(),
    workers: int = WORKERS,
    cpu: bool = False,
    progress: bool = True,
    detector_class: type[Any] | None = None,
) -> dict[str, Any]:
    """Score every trial of a corpus into a score file; a killed run resumes where it stopped.

    Example: slslib score --checkpoint runs/v1 --corpus asvspoof2021-df --data ~/corpora
    --out scores.txt

    Args:
        checkpoint: safetensors or .pth file, run folder, hub:owner/name[/file][@revision], or mini.
        corpus: asvspoof2019-la:eval, asvspoof2021-la, asvspoof2021-df, asvspoof5:eval, in-the-wild,
            or a folder.
        out: Score file to write; beside it <out>.json says how it was made.
        data: Folder that holds the corpora; default SLSLIB_DATA.
        config: Settings that determine the bytes of the score file.
        workers: Processes that decode; their number does not change the result. A recording that
            crashes a process or never ends is a failed trial; with 0 it would end the run.
        cpu: Use the CPU even if there is a GPU.
        progress: Show a progress bar on standard error; --no-progress shows none.
        detector_class: A subclass of Detector with another head; only from Python.

    Returns:
        The record that is also written to ``<out>.json``. It has hashes, settings, versions, and
        the numbers of files by decoder, of over-range files, of converted files and of failures;
        and ``errors`` if there are failures. If there are several processes, only the first returns
        it.

    Raises:
        AudioError: A recording cannot be read (unless ``on_error="record"``).
        CheckpointError: The checkpoint cannot be read.
        FileError: A file cannot be written.
        ScoreError: ``out`` exists, or a score is not finite.
        ConfigError: ``out`` is being written, or its parts are of another run.
    """
    import torch

    from slslib.data.corpora import LAYOUTS, open_corpus
    from slslib.model.checkpoints import locate
    from slslib.model.detector import Detector
    from slslib.runs import processes
    from slslib.runs.clips import TrialDataset, batched, describe, load_batches, sizes

    opened, path = open_corpus(corpus, data), locate(checkpoint)
    load = (detector_class or Detector).load
    accelerator = processes.start(cpu=cpu)
    size = config.batch_size or 8
    if accelerator.device.type == "cuda" and not config.batch_size:
        # XLS-R's weights take 1.3 GB, a clip 0.1 GB, by arithmetic.
        size = max(1, min(64, torch.cuda.mem_get_info()[1] // 125_000_000 - 24))
    config = replace(config, batch_size=size)
    fingerprint = {
        "checkpoint": path.name,
        "checkpoint_sha256": sha256(path),
        **describe(opened),
        "settings": asdict(config),
        **processes.environment(accelerator),  # each may change the last bit
    }
    # Parts without a failure are the same whatever a failure does, so a run may go on either way.
    same = fingerprint | {"settings": asdict(replace(config, on_error="stop"))}
    out, parts, began = Path(out), Path(f"{out}.parts"), Path(f"{out}.parts/fingerprint.json")
    settled = parts / "precision.json"
    # <out>.failures.csv must be a possible name too, and no protocol of a folder of recordings.
    there = opened.protocol if opened.protocol.is_dir() else opened.protocol.parent
    if len(os.fsencode(out.name)) > 240 or (out.exists() and not out.is_file()):
        raise ConfigError(f"--out {out} is no file, or its name is too long; choose another name")
    if opened.name not in LAYOUTS and out.parent.resolve() == there.resolve():
        raise ConfigError(f"--out {out}: taken for a protocol of {opened.name}; move it out")
    if out.exists():
        with suppress(ConfigError):
            now = {"scores_sha256": sha256(out), "sizes_sha256": sha256_of(sizes(opened))}
            made = check_same(Path(f"{out}.json"), fingerprint | now)
            shutil.rmtree(parts, ignore_errors=True)  # of a run killed just after its last step
            return made
        raise ScoreError(f"{out} exists and was not written by this very run; remove or rename it")
    held = lock(parts) if accelerator.is_main_process else nullcontext()
    # To give the same bytes again, the convolutions must use the same algorithms again.
    with held, processes.deterministic(tf32=False):
        with accelerator.main_process_first():
            if not began.exists():
                write_json(began, same)
            check_same(began, same)
            detector = load(path).to(accelerator.device)
            n_samples = detector.config.n_samples
            dataset = TrialDataset(opened, n_samples=n_samples, allow_silence=config.allow_silence)
            chosen: dict[str, Any] = {"precision": config.precision}
            if config.precision == "auto":
                if not settled.exists():
                    write_json(settled, settle(detector, dataset, config, workers))
                    detector = load(path).to(accelerator.device)  # settle may round it
                chosen = json.loads(settled.read_text())
            if chosen["precision"] == "bf16":
                detector.backbone.to_bf16()
        chunks = batched(range(len(opened)), config.chunk)
        files = [parts / f"{i:06d}.json" for i in range(len(chunks))]
        my_share = slice(accelerator.process_index, None, accelerator.num_processes)
        mine = list(zip(files, chunks, strict=True))[my_share]
        # A part is scored again if it may not stay, or if its recordings were replaced since.
        kept = {f for f, c in mine if f.exists() and _sizes_of(f, config) == sizes(opened, c)}
        todo = [(file, batched(chunk, size)) for file, chunk in mine if file not in kept]
        batches = [batch for _, chunk in todo for batch in chunk]
        loaded = load_batches(dataset, batches, workers=workers)
        bar = iter(processes.bar(loaded, desc="score", show=progress, total=len(batches)))
        for file, chunk in todo:
            rows: list[dict[str, Any]] = []
            scores = []  # on the device, which runs ahead because scores are read chunk by chunk
            for batch, clips in zip(chunk, bar, strict=False):  # the bar has all chunks' clips
                scores.append(score_batch(detector, clips, config))
                for clip, n_bytes in zip(clips, sizes(opened, batch), strict=True):
                    rows.append(vars(clip) | {"waveform": None, "size": n_bytes})
            values = iter(torch.cat(scores).tolist())
            for row in rows:
                row["score"] = None if row["error"] else next(values)
                if not math.isfinite(row["score"] or 0):
                    remedy = "use --precision exact or another checkpoint"
                    raise ScoreError(f"{row['utterance']}: no finite score; {remedy}")
            write_json(file, rows)
        accelerator.wait_for_everyone()
        made = _join(out, files, fingerprint | chosen) if accelerator.is_main_process else {}
        accelerator.wait_for_everyone()
    return made


def score_batch(
    detector: Detector, clips: list[Clip], config: ScoreConfig
) -> Float[Tensor, readable]:
    """Return the scores of the readable clips of a batch, on the detector's device.

    Raises:
        AudioError: A clip is unreadable (unless ``on_error="record"``).
    """
    import torch

    from slslib.runs.clips import stack

    if config.on_error == "record":
        clips = [clip for clip in clips if not clip.error]
    if not clips:
        return torch.empty(0, dtype=torch.float64, device=detector.device)
    with torch.inference_mode():
        logits = detector.logits(stack(clips, detector.device)[0])
        if config.score == "llr":
            return detector.llr_of(logits)
        return logits.log_softmax(dim=1)[:, 1].double()


def settle(
    detector: Detector, dataset: TrialDataset, config: ScoreConfig, workers: int
) -> dict[str, Any]:
    """Choose between exact products and bfloat16, as ``--precision auto`` asks.

    If the device has units for bfloat16 and the model is not small, the first recordings are scored
    both ways. bfloat16 is chosen if it changes their scores, on average, by less than a twentieth
    of their spread: as noise, that adds less than half a percent to their variance.

    Returns:
        ``precision``, which is ``"exact"`` or ``"bf16"``. If both were tried, also the mean and the
        largest absolute difference of the scores, and their standard deviation. The detector's
        weights may be left in bfloat16.
    """
    import torch

    from slslib.runs.clips import load_batches

    if detector.device.type == "cuda":
        has_units = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_units = any(torch.cpu.get_capabilities().get(name) for name in _BF16_UNITS)
    clips: list[Clip] = []
    if has_units and detector.config.backbone.width >= _WIDE:
        first = list(range(min(_N_TRIED, len(dataset))))
        clips = [c for c in next(load_batches(dataset, [first], workers=workers)) if not c.error]
    if len(clips) < 2:  # their scores would have no spread
        return {"precision": "exact"}
    exact = score_batch(detector, clips, config)
    detector.backbone.to_bf16()
    drift, spread = (score_batch(detector, clips, config) - exact).abs(), exact.std()
    facts = {"mean_drift": drift.mean(), "largest_drift": drift.max(), "spread": spread}
    precision = "bf16" if drift.mean() < spread / 20 else "exact"
    return {"precision": precision, **{name: float(value) for name, value in facts.items()}}


def _join(out: Path, files: list[Path], fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Write failures, the record of the run and the score file; then remove the parts."""
    import pandas as pd

    from slslib.data.protocols import separator
    from slslib.data.scorefiles import format_score

    table = pd.DataFrame([row for file in files for row in json.loads(file.read_text())])
    failed, sound = table[table["score"].isna()], table[table["score"].notna()]
    written = sound["score"].map(format_score)
    text = "".join(sound["utterance"] + separator(sound["utterance"]) + written + "\n")
    made = {
        **fingerprint,
        "scores_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "sizes_sha256": sha256_of(table["size"].tolist()),
        "n_scores": len(sound),
        "n_failures": len(failed),
        "decoders": sound["decoder"].value_counts(sort=False).to_dict(),
        "n_over_range": int(sound["over_range"].sum()),
        "n_converted": int(sound["converted"].sum()),
    }
    failures = Path(f"{out}.failures.csv")
    failures.unlink(missing_ok=True)
    if len(failed):
        write_text(failures, failed[["utterance", "error"]].to_csv(index=False))
        what = f"of {len(table)} recordings, {len(failed)} could not be read and have no score"
        made["errors"] = [f"{what}; {failures} names them"]
    write_json(f"{out}.json", made)
    write_text(out, text)
    shutil.rmtree(f"{out}.parts", ignore_errors=True)
    return made


def _sizes_of(part: Path, config: ScoreConfig) -> list[int]:
    """Return the sizes of a part's recordings; none if it is damaged or its failures may not be."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        rows = json.loads(part.read_text())
        if config.on_error == "record" or not any(row["error"] for row in rows):
            return [row["size"] for row in rows]
    return []
