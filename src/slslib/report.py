"""One page that a result can be handed on with: tables, figures and where they come from.

:func:`report` writes Markdown from score files (evaluated against their key) and training runs;
:func:`to_html` turns it into a page. Figures are embedded, so the page is one file that opens
anywhere. Beside every number stands what it takes to get it again: hashes of the files, versions,
the phase, how many trials there were, and for score files that slslib wrote, the checkpoint and
how many recordings each decoder read.
"""

from __future__ import annotations

import base64
import html
import io
import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from slslib import __version__, plots
from slslib.errors import ConfigError
from slslib.evaluate import evaluate
from slslib.protocols import read_protocol, sha256_of
from slslib.scorefiles import match, read_scores

_NUMBERS = {
    "min_tdcf_2019": "min t-DCF (2019)",
    "min_tdcf_2021": "min t-DCF (2021)",
    "min_dcf": "min DCF",
    "act_dcf": "act DCF",
    "cllr": "Cllr",
    "min_cllr": "min Cllr",
}


def report(
    items: Sequence[str | Path],
    *,
    key: str | Path | None = None,
    phase: str | None = None,
    bootstrap: int = 1000,
    cluster: Sequence[str] = (),
    by: Sequence[str] = (),
    seed: int = 0,
    **tdcf: Any,
) -> str:
    """Write a report as Markdown.

    Args:
        items: Score files, all of the same trials, and folders of training runs.
        key: The key of the score files.
        phase: As for :func:`slslib.evaluate.evaluate`, like all that follow.
        bootstrap: Replicates of the intervals; 0 for none.
        cluster: Resample these instead of trials.
        by: Breakdowns.
        seed: Seed of the bootstrap.
        **tdcf: ``asv_scores``, ``asv_key`` or ``c012``.

    Raises:
        ConfigError: There is nothing to report, or an item is neither of the two.
        ProtocolError: The key is malformed.
        ScoreError: The scores are malformed, or do not fit the key.
    """
    files = [Path(item) for item in items if Path(item).is_file()]
    runs = [Path(item) for item in items if (Path(item) / "config.json").is_file()]
    for item in map(Path, items):
        if item not in files and item not in runs:
            raise ConfigError(f"{item}: neither a score file nor the folder of a training run.")
    if not files and not runs:
        raise ConfigError("nothing to report: name score files or folders of training runs.")
    if files and key is None:
        raise ConfigError("score files need their key (--key).")
    blocks = ["# Evaluation report" if files else "# Training report"]
    if files:
        names = _names(files)
        options: dict[str, Any] = {
            "phase": phase, "bootstrap": bootstrap, "cluster": cluster, "seed": seed, **tdcf,
        }  # fmt: skip
        results = {
            name: evaluate(
                file, key or "", **options, by=by, against=files[0] if file != files[0] else None
            )
            for name, file in names.items()
        }
        blocks += _comparison(results)
        trials = read_protocol(key or "")
        scores = {name: match(read_scores(file), trials, phase) for name, file in names.items()}
        classes = {
            name: (table.loc[table["label"] == 1, "score"], table.loc[table["label"] == 0, "score"])
            for name, table in scores.items()
        }
        shown = dict(list(classes.items())[: len(plots.OTHER)])
        blocks.append("## Error rates at every threshold")
        blocks.append(_picture(plots.plot_det(shown), f"DET curves of {', '.join(shown)}"))
        for name, result in results.items():
            blocks += _system(name, names[name], result, classes[name])
    for run in runs:
        blocks += _run(run)
    blocks += ["## Made with", _table(["", ""], [
        ["slslib", __version__], ["Python", platform.python_version()],
        *([package, version(package)] for package in ("numpy", "scipy", "pandas")),
        *([["key", f"{_escape(Path(key or '').name)}, SHA-256 `{sha256_of(key or '')}`"],
           ["bootstrap", f"{bootstrap} replicates, seed {seed}"]] if files else []),
    ])]  # fmt: skip
    return "\n\n".join(blocks) + "\n"


