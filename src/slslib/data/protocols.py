"""Protocols, keys and corpora: which utterances there are, what they are, and where they lie.

A *protocol* (or *key*) lists one utterance per line. Six forms are read, told apart by their
columns; all of them become the same table:

======================  ================================================================
form                    columns
======================  ================================================================
ids only                utterance
ASVspoof 2019 CM        speaker utterance - attack label
In-the-Wild key         - utterance - - - label
ASVspoof 2021 LA        speaker utterance codec transmission attack label trim phase
ASVspoof 2021 DF        speaker utterance codec source attack label trim phase [vocoder ...]
In-the-Wild meta.csv    file,speaker,label (comma separated, with a header)
======================  ================================================================

The two 2021 forms share eight columns; utterances named ``DF_...`` mean the second. The phase of
the 2021 sets (``progress``, ``eval``, ``hidden``) is called *subset* in the challenge's papers.
Sources: the README files of the ASVspoof 2019 and 2021 databases and the 2021 evaluation package.

Everything in these files is checked, since a wrong row gives a wrong error rate without a word:
one form per file, known labels and phases, no duplicates, and utterance names that cannot leave
the folder of the corpus. A :class:`ProtocolError` names the file, the line and the remedy.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import string
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slslib.errors import AudioError, ProtocolError, SlslibError
from slslib.files import sha256

LABELS = {"bonafide": 1, "bona-fide": 1, "spoof": 0}
"""The spellings of the two classes; 1 is bona fide, 0 is spoof."""

PHASES = {"progress": "progress", "eval": "eval", "hidden": "hidden", "hidden_track": "hidden"}
"""The spellings of the ASVspoof 2021 phases."""

COLUMNS: tuple[str, ...] = ("utterance", "label", "speaker", "attack", "codec", "transmission")
COLUMNS += ("source", "vocoder", "trim", "phase")

# Where each quantity stands in a line of each whitespace-separated form.
_2019 = {"speaker": 0, "utterance": 1, "attack": 3, "label": 4}
_WILD = {"utterance": 1, "label": 5}
_2021 = {"speaker": 0, "utterance": 1, "codec": 2, "attack": 4, "label": 5, "trim": 6, "phase": 7}
_LA, _DF = _2021 | {"transmission": 3}, _2021 | {"source": 3}
_FORMS = {1: {"utterance": 0}, 5: _2019, 6: _WILD, 8: _LA}
_FORMS |= dict.fromkeys(range(9, 14), _DF | {"vocoder": 8})

_MAX_BYTES = 200 * 2**20  # the largest official key has some 60 MB
_PLAIN = string.ascii_letters.encode() + b"0123456789_-.\n"
_ALLOWED = bytes([9, 10, *range(32, 127), *range(128, 256)])


def read_protocol(path: str | Path) -> pd.DataFrame:
    """Read a protocol or key of any known form, plain or gzipped.

    Args:
        path: The file.

    Returns:
        One row per utterance in the order of the file, with the string columns ``utterance``,
        ``speaker``, ``attack``, ``codec``, ``transmission``, ``source``, ``vocoder``, ``trim`` and
        ``phase`` (``"-"`` where the form has none) and ``label`` as int8: 1 bona fide, 0 spoof,
        -1 unknown (ids only). The attack and vocoder of bona fide speech are always ``"-"``.

    Raises:
        ProtocolError: The file is missing, unreadable, torn, mixes forms, or has an unknown
            label or phase, a duplicate or an unsafe utterance name.
    """
    path = Path(path)
    lines = read_lines(path)
    header = [name.strip().lower() for name in lines[0].split(",")]
    if "file" in header and "label" in header:
        table, first = _read_csv(path, lines, header), 2
    else:
        table, first = _read_columns(path, lines), 1
    check_utterances(path, table["utterance"], first, ProtocolError)
    absent = ["-"] * len(table["utterance"])
    columns = {name: table.get(name, absent) for name in COLUMNS}
    labels = translate(path, table["label"], LABELS, "label", first) if "label" in table else -1
    frame = pd.DataFrame(columns).assign(label=np.array(labels, np.int8))
    # The 2021 keys write "bonafide" into the attack and vocoder of bona fide speech.
    frame.loc[frame["label"] == 1, ["attack", "vocoder"]] = "-"
    return frame


def _read_columns(path: Path, lines: Sequence[str]) -> dict[str, list[str]]:
    """Split whitespace-separated lines into the columns of their form."""
    head = lines[0].split()
    form, n_columns = _form(path, head), len(head)
    columns = split_columns(path, lines, n_columns)
    table = {name: columns[index] for name, index in form.items()}
    if n_columns == 8:
        is_df = head[1].startswith("DF_")
        for number, utterance in enumerate(table["utterance"], 1):
            if utterance.startswith("DF_") != is_df:
                raise ProtocolError(
                    f"{path}, line {number}: {utterance!r} in a file that begins with {head[1]!r}: "
                    "LA and DF trials in one file. Use one key per track."
                )
    if "phase" in table:
        table["phase"] = translate(path, table["phase"], PHASES | {"-": "-"}, "phase")
    return table


def split_columns(
    path: str | Path, lines: Sequence[str], n: int, error: type[SlslibError] = ProtocolError
) -> list[list[str]]:
    """Split whitespace-separated lines into columns.

    Args:
        path: The file they come from, for the message.
        lines: The lines, without blank ones.
        n: The number of columns that each must have.
        error: The error type to raise where one has not.

    Returns:
        The ``n`` columns.
    """
    try:
        # One column too many: it shows longer lines, as empty cells show shorter ones.
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            table = pd.read_csv(
                io.StringIO("\n".join(lines)), sep=r"\s+", header=None, names=range(n + 1),
                index_col=False, dtype=object, na_filter=False, quoting=csv.QUOTE_NONE,
            )  # fmt: skip
        torn = bool((table[n] != "").any() or (table[n - 1] == "").any())
    except (pd.errors.ParserError, pd.errors.ParserWarning):
        torn = True
    if torn:
        counts = [len(re.findall(r"[^ \t]+", line)) for line in lines]
        number, line = next((k, one) for k, one in enumerate(lines, 1) if counts[k - 1] != n)
        raise error(
            f"{path}, line {number}: {counts[number - 1]} columns where line 1 has {n}: "
            f"{quote(line)}. The file is torn or mixes two forms; use one complete file."
        )
    return [table[k].tolist() for k in range(n)]


def _form(path: Path, head: Sequence[str]) -> dict[str, int]:
    """Tell the form of a whitespace-separated protocol by its first line."""
    n = len(head)
    if n in _FORMS:
        return _DF if n == 8 and head[1].startswith("DF_") else _FORMS[n]
    hint = {2: " Two columns are a score file.", 4: " Four columns are a score file.",
            3: " Three columns are speaker verification scores."}.get(n, "")  # fmt: skip
    raise ProtocolError(
        f"{path}, line 1: {n} columns fit no known protocol: {quote(' '.join(head))}.{hint} "
        "Known are 1 (ids), 5 (ASVspoof 2019), 6 (In-the-Wild), 8 (ASVspoof 2021) and 9 to 13 "
        "(ASVspoof 2021 DF) columns, and In-the-Wild's meta.csv."
    )


def _read_csv(path: Path, lines: Sequence[str], header: Sequence[str]) -> dict[str, list[str]]:
    """Read In-the-Wild's ``meta.csv``, whose speaker names hold spaces."""
    table: dict[str, list[str]] = {"utterance": [], "speaker": [], "label": []}
    for number, line in enumerate(lines[1:], 2):
        try:
            row = next(csv.reader([line], strict=True))
            fields = dict(zip(header, row, strict=True))
        except csv.Error as error:
            raise ProtocolError(
                f"{path}, line {number}: not valid CSV ({error}). Get meta.csv again."
            ) from error
        except ValueError as error:
            raise ProtocolError(
                f"{path}, line {number}: {len(row)} fields where the header has {len(header)}. "
                "The file is torn; get meta.csv again."
            ) from error
        table["utterance"].append(fields["file"].strip())
        table["speaker"].append(fields.get("speaker", "-").strip() or "-")
        table["label"].append(fields["label"].strip())
    if not table["label"]:
        raise ProtocolError(f"{path}: a header and no trials. Get meta.csv again.")
    return table


