"""Rehearse the book and the commands at full size, without the real corpora and weights.

    python studies/rehearsal.py corpora FOLDER
    python studies/rehearsal.py weights FOLDER
    python studies/rehearsal.py run --corpora FOLDER --weights FOLDER --clips 4 --out FILE

``corpora`` writes the four corpora as they are distributed: official file names, columns, attacks
A01 to A19, codecs, phases. The recordings are MiniSpoof's, so the numbers mean nothing. ``weights``
writes XLS-R 300M as fairseq does, and a detector as the authors' code does, both with random
numbers. ``run`` executes the notebooks on them and measures time and memory. What would fail on the
real files fails here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tyro
from checkpoints import write as write_weights
from provenance import ROOT, provenance, write
from tqdm import tqdm
from tyro.conf import Positional

from minispoof.corpus import simulation

# A16 is the algorithm of A04, and A19 that of A06 (Wang et al. 2020, Table 1).
TRAINING = {"M01": "A04", "M02": "A06", "M03": "A01", "M04": "A02"}
EVALUATION = {
    "M01": "A16",
    "M02": "A19",
    "M03": "A09",
    "M04": "A11",
    "M05": "A07",
    "M06": "A08",
    "M07": "A10",
    "M08": "A12",
    "M09": "A13",
    "M10": "A14",
}
OFFICIAL = {"sim_tx": "ita_tx", "shared": "asvspoof", "own": "vcc2018"}


def corpora(folder: Positional[Path]) -> None:
    """Write the four corpora in their official form; recordings are links to MiniSpoof's."""
    source = simulation().resolve()
    for path in sorted(source.rglob("*")):
        target = folder / path.relative_to(source)
        if path.suffix in (".flac", ".wav"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.symlink_to(path)
        elif path.suffix in (".txt", ".csv") and path.name != "README.txt":
            names = TRAINING if re.search(r"cm\.(train|dev)", path.name) else EVALUATION
            text = path.read_text()
            for ours, theirs in (names | OFFICIAL).items():
                text = re.sub(rf"\b{ours}\b", theirs, text)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)


def weights(folder: Positional[Path]) -> None:
    """Write ``xlsr2_300m.pt`` and ``epoch_2.pth`` at full size, with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "xlsr2_300m.pt").exists():  # the one that is written last
        write_weights(folder)


def run(
    corpora: Path,
    weights: Path,
    out: Path,
    clips: int = 4,
    notebooks: tuple[str, ...] = (),
    keep: Path | None = None,
) -> None:
    """Execute notebooks on the rehearsal's corpora and weights; measure time and memory.

    Args:
        corpora: Folder that ``corpora`` wrote.
        weights: Folder that ``weights`` wrote.
        out: JSON file to write.
        clips: Most clips of each class of a corpus.
        notebooks: Beginnings of names, as 02 09; by default all.
        keep: Folder for the executed notebooks, which may hold some already.
    """
    where = provenance("torch", "transformers", "numpy")
    environment = os.environ | {
        "SLSLIB_DATA": str(corpora.resolve()),
        "SLSLIB_CHECKPOINT": str((weights / "epoch_2.pth").resolve()),
        "SLSLIB_BACKBONE": str((weights / "xlsr2_300m.pt").resolve()),
        "SLSLIB_CLIPS": str(clips),
    }
    paths = [
        path
        for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
        if not notebooks or path.name.startswith(notebooks)
    ]
    rows: list[dict[str, Any]] = []
    for path in tqdm(paths, "notebooks", unit="notebook"):
        copy = path.with_name(f".rehearsal-{path.name}")  # beside it, where its relative paths hold
        shutil.copy(path, copy)
        row = {"notebook": path.stem} | execute(copy, environment)
        rows.append(row)
        print(json.dumps(row), flush=True)
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(copy, keep / path.name)
        copy.unlink()
    what = "seconds and memory of the notebooks at XLS-R's full size, with random weights"
    write(out, what, where, {"clips_of_a_class": clips, "notebooks": rows})
    sys.exit(1 if any("error" in row for row in rows) else 0)


def execute(notebook: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Execute a notebook in place; return times, the largest resident process and an error.

    CPU seconds, unlike seconds, do not grow where the machine does other work beside it.
    """
    measured = (
        "import resource, subprocess, sys\n"
        "status = subprocess.call(sys.argv[1:])\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_maxrss, used.ru_utime + used.ru_stime)\n"
        "sys.exit(status)"
    )
    jupyter = [sys.executable, "-m", "jupyter", "execute", "--inplace", "--timeout=-1"]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", measured, *jupyter, notebook.name],
        cwd=notebook.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    row: dict[str, Any] = {"seconds": round(time.perf_counter() - start, 1)}
    kilobytes, cpu_seconds = map(float, done.stdout.split()[-2:])
    row |= {"cpu_seconds": round(cpu_seconds, 1), "peak_gb": round(kilobytes * 1024 / 1e9, 2)}
    if done.returncode:
        print(done.stderr[-4000:], file=sys.stderr)
        row["error"] = done.stderr.strip().splitlines()[-1]
    return row


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"corpora": corpora, "weights": weights, "run": run})
