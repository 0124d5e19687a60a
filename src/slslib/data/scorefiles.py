"""Score files: reading them, and matching them with a key, without ever losing a trial.

A score file has one trial per line:

==========================  ==================================================================
columns                     recognised by
==========================  ==================================================================
utterance score             their number
utterance score label       the place of the label; also ``utterance label score``
utterance attack key score  their number (ASVspoof 2019)
utterance spoof bonafide    ``format="utterance,spoof,bonafide"``: the file does not say the order
a table with a header       the words of :data:`slslib.data.protocols.HEADER`, or ``format``
==========================  ==================================================================

If a line has two logits, the score is their difference, the log-likelihood ratio. Cells are
separated as in keys (:mod:`slslib.data.protocols`); names with blanks need tabs or commas.

The t-DCF needs scores of a speaker verification system. They have three columns:
``attack-or-bonafide target|nontarget|spoof score`` (ASVspoof 2019), or ``speaker utterance score``
line by line beside a key of eight columns (ASVspoof 2021).

A score file that was cut short can still be parsed, up to its last digit, and a duplicate of an
easy trial silently lowers the error rate. Therefore the last line must end with a newline, every
score must be a finite decimal number, names must be unique, and the trials must be exactly those of
the key. A name may have another ending than in the key, and it may be a path if no name in the key
is one. It then stands for the trial with the same stem, provided that only one trial has this stem.
``attrs["assumed"]`` of the result says so.
"""

import math
import re
from pathlib import Path

import pandas as pd

from slslib.data.headers import AUDIO_SUFFIXES
from slslib.data.protocols import HEADER, PHASES, read_columns, refuse, translate
from slslib.errors import ScoreError

ASV_KINDS = ("target", "nontarget", "spoof")
"""The kinds of trial of a speaker verification system."""

_FORMS = [f"utterance {x}" for x in ("score", "score label", "label score", "attack label score")]
_FOLDERS, _ENDING = r"^.*[/\\]|", rf"(?i:{'|'.join(AUDIO_SUFFIXES)})$".replace(".", r"\.")
_NUMBER = r"(?a:[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
_NUMBERS = re.compile(rf"(?:{_NUMBER}\n)++")


def format_score(score: float) -> str:
    """Write a score so that reading it gives the same number.

    >>> format_score(0.1 + 0.2)
    '0.30000000000000004'
    """
    return repr(float(score))


def read_scores(path: str | Path, format: str = "auto") -> pd.DataFrame:
    """Read a score file of any known form.

    Args:
        path: The file.
        format: The columns, such as ``utterance,spoof,bonafide``, or the header's name for the
            score. By default the header or the first line decides.

    Returns:
        ``utterance`` and ``score`` (float64) in the order of the file; also ``attack`` and
        ``label`` (int8, 1 bona fide, 0 spoof) if the file has them. ``attrs["assumed"]`` says which
        column was taken for what.

    Raises:
        ScoreError: The file is malformed or of no known form; the message names the line and the
            remedy.
    """
    remedy = (
        "Name the columns: --format utterance,score or, of two logits, utterance,spoof,bonafide or "
        "utterance,bonafide,spoof; of a table with a header, the column of scores."
    )
    forms, header = _FORMS, {n: HEADER[n] for n in ("utterance", "score", "label", "attack")}
    if format != "auto":
        forms, header["score"] = [format.replace(",", " ")], format.lower()
    table = read_columns(path, ScoreError, forms, header, remedy, scores=True)
    for name in {"score", "spoof", "bonafide"} & {*table}:
        table[name] = _numbers(path, table[name])
    if {"spoof", "bonafide"} <= {*table}:
        table["score"] = table.pop("bonafide") - table.pop("spoof")
    if not {"utterance", "score"} <= {*table}:
        raise ScoreError(f"{path}: {format!r} names no utterance or no score. {remedy}")
    return table.reset_index(drop=True)