def translate(
    path: str | Path,
    values: Sequence[str],
    known: Mapping[str, Any],
    what: str,
    first: int = 1,
    error: type[SlslibError] = ProtocolError,
) -> list[Any]:
    """Translate the values of a column, of which only some are known.

    Args:
        path: The file they come from, for the message.
        values: The values, one per line of the file.
        known: What each stands for.
        what: What they are, for the message.
        first: The line of the first value.
        error: The error type to raise for an unknown one.
    """
    try:
        return [known[value] for value in values]
    except KeyError:
        number, value = next((k, v) for k, v in enumerate(values, first) if v not in known)
        is_asv = what == "label" and "target" in value
        hint = " This is a speaker verification key." if is_asv else ""
        raise error(
            f"{path}, line {number}: unknown {what} {quote(value)}. "
            f"Known are {', '.join(known)}.{hint}"
        ) from None


def read_lines(
    path: str | Path, error: type[SlslibError] = ProtocolError, *, whole_last_line: bool = False
) -> list[str]:
    """Read a text file as lines, refusing anything that is not plain, complete text.

    Args:
        path: The file; gzip is recognised by its content.
        error: The error type to raise.
        whole_last_line: Refuse a last line that does not end with a newline.

    Returns:
        At least one line, none of them blank, without their ends.

    Raises:
        SlslibError: Of the type given, for a file that is missing, not regular, empty, too large,
            damaged, not UTF-8, holds control characters or blank lines, or has a torn last line.
    """
    data = _read_bytes(Path(path), error).replace(b"\r\n", b"\n")
    if not data.strip():
        raise error(f"{path}: the file is empty. Get or write it again.")

    def at(place: int) -> str:
        return f"{path}, line {data.count(10, 0, place) + 1}: "

    if whole_last_line and not data.endswith(b"\n"):
        raise error(
            f"{at(len(data))}the last line does not end with a newline, so it may be "
            "cut short. Write the file again, or add the newline if the line is complete."
        )
    if strange := data.translate(None, _ALLOWED):
        raise error(
            f"{at(data.index(strange[:1]))}control character 0x{strange[0]:02x}. "
            "The file is damaged or is not text; get or write it again."
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(
            f"{at(problem.start)}not UTF-8 text (byte 0x{data[problem.start]:02x}). "
            "Save the file as UTF-8."
        ) from problem
    lines = text.rstrip("\n").split("\n")
    for number, line in enumerate(lines, 1):
        if not line or line.isspace():
            raise error(f"{path}, line {number}: blank line. Remove it if nothing is missing.")
    return lines


def _read_bytes(path: Path, error: type[SlslibError]) -> bytes:
    """Read a regular file, bounded, and unpack it if it is gzipped."""
    try:
        if not path.is_file():
            what = "not a regular file" if path.exists() else "no such file"
            raise error(f"{path}: {what}. Give the path of a protocol, key or score file.")
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if data.startswith(b"\x1f\x8b"):
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(_MAX_BYTES + 1)
    except (OSError, ValueError, EOFError, zlib.error) as problem:
        raise error(f"{path}: cannot be read ({problem}). Get or write it again.") from problem
    if len(data) > _MAX_BYTES:
        raise error(f"{path}: more than {_MAX_BYTES >> 20} MiB of text. This is no list of trials.")
    return data


def check_utterances(
    path: str | Path, utterances: Sequence[str], first: int, error: type[SlslibError]
) -> None:
    """Refuse duplicate utterance names and those that could leave the corpus folder.

    Args:
        path: The file they come from, for the message.
        utterances: The names, one per line of the file.
        first: The line of the first name.
        error: The error type to raise.
    """
    joined = "\n".join(["", *utterances, ""])
    plain = not joined.encode().translate(None, _PLAIN) and max(map(len, utterances)) <= 200
    if not plain or any(odd in joined for odd in ("..", "\n.", "\n-\n", "\n\n")):
        for number, utterance in enumerate(utterances, first):
            if problem := _unsafe(utterance):
                raise error(
                    f"{path}, line {number}: utterance name {quote(utterance)} {problem}. "
                    "Names are file names inside the corpus folder; correct or remove the line."
                )
    if len(set(utterances)) != len(utterances):
        again = np.flatnonzero(pd.Index(utterances).duplicated())
        name = utterances[again[0]]
        raise error(
            f"{path}, line {first + again[0]}: {name!r} stands already in line "
            f"{first + utterances.index(name)} ({again.size} duplicates in all). "
            "A trial counts once; remove the repetitions."
        )


def _unsafe(utterance: str) -> str | None:
    """Say what is wrong with an utterance name, if anything."""
    if not utterance or utterance in {"-", "."}:
        return "is empty"
    if not utterance.isprintable():
        return "holds a control or invisible character"
    if ".." in utterance or utterance.startswith(("/", "~")) or "\\" in utterance:
        return "could point outside the corpus"
    if re.match(r"[A-Za-z]:", utterance):
        return "is an absolute path"
    if len(utterance.encode()) > 200:
        return "is too long"
    return None


def quote(text: str) -> str:
    """Show a value from a file, cut to a readable length, on one line."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


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
        if problem := _unsafe(utterance):
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
