"""The rehearsal: corpora in their official form, and a notebook that runs on them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import rehearsal
from provenance import ROOT

from minispoof import corpus as minispoof
from slslib.data.corpora import open_corpus
from slslib.data.protocols import known_attacks


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("parselmouth")
    folder = tmp_path_factory.mktemp("rehearsal")
    source = minispoof.write(folder / "minispoof", scale=0.4, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsal, "simulation", lambda: source)
        rehearsal.corpora(folder / "corpora")
    return folder / "corpora"


@pytest.mark.slow
def test_attacks_and_codecs_have_their_official_names(corpora: Path) -> None:
    train, test, media = (
        open_corpus(name, corpora).trials
        for name in ("asvspoof2019-la:train", "asvspoof2021-la:eval", "asvspoof2021-df:eval")
    )
    assert set(train.attack) == {"-", "A01", "A02", "A04", "A06"}
    known = known_attacks(train)
    assert known & set(test.attack) == {"A16", "A19"}
    assert set(test.attack) - known - {"-"} >= {"A07", "A08"}
    assert set(test.transmission) <= {"-", "ita_tx"}
    assert set(media.source) == {"asvspoof", "vcc2018"}
    assert not (corpora / "minispoof.json").exists(), "it is not told to be a simulation"
    assert len(open_corpus("in-the-wild", corpora)) > 50


@pytest.mark.slow
def test_the_page_on_tracks_runs_on_them(corpora: Path, tmp_path: Path) -> None:
    for name in ("notebooks", "studies"):
        shutil.copytree(ROOT / name, tmp_path / name)
    variables = {"SLSLIB_DATA": str(corpora), "SLSLIB_CLIPS": "20", "OMP_NUM_THREADS": "1"}
    notebook = tmp_path / "notebooks" / "09_tracks.ipynb"
    row = rehearsal.execute(notebook, dict(os.environ) | variables)
    assert "error" not in row
    text = notebook.read_text()
    assert "A04 (known)" in text
    assert "A07" in text
    assert "SLSLIB_CHECKPOINT" in text, "mini is said to know simulated speech only"
