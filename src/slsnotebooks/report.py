"""A report on your own training runs: the book, executed on your corpora and weights.

The notebooks show learning curves and chosen epochs, evaluate the score files in the folders of the
runs, and compare all of it with the published numbers. They are part of slslib's repository, and so
is the script that executes them: ``book/make_report.py``.
"""

import os
import subprocess
import sys
from pathlib import Path

from slslib.errors import ConfigError

_SCRIPT = Path(__file__).resolve().parents[2] / "book" / "make_report.py"


def report(
    runs: tuple[Path, ...],
    *,
    out: Path = Path("report"),
    data: Path | None = None,
    only: tuple[str, ...] = (),
) -> Path:
    """Build a book from training runs: the notebooks, executed on your corpora and weights.

    SLSLIB_CHECKPOINT, SLSLIB_BACKBONE and SLSLIB_CLIPS choose the weights and the number of clips.

    Example: slslib report runs/v1 runs/v2 --data ~/corpora --only 06 10

    Args:
        runs: Folders of training runs, side by side in one folder. Other runs in it are shown too.
        out: Folder of the book: a new or empty one, or that of a report, which is replaced.
        data: Folder that holds the corpora; default SLSLIB_DATA.
        only: Numbers of the notebooks to execute; default all. 06 shows the training; 07, 09 and 10
            show the score files.

    Returns:
        The first page of the book.

    Raises:
        ConfigError: A folder holds no run, the folders are not side by side, the repository is not
            there, or a notebook stopped.
    """
    folders = [Path(run).absolute() for run in runs]  # links may lead to several disks
    if not folders or not all((run / "config.json").is_file() for run in folders):
        told = ", ".join(map(str, runs)) or "nothing"
        raise ConfigError(f"name folders of training runs, which hold a config.json; got {told}.")
    home, *others = {run.parent.resolve() for run in folders}
    if others or not _SCRIPT.is_file():
        raise ConfigError(
            f"a report needs runs in one folder and slslib installed from its repository: {_SCRIPT}"
        )
    given = {"SLSLIB_RUNS": str(home)}
    given |= {"SLSLIB_DATA": str(Path(data).resolve())} if data else {}
    command = [sys.executable, str(_SCRIPT), "--out", str(out)]
    command += ["--only", *only] if only else []
    if subprocess.run(command, env=os.environ | given).returncode:
        raise ConfigError("the report is not complete; the lines above say what stopped.")
    return out / "_build" / "html" / "index.html"
