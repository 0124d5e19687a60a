"""The command line: ``slslib COMMAND ...``, built from the signatures of the functions it calls.

Each command is a public function: its parameters are the options, and its docstring is the help.
The function returns what the command shows: a path, or a dictionary.
:mod:`slslib.evaluation.tables` lays the dictionary out as text; ``--json`` prints it as JSON. Its
``errors`` go to standard error. The exit status is 0 only if everything that was asked for was
done; ``slslib --help`` lists the other values. An error is shown as one readable paragraph on
standard error, and ``--debug`` adds the traceback.
"""

import atexit
import gc
import json
import os
import signal
import sys
import textwrap
import warnings
from argparse import ArgumentParser
from collections.abc import Sequence
from functools import partial
from inspect import getdoc
from pkgutil import resolve_name
from typing import Any

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, PositionalRequiredArgs, SuppressFixed

from slslib import __version__
from slslib.errors import ConfigError, SlslibError

COMMANDS = {
    "verify": ("slslib.data.audit:verify", "Audit the recordings of a corpus."),
    "train": ("slslib.runs.train:train", "Train a detector by a recipe."),
    "score": ("slslib.runs.score:score", "Score every trial of a corpus, resumably."),
    "evaluate": ("slslib.evaluation.evaluate:evaluate", "Compute error rates."),
    "reproduce": ("slsnotebooks.reproduction:reproduce", "Recompute published numbers."),
    "report": ("slsnotebooks.report:report", "Build a book from training runs."),
    "detect": ("slsapp.detections:detect", "Score single recordings."),
    "threshold": ("slsapp.threshold:threshold", "Choose a threshold from own recordings."),
    "convert": ("slslib.model.convert:convert", "Rewrite a checkpoint."),
    "publish": ("slsapp.publish:publish", "Publish a detector with a model card."),
    "export": ("slsapp.export:export", "Write a detector as ONNX."),
    "bench": ("slsapp.bench:bench", "Measure speed and memory of this machine."),
    "protocol": ("slslib.data.corpora:protocol", "Write a protocol of a folder tree."),
    "minispoof": ("minispoof.corpus:write", "Write the simulated corpora MiniSpoof."),
}
"""The location of each command's function, and a one-line summary.

:meta hide-value:
"""
_WITHOUT_NAMES = ("verify", "report", "detect", "convert", "publish", "export", "minispoof")
"""Commands whose required options are given by position."""
_EVERYWHERE = "--json prints the result as JSON; --debug shows the traceback of an error."
_USAGE = """usage: slslib COMMAND ... [--json] [--debug]

Audio deepfake detection with XLS-R and SLS.

{}

`slslib COMMAND --help` shows the options and an example.
{}
Example: slslib evaluate --scores scores.txt --key key.txt --bootstrap 1000

Exit status: 0 if everything was done, 1 after an error or if some recordings could not be used,
2 for options that make no sense here, 130 or 143 if interrupted."""


def run(argv: Sequence[str], *, as_json: bool = False) -> int:
    """Run one command and return its exit status; errors are raised."""
    name, *words = argv or ["--help"]
    if name in ("-h", "--help"):
        lines = [f"  {command:9}  {summary}" for command, (_, summary) in COMMANDS.items()]
        print(_USAGE.format("\n".join(lines), _EVERYWHERE))
        return 0 if argv else 2
    if name == "--version":
        print(f"slslib {__version__}")
        return 0
    if name not in COMMANDS:
        raise ConfigError(f"no command {name!r}; the commands are {', '.join(COMMANDS)}")
    function, title = resolve_name(COMMANDS[name][0]), f"slslib {name}"
    # tyro keeps line breaks, and wraps the lines once more.
    function.__doc__ = (getdoc(function) or "").replace("\n        ", " ")
    about = f"{function.__doc__.partition('Args:')[0]}Also: {_EVERYWHERE}"
    if name == "train":
        from slslib.runs.recipes import RECIPES

        recipe, *words = words or [""]
        if recipe in ("-h", "--help"):
            recipe, words = "v1", ["--help"]
        if recipe not in RECIPES:
            fault = f"no recipe {recipe!r}" if recipe else "no recipe is named"
            remedy = "Name one before any option, as in: slslib train v1 --out runs/v1"
            raise ConfigError(f"{fault}; the recipes are {', '.join(RECIPES)}. {remedy}")
        several = ArgumentParser(add_help=False, allow_abbrev=False)  # tyro keeps the last --train
        several.add_argument("--train", action="extend", nargs="+", default=[])
        given, words = several.parse_known_args(words)
        words += ["--train", *given.train] if given.train else []
        function, title = partial(function, config=RECIPES[recipe]()), f"{title} {recipe}"
    markers = [FlagCreatePairsOff, OmitArgPrefixes, SuppressFixed]
    markers += [PositionalRequiredArgs] * (name in _WITHOUT_NAMES)
    return _show(
        name, tyro.cli(function, args=words, prog=title, description=about, config=markers), as_json
    )


def _show(name: str, result: Any, as_json: bool) -> int:
    """Print a command's result, from the first process only, and return the exit status."""
    errors = result.get("errors", []) if isinstance(result, dict) else []
    if os.environ.get("RANK", "0") == "0":  # the first that Accelerate starts
        if not isinstance(result, dict):
            print(json.dumps(str(result)) if as_json else result)
        elif as_json:
            print(json.dumps(result, indent=1))
            for text in result.get("warnings", []):
                _say(f"warning: {text}")
        else:
            from slslib.evaluation import tables

            print(getattr(tables, name, tables.show)(result))
        for text in errors:
            _say(f"slslib: {text}")
    return 1 if errors else 0


def main() -> None:
    """Entry point of ``slslib`` and ``python -m slslib``."""
    argv = [word for word in sys.argv[1:] if word not in ("--debug", "--json")]
    # Exit by an exception, so that the decoding processes are stopped too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
    # Libraries make objects that live to the end. By default, Python looks for garbage among them
    # so often that it takes half a second at the start, and nearly a second at the end.
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)
    try:
        status = run(argv, as_json="--json" in sys.argv)
        print(end="", flush=True)  # standard output may be closed
    except BrokenPipeError:  # `slslib ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except KeyboardInterrupt:
        _say("slslib: interrupted")
        status = 130
    except (SlslibError, ImportError, MemoryError, OSError, RuntimeError, ValueError) as error:
        if "--debug" in sys.argv:
            raise
        text = str(error) if isinstance(error, SlslibError) else f"{error} (--debug)"
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            text = "not enough memory; use a smaller --batch-size"
        _say(f"slslib: {text}")
        status = 2 if isinstance(error, ConfigError) else 1
    sys.exit(status)


def _say(text: str) -> None:
    """Write a paragraph to standard error, escaping characters that could control the terminal."""
    text = "".join(one if one.isprintable() or one.isspace() else ascii(one)[1:-1] for one in text)
    print(textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False), file=sys.stderr)