def to_html(markdown: str) -> str:
    """Turn a report into a page of HTML that needs no other file."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("js-default").render(markdown)  # escapes HTML in names
    title = markdown.partition("\n")[0].lstrip("# ")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


_STYLE = """
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; }
main { max-width: 62rem; margin: 0 auto; padding: 1rem 1.5rem 4rem; }
h1, h2, h3 { line-height: 1.25; margin: 2rem 0 .75rem; }
h2 { border-bottom: 1px solid #ccc; padding-bottom: .25rem; }
table { display: block; overflow-x: auto; margin: 1rem 0; border-collapse: collapse;
        font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid #ddd; }
th:not([style]) { text-align: left; }
th { border-bottom: 2px solid #888; }
img { max-width: 100%; height: auto; }
code { font-size: .85em; overflow-wrap: anywhere; }
blockquote { margin: 1rem 0; padding: .1rem 1rem; border-left: 4px solid #b35900;
             background: #fff4e8; }
""".strip()


def _names(files: Sequence[Path]) -> dict[str, Path]:
    """Name the systems by their files, with the folder where that is not enough."""
    stems = [file.stem for file in files]
    names = {
        file.stem if stems.count(file.stem) == 1 else f"{file.parent.name}/{file.stem}": file
        for file in files
    }
    if len(names) < len(files):
        raise ConfigError("two score files have the same name and folder name; rename one.")
    return names


def _interval(result: Mapping[str, Any]) -> str:
    if "eer_interval_percent" not in result:
        return "-"
    low, high = result["eer_interval_percent"]
    over = " and ".join(result["bootstrap"]["cluster"]) or "trials"
    return f"{low:.3f} to {high:.3f} over {over}"


def _comparison(results: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    first = next(iter(results.values()))
    yield (
        f"Phase **{first['phase']}**: {first['n_bonafide']:,} bona fide and "
        f"{first['n_spoof']:,} spoofed trials. A higher score means more bona fide."
    )
    shown = [name for name in _NUMBERS if name in first]
    header = ["system", "EER %", "95 % interval", *(_NUMBERS[name] for name in shown)]
    yield _table(header, [
        [f"**{_escape(name)}**", f"{result['eer_percent']:.4f}", _interval(result),
         *(f"{result[quantity]:.4f}" if quantity in result else "-" for quantity in shown)]
        for name, result in results.items()
    ])  # fmt: skip
    yield "act DCF and Cllr read the scores as log-likelihood ratios."
    rows = []
    for name, result in results.items():
        if "against" in result:
            other = result["against"]
            low, high = other.get("difference_interval_percent", (None, None))
            ends = "-" if low is None else f"{low:+.3f} to {high:+.3f}"
            rows.append([_escape(name), f"{other['difference_percent']:+.4f}", ends])
    if rows:
        yield f"EER minus that of {_escape(next(iter(results)))}, on the same resampled trials:"
        yield _table(["system", "difference (points)", "95 % interval"], rows)


def _system(
    name: str,
    file: Path,
    result: dict[str, Any],
    classes: tuple[pd.Series[float], pd.Series[float]],
) -> Iterator[str]:
    yield f"## {_escape(name)}"
    for warning in result["warnings"]:
        yield f"> **Warning.** {_escape(warning)}"
    plot = plots.plot_scores(*classes)
    plot[1].set_xlabel("score (higher: more bona fide)")
    yield _picture(plot, f"Histogram of the scores of {name}, bona fide and spoofed")
    for factor, groups in result.get("groups", {}).items():
        yield f"### By {factor.replace(':', ' and ')}"
        if ":" in factor:
            for quantity in ("eer_percent", "min_tdcf_2021"):
                if quantity in groups["Pooled"]["Pooled"]:
                    yield _cross(factor, groups, quantity)
        else:
            yield _groups(factor, groups)
    rows = [
        ["score file", _escape(file.name)],
        ["SHA-256", f"`{result['sha256']['scores']}`"],
        ["threshold of the EER", f"{result['eer_threshold']:.6g} (accept above), rule "
         f"{result['eer_rule']}"],
        ["trials", f"{result['n_bonafide'] + result['n_spoof']:,} evaluated, "
         f"{result['n_missing']:,} of the phase without a score, {result['n_extra']:,} scored "
         "outside it"],
    ]  # fmt: skip
    beside = file.with_name(file.name + ".json")
    yield "### Provenance"
    if beside.is_file():
        made = json.loads(beside.read_text(encoding="utf-8"))
        if made.get("scores_sha256") != result["sha256"]["scores"]:
            yield (
                f"> **Warning.** {_escape(beside.name)} describes a score file with another "
                "hash: this one was changed after it was written."
            )
        rows += _flat(made)
    else:
        rows.append(["made by", f"unknown: there is no {_escape(beside.name)}"])
    yield _table(["", ""], rows)


def _cross(factor: str, groups: dict[str, Any], quantity: str) -> str:
    title = "EER %" if quantity == "eer_percent" else _NUMBERS[quantity]
    rows = [
        [
            _label(value),
            *(f"{cell[quantity]:.4f}" if quantity in cell else "-" for cell in row.values()),
        ]
        for value, row in groups.items()
    ]
    return _table([f"{factor.partition(':')[0]}: {title}", *groups["Pooled"]], rows)


def _groups(factor: str, groups: dict[str, Any]) -> str:
    shown = [n for n in ("eer_percent", "min_tdcf_2021", "min_dcf") if n in groups["Pooled"]]
    titles = {"eer_percent": "EER %"} | _NUMBERS
    rows = [
        [_label(value), f"{row['n_bonafide']:,}", f"{row['n_spoof']:,}",
         *(f"{row[name]:.4f}" if name in row else "-" for name in shown)]
        for value, row in groups.items()
    ]  # fmt: skip
    return _table([factor, "bona fide", "spoof", *(titles[name] for name in shown)], rows)


def _label(value: str) -> str:
    return f"**{value}**" if value == "Pooled" else _escape(value)


def _run(run: Path) -> Iterator[str]:
    about = json.loads((run / "config.json").read_text(encoding="utf-8"))
    yield f"## Training run {_escape(run.name)}"
    log = run / "log.csv"
    if log.is_file():
        table = pd.read_csv(log)
        yield _picture(plots.plot_learning(table), f"Loss and error rate of {run.name} by epoch")
        texts = [
            [f"{v:.6g}" if isinstance(v, int | float) else _escape(str(v)) for v in row]
            for row in table.itertuples(index=False)
        ]
        yield _table([_escape(str(name)) for name in table], texts)
    else:
        yield "No epoch is finished yet."
    best = run / "best.json"
    rows = [["best epoch", _text(json.loads(best.read_text()))]] if best.is_file() else []
    yield _table(["setting", "value"], rows + _flat(about))


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    """List the entries of nested dictionaries, one row each."""
    rows = []
    for name, entry in value.items():
        if isinstance(entry, Mapping) and entry:
            rows += _flat(entry, f"{prefix}{name}.")
        else:
            rows.append([_escape(prefix + name), _text(entry)])
    return rows


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_escape(name)} {_text(entry)}" for name, entry in value.items())
    return f"`{value}`" if isinstance(value, str) and len(value) >= 32 else _escape(str(value))


def _escape(text: str) -> str:
    """Keep names from being read as Markdown."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    numeric = [all(re.fullmatch(r"[-+.,\d]+", cell) for cell in column) for column in columns]
    lines = [header, ["---:" if is_number else "---" for is_number in numeric], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _picture(plot: plots.Plot, text: str) -> str:
    data = io.BytesIO()
    plot[0].savefig(data, format="png")
    encoded = base64.b64encode(data.getvalue()).decode()
    return f"![{_escape(text)}](data:image/png;base64,{encoded})"
