"""The command line: ``slslib COMMAND ...``, made of the signatures of the functions it calls.

A command is a public function. Its parameters are the options, its docstring is the help, and it
returns what is shown: a path, or a dictionary that :mod:`slslib.evaluation.tables` lays out and
``--json`` prints. The ``errors`` of a dictionary go to standard error; a command exits with status
0 only when everything it was asked for was done. An error is one readable paragraph on standard
error; ``--debug`` adds the traceback.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any, NamedTuple, get_type_hints

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes

from slslib import __version__
from slslib.errors import ConfigError, SlslibError


class Command(NamedTuple):
    """A command: where its function is, one line about it, and its options without a name."""

    function: str
    summary: str
    positional: tuple[str, ...] = ()


COMMANDS = {
    "verify": Command("slslib.data.audit:verify", "Audit the recordings of a corpus.", ("corpus",)),
    "train": Command("slslib.runs.train:train", "Train a detector by a recipe."),
    "score": Command("slslib.runs.score:score", "Score every trial of a corpus, resumably."),
    "evaluate": Command("slslib.evaluation.evaluate:evaluate", "Compute EER and friends."),
    "report": Command(
        "slslib.evaluation.report:report", "Write a page about score files and runs.", ("items",)
    ),
    "detect": Command("slslib.runs.detect:detect", "Score single recordings.", ("files",)),
    "convert": Command(
        "slslib.model.convert:convert", "Rewrite a checkpoint.", ("checkpoint", "out")
    ),
    "bench": Command("slslib.runs.bench:bench", "Measure speed and memory of this machine."),
    "minispoof": Command(
        "minispoof.corpus:write", "Write the simulated corpora MiniSpoof.", ("directory",)
    ),
}
_EVERYWHERE = "Also: --json prints the result as JSON; --debug shows the traceback of an error."


def run(argv: Sequence[str], *, as_json: bool = False) -> int:
    """Run one command and return its exit status; errors are raised."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"slslib {__version__}")
        return 0
    name, *words = argv
    if name not in COMMANDS:
        raise ConfigError(f"no command {name!r}; the commands are {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    module, _, attribute = command.function.partition(":")
    function = getattr(import_module(module), attribute)
    defaults: dict[str, Any] = {}
    title = f"slslib {name}"
    if name == "train":
        from slslib.runs.recipes import RECIPES

        if not words or words[0] not in RECIPES:
            return _choose_recipe(RECIPES, words)
        recipe, *words = words
        defaults, title = {"config": RECIPES[recipe]()}, f"{title} {recipe}"
    result = tyro.cli(
        _with_options(function, command.positional, defaults),
        args=words,
        prog=title,
        description=f"{_description(function)}\n\n{_EVERYWHERE}",
        config=(FlagCreatePairsOff, OmitArgPrefixes),
    )
    return _show(name, result, as_json)


def _with_options(
    function: Callable[..., Any], positional: Sequence[str], defaults: Mapping[str, Any]
) -> Callable[..., Any]:
    """Return the function with its positional options marked and other defaults."""
    hints = get_type_hints(function, include_extras=True)
    hints |= {name: Annotated[hints[name], tyro.conf.Positional] for name in positional}

    @functools.wraps(function)
    def called(**options: Any) -> Any:
        return function(**options)

    del called.__wrapped__
    called.__annotations__ = hints
    called.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            one.replace(
                annotation=hints[name],
                default=defaults.get(name, one.default),
                kind=inspect.Parameter.KEYWORD_ONLY,
            )
            for name, one in inspect.signature(function).parameters.items()
        ]
    )
    return called


def _description(function: Callable[..., Any]) -> str:
    """Return a docstring up to its sections: what the command does, and an example."""
    text = inspect.getdoc(function) or ""
    for section in ("Args:", "Returns:", "Raises:"):
        text = text.partition(f"\n\n{section}\n")[0]
    return text


def _choose_recipe(recipes: Mapping[str, Callable[..., Any]], words: Sequence[str]) -> int:
    """Say which recipes there are, or that there is none of this name."""
    names = " | ".join(recipes)
    if words and words[0] not in ("-h", "--help"):
        raise ConfigError(f"no recipe {words[0]!r}; the recipes are {names}")
    firsts = {name: (recipe.__doc__ or "").splitlines()[0] for name, recipe in recipes.items()}
    print(
        f"usage: slslib train RECIPE --data ROOT --out RUN [--resume] [...]\n\n"
        f"Train a detector. RECIPE: {names}.\n{_listing(firsts)}\n\n"
        "Every value of a recipe is an option: `slslib train v1 --help` lists them.\n"
        "Example: slslib train v1 --data ~/corpora --out runs/v1"
    )
    return 0 if words else 2


def _show(name: str, result: Any, as_json: bool) -> int:
    """Print a command's result, once for all processes, and return the exit status."""
    errors = result.get("errors", []) if isinstance(result, dict) else []
    if os.environ.get("RANK", "0") == "0":  # of the processes that Accelerate starts
        if not isinstance(result, dict):
            print(json.dumps(str(result)) if as_json else result)
        elif as_json:
            print(json.dumps(result, indent=1))
            for text in result.get("warnings", []):
                _say(f"warning: {text}")
        else:
            from slslib.evaluation import tables

            print(getattr(tables, name)(result))
        for text in errors:
            _say(f"slslib: {text}")
    return 1 if errors else 0


def main() -> None:
    """Entry point of ``slslib`` and ``python -m slslib``."""
    argv = [word for word in sys.argv[1:] if word not in ("--debug", "--json")]
    debug, as_json = "--debug" in sys.argv, "--json" in sys.argv
    try:
        status = run(argv, as_json=as_json)
        sys.stdout.flush()
    except BrokenPipeError:  # `slslib ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except KeyboardInterrupt:
        _say("slslib: interrupted")
        status = 130
    except (SlslibError, MemoryError, OSError, RuntimeError, ValueError) as error:
        if debug:
            raise
        text = str(error) if isinstance(error, SlslibError) else f"{error} (--debug)"
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            text = "not enough memory; use a smaller --batch-size"
        _say(f"slslib: {text}")
        status = 1
    sys.exit(status)


def _usage() -> str:
    return (
        "usage: slslib COMMAND ... [--json] [--debug]\n\n"
        "Audio deepfake detection with XLS-R and SLS.\n\n"
        f"{_listing({name: command.summary for name, command in COMMANDS.items()})}\n\n"
        "`slslib COMMAND --help` shows the options and an example.\n"
        "Example: slslib evaluate --scores scores.txt --key key.txt --bootstrap 1000"
    )


def _listing(lines: Mapping[str, str]) -> str:
    width = max(map(len, lines))
    return "\n".join(f"  {name:{width}}  {text}" for name, text in lines.items())


def _say(text: str) -> None:
    """Write a paragraph to standard error."""
    text = textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)
    print(text, file=sys.stderr)
