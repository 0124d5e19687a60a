"""Results that the studies of this project measured, for notebooks that show them.

The files of ``studies/results`` are installed with the package, so a notebook finds them wherever
it lies.
"""

import json
from pathlib import Path
from typing import Any


def read(name: str) -> Any:
    """Return the results in a file of ``studies/results``, named without its ending."""
    path = Path(__file__).with_name("results") / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["results"]
