"""The command ``slslib detect``: its options, and the files that it writes."""

from __future__ import annotations

import csv
import inspect
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from slsapp.detections import detect, write
from slslib.errors import ConfigError, FileError
from slslib.evaluation import tables
from slslib.files import sha256, write_json
from slslib.model.detector import Detector
from slslib.runs import detect as scoring


def options_of(function):
    """Return the parameters with their defaults, and what the docstring says of each."""
    told = inspect.getdoc(function).partition("Args:\n")[2].partition("\n\n")[0]
    told = told.replace("\n        ", " ")  # as the command line has done, if it was called before
    texts = dict(re.findall(r"^    (\w+): (.*)", told, re.M))
    parameters = inspect.signature(function).parameters
    assert [*texts] == [*parameters]
    return {name: (one.default, one.annotation, texts[name]) for name, one in parameters.items()}


def test_the_command_has_the_options_of_the_function():
    ours, theirs = options_of(detect), options_of(scoring.detect)
    assert {
        name: one for name, one in ours.items() if name not in ("precision", "out", "plot")
    } == theirs


def test_the_result_is_that_of_the_function(checkpoint, recording, tmp_path):
    how = {"checkpoint": checkpoint, "hop": 0.1, "pool": "min", "threshold": 0.5, "cpu": True}
    how["allow_silence"] = True
    made = detect((recording,), out=tmp_path / "x.json", plot=tmp_path / "x.svg", **how)
    scored = scoring.detect((recording,), **how)
    scored["files"][0]["bonafide_percent"] = None
    assert made == scored | {"prior_percent": None, "precision": "exact"}
    assert json.loads((tmp_path / "x.json").read_text()) == made
    assert "<svg" in (tmp_path / "x.svg").read_text()


def test_products_may_be_rounded(checkpoint, recording):
    made = detect((recording,), checkpoint=checkpoint, precision="bf16", cpu=True)
    detector = Detector.load(checkpoint)
    (exact,) = scoring.detect((recording,), checkpoint=detector)["files"]
    detector.backbone.to_bf16()
    (rounded,) = scoring.detect((recording,), checkpoint=detector)["files"]
    assert made["files"][0]["llr"] == rounded["llr"] != exact["llr"]
    assert rounded["llr"] == pytest.approx(exact["llr"], abs=0.3)
    assert made["precision"] == "bf16" and "--precision exact" in made["warnings"][-1]


def test_a_precision_that_cannot_be_had_is_refused(checkpoint, recording):
    for one in (Detector.load(checkpoint), "d.onnx"):
        with pytest.raises(ConfigError, match="--precision"):
            detect((recording,), checkpoint=one, precision="bf16")
    with pytest.raises(ConfigError, match="fp16"):
        detect((recording,), checkpoint=checkpoint, precision="fp16")


def test_files_that_a_folder_also_holds_are_told(checkpoint, recording):
    folder = recording.parent
    for name in ("voice", "notes.txt", ".DS_Store"):
        (folder / name).write_bytes(b"x")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_bytes(b"x")
    (_, warning) = detect((folder,), checkpoint=checkpoint)["warnings"]
    assert warning.endswith(f"endings: 2 files, such as {folder / 'notes.txt'}")
    assert len(detect((recording,), checkpoint=checkpoint)["warnings"]) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"plot": "x.docx"},
        {"plot": "no/such/folder/x.png"},
        {"out": "x.docx"},
        {"out": "no/such/folder/x.csv"},
        {"out": "x.txt", "files": (Path("a.wav"), Path("b.wav"))},
        {"out": "folder.csv"},
        {"plot": "folder.png"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_cannot_be_written_is_refused_before_scoring(recording, options, tmp_path):
    options = {"files": (recording,), "checkpoint": "nothing reads it"} | options
    for key in {"plot", "out"} & {*options}:
        options[key] = tmp_path / options[key]
        if options[key].stem == "folder":
            options[key].mkdir()
    with pytest.raises(ConfigError, match=r"name a file that ends in|labels are for one"):
        detect(**options)


def test_out(checkpoint, tmp_path):
    x = np.rint(3000 * np.random.default_rng(0).standard_normal(12_000)).astype(np.int16)
    x[4_000:8_000] = 0
    names = ['a "b",\tc.wav', os.fsdecode(b"\xff.wav")]
    for name in names:
        sf.write(os.fsencode(tmp_path / name), np.append(x, x[:100]), 16_000, format="WAV")
    files = tuple(tmp_path / name for name in names)

    def written(name, files=files, **options):
        made = detect(files, checkpoint=checkpoint, out=tmp_path / name, **options)
        return made, (tmp_path / name).read_text(encoding="utf-8")

    made, text = written("x.JSON")
    assert json.loads(text) == made
    llrs = [window["llr"] for window in made["files"][0]["windows"]]
    assert [llr is None for llr in llrs] == [False, True, False, False]
    made, text = written("x.csv", threshold=min(llrs[0], *llrs[2:]) - 1)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["file"] for row in rows[::4]] == [str(files[0]), f"{tmp_path}/\\udcff.wav"]
    assert [row["side"] for row in rows[:4]] == ["bonafide", "silence", "bonafide", "bonafide"]
    assert [float(row["llr"]) for row in rows[2:4]] == llrs[2:]
    assert float(rows[3]["end_s"]) == pytest.approx(12_100 / 16_000)
    _, text = written("x.rttm", threshold=min(llrs[0], *llrs[2:]) - 1)
    lines = [line.split() for line in text.splitlines()]
    assert {len(line) for line in lines} == {10}
    assert [(line[3], line[4], line[7]) for line in lines[:2]] == [
        ("0.000", "0.250", "bonafide"),
        ("0.500", "0.256", "bonafide"),
    ]
    _, text = written("x.txt", files[:1], threshold=max(llrs[0], *llrs[2:]) + 1)
    assert text.splitlines() == [
        f"0.000\t0.250\tspoof {llrs[0]:.4}",
        "0.250\t0.500\tsilence ",
        f"0.500\t0.756\tspoof {min(llrs[2:]):.4}",
    ]
    Detector.load(checkpoint).save(checkpoint, {"epoch": 1})
    _, text = written("y.txt", files[:1])
    assert [line.split()[2] for line in text.splitlines()] == [
        *("unknown", "silence", "unknown", "unknown")
    ]