def read_asv_scores(path: str | Path, key: str | Path | None = None) -> pd.DataFrame:
    """Read the scores of a speaker verification system.

    Args:
        path: A file of three columns, of the 2019 or the 2021 form.
        key: The 2021 key (``keys/LA/ASV/trial_metadata.txt``), line by line beside the scores:
            speaker, utterance, codec, transmission, attack, kind, trim, phase.

    Returns:
        ``kind`` (target, nontarget or spoof), ``phase`` (``"-"`` in the 2019 form) and ``score``.

    Raises:
        ScoreError: A file is malformed, or the two do not fit line by line.
    """
    cells = read_columns(path, ScoreError, ("- kind score",), {}, scores=True)
    scores = _numbers(path, cells["score"])
    if cells["kind"].isin(ASV_KINDS).all() == (key is not None):
        what = "scores of the 2019 form hold their labels and go without a key"
        raise ScoreError(f"{path}: {what}; those of the 2021 form need their key (--asv-key).")
    if key is None:
        return cells[["kind"]].assign(phase="-", score=scores).reset_index(drop=True)
    trials = read_columns(key, ScoreError, ("- trial - - - kind - phase",), {})
    ours, theirs = trials["trial"].align(cells["kind"])
    if (differ := ours != theirs).any():
        what = f"does not fit the key {key} ({len(cells)} scores, {len(trials)} trials)"
        remedy = "The two go line by line; use the files as distributed"
        raise ScoreError(f"{path}, line {differ.idxmax()}: {what}. {remedy}.")
    kinds = translate(key, trials["kind"], {kind: kind for kind in ASV_KINDS}, ScoreError)
    table = trials[["kind", "phase"]].replace({"phase": PHASES})
    return table.assign(kind=kinds.astype(str), score=scores).reset_index(drop=True)


def select_phase(key: pd.DataFrame, phase: str | None = None) -> tuple[pd.DataFrame, str]:
    """Choose the trials of one phase; phases are never pooled unless asked.

    Args:
        key: A table of :func:`slslib.data.protocols.read_protocol`.
        phase: ``progress``, ``eval``, ``hidden``, or ``all`` to pool them. By default ``eval`` if
            the key has several phases, else its only phase.

    Returns:
        The trials, and the phase's name (``"all"`` for a key without phases).

    Raises:
        ScoreError: The key has no such phase, or several and none is ``eval``.
    """
    present = [name for name in ("progress", "eval", "hidden") if name in key["phase"].unique()]
    if phase is None:
        phase = "eval" if len(present) > 1 else next(iter(present), "all")
    if phase == "all":
        return key, "all"
    if phase not in present:
        what = f"the key has no phase {phase!r}; it has {', '.join(present) or 'none'}"
        raise ScoreError(f"{what}. Choose one of its phases, or 'all' (--phase).")
    return key[key["phase"] == phase].reset_index(drop=True), phase


