"""Evaluating a score file: from two files to every number, its interval and its caveats.

:func:`evaluate` reads scores and key, matches them strictly (:mod:`slslib.scorefiles`), and
returns one plain dictionary: what ``slslib evaluate --json`` prints. :func:`render` makes tables
of it for people. What can be wrong with a result without being an error is said in ``warnings``:
labels or sign that look swapped, constant scores, ties that move the EER, pooled phases, trials
left out.

A breakdown by attack or vocoder, which bona fide speech does not have, sets the spoofed trials of
each against all bona fide ones; one by codec, transmission, source or speaker sets spoofed against
bona fide trials of the same condition, as the ASVspoof 2021 evaluation package does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slslib import intervals, metrics
from slslib.errors import ConfigError, ScoreError
from slslib.protocols import read_protocol, sha256_of
from slslib.scorefiles import (
    ASV_KINDS,
    ScoreFormat,
    match,
    read_asv_scores,
    read_scores,
    select_phase,
)

FACTORS = ("attack", "codec", "transmission", "source", "vocoder", "speaker")
"""The columns of a key that results can be broken down or resampled by."""

_OF_SPOOF = ("attack", "vocoder")
_TIES = 0.001  # percentage points


def evaluate(
    scores: str | Path,
    key: str | Path,
    *,
    phase: str | None = None,
    format: ScoreFormat = "auto",
    asv_scores: str | Path | None = None,
    asv_key: str | Path | None = None,
    c012: tuple[float, float, float] | None = None,
    bootstrap: int = 0,
    cluster: Sequence[str] = (),
    by: Sequence[str] = (),
    allow_missing: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluate a score file against its key.

    Args:
        scores: Score file of two or four columns.
        key: Key of any form :func:`slslib.protocols.read_protocol` knows, with labels.
        phase: ``progress``, ``eval``, ``hidden``, or ``all`` to pool; by default ``eval`` where
            the key has it, else its only phase.
        format: Columns of the score file.
        asv_scores: Scores of a speaker verification system, for the min t-DCF.
        asv_key: Their key, in the 2021 form.
        c012: The t-DCF's weights instead.
        bootstrap: Number of bootstrap replicates for a 95 % interval of the EER; 0 for none.
        cluster: One or two of :data:`FACTORS` to resample whole; none resamples single trials.
        by: Which of :data:`FACTORS` to break the result down by.
        allow_missing: Evaluate although trials lack a score.
        seed: Seed of the bootstrap.

    Returns:
        ``n_bonafide``, ``n_spoof``, ``n_missing`` (of the phase), ``n_extra`` (scored, not
        evaluated), ``phase``, ``eer_percent``, ``eer_threshold`` (accept above), ``eer_rule``,
        ``min_dcf``, ``act_dcf``, ``cllr``, ``min_cllr``, ``llr_note``, ``sha256`` of the inputs
        and ``warnings``; where asked ``eer_interval_percent``, ``bootstrap``, ``min_tdcf_2019``,
        ``min_tdcf_2021``, ``tdcf_weights``, ``asv_eer_percent``, ``groups``; and
        ``eer_tie_aware_percent`` where ties move the EER by more than 0.001 points. ``groups``
        maps factor to value to the same quantities, with the value ``Pooled`` last.

    Raises:
        ProtocolError: The key is malformed.
        ScoreError: The scores are malformed, or do not fit the key.
        ConfigError: Options contradict each other.
    """
    _check_options(asv_scores, asv_key, c012, bootstrap, cluster, by)
    table, trials = read_scores(scores, format), read_protocol(key)
    chosen, phase = select_phase(trials, phase)
    matched = match(table, trials, phase, allow_missing)
    bonafide, spoof = _classes(matched)
    result: dict[str, Any] = {
        "n_bonafide": bonafide.size,
        "n_spoof": spoof.size,
        "n_missing": len(chosen) - len(matched),
        "n_extra": len(table) - len(matched),
        "phase": phase,
    }
    result |= _rates(bonafide, spoof)
    if bootstrap:
        result |= _interval(matched, bootstrap, tuple(cluster), seed)
    asv = None
    if asv_scores is not None:
        asv = read_asv_scores(asv_scores, asv_key)
        if phase != "all" and (asv["phase"] != "-").any():
            asv = asv[asv["phase"] == phase]
    result |= _tdcf(bonafide, spoof, asv, c012)
    result["act_dcf"] = metrics.act_dcf(bonafide, spoof)
    result["cllr"] = metrics.cllr(bonafide, spoof)
    result["min_cllr"] = metrics.min_cllr(bonafide, spoof)
    result["llr_note"] = "act_dcf and cllr read the scores as log-likelihood ratios"
    if by:
        result["groups"] = {factor: _groups(matched, factor, asv) for factor in by}
    inputs = {"scores": scores, "key": key, "asv_scores": asv_scores, "asv_key": asv_key}
    result["sha256"] = {name: sha256_of(path) for name, path in inputs.items() if path is not None}
    result["warnings"] = _warnings(result, trials, matched)
    return result


