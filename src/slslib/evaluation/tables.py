"""Results of commands as text for people; ``--json`` prints them as they are.

:func:`show` lays out the result of any command. It uses the names of the result, with blanks for
underscores, and escapes characters that cannot be printed. :func:`evaluate` puts the EER first, and
:func:`detect` adds the lowest windows.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

_ASKED = ("bonafide_percent", "n_speech_free")  # shown if a recording has them
_SHOWN = 5  # items shown of a long list
_SAID = ("n_bonafide", "n_spoof", "phase", "assumed", "groups", "sha256")  # not in the table


def table(rows: Sequence[Mapping[Any, Any]], width: int = 10_000) -> str:
    """Lay out rows of cells, with numbers flush right and a dash for a cell that a row lacks.

    Args:
        rows: Cells by column: texts, numbers, lists or dictionaries of them. Columns come in the
            order of their first appearance, named with blanks for underscores.
        width: Characters per line; a longer cell is broken into several lines.
    """
    import pandas as pd
    from tabulate import tabulate

    cells: Any = pd.DataFrame(rows, dtype=object).rename(columns=_title)
    cells = cells.map(lambda value: fill(_cell(value), width))
    number = r"-|[-+]?[\d.,]+(e[-+]?\d+)?"
    are_numbers = [column.str.fullmatch(number).all() for _, column in cells.items()]
    sides = ["right" if are else "left" for are in are_numbers] if rows else None
    return tabulate(cells, "keys", showindex=False, colalign=sides, disable_numparse=True)


def show(result: Mapping[str, Any]) -> str:
    """Lay out any result: its facts, then a table for each list of rows, then the warnings."""
    shown = {name: value for name, value in result.items() if name not in ("errors", "warnings")}
    rows = {name: shown.pop(name) for name in [*shown] if _is_rows(shown[name])}
    facts = [{"what": _title(name), "value": value} for name, value in shown.items()]
    blocks = [table(facts, 80)] + [f"{_title(name)}\n\n{table(r)}" for name, r in rows.items()]
    return "\n\n".join(blocks + [f"WARNING: {_cell(text)}" for text in result.get("warnings", ())])


def evaluate(result: Mapping[str, Any]) -> str:
    """Lay out an evaluation: the EER and what it is for, the other numbers, then the breakdowns."""
    first = "EER {eer_percent:.4f} %, phase {phase}: {n_bonafide:,} bona fide, {n_spoof:,} spoof"
    lines = [f"{first.format(**result)}; higher scores mean bona fide"]
    lines += [f"Assumed: {_cell(text)}" for text in result.get("assumed", ())]
    shown = {name: value for name, value in result.items() if name not in _SAID}
    for word, groups in result.get("groups", {}).items():
        first, _, second = word.partition(":")
        if second:
            rows = [
                {first: value} | {name: cell.get("eer_percent") for name, cell in row.items()}
                for value, row in groups.items()
            ]
            shown[f"eer_percent_by_{first}_and_{second}"] = rows
        else:
            shown[f"by_{first}"] = [{first: value} | row for value, row in groups.items()]
    return "\n".join(lines) + "\n\n" + show(shown)


def reproduce(result: Mapping[str, Any]) -> str:
    """Return the table that the command laid out itself."""
    return str(result["table"])


def detect(result: Mapping[str, Any]) -> str:
    """Lay out the scores of recordings, and the lowest windows with their starting times."""
    rows = []
    for one in result["files"]:
        scored = [(w["llr"], w["start_s"]) for w in one["windows"] if w["llr"] is not None]
        lowest = [f"{llr:.2f} at {_clock(start)}" for llr, start in sorted(scored)[:3]]
        row = {key: one[key] for key in ("file", "llr", "verdict", "n_silent")}
        row |= {key: one[key] for key in _ASKED if one.get(key) is not None}
        length = _clock(one["duration_s"]) + ("" if one["states_length"] else " or more")
        row |= {"length": length if one["duration_s"] else None, "lowest_windows": lowest}
        rows.append(row)
    return show({**result, "files": rows})


def _clock(seconds: float) -> str:
    """Write a time as minutes and seconds, as players show it."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _title(name: str) -> str:
    return _cell(name).replace("_", " ")


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _cell(value: Any) -> str:
    """Write a number, a text, nothing, or several of them; of a long list, only the beginning."""
    if _is_rows(value):
        return str(len(value))
    if isinstance(value, Mapping):
        value = [f"{name} ({_cell(one)})" for name, one in value.items()]
    if isinstance(value, list):
        several = [f"({_cell(one)})" if isinstance(one, list) else _cell(one) for one in value]
        shown = ", ".join(several[:_SHOWN])
        return f"{len(value):,} ({shown}, ...)" if len(value) > _SHOWN else shown or "-"
    if value is None or value != value:  # NaN stands for a cell that a row lacks
        return "-"
    if isinstance(value, float) and abs(value) < 1000:
        return f"{value:.5g}"
    text = f"{value:,.0f}" if type(value) in (int, float) else str(value)
    # A name may hold characters that control the terminal.
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
