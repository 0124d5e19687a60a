"""Evaluating a score file: from two files to every number, its interval and its caveats.

:func:`evaluate` reads scores and key, matches them strictly (:mod:`slslib.data.scorefiles`), and
returns one plain dictionary: what ``slslib evaluate --json`` prints. How the files were read is
said in ``assumed``. What can be wrong with a result without being an error is said in
``warnings``: labels or sign that look swapped, constant scores, ties that move the EER, pooled
phases, trials left out.

Several score files are fused, and scores are calibrated, on a development set by
:mod:`slslib.evaluation.calibration`. :mod:`slslib.evaluation.breakdown` has the rates of single
conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slslib.errors import ConfigError, ScoreError
from slslib.evaluation import calibration, intervals, metrics
from slslib.evaluation.breakdown import breakdown, rates, weigher
from slslib.files import sha256

if TYPE_CHECKING:
    import pandas as pd

FACTORS = ("attack", "codec", "transmission", "source", "vocoder", "speaker")
"""The columns of a key that results can be broken down or resampled by."""
_SWAPPED = (
    "{}EER {:.2f} % is above 50 %: labels or sign look swapped. A higher score must mean more bona "
    "fide. Nothing was flipped."
)


def evaluate(
    scores: tuple[Path, ...],
    key: Path,
    *,
    format: str = "auto",
    phase: str | None = None,
    asv_scores: Path | None = None,
    asv_key: Path | None = None,
    c012: str | None = None,
    bootstrap: int = 0,
    cluster: tuple[str, ...] = (),
    by: tuple[str, ...] = (),
    against: Path | None = None,
    dev_scores: tuple[Path, ...] = (),
    dev_key: Path | None = None,
    calibrate: bool = False,
    allow_missing: bool = False,
    allow_extra: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute EER and friends from a score file and a key.

    Example: slslib evaluate --scores scores.txt --key keys/DF/CM/trial_metadata.txt --phase eval
    --bootstrap 1000

    Args:
        scores: Lines `utterance score`, with a label before or behind the score, or `utterance
            attack key score`; or a table with a header. Several files are fused on the development
            set.
        key: The official key of ASVspoof 2019, 2021 or 5 or In-the-Wild, or a table whose header
            names files and labels; it may be the score file itself.
        format: Columns of the score file, as utterance,spoof,bonafide for two logits, or the
            column of scores of a table with a header; auto tells by looking.
        phase: progress, eval, hidden or all; default eval, or the only phase of the key.
        asv_scores: ASV scores, for min t-DCF; with the 2021 form --asv-key too.
        asv_key: Key of the ASV trials.
        c012: C0,C1,C2 of the t-DCF, or a CSV file of them, instead of ASV scores.
        bootstrap: Replicates of the EER's sensitivity interval; 0 for none.
        cluster: speaker, attack or speaker,attack to resample these instead of trials.
        by: Breakdowns: any of attack,codec,transmission,source,vocoder,speaker, or a cross table
            as in attack:codec.
        against: Score file of another system, to compare with on the same trials.
        dev_scores: Score file of a development set, to choose thresholds and calibration on; as
            many as --scores.
        dev_key: Its key.
        calibrate: Turn the scores into log-likelihood ratios on the development set: Cllr before
            and after.
        allow_missing: Evaluate although trials of the key have no score; coverage is printed.
        allow_extra: Evaluate although the key lacks trials that have a score; they are counted.
        seed: Seed of the bootstrap.

    Returns:
        ``n_bonafide``, ``n_spoof``, ``n_missing`` (of the phase), ``n_extra`` (scored, not
        evaluated), ``phase``, ``assumed`` (what was taken for what in the files), ``eer_percent``,
        ``eer_threshold`` (accept above), ``eer_rule``, ``min_dcf``, ``act_dcf``, ``cllr``,
        ``min_cllr``, ``llr_note``, ``sha256`` of the inputs and ``warnings``; where asked
        ``eer_interval_percent``, ``bootstrap``, ``min_tdcf_2019``, ``min_tdcf_2021``,
        ``tdcf_weights``, ``asv_eer_percent``, ``groups``, ``against``, ``transfer`` (see
        :func:`slslib.evaluation.calibration.transfer`), ``calibration``; and
        ``eer_tie_aware_percent`` where ties move the EER by more than 0.001 points. ``groups``
        maps factor to value to the same quantities, with the value ``Pooled`` last; for two
        factors value to value to them.

    Raises:
        ProtocolError: The key is malformed.
        ScoreError: The scores are malformed, or do not fit the key.
        ConfigError: Options contradict each other.
    """
    from slslib.data.protocols import read_protocol
    from slslib.data.scorefiles import select_phase

    files, dev_files = _paths(scores), _paths(dev_scores)
    cluster, by = _words(cluster), _words(by)
    for factors in (cluster, *(tuple(word.split(":")) for word in by)):
        if not set(factors) <= set(FACTORS) or len(factors) > min(2, len(set(factors))):
            raise ConfigError(f"{':'.join(factors)}: choose one or two of {', '.join(FACTORS)}.")
    n_dev = len(files) if dev_key else 0
    is_fitted = calibrate or len(files) > 1
    contradictions = {
        "there is no score file to evaluate (--scores).": not files,
        "the t-DCF's weights come from ASV scores or C0,C1,C2: give one.": asv_scores and c012,
        "an ASV key without ASV scores: give --asv-scores too.": asv_key and not asv_scores,
        "clusters need a number of replicates, as --bootstrap 1000.": cluster and not bootstrap,
        "give as many --dev-scores as --scores, with --dev-key, or none.": len(dev_files) != n_dev,
        "calibration and fusion need --dev-scores and --dev-key.": is_fitted and not dev_key,
    }
    if held := [text for text, holds in contradictions.items() if holds]:
        raise ConfigError(held[0])
    trials = read_protocol(key)
    chosen, phase = select_phase(trials, phase)
    weigh = weigher(asv_scores, asv_key, c012, phase)
    others = _paths(against)
    allowed = {"allow_missing": allow_missing, "allow_extra": allow_extra}
    matched, systems, n_scored = _join([*files, *others], trials, phase, format, **allowed)
    systems, compared = systems[:, : len(files)], systems[:, len(files) :]
    labels, values = matched["label"].to_numpy(), systems[:, 0]
    told: dict[str, Any] = {}
    fused = files if len(files) > 1 else []
    swapped = _swapped(fused, systems, labels) + _swapped(others, compared, labels)
    if dev_key:
        dev, of_dev, _ = _join(dev_files, read_protocol(dev_key), None, format, **allowed)
        matched.attrs["assumed"] += dev.attrs["assumed"]
        swapped += _swapped(dev_files, of_dev, dev["label"])
        both = (of_dev, dev["label"].to_numpy()), (systems, labels)
        values, told = calibration.use_dev_set(*both, is_fitted)
    matched = matched.assign(score=values)
    bonafide, spoof = metrics.split(values, labels)
    result: dict[str, Any] = {
        "n_bonafide": bonafide.size,
        "n_spoof": spoof.size,
        "n_missing": len(chosen) - len(matched),
        "n_extra": n_scored - len(matched),
        "phase": phase,
        "assumed": matched.attrs["assumed"],
        **rates(bonafide, spoof, weigh({})),
        "act_dcf": metrics.act_dcf(bonafide, spoof),
        "cllr": metrics.cllr(bonafide, spoof),
        "min_cllr": metrics.min_cllr(bonafide, spoof),
        "llr_note": "act_dcf and cllr read the scores as log-likelihood ratios",
    } | told

    def interval(other: metrics.Floats | None = None) -> list[float]:
        clusters = [matched[name] for name in cluster]
        drawn = intervals.bootstrap_eer(values, labels, clusters, bootstrap, seed=seed, other=other)
        return [100 * end for end in intervals.interval(drawn)]

    if bootstrap:
        result["eer_interval_percent"] = interval()
        settings = {"replicates": bootstrap, "cluster": list(cluster), "level": 0.95, "seed": seed}
        result["bootstrap"] = settings
    if by:
        result["groups"] = {word: breakdown(matched, word.split(":"), weigh) for word in by}
    for other in compared.T:
        eer = 100 * metrics.eer(*metrics.split(other, labels)).value
        result["against"] = {"eer_percent": eer, "difference_percent": result["eer_percent"] - eer}
        if bootstrap:
            result["against"]["difference_interval_percent"] = interval(other)
    inputs: dict[str, Any] = {"scores": files, "key": key, "against": against, "c012": c012}
    inputs |= {"asv_scores": asv_scores, "asv_key": asv_key}
    inputs |= {"dev_scores": dev_files, "dev_key": dev_key}
    result["sha256"] = {
        f"{name}_{k}" if k > 1 else name: sha256(path)
        for name, given in inputs.items()
        for k, path in enumerate(_paths(given), 1)
        if path.is_file()  # c012 may be numbers
    }
    result["warnings"] = _warnings(result, matched) + swapped
    return result


