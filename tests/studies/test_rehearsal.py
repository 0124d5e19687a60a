"""The rehearsal: corpora in their official form, and a notebook that runs on them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import checkpoints
import pandas as pd
import pytest
import rehearsal
from provenance import ROOT, read
from torch._subclasses import FakeTensorMode

from minispoof import corpus as minispoof
from slslib.cli import COMMANDS
from slslib.data.corpora import open_corpus
from slslib.data.protocols import read_protocol
from slslib.data.scorefiles import match, read_scores
from slslib.model.detector import Detector, DetectorConfig
from slslib.model.foreign import dimensions
from slslib.model.xlsr import XLSRConfig
from slsnotebooks.scale import scale
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
    evaluated = {f"A{number:02d}" for number in range(7, 20)}
    assert set(train.attack) == {"-"} | {f"A{number:02d}" for number in range(1, 7)}
    assert known_attacks(train) & evaluated == {"A16", "A19"}
    whole = open_corpus("asvspoof2021-la", corpora).trials
    for trials in (whole, open_corpus("asvspoof2019-la:eval", corpora).trials):
        assert set(trials.attack) == evaluated | {"-"}
    assert set(test.codec) == {"none", "alaw", "pstn", "g722", "ulaw", "gsm", "opus"}
    assert set(test.transmission) == {"-", "ita_tx", "sin_tx", "loc_tx", "mad_tx"}
    assert ((test.codec == "pstn") == (test.transmission == "mad_tx")).all()
    assert ((test.codec == "none") == (test.transmission == "-")).all()
    of = "low_mp3 high_mp3 low_m4a high_m4a low_ogg high_ogg mp3m4a oggm4a nocodec"
    assert set(media.codec) == set(of.split())
    assert set(media.source) == {"asvspoof", "vcc2018", "vcc2020"}
    assert set(media.vocoder) == {"-", *rehearsal.OTHERS["traditional_vocoder"]}
    phases = set(whole.phase)
    assert phases == {"progress", "eval", "hidden"}
    assert ((whole.trim == "trim") == (whole.phase == "hidden")).all()
    assert not (corpora / "minispoof.json").exists(), "it is not told to be a simulation"
    assert len(open_corpus("in-the-wild", corpora)) > 50


@pytest.mark.slow
def test_speaker_verification_names_a_trial_as_the_key_does(corpora: Path) -> None:
    def trials(kind: str) -> pd.DataFrame:
        path = corpora / "keys" / "LA" / kind / "trial_metadata.txt"
        names = "speaker utterance codec transmission attack key trim phase"
        return pd.read_csv(path, sep=" ", names=names.split())

    both = trials("CM").merge(trials("ASV"), on="utterance")
    assert set(both.utterance) == set(trials("CM").utterance)
    for name in ("codec", "transmission", "attack", "trim", "phase"):
        assert (both[f"{name}_x"] == both[f"{name}_y"]).all()


@pytest.mark.slow
def test_keys_have_the_official_numbers_of_trials(tmp_path: Path) -> None:
    rehearsal.official_counts(tmp_path)
    for track, n in {"LA": 181_566, "DF": 611_829}.items():
        trials = read_protocol(tmp_path / "keys" / track / "CM" / "trial_metadata.txt")
        assert len(trials) == n
        scored = match(read_scores(tmp_path / f"{track}.txt"), trials, phase="eval")
        assert len(scored) == {"LA": 148_176, "DF": 533_928}[track]


def test_the_stand_in_tells_the_dimensions_of_xlsr() -> None:
    with FakeTensorMode():
        tensors = Detector().state_dict()
    told = checkpoints.SETTINGS["model"]
    full = DetectorConfig(XLSRConfig(n_heads=16, ffn_width=4096))
    assert dimensions(tensors, told, None) == asdict(full)


@pytest.mark.slow
def test_nothing_of_the_readers_is_used(
    corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RUNS", "RECORDING", "DATA", "CHECKPOINT", "CACHE", "BOOK_CACHE"):
        monkeypatch.setenv(f"SLSLIB_{name}", str(tmp_path / "own"))
    monkeypatch.setattr(rehearsal, "simulation", lambda: corpora.parent / "minispoof")
    (tmp_path / "work").mkdir()
    (tmp_path / "weights").mkdir()
    for name in ("epoch_2.pth", "xlsr2_300m.pt"):
        (tmp_path / "weights" / name).touch()
    environment = rehearsal.prepare(tmp_path / "work", corpora, tmp_path / "weights", 3)
    assert str(tmp_path / "own") not in environment.values()
    assert environment["PATH"] == os.environ["PATH"]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLSLIB_BOOK_CACHE")
    here = scale()
    assert here.recording
    assert here.trained() == {"stand-in": here.runs / "stand-in"}
    scored = {corpus for _, corpus in here.scored()}
    assert scored == {
        "asvspoof2021-la",
        "asvspoof2021-la:progress",
        "asvspoof2021-df",
        "in-the-wild",
    }
    for (_, corpus), path in here.scored().items():
        assert len(match(read_scores(path), open_corpus(corpus, corpora).trials)) >= 20
    few = tmp_path / "work" / "few"
    assert len(open_corpus("asvspoof2021-la", few)) == 18, "three of each class and phase"
    assert len(open_corpus("asvspoof2019-la:train", few)) == 10, "two batches of v2"
    for name in ("asvspoof2019-la:dev", "in-the-wild", str(few / "own")):
        own = open_corpus(name, few)
        assert len(own) == 6
        assert all(own.audio_path(utterance).is_file() for utterance in own.trials.utterance)


def test_every_command_is_rehearsed() -> None:
    lines = rehearsal.listed(4)
    assert rehearsal.with_what_they_read(lines, ("score",))[0].startswith("protocol few/own")
    chosen = rehearsal.with_what_they_read(lines, ("evaluate",))
    assert [line.split()[0] for line in chosen] == [
        *("protocol", "convert", "score", "score"),
        *["evaluate"] * 4,
    ]
    assert {line.split()[0] for line in lines} == set(COMMANDS)
    assert len(set(lines)) == len(lines)


def test_a_measurement_has_the_error_without_the_folders_of_the_machine(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "slslib", "detect", str(tmp_path / "none.wav")]
    words += ["--checkpoint", "mini", "--cpu"]
    row = rehearsal.measure(words, tmp_path, dict(os.environ))
    assert row["error"].startswith("slslib: ")
    assert "none.wav" in row["error"]
    assert str(tmp_path) not in row["error"]
    assert 0 < row["peak_gb"] < 4
    assert row["cpu_seconds"] > 0
    assert "error" not in rehearsal.measure([sys.executable, "-c", ""], tmp_path, {})


@pytest.mark.slow
def test_a_command_is_chosen_and_its_row_written(
    corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "simulation", lambda: corpora.parent / "minispoof")
    out = tmp_path / "rows.json"
    with pytest.raises(SystemExit) as ended:
        rehearsal.run(corpora, tmp_path / "weights", out, 4, commands=("protocol", "verify in"))
    results = json.loads(out.read_text())["results"]
    assert ended.value.code == 0
    assert results["notebooks"] == []
    assert [row["command"].split()[1] for row in results["commands"]] == ["verify", "protocol"]
    assert [*tmp_path.iterdir()] == [out]


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


def stand_in(path: Path, **dimensions: Any) -> Path:
    """Write a small detector, without a recipe, as a file of the reader's."""
    path.parent.mkdir(exist_ok=True)
    usual = Detector.load("mini").config
    config = replace(usual, backbone=replace(usual.backbone, **dimensions))
    Detector(config, seed=1).save(path, {"by": "a test"})
    return path


