"""Corpora: their layouts as distributed, and where each utterance's recording lies.

======================  ====================================================================
name                    layout under the root, ``--data`` or ``$SLSLIB_DATA``
======================  ====================================================================
``asvspoof2019-la``     ``LA/ASVspoof2019_LA_cm_protocols``, ``LA/ASVspoof2019_LA_train/flac``
``asvspoof2021-la``     ``keys/LA`` or the list of ids, ``ASVspoof2021_LA_eval/flac``
``asvspoof2021-df``     the same with ``DF``; its audio in one folder or in ``..._part00`` to 03
``asvspoof5``           ``ASVspoof5.train.tsv``, ``ASVspoof5.*.track_1.tsv``; ``flac_T``, ...
``in-the-wild``         ``release_in_the_wild`` with ``meta.csv``
a folder                recordings in ``flac/``, ``wav/`` or anywhere, and protocols in
                        ``protocols/`` or beside them; :func:`protocol` writes one. Without a
                        protocol, every recording is a trial without a label
======================  ====================================================================

Names in protocols are checked (:mod:`slslib.data.protocols`). Folders and recordings may be
symbolic links to any place, as on shared storage; where a link leads is not checked.
"""

import os
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd

from slslib.data.audio import list_recordings
from slslib.data.headers import AUDIO_SUFFIXES
from slslib.data.protocols import COLUMNS, check_utterances, is_safe, quote, read_protocol
from slslib.errors import AudioError, ProtocolError
from slslib.files import corpora_root, sha256, sha256_of, write_text


