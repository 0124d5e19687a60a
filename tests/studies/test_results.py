"""Every measurement that is committed has the one layout, and comes from committed code."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import provenance
import pytest

FILES = sorted((provenance.ROOT / "studies" / "results").glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_result_says_where_it_comes_from(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    assert list(content) == ["what", "provenance", "results"]
    where = content["provenance"]
    assert list(where) == list(provenance.provenance("numpy"))
    assert where["uncommitted_changes"] is False, "measure again from a clean tree"
    assert re.fullmatch("[0-9a-f]{40}", where["commit"])
    assert re.fullmatch(r"python (studies|benchmarks)/\w+\.py.*", where["command"])
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", where["date"])
    assert set(where["machine"]) == {"cpu", "cores"}
    assert "python" in where["versions"]
    assert not re.search(r'"/|[A-Z]:\\\\|/(home|root|tmp|work)/', text), "a path of a machine"


def test_uncommitted_changes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for name in ("src", "studies/results"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("1")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "First"], check=True)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / "studies" / "results" / "file").write_text("2")  # written by the study before
    assert provenance.provenance()["uncommitted_changes"] is False
    (tmp_path / "src" / "file").write_text("2")
    assert provenance.provenance()["uncommitted_changes"] is True
