"""A page about training runs, to read and to hand on.

It is one HTML file with the figures inside. Each run has its learning curves, its epochs and its
settings. Each score file in the run's folder is evaluated against the protocol of the corpus that
was scored. The facts beside a score file stand below its result: hashes, versions, settings, and
how many recordings each decoder read.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from slslib import __version__
from slslib.errors import ConfigError
from slslib.evaluation import metrics, tables
from slslib.evaluation.evaluate import evaluate
from slslib.files import sha256, write_text

_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Training report</title>
<style>
body { max-width: 62rem; margin: auto; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; }
pre { overflow-x: auto; }
img { max-width: 100%; }
</style>
<h1>Training report</h1>"""


def report(
    runs: tuple[Path, ...],
    *,
    out: Path = Path("report.html"),
    data: Path | None = None,
    bootstrap: int = 1000,
    book: bool = False,
) -> Path:
    """Write one page about training runs: learning curves, results on scored corpora, settings.

    Example: slslib report runs/v1 runs/v2 --data ~/corpora --out report.html

    Args:
        runs: Folders of training runs. The score files in them are evaluated.
        out: Page to write, in HTML; it needs no other file. With --book the folder of this name,
            without .html.
        data: Folder that holds the corpora; default SLSLIB_DATA.
        bootstrap: Replicates of the intervals; 0 for none.
        book: Execute the notebooks on these corpora and runs instead, and build a book of them.

    Raises:
        ConfigError: There is nothing to report, a folder is no run, or a file in it is damaged.
        ProtocolError: The corpus of a score file is not there.
        ScoreError: A score file does not fit its corpus.
        FileError: The page cannot be written.
    """
    from slslib.evaluation import plots

    folders = [Path(run) for run in runs]
    if not folders or not all((run / "config.json").is_file() for run in folders):
        told = ", ".join(map(str, folders)) or "nothing"
        raise ConfigError(f"name folders of training runs, which hold a config.json; got {told}.")
    if book:
        return _book(folders, out, data)
    classes: dict[str, Any] = {}
    blocks = [_HEAD, f"<p>Made with slslib {__version__}; {bootstrap} bootstrap replicates.</p>"]
    for run in folders:
        blocks += [f"<h2>{escape(run.name)}</h2>", *_training(run)]
        for made in sorted(run.glob("*.txt.json")):
            if made.with_suffix("").is_file():  # not so after a scoring was killed at its end
                name = f"{run.name}: {made.name.removesuffix('.txt.json')}"
                classes[name], result = _scores(made, data, bootstrap)
                blocks += [f"<h3>{escape(name)}</h3>", *result]
    names, n = list(classes), len(plots.OTHER)  # as many curves as a figure can tell apart
    for some in (names[k : k + n] for k in range(0, len(names), n)):
        figure = plots.plot_det({name: classes[name] for name in some})
        blocks.append(_picture(figure, f"DET curves of {', '.join(some)}"))
    write_text(out, "\n".join(blocks))
    return Path(out)


def _training(run: Path) -> Iterator[str]:
    """Show the epochs of a run, which of them is the best, and the settings."""
    import pandas as pd

    from slslib.evaluation import plots

    log, best = run / "log.csv", run / "best.json"
    if log.is_file():
        try:
            epochs = pd.read_csv(log)
            figure = plots.plot_learning(epochs)
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{log} is not the log of a training run: {error}") from error
        yield _picture(figure, f"Loss and error rate of {run.name} by epoch")
        yield _text(tables.table(epochs.to_dict("records")))
    else:
        yield "<p>No epoch is finished yet.</p>"
    for facts in filter(Path.is_file, (best, run / "config.json")):
        yield f"<h4>{facts.name}</h4>{_text(_read(facts))}"


def _scores(made: Path, data: Path | None, bootstrap: int) -> tuple[Any, list[str]]:
    """Evaluate a score file on the corpus that the facts beside it name.

    Returns:
        The scores of both classes, and what to show.
    """
    from slslib.data.corpora import open_corpus
    from slslib.data.scorefiles import match, read_scores
    from slslib.evaluation import plots

    file, facts, warning = made.with_suffix(""), _read(made), ""
    try:
        spec = f"{facts['corpus']}:{facts['partition']}".removesuffix(":-")
        if facts["scores_sha256"] != sha256(file):
            warning = f"WARNING: {file.name} was changed after it was written, says {made.name}.\n"
    except KeyError as error:
        raise ConfigError(f"{made} is damaged: it lacks {error}; score again") from error
    corpus = open_corpus(spec, data)
    phase = corpus.partition if {corpus.partition} == {*corpus.trials["phase"]} else None
    options: dict[str, Any] = {"phase": phase, "allow_missing": bool(facts.get("n_failures"))}
    result = evaluate(file, corpus.protocol, bootstrap=bootstrap, **options)
    matched = match(read_scores(file), corpus.trials, **options)
    classes = metrics.split(matched["score"], matched["label"])
    picture = _picture(plots.plot_scores(*classes), f"Histogram of the scores in {file.name}")
    text = _text(f"{warning}{spec}\n{tables.evaluate(result)}")
    told = _text(facts | {"sha256": result["sha256"]})
    return classes, [text, picture, f"<h4>{escape(made.name)}</h4>{told}"]


def _book(runs: list[Path], out: Path, data: Path | None) -> Path:
    """Execute the notebooks on the corpora and the runs, and build a book of them."""
    script = Path(__file__).resolve().parents[3] / "book" / "make_report.py"
    home, *others = {run.resolve().parent for run in runs}
    if others or not script.is_file():
        raise ConfigError(f"a book needs runs in one folder, and slslib's repository: {script}.")
    told = {"SLSLIB_RUNS": str(home)} | ({"SLSLIB_DATA": str(Path(data).resolve())} if data else {})
    out = Path(str(out).removesuffix(".html"))
    if subprocess.run([sys.executable, script, "--out", out], env=os.environ | told).returncode:
        raise ConfigError("the book is not complete; the lines above say what stopped.")
    return out


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        return {**json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} is damaged: {error}; copy it again, or remove it") from error


def _text(what: str | dict[str, Any]) -> str:
    text = what if isinstance(what, str) else json.dumps(what, indent=2)
    return f"<pre>{escape(text)}</pre>"


def _picture(plot: tuple[Any, Any], text: str) -> str:
    data = io.BytesIO()
    plot[0].savefig(data, format="png")
    encoded = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{encoded}">'
