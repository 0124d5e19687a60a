"""The files around the code agree with one another; the set-up says what is wrong in one line."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pybtex.database import Entry, parse_file

import slslib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINNED_EXTRAS = ("book", "test", "app", "hub", "minispoof", "onnx", "speech")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Written in pieces, so that this file does not find itself.
MACHINE_PATH = re.compile(
    "|".join(rf"(?<![\w.])/{name}/" for name in ("work", "tmp", "root", "home"))
)
HOME = "/".join(["", "home", "someone", "x"])
# Not pinned: the packaging tools, and the CUDA libraries, which torch pins itself.
UNPINNED = re.compile(r"^(pip|setuptools|wheel|nvidia-.*|cuda-.*|triton)$")


def pins() -> dict[str, str]:
    """Return the versions of constraints.txt by canonical name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


# Packages


def test_constraints_hold_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    entries = [line for line in lines if not line.startswith("#")]
    assert [line for line in entries if not re.fullmatch(r"[a-z0-9-]+==[a-z0-9.]+", line)] == []
    assert list(pins()) == sorted(pins())
    assert pins()["torch"] == "2.13.0"


def test_constraints_satisfy_the_project() -> None:
    wanted = PROJECT["dependencies"] + [line for extra in PINNED_EXTRAS for line in EXTRAS[extra]]
    for requirement in map(Requirement, wanted):
        if requirement.name != "slslib":
            assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_constraints_are_complete() -> None:
    pinned, missing = pins(), []
    for name in pinned:
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that is not installed here
        for need in map(Requirement, needs):
            applies = need.marker is None or need.marker.evaluate({"extra": ""})
            key = canonicalize_name(need.name)
            if applies and key not in pinned and not UNPINNED.match(key):
                missing.append(f"{name} needs {need}")
    assert missing == []


def test_constraints_hold_nothing_that_nothing_asks_for() -> None:
    wanted = PROJECT["dependencies"] + [line for extra in PINNED_EXTRAS for line in EXTRAS[extra]]
    todo, seen = [Requirement(line) for line in wanted], set[tuple[str, str]]()
    while todo:
        need = todo.pop()
        for extra in {"", *need.extras}:
            if need.name == "slslib" or (key := (canonicalize_name(need.name), extra)) in seen:
                continue
            seen.add(key)
            try:
                lines = importlib.metadata.requires(need.name) or []
            except importlib.metadata.PackageNotFoundError:
                pytest.skip(f"{need.name} is not installed, so what it needs is not known")
            todo += [
                one
                for one in map(Requirement, lines)
                if one.marker is None or one.marker.evaluate({"extra": extra})
            ]
    assert sorted(pins().keys() - {name for name, _ in seen}) == []


def test_environment_defers_to_the_project() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert conda == ["python=3.11", "pip"]
    *options, project = pip["pip"]
    assert options == ["--only-binary :all:", "-c constraints.txt"]
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", project).group(1).split(",")
    assert set(extras) <= set(EXTRAS)
    assert extras == installer().EXTRAS.split(",")


def test_the_image_copies_and_installs_what_exists() -> None:
    """The image itself is not built here."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"]
    copied = [one for kind, rest in steps if kind == "COPY" for one in rest.split()[:-1]]
    assert sorted(copied) == sorted(sent)
    assert all((ROOT / one).exists() for one in copied)
    assert {PROJECT["readme"], *PROJECT["license-files"], "constraints.txt"} <= set(copied)
    (run,) = [rest for kind, rest in steps if kind == "RUN"]
    extras = re.search(r'"\.\[([\w,]+)\]"', run).group(1).split(",")
    assert set(extras) <= set(EXTRAS)
    assert run.count("pip install") == run.count("-c constraints.txt") == 2
    assert json.loads(dict(steps)["ENTRYPOINT"]) == [*PROJECT["scripts"]]
    assert (
        f">={dict(steps)['FROM'].removeprefix('python:').removesuffix('-slim')}"
        == (PROJECT["requires-python"])
    )


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == slslib.__version__ == citation["version"]


def test_every_module_is_in_the_api_reference() -> None:
    pages = "\n".join(page.read_text() for page in (ROOT / "book").glob("api*.md"))
    listed = set(re.findall(r"automodule:: ([\w.]+)", pages))
    modules = {
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for path in (ROOT / "src").rglob("*.py")
        if path.stem not in ("__init__", "__main__")
    }
    assert listed == modules | {"slslib"}


# Set-up

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def installer() -> ModuleType:
    """Import .ci/install.py."""
    spec = importlib.util.spec_from_file_location("slslib_install", ROOT / ".ci" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as a user would."""
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))
    }
    command = ["make", "-s", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=clean)


