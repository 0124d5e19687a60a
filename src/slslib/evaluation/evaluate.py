"""Evaluating a score file: from two files to every number, its interval and its caveats.

:func:`evaluate` reads scores and key, matches them strictly (:mod:`slslib.data.scorefiles`), and
returns one plain dictionary: what ``slslib evaluate --json`` prints. :func:`render` makes tables
of it for people. What can be wrong with a result without being an error is said in ``warnings``:
labels or sign that look swapped, constant scores, ties that move the EER, pooled phases, trials
left out.

A breakdown by attack or vocoder, which bona fide speech does not have, sets the spoofed trials of
each against all bona fide ones; one by codec, transmission, source or speaker sets spoofed against
bona fide trials of the same condition. Two factors make a cross table, with ``Pooled`` as its last
row and column, as the ASVspoof 2021 evaluation package prints it (``attack:codec`` for LA,
``vocoder:codec`` for DF).

Several score files are fused, and scores are calibrated, by :mod:`slslib.evaluation.calibration`:
on a development set where one is given, else by cross-validation on the evaluated trials
themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slslib.data.protocols import read_protocol
from slslib.data.scorefiles import (
    ASV_KINDS,
    ScoreFormat,
    match,
    read_asv_scores,
    read_c012,
    read_scores,
    select_phase,
)
from slslib.errors import ConfigError, ScoreError
from slslib.evaluation import calibration, intervals, metrics
from slslib.files import sha256

FACTORS = ("attack", "codec", "transmission", "source", "vocoder", "speaker")
"""The columns of a key that results can be broken down or resampled by."""

_OF_SPOOF = ("attack", "vocoder")
_POOLED = "Pooled"
_TIES = 0.001  # percentage points
# Conditions in the order of the evaluation package's tables; others follow by name.
_ORDER = """
none alaw pstn g722 ulaw gsm opus
nocodec low_mp3 high_mp3 low_m4a high_m4a low_ogg high_ogg mp3m4a oggm4a
traditional_vocoder waveform_concatenation neural_vocoder_autoregressive
neural_vocoder_nonautoregressive unknown
""".split()

Paths = str | Path | Sequence[str | Path]
# The t-DCF's weights and the ASV system's EER, if known; what tells them of a condition.
Weights = tuple[tuple[float, float, float], float | None]
Weigh = Callable[[dict[str, str]], Weights | None]


def evaluate(
    scores: Paths,
    key: str | Path,
    *,
    phase: str | None = None,
    format: ScoreFormat = "auto",
    asv_scores: str | Path | None = None,
    asv_key: str | Path | None = None,
    c012: tuple[float, float, float] | str | Path | None = None,
    bootstrap: int = 0,
    cluster: Sequence[str] = (),
    by: Sequence[str] = (),
    against: str | Path | None = None,
    dev_scores: Paths = (),
    dev_key: str | Path | None = None,
    calibrate: bool = False,
    allow_missing: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluate a score file against its key.

    Args:
        scores: Score file of two or four columns; several are fused.
        key: Key of any form :func:`slslib.data.protocols.read_protocol` knows, with labels.
        phase: ``progress``, ``eval``, ``hidden``, or ``all`` to pool; by default ``eval`` where
            the key has it, else its only phase.
        format: Columns of the score files.
        asv_scores: Scores of a speaker verification system, for the min t-DCF.
        asv_key: Their key, in the 2021 form.
        c012: The t-DCF's weights instead: three numbers, or a table of
            :func:`slslib.data.scorefiles.read_c012`.
        bootstrap: Number of bootstrap replicates for a 95 % interval of the EER; 0 for none.
        cluster: One or two of :data:`FACTORS` to resample whole; none resamples single trials.
        by: Which of :data:`FACTORS` to break the result down by, or two as in ``attack:codec``.
        against: Score file of another system on the same trials, to compare with.
        dev_scores: Score files of the same systems on a development set, to choose thresholds,
            calibration and fusion on.
        dev_key: Its key.
        calibrate: Calibrate the scores too; a fusion always is.
        allow_missing: Evaluate although trials lack a score.
        seed: Seed of the bootstrap and of cross-validation.

    Returns:
        ``n_bonafide``, ``n_spoof``, ``n_missing`` (of the phase), ``n_extra`` (scored, not
        evaluated), ``phase``, ``eer_percent``, ``eer_threshold`` (accept above), ``eer_rule``,
        ``min_dcf``, ``act_dcf``, ``cllr``, ``min_cllr``, ``llr_note``, ``sha256`` of the inputs
        and ``warnings``; where asked ``eer_interval_percent``, ``bootstrap``, ``min_tdcf_2019``,
        ``min_tdcf_2021``, ``tdcf_weights``, ``asv_eer_percent``, ``groups``, ``against``,
        ``transfer`` (see :func:`slslib.evaluation.calibration.transfer`), ``calibration``; and
        ``eer_tie_aware_percent`` where ties move the EER by more than 0.001 points. ``groups``
        maps factor to value to the same quantities, with the value ``Pooled`` last; for two
        factors value to value to them.

    Raises:
        ProtocolError: The key is malformed.
        ScoreError: The scores are malformed, or do not fit the key.
        ConfigError: Options contradict each other.
    """
    files, dev_files = _list(scores), _list(dev_scores)
    if not files:
        raise ConfigError("there is no score file to evaluate (--scores).")
    if asv_scores is not None and c012 is not None:
        raise ConfigError("the t-DCF's weights come from ASV scores or from C0,C1,C2: give one.")
    if asv_key is not None and asv_scores is None:
        raise ConfigError("an ASV key without ASV scores: give --asv-scores too.")
    if bootstrap < 0 or (cluster and not bootstrap):
        raise ConfigError("clusters need a number of replicates, as in --bootstrap 1000.")
    for factors in (list(cluster), *(name.split(":") for name in by)):
        for name in factors:
            if name not in FACTORS:
                known = ", ".join(FACTORS)
                raise ConfigError(f"{name!r} is not a column of keys. Known are {known}.")
        if len(factors) > 2 or len(set(factors)) != len(factors):
            raise ConfigError("at most two different factors can be resampled or crossed.")
    if (dev_key is None) != (not dev_files) or (dev_files and len(dev_files) != len(files)):
        raise ConfigError(
            f"{len(files)} score files need as many --dev-scores and a --dev-key, or none."
        )
    trials = read_protocol(key)
    chosen, phase = select_phase(trials, phase)
    tables = [read_scores(file, format) for file in files]
    matched, systems = _join(tables, trials, phase, allow_missing)
    dev = None
    if dev_key is not None:
        dev_tables = [read_scores(file, format) for file in dev_files]
        dev = _join(dev_tables, read_protocol(dev_key), None, allow_missing)
    fusion, matched, dev_classes = _calibrate(matched, systems, dev, calibrate, seed)
    bonafide, spoof = _classes(matched)
    result: dict[str, Any] = {
        "n_bonafide": bonafide.size,
        "n_spoof": spoof.size,
        "n_missing": len(chosen) - len(matched),
        "n_extra": len(tables[0]) - len(matched),
        "phase": phase,
    }
    result |= _rates(bonafide, spoof)
    if bootstrap:
        result |= _interval(matched, bootstrap, tuple(cluster), seed)
    weigh = _weigher(asv_scores, asv_key, c012, phase)
    result |= _tdcf(bonafide, spoof, weigh({}))
    result["act_dcf"] = metrics.act_dcf(bonafide, spoof)
    result["cllr"] = metrics.cllr(bonafide, spoof)
    result["min_cllr"] = metrics.min_cllr(bonafide, spoof)
    result["llr_note"] = "act_dcf and cllr read the scores as log-likelihood ratios"
    if by:
        result["groups"] = {name: _groups(matched, name.split(":"), weigh) for name in by}
    if against is not None:
        other, _ = _join([read_scores(against, format)], trials, phase, allow_missing)
        result["against"] = _difference(matched, other, bootstrap, tuple(cluster), seed)
    if dev_classes:
        result["transfer"] = calibration.transfer(dev_classes, (bonafide, spoof))
    result |= fusion
    inputs = {"key": key, "asv_scores": asv_scores, "asv_key": asv_key, "against": against}
    inputs |= {"dev_key": dev_key, "c012": None if isinstance(c012, tuple) else c012}
    for name, paths in (("scores", files), ("dev_scores", dev_files)):
        inputs |= {f"{name}_{k}" if k > 1 else name: path for k, path in enumerate(paths, 1)}
    result["sha256"] = {name: sha256(path) for name, path in inputs.items() if path is not None}
    result["warnings"] = _warnings(result, trials, matched)
    return result


