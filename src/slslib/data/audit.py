"""Audit a corpus before hours are spent on it.

Every file of a protocol, or every audio file of a folder, is decoded completely
(:func:`slslib.data.audio.audit`) in several processes. The result says what is missing, undecodable
or damaged, what is at another rate or has several channels (which is converted, not refused),
whether the FLAC MD5 holds, which decoder was needed, which files are over-range, which hold the
same audio and which no protocol names. A corpus is *sound* when no file is missing and every file
can be used.
"""

from __future__ import annotations

import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slslib.errors import AudioError, ConfigError
from slslib.files import corpora_root, write_json

if TYPE_CHECKING:
    from slslib.data.corpora import Corpus


def verify(
    corpus: str,
    *,
    data: str | Path | None = None,
    jobs: int | None = None,
    allow_silence: bool = False,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Decode every file of a corpus and report what is missing, damaged or odd.

    Example: slslib verify asvspoof2019-la:train --data ~/corpora

    Args:
        corpus: asvspoof2019-la[:train|dev|eval], asvspoof2021-la, asvspoof2021-df, in-the-wild, or
            a folder of audio, with or without protocols/.
        data: Folder that holds the corpora; default SLSLIB_DATA.
        jobs: Processes; default all cores.
        allow_silence: Accept silent and very short files.
        out: Write the report as JSON to this file too.

    Returns:
        What :func:`verify_corpus` returns, and ``errors``: one sentence if it is not sound. A
        folder without a protocol has its paths as names, and nothing can be missing from it.

    Raises:
        ProtocolError: The corpus or its protocol is absent or malformed.
        AudioError: A folder holds no audio.
        FileError: The report cannot be written.
    """
    import pandas as pd

    from slslib.data.audio import list_recordings
    from slslib.data.corpora import Corpus, open_corpus, partitions

    root = corpora_root(data)
    folder = next((path for path in (root / corpus, Path(corpus)) if path.is_dir()), None)
    parts = partitions(corpus, root)
    # 2021's partitions are phases of one list, which is opened whole.
    whole = ":" in Path(corpus).name or not parts or corpus.startswith("asvspoof2021")
    if folder and not parts:
        names = [path.relative_to(folder).as_posix() for path in list_recordings(folder)]
        trials = pd.DataFrame({"utterance": names})
        opened = [Corpus(str(folder), "-", trials, (folder,), folder, "")]
    else:
        specs = [corpus] if whole else [f"{corpus}:{part}" for part in parts]
        opened = [open_corpus(spec, root) for spec in specs]
    report = verify_corpus(opened, jobs, allow_silence=allow_silence)
    report["errors"] = []
    if not report["sound"]:
        count = f"{report['n_sound']:,} of {report['n_trials']:,} files can be used"
        report["errors"].append(f"{report['name']} is not sound: {count}; replace the others.")
    if out:
        write_json(out, report)
    return report


def verify_corpus(
    corpora: Sequence[Corpus], jobs: int | None = None, *, allow_silence: bool = False
) -> dict[str, Any]:
    """Audit the files of a corpus, given as its partitions.

    Args:
        corpora: What :func:`slslib.data.corpora.open_corpus` returned. Give all partitions that
            share a folder together, so that the files of one are not *extra* to another.
        jobs: Processes; by default one per core, and fewer where there are few files.
        allow_silence: Accept silent and very short files.

    Returns:
        ``sound``: whether there are trials, all with a usable file; ``name``; ``n_trials``: files
        that should be there; ``n_sound``: those that can be used; ``unusable``: why the others are
        not, by utterance; ``rates``, ``channels``, ``formats``, ``decoders``, ``md5``: number of
        files by value; ``other_rate``, ``multichannel``: utterances that are resampled or mixed
        down; ``over_range``: peak and number of samples of each over-range file (``None`` where
        the decoder wraps them); ``duplicates``: groups of utterances with equal samples;
        ``seconds``: ``min``, ``median``, ``max`` and ``total`` duration;
        ``missing``: utterances without a file; ``extra``: audio files that no protocol names;
        ``protocol_sha256``, by partition.

    What single files hold is reported, never raised.

    Raises:
        AudioError: A decoder crashed.
    """
    from joblib import Parallel, delayed
    from tqdm import tqdm

    from slslib.data.audio import SAMPLE_RATE, audit, list_recordings

    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs is {jobs}; give a positive number of processes")
    recordings: dict[str, Path] = {}
    missing: list[str] = []
    for corpus in corpora:
        for utterance in corpus.trials["utterance"]:
            try:
                recordings[utterance] = corpus.audio_path(utterance)
            except AudioError:
                missing.append(utterance)
    named = {path.absolute() for path in recordings.values()}
    extra: list[str] = []
    for folder in dict.fromkeys(folder for corpus in corpora for folder in corpus.audio_dirs):
        with suppress(AudioError):  # there is no recording at all
            extra += [str(p) for p in list_recordings(folder) if p.absolute() not in named]
    name = ", ".join(f"{one.name}:{one.partition}".removesuffix(":-") for one in corpora)
    # A process starts in the time that it needs for some 80 files.
    n_processes = jobs or min(os.cpu_count() or 1, len(recordings) // 100 + 1)
    one = delayed(audit)
    files = Parallel(n_processes, return_as="generator")(
        one(path, allow_silence=allow_silence) for path in recordings.values()
    )
    bar = tqdm(files, total=len(recordings), unit="file", desc="verify", disable=None)
    try:
        audited = dict(zip(recordings, bar, strict=True))
    except BrokenProcessPool as error:
        raise AudioError(f"{name}: a file crashed the decoder ({error}).") from error
    unusable = {u: a.problem for u, a in audited.items() if a.problem is not None}
    decoded = {u: a for u, a in audited.items() if a.n_source_frames}
    same = defaultdict(list)
    for utterance, a in decoded.items():
        if a.content:  # it was decoded to its end
            same[a.content].append(utterance)
    found = decoded.values()
    seconds = [a.n_source_frames / a.source_rate for a in found] or [0.0]
    counted = {
        "rates": [a.source_rate for a in found],
        "channels": [a.channels for a in found],
        "formats": [f"{a.format}/{a.subtype}" for a in found],
        "decoders": [a.decoder for a in found],
        "md5": [a.md5 for a in found if a.format == "FLAC"],
    }
    return {
        "sound": bool(recordings) and not (unusable or missing),
        "name": name,
        "n_trials": len(recordings) + len(missing),
        "n_sound": len(recordings) - len(unusable),
        "unusable": unusable,
        **{what: dict(Counter(values).most_common()) for what, values in counted.items()},
        "other_rate": [u for u, a in decoded.items() if a.source_rate != SAMPLE_RATE],
        "multichannel": [u for u, a in decoded.items() if a.channels > 1],
        "over_range": {
            u: {"peak": a.peak, "samples": a.over_range}
            for u, a in decoded.items()
            if a.over_range != 0 and a.problem is None
        },
        "duplicates": [utterances for utterances in same.values() if len(utterances) > 1],
        "seconds": {
            "min": min(seconds),
            "median": statistics.median(seconds),
            "max": max(seconds),
            "total": sum(seconds),
        },
        "missing": missing,
        "extra": extra,
        "protocol_sha256": {corpus.partition: corpus.protocol_sha256 for corpus in corpora},
    }
