"""A report replaces reports only, shows what ran, and calls no real data simulated."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch
import yaml

from slsnotebooks.scale import Scale

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
VARIABLES = [
    f"SLSLIB_{name}" for name in ("DATA", "CHECKPOINT", "BACKBONE", "CLIPS", "RUNS", "RECORDING")
]


@pytest.fixture(scope="module")
def make_report():
    spec = importlib.util.spec_from_file_location("make_report", ROOT / "book" / "make_report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.real_build = module.build
    return module


@pytest.fixture
def here() -> Scale:
    return Scale(
        Path("corpora"), False, "hub:a/b", "hub:c/d", 20, Path("runs"), torch.device("cpu")
    )


def figures(path: Path) -> list[dict]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell["metadata"]["mystnb"] for cell in cells if "mystnb" in cell["metadata"]]


@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_captions_of_real_data_do_not_speak_of_a_simulation(make_report, here, path, tmp_path):
    copy = shutil.copy(path, tmp_path)
    make_report.adapt(Path(copy), here)
    for figure in figures(Path(copy)):
        text = figure.get("figure", {}).get("caption", "") + figure.get("image", {}).get("alt", "")
        is_simulated = figure.get("figure", {}).get("name") in make_report.SIMULATED_FIGURES
        assert ("simulat" in text.lower()) == is_simulated
        assert "  " not in text
        assert " ." not in text


NUMBERS = "two|three|four|five|six|seven|eight|nine|ten|twelve|twenty-four|[0-9]+"
THINGS = "bars|marks|layers|heads|gates|clips|recordings|attacks|codecs|cues|speakers|windows"
# Of a network or a corpus that the reader may replace: its name, or how many it has of something.
OF_ONE_SCALE = re.compile(
    rf"\bmini\b|packaged|small backbone|one part in|\b({NUMBERS}) ([a-z]+ ){{0,2}}({THINGS})\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("the detector mini", True),
        ("the 24 transformer layers", True),
        ("between 80 bona fide recordings", True),
        ("Probes on nine layers", True),
        ("24 by 24 layers", True),
        ("one part in 24", True),
        ("Three curves over the transformer layers", False),
        ("the gates before those of nine in ten trials", False),
    ],
)
def test_words_that_fit_one_scale_are_found(text, is_found):
    assert bool(OF_ONE_SCALE.search(text)) == is_found


@pytest.mark.parametrize("number", ["01", "02", "03", "04", "05", "06", "07", "08b", "09", "10"])
def test_captions_fit_every_network_and_corpus(make_report, number):
    (path,) = [path for path in NOTEBOOKS if path.name.startswith(f"{number}_")]
    found = figures(path)
    assert found
    for figure in found:
        if figure["figure"]["name"] not in make_report.SIMULATED_FIGURES:
            text = f"{figure['figure']['caption']} {figure.get('image', {}).get('alt', '')}"
            assert not OF_ONE_SCALE.search(text), text


@pytest.mark.parametrize(("number", "name"), [(0, "SIMULATED_PAGE"), (-1, "PUBLISHED_PAGE")])
def test_a_page_without_the_readers_data_stays_as_it_is(make_report, here, tmp_path, number, name):
    copy = Path(shutil.copy(NOTEBOOKS[number], tmp_path))
    make_report.adapt(copy, here)
    assert copy.read_bytes() == NOTEBOOKS[number].read_bytes()
    assert copy.stem == getattr(make_report, name)


def test_captions_of_the_simulation_stay(make_report, here, tmp_path):
    path = NOTEBOOKS[2]
    copy = Path(shutil.copy(path, tmp_path))
    make_report.adapt(copy, replace(here, simulated=True))
    assert figures(copy) == figures(path)


def test_each_page_says_what_it_was_made_from(make_report, here, tmp_path):
    copy = Path(shutil.copy(NOTEBOOKS[2], tmp_path))
    make_report.adapt(copy, here)
    cells = json.loads(copy.read_text())["cells"]
    note = "".join(cells[1]["source"])
    assert all(word in note for word in ("`corpora`", "hub:a/b", "hub:c/d", "about 20 clips"))
    assert "except published ones and those of this project's studies" in note
    assert cells[0] == json.loads(NOTEBOOKS[2].read_text())["cells"][0]


@pytest.fixture
def clone(make_report, monkeypatch, tmp_path):
    """Make a clone of a tiny book, with a run, and a function that makes a report in it."""
    root = tmp_path / "clone"
    for folder in ("book", "notebooks", "studies", "runs/v1", "_build/html"):
        (root / folder).mkdir(parents=True)
    (root / "runs/v1/best.json").write_text("{}")
    (root / "CHANGELOG.md").touch()
    (root / "book/intro.md").write_text("# Book")
    (root / "_config.yml").write_text("title: slslib\nexecute: {execute_notebooks: cache}\n")
    chapters = [{"file": "notebooks/02_one"}, {"file": "notebooks/09_two"}]
    contents = {"format": "jb-book", "root": "book/intro", "parts": [{"chapters": chapters}]}
    (root / "_toc.yml").write_text(yaml.safe_dump(contents))
    for name in ("02_one", "09_two"):
        write_notebook(root / f"notebooks/{name}.ipynb", "'of the reader'")
    for variable in (*VARIABLES, "SLSLIB_CACHE"):
        monkeypatch.setenv(variable, "")  # so that it is put back
        monkeypatch.delenv(variable)
    monkeypatch.setenv("SLSLIB_DATA", str(tmp_path / "corpora"))
    (tmp_path / "corpora").mkdir()
    monkeypatch.setattr(make_report, "ROOT", root)
    monkeypatch.setattr(make_report, "build", lambda out: (out / "_build").mkdir())
    monkeypatch.setattr(make_report, "unusable", lambda here: "")
    monkeypatch.chdir(root)

    def make(*arguments: object) -> object:
        """Return the exit status, or the message of a refusal."""
        monkeypatch.setattr("sys.argv", ["make_report.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            make_report.main()
        return end.value.code

    return root, make


def write_notebook(path: Path, *sources: str) -> None:
    """Write a notebook whose cells show what was committed."""
    show = nbformat.v4.new_output("stream", text="simulated")
    cells = [nbformat.v4.new_code_cell(source, outputs=[show]) for source in sources]
    title = nbformat.v4.new_markdown_cell("# Title")
    nbformat.write(nbformat.v4.new_notebook(cells=[title, *cells]), path)


def content(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("out", [".", "..", "runs", "runs/v1", "notebooks", "book/new", "_build"])
def test_no_report_replaces_the_clone_or_the_runs(clone, out):
    root, make = clone
    before = content(root.parent)
    assert "--out" in make("--out", out), "refused, with the remedy"
    assert content(root.parent) == before
    if out in (".", "..", "runs", "notebooks"):  # not even where it looks like a report
        (root / out / ".slslib-report").touch()
        before = content(root.parent)
        assert "--out" in make("--out", out)
        assert content(root.parent) == before


@pytest.mark.parametrize("variable", ["DATA", "RUNS", "CHECKPOINT", "BACKBONE", "RECORDING"])
def test_no_report_replaces_what_it_is_made_from(clone, variable, monkeypatch, tmp_path):
    (tmp_path / "old/mine").mkdir(parents=True)
    (tmp_path / "old/.slslib-report").touch()
    (tmp_path / "old/mine/file").touch()
    name = "old/mine/file" if variable == "RECORDING" else "old/mine"
    monkeypatch.setenv(f"SLSLIB_{variable}", str(tmp_path / name))
    assert "old/mine" in clone[1]("--out", tmp_path / "old")
    assert (tmp_path / "old/mine/file").exists()


def test_an_interrupted_report_can_be_made_again_and_nothing_else_is_removed(
    clone, make_report, monkeypatch, tmp_path
):
    root, make = clone
    assert make("--out", tmp_path) != 0, "it holds other things"

    def stop(_):
        raise KeyboardInterrupt

    (root / "report").mkdir()  # empty
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(make_report, "build", stop)
        make("--only", "02")
    (root / "report/mine.txt").touch()
    (root / "report/notebooks/old.ipynb").touch()
    assert make("--only", "02") == 0
    assert make("--only", "09") == 0
    assert (root / "report/mine.txt").exists()
    assert {path.name for path in (root / "report/notebooks").iterdir()} == {"09_two.ipynb"}
    assert (root / "runs/v1/best.json").exists()


def test_a_page_that_stops_shows_what_ran_and_says_so(clone, capsys):
    root, make = clone
    write_notebook(root / "notebooks/02_one.ipynb", "print('ran')", "raise KeyError('gone')", "1")
    write_notebook(root / "notebooks/09_two.ipynb", "import os; os._exit(9)", "1")
    write_notebook(root / "notebooks/11_field_2026.ipynb", "1 / 0")
    committed = (root / "notebooks/02_one.ipynb").read_bytes()
    assert "3 of 3 notebooks stopped" in make()
    assert (root / "notebooks/02_one.ipynb").read_bytes() == committed
    said = capsys.readouterr().err
    assert "02_one.ipynb stopped at cell 2 of 3: raise KeyError('gone')\nKeyError: 'gone'" in said
    assert "09_two.ipynb stopped at cell 1 of 2" in said
    for name, where, outputs in (
        ("02_one", "cell 2 of 3", [["ran\n"], ["KeyError"], []]),
        ("09_two", "did the memory suffice?", [[], []]),
        ("11_field_2026", "ZeroDivisionError", [["ZeroDivisionError"]]),
    ):
        page = root / f"report/notebooks/{name}.ipynb"
        assert "simulated" not in page.read_text(), "no committed output is the reader's"
        cells = nbformat.read(page, as_version=4).cells
        assert ":::{warning}" in cells[1].source
        assert where in cells[1].source
        assert ("Numbers and figures are yours" in cells[1].source) == (name != "11_field_2026")
        shown = [[o.get("text", o.get("ename")) for o in c.outputs] for c in cells[2:]]
        assert shown == outputs


@pytest.mark.parametrize("status", [0, 1])
def test_the_book_is_built_or_the_reader_is_told_why_not(
    clone, make_report, monkeypatch, tmp_path, capsys, status
):
    root, make = clone
    monkeypatch.setattr(make_report, "build", make_report.real_build)
    tool = tmp_path / "jupyter-book"
    tool.write_text(f'#!/bin/sh\necho WARNING >&2\necho "$@" > "$2"/arguments\nexit {status}\n')
    tool.chmod(0o755)
    monkeypatch.setattr(make_report.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(make_report, "execute", lambda path: "")
    end = make()
    assert (root / "report/arguments").read_text() == f"build {root}/report --all --quiet\n"
    said = "".join(capsys.readouterr())
    if status:
        assert "WARNING" in end
        assert "no book was built" in end
    else:
        assert end == 0
        assert "the report is at" in said
    assert "WARNING" not in said


def test_a_page_that_does_not_stop_says_nothing_of_it(clone, capsys):
    root, make = clone
    assert make("--only", "09") == 0
    page = root / "report/notebooks/09_two.ipynb"
    cells = nbformat.read(page, as_version=4).cells
    assert "warning" not in cells[1].source
    assert "'of the reader'" in str(cells[2].outputs)
    assert "simulated" not in page.read_text()
    assert "stopped" not in capsys.readouterr().err


def test_notebooks_get_the_paths_that_the_reader_meant(clone, monkeypatch, tmp_path):
    root, make = clone
    (root / "mine.wav").touch()
    given = {"DATA": "../corpora", "CHECKPOINT": "runs/v1", "BACKBONE": "hub:a/b", "RUNS": ""}
    for name, value in (given | {"RECORDING": "mine.wav"}).items():
        monkeypatch.setenv(f"SLSLIB_{name}", value)
    names = sorted(set(VARIABLES) - {"SLSLIB_CLIPS"})
    write_notebook(root / "notebooks/02_one.ipynb", f"import os; [os.environ[n] for n in {names}]")
    assert make("--only", "02") == 0
    cells = nbformat.read(root / "report/notebooks/02_one.ipynb", as_version=4).cells
    meant = ["hub:a/b", f"{root}/runs/v1", f"{tmp_path}/corpora", f"{root}/mine.wav"]
    got = ast.literal_eval(cells[2].outputs[0]["data"]["text/plain"])
    assert got == [*meant, f"{root}/runs"]
    assert all(f"`{path}`" in cells[1].source for path in meant[:3])


def test_a_clone_without_runs_makes_a_report(clone):
    root, make = clone
    shutil.rmtree(root / "runs")
    assert make("--only", "09") == 0
    assert (root / "report/notebooks/09_two.ipynb").is_file()


def test_a_typing_error_is_named_before_anything_runs(clone, monkeypatch):
    root, make = clone
    for variable in ("SLSLIB_CHECKPOINT", "SLSLIB_RUNS"):
        monkeypatch.setenv(variable, "runs/v9")
        assert f"{variable} is 'runs/v9'" in make()
        monkeypatch.delenv(variable)
    assert "no notebook begins with 12: 02_one, 09_two" in make("--only", "02", "12")
    assert not (root / "report").exists()


def test_weights_that_cannot_be_loaded_are_named_before_anything_runs(
    make_report, here, clone, monkeypatch, tmp_path
):
    root, make = clone
    monkeypatch.setattr(make_report, "unusable", lambda here: "it has no SLS head")
    assert make() == "slslib: it has no SLS head"
    assert not (root / "report").exists()
    monkeypatch.undo()
    mini = replace(here, checkpoint="mini", backbone="mini")
    assert make_report.unusable(mini) == ""
    (tmp_path / "epoch_2.pth").write_text("<html>")
    for part in ("checkpoint", "backbone"):
        damaged = replace(mini, **{part: str(tmp_path / "epoch_2.pth")})
        assert "epoch_2.pth" in make_report.unusable(damaged)


def test_a_long_reason_is_shown_whole(make_report):
    shown = make_report.warning("cell 2 of 3: x\n" + "word " * 50).split("````")[1]
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.split().count("word") == 50
    assert "cell 2 of 3: x\nword" in shown
