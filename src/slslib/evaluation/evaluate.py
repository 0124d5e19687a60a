"""Evaluating a score file: from two files to every number, its interval and its caveats.

:func:`evaluate` reads scores and key, matches them strictly (:mod:`slslib.data.scorefiles`), and
returns one plain dictionary. ``slslib evaluate --json`` prints this dictionary. ``assumed`` says
how the files were read. ``warnings`` says what may be wrong without being an error: labels or sign
that look swapped, constant scores, ties that move the EER, pooled phases, trials left out.

:mod:`slslib.evaluation.breakdown` computes the rates of single conditions.
:mod:`slslib.evaluation.calibration` chooses thresholds and calibration on a development set.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slslib.errors import ConfigError, ScoreError
from slslib.evaluation import calibration, intervals, metrics
from slslib.evaluation.breakdown import breakdown, rates
from slslib.files import sha256

if TYPE_CHECKING:
    import pandas as pd

FACTORS = ("attack", "codec", "transmission", "source", "vocoder", "speaker")
"""The columns of a key by which results can be broken down or resampled."""


def evaluate(
    scores: Path,
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
    dev_scores: Path | None = None,
    dev_key: Path | None = None,
    allow_missing: bool = False,
    allow_extra: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute the EER and other error rates from a score file and a key.

    Example: slslib evaluate --scores scores.txt --key keys/DF/CM/trial_metadata.txt --phase eval
    --bootstrap 1000

    Args:
        scores: Score file with lines `utterance score`, with a label before or after the score, or
            `utterance attack key score`; or a table with a header.
        key: The official key of ASVspoof 2019, 2021 or 5 or In-the-Wild, or a table whose header
            names files and labels; it may be the score file itself.
        format: Columns of the score file, such as utterance,spoof,bonafide for two logits, or the
            name of the score column in a table with a header; auto looks at the file.
        phase: progress, eval, hidden or all; default eval, or the only phase of the key.
        asv_scores: ASV scores, for the min t-DCF of the whole set; the 2021 form needs --asv-key
            too.
        asv_key: Key of the ASV trials.
        c012: Weights C0,C1,C2 of the t-DCF, instead of ASV scores.
        bootstrap: Number of replicates for the EER's sensitivity interval; 0 for none.
        cluster: speaker, attack or speaker,attack to resample these instead of trials.
        by: Breakdowns: any of attack,codec,transmission,source,vocoder,speaker, or a cross table
            such as attack:codec.
        against: Score file of another system, to compare with on the same trials.
        dev_scores: Score file of a development set, to choose thresholds and calibration on.
        dev_key: Key of the development set.
        allow_missing: Evaluate even if trials of the key have no score; coverage is printed.
        allow_extra: Evaluate even if trials with a score are not in the key; they are counted.
        seed: Seed of the bootstrap.

    Returns:
        A dictionary with these entries.

        * ``n_bonafide``, ``n_spoof``, ``n_missing`` (of the phase), ``n_extra`` (scored, not
          evaluated), ``phase``, ``assumed`` (which columns of the files were taken for what).
        * ``eer_percent``, ``eer_threshold`` (accept above), ``eer_rule``; ``eer_tie_aware_percent``
          if ties move the EER by more than 0.001 points.
        * ``min_dcf``, ``act_dcf``, ``cllr``, ``min_cllr``, ``llr_note``.
        * ``sha256`` of the inputs, and ``warnings``.
        * If asked for: ``eer_interval_percent``, ``bootstrap``, ``min_tdcf_2019``,
          ``min_tdcf_2021``, ``tdcf_weights``, ``asv_eer_percent``, ``asv_phases`` (of the ASV
          scores used: those of the trials; eval for a key without phases), ``against``,
          ``transfer`` (see :func:`slslib.evaluation.calibration.transfer`), ``calibration``, and
          ``groups``: a :func:`slslib.evaluation.breakdown.breakdown` for each word of ``by``.

    Raises:
        ProtocolError: The key is malformed.
        ScoreError: The scores are malformed, or do not fit the key.
        ConfigError: Options contradict each other.
    """
    from slslib.data.protocols import read_protocol
    from slslib.data.scorefiles import match, read_scores

    cluster, by = _words(cluster), _words(by)
    for factors in (cluster, *(tuple(word.split(":")) for word in by)):
        if not set(factors) <= set(FACTORS) or len(factors) > min(2, len(set(factors))):
            raise ConfigError(f"{':'.join(factors)}: choose one or two of {', '.join(FACTORS)}.")
    contradictions = {
        "the t-DCF's weights come from ASV scores or C0,C1,C2: give one.": asv_scores and c012,
        "an ASV key without ASV scores: give --asv-scores too.": asv_key and not asv_scores,
        "clusters need a number of replicates, as --bootstrap 1000.": cluster and not bootstrap,
        "give both --dev-scores and --dev-key, or neither.": bool(dev_scores) != bool(dev_key),
    }
    if held := [text for text, holds in contradictions.items() if holds]:
        raise ConfigError(held[0])
    trials = read_protocol(key)
    assumed = list(trials.attrs["assumed"])

    def read(file: Path, known: pd.DataFrame, phase: str | None = None) -> pd.DataFrame:
        table = match(read_scores(file, format), known, phase, allow_missing, allow_extra)
        assumed.extend(table.attrs["assumed"])
        return table

    matched = read(scores, trials, phase)
    values, labels = matched["score"].to_numpy(), matched["label"].to_numpy()
    bonafide, spoof = metrics.split(values, labels)
    curve = metrics.det_curve(bonafide, spoof)
    facts: Any = matched.attrs
    result: dict[str, Any] = {
        "n_bonafide": bonafide.size,
        "n_spoof": spoof.size,
        **facts,
        "assumed": assumed,
        **rates(curve),
        **_tandem(curve, asv_scores, asv_key, c012, {*matched["phase"].replace("-", "eval"), "-"}),
        "act_dcf": metrics.act_dcf(bonafide, spoof),
        "cllr": metrics.cllr(bonafide, spoof),
        "min_cllr": metrics.min_cllr(bonafide, spoof),
        "llr_note": "act_dcf and cllr read the scores as log-likelihood ratios",
    }

    def interval(other: metrics.Floats | None = None) -> list[float]:
        clusters = [matched[name] for name in cluster]
        drawn = intervals.bootstrap_eer(values, labels, clusters, bootstrap, seed=seed, other=other)
        return [100 * end for end in intervals.interval(drawn)]

    if bootstrap:
        result["eer_interval_percent"] = interval()
        settings = {"replicates": bootstrap, "cluster": list(cluster), "level": 0.95, "seed": seed}
        result["bootstrap"] = settings
    if by:
        result["groups"] = {word: breakdown(matched, word.split(":")) for word in by}
    eers = {}  # EERs of the other files, with ties grouped, so that a constant score has 50 %
    if against:
        compared = read(against, trials, phase)
        if not compared["utterance"].equals(matched["utterance"]):
            raise ScoreError(f"{against} covers other trials than {scores}; compare the same ones.")
        other = compared["score"].to_numpy()
        its_curve = metrics.det_curve(*metrics.split(other, labels))
        eer = 100 * its_curve.eer().value
        eers[against] = 100 * its_curve.tie_aware().eer().value
        result["against"] = {"eer_percent": eer, "difference_percent": result["eer_percent"] - eer}
        if bootstrap:
            result["against"]["difference_interval_percent"] = interval(other)
    if dev_scores and dev_key:
        known = read_protocol(dev_key)
        assumed.extend(known.attrs["assumed"])
        dev = read(dev_scores, known)
        of_dev = metrics.split(dev["score"], dev["label"])
        eers[dev_scores] = 100 * metrics.det_curve(*of_dev).tie_aware().eer().value
        result["transfer"] = calibration.transfer(of_dev, (bonafide, spoof))
        to_llr = calibration.fit(dev["score"], dev["label"])
        llrs = to_llr(bonafide), to_llr(spoof)
        costs = {"cllr": metrics.cllr(*llrs), "act_dcf": metrics.act_dcf(*llrs)}
        result["calibration"] = vars(to_llr) | costs
    inputs = {"scores": scores, "key": key, "against": against, "asv_scores": asv_scores}
    inputs |= {"asv_key": asv_key, "dev_scores": dev_scores, "dev_key": dev_key}
    result["sha256"] = {name: sha256(path) for name, path in inputs.items() if path}
    result["warnings"] = _warnings(result, matched, eers)
    return result