def test_a_probability_stands_beside_the_verdict(checkpoint, recording, tmp_path):
    scale = {"slope": 1.0, "offset": 0.0, "prior_percent": 50.0}
    facts = {"threshold": -7, "checkpoint_sha256": sha256(checkpoint), "calibration": scale}
    write_json(tmp_path / "t.json", facts | {"hop_s": None, "pool": "mean"})
    made = detect((recording,), checkpoint=checkpoint, threshold=tmp_path / "t.json")
    (one,) = made["files"]
    assert one["bonafide_percent"] == pytest.approx(100 / (1 + np.exp(-one["llr"])))
    shown = tables.detect(made)
    assert "bonafide percent" in shown
    assert re.search(r"prior percent +50", shown)
    assert "bonafide percent" not in tables.detect(detect((recording,), checkpoint=checkpoint))


def test_windows_without_speech_are_marked(checkpoint, tmp_path):
    windows = [{"start_s": 0.25 * k, "llr": llr} for k, llr in enumerate([1.0, None, -1.0])]
    one = {"file": "a.wav", "duration_s": 0.75, "windows": windows}
    made = {"threshold": 0.0, "window_s": 0.25, "speech_only": True, "files": [one]}
    for kind, n in {"txt": 3, "csv": 4, "rttm": 2}.items():
        write(made, path := tmp_path / f"x.{kind}")
        lines = path.read_text().splitlines()
        assert len(lines) == n
        assert sum("no speech" in line for line in lines) == (kind != "rttm")


def test_names_are_told_apart_and_computed_by_no_spreadsheet(checkpoint, recording, monkeypatch):
    monkeypatch.chdir(recording.parent)
    names = ["=1+cmd(1).wav", "@b.wav", "-c.wav", "a b.wav", "a_b.wav", "a%20b.wav", "\u2028.wav"]
    for name in names:
        Path(name).write_bytes(recording.read_bytes())
    kinds = {}
    for kind in ("csv", "rttm"):
        detect(tuple(map(Path, names)), checkpoint=checkpoint, out=Path(f"x.{kind}"))
        kinds[kind] = Path(f"x.{kind}").read_text(encoding="utf-8")
    cells = [row["file"] for row in csv.DictReader(io.StringIO(kinds["csv"]))][::3]
    assert cells == [f"./{name}" for name in names[:3]] + names[3:]
    lines = kinds["rttm"].split("\n")[:-1:3]
    assert [line.split()[1] for line in lines] == [
        *names[:3],
        *("a%20b.wav", "a_b.wav", "a%2520b.wav", "%E2%80%A8.wav"),
    ]


def test_a_plot_that_cannot_be_written(checkpoint, recording, monkeypatch):
    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(FileError, match=r"x\.png.*No space"):
        detect((recording,), checkpoint=checkpoint, plot=checkpoint.with_name("x.png"))
