"""Audit a corpus before hours are spent on it.

Every file of a protocol, or every audio file of a folder, is decoded completely
(:func:`slslib.data.audio.audit`) in several processes. The report says what is missing, undecodable
or damaged, what is at another rate or has several channels (which is converted, not refused),
whether the FLAC MD5 holds, which decoder was needed, which files are over-range, which hold the
same audio and which no protocol names. A corpus is *sound* when no file is missing and every file
can be used.
"""

from __future__ import annotations

import json
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from rich.table import Table
from rich.text import Text  # plain: names are no markup
from tqdm import tqdm

from slslib.data.audio import SAMPLE_RATE, FileAudit
from slslib.data.corpora import AUDIO_SUFFIXES, Corpus, open_corpus, partitions
from slslib.data.isolate import audit_isolated
from slslib.errors import AudioError, ConfigError

Key = TypeVar("Key", int, str)

_SHOWN = 5  # names shown of a long list


@dataclass(frozen=True)
class Report:
    """What an audit found. Names are utterances, or paths below the folder without a protocol.

    Attributes:
        name: The corpus, its partitions or the folder.
        n_trials: Files that should be there.
        n_sound: Files that can be used.
        unusable: Why each file that is there and cannot be used is so, by name.
        rates, channels, formats, decoders, md5: Number of files by value.
        other_rate, multichannel: Names of files that are resampled or mixed down.
        over_range: By name of each over-range file, its peak and number of over-range samples
            (``None`` where the decoder wraps them).
        duplicates: Groups of names whose decoded samples are equal.
        seconds: ``min``, ``median``, ``max`` and ``total`` duration (absent if nothing decoded).
        missing: Names of which no file is there.
        extra: Audio files in the corpus's folders that no protocol names.
        protocol_sha256: Of each protocol, by partition.
    """

    name: str
    n_trials: int
    n_sound: int
    unusable: dict[str, str]
    rates: dict[int, int]
    channels: dict[int, int]
    formats: dict[str, int]
    decoders: dict[str, int]
    md5: dict[str, int]
    other_rate: list[str]
    multichannel: list[str]
    over_range: dict[str, dict[str, float | None]]
    duplicates: list[list[str]]
    seconds: dict[str, float]
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    protocol_sha256: dict[str, str] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Whether every trial has a usable file (and there is one)."""
        return self.n_sound == self.n_trials > 0


def verify_corpus(
    corpora: Corpus | Sequence[Corpus],
    jobs: int | None = None,
    *,
    progress: bool = True,
    allow_silence: bool = False,
) -> Report:
    """Audit the files of one corpus, or of several partitions of it at once.

    Args:
        corpora: What :func:`slslib.data.corpora.open_corpus` returned. Give all partitions that
            share a folder together, so that the files of one are not *extra* to another.
        jobs: Processes; by default one per core, and fewer where there are few files.
        progress: Show a progress bar.
        allow_silence: Accept silent and very short files.

    What single files hold is reported, never raised; so is a crash of the decoder.
    """
    if isinstance(corpora, Corpus):
        corpora = [corpora]
    files: dict[str, Path] = {}
    missing: list[str] = []
    for corpus in corpora:
        for utterance in corpus.trials["utterance"]:
            try:
                files[utterance] = corpus.audio_path(utterance)
            except AudioError:
                missing.append(utterance)
    named = {path.absolute() for path in files.values()}
    folders = dict.fromkeys(folder for corpus in corpora for folder in corpus.audio_dirs)
    name = ", ".join(f"{corpus.name}:{corpus.partition}" for corpus in corpora)
    report = _verify(name, files, jobs, progress, allow_silence)
    return replace(
        report,
        n_trials=len(files) + len(missing),
        missing=missing,
        extra=[str(p) for f in folders for p in _audio_files(f) if p.absolute() not in named],
        protocol_sha256={corpus.partition: corpus.protocol_sha256 for corpus in corpora},
    )


def verify_folder(
    folder: str | os.PathLike[str],
    jobs: int | None = None,
    *,
    progress: bool = True,
    allow_silence: bool = False,
) -> Report:
    """Audit all audio files in a folder and below it; see :func:`verify_corpus`."""
    root = Path(folder)
    if not root.is_dir():
        raise AudioError(f"{root}: no such folder; give a folder of audio files.")
    files = {path.relative_to(root).as_posix(): path for path in _audio_files(root)}
    if not files:
        raise AudioError(f"{root}: holds no audio file ({', '.join(AUDIO_SUFFIXES)}).")
    return _verify(str(root), files, jobs, progress, allow_silence)


def verify_any(
    spec: str,
    data_root: str | os.PathLike[str] = ".",
    jobs: int | None = None,
    *,
    progress: bool = True,
    allow_silence: bool = False,
) -> Report:
    """Audit what a user names: a corpus, one partition of it, or a folder of audio.

    Args:
        spec: As for :func:`slslib.data.corpora.open_corpus`, except that without a partition all
            that are there are audited, and that a folder needs no protocol.
        data_root: The folder that holds the corpora.
        jobs: As for :func:`verify_corpus`.
        progress: Show a progress bar.
        allow_silence: Accept silent and very short files.

    Raises:
        ProtocolError: The corpus or its protocol is absent or malformed.
        AudioError: A folder holds no audio.
    """
    root = Path(data_root)
    options: dict[str, Any] = {"progress": progress, "allow_silence": allow_silence}
    folder = next((path for path in (root / spec, Path(spec)) if path.is_dir()), None)
    if folder and not ((folder / "flac").is_dir() or (folder / "wav").is_dir()):
        return verify_folder(folder, jobs, **options)
    parts = partitions(spec, root)
    if folder and not parts:
        return verify_folder(folder, jobs, **options)
    # 2021's partitions are phases of one list, which is opened whole.
    if ":" in Path(spec).name or not parts or spec.startswith("asvspoof2021"):
        return verify_corpus(open_corpus(spec, root), jobs, **options)
    return verify_corpus([open_corpus(f"{spec}:{part}", root) for part in parts], jobs, **options)


def to_json(report: Report) -> str:
    """Return the whole report as a JSON object, with ``sound`` first."""
    return json.dumps({"sound": report.sound, **asdict(report)}, indent=1)


def render(report: Report) -> Table:
    """Return a summary for a terminal; long lists show their beginning."""
    verdict = "sound" if report.sound else "NOT SOUND"
    table = Table("check", "result", title=Text(f"{report.name}: {verdict}"))

    def row(name: str, value: str, bad: bool = False) -> None:
        table.add_row(name, Text(value), style="red" if bad else None)

    row("trials", f"{report.n_trials:,}")
    row("sound files", f"{report.n_sound:,}", not report.sound)
    row("missing", _some(report.missing), bool(report.missing))
    row("unusable", f"{len(report.unusable):,}", bool(report.unusable))
    for problem in list(report.unusable.values())[:_SHOWN]:
        row("", problem, True)
    row("format", _counts(report.formats))
    row("decoder", _counts(report.decoders))
    row("FLAC MD5", _counts(report.md5))
    row("rate (Hz)", _counts(report.rates))
    row("channels", _counts(report.channels))
    row("resampled to 16 kHz", _some(report.other_rate))
    row("mixed down", _some(report.multichannel))
    over_range = [f"{name} (peak {x['peak']:.2f})" for name, x in report.over_range.items()]
    row("over-range", _some(over_range))
    row("same audio", _some([" = ".join(names) for names in report.duplicates]))
    row("not in the protocol", _some(report.extra))
    if report.seconds:
        row(
            "seconds",
            "min {min:.2f}, median {median:.2f}, max {max:.2f}".format(**report.seconds)
            + f"; {report.seconds['total'] / 3600:.2f} h in all",
        )
    return table


def _verify(
    name: str, files: dict[str, Path], jobs: int | None, progress: bool, allow_silence: bool
) -> Report:
    audits = _audits(list(files.values()), jobs, allow_silence)
    bar = tqdm(audits, total=len(files), unit="file", desc="verify", disable=not progress)
    found = dict(zip(files, bar, strict=True))
    decoded = {utterance: a for utterance, a in found.items() if a.frames}
    by_content = defaultdict(list)
    for utterance, a in decoded.items():
        by_content[a.content].append(utterance)
    by_content.pop("", None)  # of what was not decoded to its end
    seconds = [a.seconds for a in decoded.values()]
    return Report(
        name=name,
        n_trials=len(files),
        n_sound=sum(a.problem is None for a in found.values()),
        unusable={u: a.problem for u, a in found.items() if a.problem is not None},
        rates=_tally(a.rate for a in decoded.values()),
        channels=_tally(a.channels for a in decoded.values()),
        formats=_tally(f"{a.format}/{a.subtype}" for a in decoded.values()),
        decoders=_tally(a.decoder for a in decoded.values()),
        md5=_tally(a.md5 for a in decoded.values() if a.format == "FLAC"),
        other_rate=[u for u, a in decoded.items() if a.rate != SAMPLE_RATE],
        multichannel=[u for u, a in decoded.items() if a.channels > 1],
        over_range={
            u: {"peak": a.peak, "samples": a.over_range}
            for u, a in decoded.items()
            if a.over_range != 0 and a.problem is None
        },
        duplicates=[names for names in by_content.values() if len(names) > 1],
        seconds={
            "min": min(seconds),
            "median": statistics.median(seconds),
            "max": max(seconds),
            "total": sum(seconds),
        }
        if seconds
        else {},
    )


def _audits(paths: list[Path], jobs: int | None, allow_silence: bool) -> Iterator[FileAudit]:
    """Yield the audit of each file, in order; of n processes, each has every n-th file."""
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs is {jobs}; give a positive number of processes")
    # A process starts in the time that it needs for some 80 files.
    n = min(jobs or os.cpu_count() or 1, len(paths) if jobs else -(-len(paths) // 100))
    shares = [audit_isolated(paths[i::n], allow_silence=allow_silence) for i in range(n)]
    for i in range(len(paths)):
        yield next(shares[i % n])


def _audio_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)


def _tally(values: Iterable[Key]) -> dict[Key, int]:
    return dict(Counter(values).most_common())


def _counts(counts: dict[int, int] | dict[str, int]) -> str:
    return ", ".join(f"{value}: {n:,}" for value, n in counts.items()) or "-"


def _some(names: Sequence[str]) -> str:
    if not names:
        return "0"
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names):,} ({shown})"
