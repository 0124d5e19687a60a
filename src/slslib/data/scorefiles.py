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

import math
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from slslib.data.protocols import (
    LABELS,
    PHASES,
    check_utterances,
    first_of,
    quote,
    read_table,
    translate,
)
from slslib.errors import ConfigError, ScoreError

ScoreFormat = Literal["auto", "two", "four"]
"""Columns of a score file; ``auto`` tells them apart."""

ASV_KINDS = ("target", "nontarget", "spoof")
"""The three kinds of trial of a speaker verification system."""

_N_COLUMNS = {"auto": (2, 4), "two": (2,), "four": (4,)}
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


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
    if format not in _N_COLUMNS:
        raise ConfigError(f"format {format!r} of a score file: choose auto, two or four (columns).")
    cells = read_table(path, ScoreError, _N_COLUMNS[format], whole_last_line=True)
    check_utterances(path, cells[0], ScoreError)
    scores = _numbers(path, cells.iloc[:, -1].rename("score"))
    table = pd.DataFrame({"utterance": cells[0], "score": scores})
    if cells.shape[1] == 4:
        labels = translate(path, cells[2].rename("key"), LABELS, ScoreError)
        table["attack"], table["label"] = cells[1].mask(labels == 1, "-"), labels.astype(np.int8)
    return table.reset_index(drop=True)


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
    cells = read_table(path, ScoreError, (3,), whole_last_line=True)
    scores = _numbers(path, cells[2].rename("score"))
    if cells[1].isin(ASV_KINDS).all() == (key is not None):
        raise ScoreError(
            f"{path}: scores of the 2019 form hold their labels and go without a key; those of "
            "the 2021 form need their key (--asv-key)."
        )
    if key is None:
        table = pd.DataFrame({"kind": cells[1], "attack": cells[0], "codec": "-", "phase": "-"})
        return table.assign(score=scores).reset_index(drop=True)
    trials = read_table(key, ScoreError, (8,))
    ours, theirs = trials[1].align(cells[1])
    if (differ := ours != theirs).any():
        raise ScoreError(
            f"{path}, line {differ.idxmax()}: does not fit the key {key} ({len(cells)} scores, "
            f"{len(trials)} trials). The two go line by line; use the files as distributed."
        )
    table = trials[[5, 4, 2, 7]].set_axis(["kind", "attack", "codec", "phase"], axis=1)
    table["kind"] = translate(key, table["kind"], {kind: kind for kind in ASV_KINDS}, ScoreError)
    table["phase"] = table["phase"].replace(PHASES)
    return table.assign(score=scores).reset_index(drop=True)


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
    header = ["subset", "attack", "codec", "C0", "C1", "C2"]
    cells = read_table(path, ScoreError, (6,))
    if list(cells.iloc[0]) != header:
        raise ScoreError(f"{path}, line 1: the header has to be {','.join(header)}.")
    cells = cells.iloc[1:].set_axis(header, axis=1)
    spellings = cells["subset"].replace({"prog": "progress"} | PHASES)
    cells = cells[(spellings == phase) & (cells["C0"].str.lower() != "nan")]
    costs = [_numbers(path, cells[name]) for name in header[3:]]
    rows = zip(cells["attack"], cells["codec"], *costs, strict=True)
    weights = {(attack, codec): (c0, c1, c2) for attack, codec, c0, c1, c2 in rows}
    if ("Pooled", "Pooled") not in weights:
        raise ScoreError(f"{path}: no pooled weights for phase {phase}. Choose another (--phase).")
    return weights


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
    present = [name for name in ("progress", "eval", "hidden") if name in set(key["phase"])]
    if phase is None:
        phase = "eval" if len(present) > 1 else next(iter(present), "all")
    if phase == "all":
        return key, "all"
    if phase not in present:
        raise ScoreError(
            f"the key has no phase {phase!r}; it has {', '.join(present) or 'none'}. "
            "Choose one of its phases, or 'all' (--phase)."
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
    scored = scores["utterance"]
    places = pd.Index(scored).get_indexer(pd.Index(chosen["utterance"]))
    missing = chosen["utterance"][places < 0]
    is_part = key["phase"].nunique() == 1 and key["phase"].iloc[0] != "-"
    unknown = scored.iloc[:0] if is_part else scored[~scored.isin(key["utterance"])]
    refused = missing.iloc[:0] if allow_missing and len(missing) < len(chosen) else missing
    if len(refused) or len(unknown):
        raise ScoreError(
            f"scores and key do not fit: {len(refused)} of {len(chosen)} trials (phase {phase}) "
            f"have no score{_examples(refused)}; {len(unknown)} of {len(scores)} scored trials are "
            f"not in the key{_examples(unknown)}. Use the key of the scored corpus, with the same "
            "endings, and score every trial (--allow-missing evaluates what there is)."
        )
    matched = chosen[places >= 0].reset_index(drop=True)
    rows = scores.iloc[places[places >= 0]].reset_index(drop=True)
    for column in {"label", "attack"} & set(rows):
        ours, theirs = matched[column].astype(str), rows[column].astype(str)
        wrong = (ours != theirs) & (ours != "-") & (theirs != "-")  # some do not tell the attack
        if wrong.any():
            row, value = first_of(theirs, wrong)
            raise ScoreError(
                f"{wrong.sum()} trials have another {column} in the score file than in the key: "
                f"{matched['utterance'][row]} has {value} there and {ours[row]} in the key. "
                "Use the key the scores were made with."
            )
    return matched.assign(score=rows["score"].to_numpy())


def _numbers(path: str | Path, cells: pd.Series) -> pd.Series:
    """Parse numbers, refusing what Python reads and a score is not ('nan', '1_000', '1e999')."""
    values = [float(cell) if _NUMBER.fullmatch(cell) else math.nan for cell in cells.tolist()]
    numbers = pd.Series(values, cells.index, float)
    if (wrong := ~numbers.abs().lt(math.inf)).any():
        line, cell = first_of(cells, wrong)
        raise ScoreError(
            f"{path}, line {line}: {cells.name} {quote(cell)} is not a finite number. Find out why "
            "the system gave it; a missing score is better left out."
        )
    return numbers


def _examples(utterances: pd.Series) -> str:
    """Name the first few, if any."""
    more = ", ..." if len(utterances) > 3 else ""
    return f" ({', '.join(utterances[:3])}{more})" if len(utterances) else ""