def _list(paths: Paths) -> list[str | Path]:
    return [paths] if isinstance(paths, str | Path) else list(paths)


def _join(
    tables: Sequence[pd.DataFrame], key: pd.DataFrame, phase: str | None, allow_missing: bool
) -> tuple[pd.DataFrame, metrics.Floats]:
    """Match one or several systems' scores with a key: trials, and scores x systems."""
    matched = [match(table, key, phase, allow_missing) for table in tables]
    first = matched[0]
    for k, other in enumerate(matched[1:], 2):
        if not other["utterance"].equals(first["utterance"]):
            raise ScoreError(
                f"score file {k} covers other trials than the first ({len(other)} and "
                f"{len(first)}). Systems to be fused need scores of the same trials."
            )
    return first, np.column_stack([one["score"] for one in matched])


def _calibrate(
    trials: pd.DataFrame,
    systems: metrics.Floats,
    dev: tuple[pd.DataFrame, metrics.Floats] | None,
    calibrate: bool,
    seed: int,
) -> tuple[dict[str, Any], pd.DataFrame, tuple[metrics.Floats, metrics.Floats] | None]:
    """Calibrate or fuse: what the result says of it, the trials to evaluate, dev classes."""
    several = systems.shape[1] > 1
    dev_classes = _classes(dev[0]) if dev else None
    if not (several or calibrate):
        return {}, trials, dev_classes
    labels = trials["label"]
    about: dict[str, Any] = {"prior": 0.5}
    if dev:
        fitted = calibration.fit(dev[1], dev[0]["label"])
        llrs, about["fitted_on"] = fitted(systems), "the development set"
        about |= {"weights": list(fitted.weights), "offset": fitted.offset}
        if several:
            dev_classes = _classes(dev[0].assign(score=fitted(dev[1])))
    else:
        llrs, about["fitted_on"] = calibration.cross_fit(systems, labels, seed=seed), "5 folds"
    if several:
        each = [_classes(trials.assign(score=column)) for column in systems.T]
        about["eer_percent_of_each"] = [100 * metrics.eer(*pair).value for pair in each]
        return {"calibration": about}, trials.assign(score=llrs), dev_classes
    pair = _classes(trials.assign(score=llrs))
    about |= {"cllr": metrics.cllr(*pair), "act_dcf": metrics.act_dcf(*pair)}
    return {"calibration": about}, trials, dev_classes


