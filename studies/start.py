r"""CPU seconds until the commands answer, before and after: what starting costs.

    python studies/start.py --before OTHER/src --scores FILE --key FILE \
        --out studies/results/start.json

Each call runs in a new process; user and system time are added. The two versions alternate, and a
number is the median of the repeats with the least and the most beside it. The first call of each,
which may compile byte code, is not counted.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

from provenance import provenance, write

SOURCE = Path(__file__).resolve().parent.parent / "src"
COMMANDS = "verify train score evaluate report detect convert bench minispoof".split()


def cpu_seconds(source: Path, arguments: list[str]) -> float:
    """Return user and system time of one Python process in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": str(source)},
        check=True,
        capture_output=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description="CPU seconds of starting, before and after")
    parser.add_argument(
        "--before", type=Path, required=True, help="src folder of the older version"
    )
    parser.add_argument("--scores", type=Path, required=True, help="score file for evaluate")
    parser.add_argument("--key", type=Path, required=True, help="its key")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    evaluate = ["evaluate", "--scores", str(args.scores), "--key", str(args.key), "--json"]
    calls = {
        "python -c pass": ["-c", "pass"],
        "import numpy": ["-c", "import numpy"],
        "import slslib": ["-c", "import slslib"],
        "slslib --help": ["-m", "slslib", "--help"],
        **{f"slslib {name} --help": ["-m", "slslib", name, "--help"] for name in COMMANDS},
        "slslib train v1 --help": ["-m", "slslib", "train", "v1", "--help"],
        "slslib evaluate": ["-m", "slslib", *evaluate],
    }
    where = provenance("numpy", "torch", "tyro", "pandas")
    rows = []
    for name, arguments in calls.items():
        seconds: dict[str, list[float]] = {"before": [], "after": []}
        for repeat in range(args.repeats + 1):
            for version, source in (("before", args.before), ("after", SOURCE)):
                took = cpu_seconds(source, arguments)
                if repeat:
                    seconds[version].append(took)
        row: dict[str, object] = {"call": name}
        for version, values in seconds.items():
            spread = [min(values), max(values)]
            row[f"{version}_cpu_s"] = round(statistics.median(values), 3)
            row[f"{version}_range_cpu_s"] = [round(value, 3) for value in spread]
        rows.append(row)
        print(row)
    what = "CPU seconds (user and system) of starting, median of repeats, before and after"
    write(args.out, what, where, rows)


if __name__ == "__main__":
    main()
