"""Results of commands as text for people; ``--json`` prints them as they are.

:func:`show` lays out the result of any command but two: :func:`score` needs only one line, and
:func:`evaluate` shows as many digits as publications do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from textwrap import fill
from typing import Any

Titled = tuple[str, Sequence[Mapping[str, Any]]]  # a title and the rows below it

_SHOWN = 5  # items shown of a long list
# Lines of an evaluation; one whose quantities a result lacks is left out.
_SUMMARY = {
    "trials": "{n_bonafide:,} bona fide, {n_spoof:,} spoof",
    "EER": "{eer_percent:.4f} %{interval}",
    "EER, ties grouped": "{eer_tie_aware_percent:.4f} %",
    "threshold (accept above)": "{eer_threshold:.6g}",
    "min t-DCF, 2019 form": "{min_tdcf_2019:.6f}",
    "min t-DCF, 2021 form": "{min_tdcf_2021:.6f}",
    "EER of the ASV system (%)": "{asv_eer_percent:.6f}",
    "min DCF": "{min_dcf:.6f}",
    "act DCF (scores read as LLR)": "{act_dcf:.6f}",
    "Cllr (scores read as LLR)": "{cllr:.6f}",
    "min Cllr": "{min_cllr:.6f}",
    "Cllr, calibrated on the development set": "{calibration[cllr]:.6f}",
    "act DCF, calibrated": "{calibration[act_dcf]:.6f}",
    "EER of the other system": (
        "{against[eer_percent]:.4f} %, difference {against[difference_percent]:+.4f}{difference}"
    ),
}
# Names in results that do not speak for themselves.
_TITLES = {
    "n_sound": "usable",
    "rates": "sample rate (Hz)",
    "md5": "FLAC MD5",
    "duplicates": "same audio",
    "extra": "not in the protocol",
    "window_s": "window (s)",
    "llr": "LLR (nats)",
    "threshold": "threshold (bona fide above)",
    "lowest_llr": "lowest window (nats)",
    "peak_memory_bytes": "peak memory (bytes)",
}


def table(rows: Sequence[Mapping[Any, Any]]) -> str:
    """Lay out rows of cells, with numbers to the right and a dash for a cell that a row lacks.

    Args:
        rows: Cells by column: texts, numbers, lists or dictionaries of them. The columns stand in
            the order of their first appearance.
    """
    import pandas as pd
    from tabulate import tabulate

    cells = pd.DataFrame(rows, dtype=object).map(_cell)
    is_number = [cells[c].str.fullmatch(r"-|[-+]?[\d.,]+(e[-+]?\d+)?").all() for c in cells]
    lines, columns = cells.to_numpy().tolist(), cells.columns.tolist()
    sides = ["right" if number else "left" for number in is_number] if rows else None
    return tabulate(lines, columns, "simple", colalign=sides, disable_numparse=True)


def show(result: Mapping[str, Any]) -> str:
    """Lay out any result: its facts, then a table for each list of rows, then the warnings."""
    shown = {name: value for name, value in result.items() if name not in ("errors", "warnings")}
    rows = {name: shown.pop(name) for name in result if _is_rows(result[name])}
    facts = [{"what": _title(n), "value": fill(_cell(v), 80)} for n, v in shown.items()]
    parts = [
        (name, [{_title(k): v for k, v in row.items()} for row in rows[name]]) for name in rows
    ]
    return _page(result, ("", facts), *parts)


def score(result: Mapping[str, Any]) -> str:
    """Say in one line how many trials were scored, and how they were read."""
    by = ", ".join(f"{n:,} by {name}" for name, n in result["decoders"].items())
    text = "{n_scores:,} of {n_trials:,} trials scored ({by}; {n_over_range:,} over-range, "
    return (text + "{n_converted:,} converted)").format(**result, by=by)


def evaluate(result: Mapping[str, Any]) -> str:
    """Lay out an evaluation: the summary, thresholds, then a table for each breakdown."""
    first = "EER {eer_percent:.4f} %, phase {phase}: {n_bonafide:,} bona fide, {n_spoof:,} spoof"
    lines = [f"{first.format(**result)}; higher scores mean bona fide"]
    lines += [f"Assumed: {text}" for text in result.get("assumed", ())]
    values = dict(result) | {"interval": "", "difference": ""}
    if ends := result.get("eer_interval_percent"):
        over = " and ".join(result["bootstrap"]["cluster"]) or "trials"
        values["interval"] = "  (95 % over {}: {:.3f} to {:.3f})".format(over, *ends)
    if ends := result.get("against", {}).get("difference_interval_percent"):
        values["difference"] = " (95 %: {:+.3f} to {:+.3f})".format(*ends)
    summary = []
    for title, text in _SUMMARY.items():
        with suppress(KeyError):
            summary.append({"what": title, "value": text.format(**values)})
    parts: list[Titled] = [("\n".join(lines), summary)]
    if "transfer" in result:
        parts.append(("Thresholds from the development set", result["transfer"]))
    parts += [_breakdown(*one) for one in result.get("groups", {}).items()]
    return _page(result, *parts)


def _breakdown(factors: str, groups: Mapping[str, Any]) -> Titled:
    """Tabulate a breakdown by one factor, or the EERs of two crossed factors."""
    first, _, second = factors.partition(":")
    if second:
        rows = [
            {first: value} | {name: _number(cell, "eer_percent") for name, cell in row.items()}
            for value, row in groups.items()
        ]
        return f"EER % by {first} and {second}", rows
    rows = [
        {first: value, "bona fide": row["n_bonafide"], "spoof": row["n_spoof"]}
        | {"EER %": _number(row, "eer_percent"), "min DCF": _number(row, "min_dcf")}
        for value, row in groups.items()
    ]
    return f"By {first}", rows


def _page(result: Mapping[str, Any], *parts: Titled) -> str:
    """Join titled tables, and end with the warnings as plain lines."""
    blocks = [f"{title}\n\n{table(rows)}".lstrip() for title, rows in parts]
    return "\n\n".join(blocks + [f"WARNING: {text}" for text in result.get("warnings", ())])


def _number(row: Mapping[str, Any], quantity: str) -> str:
    return f"{row[quantity]:.4f}" if quantity in row else "-"


def _title(name: str) -> str:
    return _TITLES.get(name, name.removeprefix("n_").replace("_", " "))


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _cell(value: Any) -> str:
    """Write a number, a text, nothing or several of them; long lists show their beginning."""
    if _is_rows(value):
        return str(len(value))
    if isinstance(value, Mapping):
        value = [f"{name} ({_cell(one)})" for name, one in value.items()]
    if isinstance(value, list):
        several = [f"({_cell(one)})" if isinstance(one, list) else _cell(one) for one in value]
        shown = ", ".join(several[:_SHOWN])
        return f"{len(value):,} ({shown}, ...)" if len(value) > _SHOWN else shown or "-"
    if value is None or value != value:  # NaN stands for what a row lacks
        return "-"
    if isinstance(value, float) and abs(value) < 1000:
        return f"{value:.5g}"
    return f"{value:,.0f}" if type(value) in (int, float) else str(value)