def _words(words: Sequence[str]) -> tuple[str, ...]:
    """Split words at commas, so that the command line may separate them by commas or spaces."""
    return tuple(word.strip() for word in ",".join(words).split(",") if word.strip())


def _tandem(
    curve: metrics.DET, asv_scores: Path | None, asv_key: Path | None, c012: str | None, phases: Any
) -> dict[str, Any]:
    """Compute both forms of the min t-DCF, if ASV scores or weights are given."""
    from slslib.data.scorefiles import ASV_KINDS, read_asv_scores

    found: dict[str, Any] = {}
    if c012:
        try:
            c0, c1, c2 = map(float, c012.split(","))
        except ValueError as error:
            raise ConfigError(f"--c012 {c012}: give three numbers, as 0.07,0.87,0.35.") from error
    elif asv_scores:
        asv = read_asv_scores(asv_scores, asv_key)
        asv = asv[asv["phase"].isin(phases)]
        kinds = [asv.loc[asv["kind"] == kind, "score"] for kind in ASV_KINDS]
        asv_eer, *errors = metrics.asv_rates(*kinds)
        found |= {"asv_eer_percent": 100 * asv_eer, "asv_phases": sorted({*asv["phase"]})}
        c0, c1, c2 = metrics.tdcf_weights(*errors)
    else:
        return {}
    for year, first in (("2019", 0.0), ("2021", c0)):
        if first or min(c1, c2):  # else 0 / 0: in 2019, if the ASV system accepts no spoof
            found[f"min_tdcf_{year}"] = curve.min_cost((first, c1, c2))
    return found | {"tdcf_weights": [c0, c1, c2]}


