r"""Protocols and keys: which utterances there are, and what they are.

A *protocol* (or *key*) lists one utterance per line. Its form is recognised by the number of
columns; if two forms have the same number, by the place of the labels. Every form becomes the same
table:

======================  =================================================================
form                    columns
======================  =================================================================
ids only                utterance
ASVspoof 2019 CM        speaker utterance - attack label
In-the-Wild key         \- utterance - - - label
ASVspoof 2021 LA        speaker utterance codec transmission attack label trim phase
ASVspoof 2021 DF        speaker utterance codec source attack label trim phase [vocoder ...]
ASVspoof 5              speaker utterance gender codec quality seed tag attack label [...]
a table with a header   a file column and a label column, as in In-the-Wild's ``meta.csv``
======================  =================================================================

The two 2021 forms share eight columns; utterances named ``DF_...`` mean the second. The phase of
the 2021 sets (``progress``, ``eval``, ``hidden``) is called *subset* in the challenge's papers.
Sources: the README files of the ASVspoof 2019, 2021 and 5 databases and the 2021 evaluation
package.

Tabs separate the cells if the first line holds one. Otherwise the separator is the blank, comma,
semicolon or bar that comes first in that line, so names with blanks need one of the others. A
header names its columns by the words of :data:`HEADER`, in any order; other columns are ignored.
Without a label column, the attack column gives the label: it holds ``bonafide`` or the name of an
attack. ``attrs["assumed"]`` of the table says how the file was read.

Everything in these files is checked, because a wrong row silently gives a wrong error rate: one
form per file, known labels and phases, no duplicates, and utterance names that cannot leave the
folder of the corpus. A :class:`~slslib.errors.ProtocolError` names the file, the line and the
remedy.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slslib.errors import ProtocolError, SlslibError

ErrorType = type[SlslibError]

LABELS = {"bonafide": 1, "bona-fide": 1, "spoof": 0}
"""The spellings of the two classes; 1 is bona fide, 0 is spoof."""

PHASES = {"progress": "progress", "eval": "eval", "hidden": "hidden", "hidden_track": "hidden"}
"""The spellings of the ASVspoof 2021 phases."""

COLUMNS: tuple[str, ...] = ("utterance", "label", "speaker", "attack", "codec", "transmission")
COLUMNS += ("source", "vocoder", "trim", "phase")

# The columns of the forms without a header; "-" stands for a column that is ignored.
_2021 = "speaker utterance codec {} attack label trim phase"
_FORMS = ["utterance", "speaker utterance - attack label", "- utterance - - - label"]
_FORMS += [_2021.format("transmission/source")]
_FORMS += [_2021.format("source") + " vocoder" + n * " -" for n in range(5)]
_FORMS += ["speaker utterance - codec - - - attack label" + n * " -" for n in range(5)]

HEADER = {name: name for name in COLUMNS} | {
    "utterance": "utterance file file_name filename flac_file path",
    "label": "label key",
    "score": "score llr cm-score bonafide_score",
    "speaker": "speaker speaker_id",
    "attack": "attack attack_label",
    "phase": "phase subset",
}
"""The words, in lower case, by which a header may name each column."""

_UNREADABLE = re.compile(r"[\0-\x08\x0b-\x1f\x7f\ufffd]")
_COMMON = b"\t\n" + bytes(range(32, 127))  # a file of these bytes has nothing unreadable
# Names that are empty or may leave the folder of the corpus.
_UNSAFE = re.compile(r"[-.]?$|[ /~]|[A-Za-z]:|(.*/)?\.\.(/|$)|.*(\\| $)")
_PLAIN = re.compile(r"(?a:\w[\w.-]{,99}\n)++")  # names that need no closer look
SEPARATOR = re.compile(r"[ ,;|]")
"""What separates cells if no tab does: whichever comes first in the first line."""


def separator(utterances: Iterable[str]) -> str:
    r"""Return what separates a name from its score: a blank, or a tab if names hold separators.

    >>> separator(["a.wav", "take 2.wav"])
    '\t'
    """
    return "\t" if SEPARATOR.search("".join(utterances)) else " "


def read_protocol(path: str | Path) -> pd.DataFrame:
    """Read a protocol or key of any known form.

    Args:
        path: The file.

    Returns:
        One row per utterance, in the order of the file. The string columns are ``utterance``,
        ``speaker``, ``attack``, ``codec``, ``transmission``, ``source``, ``vocoder``, ``trim`` and
        ``phase`` (``"-"`` if the form has none). ``label`` is int8: 1 bona fide, 0 spoof, -1
        unknown (ids only). The attack and vocoder of bona fide speech are always ``"-"``.

    Raises:
        ProtocolError: The file is missing, unreadable, torn, mixes forms, or has an unknown
            label or phase, a duplicate or an unsafe utterance name.
    """
    needed = " and one of ".join(HEADER[name].replace(" ", ", ") for name in COLUMNS[:2])
    remedy = f"Known are ids, ASVspoof's and In-the-Wild's keys, and headers with one of {needed}."
    cells = read_columns(path, ProtocolError, _FORMS, {n: HEADER[n] for n in COLUMNS}, remedy)
    fourth = "source" if cells["utterance"].iloc[0].startswith("DF_") else "transmission"
    frame = cells.rename(columns={"transmission/source": fourth})
    frame = frame.reindex(columns=list(COLUMNS), fill_value="-")
    frame["label"] = cells.get("label", np.int8(-1))
    phases = {"-": "-"} if (frame["phase"] == "-").all() else PHASES
    frame["phase"] = translate(path, frame["phase"], phases, ProtocolError).astype(str)
    return frame.reset_index(drop=True)


def read_columns(
    path: str | Path,
    error: ErrorType,
    forms: Sequence[str],
    header: Mapping[str, str],
    remedy: str = "Give a file of the right kind.",
    scores: bool = False,
) -> pd.DataFrame:
    """Read a table whose columns are named by its header, or by the form of its first line.

    Args:
        path: The file.
        error: The error type to raise.
        forms: For each form without a header, its columns, separated by blanks; ``-`` is a column
            that is ignored. If several forms have the right number of columns, the one is taken
            that has its label where the first line has one.
        header: The words by which a header may name each column, as in :data:`HEADER`. A header
            names the first two of these columns, and each column at most once.
        remedy: For the message: what to do about a file of no known form.
        scores: Read a score file: its last line must end with a newline, and its utterances may be
            paths.

    Returns:
        The cells as strings, in named columns; ``label`` is int8 (1 bona fide, 0 spoof). Empty
        cells below a header are ``"-"``, and so are attack and vocoder of bona fide speech. The
        index is the line, from 1. ``attrs["assumed"]`` says in a sentence which column was taken
        for what.

    Raises:
        SlslibError: Of the type given: no form fits, an utterance or label is refused, or
            :func:`read_table` refuses the file.
    """
    cells = read_table(path, error, whole_last_line=scores)
    first, needed = cells.iloc[0].tolist(), [*header][:2]
    words = {word: name for name, line in header.items() for word in line.split()}
    form = [words.get(cell.strip().lower(), "-") for cell in first]
    if has_header := not set(form).isdisjoint(needed):
        cells, where = cells.iloc[1:].replace("", "-"), first
    else:
        fitting = [names for line in forms if len(names := line.split()) == len(first)]
        if len(fitting) > 1:
            fitting = [n for n in fitting if "label" in n and first[n.index("label")] in LABELS]
        form, where = (fitting or [[]])[0], [f"column {k}" for k in range(1, len(first) + 1)]
    named = [(name, place) for place, name in enumerate(form) if name != "-"]
    table = pd.DataFrame({name: cells[place] for name, place in named}, cells.index)
    told = [f"{name} ({where[place]})" for name, place in named]
    is_clear = 0 < len(named) == table.shape[1]
    if not scores and "label" in header and "attack" in table and "label" not in table:
        table["label"] = table["attack"].str.replace(r"^[A-Z]+\d+$", "spoof", regex=True)
        told.append("label (spoof where there is an attack like A01)")
    if not is_clear or (has_header and not {*needed} <= {*table}):
        why = f"{len(first)} columns fit no known form: {quote(', '.join(first))}. {remedy}"
        raise error(f"{path}, line 1: {why}")
    if table.empty:
        raise error(f"{path}: a header and no trials. Get the file again.")
    if "utterance" in table:
        check_utterances(path, table["utterance"], error, scores)
    if "label" in table:
        table["label"] = translate(path, table["label"], LABELS, error).astype(np.int8)
        if "attack" in table:
            is_bonafide = table["attack"].isin([word for word, label in LABELS.items() if label])
            is_odd = (table["attack"] != "-") & (is_bonafide != (table["label"] == 1))
            why = "attack {} contradicts the label. Find out which of the two is wrong."
            refuse(path, table["attack"], is_odd, error, why)
        # The keys of 2021 and 5 write "bonafide" into the attack and vocoder of bona fide speech.
        table.loc[table["label"] == 1, [*{"attack", "vocoder"} & {*table}]] = "-"
    table.attrs["assumed"] = [f"{Path(path).name}: {', '.join(told)}"]
    return table


def read_table(path: str | Path, error: ErrorType, whole_last_line: bool = False) -> pd.DataFrame:
    """Read lines of the same number of cells.

    Args:
        path: The file. Tabs separate the cells if the first line holds one. Otherwise blanks and
            tabs, commas, semicolons or bars do, whichever comes first. Cells may be quoted only
            with the last three.
        error: The error type to raise.
        whole_last_line: Refuse a last line that does not end with a newline.

    Returns:
        The cells as strings. Columns are numbered from 0; the index is the line, from 1.

    Raises:
        SlslibError: Of the type given, for a file that is missing, not regular, empty, not UTF-8,
            torn, or holds control characters or blank lines.
    """
    data = _read_bytes(Path(path), error, whole_last_line)
    first, n_lines = io.BytesIO(data).readline().decode(), data.count(b"\n") + 1
    mark = "\t" if "\t" in first else (SEPARATOR.search(first.strip(" \n")) or " ")[0]
    plain = mark in "\t "
    options: dict[str, Any] = {"header": None, "dtype": str, "na_filter": False}
    options |= {"skip_blank_lines": False, "skipinitialspace": True}
    options |= {"sep": r"\s+" if mark == " " else mark, "quoting": csv.QUOTE_NONE if plain else 0}
    try:
        cells = pd.read_csv(io.BytesIO(data), **options)
    except ValueError:  # a line that is too long, an open quote
        cells = pd.DataFrame()
    # pandas fills short lines up, and lets a quoted cell span several lines.
    if len(cells) != n_lines or (cells.iloc[:, -1] == "").any():
        lines = pd.Series(data.decode().split("\n"), range(1, n_lines + 1), dtype=str)
        bare = lines if plain else lines.str.replace(r'"[^"]*("|$)', "", regex=True)
        counts = bare.str.count(r"[^ \t]+" if mark == " " else f"^|[{mark}]")
        if (counts != counts[1]).any() or len(cells) != n_lines:
            number = 1 + int(np.argmax(counts != counts[1]))
            what = f"{counts[number]} columns where line 1 has {counts[1]}, or a torn quotation"
            remedy = "The file is torn or mixes two forms; use one complete file"
            raise error(f"{path}, line {number}: {what}. {remedy}.")
    return cells.set_axis(range(1, n_lines + 1))


def _read_bytes(path: Path, error: ErrorType, whole_last_line: bool) -> bytes:
    """Read a regular file of plain text, and return it as UTF-8 without the newlines at its end."""
    try:
        if not path.is_file():
            raise error(f"{path}: no such file, or not a regular file. Correct the path.")
        text = path.read_bytes().decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
    except (OSError, ValueError) as problem:
        raise error(f"{path}: cannot be read ({problem}). Get or write it again.") from problem
    if not text or text.isspace():
        raise error(f"{path}: the file is empty. Get or write it again.")
    data = text.encode()
    if data.translate(None, _COMMON) and (unreadable := _UNREADABLE.search(text)):
        number = text.count("\n", 0, unreadable.start()) + 1
        why = f"control character, or not UTF-8: {unreadable[0]!r}. Save it as UTF-8"
        raise error(f"{path}, line {number}: {why}, or get it again.")
    if whole_last_line and not data.endswith(b"\n"):
        why = "the last line does not end with a newline, so it may be cut short. Write it again"
        raise error(f"{path}, line {text.count(chr(10)) + 1}: {why}, or add the newline.")
    return data.rstrip(b"\n")


def translate(
    path: str | Path, values: pd.Series, known: Mapping[str, Any], error: ErrorType
) -> pd.Series:
    """Translate the values of a column, and refuse those that are not known.

    Args:
        path: The file they come from, for the message.
        values: The values, by line; the message uses the column's name.
        known: What each known value stands for.
        error: The error type to raise for an unknown value.
    """
    translated = values.astype("category").map(known)
    remedy = f"Known are {', '.join(known)}"
    refuse(path, values, translated.isna(), error, f"unknown {values.name} {{}}. {remedy}.")
    return translated


def check_utterances(
    path: str | Path, utterances: pd.Series, error: ErrorType, paths: bool = False
) -> None:
    """Refuse duplicate utterance names, and names that could leave the corpus folder.

    Args:
        path: The file they come from, for the message.
        utterances: The names, by line.
        error: The error type to raise.
        paths: Accept folders before a name, wherever they are.
    """
    if not _PLAIN.fullmatch("\n".join(utterances.tolist()) + "\n"):
        names = utterances.str.replace(r"^.*[/\\]", "", regex=True) if paths else utterances
        why = "utterance name {} is empty or too long, holds invisible characters or could point "
        why += "outside the corpus. Correct or remove the line."
        refuse(path, utterances, [not is_safe(name) for name in names], error, why)
    if not pd.Index(utterances).is_unique:
        repeated = utterances.duplicated()
        first = (utterances == utterances[repeated].iloc[0]).idxmax()
        why = f"{{}} is already on line {first} (repetitions: {repeated.sum()}). "
        why += "A trial counts once; remove the repetitions."
        refuse(path, utterances, repeated, error, why)


def refuse(path: str | Path, values: pd.Series, wrong: Any, error: ErrorType, why: str) -> None:
    """Raise an error about the first wrong value, if there is one.

    Args:
        path: The file they come from.
        values: The values, by line.
        wrong: Which values are wrong.
        error: The error type to raise.
        why: The message, with ``{}`` for the value.
    """
    if np.any(wrong):
        place = int(np.argmax(wrong))
        raise error(f"{path}, line {values.index[place]}: {why.format(quote(values.iloc[place]))}")


def is_safe(utterance: str) -> bool:
    """Tell whether a name is printable, short, and that of a file inside the corpus folder."""
    is_short = utterance.isprintable() and len(utterance.encode()) <= 200
    return is_short and not _UNSAFE.match(utterance)


def quote(text: str) -> str:
    """Return a value from a file as it is shown: on one line, and cut to a readable length."""
    return repr(text if len(text) <= 80 else text[:77] + "...")
