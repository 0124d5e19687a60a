"""Score files: reading them, and matching them with a key, without ever losing a trial.

A score file has one trial per line: ``utterance score``, or ``utterance attack key score`` as
some systems write it. Scores of a speaker verification system, needed for the t-DCF, have three
columns: ``attack-or-bonafide target|nontarget|spoof score`` (ASVspoof 2019), or ``speaker
utterance score`` line by line beside a key of eight columns (ASVspoof 2021).

A score file that is cut short still parses up to its last digit, and a duplicate of an easy trial
lowers the error rate without a word. So the last line must end with a newline, every score must be
a finite decimal number, names must be unique, and the trials must be exactly those of the key.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from slslib.data.protocols import (
    LABELS,
    PHASES,
    check_utterances,
    quote,
    read_lines,
    split_columns,
    translate,
)
from slslib.errors import ConfigError, ScoreError

ScoreFormat = Literal["auto", "two", "four"]
"""Columns of a score file; ``auto`` tells them apart."""

ASV_KINDS = ("target", "nontarget", "spoof")
"""The three kinds of trial of a speaker verification system."""

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_DECIMAL = b"0123456789+-.eE"


def format_score(score: float) -> str:
    """Write a score so that reading it gives the same number.

    >>> format_score(0.1 + 0.2)
    '0.30000000000000004'

    Raises:
        ScoreError: The score is not finite.
    """
    if not math.isfinite(score):
        raise ScoreError(f"score {score!r} is not finite and cannot be written.")
    return repr(float(score))


def read_scores(path: str | Path, format: ScoreFormat = "auto") -> pd.DataFrame:
    """Read a score file of two or four columns, plain or gzipped.

    Args:
        path: The file.
        format: What to expect; by default told by the first line.

    Returns:
        ``utterance`` and ``score`` (float64) in the order of the file; with four columns also
        ``attack`` and ``label`` (int8, 1 bona fide, 0 spoof).

    Raises:
        ScoreError: The file is malformed; the message names the line and the remedy.
    """
    lines = read_lines(path, ScoreError, whole_last_line=True)
    n = len(lines[0].split())
    wanted = {"auto": (2, 4), "two": (2,), "four": (4,)}.get(format)
    if wanted is None:
        raise ConfigError(f"format {format!r} of a score file: choose auto, two or four (columns).")
    if n not in wanted:
        raise ScoreError(
            f"{path}, line 1: {n} columns where {' or '.join(map(str, wanted))} are expected: "
            f"{quote(lines[0])}. Write 'utterance score' or 'utterance attack key score'."
        )
    columns = split_columns(path, lines, n, ScoreError)
    check_utterances(path, columns[0], 1, ScoreError)
    frame = pd.DataFrame({"utterance": columns[0], "score": _numbers(path, columns[-1])})
    if n == 4:
        labels = translate(path, columns[2], LABELS, "key", error=ScoreError)
        frame["attack"], frame["label"] = columns[1], np.array(labels, np.int8)
        frame.loc[frame["label"] == 1, "attack"] = "-"
    return frame


def read_asv_scores(path: str | Path, key: str | Path | None = None) -> pd.DataFrame:
    """Read the scores of a speaker verification system.

    Args:
        path: Three columns, of the 2019 or the 2021 form.
        key: The 2021 key (``keys/LA/ASV/trial_metadata.txt``), line by line beside the scores:
            speaker, utterance, codec, transmission, attack, kind, trim, phase.

    Returns:
        ``kind`` (target, nontarget or spoof), ``attack``, ``codec``, ``phase`` and ``score``;
        ``"-"`` where the form has none.

    Raises:
        ScoreError: A file is malformed, or the two do not fit line by line.
    """
    lines = read_lines(path, ScoreError, whole_last_line=True)
    first, second, values = split_columns(path, lines, 3, ScoreError)
    scores = _numbers(path, values)
    if set(second) <= set(ASV_KINDS):
        if key is not None:
            raise ScoreError(f"{path}: holds its own labels (2019 form). Leave the ASV key out.")
        return pd.DataFrame(
            {"kind": second, "attack": first, "codec": "-", "phase": "-", "score": scores}
        )
    if key is None:
        raise ScoreError(
            f"{path}, line 1: {quote(lines[0])} has no target, nontarget or spoof in its "
            "second column. Scores of the 2021 form need their key (--asv-key)."
        )
    _, names, codecs, _, attacks, kinds, _, phases = split_columns(
        key, read_lines(key, ScoreError), 8, ScoreError
    )
    if names != second:
        pairs = enumerate(zip_longest(names, second), 1)
        number = next(number for number, (a, b) in pairs if a != b)
        raise ScoreError(
            f"{path}, line {number}: does not fit the key {key}: {len(second)} scores, "
            f"{len(names)} trials, different from this line on. The two go line by line; "
            "use the files as distributed."
        )
    return pd.DataFrame({
        "kind": translate(key, kinds, {kind: kind for kind in ASV_KINDS}, "kind", error=ScoreError),
        "attack": attacks,
        "codec": codecs,
        "phase": [PHASES.get(phase, phase) for phase in phases],
        "score": scores,
    })  # fmt: skip


def read_c012(path: str | Path, phase: str) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Read a table of t-DCF weights, as the ASVspoof 2021 organisers give them.

    Args:
        path: CSV with the columns ``subset,attack,codec,C0,C1,C2``, where ``Pooled`` stands for
            all attacks or codecs.
        phase: ``progress`` (also spelt ``prog``), ``eval`` or ``hidden``.

    Returns:
        C0, C1 and C2 by attack and codec; conditions without numbers are left out.

    Raises:
        ScoreError: The file is malformed or has no pooled weights for the phase.
    """
    names = ["subset", "attack", "codec", "C0", "C1", "C2"]
    lines = read_lines(path, ScoreError)
    if lines[0].split(",") != names:
        raise ScoreError(f"{path}, line 1: {quote(lines[0])} where {','.join(names)!r} is needed.")
    table = {}
    for number, line in enumerate(lines[1:], 2):
        subset, *condition = (cells := line.split(","))[:3]
        try:
            c0, c1, c2 = map(float, cells[3:])
        except ValueError as error:
            raise ScoreError(
                f"{path}, line {number}: {quote(line)} is no row of weights."
            ) from error
        if PHASES.get({"prog": "progress"}.get(subset, subset)) == phase and math.isfinite(c0):
            table[condition[0], condition[1]] = (c0, c1, c2)
    if ("Pooled", "Pooled") not in table:
        raise ScoreError(f"{path}: no pooled weights for phase {phase}. Choose another (--phase).")
    return table