def _classes(trials: pd.DataFrame) -> tuple[metrics.Floats, metrics.Floats]:
    """Split matched trials into bona fide and spoof scores."""
    scores, labels = trials["score"].to_numpy(), trials["label"].to_numpy()
    return scores[labels == 1], scores[labels == 0]


def _rates(bonafide: metrics.Floats, spoof: metrics.Floats) -> dict[str, Any]:
    """Compute what every evaluation and every row of a breakdown has."""
    official = metrics.eer(bonafide, spoof)
    ties = metrics.eer(bonafide, spoof, "tie_aware")
    result: dict[str, Any] = {
        "eer_percent": 100 * official.value,
        "eer_threshold": official.threshold,
        "eer_rule": official.rule,
        "min_dcf": metrics.min_dcf(bonafide, spoof),
    }
    if abs(official.value - ties.value) * 100 > _TIES:
        result["eer_tie_aware_percent"] = 100 * ties.value
    return result


def _interval(
    trials: pd.DataFrame, n_replicates: int, cluster: tuple[str, ...], seed: int
) -> dict[str, Any]:
    for name in cluster:
        if (trials[name] == "-").all():
            raise ScoreError(f"the key has no {name}, so it cannot be resampled. Leave it out.")
    low, high = intervals.eer_interval(
        trials["score"], trials["label"], [trials[name] for name in cluster], n_replicates,
        seed=seed,
    )  # fmt: skip
    settings = {"replicates": n_replicates, "cluster": list(cluster), "level": 0.95, "seed": seed}
    return {"eer_interval_percent": [low, high], "bootstrap": settings}