def _paths(given: str | Path | Sequence[str | Path] | None) -> list[Path]:
    return [Path(path) for path in ([given] if isinstance(given, str | Path) else given or ())]


def _words(words: Sequence[str]) -> tuple[str, ...]:
    """Split words at commas, so that the command line may hold either commas or spaces."""
    return tuple(word.strip() for word in ",".join(words).split(",") if word.strip())


def _join(
    files: Sequence[Path], key: pd.DataFrame, phase: str | None, format: str, **allowed: bool
) -> tuple[pd.DataFrame, metrics.Floats, int]:
    """Match one or several systems' scores with a key.

    Returns:
        The trials, with what was assumed of all files, scores x systems, and how many trials the
        first file scores.
    """
    from slslib.data.scorefiles import match, read_scores

    tables = [read_scores(file, format) for file in files]
    matched = [match(table, key, phase, **allowed) for table in tables]
    for file, other in zip(files, matched, strict=True):
        if not other["utterance"].equals(matched[0]["utterance"]):
            raise ScoreError(
                f"{file} covers other trials than {files[0]} ({len(other)} and {len(matched[0])}). "
                "Systems to be fused or compared need scores of the same trials."
            )
    matched[0].attrs["assumed"] = [t for one in (key, *matched) for t in one.attrs["assumed"]]
    return matched[0], np.column_stack([one["score"] for one in matched]), len(tables[0])


