"""Imports go upward only, and what needs no network loads no PyTorch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "slslib"
WITHOUT_TORCH = [
    "errors", "files", "containers", "audio", "isolate", "protocols", "scorefiles", "rawboost",
    "metrics", "intervals", "calibration", "lfcc", "voices", "resynthesis", "channel", "minispoof",
    "verify", "evaluate", "reproduce", "plots", "report",
]  # fmt: skip
WITH_TORCH = [
    "xlsr", "sls", "names", "pickles", "hub", "checkpoints", "fairseq", "detector",
    "convert", "compat", "data", "probing", "recipes", "processes", "train", "score", "bench",
    "detect", "cli", "__main__",
]  # fmt: skip
ORDER = WITHOUT_TORCH + WITH_TORCH
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def slslib_imports(module: str) -> set[str]:
    """Return the modules of the package that `module` imports anywhere in its text."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = f"slslib.{node.module or ''}".rstrip(".") if node.level else node.module or ""
            names = [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("slslib.")}
    return found & set(MODULES)


def test_every_module_has_its_place() -> None:
    assert set(MODULES) <= set(ORDER), "put new modules into the order of this file"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_upward(module: str) -> None:
    allowed = set(ORDER[: ORDER.index(module)])
    assert slslib_imports(module) <= allowed


def test_the_lower_half_loads_no_torch() -> None:
    lower = [module for module in WITHOUT_TORCH if module in MODULES]
    program = "import sys\n" + "".join(
        f"import slslib.{module}\nassert 'torch' not in sys.modules, '{module} loads torch'\n"
        for module in lower
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
