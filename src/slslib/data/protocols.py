"""Protocols and keys: which utterances there are, and what they are.

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
import re
import string
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slslib.errors import ProtocolError, SlslibError

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
            if problem := unsafe(utterance):
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


def unsafe(utterance: str) -> str | None:
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