def _difference(
    first: pd.DataFrame, other: pd.DataFrame, n_replicates: int, cluster: tuple[str, ...], seed: int
) -> dict[str, Any]:
    """Compare two systems on the same trials, and resample the difference of their EERs."""
    if not first["utterance"].equals(other["utterance"]):
        raise ScoreError("the two systems have scores of different trials; score the same ones.")
    eers = [100 * metrics.eer(*_classes(trials)).value for trials in (first, other)]
    result: dict[str, Any] = {"eer_percent": eers[1], "difference_percent": eers[0] - eers[1]}
    if n_replicates:
        drawn = intervals.paired_bootstrap(
            first["score"], other["score"], first["label"], n_replicates,
            rng=np.random.default_rng(seed), clusters=[first[name] for name in cluster],
        )  # fmt: skip
        result["difference_interval_percent"] = [100 * end for end in intervals.interval(drawn)]
    return result


def _weigher(
    asv_scores: str | Path | None,
    asv_key: str | Path | None,
    c012: tuple[float, float, float] | str | Path | None,
    phase: str,
) -> Weigh:
    """Return the function that knows the t-DCF's weights of a condition, or None."""
    table: dict[tuple[str, str], tuple[float, float, float]] = {}
    if asv_scores is not None:
        asv = read_asv_scores(asv_scores, asv_key)
        if phase != "all" and (asv["phase"] != "-").any():
            asv = asv[asv["phase"] == phase]
    elif isinstance(c012, tuple):
        table = {(_POOLED, _POOLED): c012}
    elif c012 is not None:
        table = read_c012(c012, phase)

    def weigh(condition: dict[str, str]) -> Weights | None:
        if not set(condition) <= {"attack", "codec"}:
            return None
        if asv_scores is not None:
            return _asv_weights(asv, condition)
        weights = table.get((condition.get("attack", _POOLED), condition.get("codec", _POOLED)))
        return weights and (weights, None)

    return weigh


def _asv_weights(asv: pd.DataFrame, condition: dict[str, str]) -> Weights | None:
    """Compute the t-DCF's weights from the ASV trials of one condition, if there are all kinds."""
    chosen = np.ones(len(asv), bool)
    for name, value in condition.items():
        chosen &= (asv[name] == value) | ((name == "attack") & (asv["kind"] != "spoof"))
    kinds = [asv.loc[chosen & (asv["kind"] == kind), "score"] for kind in ASV_KINDS]
    if condition and not all(scores.size for scores in kinds):
        return None
    target, nontarget, spoof = kinds
    rates = metrics.asv_rates(target, nontarget, spoof)
    return metrics.tdcf_weights(rates), rates.eer


def _tdcf(bonafide: metrics.Floats, spoof: metrics.Floats, known: Weights | None) -> dict[str, Any]:
    """Compute both forms of the min t-DCF, where weights can be had."""
    if known is None:
        return {}
    weights, asv_eer = known
    result: dict[str, Any] = {"tdcf_weights": [float(weight) for weight in weights]}
    # Attacks that the verification system never accepts cost nothing: 0 / 0 in the 2019 form.
    if asv_eer is None or min(weights[1:]) > 0:
        result["min_tdcf_2019"] = metrics.min_tdcf_2019(bonafide, spoof, weights)
    if asv_eer is None or weights[0] + min(weights[1:]) > 0:
        result["min_tdcf_2021"] = metrics.min_tdcf_2021(bonafide, spoof, weights)
    if asv_eer is not None:
        result["asv_eer_percent"] = 100 * asv_eer
    return result


