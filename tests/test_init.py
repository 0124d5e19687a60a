"""The names that people use are there, and are loaded when they are used."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import slslib


@pytest.mark.parametrize("name", sorted(set(slslib.__all__) - {"__version__"}))
def test_each_name_is_the_one_of_its_module(name: str) -> None:
    module, _, attribute = slslib._PLACES[name].partition(":")
    assert getattr(slslib, name) is getattr(import_module(f"slslib.{module}"), attribute)


def test_type_checkers_see_the_same_names() -> None:
    stub = Path(slslib.__file__).with_suffix(".pyi").read_text()
    assert set(re.findall(r"as (\w+)$|^(\w+)(?: =|:)", stub, re.MULTILINE)) == {
        (name, "") if name not in ("load_audio", "__version__") else ("", name)
        for name in slslib.__all__
    }


def test_other_names_are_unknown() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        slslib.nothing  # noqa: B018


def test_importing_the_package_loads_almost_nothing() -> None:
    program = "import sys, slslib; print(sorted({'numpy', 'pandas', 'torch'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stderr
