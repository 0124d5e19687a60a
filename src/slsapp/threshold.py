"""A threshold for :mod:`slslib.runs.detect`, from recordings of one's own.

Bona fide recordings suffice. The threshold is the highest for which
:func:`slsapp.guarantee.guarantee` promises that it rejects no more bona fide recordings *of the
same kind* than wanted, whatever the distribution of their scores. Spoofed recordings show how many
of them it lets pass, and what the scores mean as probabilities.

The file that is written says to what the threshold belongs (the checkpoint, and ``hop_s``,
``pool``, ``allow_silence`` and ``speech_only`` of the scores), how it was chosen, and on which
recordings, by a hash of their names and contents. It holds no date, so the same call writes the
same bytes.
"""

import json
import os
from collections import Counter
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from slsapp.guarantee import guarantee, proportion
from slslib.errors import AudioError, ConfigError
from slslib.evaluation.calibration import fit
from slslib.evaluation.metrics import eer
from slslib.files import sha256, sha256_of, write_json, write_text

_MEANING = (
    "Of new bona fide recordings of the same kind, at most {:g} % score so low that they are "
    "rejected, with a confidence of {:g} %."
)
_SCORES = ("checkpoint", "checkpoint_sha256", "hop_s", "pool", "allow_silence", "speech_only")


def threshold(
    *,
    bonafide: tuple[Path, ...],
    checkpoint: str,
    spoof: tuple[Path, ...] = (),
    frr: float = 1.0,
    confidence: float = 95.0,
    prior: float = 50.0,
    hop: float | None = None,
    pool: Literal["mean", "min", "trimmed"] = "mean",
    speech_only: bool = False,
    compare: Path | None = None,
    out: Path | None = None,
    cpu: bool = False,
) -> dict[str, Any]:
    """Choose a threshold for detect from your own recordings.

    With the stated confidence, detect then rejects no more than --frr percent of new bona fide
    recordings of the same kind. That takes at least 299 independent recordings for 1 percent, and
    59 for 5 percent.

    Example: slslib threshold --bonafide recordings/ --checkpoint runs/v1 --frr 5

    Args:
        bonafide: Real speech like that to be judged: recordings, or folders of them.
        checkpoint: As for detect.
        spoof: Spoofed speech, to measure how much of it passes, and to calibrate the scores.
        frr: Percent of bona fide recordings that may be rejected.
        confidence: Confidence of that promise and of the intervals, in percent.
        prior: Percent of all recordings that are bona fide, for probabilities.
        hop: As for detect, which must then be called with the same value.
        pool: As for detect, which must then be called with the same value.
        speech_only: As for detect, which must then be called with the same value.
        compare: Choose and write nothing; show what the threshold in this file, chosen earlier,
            does on these recordings.
        out: File to write; default the checkpoint's name with .threshold.json appended, where
            detect looks for it.
        cpu: Use the CPU even if there is a GPU.

    Returns:
        A dictionary with these entries.

        * ``threshold`` (accept above), ``meaning`` (what is promised; null with ``compare``),
          ``wanted_frr_percent``, ``confidence_percent``, ``rank``.
        * ``n_bonafide``, ``frr`` on these recordings with its interval, ``quantiles`` of their
          scores.
        * ``checkpoint``, ``checkpoint_sha256``, ``hop_s``, ``pool``, ``allow_silence`` (false),
          ``speech_only``, ``files_sha256`` (names and contents, of each class), ``versions``.
        * With spoofed speech: ``n_spoof``, ``far`` and ``calibration``. The calibration has
          ``slope`` and ``offset``, which turn a score into a log-likelihood ratio, and the
          probability of bona fide speech for a score at the threshold. There is none if the classes
          look swapped.
        * Not written: ``out``, or with ``compare`` ``old_quantiles``; and ``warnings``: those of
          detect; scores that are exactly equal, as those of copies are; classes that look swapped;
          with ``compare``, an interval that lies above the wanted rate (a binomial test).

    Raises:
        ConfigError: An option makes no sense, a recording is named more than once, or ``compare``
            belongs to other scores.
        ScoreError: There are too few recordings; the message says how many are needed.
        CheckpointError: The checkpoint cannot be read.
        AudioError: A recording has no score; leaving it out would change what is promised.
        FileError: The file cannot be written.
    """
    from scipy.special import expit, logit

    from slslib.model.checkpoints import locate
    from slslib.runs.detect import detect, listed

    out, compare = (Path(one) if one else None for one in (out, compare))
    _check_percents("", prior=prior, frr=frr, confidence=confidence)
    if out and (out.suffix.lower() != ".json" or out.is_dir()):
        raise ConfigError(f"{out}: the name of the file to write must end in .json")
    if out and _is_other(out):
        raise ConfigError(f"{out} is there, and no file of slslib threshold: choose another name")
    if str(checkpoint).partition(":")[0] in ("mini", "hub") and not (out or compare):
        raise ConfigError(
            f"{checkpoint} is in no folder of yours: say where to write by --out FILE.json"
        )
    if compare and out:
        raise ConfigError("--compare writes nothing: leave out --out")
    classes = [listed(files) for files in ((bonafide, spoof) if spoof else (bonafide,))]
    names = Counter(os.path.realpath(path) for files in classes for path in files)
    if twice := [name for name, count in names.items() if count > 1]:
        text = "recordings are named more than once, in one class or in both, such as"
        raise ConfigError(f"{len(twice)} {text} {twice[0]}: name each once")
    if not compare:
        guarantee(np.zeros(len(classes[0])), frr / 100, confidence / 100)  # enough of them?
    weights, llrs, hashes = locate(checkpoint), [], []
    from slsapp.detections import not_taken

    warnings = not_taken([*bonafide, *spoof], [*chain(*classes)])
    out, old = out or weights.with_name(f"{weights.name}.threshold.json"), dict[str, Any]()
    if compare:
        if not compare.is_file() or _is_other(compare):
            raise ConfigError(f"{compare} is no file of slslib threshold: check --compare")
        old = json.loads(compare.read_text(encoding="utf-8"))
        frr, confidence = old.get("wanted_frr_percent"), old.get("confidence_percent")
        _check_percents(f"{compare}: ", wanted_frr_percent=frr, confidence_percent=confidence)
    else:  # find out before the recordings are scored
        write_text(trial := out.with_name(f".{out.name}.trial"), "")
        trial.unlink()
    options: dict[str, Any] = {"checkpoint": checkpoint, "hop": hop, "pool": pool, "cpu": cpu}
    options["speech_only"] = speech_only
    for files in classes:
        found = detect(tuple(files), threshold=compare or 0.0, **options)
        rows = found["files"]
        if bad := [row["error"] or row["file"] for row in rows if row["llr"] is None]:
            raise AudioError(f"{len(bad)} of {len(rows)} recordings have no score: {bad[0]}")
        llrs.append(np.array([row["llr"] for row in rows]))
        paths = [Path(row["file"]) for row in rows]
        hashes.append(sha256_of([(path.name, sha256(path)) for path in paths]))
        warnings += [text for text in found["warnings"] if text not in warnings]
    own, n = llrs[0], [one.size for one in llrs]
    if copies := sum(n) - np.unique(np.concatenate(llrs)).size:
        text = f"{copies} of {sum(n)} recordings have exactly the score of another, as copies have"
        warnings.append(f"{text}: leave copies out, the promise takes independent recordings")
    level = confidence / 100
    rank, at = (None, old["threshold"]) if compare else guarantee(own, frr / 100, level)
    made: dict[str, Any] = {
        "threshold": at,
        "meaning": None if compare else _MEANING.format(frr, confidence),
        "wanted_frr_percent": frr,
        "confidence_percent": confidence,
        "n_bonafide": n[0],
        "rank": rank,
        "frr": proportion(int((own <= at).sum()), n[0], level),
        "quantiles": {f"{p} %": float(np.percentile(own, p)) for p in (0, 1, 5, 50, 95)},
        **{name: found[name] for name in _SCORES},
        "files_sha256": hashes,
        "versions": {name: version(name) for name in ("slslib", "torch")},
    }
    if spoof:
        to_llr = fit(np.concatenate(llrs), np.repeat([1, 0], n))
        if (error := 100 * eer(*llrs).value) > 50 or to_llr.slope <= 0:
            text = f"EER {error:.2f} %: labels or sign look swapped. A higher score must mean more"
            warnings.append(f"{text} bona fide; no calibration is given")
        else:
            percent = 100 * float(expit(to_llr(at) + logit(prior / 100)))
            facts = {"prior_percent": prior, "threshold_percent": percent}
            made["calibration"] = vars(to_llr) | facts
        made |= {"n_spoof": n[1], "far": proportion(int((llrs[1] > at).sum()), n[1], level)}
    if compare:
        made["old_quantiles"] = old.get("quantiles")
        if made["frr"]["interval_percent"][0] > frr:
            text = f"more than {frr:g} % are rejected, and not by chance: choose a threshold anew"
            warnings.append(text)
        return made | {"warnings": warnings}
    write_json(out, made)
    return made | {"out": str(out), "warnings": warnings}