@pytest.mark.slow
def test_the_page_on_layers_leaves_out_what_another_architecture_lacks(
    corpora: Path, tmp_path: Path
) -> None:
    base = {"pre_norm": False, "group_norm": True, "conv_bias": False}
    weights = stand_in(tmp_path / "my weights" / "base.safetensors", n_layers=12, **base)
    given = {"SLSLIB_DATA": corpora, "SLSLIB_BACKBONE": weights, "SLSLIB_CLIPS": 2}
    text = executed(tmp_path, "02_layer_features.ipynb", **given).read_text()
    assert "This backbone is not built like XLS-R: cells that rebuild it are skipped." in text
    assert "fine-tuned, layers 1 and 12" in text
    assert "13 Axes" in text, "a picture of each layer, and the bar of colours"


@pytest.mark.slow
def test_the_page_on_scoring_needs_few_clips_and_any_path(corpora: Path, tmp_path: Path) -> None:
    weights = stand_in(tmp_path / "my weights" / "epoch 2.safetensors", n_layers=6)
    given = {"SLSLIB_DATA": corpora, "SLSLIB_CHECKPOINT": weights, "SLSLIB_CLIPS": 2}
    text = executed(tmp_path, "07_scoring.ipynb", **given).read_text()
    assert "weights: epoch 2.safetensors, which names no recipe" in text
    assert "of each of 16 trials" in text


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
    (tmp_path / "runs").mkdir()
    folders = {"SLSLIB_DATA": corpora, "SLSLIB_RUNS": tmp_path / "runs"}
    notebook = executed(tmp_path, "06_training.ipynb", SLSLIB_CLIPS=4, **folders)
    text = notebook.read_text()
    assert "about 4 clips of a class" in text
    sizes = {
        part: len(open_corpus(f"asvspoof2019-la:{part}", corpora)) for part in ("train", "dev")
    }
    assert sizes["train"] > 80
    for part, size in sizes.items():
        assert f"asvspoof2019-la:{part} {min(80, size)} clips" in text
    assert not list((tmp_path / "runs").iterdir())


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
        facts = {"corpus": name, "partition": part or "-", "decoders": {"a test": len(lines)}}
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


def test_the_committed_rehearsal_is_of_all_commands_and_notebooks() -> None:
    """Else make it again: some came or changed their name since."""
    results = read("rehearsal")
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert {row["notebook"] for row in results["notebooks"]} == notebooks
    lines = [row["command"].removeprefix("slslib ") for row in results["commands"]]
    assert lines == rehearsal.listed(results["clips_of_a_class"])
    assert not [row for row in results["notebooks"] + results["commands"] if "error" in row]
