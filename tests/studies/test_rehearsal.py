"""The rehearsal: corpora in their official form, and a notebook that runs on them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import rehearsal
from provenance import ROOT

from minispoof import corpus as minispoof
from slslib.data.corpora import open_corpus
from slsnotebooks.tracks import known_attacks


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


def executed(folder: Path, name: str, **variables: object) -> Path:
    """Execute a copy of a notebook with these variables; nothing in it may fail."""
    for part in ("notebooks", "studies"):
        shutil.copytree(ROOT / part, folder / part)
    own = {key: str(value) for key, value in variables.items()}
    row = rehearsal.execute(
        folder / "notebooks" / name, {**os.environ, "OMP_NUM_THREADS": "1", **own}
    )
    assert "error" not in row
    return folder / "notebooks" / name


@pytest.mark.slow
def test_the_page_on_tracks_runs_on_them(corpora: Path, tmp_path: Path) -> None:
    notebook = executed(tmp_path, "09_tracks.ipynb", SLSLIB_DATA=corpora, SLSLIB_CLIPS=20)
    text = notebook.read_text()
    assert "A04 (known)" in text
    assert "A07" in text
    assert "SLSLIB_CHECKPOINT" in text, "mini is said to know simulated speech only"


@pytest.mark.slow
def test_the_page_on_training_takes_as_few_clips_as_it_is_told(
    corpora: Path, tmp_path: Path
) -> None:
    folders = {"SLSLIB_DATA": corpora, "SLSLIB_RUNS": tmp_path / "runs"}
    notebook = executed(tmp_path, "06_training.ipynb", SLSLIB_CLIPS=4, **folders)
    text = notebook.read_text()
    assert "at most 4 clips of a class" in text
    sizes = {
        part: len(open_corpus(f"asvspoof2019-la:{part}", corpora)) for part in ("train", "dev")
    }
    assert sizes["train"] > 80
    for part, size in sizes.items():
        assert f"asvspoof2019-la:{part} {min(80, size)} clips" in text
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_report_shows_own_runs_beside_the_published_numbers(
    corpora: Path, tmp_path: Path
) -> None:
    run = tmp_path / "own runs" / "mine"
    run.mkdir(parents=True)
    (run / "best.json").write_text("{}")
    for corpus in ("asvspoof2021-df", "asvspoof2021-la:progress", "in-the-wild"):
        trials = open_corpus(corpus, corpora).trials
        lines = [f"{t.utterance} {t.label + k % 3}.0\n" for k, t in enumerate(trials.itertuples())]
        name, _, part = corpus.partition(":")
        (run / f"{name}.txt").write_text("".join(lines))
        facts = {"corpus": name, "partition": part or "-"}
        (run / f"{name}.txt.json").write_text(json.dumps(facts))
    folders = {"SLSLIB_DATA": corpora, "SLSLIB_RUNS": run.parent}
    notebook = executed(tmp_path, "10_reproduction_report.ipynb", SLSLIB_CLIPS=20, **folders)
    cells = json.loads(notebook.read_text())["cells"]
    texts = ["".join(o.get("text", "")) for c in cells for o in c.get("outputs", ())]
    (table,) = [text for text in texts if "mine" in text]
    media, phone, wild = (
        next(line for line in table.splitlines() if name in line)
        for name in ("asvspoof2021-df", "asvspoof2021-la", "in-the-wild")
    )
    assert "eval" in media
    assert media.split()[-3:] == ["1.92", "2.14", "3.75"]
    assert "progress" in phone
    assert phone.split()[-3:] == ["-", "-", "-"], "published numbers are of another phase"
    assert wild.split()[-3:] == ["7.46", "7.84", "12.67"]
    assert any("keys/DF/CM/trial_metadata.txt is not the published file" in t for t in texts)