def _groups(trials: pd.DataFrame, factors: Sequence[str], weigh: Weigh) -> dict[str, Any]:
    """Break a result down by one column of the key, or by two."""
    scores, is_bonafide = trials["score"].to_numpy(), trials["label"].to_numpy() == 1
    masks: list[dict[str, np.ndarray]] = []
    for factor in factors:
        column = trials[factor]
        values = set(column.unique()) - {"-"}
        if not values:
            raise ScoreError(f"the key has no {factor} to break down by. Use the full key.")
        known = [value for value in _ORDER if value in values]
        ordered = known + sorted(values.difference(known))
        masks.append({value: (column == value).to_numpy() for value in ordered})
        masks[-1][_POOLED] = np.ones(len(trials), bool)
    groups: dict[str, Any] = {}
    for cell in product(*masks):
        condition = {f: v for f, v in zip(factors, cell, strict=True) if v != _POOLED}
        is_spoof, is_compared = ~is_bonafide, is_bonafide
        for factor, value, mask in zip(factors, cell, masks, strict=True):
            is_spoof = is_spoof & mask[value]
            if factor not in _OF_SPOOF:
                is_compared = is_compared & mask[value]
        bonafide, spoof = scores[is_compared], scores[is_spoof]
        row: dict[str, Any] = {"n_bonafide": bonafide.size, "n_spoof": spoof.size}
        if bonafide.size and spoof.size:
            row |= _rates(bonafide, spoof) | _tdcf(bonafide, spoof, weigh(condition))
        at = groups
        for value in cell[:-1]:
            at = at.setdefault(value, {})
        at[cell[-1]] = row
    return groups


def _warnings(result: dict[str, Any], key: pd.DataFrame, matched: pd.DataFrame) -> list[str]:
    """Say what is odd about a result that is no error."""
    warnings = []
    if matched["score"].nunique() == 1:
        warnings.append(
            f"every score is {float(matched['score'].iloc[0])!r}: a constant tells nothing. "
            "The official EER of a constant is 100 %."
        )
    elif result["eer_percent"] > 50:
        warnings.append(
            f"EER {result['eer_percent']:.2f} % is above 50 %: labels or sign look swapped. "
            "A higher score must mean more bona fide. Nothing was flipped."
        )
    if "eer_tie_aware_percent" in result:
        n_tied = len(matched) - matched["score"].nunique()
        warnings.append(
            f"{n_tied} scores repeat another one; with ties grouped the EER is "
            f"{result['eer_tie_aware_percent']:.4f} %, officially {result['eer_percent']:.4f} %."
        )
    phases = sorted(set(matched["phase"].unique()) - {"-"})
    if result["phase"] == "all" and len(phases) > 1:
        warnings.append(
            f"phases {', '.join(phases)} are POOLED; published results are of one phase, "
            "mostly eval, and are not comparable with this one."
        )
    if "asv_eer_percent" in result and "min_tdcf_2019" not in result:
        warnings.append(
            "the speaker verification system accepts no spoof (C2 = 0), so the min t-DCF of the "
            "2019 form is not defined."
        )
    if result.get("calibration", {}).get("fitted_on") == "5 folds":
        warnings.append(
            "calibrated or fused by cross-validation on the evaluated trials themselves: an "
            "optimistic number. A development set (--dev-scores, --dev-key) gives the honest one."
        )
    if result["n_missing"]:
        n = len(matched) + result["n_missing"]
        warnings.append(
            f"{result['n_missing']} of {n} trials have no score: coverage "
            f"{100 * len(matched) / n:.3f} %. The result is not that of the whole set."
        )
    if result["n_extra"]:
        warnings.append(
            f"{result['n_extra']} scored trials are outside phase {result['phase']} of the key "
            "and were not evaluated."
        )
    return warnings