def select_phase(key: pd.DataFrame, phase: str | None = None) -> tuple[pd.DataFrame, str]:
    """Choose the trials of one phase; phases are never pooled unless asked.

    Args:
        key: A table of :func:`slslib.data.protocols.read_protocol`.
        phase: ``progress``, ``eval``, ``hidden``, or ``all`` to pool them. By default ``eval``
            where the key has it, else the only phase it has.

    Returns:
        The trials and the phase's name, ``"all"`` for a key without phases.

    Raises:
        ScoreError: The key has no such phase, or several and none is ``eval``.
    """
    found = set(key["phase"].unique())
    present = [name for name in dict.fromkeys(PHASES.values()) if name in found]
    if phase is None:
        if len(present) > 1 and "eval" not in present:
            raise ScoreError(
                f"the key has the phases {', '.join(present)}. Choose one (--phase), or 'all'."
            )
        phase = "eval" if "eval" in present else present[0] if present else "all"
    if phase == "all":
        return key, "all"
    if phase not in present:
        raise ScoreError(
            f"the key has no phase {phase!r}; it has {', '.join(present) or 'none'}. "
            f"Choose {'one of these' if present else 'no phase'} (--phase)."
        )
    return key[key["phase"] == phase].reset_index(drop=True), phase


def match(
    scores: pd.DataFrame,
    key: pd.DataFrame,
    phase: str | None = None,
    allow_missing: bool = False,
) -> pd.DataFrame:
    """Join scores and key, trial by trial.

    Every trial of the phase must have a score. Scores of trials outside the phase are left out:
    the challenge's score files hold all phases. A scored trial that the whole key does not know is
    an error, unless the key holds a single phase and so is known to be a part.

    Args:
        scores: A table of :func:`read_scores`. Its attacks and labels, if any, must agree.
        key: A table of :func:`slslib.data.protocols.read_protocol`, with labels.
        phase: As for :func:`select_phase`.
        allow_missing: Leave out trials without a score instead of refusing.

    Returns:
        The key's rows that have a score, in the key's order, with the column ``score``.

    Raises:
        ScoreError: Missing or unknown trials, unknown labels, or columns that disagree.
    """
    chosen, phase = select_phase(key, phase)
    if (chosen["label"] < 0).any():
        raise ScoreError(
            "the key has trials without labels, so it is a list of ids. "
            "Use the key with labels (ASVspoof 2021: keys/*/CM/trial_metadata.txt)."
        )
    names = scores["utterance"]
    at = pd.Index(names).get_indexer(pd.Index(chosen["utterance"]))
    missing = chosen["utterance"][at < 0]
    is_part = key["phase"].nunique() == 1 and key["phase"].iloc[0] != "-"
    unknown = [] if is_part else names[~names.isin(key["utterance"])].tolist()
    problems = []
    if len(missing) and (not allow_missing or len(missing) == len(chosen)):
        problems.append(
            f"{len(missing)} of {len(chosen)} trials (phase {phase}) have no score: "
            f"{_examples(missing.tolist())}"
        )
    if unknown:
        problems.append(
            f"{len(unknown)} of {len(scores)} scored trials are not in the key: "
            f"{_examples(unknown)}"
        )
    if problems:
        absent, surplus = (
            {re.sub(r"\.[^.]*$", "", n) for n in names} for names in (missing, unknown)
        )
        hint = "The names differ by a suffix like .wav. " if absent & surplus else ""
        raise ScoreError(
            f"scores and key do not fit: {'; '.join(problems)}. {hint}Use the key of the scored "
            "corpus and score every trial (--allow-missing evaluates what there is)."
        )
    found = chosen[at >= 0].reset_index(drop=True)
    rows = scores.iloc[at[at >= 0]].reset_index(drop=True)
    for column in ("label", "attack"):
        if column in rows:
            _agree(found, rows, column)
    return found.assign(score=rows["score"].to_numpy())