def match(
    scores: pd.DataFrame,
    key: pd.DataFrame,
    phase: str | None = None,
    allow_missing: bool = False,
    allow_extra: bool = False,
) -> pd.DataFrame:
    """Join scores and key, trial by trial.

    Every trial of the phase must have a score. Scores of trials outside the phase are left out,
    because the challenge's score files hold all phases. A scored trial that is nowhere in the key
    is an error, unless the key holds a single phase and so is known to be a part.

    Args:
        scores: A table of :func:`read_scores`. Its attacks and labels, if any, must agree.
        key: A table of :func:`slslib.data.protocols.read_protocol`, with labels.
        phase: As for :func:`select_phase`.
        allow_missing: Leave out trials without a score instead of refusing.
        allow_extra: Leave out scores of trials that the key does not know instead of refusing.

    Returns:
        The key's rows that have a score, in the key's order, with the column ``score``.
        Its ``attrs`` hold ``phase``, ``n_missing`` (trials of the phase without a score),
        ``n_extra`` (scores that were left out) and ``assumed`` (how the scores were read, and how
        names were matched).

    Raises:
        ScoreError: Trials are missing or unknown, labels are unknown, or columns disagree.
    """
    scored, known = pd.Index(scores["utterance"]), key["utterance"]
    places = scored.get_indexer(known)
    if (places >= 0).sum() < len(scored):
        scored = pd.Index(_spell(scores["utterance"], known))
        places = scored.get_indexer(known)
    chosen, phase = select_phase(key.assign(place=places), phase)
    if (chosen["label"] < 0).any():
        remedy = "Use the key with labels (ASVspoof 2021: keys/*/CM/trial_metadata.txt)"
        raise ScoreError(f"the key has trials without labels, so it is a list of ids. {remedy}.")
    missing = chosen["utterance"][chosen["place"] < 0]
    is_part = allow_extra or (key["phase"].nunique() == 1 and key["phase"].iloc[0] != "-")
    unknown = scored[:0] if is_part else scored.delete(places[places >= 0])
    refused = missing.iloc[:0] if allow_missing and len(missing) < len(chosen) else missing
    if len(refused) or len(unknown):
        bare = f"{len(refused)} of {len(chosen)} trials (phase {phase}) have no score"
        extra = f"{len(unknown)} of {len(scores)} scored trials are not in the key"
        what = f"{bare}{_examples(refused)}; {extra}{_examples(unknown)}"
        remedy = "Use the key of the scored corpus; names agree as they are, or by a unique stem"
        further = "Score every trial (--allow-missing, --allow-extra evaluate what there is)"
        raise ScoreError(f"scores and key do not fit: {what}. {remedy}. {further}.")
    matched = chosen[chosen["place"] >= 0].reset_index(drop=True)
    rows = scores.iloc[matched.pop("place")].reset_index(drop=True)
    for column in {"label", "attack"} & set(rows):
        ours, theirs = matched[column].astype(str), rows[column].astype(str)
        wrong = (ours != theirs) & (ours != "-") & (theirs != "-")  # some do not tell the attack
        if wrong.any():
            row = int(wrong.argmax())
            what = f"score file and key differ in the {column} of trials ({wrong.sum()} in all)"
            one = f"{matched['utterance'][row]} has {theirs[row]} there and {ours[row]} in the key"
            raise ScoreError(f"{what}: {one}. Use the key the scores were made with.")
    matched["score"] = rows["score"]
    n = (scores["utterance"] != scored).sum()
    by_stem = [f"{n} names of scores agree with the key by their stem"] if n else []
    matched.attrs = {"phase": phase, "assumed": [*scores.attrs.get("assumed", ()), *by_stem]}
    matched.attrs |= {"n_missing": len(missing), "n_extra": len(scores) - len(matched)}
    return matched


def _spell(scored: pd.Series, known: pd.Series) -> pd.Series:
    """Spell names as the key does, if their stems (without folder and ending) are unique.

    If the key's names have folders, the folders belong to the stem.
    """
    around = _ENDING if known.str.contains("/").any() else _FOLDERS + _ENDING
    stems = (names.str.replace(around, "", regex=True) for names in (scored, known))
    ours, theirs = (names.drop_duplicates(keep=False) for names in stems)
    spelling = pd.Series(known[theirs.index].to_numpy(), theirs)
    return ours.map(spelling).astype(object).reindex(scored.index).fillna(scored)


def _numbers(path: str | Path, cells: pd.Series) -> pd.Series:
    """Parse numbers, and refuse what Python reads but is no score ('nan', '1_000', '1e999')."""
    are_all = _NUMBERS.fullmatch("\n".join(cells.tolist()) + "\n")
    numbers = (cells if are_all else cells.where(cells.str.fullmatch(_NUMBER))).astype(float)
    why = "{} is not a finite number. Find out why the system gave it, or leave the trial out."
    refuse(path, cells, ~numbers.abs().lt(math.inf), ScoreError, f"{cells.name} {why}")
    return numbers


def _examples(utterances: pd.Series | pd.Index) -> str:
    """Name the first few utterances, if any."""
    more = ", ..." if len(utterances) > 3 else ""
    return f" ({', '.join(utterances[:3])}{more})" if len(utterances) else ""
