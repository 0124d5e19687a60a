"""Write the results of `slslib reproduce` as the study that the page on results shows.

    python studies/reproduction.py --data ROOT [--out studies/results/reproduction.json]

Without --data, in SLSLIB_DATA.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tyro
from provenance import ROOT, provenance, write

from slsnotebooks.reproduction import reproduce


def main(
    data: Path | None = None, out: Path = ROOT / "studies" / "results" / "reproduction.json"
) -> None:
    """Recompute published results from published score files, and write them.

    Args:
        data: Folder that may hold the files; default SLSLIB_DATA.
        out: File to write.
    """
    where, result = provenance("numpy", "scipy", "pandas"), reproduce(data)
    print(result.pop("table"))
    failures = result.pop("errors")
    write(out, "published results, recomputed from published score files", where, result)
    sys.exit("\n".join(failures) or None)


if __name__ == "__main__":
    tyro.cli(main)