def _swapped(files: list[Path], systems: metrics.Floats, labels: Any) -> list[str]:
    """Name the systems that accept more spoofed than bona fide trials; a constant has 50 %."""
    eers = [
        (file, 100 * metrics.eer(*metrics.split(one, labels), "tie_aware").value)
        for file, one in zip(files, systems.T, strict=False)
    ]
    return [_SWAPPED.format(f"{file}: ", eer) for file, eer in eers if eer > 50]


def _warnings(result: dict[str, Any], matched: pd.DataFrame) -> list[str]:
    """Say what is odd about a result that is no error."""
    n, n_missing, n_extra = len(matched), result["n_missing"], result["n_extra"]
    n_values, eer = matched["score"].nunique(), result["eer_percent"]
    has_ties = "eer_tie_aware_percent" in result
    phases = sorted(set(matched["phase"]) - {"-"})
    odd = {
        _SWAPPED.format("", eer): eer > 50 and n_values > 1,
        f"every score is {float(matched['score'].iloc[0])!r}: a constant tells nothing. "
        "The official EER of a constant is 100 %.": n_values == 1,
        f"{n - n_values} scores repeat another one; with ties grouped the EER is "
        f"{result.get('eer_tie_aware_percent', eer):.4f} %, officially {eer:.4f} %.": has_ties,
        f"phases {', '.join(phases)} are POOLED; published results are of one phase, "
        "mostly eval, and are not comparable with this one.": len(phases) > 1,
        "the speaker verification system accepts no spoof (C2 = 0), so the min t-DCF of the "
        "2019 form is not defined.": "tdcf_weights" in result and "min_tdcf_2019" not in result,
        f"{n_missing} of {n + n_missing} trials have no score: coverage "
        f"{100 * n / (n + n_missing):.3f} %. The result is not that of the whole set.": n_missing,
        f"{n_extra} scored trials are outside phase {result['phase']} of the key "
        "and were not evaluated.": n_extra,
    }
    return [text for text, holds in odd.items() if holds]