def render(result: dict[str, Any]) -> RenderableType:
    """Lay a result of :func:`evaluate` out as tables."""
    summary = Table(title=f"Phase: {result['phase']}", show_header=False)
    summary.add_column(style="bold")
    summary.add_column(justify="right")
    summary.add_row("trials", f"{result['n_bonafide']:,} bona fide, {result['n_spoof']:,} spoof")
    eer = f"{result['eer_percent']:.4f} %"
    if "eer_interval_percent" in result:
        low, high = result["eer_interval_percent"]
        over = " and ".join(result["bootstrap"]["cluster"]) or "trials"
        eer += f"  (95 % over {over}: {low:.3f} to {high:.3f})"
    summary.add_row("EER", eer)
    if "eer_tie_aware_percent" in result:
        summary.add_row("EER, ties grouped", f"{result['eer_tie_aware_percent']:.4f} %")
    summary.add_row("threshold (accept above)", f"{result['eer_threshold']:.6g}")
    names = {
        "min_tdcf_2019": "min t-DCF, 2019 form",
        "min_tdcf_2021": "min t-DCF, 2021 form",
        "asv_eer_percent": "EER of the ASV system (%)",
        "min_dcf": "min DCF",
        "act_dcf": "act DCF (scores read as LLR)",
        "cllr": "Cllr (scores read as LLR)",
        "min_cllr": "min Cllr",
    }
    for name, title in names.items():
        if name in result:
            summary.add_row(title, f"{result[name]:.6f}")
    if "calibration" in result:
        about = result["calibration"]
        if "cllr" in about:
            summary.add_row(f"Cllr, calibrated on {about['fitted_on']}", f"{about['cllr']:.6f}")
            summary.add_row("act DCF, calibrated", f"{about['act_dcf']:.6f}")
        else:
            each = ", ".join(f"{value:.4f}" for value in about["eer_percent_of_each"])
            summary.add_row(f"fused on {about['fitted_on']}; EER of each (%)", each)
    if "against" in result:
        other = result["against"]
        text = f"{other['eer_percent']:.4f} %, difference {other['difference_percent']:+.4f}"
        if "difference_interval_percent" in other:
            low, high = other["difference_interval_percent"]
            text += f" (95 %: {low:+.3f} to {high:+.3f})"
        summary.add_row("EER of the other system", text)
    parts: list[RenderableType] = [summary]
    if "transfer" in result:
        head = ("chosen at", "threshold", "dev FRR %", "dev FAR %", "FRR %", "FAR %")
        rates = ("dev_frr", "dev_far", "frr", "far")
        parts.append(_table("Thresholds from the development set", head, [
            (row["rule"], f"{row['threshold']:.6g}", *(f"{row[name]:.4f}" for name in rates))
            for row in result["transfer"]
        ]))  # fmt: skip
    for name, groups in result.get("groups", {}).items():
        first, _, second = name.partition(":")
        pooled = groups[_POOLED][_POOLED] if second else groups[_POOLED]
        shown = {quantity: title for quantity, title in _SHOWN.items() if quantity in pooled}
        if not second:
            parts.append(_table(f"By {name}", (name, "bona fide", "spoof", *shown.values()), [
                (value, f"{row['n_bonafide']:,}", f"{row['n_spoof']:,}", *_cells([row], *shown))
                for value, row in groups.items()
            ]))  # fmt: skip
            continue
        for quantity, title in shown.items():
            head = (first, *groups[_POOLED])
            rows = [(value, *_cells(row.values(), quantity)) for value, row in groups.items()]
            parts.append(_table(f"{title} by {first} and {second}", head, rows))
    parts += [Text(f"WARNING: {text}", style="bold red") for text in result["warnings"]]
    return Group(*parts)


_SHOWN = {"eer_percent": "EER %", "min_tdcf_2021": "min t-DCF (2021)", "min_dcf": "min DCF"}


def _cells(rows: Iterable[dict[str, Any]], *quantities: str) -> list[str]:
    return [f"{row[name]:.4f}" if name in row else "-" for row in rows for name in quantities]


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Lay numbers out below their heads, with what is pooled in bold."""
    table = Table(title=title)
    for k, name in enumerate(head):
        style = "bold" if name == _POOLED else ""
        table.add_column(name, justify="right" if k else "left", style=style)
    for row in rows:
        table.add_row(*row, style="bold" if row[0] == _POOLED else "")
    return table
