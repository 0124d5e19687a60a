"""Print the reproduction table of :mod:`slsnotebooks.reproduction`, and write it as JSON.

    python studies/reproduction.py --data ROOT [--out studies/results/reproduction.json]

Without --data, in SLSLIB_DATA.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tyro
from provenance import provenance, write

from slsnotebooks.reproduction import errors, reproduce, to_markdown


def main(
    data: Path | None = None,
    out: Path | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    offline: bool = False,
) -> None:
    """Recompute published results from published score files, and print the table.

    Files that are not below --data are downloaded from pinned commits and checked. Rows that need
    files nobody can download name them, and the command that measures the row.

    Args:
        data: Folder that may hold the files under their published names, and own measurements as
            scores/measured/ROW.txt; default SLSLIB_DATA.
        out: Write the result as JSON to this file too.
        bootstrap: Replicates of each interval.
        seed: Seed of the bootstrap.
        offline: Make no connection; so does HF_HUB_OFFLINE=1.
    """
    where = provenance("numpy", "scipy", "pandas")
    result = reproduce(data, bootstrap=bootstrap, seed=seed, offline=offline)
    print(to_markdown(result))
    if out:
        write(out, "published results, recomputed from published score files", where, result)
    sys.exit("\n".join(errors(result)) or None)


if __name__ == "__main__":
    tyro.cli(main)