def _agree(key: pd.DataFrame, scores: pd.DataFrame, column: str) -> None:
    """Refuse score files whose own attacks or labels are not those of the key."""
    wrong = key[column] != scores[column]
    if column == "attack":  # some keys do not tell the attack
        wrong &= (key[column] != "-") & (scores[column] != "-")
    if wrong.any():
        k = int(np.flatnonzero(wrong)[0])
        raise ScoreError(
            f"{int(wrong.sum())} trials have another {column} in the score file than in the key: "
            f"{key['utterance'][k]} has {scores[column][k]} there and {key[column][k]} in the key. "
            "Use the key the scores were made with."
        )


def _numbers(path: str | Path, values: Sequence[str]) -> np.ndarray:
    """Parse scores, refusing what Python reads and a score is not ('nan', '1_000', '1e999')."""
    with contextlib.suppress(ValueError):
        numbers = np.array([float(value) for value in values])
        if np.isfinite(numbers).all() and not "".join(values).encode().translate(None, _DECIMAL):
            return numbers
    number, value = next(
        (k, v) for k, v in enumerate(values, 1)
        if not _NUMBER.fullmatch(v) or not math.isfinite(float(v))
    )  # fmt: skip
    raise ScoreError(
        f"{path}, line {number}: score {quote(value)} is not a finite number. "
        "Find out why the system gave it; a missing score is better left out."
    )


def _examples(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
