"""The packages know each other in one direction only, and what needs no network loads no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src"
# What each package may import; all may import `errors` and `files`.
ARROWS = {
    "data": set(),
    "model": {"data"},
    "evaluation": {"data"},
    "runs": {"data", "model", "evaluation"},
    "cli": {"data", "model", "evaluation", "runs"},
    "minispoof": {"data"},
    "slsnotebooks": {"data", "model", "evaluation", "runs", "minispoof", "slsapp"},
    "slsapp": {"data", "model", "evaluation", "runs"},
    "errors": set(),
    "files": set(),
}
HOMES = ("slslib", "minispoof", "slsnotebooks", "slsapp")
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts): path
    for path in sorted(SOURCE.rglob("*.py"))
    if path.stem not in ("__init__", "__main__")
}


def package(module: str) -> str:
    """Return the package of a module: `slslib.data.audio` belongs to `data`."""
    first, *rest = module.split(".")
    return rest[0] if first == "slslib" and rest else first


def imports(path: Path) -> set[str]:
    """Return the modules of this project that a file imports anywhere in its text."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide the arrows"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in HOMES}


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_arrows(module: str) -> None:
    home = package(module)
    used = {package(name) for name in imports(MODULES[module])}
    assert used - {home, "errors", "files", "__version__"} <= ARROWS[home]


def test_an_import_against_the_arrows_is_seen(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("def f():\n    from slslib.runs.clips import stack\n")
    assert {package(name) for name in imports(tmp_path / "x.py")} == {"runs"}


def test_only_model_runs_notebooks_and_app_load_torch() -> None:
    light = [m for m in MODULES if package(m) not in ("model", "runs", "slsnotebooks", "slsapp")]
    program = "import sys\n" + "".join(
        f"import {module}\nassert 'torch' not in sys.modules, '{module} loads torch'\n"
        for module in ["slslib", *light]
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
