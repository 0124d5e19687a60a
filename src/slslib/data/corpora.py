"""Corpora: their layouts as distributed, and where each utterance's recording lies."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from slslib.data.protocols import quote, read_protocol, unsafe
from slslib.errors import AudioError, ProtocolError
from slslib.files import sha256


@dataclass(frozen=True)
class Corpus:
    """The trials of one corpus (or one partition of it) and where their audio lies.

    Attributes:
        name: The name or folder it was opened by.
        partition: ``train``, ``dev``, ``eval``, ...; ``"-"`` where there is only one.
        trials: The table of :func:`read_protocol`.
        audio_dirs: The folders that hold the recordings.
        suffixes: What may follow an utterance's name, in the order tried.
        protocol: The file the trials come from.
        protocol_sha256: That file's hash, for the record of a run.
        root: The folder that every recording must lie in.
    """

    name: str
    partition: str
    trials: pd.DataFrame
    audio_dirs: tuple[Path, ...]
    suffixes: tuple[str, ...]
    protocol: Path
    protocol_sha256: str
    root: Path
    _listings: dict[Path, dict[str, bool]] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        """Count the trials."""
        return len(self.trials)

    def audio_path(self, utterance: str) -> Path:
        """Find an utterance's recording.

        Each folder is listed once, on the first call, so that 600,000 look-ups in four folders
        cost one pass over them and no look at single files.

        Raises:
            AudioError: No folder holds it, or its name or a symbolic link leads outside.
        """
        if problem := unsafe(utterance):
            raise AudioError(f"{quote(utterance)}: the name {problem}. Correct the protocol.")
        inner, _, name = utterance.rpartition("/")
        for folder in self.audio_dirs:
            listing = self._listing(folder / inner if inner else folder)
            for suffix in self.suffixes:
                is_link = listing.get(name + suffix)
                if is_link is None:
                    continue
                path = folder / (utterance + suffix)
                if is_link and not self._inside(path):
                    raise AudioError(
                        f"{path}: a symbolic link to {path.resolve()}, outside the corpus. "
                        "Link the whole folder, or put the file itself there."
                    )
                return path
        folders = ", ".join(map(str, self.audio_dirs))
        raise AudioError(
            f"{utterance}: no {' or '.join(utterance + suffix for suffix in self.suffixes)} in "
            f"{folders}. Unpack the corpus completely, or check --data."
        )

    def _listing(self, folder: Path) -> dict[str, bool]:
        """List a folder once: its file names, and whether each is a symbolic link."""
        if folder not in self._listings:
            try:
                with os.scandir(folder) as entries:
                    listing = {entry.name: entry.is_symlink() for entry in entries}
            except (FileNotFoundError, NotADirectoryError):
                listing = {}
            except OSError as problem:
                raise AudioError(f"{folder}: cannot be listed ({problem}).") from problem
            # Only sub-folders named in an utterance can be links: audio_dirs are the user's own.
            if folder not in self.audio_dirs and listing and not self._inside(folder):
                raise AudioError(
                    f"{folder}: leads outside the corpus. Put the folder itself there."
                )
            self._listings[folder] = listing
        return self._listings[folder]

    def _inside(self, path: Path) -> bool:
        """Whether a path, with all links followed, is inside the corpus."""
        real = path.resolve()
        return any(real.is_relative_to(top.resolve()) for top in (self.root, *self.audio_dirs))


_SOURCES = {
    "asvspoof2019-la": "LA.zip of ASVspoof 2019, https://datashare.ed.ac.uk/handle/10283/3336",
    "asvspoof2021-la": "ASVspoof 2021 LA, https://zenodo.org/records/4837263",
    "asvspoof2021-df": "ASVspoof 2021 DF, https://zenodo.org/records/4835108",
    "in-the-wild": "In-the-Wild, https://deepfake-total.com/in_the_wild",
}
_KEYS = "https://www.asvspoof.org/index2021.html"
_PARTS_2019 = ("train", "dev", "eval")


def open_corpus(spec: str, data_root: str | Path = ".") -> Corpus:
    """Open a corpus as it is distributed, or any folder that looks like one.

    Args:
        spec: ``NAME[:PARTITION]``. ``asvspoof2019-la`` with ``train``, ``dev`` or ``eval``;
            ``asvspoof2021-la`` and ``asvspoof2021-df``, whole or with a phase (``progress``,
            ``eval``, ``hidden``), which needs the keys; ``in-the-wild``; or a folder that holds
            ``flac/`` or ``wav/`` and protocols, in ``protocols/`` or beside it, whose file names
            contain the partition, as in ``x.cm.train.trn.txt``.
        data_root: The folder that holds the named corpora, as unpacked. A folder given as
            ``spec`` may be absolute, relative to this one or to the working directory.

    Returns:
        The corpus. Labels are -1 for ASVspoof 2021 without its keys.

    Raises:
        ProtocolError: A folder or protocol is missing or malformed; the message says what was
            looked for and where it is to be had.
    """
    root, (name, partition) = Path(data_root), _split(spec)
    if name == "asvspoof2019-la":
        return _open_2019(root, partition)
    if name in {"asvspoof2021-la", "asvspoof2021-df"}:
        return _open_2021(root, name, partition)
    if name == "in-the-wild":
        return _open_wild(root, partition)
    return _open_folder(root, name, partition)


def partitions(spec: str, data_root: str | Path = ".") -> list[str]:
    """List the partitions of a corpus that are there; empty where it has none or is absent."""
    root, (name, _) = Path(data_root), _split(spec)
    if name == "asvspoof2019-la":
        return [part for part in _PARTS_2019 if _find(_protocols_2019(root, part))]
    if name in {"asvspoof2021-la", "asvspoof2021-df"}:
        key = _find(_keys_2021(root, name[-2:].upper()))
        return _phases(read_protocol(key)) if key else []
    if name in _SOURCES:
        return []
    return sorted(_folder_protocols(_folder(root, name)))


def _split(spec: str) -> tuple[str, str]:
    """Split NAME[:PARTITION]; a path may hold other colons."""
    found = re.fullmatch(r"(.+):([a-z]+)", spec)
    return (found[1], found[2]) if found else (spec, "")


def _phases(trials: pd.DataFrame) -> list[str]:
    return sorted(set(trials["phase"].unique()) - {"-"})


def _find(candidates: Sequence[Path]) -> Path | None:
    """Return the first path that exists; what cannot even be asked for does not."""
    return next((path for path in candidates if os.path.exists(path)), None)  # noqa: PTH110


def _need(candidates: Sequence[Path], what: str, source: str) -> Path:
    """Return the first path that exists, or say where all of them were expected."""
    if found := _find(candidates):
        return found
    raise ProtocolError(
        f"{what} not found: looked for {' and '.join(map(str, candidates))}. "
        f"Get {source}, unpack it there, or set --data (SLSLIB_DATA) to the folder that holds it."
    )


def _build(name: str, partition: str, protocol: Path, dirs: Sequence[Path], root: Path,
           suffixes: tuple[str, ...] = (".flac",)) -> Corpus:  # fmt: skip
    trials = read_protocol(protocol)
    return Corpus(name, partition or "-", trials, tuple(dirs), suffixes, protocol,
                  sha256(protocol), root)  # fmt: skip


def _protocols_2019(root: Path, partition: str) -> list[Path]:
    name = f"ASVspoof2019.LA.cm.{partition}.{'trn' if partition == 'train' else 'trl'}.txt"
    return [top / "ASVspoof2019_LA_cm_protocols" / name for top in (root / "LA", root)]


def _open_2019(root: Path, partition: str) -> Corpus:
    if partition not in _PARTS_2019:
        raise ProtocolError(
            f"asvspoof2019-la:{partition}: no such partition. "
            "Write asvspoof2019-la:train, asvspoof2019-la:dev or asvspoof2019-la:eval."
        )
    source = _SOURCES["asvspoof2019-la"]
    protocol = _need(_protocols_2019(root, partition), f"The {partition} protocol", source)
    audio = protocol.parent.parent / f"ASVspoof2019_LA_{partition}" / "flac"
    _need([audio], "The audio folder", source)
    return _build("asvspoof2019-la", partition, protocol, [audio], root)


def _keys_2021(root: Path, track: str) -> list[Path]:
    tops = (root, root / f"{track}-keys-full", root / f"ASVspoof2021_{track}_eval")
    return [top / "keys" / track / "CM" / "trial_metadata.txt" for top in tops]


def _open_2021(root: Path, name: str, phase: str) -> Corpus:
    track, source = name[-2:].upper(), _SOURCES[name]
    top = f"ASVspoof2021_{track}_eval"
    parts = sorted(root.glob(f"{top}_part[0-9][0-9]"))
    tops = [root / top, *(part / top for part in parts), *parts]
    dirs = [folder for folder in (top / "flac" for top in tops) if folder.is_dir()]
    if not dirs:
        _need([root / top / "flac", root / f"{top}_part00" / top / "flac"], "Audio", source)
    ids = f"ASVspoof2021.{track}.cm.eval.trl.txt"
    protocol = _find(_keys_2021(root, track)) or _need(
        [folder / ids for folder in (root, *tops)], "The protocol", source
    )
    corpus = _build(name, phase, protocol, dirs, root)
    if phase:
        chosen = corpus.trials[corpus.trials["phase"] == phase].reset_index(drop=True)
        if chosen.empty:
            known = ", ".join(_phases(corpus.trials)) or "none"
            raise ProtocolError(
                f"{name}:{phase}: no trial of this phase in {protocol} (phases there: "
                f"{known}). Phases stand in the keys, {_KEYS}, unpacked as {root}/keys/{track}; "
                f"without a phase, {name} is all trials."
            )
        corpus = replace(corpus, trials=chosen)
    return corpus


def _open_wild(root: Path, partition: str) -> Corpus:
    if partition:
        raise ProtocolError(f"in-the-wild:{partition}: this corpus has no partitions.")
    tops = [root / "release_in_the_wild", root]
    places = [top / name for top in tops for name in ("meta.csv", "in_the_wild_key.txt")]
    protocol = _need(places, "meta.csv", _SOURCES["in-the-wild"])
    audio = _find([root / "release_in_the_wild", protocol.parent]) or root
    # The names of this corpus already end with ".wav".
    return _build("in-the-wild", "", protocol, [audio], root, ("", ".wav"))


def _folder(root: Path, name: str) -> Path:
    """Find a corpus folder: absolute, or relative to the data root or working directory."""
    candidates = [root / name, Path(name)]
    if (found := _find(candidates)) and found.is_dir():
        return found
    raise ProtocolError(
        f"{name}: neither a corpus ({', '.join(_SOURCES)}) nor a folder (looked for "
        f"{' and '.join(map(str, dict.fromkeys(candidates)))}). Check the name and --data."
    )


def _folder_protocols(folder: Path) -> dict[str, Path]:
    """Map partition names to the protocols of a folder; the key is the file name without one."""
    inner = folder / "protocols"
    files = sorted((inner if inner.is_dir() else folder).glob("*.txt*"))
    known = ("train", "dev", "test", "eval")
    found: dict[str, Path] = {}
    for file in files:
        words = re.split(r"[._-]", file.name)
        if file.name.lower().startswith(("readme", "license", "licence")):
            continue
        part = next((word for word in known if word in words), file.name)
        if part in found:
            raise ProtocolError(
                f"{file}: a second protocol for {part!r} beside {found[part].name}. Keep one."
            )
        found[part] = file
    return found


def _open_folder(root: Path, name: str, partition: str) -> Corpus:
    folder = _folder(root, name)
    dirs = [folder / kind for kind in ("flac", "wav") if (folder / kind).is_dir()]
    if not dirs:
        raise ProtocolError(f"{folder}: holds neither flac/ nor wav/. Put the recordings there.")
    found = _folder_protocols(folder)
    if not found:
        raise ProtocolError(
            f"{folder}: no protocol in {folder / 'protocols'} or beside the audio. Write one line "
            "per recording, 'SPEAKER UTTERANCE - ATTACK bonafide|spoof', into x.cm.train.trn.txt."
        )
    if not partition and len(found) == 1:
        partition = next(iter(found))
    if partition not in found:
        raise ProtocolError(
            f"{name}:{partition}: no protocol for this partition in {folder}. "
            f"There are: {', '.join(f'{name}:{part}' for part in found)}."
        )
    return _build(name, partition, found[partition], dirs, folder, (".flac", ".wav", ""))
