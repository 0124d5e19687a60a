"""Tables for people: one function for the result of each command, in text, Markdown or HTML.

Every function takes the dictionary that its command returns and prints with ``--json``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any, Literal

Form = Literal["text", "markdown", "html"]

_SHOWN = 5  # items shown of a long list
_POOLED = "Pooled"
_QUANTITIES = {
    "min_tdcf_2019": "min t-DCF, 2019 form",
    "min_tdcf_2021": "min t-DCF, 2021 form",
    "asv_eer_percent": "EER of the ASV system (%)",
    "min_dcf": "min DCF",
    "act_dcf": "act DCF (scores read as LLR)",
    "cllr": "Cllr (scores read as LLR)",
    "min_cllr": "min Cllr",
}
_BY_CONDITION = {"eer_percent": "EER %", "min_tdcf_2021": "min t-DCF (2021)", "min_dcf": "min DCF"}


def table(rows: Sequence[Mapping[str, Any]], form: Form = "text") -> str:
    """Lay out rows of cells, with numbers to the right and a dash for a cell that a row lacks.

    Args:
        rows: Cells by column; the columns stand in the order of their first appearance.
        form: ``text`` for a terminal; ``markdown`` or ``html`` for a page.
    """
    from tabulate import tabulate

    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [["-" if row.get(c) is None else str(row[c]) for c in columns] for row in rows]
    numeric = [
        all(re.fullmatch(r"-|[-+]?[\d.,]+(e[-+]?\d+)?", cell) for cell in column)
        for column in zip(*cells, strict=True)
    ]
    if form == "markdown":
        columns, *cells = (
            [re.sub(r"(?<!\\)\|", r"\|", cell) for cell in line] for line in [columns, *cells]
        )
    return tabulate(
        cells,
        columns,
        tablefmt={"text": "simple", "markdown": "pipe", "html": "html"}[form],
        colalign=["right" if number else "left" for number in numeric] if cells else None,
        disable_numparse=True,
    )


def verify(result: Mapping[str, Any], form: Form = "text") -> str:
    """Summarize an audit of a corpus; long lists show their beginning."""
    over_range = [
        name if x["peak"] is None else f"{name} (peak {x['peak']:.2f})"
        for name, x in result["over_range"].items()
    ]
    checks = {
        "trials": f"{result['n_trials']:,}",
        "sound files": f"{result['n_sound']:,}",
        "missing": _some(result["missing"]),
        "unusable": _some(list(result["unusable"].values())),
        "format": _counts(result["formats"]),
        "decoder": _counts(result["decoders"]),
        "FLAC MD5": _counts(result["md5"]),
        "rate (Hz)": _counts(result["rates"]),
        "channels": _counts(result["channels"]),
        "resampled to 16 kHz": _some(result["other_rate"]),
        "mixed down": _some(result["multichannel"]),
        "over-range": _some(over_range),
        "same audio": _some([" = ".join(same) for same in result["duplicates"]]),
        "not in the protocol": _some(result["extra"]),
    }
    if seconds := result["seconds"]:
        checks["seconds"] = (
            "min {min:.2f}, median {median:.2f}, max {max:.2f}".format(**seconds)
            + f"; {seconds['total'] / 3600:.2f} h in all"
        )
    verdict = "sound" if result["sound"] else "NOT SOUND"
    return _page(result, form, (f"{result['name']}: {verdict}", _pairs(checks, "check", "result")))


def evaluate(result: Mapping[str, Any], form: Form = "text") -> str:
    """Lay out an evaluation: the summary, thresholds, then a table for each breakdown."""
    parts = [(f"Phase: {result['phase']}", _pairs(_summary(result)))]
    if "transfer" in result:
        rates = {"dev FRR %": "dev_frr", "dev FAR %": "dev_far", "FRR %": "frr", "FAR %": "far"}
        chosen = [
            {"chosen at": row["rule"], "threshold": f"{row['threshold']:.6g}"}
            | {title: f"{row[rate]:.4f}" for title, rate in rates.items()}
            for row in result["transfer"]
        ]
        parts.append(("Thresholds from the development set", chosen))
    for factors, groups in result.get("groups", {}).items():
        parts += breakdown(factors, groups)
    return _page(result, form, *parts)


def breakdown(factors: str, groups: Mapping[str, Any]) -> list[tuple[str, list[dict[str, str]]]]:
    """Return title and rows of a breakdown by ``factors``, or by quantity of two crossed ones."""
    first, _, second = factors.partition(":")
    pooled = groups[_POOLED][_POOLED] if second else groups[_POOLED]
    shown = {name: title for name, title in _BY_CONDITION.items() if name in pooled}
    if second:
        return [
            (
                f"{title} by {first} and {second}",
                [
                    {first: value} | {name: _number(cell, quantity) for name, cell in row.items()}
                    for value, row in groups.items()
                ],
            )
            for quantity, title in shown.items()
        ]
    rows = [
        {first: value, "bona fide": f"{row['n_bonafide']:,}", "spoof": f"{row['n_spoof']:,}"}
        | {title: _number(row, quantity) for quantity, title in shown.items()}
        for value, row in groups.items()
    ]
    return [(f"By {first}", rows)]


def detect(result: Mapping[str, Any], form: Form = "text") -> str:
    """List the verdicts on recordings."""
    title = (
        f"{result['checkpoint']}; threshold {result['threshold']:.3f} "
        f"({result['threshold_source']}). LLR: natural logarithm, mean over windows of "
        f"{result['window_s']:.2f} s; higher is more bona fide"
    )
    rows = []
    for one in result["files"]:
        row = {"file": one["file"], "LLR": "", "lowest window": "", "windows": ""}
        if one["error"]:
            rows.append(row | {"verdict": "not scored"})
            continue
        lowest = min(window["llr"] for window in one["windows"])
        numbers = {"LLR": f"{one['llr']:.3f}", "lowest window": f"{lowest:.3f}"}
        rows.append(row | numbers | {"windows": len(one["windows"]), "verdict": one["verdict"]})
    return _page(result, form, (title, rows))


def bench(result: Mapping[str, Any], form: Form = "text") -> str:
    """List speed and memory by work, batch size and precision."""
    title = (
        f"{result['checkpoint']}: {result['parameters'] / 1e6:.1f} M parameters, clips of "
        f"{result['clip_seconds']:.2f} s, {result['attention']} attention; {result['device']}, "
        f"{result['threads']} threads. RTF: real-time factor, seconds of computing per second of "
        "audio. Hours are estimates, and hold where --workers decode as many clips per second."
    )
    rows = []
    for row in result["rows"]:
        work = row["work"] if row["work"] == "score" else f"train {result['recipe']}"
        cells = {"work": work, "batch": row["batch_size"], "precision": row["precision"]}
        if "error" in row:
            rows.append(cells | {"clips/s": "failed"})
            continue
        numbers = {
            "clips/s": row["clips_per_second"],
            "RTF": row["real_time_factor"],
            "peak GB": row["peak_memory_bytes"] / 1e9,
        } | {f"{corpus} h": hours for corpus, hours in row.get("hours", {}).items()}
        rows.append(cells | {name: _short(value) for name, value in numbers.items()})
    return _page(result, form, (title, rows))


def score(result: Mapping[str, Any]) -> str:
    """Say in one line how many trials were scored, and how they were read."""
    decoders = ", ".join(f"{n:,} by {name}" for name, n in result["decoders"].items())
    return (
        f"{result['n_scores']:,} of {result['n_trials']:,} trials scored ({decoders}; "
        f"{result['n_over_range']:,} over-range, {result['n_converted']:,} converted)"
    )


def convert(result: Mapping[str, Any]) -> str:
    """Name the file that was written, and what was not kept."""
    return "\n".join([result["out"], *(f"WARNING: {text}" for text in result["warnings"])])


def _summary(result: Mapping[str, Any]) -> dict[str, str]:
    trials = f"{result['n_bonafide']:,} bona fide, {result['n_spoof']:,} spoof"
    eer = f"{result['eer_percent']:.4f} %"
    if interval := result.get("eer_interval_percent"):
        resampled = " and ".join(result["bootstrap"]["cluster"]) or "trials"
        eer += "  (95 % over {}: {:.3f} to {:.3f})".format(resampled, *interval)
    lines = {"trials": trials, "EER": eer}
    if "eer_tie_aware_percent" in result:
        lines["EER, ties grouped"] = f"{result['eer_tie_aware_percent']:.4f} %"
    lines["threshold (accept above)"] = f"{result['eer_threshold']:.6g}"
    lines |= {title: f"{result[k]:.6f}" for k, title in _QUANTITIES.items() if k in result}
    if fitted := result.get("calibration"):
        if "cllr" in fitted:
            lines[f"Cllr, calibrated on {fitted['fitted_on']}"] = f"{fitted['cllr']:.6f}"
            lines["act DCF, calibrated"] = f"{fitted['act_dcf']:.6f}"
        else:
            each = ", ".join(f"{value:.4f}" for value in fitted["eer_percent_of_each"])
            lines[f"fused on {fitted['fitted_on']}; EER of each (%)"] = each
    if other := result.get("against"):
        text = f"{other['eer_percent']:.4f} %, difference {other['difference_percent']:+.4f}"
        if interval := other.get("difference_interval_percent"):
            text += " (95 %: {:+.3f} to {:+.3f})".format(*interval)
        lines["EER of the other system"] = text
    return lines


def _page(
    result: Mapping[str, Any], form: Form, *parts: tuple[str, Sequence[Mapping[str, Any]]]
) -> str:
    """Join titled tables, and end with the warnings as plain lines."""
    heads = {"text": "{}", "markdown": "**{}**", "html": "<p><strong>{}</strong></p>"}
    plain = "<p>{}</p>" if form == "html" else "{}"
    clean = escape if form == "html" else str
    blocks = [f"{heads[form].format(clean(title))}\n\n{table(rows, form)}" for title, rows in parts]
    warnings = [plain.format(clean(f"WARNING: {text}")) for text in result.get("warnings", ())]
    return "\n\n".join([*blocks, *warnings])


def _pairs(lines: Mapping[str, str], *head: str) -> list[dict[str, str]]:
    what, value = head or ("what", "value")
    return [{what: name, value: text} for name, text in lines.items()]


def _number(row: Mapping[str, Any], quantity: str) -> str:
    return f"{row[quantity]:.4f}" if quantity in row else "-"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{value}: {n:,}" for value, n in counts.items()) or "-"


def _some(items: Collection[str]) -> str:
    shown = ", ".join(list(items)[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")
    return f"{len(items):,} ({shown})" if items else "0"