def _check_options(
    asv_scores: str | Path | None,
    asv_key: str | Path | None,
    c012: tuple[float, float, float] | None,
    bootstrap: int,
    cluster: Sequence[str],
    by: Sequence[str],
) -> None:
    if asv_scores is not None and c012 is not None:
        raise ConfigError("the t-DCF's weights come from ASV scores or from C0,C1,C2: give one.")
    if asv_key is not None and asv_scores is None:
        raise ConfigError("an ASV key without ASV scores: give --asv-scores too.")
    if bootstrap < 0 or (cluster and not bootstrap):
        raise ConfigError("clusters need a number of replicates, as in --bootstrap 1000.")
    for name in (*cluster, *by):
        if name not in FACTORS:
            raise ConfigError(f"{name!r} is not a column of keys. Known are {', '.join(FACTORS)}.")
    if len(cluster) > 2:
        raise ConfigError("at most two factors can be resampled together.")


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
    rng = np.random.default_rng(seed)
    if cluster:
        for name in cluster:
            if (trials[name] == "-").all():
                raise ScoreError(f"the key has no {name}, so it cannot be resampled. Leave it out.")
        names = [trials[name] for name in cluster]
        eers = intervals.cluster_bootstrap_eer(
            trials["score"], trials["label"], names, n_replicates, rng=rng
        )
    else:
        eers = intervals.bootstrap_eer(*_classes(trials), n_replicates, rng=rng)
    low, high = intervals.interval(eers)
    settings = {"replicates": n_replicates, "cluster": list(cluster), "level": 0.95, "seed": seed}
    return {"eer_interval_percent": [100 * low, 100 * high], "bootstrap": settings}


def _tdcf(
    bonafide: metrics.Floats,
    spoof: metrics.Floats,
    asv: pd.DataFrame | None,
    c012: tuple[float, float, float] | None,
) -> dict[str, Any]:
    """Compute both forms of the min t-DCF, where weights can be had."""
    result: dict[str, Any] = {}
    if asv is not None:
        target, nontarget, attacked = (asv.loc[asv["kind"] == kind, "score"] for kind in ASV_KINDS)
        rates = metrics.asv_rates(target, nontarget, attacked)
        c012, result["asv_eer_percent"] = metrics.tdcf_weights(rates), 100 * rates.eer
    if c012 is not None:
        # Attacks that the verification system never accepts cost nothing: 0 / 0 in the 2019 form.
        if asv is None or min(c012[1:]) > 0:
            result["min_tdcf_2019"] = metrics.min_tdcf_2019(bonafide, spoof, c012)
        if asv is None or c012[0] + min(c012[1:]) > 0:
            result["min_tdcf_2021"] = metrics.min_tdcf_2021(bonafide, spoof, c012)
        result["tdcf_weights"] = [float(weight) for weight in c012]
    return result


def _groups(
    trials: pd.DataFrame, factor: str, asv: pd.DataFrame | None
) -> dict[str, dict[str, Any]]:
    """Break a result down by one column of the key."""
    column, scores = trials[factor], trials["score"].to_numpy()
    is_bonafide = trials["label"].to_numpy() == 1
    codes, values = pd.factorize(column.where(column != "-"), sort=True)
    if not len(values):
        raise ScoreError(f"the key has no {factor} to break down by. Use the full key.")
    groups: dict[str, dict[str, Any]] = {}
    for code, value in enumerate([*values, "Pooled"]):
        chosen = (codes == code) | (value == "Pooled")
        bonafide = scores[is_bonafide & (chosen | (factor in _OF_SPOOF))]
        spoof = scores[~is_bonafide & chosen]
        row: dict[str, Any] = {"n_bonafide": bonafide.size, "n_spoof": spoof.size}
        if bonafide.size and spoof.size:
            row |= _rates(bonafide, spoof)
            row |= _tdcf(bonafide, spoof, _asv_part(asv, factor, value), None)
        groups[value] = row
    return groups


def _asv_part(asv: pd.DataFrame | None, factor: str, value: str) -> pd.DataFrame | None:
    """Choose the speaker verification trials of one condition, if the scores tell it."""
    if asv is None or value == "Pooled":
        return asv
    if factor not in ("attack", "codec"):
        return None
    chosen = asv[factor] == value
    if factor == "attack":
        chosen |= asv["kind"] != "spoof"
    part = asv[chosen]
    return part if part["kind"].nunique() == len(ASV_KINDS) else None


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
    parts: list[RenderableType] = [summary]
    for factor, groups in result.get("groups", {}).items():
        parts.append(_render_groups(factor, groups))
    parts += [Text(f"WARNING: {text}", style="bold red") for text in result["warnings"]]
    return Group(*parts)


def _render_groups(factor: str, groups: dict[str, dict[str, Any]]) -> Table:
    shown = {"eer_percent": "EER %", "min_tdcf_2021": "min t-DCF (2021)", "min_dcf": "min DCF"}
    columns = {name: title for name, title in shown.items() if name in groups["Pooled"]}
    table = Table(title=f"By {factor}")
    table.add_column(factor)
    for title in ("bona fide", "spoof", *columns.values()):
        table.add_column(title, justify="right")
    for value, row in groups.items():
        numbers = [f"{row[name]:.4f}" if name in row else "-" for name in columns]
        style = "bold" if value == "Pooled" else ""
        counts = (f"{row['n_bonafide']:,}", f"{row['n_spoof']:,}")
        table.add_row(value, *counts, *numbers, style=style)
    return table
