"""One page that a result can be handed on with: tables, figures and where they come from.

Figures are embedded, so the page is one file that opens anywhere. Beside every number stands what
it takes to get it again: hashes of the files, versions, the phase, how many trials there were, and
for score files that slslib wrote, the checkpoint and how many recordings each decoder read.
"""

from __future__ import annotations

import base64
import io
import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slslib.errors import ConfigError
from slslib.evaluation import metrics, tables
from slslib.evaluation.evaluate import evaluate
from slslib.files import sha256, write_text

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ max-width: 62rem; margin: auto; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; }}
table {{ display: block; overflow-x: auto; border-spacing: 1rem 0; }}
img {{ max-width: 100%; }}
</style>
<h1>{title}</h1>
{body}
"""


def report(
    items: tuple[Path, ...],
    *,
    out: Path = Path("report.html"),
    key: Path | None = None,
    phase: str | None = None,
    asv_scores: Path | None = None,
    asv_key: Path | None = None,
    c012: str | None = None,
    bootstrap: int = 1000,
    cluster: tuple[str, ...] = (),
    by: tuple[str, ...] = (),
) -> Path:
    """Write one page about score files and training runs: tables, figures, provenance.

    Example: slslib report scores.txt runs/v1 --key key.txt --by attack --out report.html

    Args:
        items: Score files of the same trials, and folders of training runs.
        out: Page to write, in HTML; it needs no other file.
        key: Key of the score files.
        phase: As for `slslib evaluate`, like all that follow.
        asv_scores: ASV scores, for min t-DCF.
        asv_key: Key of the ASV trials.
        c012: C0,C1,C2 of the t-DCF, or a CSV file of them, instead of ASV scores.
        bootstrap: Replicates of the intervals; 0 for none.
        cluster: Resample these instead of trials.
        by: Breakdowns.

    Raises:
        ConfigError: There is nothing to report, or an item is neither of the two.
        ProtocolError: The key is malformed.
        ScoreError: The scores are malformed, or do not fit the key.
        FileError: The page cannot be written.
    """
    paths = list(dict.fromkeys(Path(item) for item in items))
    files = [path for path in paths if path.is_file()]
    runs = [path for path in paths if (path / "config.json").is_file()]
    if wrong := set(paths).difference(files, runs):
        raise ConfigError(f"{wrong.pop()}: neither a score file nor the folder of a training run.")
    if not paths:
        raise ConfigError("nothing to report: name score files or folders of training runs.")
    made_with = {"Python": platform.python_version()}
    made_with |= {name: version(name) for name in ("slslib", "numpy", "scipy", "pandas")}
    blocks: list[str] = []
    if files:
        if key is None:
            raise ConfigError("score files need their key (--key).")
        options: dict[str, Any] = {"phase": phase, "bootstrap": bootstrap, "cluster": cluster}
        options |= {"by": by, "asv_scores": asv_scores, "asv_key": asv_key, "c012": c012}
        blocks += _systems(files, key, options)
        made_with |= {"key": Path(key).name, "SHA-256 of the key": sha256(key)}
        made_with["bootstrap"] = f"{bootstrap} replicates, seed 0"
    for run in runs:
        blocks += _run(run)
    blocks += ["<h2>Made with</h2>", _facts(made_with)]
    title = "Evaluation report" if files else "Training report"
    write_text(out, _PAGE.format(title=title, body="\n".join(blocks)))
    return Path(out)


def _systems(files: list[Path], key: Path, options: dict[str, Any]) -> Iterator[str]:
    """Compare the systems, then describe each."""
    import pandas as pd

    from slslib.data.protocols import read_protocol
    from slslib.data.scorefiles import match, read_scores
    from slslib.evaluation import plots

    stems, trials = Counter(file.stem for file in files), read_protocol(key)
    results, classes = {}, {}
    for file in files:
        name = file.stem if stems[file.stem] == 1 else str(file)
        against = None if file == files[0] else files[0]
        results[name] = evaluate((file,), key, **options, against=against)
        matched = match(read_scores(file), trials, options["phase"])
        classes[name] = metrics.split(matched["score"], matched["label"])
    (first, *_) = results.values()
    yield f"<p>Phase {first['phase']}. A higher score means more bona fide. Differences are to the"
    yield "first system, on the same resampled trials.</p>"
    summaries = {name: tables.summarize(result) for name, result in results.items()}
    comparison = pd.DataFrame(summaries).rename_axis("quantity").reset_index()
    yield tables.table(comparison.to_dict("records"), "html")
    shown = dict(list(classes.items())[: len(plots.OTHER)])
    yield "<h2>Error rates at every threshold</h2>"
    if len(shown) < len(classes):
        yield f"<p>The first {len(shown)} of {len(classes)} systems.</p>"
    yield _picture(plots.plot_det(shown), f"DET curves of {', '.join(shown)}")
    for (name, result), file in zip(results.items(), files, strict=True):
        yield f"<h2>{escape(name)}</h2>"
        yield from map(_warning, result["warnings"])
        yield _picture(plots.plot_scores(*classes[name]), f"Histogram of the scores of {name}")
        for title, rows in tables.details(result):
            yield f"<h3>{escape(title)}</h3>\n{tables.table(rows, 'html')}"
        # Where the scores come from, by the file that slslib writes beside them.
        beside, found = file.with_name(file.name + ".json"), result["sha256"]["scores"]
        made = _read(beside) if beside.is_file() else {"made by": f"there is no {beside.name}"}
        yield "<h3>Provenance</h3>"
        if made.get("scores_sha256", found) != found:
            yield _warning(f"{file.name} was changed after it was written, says {beside.name}.")
        facts = {name: result[name] for name in ("eer_rule", "n_missing", "n_extra", "sha256")}
        yield _facts({"score file": file.name} | made | facts)


def _run(run: Path) -> Iterator[str]:
    import pandas as pd

    from slslib.evaluation import plots

    yield f"<h2>Training run {escape(run.name)}</h2>"
    log, best, facts = run / "log.csv", run / "best.json", _read(run / "config.json")
    if log.is_file():
        try:
            epochs = pd.read_csv(log)
            figure = plots.plot_learning(epochs)
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{log} is not the log of a training run: {error}") from error
        yield _picture(figure, f"Loss and error rate of {run.name} by epoch")
        yield tables.table(epochs.to_dict("records"), "html")
    else:
        yield "<p>No epoch is finished yet.</p>"
    yield _facts(({"best": _read(best)} if best.is_file() else {}) | facts)


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        return {**json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} is damaged: {error}; copy it again, or remove it") from error


def _facts(facts: Mapping[str, Any]) -> str:
    """Make a table of two columns of nested dictionaries."""
    import pandas as pd

    (flat,) = pd.json_normalize(dict(facts)).to_dict("records")
    return tables.table([{"what": name, "value": value} for name, value in flat.items()], "html")


def _warning(text: str) -> str:
    return f"<p><strong>Warning: {escape(text)}</strong></p>"


def _picture(plot: tuple[Any, Any], text: str) -> str:
    data = io.BytesIO()
    plot[0].savefig(data, format="png")
    encoded = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{encoded}">'
