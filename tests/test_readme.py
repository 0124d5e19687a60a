"""Run the Python of the pages that come first, and check the commands they show.

The Python of a page runs in order, in one namespace, in a folder with a recording and a tiny
detector (see `folder`). Lines of console blocks that call `slslib` or `make`, in the README and in
*First commands*, are checked against the program's own help.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
COMMANDS = ROOT / "book" / "commands.md"
FENCE = re.compile(r"^```(?P<kind>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page and the line on which its content starts."""

    kind: str
    code: str
    line: int


def blocks_of(text: str) -> list[Block]:
    """Return the fenced blocks of a Markdown text."""
    return [
        Block(
            found["kind"],
            found["code"],
            text.count("\n", 0, found.start("code")) + 1,
        )
        for found in FENCE.finditer(text)
    ]


def commands_of(code: str) -> list[str]:
    """Return the commands of a console block: what follows `$ `, with continued lines joined."""
    joined = re.sub(r"\\\n\s*(?:> )?", " ", code)
    return [line[2:].strip() for line in joined.splitlines() if line.startswith("$ ")]


def calls_of(program: str, code: str) -> list[list[str]]:
    """Return the words after `program` in each call of it."""
    calls = []
    for command in commands_of(code):
        words = shlex.split(command, comments=True)
        if program in words:
            calls.append(words[words.index(program) + 1 :])
    return calls


CONSOLE = [
    block
    for page in (README, COMMANDS)
    for block in blocks_of(page.read_text(encoding="utf-8"))
    if block.kind == "console"
]
CALLS = [call for block in CONSOLE for call in calls_of("slslib", block.code)]
TARGETS = sorted(
    {word for block in CONSOLE for call in calls_of("make", block.code) for word in call}
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in a folder with speech.wav and detector.safetensors."""
    import soundfile

    from slslib.model.detector import Detector, DetectorConfig
    from slslib.model.xlsr import XLSRConfig

    rng = np.random.default_rng(0)
    clip = 0.1 * rng.standard_normal(5 * 16_000).astype(np.float32)
    soundfile.write(tmp_path / "speech.wav", clip, 16_000)
    tiny = DetectorConfig(XLSRConfig(width=16, n_layers=2, conv_width=8), 8)
    Detector(tiny, seed=0).save(tmp_path / "detector.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("page", "names"),
    [(COMMANDS, {"result"}), (ROOT / "book" / "api.md", {"score", "gates", "result"})],
    ids=lambda value: getattr(value, "name", ""),
)
def test_python_blocks_run(folder: Path, page: Path, names: set[str]) -> None:
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.kind == "python":
            padded = "\n" * (block.line - 1) + block.code  # a traceback names the page's line
            exec(compile(padded, str(page), "exec"), namespace)
    assert names <= namespace.keys()


def shown_options() -> dict[tuple[str, ...], list[str]]:
    """Return the options that the pages use with each command (and recipe, for `train`)."""
    shown: dict[tuple[str, ...], list[str]] = {}
    for call in CALLS:
        words = [word for word in call[: 2 if call[0] == "train" else 1] if word[0] != "-"]
        options = [word.split("=")[0] for word in call if word.startswith("--")]
        shown.setdefault(tuple(words), []).extend(options)
    return shown


@pytest.mark.parametrize(("command", "options"), shown_options().items(), ids=str)
def test_commands_have_the_options_shown(command: tuple[str, ...], options: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "slslib", *command, "--help"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    for option in set(options) - {"--help", "--version", "--debug"}:
        assert re.search(rf"{option}\b", run.stdout), f"{command} has no {option}"


@pytest.mark.parametrize("word", TARGETS)
def test_make_has_the_targets_and_variables_shown(word: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    name, is_variable, _ = word.partition("=")
    pattern = rf"^{name} \?=" if is_variable else rf"^{name}:"
    assert re.search(pattern, makefile, re.MULTILINE)


def test_blocks_are_found() -> None:
    text = (
        "```console\n$ slslib verify x \\\n    --data d  # why\n1 file\n```\n"
        "text\n\n```python\na = 1\n```\n"
    )
    console, python = blocks_of(text)
    assert console.kind == "console"
    assert calls_of("slslib", console.code) == [["verify", "x", "--data", "d"]]
    assert (python.kind, python.code, python.line) == ("python", "a = 1\n", 9)