def script(path: Path, body: str) -> Path:
    """Write an executable shell script."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@needs_make
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("echo 3.12", "is Python 3.12, and the pinned packages are for 3.11"),
        ('case "$2" in *ensurepip*) exit 1;; esac; echo 3.11', "apt install python3.11-venv"),
        ("exit 127", "does not run"),
    ],
)
def test_unfit_python_gets_one_line(tmp_path: Path, body: str, says: str) -> None:
    fake = script(tmp_path / "python", body)
    run = make(f"PYTHON={fake}", f"VENV={tmp_path / 'venv'}", "setup")
    said = [line for line in run.stderr.splitlines() if line.startswith("slslib: ")]
    assert run.returncode != 0
    assert len(said) == 1
    assert says in said[0]
    assert not (tmp_path / "venv").exists()


@needs_make
def test_the_lab_gets_paths_that_mean_the_same_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / ".slslib-installed").touch()
    for name in [name for name in os.environ if name.startswith("SLSLIB_")]:
        monkeypatch.delenv(name)
    script(tmp_path / "bin" / "jupyter", 'printenv | grep ^SLSLIB_; echo "$@"')
    given = {
        "SLSLIB_DATA": ("my corpora", f"{ROOT}/my corpora"),
        "SLSLIB_CHECKPOINT": ("runs/v1", f"{ROOT}/runs/v1"),
        "SLSLIB_BACKBONE": ("hub:owner/name/file.pt", "hub:owner/name/file.pt"),
        "SLSLIB_RUNS": ("/runs", "/runs"),
        "SLSLIB_RECORDING": ("~/me.wav", "~/me.wav"),
        "SLSLIB_CACHE": ("", ""),
        "SLSLIB_CLIPS": ("4", "4"),
    }
    for name, (value, _) in given.items():
        monkeypatch.setenv(name, value)
    run = make(f"VENV={tmp_path}", "TORCH_INDEX=", "lab")
    *variables, arguments = run.stdout.splitlines()
    assert run.returncode == 0
    assert arguments.startswith("lab ")
    assert dict(line.split("=", 1) for line in variables) == {
        name: meant for name, (_, meant) in given.items()
    }
    monkeypatch.setenv("SLSLIB_CHECKPOINT", "mini")
    assert "SLSLIB_CHECKPOINT=mini\n" in make(f"VENV={tmp_path}", "TORCH_INDEX=", "lab").stdout


@needs_make
def test_a_report_may_have_some_of_the_notebooks(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / ".slslib-installed").touch()
    script(tmp_path / "bin" / "python", 'echo "$@"')
    for given, meant in (("", []), ("01 05", ["--only", "01", "05"])):
        run = make(f"VENV={tmp_path}", "TORCH_INDEX=", f"ONLY={given}", "report")
        assert run.stdout.split() == ["book/make_report.py", *meant]


def test_no_python_on_the_path_gets_one_line(tmp_path: Path) -> None:
    script(tmp_path / "python3", "echo 3.12")
    command = [shutil.which("sh"), str(ROOT / ".ci" / "find-python"), ""]
    run = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert run.returncode != 0
    assert len(run.stderr.splitlines()) == 1
    assert "Python 3.11 was not found on the PATH (only 3.12)" in run.stderr


@needs_make
def test_current_environment_is_left_alone(tmp_path: Path) -> None:
    stamp = tmp_path / ".slslib-installed"
    stamp.touch()
    assert make("-q", f"VENV={tmp_path}", "setup").returncode == 0
    assert make("-q", f"VENV={tmp_path}", "TORCH_INDEX=elsewhere", "setup").returncode == 1
    os.utime(stamp, (0, 0))
    assert make("-q", f"VENV={tmp_path}", "setup").returncode == 1


def test_too_small_a_disk_gets_one_line(tmp_path: Path, monkeypatch, capsys) -> None:
    install = installer()
    monkeypatch.setattr(install.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e9))
    monkeypatch.setattr(sys, "argv", ["install.py", str(tmp_path / "venv"), ""])
    assert install.main() == 1
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    assert "1.0 GB are free" in message
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "the disk is full"),
        ("ERROR: No matching distribution found for numpy==2.4.6", "No matching distribution"),
        ("WARNING: Retrying: NewConnectionError\nERROR: none", "cannot be reached"),
    ],
)
def test_failing_pip_is_explained_in_one_line(tmp_path: Path, log: str, says: str) -> None:
    install = installer()
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin" / "python", f"cat <<'END'\n{log}\nEND\nexit 1")
    with pytest.raises(install.InstallError, match=says) as caught:
        install.pip(tmp_path, "installing", "anything")
    assert len(str(caught.value).splitlines()) == 1


def test_interrupted_install_starts_afresh(tmp_path: Path, monkeypatch) -> None:
    install = installer()
    (tmp_path / "bin").mkdir()
    (tmp_path / "pyvenv.cfg").touch()
    script(tmp_path / "bin" / "python", "echo 3.11")
    cleared = []
    monkeypatch.setattr(install.venv, "create", lambda _, clear, **__: cleared.append(clear))
    install.create(tmp_path)
    assert cleared == []
    (tmp_path / ".slslib-installing").touch()
    install.create(tmp_path)
    assert cleared == [True]


def test_an_environment_of_another_python_is_not_touched(tmp_path: Path) -> None:
    install = installer()
    (tmp_path / "bin").mkdir()
    (tmp_path / "pyvenv.cfg").touch()
    script(tmp_path / "bin" / "python", "echo 3.12")
    with pytest.raises(install.InstallError, match=r"holds Python 3\.12"):
        install.create(tmp_path)


def test_a_folder_that_is_no_environment_is_not_touched(tmp_path: Path) -> None:
    install = installer()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(install.InstallError, match="is not a virtual environment"):
        install.create(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


# Files


def test_no_file_names_a_path_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    found = []
    for path in paths:
        if path.suffix in {
            ".py",
            ".md",
            ".toml",
            ".txt",
            ".yml",
            ".cfg",
            ".json",
            ".ipynb",
            ".csv",
        }:
            found += [str(path.relative_to(ROOT))] * bool(MACHINE_PATH.search(path.read_text()))
    assert found == []


def test_no_file_holds_two_sides_of_a_merge() -> None:
    marks = "^(<{7} .*|>{7} .*|={7})$"
    found = subprocess.run(
        ["git", "-C", str(ROOT), "grep", "-lE", marks], capture_output=True, text=True
    )
    if found.returncode not in (0, 1):
        pytest.skip("this is no clone")
    assert found.stdout.splitlines() == []


def test_no_line_within_a_paragraph_is_a_comment() -> None:
    """MyST leaves out a line that begins with a percent sign, such as the end of 15.1 %."""
    texts = [page.read_text() for page in (*(ROOT / "book").glob("*.md"), ROOT / "CHANGELOG.md")]
    cells = [cell for path in NOTEBOOKS for cell in nbformat.read(path, as_version=4).cells]
    texts += [cell.source for cell in cells if cell.cell_type == "markdown"]
    text = "\n\n".join(texts)
    assert re.findall(r"(?m)^(?!%).*\S\n[ \t>]*%.*", text) == []


# Notebooks


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    """Return the code cells that are not empty."""
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]


def python_of(source: str) -> str:
    """Return the source without lines for IPython."""
    return "\n".join(
        "pass" if line.lstrip()[:1] in "%!" and line.strip() else line
        for line in source.splitlines()
    )


def notebook_faults(cells: list[nbformat.NotebookNode]) -> list[str]:
    """Return what is wrong with a notebook's code cells, one sentence each."""
    faults = []
    counts = [cell.execution_count for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        faults.append(f"was not run from top to bottom: {counts}")
    for number, cell in enumerate(cells, 1):
        n_lines = len(cell.source.splitlines())
        if n_lines > 30:
            faults.append(f"cell {number} has {n_lines} lines, more than 30")
        for node in ast.walk(ast.parse(python_of(cell.source))):
            if isinstance(node, ast.Constant) and str(node.value).startswith(("../", "studies/")):
                faults.append(f"cell {number} opens {node.value}, which the notebook alone lacks")
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 10:
                faults.append(f"cell {number}: function {node.name} is longer than 10 lines")
        if cell.source.rstrip().endswith(";"):
            faults.append(f"cell {number} ends in a semicolon, which hides nothing from nbval")
        if {"nbval-skip", "raises-exception"} & set(cell.metadata.get("tags", [])):
            faults.append(f"cell {number} is not checked")
        for output in cell.outputs:
            words = json.dumps(output)
            if output.output_type == "error" or output.get("name") == "stderr":
                faults.append(f"cell {number} wrote an error: {words[:200]}")
            if re.search(r"\w*Warning\b", words):
                faults.append(f"cell {number} shows a warning")
            if MACHINE_PATH.search(words):
                faults.append(f"cell {number} shows a path of one machine")
            if "<Figure size" in words and "image/" not in words:
                faults.append(f"cell {number} shows a figure as text")
    return faults


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_executed_and_clean(path: Path) -> None:
    assert notebook_faults(code_cells(path)) == []
    assert not MACHINE_PATH.search(path.read_text())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_deterministic(path: Path) -> None:
    keys = "metadata.language_info cell.metadata.execution"
    options = ["--verify", "--keep-output", "--keep-count", "--extra-keys", keys]
    run = subprocess.run(
        [sys.executable, "-m", "nbstripout", *options, str(path)], capture_output=True
    )
    assert run.returncode == 0, "run nbstripout as CONTRIBUTING.md says"


def label(entry: Entry) -> tuple[str, str]:
    """Return the authors and the year of an entry of references.bib, as the text cites them."""
    people = entry.persons["author"]
    names = [
        " ".join(map(str, (*person.rich_prelast_names, *person.rich_last_names)))
        for person in people
    ]
    authors = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
    return authors, entry.fields["year"]


def test_notebooks_cite_by_links_which_work_in_lab_too() -> None:
    labels = {}
    for entry in parse_file(ROOT / "book" / "references.bib").entries.values():
        doi = entry.fields.get("doi")
        labels[f"https://doi.org/{doi}" if doi else entry.fields["url"]] = label(entry)
    cells = [cell for path in NOTEBOOKS for cell in nbformat.read(path, as_version=4).cells]
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert "{cite" not in text
    links = re.findall(r"\[([^\[\]]+)\]\((https?://[^)]+)\)", re.sub(r"\s+", " ", text))
    cited = [(says, labels[url]) for says, url in links if url in labels]
    assert len(cited) > 80
    for says, (authors, year) in cited:
        assert says in (f"{authors} ({year})", f"{authors}, {year}")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_solutions_are_folded_with_their_code_and_output(path: Path) -> None:
    open_cells, is_solution = [], False
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type != "code":
            is_solution = ":::{solution}" in cell.source
            assert not is_solution or ":class: dropdown" in cell.source.split(":::{solution}")[1]
        elif is_solution and "hide-cell" not in cell.metadata.get("tags", []):
            open_cells.append(number)
    assert open_cells == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"execution_count": None}, "not run from top to bottom"),
        ({"source": "x = 1\n" * 31}, "more than 30"),
        ({"source": "def f():\n" + "    x = 1\n" * 10}, "longer than 10 lines"),
        ({"source": "plot();"}, "semicolon"),
        ({"source": 'path = Path("../studies/results/x.json")'}, "the notebook alone lacks"),
        ({"metadata": {"tags": ["nbval-skip"]}}, "not checked"),
        ({"outputs": [{"output_type": "stream", "name": "stderr", "text": "oh"}]}, "an error"),
        (
            {"outputs": [{"output_type": "stream", "name": "stdout", "text": "UserWarning: x"}]},
            "warning",
        ),
        (
            {"outputs": [{"output_type": "stream", "name": "stdout", "text": "<Figure size 1x1>"}]},
            "figure as text",
        ),
        (
            {"outputs": [{"output_type": "stream", "name": "stdout", "text": HOME}]},
            "machine",
        ),
    ],
)
def test_notebook_faults_are_found(change: dict, says: str) -> None:
    sound = {
        "cell_type": "code",
        "source": "def f():\n" + "    x = 1\n" * 9 + "%timeit f()",
        "execution_count": 1,
        "metadata": {},
        "outputs": [{"output_type": "stream", "name": "stdout", "text": "1.0"}],
    }
    assert notebook_faults([nbformat.from_dict(sound)]) == []
    faults = notebook_faults([nbformat.from_dict(sound | change)])
    assert len(faults) == 1
    assert says in faults[0]
