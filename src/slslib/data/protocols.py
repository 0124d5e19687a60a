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
In-the-Wild meta.csv    file,speaker,label (commas and a header; also file_name,label)
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
import zlib
from collections.abc import Collection, Mapping, Sequence
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

# Where each quantity stands in a line, by the number of columns; a header says it itself.
_2019 = {"speaker": 0, "utterance": 1, "attack": 3, "label": 4}
_WILD = {"utterance": 1, "label": 5}
_2021 = {"speaker": 0, "utterance": 1, "codec": 2, "attack": 4, "label": 5, "trim": 6, "phase": 7}
_LA, _DF = _2021 | {"transmission": 3}, _2021 | {"source": 3}
_FORMS = {1: {"utterance": 0}, 5: _2019, 6: _WILD, 8: _LA}
_FORMS |= dict.fromkeys(range(9, 14), _DF | {"vocoder": 8})
_HEADER = {"file": "utterance", "file_name": "utterance", "speaker": "speaker", "label": "label"}

_MAX_BYTES = 200 * 2**20  # the largest official key has some 60 MB
_UNREADABLE = re.compile(r"[\0-\x08\x0b-\x1f\x7f\ufffd]")
# Names that are empty or may leave the folder of the corpus.
_UNSAFE = re.compile(r"[-.]?$|[/~]|[A-Za-z]:|.*(\.\.|\\)")


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
    cells = read_table(path, ProtocolError)
    header = [_HEADER.get(cell.strip().lower()) for cell in cells.iloc[0]]
    if {"utterance", "label"} <= set(header):
        form = {name: place for place, name in enumerate(header) if name}
        cells = cells.iloc[1:].replace("", "-")
    elif (n_columns := cells.shape[1]) in _FORMS:
        is_df = n_columns == 8 and cells[1].iloc[0].startswith("DF_")
        form = _DF if is_df else _FORMS[n_columns]
    else:
        raise ProtocolError(
            f"{path}, line 1: {n_columns} columns fit no known protocol. Known are 1 (ids), 5 "
            "(ASVspoof 2019), 6 (In-the-Wild), 8 to 13 (2021) and meta.csv; scores have 2 to 4."
        )
    columns = {name: cells[form[name]] if name in form else "-" for name in COLUMNS}
    frame = pd.DataFrame(columns, index=cells.index)
    if frame.empty:
        raise ProtocolError(f"{path}: a header and no trials. Get the file again.")
    check_utterances(path, frame["utterance"], ProtocolError)
    labels = LABELS if "label" in form else {"-": -1}
    frame["label"] = translate(path, frame["label"], labels, ProtocolError).astype(np.int8)
    frame["phase"] = translate(path, frame["phase"], PHASES | {"-": "-"}, ProtocolError)
    # The 2021 keys write "bonafide" into the attack and vocoder of bona fide speech.
    frame.loc[frame["label"] == 1, ["attack", "vocoder"]] = "-"
    return frame.reset_index(drop=True)