def _warnings(result: dict[str, Any], matched: pd.DataFrame, eers: dict[Path, float]) -> list[str]:
    """Say what may be wrong without being an error; ``eers`` are the EERs of the other files."""
    n, n_missing, n_extra = len(matched), result["n_missing"], result["n_extra"]
    n_values, eer = matched["score"].nunique(), result["eer_percent"]
    has_ties, low = "eer_tie_aware_percent" in result, result.get("eer_interval_percent", [100])[0]
    phases = sorted({*matched["phase"].unique()} - {"-"})
    swapped = "EER {:.2f} % is above 50 %: labels or sign look swapped. A higher score must mean "
    swapped += "more bona fide. Nothing was flipped."
    chance = f" Or it is chance: the interval begins at {low:.2f} %." if low <= 50 else ""
    odd = {
        swapped.format(eer) + chance: eer > 50 and n_values > 1,
        f"scores equal to another one: {n - n_values}; with ties grouped the EER is "
        f"{result.get('eer_tie_aware_percent', eer):.4f} %, officially {eer:.4f} %.": has_ties,
        f"phases {', '.join(phases)} are POOLED; published results are of one phase, "
        "mostly eval, and are not comparable with this one.": len(phases) > 1,
        "the speaker verification system accepts no spoof (C2 = 0), which leaves a min t-DCF "
        "undefined.": "tdcf_weights" in result and "min_tdcf_2019" not in result,
        f"{n_missing} of {n + n_missing} trials have no score: coverage "
        f"{100 * n / (n + n_missing):.3f} %. The result is not that of the whole set.": n_missing,
        f"{n_extra} scored trials are outside phase {result['phase']} of the key "
        "and were not evaluated.": n_extra,
        **{f"{file}: {swapped.format(other)}": other > 50 for file, other in eers.items()},
    }
    return [text for text, holds in odd.items() if holds]
