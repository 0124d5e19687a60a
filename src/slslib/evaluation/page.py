"""One page that a result can be handed on with: tables, figures and where they come from.

:func:`to_markdown` makes Markdown of score files (evaluated against their key) and training runs;
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

from slslib import __version__
from slslib.data.protocols import read_protocol
from slslib.data.scorefiles import match, read_scores
from slslib.errors import ConfigError
from slslib.evaluation import plots
from slslib.evaluation.evaluate import evaluate
from slslib.files import sha256

_TITLES = {
    "eer_percent": "EER %",
    "min_tdcf_2019": "min t-DCF (2019)",
    "min_tdcf_2021": "min t-DCF (2021)",
    "min_dcf": "min DCF",
    "act_dcf": "act DCF",
    "cllr": "Cllr",
    "min_cllr": "min Cllr",
}


def to_markdown(items: Sequence[str | Path], key: str | Path | None = None, **options: Any) -> str:
    """Return a report as Markdown.

    Args:
        items: Score files, all of the same trials, and folders of training runs.
        key: The key of the score files.
        **options: Of :func:`slslib.evaluation.evaluate.evaluate`; by default 1000 replicates.

    Raises:
        ConfigError: There is nothing to report, or an item is neither of the two.
        ProtocolError: The key is malformed.
        ScoreError: The scores are malformed, or do not fit the key.
    """
    options = {"phase": None, "bootstrap": 1000, "cluster": (), "by": (), "seed": 0} | options
    files = [path for path in map(Path, items) if path.is_file()]
    runs = [path for path in map(Path, items) if (path / "config.json").is_file()]
    for item in map(Path, items):
        if item not in files and item not in runs:
            raise ConfigError(f"{item}: neither a score file nor the folder of a training run.")
    if not files and not runs:
        raise ConfigError("nothing to report: name score files or folders of training runs.")
    blocks = ["# Evaluation report" if files else "# Training report"]
    made_with = {"slslib": __version__, "Python": platform.python_version()}
    made_with |= {package: version(package) for package in ("numpy", "scipy", "pandas")}
    if files:
        if key is None:
            raise ConfigError("score files need their key (--key).")
        blocks += _systems(_names(files), key, options)
        made_with |= {"key": Path(key).name, "SHA-256 of the key": sha256(key)}
        made_with["bootstrap"] = f"{options['bootstrap']} replicates, seed {options['seed']}"
    for run in runs:
        blocks += _run(run)
    return "\n\n".join([*blocks, "## Made with", _facts(made_with)]) + "\n"


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
    names = {file.stem: file for file in files}
    if len(names) < len(files):
        names = {f"{file.parent.name}/{file.stem}": file for file in files}
    if len(names) < len(files):
        raise ConfigError("two score files have the same name and folder name; rename one.")
    return names


def _numbers(result: Mapping[str, Any]) -> dict[str, str]:
    return {title: f"{result[name]:.4f}" for name, title in _TITLES.items() if name in result}


def _systems(files: Mapping[str, Path], key: str | Path, options: dict[str, Any]) -> Iterator[str]:
    """Compare the systems, then describe each."""
    reference, *_ = files.values()
    results = {
        name: evaluate(
            (file,), Path(key), **options, against=None if file == reference else reference
        )
        for name, file in files.items()
    }
    yield from _comparison(results)
    trials = read_protocol(key)
    classes: dict[str, plots.Pair] = {}
    for name, file in files.items():
        table = match(read_scores(file), trials, options["phase"])
        bonafide = table["label"] == 1
        classes[name] = table.loc[bonafide, "score"], table.loc[~bonafide, "score"]
    shown = dict(list(classes.items())[: len(plots.OTHER)])
    yield "## Error rates at every threshold"
    if len(shown) < len(classes):
        yield f"The first {len(shown)} of {len(classes)} systems."
    yield _picture(plots.plot_det(shown), f"DET curves of {', '.join(shown)}")
    for name, result in results.items():
        yield from _system(name, files[name], result, classes[name])


def _comparison(results: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    reference, first = next(iter(results.items()))
    yield (
        f"Phase **{first['phase']}**: {first['n_bonafide']:,} bona fide and "
        f"{first['n_spoof']:,} spoofed trials. A higher score means more bona fide."
    )
    rows = []
    for name, result in results.items():
        row = {"system": f"**{_escape(name)}**", "EER %": ""}
        if interval := result.get("eer_interval_percent"):
            over = " and ".join(result["bootstrap"]["cluster"]) or "trials"
            row["95 % interval"] = "{:.3f} to {:.3f} over ".format(*interval) + over
        if other := result.get("against"):
            text = f"{other['difference_percent']:+.4f}"
            if interval := other.get("difference_interval_percent"):
                text += " ({:+.3f} to {:+.3f})".format(*interval)
            row[f"EER minus that of {_escape(reference)}, on the same resampled trials"] = text
        rows.append(row | _numbers(result))
    yield _table(rows)
    yield "act DCF and Cllr read the scores as log-likelihood ratios."


def _system(name: str, file: Path, result: dict[str, Any], classes: plots.Pair) -> Iterator[str]:
    yield f"## {_escape(name)}"
    for warning in result["warnings"]:
        yield f"> **Warning.** {_escape(warning)}"
    text = f"Histogram of the scores of {name}, bona fide and spoofed"
    yield _picture(plots.plot_scores(*classes), text)
    for factor, groups in result.get("groups", {}).items():
        yield f"### By {factor.replace(':', ' and ')}"
        yield from _groups(factor, groups)
    facts = {
        "score file": file.name,
        "SHA-256": result["sha256"]["scores"],
        "threshold of the EER": f"{result['eer_threshold']:.6g} (accept above)",
        "rule of the EER": result["eer_rule"],
        "trials evaluated": result["n_bonafide"] + result["n_spoof"],
        "trials of the phase without a score": result["n_missing"],
        "scored trials outside the phase": result["n_extra"],
    }
    beside = file.with_name(file.name + ".json")
    yield "### Provenance"
    if beside.is_file():
        made = _read(beside)
        if made.get("scores_sha256") != result["sha256"]["scores"]:
            yield (
                f"> **Warning.** {_escape(beside.name)} describes a score file with another "
                "hash: this one was changed after it was written."
            )
        facts = made | facts
    else:
        facts["made by"] = f"unknown: there is no {beside.name}"
    yield _facts(facts)


def _groups(factor: str, groups: dict[str, Any]) -> Iterator[str]:
    """Make a table of a breakdown, or one of each quantity where two factors are crossed."""
    if ":" not in factor:
        yield _table([
            {factor: _label(value), "bona fide": f"{row['n_bonafide']:,}",
             "spoof": f"{row['n_spoof']:,}"} | _numbers(row)
            for value, row in groups.items()
        ])  # fmt: skip
        return
    for title in ("EER %", "min t-DCF (2021)"):
        if title in _numbers(groups["Pooled"]["Pooled"]):
            yield _table([
                {f"{factor.partition(':')[0]}: {title}": _label(value)}
                | {name: _numbers(cell).get(title, "-") for name, cell in row.items()}
                for value, row in groups.items()
            ])  # fmt: skip


def _label(value: str) -> str:
    return f"**{value}**" if value == "Pooled" else _escape(value)


def _run(run: Path) -> Iterator[str]:
    yield f"## Training run {_escape(run.name)}"
    log, best, facts = run / "log.csv", run / "best.json", _read(run / "config.json")
    if log.is_file():
        try:
            table = pd.read_csv(log)
            figure = plots.plot_learning(table)
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{log} is not the log of a training run: {error}") from error
        yield _picture(figure, f"Loss and error rate of {run.name} by epoch")
        yield _table(table.rename(columns=_text).map(_text))
    else:
        yield "No epoch is finished yet."
    yield _facts(({"best": _read(best)} if best.is_file() else {}) | facts)


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged: {error}; copy it again, or remove it") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no JSON object; copy it again, or remove it")
    return content


def _facts(facts: Mapping[str, Any]) -> str:
    """Make a table of two columns of nested dictionaries."""
    (flat,) = pd.json_normalize(dict(facts)).to_dict("records")
    return _table([{"what": _text(name), "value": _text(value)} for name, value in flat.items()])


def _text(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f"`{text}`" if re.fullmatch("[0-9a-f]{32,}", text) else _escape(text)


def _escape(text: str) -> str:
    """Keep names from being read as Markdown."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())


def _table(rows: pd.DataFrame | Sequence[Mapping[str, str]]) -> str:
    """Write rows of cells by column as Markdown, with a dash for a cell that a row lacks."""
    table = pd.DataFrame(rows).fillna("-").astype(str)
    rules = ["---:" if table[c].str.fullmatch(r"[-+.,\d]+").all() else "---" for c in table]
    lines = [table.columns.tolist(), rules, *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _picture(plot: plots.Plot, text: str) -> str:
    data = io.BytesIO()
    plot[0].savefig(data, format="png")
    encoded = base64.b64encode(data.getvalue()).decode()
    return f"![{_escape(text)}](data:image/png;base64,{encoded})"