@dataclass(frozen=True)
class Corpus:
    """The trials of one corpus, or of one of its partitions, and where their audio lies.

    Attributes:
        name: The name or folder by which it was opened.
        partition: ``train``, ``dev``, ``eval``, ...; ``"-"`` if there is only one.
        trials: A table as :func:`slslib.data.protocols.read_protocol` returns it.
        audio_dirs: The folders that hold the recordings.
        protocol: The file that lists the trials; the folder itself if it has no protocol.
        protocol_sha256: Hash of that file, or of the names of the recordings; runs record it.
        parts: The corpora that :func:`mix` joined into this one.
    """

    name: str
    partition: str
    trials: pd.DataFrame
    audio_dirs: tuple[Path, ...]
    protocol: Path
    protocol_sha256: str
    parts: tuple["Corpus", ...] = ()
    _listings: dict[Path, dict[Any, str]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """Count the trials."""
        return len(self.trials)

    def audio_path(self, utterance: str) -> Path:
        """Find an utterance's recording: the file of this name, or the file with this stem.

        Each folder is listed once, on the first call. So 600,000 look-ups in four folders cost one
        pass over the folders and touch no single file.

        Raises:
            AudioError: No folder holds it, or the name could lead outside.
        """
        if self.parts:
            number, _, own = utterance.partition(":")
            return self.parts[int(number) - 1].audio_path(own)
        parent, name = os.path.split(utterance)
        stem, ending = _split_ending(name)
        folders = [folder / parent for folder in self.audio_dirs if is_safe(utterance)]
        # The very name goes first, in any folder: beside it, another may have the same stem.
        for wanted in (name, *((stem, end) for end in (ending or ".flac", *AUDIO_SUFFIXES, ""))):
            for folder in folders:
                if file := self._listing(folder).get(wanted):
                    return folder / file
        where = f"{', '.join(map(str, self.audio_dirs))} ({' '.join(AUDIO_SUFFIXES)})"
        what = f"no recording of this name in {where}, or the name is unsafe"
        remedy = "check --data and who may read it, or convert the file"
        raise AudioError(f"{quote(utterance)}: {what}. Unpack the corpus completely, {remedy}.")

    def _listing(self, folder: Path) -> dict[Any, str]:
        """List a folder once, by stem and ending."""
        if folder not in self._listings:
            _, _, names = next(os.walk(folder), ("", [], []))  # none if it cannot be listed
            self._listings[folder] = {_split_ending(n): n for n in names} | {n: n for n in names}
        return self._listings[folder]


def mix(corpora: list[Corpus]) -> Corpus:
    """Join several corpora into one that keeps equal names of different corpora apart.

    The name of an utterance becomes the number of its corpus, counted from 1, and its old name:
    ``2:a001``. If a corpus is given twice, its trials count twice.
    """
    trials = pd.concat({f"{number}:": one.trials for number, one in enumerate(corpora, 1)})
    trials["utterance"] = trials.index.get_level_values(0) + trials["utterance"]
    name = " + ".join(str(one.protocol) for one in corpora)
    return Corpus(name, "-", trials.reset_index(drop=True), (), Path(name), "", tuple(corpora))


def _split_ending(name: str) -> tuple[str, str]:
    """Split a recording's name into stem and ending; the ending is lower case, or empty."""
    stem, dot, ending = name.rpartition(".")
    ending = dot + ending.lower()
    return (stem, ending) if ending in AUDIO_SUFFIXES else (name, "")


@dataclass(frozen=True)
class _Layout:
    """Where a corpus has its files, as patterns below the root.

    In the patterns of the audio, ``{part}`` stands for the partition and ``{letter}`` for its first
    letter.
    """

    source: str
    protocols: tuple[str, ...]  # the first that is there
    audio: tuple[str, ...]  # all that are there
    by_file: bool = True  # one protocol per partition; else one, whose phases are the partitions


def _layout_2021(track: str, record: int) -> _Layout:
    top, ids = f"ASVspoof2021_{track}_eval", f"ASVspoof2021.{track}.cm.eval.trl.txt"
    key = f"keys/{track}/CM/trial_metadata.txt"
    return _Layout(
        f"ASVspoof 2021 {track}, https://zenodo.org/records/{record} (labels and phases stand in "
        "the keys, https://www.asvspoof.org/index2021.html)",
        (key, f"*/{key}", ids, f"{top}*/{ids}", f"{top}*/{top}/{ids}"),
        (f"{top}*/flac", f"{top}*/{top}/flac"),
        by_file=False,
    )


LAYOUTS = {
    "asvspoof2019-la": _Layout(
        "LA.zip of ASVspoof 2019, https://datashare.ed.ac.uk/handle/10283/3336",
        ("LA/ASVspoof2019_LA_cm_protocols/*.LA.cm.*.tr[nl].txt",),
        ("LA/ASVspoof2019_LA_{part}/flac",),
    ),
    "asvspoof2021-la": _layout_2021("LA", 4837263),
    "asvspoof2021-df": _layout_2021("DF", 4835108),
    "asvspoof5": _Layout(
        "ASVspoof 5, https://zenodo.org/records/14498691",
        # Names that end in "train" or "track_1"; the tables of track 2 name speakers to verify.
        ("ASVspoof5.*[n1].tsv", "*/ASVspoof5.*[n1].tsv"),
        ("flac_{letter}*", "ASVspoof5*/flac_{letter}*"),
    ),
    "in-the-wild": _Layout(
        "In-the-Wild, https://deepfake-total.com/in_the_wild",
        ("release_in_the_wild/meta.csv", "release_in_the_wild/in_the_wild_key.txt"),
        ("release_in_the_wild",),
        by_file=False,
    ),
}
"""The layouts of the corpora that have a name.

:meta hide-value:
"""
_FOLDER = _Layout(
    "one with recordings, and in protocols/ one line per recording, 'SPEAKER UTTERANCE - "
    "ATTACK bonafide|spoof', in files like x.cm.train.trn.txt (slslib protocol writes one)",
    ("protocols/*.[ct][sx][tv]*", "*.[ct][sx][tv]*"),  # .txt, .csv and .tsv
    ("flac", "wav"),
)

_IS_DATA = re.compile(r"(?!readme|licen|\.)", re.I).match


def open_corpus(spec: str, data: str | Path | None = None) -> Corpus:
    """Open a corpus as it is distributed, or any folder of recordings.

    Args:
        spec: ``NAME[:PARTITION]``. ``asvspoof2019-la`` and ``asvspoof5`` take ``train``, ``dev`` or
            ``eval``. ``asvspoof2021-la`` and ``asvspoof2021-df`` are opened whole, or with a phase
            (``progress``, ``eval``, ``hidden``), which needs the keys. ``in-the-wild`` has no
            partitions. Any other name is a folder of recordings, in ``flac/`` and ``wav/`` or else
            anywhere below it. Protocols lie in its ``protocols/`` or in the folder itself. Their
            file names contain the partition, as in ``x.cm.train.trn.txt``.
        data: The folder that holds the named corpora, as unpacked; by default ``$SLSLIB_DATA``,
            else the working directory. A folder given as ``spec`` may be absolute, or relative to
            this one or to the working directory; ``.``, ``./x`` and ``../x`` always to the latter.

    Returns:
        The corpus. Labels are -1 for ASVspoof 2021 without its keys, and for a folder without a
        protocol, of which every recording is a trial.

    Raises:
        ProtocolError: A folder or protocol is missing or malformed, there are two folders of the
            name, or there are several partitions and none is named. The message says what was
            looked for and where to get it.
        AudioError: A folder holds neither a protocol nor a recording.
    """
    return open_partitions(spec, data, several=False)[0]


def open_partitions(
    spec: str, data: str | Path | None = None, *, several: bool = True
) -> list[Corpus]:
    """Open the partition that ``spec`` names, or all partitions that are there.

    ASVspoof 2021 without a phase is one corpus, because its phases share one list.

    Args:
        spec: As for :func:`open_corpus`, whose errors are raised too.
        data: As for :func:`open_corpus`.
        several: Accept a corpus with several partitions when none is named.
    """
    named = re.fullmatch(r"(.+):([\w-]+)", spec)  # a path may hold other colons
    name, partition = named.groups() if named else (spec, "")
    typed = name.split("/")[0] in (".", "..")  # a path of the working directory
    root, layout = Path() if typed else corpora_root(data), LAYOUTS.get(name, _FOLDER)
    if layout is _FOLDER:
        # Path.is_dir raises an error if a name is impossible.
        folders = [path for path in (root / name, Path(name)) if os.path.isdir(path)]  # noqa: PTH112
        if not folders:
            what = f"neither a corpus ({', '.join(LAYOUTS)}) nor a folder in {root} or here"
            raise ProtocolError(f"{name}: {what}. Check the name and --data.")
        if len({path.resolve() for path in folders}) > 1:
            raise ProtocolError(f"{name}: found in {root} and here. Give ./{name} or a whole path.")
        root = folders[0]
    found = ([f for f in sorted(root.glob(p)) if _IS_DATA(f.name)] for p in layout.protocols)
    files = next(filter(None, found), [])
    if layout is _FOLDER and not (files or partition):
        names = [path.relative_to(root).as_posix() for path in list_recordings(root)]
        trials = pd.DataFrame({"utterance": names, "label": -1}, columns=[*COLUMNS]).fillna("-")
        return [Corpus(name, "-", trials, (root,), root, sha256_of(names))]
    # The first file has the trials of all phases.
    by_phase = dict(zip([partition], files, strict=False))
    protocols = _by_partition(files) if layout.by_file else by_phase
    parts = [partition] if partition else [*protocols]
    if protocols and (partition not in ("", *protocols) or (len(parts) > 1 and not several)):
        there = ", ".join(f"{name}:{part}" for part in protocols)
        raise ProtocolError(f"{spec}: no such partition. Name one of {there}.")
    corpora = []
    for part in parts or [""]:
        patterns = [p.format(part=part, letter=part[:1].upper()) for p in layout.audio]
        audio = tuple(path for pattern in patterns for path in sorted(root.glob(pattern)))
        audio = audio or ((root,) if layout is _FOLDER else ())
        protocol = protocols.get(part)
        if not (protocol and audio):
            what, where = ("recordings", patterns) if protocol else ("protocol", layout.protocols)
            what = f"no {what} found; looked for {' and '.join(where)} in {root.resolve()}"
            remedy = f"Get {layout.source}, unpack it there, or set --data (SLSLIB_DATA)"
            raise ProtocolError(f"{spec}: {what}. {remedy}.")
        trials = read_protocol(protocol)
        if part and not layout.by_file:
            trials = trials[trials["phase"] == part].reset_index(drop=True)
            if trials.empty:
                why = f"no trial of this phase in {protocol}. Phases stand in the keys"
                raise ProtocolError(f"{spec}: {why}. Get {layout.source}.")
        corpora.append(Corpus(name, part or "-", trials, audio, protocol, sha256(protocol)))
    return corpora


def _by_partition(files: list[Path]) -> dict[str, Path]:
    """Map partitions to protocols, by a word in the file's name, else by its beginning."""
    protocols: dict[str, Path] = {}
    for file in files:
        words = re.split(r"[._-]", file.name)
        part = next((word for word in ("train", "dev", "test", "eval") if word in words), "")
        part = part or file.name.partition(".")[0]
        if part in protocols:
            what = f"a second protocol for {part!r} beside {protocols[part].name}"
            raise ProtocolError(f"{file}: {what}. Keep one.")
        protocols[part] = file
    return protocols


def protocol(folder: Path, /, *, bonafide: str, spoof: str, out: Path) -> dict[str, Any]:
    """Write a protocol of the recordings below a folder, labelled by their paths.

    Example: slslib protocol mine --bonafide 'real*' --spoof 'fake*' --out mine/own.csv

    Args:
        folder: Folder of recordings, in flac/ and wav/ or else anywhere below it. To be read with
            the folder as a corpus, the protocol must lie in the folder or in its protocols/.
        bonafide: Pattern that the paths of bona fide recordings match, counted from the folder,
            such as ``real/*`` or ``*_original.wav``; ``*`` stands for anything, including ``/``.
        spoof: Pattern of the spoofed recordings.
        out: Table to write, with the columns file and label.

    Returns:
        ``out``, ``n_bonafide``, ``n_spoof``, ``unmatched`` (recordings that match neither pattern)
        and ``unreadable`` (recordings in formats that cannot be read).

    Raises:
        AudioError: There are no recordings, or a folder cannot be listed.
        ProtocolError: A class is empty, a file matches both patterns, or a name is unsafe.
        FileError: The table cannot be written.
    """
    patterns = {"bonafide": bonafide, "spoof": spoof}
    groups: dict[str, list[str]] = {name: [] for name in (*patterns, "unmatched", "unreadable")}
    for top in [top for top in (folder / "flac", folder / "wav") if top.is_dir()] or [folder]:
        for file in list_recordings(top):
            path = file.relative_to(folder).as_posix()
            fits = [label for label, pattern in patterns.items() if fnmatchcase(path, pattern)]
            if len(fits) > 1:
                raise ProtocolError(f"{folder}: {quote(path)} matches both patterns. Narrow one.")
            is_read = file.suffix.lower() in AUDIO_SUFFIXES
            kind = (fits or ["unmatched"])[0] if is_read else "unreadable"
            groups[kind].append(file.relative_to(top).as_posix())
    rows = [(name, label) for label in patterns for name in groups[label]]
    counts = {f"n_{label}": len(groups.pop(label)) for label in patterns}
    if not all(counts.values()):
        raise ProtocolError(f"{folder}: one class is empty ({counts}). Correct that pattern.")
    table = pd.DataFrame(rows, columns=["file", "label"])
    check_utterances(out, table["file"], ProtocolError)
    write_text(out, table.to_csv(index=False))
    return {"out": str(out), **counts, **groups}