def _is_other(path: Path) -> bool:
    """Tell whether this file exists and is no threshold but, say, a run's best.json or a result."""
    try:
        return "wanted_frr_percent" not in {**json.loads(path.read_text(encoding="utf-8"))}
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, RecursionError):
        return True


def add_probabilities(made: dict[str, Any]) -> dict[str, Any]:
    """Add probabilities to detections whose threshold came with a calibration.

    Args:
        made: What :func:`slslib.runs.detect.detect` returned.

    Returns:
        The same with ``prior_percent``, and with ``bonafide_percent`` in each of ``files``. This is
        the probability that the recording is bona fide, if ``prior_percent`` of all recordings are.
        Both are null if the threshold is from no file, or from one without a calibration.

    Raises:
        ConfigError: If the calibration is not one of ``slslib threshold``.
    """
    from scipy.special import expit, logit

    source, calibration, prior = Path(made["threshold_source"]), None, 50.0
    if source.name not in ("given", "none") and source.is_file():  # which detect has read
        calibration = json.loads(source.read_text(encoding="utf-8")).get("calibration")
    if calibration:
        try:
            names = "slope", "offset", "prior_percent"
            slope, offset, prior = (float(calibration[name]) for name in names)
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"{source}: its calibration is damaged ({error!r:.60})") from error
        _check_percents(f"{source}: ", prior_percent=prior)
        if not (0 < slope < 1e300 and abs(offset) < 1e300):
            raise ConfigError(f"{source}: its calibration is damaged ({slope}, {offset})")
    for one in made["files"]:
        one["bonafide_percent"] = None
        if calibration and one["llr"] is not None:
            log_odds = slope * one["llr"] + offset + logit(prior / 100)
            one["bonafide_percent"] = 100 * float(expit(log_odds))
    return made | {"prior_percent": prior if calibration else None}


def _check_percents(where: str, **percents: Any) -> None:
    for name, value in percents.items():
        if type(value) is bool or not isinstance(value, int | float) or not 0 < value < 100:
            text = f"{where}{name} {value!r:.40} %: it must be a number between 0 and 100"
            raise ConfigError(text)
