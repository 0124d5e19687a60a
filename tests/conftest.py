"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference data (real scores, speech, parity tensors); skips where it is absent."""
    path = Path(os.environ.get("SLSLIB_SHARED", ROOT.parent / "shared"))
    if not (path / "SPEC.md").is_file():
        pytest.skip(f"reference data not found at {path} (set SLSLIB_SHARED)")
    return path
