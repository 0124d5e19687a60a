"""Build a book from your corpora and weights: `make report`, `slslib report`.

The notebooks are copied into a folder, executed there on what the SLSLIB_ variables name, without
comparing outputs and without a time limit, and built as a book of their own. The copies of this
project stay as they are. A notebook that fails is named, and its page shows what ran and says where
it stopped; the others are still executed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from itertools import compress
from pathlib import Path

from tqdm import tqdm

from slslib.errors import ConfigError, SlslibError
from slslib.model.detector import Detector, load_backbone
from slsnotebooks.scale import Scale, scale

try:
    import ipykernel  # noqa: F401  # which runs the cells
    import jupyter_book  # noqa: F401  # which is run at the end
    import nbformat
    import yaml
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
except ImportError as error:
    remedy = "install the extra: pip install -c constraints.txt -e '.[book]'"
    sys.exit(f"slslib: a report needs the book's tools ({error}); {remedy}")

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("_config.yml", "_toc.yml", "book", "notebooks", "studies", "CHANGELOG.md")
MARKER = ".slslib-report"  # only a folder that holds this file is written to again

# The first page and these figures are about the simulation whatever the corpora are. The last page
# has published numbers only.
SIMULATED_PAGE = "00_two_minute_detector"
PUBLISHED_PAGE = "11_field_2026"
SIMULATED_FIGURES = {"fig-06-run", "fig-06-epochs", "fig-09-rules"}
# The other captions are written for the embedded corpus. Of other data none may say simulated.
CAPTIONS = (
    (r" ?\((of the |in the )?simulat(ed corpus|ed speech|ion)\)", ""),
    (r",? (of|in|on) the simulat(ion|ed corpus)", ""),
    (r" Simulated speech\.", ""),
    (r" on simulated speech", ""),
    (r"\b(a |the |)simulated (?=\w)", r"\1"),
)


def note(here: Scale) -> str:
    """Return the note that begins each page."""
    limit = f" ({here.limit})" if here.limit else ""
    return (
        f":::{{note}}\nMade on {datetime.now(UTC):%Y-%m-%d} from the corpora in `{here.data}`"
        f"{limit}, with the detector `{here.checkpoint}` and the backbone `{here.backbone}`. "
        "Numbers and figures are yours, except published ones and those of this project's "
        "studies. The text around them describes the embedded simulation."
        "\n:::"
    )


def warning(stopped: str) -> str:
    """Return what a page says that was not executed to its end, in lines that it shows whole."""
    stopped = "\n".join(textwrap.fill(line, 80) for line in stopped.splitlines())
    return (
        ":::{warning}\nThis page did not run to its end. It has no results from this cell on:\n\n"
        f"````text\n{stopped}\n````\n:::"
    )


def execute(path: Path) -> str:
    """Execute a notebook in place; return where and why it stopped, or nothing if it did not.

    The file then shows what ran in this run and nothing else.
    """
    notebook = nbformat.read(path, as_version=4)
    code = [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    for _, cell in code:
        cell.update(outputs=[], execution_count=None)
    where = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=None, resources=where)
    at = f"the start of {path.stem}"
    try:
        with client.setup_kernel(stderr=subprocess.DEVNULL):  # what cells write goes to the page
            for number, (i, cell) in enumerate(code, 1):
                at = f"cell {number} of {len(code)}: {cell.source.partition(chr(10))[0]}"
                client.execute_cell(cell, i)
    except CellExecutionError as error:
        return f"{at}\n{error.ename}: {error.evalue.partition(chr(10))[0]}"
    except RuntimeError as error:  # the process that executes the cells ended
        return f"{at}\n{error} (did the memory suffice?)"
    finally:
        nbformat.write(notebook, path)
    return ""


def adapt(notebook: Path, here: Scale, stopped: str = "") -> None:
    """Put the notes below the title; captions of real data no longer say simulated."""
    notes = [warning(stopped)] if stopped else []
    if is_readers := notebook.stem not in (SIMULATED_PAGE, PUBLISHED_PAGE):
        notes.append(note(here))
    if not notes:
        return
    content = json.loads(notebook.read_text(encoding="utf-8"))
    head, *cells = content["cells"]
    new = {"cell_type": "markdown", "id": "report-note", "metadata": {}}
    new["source"] = "\n\n".join(notes)
    for cell in cells if is_readers else ():
        figure = cell["metadata"].get("mystnb", {})
        if here.simulated or figure.get("figure", {}).get("name") in SIMULATED_FIGURES:
            continue
        for part, key in (("figure", "caption"), ("image", "alt")):
            if key in figure.get(part, {}):
                for pattern, instead in CAPTIONS:
                    figure[part][key] = re.sub(pattern, instead, figure[part][key])
    content["cells"] = [head, new, *cells]
    notebook.write_text(json.dumps(content, indent=1), encoding="utf-8")


def refusal(out: Path, here: Scale) -> str:
    """Say why a folder cannot become a report, or nothing if it can."""
    given = [Path(name) for name in (here.checkpoint, here.backbone) if name != "mini"]
    for path in (ROOT, here.runs, here.data, here.recording, *given):
        if path and path.exists() and path.resolve().is_relative_to(out):
            return f"{out} holds {path}, which no report may replace"
    if any(out.is_relative_to(ROOT / part) for part in PARTS):
        return f"{out} lies in what a report is made of"
    is_new = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if not is_new and not (out / MARKER).is_file():
        return f"{out} is there and is no report"
    return ""


def unusable(here: Scale) -> str:
    """Say why the weights cannot be loaded, or nothing if they can."""
    try:
        Detector.load(here.checkpoint)
        load_backbone(here.backbone)
    except SlslibError as error:
        return str(error)
    return ""


def copy_book(out: Path) -> None:
    """Copy what the book is made of; of an older report only that is removed."""
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text("slslib replaces what it wrote here when it makes a report again.\n")
    for part in (*PARTS, "_build"):
        shutil.rmtree(out / part) if (out / part).is_dir() else (out / part).unlink(missing_ok=True)
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, out / part)


def build(out: Path) -> None:
    """Build the book of a folder; links to pages that are not in it lead nowhere."""
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    command = [jupyter_book, "build", out, "--all", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stderr}\nslslib: no book was built; what ran is in {out / 'notebooks'}")


def main() -> None:
    """Copy, execute, build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "report", help="folder of the report")
    parser.add_argument("--only", nargs="+", default=[""], help="numbers of notebooks to execute")
    args = parser.parse_args()
    names = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    for number in args.only:
        if not any(name.startswith(number) for name in names):
            sys.exit(f"slslib: no notebook begins with {number}: {', '.join(names)}")
    # Training goes on in the folder of the project: that of the report is made anew each time.
    if not os.environ.get("SLSLIB_RUNS"):
        (ROOT / "runs").mkdir(exist_ok=True)
        os.environ["SLSLIB_RUNS"] = str(ROOT / "runs")
    try:
        here = scale()
    except ConfigError as error:
        sys.exit(f"slslib: {error}")
    print(here)
    os.environ.update(here.environment())  # the notebooks run in a folder of their own
    out = args.out.resolve()
    if why := refusal(out, here):
        sys.exit(f"slslib: {why}; name a folder for the report alone with --out.")
    if why := unusable(here):
        sys.exit(f"slslib: {why}")
    copy_book(out)
    config = yaml.safe_load((out / "_config.yml").read_text(encoding="utf-8"))
    config["execute"]["execute_notebooks"] = "off"
    (out / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    failed = {}
    for path in (out / "notebooks").glob("[0-9]*.ipynb"):
        if not path.name.startswith(tuple(args.only)):
            path.unlink()
    contents = yaml.safe_load((out / "_toc.yml").read_text(encoding="utf-8"))
    for part in contents["parts"]:
        is_there = [any(out.glob(f"{one['file']}.*")) for one in part["chapters"]]
        part["chapters"] = list(compress(part["chapters"], is_there))
    (out / "_toc.yml").write_text(yaml.safe_dump(contents, sort_keys=False), encoding="utf-8")
    bar = tqdm(sorted((out / "notebooks").glob("[0-9]*.ipynb")), unit="notebook")
    for path in bar:
        bar.set_description(path.stem)
        if stopped := execute(path):
            failed[path.name] = stopped
        adapt(path, here, stopped)
    for name, stopped in failed.items():
        print(f"slslib: {name} stopped at {stopped}", file=sys.stderr)
    build(out)
    print(f"slslib: the report is at {out}/_build/html/index.html")
    if failed:
        sys.exit(f"slslib: {len(failed)} of {len(bar)} notebooks stopped; their pages say where")
    sys.exit(0)


if __name__ == "__main__":
    main()