def read_table(
    path: str | Path,
    error: type[SlslibError],
    n_columns: Collection[int] = (),
    *,
    whole_last_line: bool = False,
) -> pd.DataFrame:
    """Read lines of the same number of cells, separated by blanks or by commas.

    Args:
        path: The file; gzip is recognised by its content. Whichever of blank and comma stands
            first separates the cells; only with commas may cells be quoted.
        error: The error type to raise.
        n_columns: The numbers of columns that are known; any by default.
        whole_last_line: Refuse a last line that does not end with a newline.

    Returns:
        The cells as strings. Columns are numbered from 0; the index is the line, from 1.

    Raises:
        SlslibError: Of the type given, for a file that is missing, not regular, empty, too large,
            damaged, not UTF-8, torn, or holds control characters or blank lines.
    """
    text = _read_text(Path(path), error, whole_last_line).replace("\t", " ")
    lines = [line.strip(" ") for line in text.split("\n")]
    comma = bool(re.match(r"[^ ,]+,", lines[0]))
    form: dict[str, Any] = {} if comma else {"delimiter": " ", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(lines, skipinitialspace=True, **form)
    rows: list[list[str]] = []
    try:
        for row in reader:
            number, n = len(rows) + 1, len(rows[0] if rows else row)
            if len(row) != n or reader.line_num != number:  # a quoted cell of two lines
                raise error(
                    f"{path}, line {number}: {len(row)} columns where line 1 has {n}. The file is "
                    "torn or mixes two forms; use one complete file."
                )
            rows.append(row)
    except csv.Error as problem:
        raise error(f"{path}: {problem}. The file is torn; get or write it again.") from problem
    if n_columns and n not in n_columns:
        raise error(
            f"{path}, line 1: {n} columns where {' or '.join(map(str, n_columns))} are expected. "
            "Give a file of the right kind."
        )
    return pd.DataFrame(rows, range(1, len(rows) + 1), dtype=str)


def _read_text(path: Path, error: type[SlslibError], whole_last_line: bool) -> str:
    """Read a regular file of plain text, bounded, and unpack it if it is gzipped."""
    try:
        if not path.is_file():
            raise error(f"{path}: no such file, or not a regular file. Correct the path.")
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if data.startswith(b"\x1f\x8b"):
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(_MAX_BYTES + 1)
    except (OSError, ValueError, EOFError, zlib.error) as problem:
        raise error(f"{path}: cannot be read ({problem}). Get or write it again.") from problem
    text = data.decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
    if len(data) > _MAX_BYTES or not text.strip():
        raise error(f"{path}: the file is empty, or has more than {_MAX_BYTES >> 20} MiB.")
    if unreadable := _UNREADABLE.search(text):
        number = text.count("\n", 0, unreadable.start()) + 1
        why = f"control character, or not UTF-8: {unreadable[0]!r}. Save it as UTF-8"
        raise error(f"{path}, line {number}: {why}, or get it again.")
    if whole_last_line and not text.endswith("\n"):
        raise error(
            f"{path}, line {text.count(chr(10)) + 1}: the last line does not end with a newline, "
            "so it may be cut short. Write the file again, or add the newline."
        )
    return text.rstrip("\n")


def translate(
    path: str | Path, values: pd.Series, known: Mapping[str, Any], error: type[SlslibError]
) -> pd.Series:
    """Translate the values of a column, of which only some are known.

    Args:
        path: The file they come from, for the message.
        values: The values, by line; the column's name is for the message.
        known: What each stands for.
        error: The error type to raise for an unknown one.
    """
    translated = values.map(known)
    if (unknown := translated.isna()).any():
        number, value = first_of(values, unknown)
        why = f"unknown {values.name} {quote(value)}. Known are {', '.join(known)}"
        raise error(f"{path}, line {number}: {why}.")
    return translated


def check_utterances(path: str | Path, utterances: pd.Series, error: type[SlslibError]) -> None:
    """Refuse duplicate utterance names and those that could leave the corpus folder.

    Args:
        path: The file they come from, for the message.
        utterances: The names, by line.
        error: The error type to raise.
    """
    if any(unsafe := [not is_safe(name) for name in utterances.tolist()]):
        number, name = first_of(utterances, unsafe)
        raise error(
            f"{path}, line {number}: utterance name {quote(name)} is empty or too long, holds "
            "invisible characters or could point outside the corpus. Correct or remove the line."
        )
    if (repeated := utterances.duplicated()).any():
        number, name = first_of(utterances, repeated)
        raise error(
            f"{path}, line {number}: {name!r} stands already in line "
            f"{first_of(utterances, utterances == name)[0]} ({repeated.sum()} duplicates in all). "
            "A trial counts once; remove the repetitions."
        )


def is_safe(utterance: str) -> bool:
    """Tell whether a name is one of a file in the corpus folder, and visible."""
    is_short = utterance.isprintable() and len(utterance.encode()) <= 200
    return is_short and not _UNSAFE.match(utterance)


def first_of(values: pd.Series, chosen: pd.Series | Sequence[bool]) -> tuple[int, str]:
    """Return the line and the value of the first that is chosen."""
    place = int(np.argmax(chosen))
    return values.index[place], values.iloc[place]


def quote(text: str) -> str:
    """Show a value from a file, cut to a readable length, on one line."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


SAME_ALGORITHM = {"A16": "A04", "A19": "A06"}
"""Evaluation attacks of ASVspoof 2019 and 2021, and the training attacks of the same algorithm.

Wang et al., "ASVspoof 2019: a large-scale public database", Computer Speech & Language 64 (2020).
"""


def known_attacks(training: pd.DataFrame) -> set[str]:
    """Return the attacks that a training set holds, by all names that keys give them.

    Args:
        training: A table with the column ``attack``.

    >>> sorted(known_attacks(pd.DataFrame({"attack": ["-", "A03", "A04"]})))
    ['A03', 'A04', 'A16']
    """
    seen = set(training["attack"]) - {"-"}
    return seen | {name for name, same in SAME_ALGORITHM.items() if same in seen}
