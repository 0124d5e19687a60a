"""The command line: ``slslib COMMAND ...``; each command is a thin wrapper round one module.

A command exits with status 0 only when everything it was asked for was done. Errors are one
readable paragraph on standard error; ``--debug`` adds the traceback.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional

from slslib import __version__
from slslib.errors import ConfigError, SlslibError

_DATA = Path(os.environ.get("SLSLIB_DATA", "."))
_STYLE = (FlagCreatePairsOff, OmitArgPrefixes)
_Json = Annotated[bool, tyro.conf.arg(name="json")]


def _options(module: str, name: str) -> Any:
    """Make options of the fields of a dataclass, whose module (and torch) loads only if asked."""
    load = partial(import_module, f"slslib.{module}")
    return tyro.conf.arg(constructor_factory=lambda: getattr(load(), name))


def verify(
    corpus: Positional[str],
    *,
    data: Path = _DATA,
    jobs: int | None = None,
    json_: _Json = False,
    out: Path | None = None,
) -> int:
    """Decode every file of a corpus and report what is missing, damaged or odd.

    Example: slslib verify asvspoof2019-la:train --data ~/corpora

    Args:
        corpus: asvspoof2019-la[:train|dev|eval], asvspoof2021-la, asvspoof2021-df, in-the-wild, or
            a folder of audio, with or without protocols/.
        data: Folder that holds the corpora; default SLSLIB_DATA.
        jobs: Processes; default all cores.
        json_: Print the report as JSON.
        out: Write the report as JSON to this file too.
    """
    from slslib.data.audit import verify as verify_files

    report = verify_files(corpus, data=data, jobs=jobs, out=out)
    print(json.dumps(report, indent=None if json_ else 1))
    return 1 if report["errors"] else 0


@dataclass(frozen=True)
class _Train:
    """How a training run is carried out, whatever its recipe."""

    config: Annotated[Any, _options("runs.recipes", "TrainConfig")]
    out: Path
    """Folder of the run."""
    data: Path = _DATA
    """Folder that holds the corpora; default SLSLIB_DATA."""
    resume: bool = False
    """Go on where the run in --out stopped."""
    workers: int = 0
    """Processes that decode and augment."""
    save_steps: int = 1000
    """Optimizer steps between saves within an epoch."""
    keep: Literal["best", "all"] = "best"
    """Epoch checkpoints to keep."""
    cpu: bool = False
    """Train on the CPU even where there is a GPU."""
    tensorboard: bool = False
    """Write TensorBoard event files beside log.csv."""
    max_steps: int | None = None
    """Stop, resumable, after this many steps."""


def train(argv: Sequence[str]) -> int:
    """Train a detector by a recipe."""
    from slslib.runs import processes, recipes
    from slslib.runs.train import train as run

    names = " | ".join(recipes.RECIPES)
    if not argv or argv[0] not in recipes.RECIPES:
        if argv and argv[0] not in ("-h", "--help"):
            raise ConfigError(f"no recipe {argv[0]!r}; the recipes are {names}")
        print(
            f"usage: slslib train RECIPE --data ROOT --out RUN [--resume] [...]\n\n"
            f"Train a detector. RECIPE: {names}.\n{_listing(recipes.RECIPES)}\n\n"
            "Every value of a recipe is an option: `slslib train v1 --help` lists them.\n"
            "Example: slslib train v1 --data ~/corpora --out runs/v1"
        )
        return 0 if argv else 2
    name, *rest = argv
    recipe = recipes.RECIPES[name]
    how = tyro.cli(
        partial(_Train, config=recipe()), args=rest, prog=f"slslib train {name}",
        description=f"{_first(recipe)}\n\n"
        f"Example: slslib train {name} --data ~/corpora --out runs/{name}",
        config=_STYLE,
    )  # fmt: skip
    best = run(**vars(how))
    if processes.is_main():
        print(best)
    return 0


def score(
    *,
    checkpoint: str,
    corpus: str,
    out: Path,
    config: Annotated[Any, _options("runs.score", "ScoreConfig")],
    data: Path = _DATA,
    workers: int = 0,
    cpu: bool = False,
) -> int:
    """Score every trial of a corpus into a score file; a killed run goes on where it was.

    Example: slslib score --checkpoint runs/v1 --corpus asvspoof2021-df --data ~/corpora
    --out scores.txt

    Args:
        checkpoint: safetensors or .pth file, run folder, hub:owner/name[/file][@revision], or mini.
        corpus: asvspoof2019-la:eval, asvspoof2021-la, asvspoof2021-df, in-the-wild, or a folder.
        out: Score file to write; beside it <out>.json says how it was made.
        config: Settings that determine the bytes of the score file.
        data: Folder that holds the corpora; default SLSLIB_DATA.
        workers: Processes that decode.
        cpu: Use the CPU even where there is a GPU.
    """
    from slslib.runs import processes
    from slslib.runs.score import score as run

    made = run(checkpoint, corpus, out, data=data, config=config, workers=workers, cpu=cpu)
    if not processes.is_main():
        return 0
    decoders = ", ".join(f"{n} by {name}" for name, n in made["decoders"].items())
    print(
        f"{out}: {made['n_scores']} of {made['n_trials']} trials scored "
        f"({decoders}; {made['n_over_range']} over-range, {made['n_converted']} converted)"
    )
    for error in made.get("errors", ()):
        _say(f"slslib: {error}")
    return 1 if made["n_failures"] else 0


def evaluate(
    *,
    scores: tuple[Path, ...],
    key: Path,
    format: Literal["auto", "two", "four"] = "auto",
    phase: str | None = None,
    asv_scores: Path | None = None,
    asv_key: Path | None = None,
    c012: str | None = None,
    bootstrap: int = 0,
    cluster: str = "",
    by: str = "",
    against: Path | None = None,
    dev_scores: tuple[Path, ...] = (),
    dev_key: Path | None = None,
    calibrate: bool = False,
    allow_missing: bool = False,
    seed: int = 0,
    json_: _Json = False,
) -> int:
    """Compute EER and friends from a score file and a key.

    Example: slslib evaluate --scores scores.txt --key keys/DF/CM/trial_metadata.txt --phase eval
    --bootstrap 1000

    Args:
        scores: Lines `utterance score`, or `utterance attack key score`. Several files are fused.
        key: The official 2019, 2021 or In-the-Wild key.
        format: Columns of the score file; auto tells by looking.
        phase: progress, eval, hidden or all; default eval, or the only phase of the key.
        asv_scores: ASV scores, for min t-DCF; with the 2021 form --asv-key too.
        asv_key: Key of the ASV trials.
        c012: C0,C1,C2 of the t-DCF, or a CSV file of them, instead of ASV scores.
        bootstrap: Replicates of the EER's sensitivity interval; 0 for none.
        cluster: speaker, attack or speaker,attack to resample these instead of trials.
        by: Breakdowns: any of attack,codec,transmission,source,vocoder,speaker, or a cross table
            as in attack:codec.
        against: Score file of another system, to compare with on the same trials.
        dev_scores: Score file of a development set, to choose thresholds and calibration on; as
            many as --scores.
        dev_key: Its key.
        calibrate: Turn the scores into log-likelihood ratios: Cllr before and after.
        allow_missing: Evaluate although trials of the key have no score; coverage is printed.
        seed: Seed of the bootstrap and of cross-validation.
        json_: Print one JSON object.
    """
    from slslib.evaluation.evaluate import evaluate as run

    result = run(
        scores, key, phase=phase, format=format, asv_scores=asv_scores, asv_key=asv_key,
        c012=c012, bootstrap=bootstrap, cluster=(cluster,), by=(by,),
        against=against, dev_scores=dev_scores, dev_key=dev_key, calibrate=calibrate,
        allow_missing=allow_missing, seed=seed,
    )  # fmt: skip
    if json_:
        for warning in result["warnings"]:
            _say(f"warning: {warning}")
    _print(result, partial(json.dumps, indent=1), json_)
    return 0


def reproduce(
    *,
    data: Path = _DATA,
    out: Path | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    offline: bool = False,
    json_: _Json = False,
) -> int:
    """Recompute published results from published score files.

    Files that are not below --data are downloaded from pinned commits and checked. Rows that need
    files nobody can download name them, and the command that measures the row.

    Example: slslib reproduce --data ~/corpora --out reproduction.json

    Args:
        data: Folder that may hold score files, keys and own measurements; default SLSLIB_DATA.
        out: Write the result as JSON to this file too.
        bootstrap: Replicates of the sensitivity intervals.
        seed: Seed of the bootstrap.
        offline: Make no connection.
        json_: Print one JSON object.
    """
    from slslib.evaluation.reproduce import notes, render, succeeded
    from slslib.evaluation.reproduce import reproduce as run

    result = run(data, bootstrap=bootstrap, seed=seed, offline=offline)
    if out:
        _write(out, json.dumps(result, indent=1) + "\n")
    _print(result, render, json_)
    if not json_:
        print(f"\n{notes(result)}")
    return 0 if succeeded(result) else 1


def report(
    items: Positional[tuple[Path, ...]],
    *,
    out: Path = Path("report.html"),
    key: Path | None = None,
    phase: str | None = None,
    asv_scores: Path | None = None,
    asv_key: Path | None = None,
    c012: str | None = None,
    bootstrap: int = 1000,
    cluster: str = "",
    by: str = "",
    seed: int = 0,
) -> int:
    """Write one page about score files and training runs: tables, figures, provenance.

    Example: slslib report scores.txt runs/v1 --key key.txt --by attack --out report.html

    Args:
        items: Score files of the same trials, and folders of training runs.
        out: Page to write: .html, which needs no other file, or .md.
        key: Key of the score files.
        phase: As for `slslib evaluate`, like all that follow.
        asv_scores: ASV scores, for min t-DCF.
        asv_key: Key of the ASV trials.
        c012: C0,C1,C2 of the t-DCF, or a CSV file of them, instead of ASV scores.
        bootstrap: Replicates of the intervals; 0 for none.
        cluster: Resample these instead of trials.
        by: Breakdowns.
        seed: Seed of the bootstrap.
    """
    from slslib.evaluation.report import report as run
    from slslib.evaluation.report import to_html

    if out.suffix not in (".html", ".md"):
        raise ConfigError(f"--out {out}: the page is .html or .md.")
    text = run(
        items, key=key, phase=phase, bootstrap=bootstrap, cluster=_names(cluster), by=_names(by),
        seed=seed, asv_scores=asv_scores, asv_key=asv_key, c012=_three(c012),
    )  # fmt: skip
    _write(out, to_html(text) if out.suffix == ".html" else text)
    print(out)
    return 0


def detect(
    files: Positional[tuple[Path, ...]],
    *,
    checkpoint: str = "hub:sukhdeveyash/XLS-R-SLS-Deepfake-Detection/v1/epoch_2.pth",
    threshold: float | None = None,
    allow_silence: bool = False,
    json_: _Json = False,
    plot: Path | None = None,
    cpu: bool = False,
) -> int:
    """Score single recordings of any length, window by window, and give a verdict.

    The score is the log-likelihood ratio of bona fide against spoof, averaged over windows of the
    detector's length. Files are decoded in a process of their own with limits.

    Example: slslib detect call.wav --checkpoint runs/v1 --plot call.png

    Args:
        files: Recordings, or folders of them.
        checkpoint: safetensors or .pth file, run folder, hub:owner/name[/file][@revision], or mini.
        threshold: Scores above it are called bona fide; default the checkpoint's own
            development threshold, else 0.
        allow_silence: Score silent and very short recordings too.
        json_: Print one JSON object.
        plot: Draw the score of each window over time into this file.
        cpu: Use the CPU even where there is a GPU.
    """
    from slslib.runs.detect import detect as run

    result = run(
        files, checkpoint=checkpoint, threshold=threshold, allow_silence=allow_silence, plot=plot,
        cpu=cpu,
    )  # fmt: skip
    print(json.dumps(result, indent=1))
    for error in result["errors"]:
        _say(f"slslib: {error}")
    return 1 if result["errors"] else 0


def convert(
    checkpoint: Positional[str],
    out: Positional[Path],
    *,
    n_heads: int | None = None,
    data_parallel: bool = False,
) -> int:
    """Rewrite a checkpoint: safetensors, the authors' .pth, or a transformers folder.

    safetensors is a format that cannot hold code: keep that.

    Example: slslib convert epoch_2.pth epoch_2.safetensors

    Args:
        checkpoint: safetensors, .pth, fairseq .pt, transformers or run folder, mini, or
            hub:owner/name[/file][@revision].
        out: OUT.safetensors, OUT.pth, or a new folder for transformers.
        n_heads: Attention heads, which a .pth does not tell; default width / 64.
        data_parallel: Put module. before each name of a .pth, as nn.DataParallel needs.
    """
    from slslib.model.convert import convert as run

    for note in run(checkpoint, out, n_heads=n_heads, data_parallel=data_parallel)["warnings"]:
        _say(f"slslib: {note}")
    print(out)
    return 0


def bench(
    *,
    checkpoint: str = "mini",
    batch_size: tuple[int, ...] = (1, 8),
    precision: tuple[Literal["no", "bf16"], ...] = ("no",),
    attention: Literal["eager", "sdpa"] = "eager",
    repeats: int = 5,
    scoring_only: bool = False,
    cpu: bool = False,
    json_: _Json = False,
) -> int:
    """Measure how fast this machine scores and trains, and in what memory.

    Clips of noise; the median of repeats. Hours for whole corpora are estimated from it.

    Example: slslib bench --checkpoint random --batch-size 8 32 --precision no bf16

    Args:
        checkpoint: safetensors or .pth file, run folder, hub:owner/name[/file][@revision], mini,
            or random for XLS-R 300M's dimensions with random weights.
        batch_size: Clips per forward pass in scoring, each measured; training has its recipe's.
        precision: no, or bf16 for mixed precision; each is measured.
        attention: eager (exact) or sdpa (faster).
        repeats: Repeats whose median is taken, after one to warm up.
        scoring_only: Leave out training, which needs several times the memory.
        cpu: Use the CPU even where there is a GPU.
        json_: Print one JSON object.
    """
    from slslib.runs.bench import bench as run

    result = run(
        checkpoint=checkpoint, batch_size=batch_size, precision=precision, attention=attention,
        repeats=repeats, scoring_only=scoring_only, cpu=cpu,
    )  # fmt: skip
    print(json.dumps(result, indent=1))
    for error in result["errors"]:
        _say(f"slslib: {error}")
    return 1 if result["errors"] else 0


def minispoof(
    directory: Positional[Path], *, seed: int = 1234, scale: float = 1.0, jobs: int | None = None
) -> int:
    """Write the embedded simulated corpora, in the official layouts.

    It exists to run everything anywhere; its numbers say nothing about real deepfakes.

    Example: slslib minispoof data/minispoof

    Args:
        directory: Folder to write; re-used if it is complete, repaired if it is damaged.
        seed: Seed of the simulation.
        scale: Factor on the number of clips.
        jobs: Processes, by default as many as there are cores.
    """
    from minispoof.corpus import write

    print(write(directory, seed=seed, scale=scale, jobs=jobs))
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    command.__name__: command
    for command in (
        verify, train, score, evaluate, reproduce, report, detect, convert, bench, minispoof,
    )
}  # fmt: skip


def run(argv: Sequence[str]) -> int:
    """Run one command and return its exit status; errors are raised."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"slslib {__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        raise ConfigError(f"no command {name!r}; the commands are {', '.join(COMMANDS)}")
    if name == "train":
        return train(rest)
    return tyro.cli(COMMANDS[name], args=rest, prog=f"slslib {name}", config=_STYLE)


def main() -> None:
    """Entry point of ``slslib`` and ``python -m slslib``."""
    argv = [a for a in sys.argv[1:] if a != "--debug"]
    debug = len(argv) < len(sys.argv) - 1
    try:
        status = run(argv)
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
        "usage: slslib COMMAND ... [--debug]\n\nAudio deepfake detection with XLS-R and SLS.\n\n"
        f"{_listing(COMMANDS)}\n\n`slslib COMMAND --help` shows the options and an example.\n"
        "Example: slslib evaluate --scores scores.txt --key key.txt --bootstrap 1000"
    )


def _listing(functions: Mapping[str, Callable[..., Any]]) -> str:
    width = max(map(len, functions))
    return "\n".join(f"  {name:{width}}  {_first(f)}" for name, f in functions.items())


def _first(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().splitlines()[0]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _three(text: str | None) -> tuple[float, float, float] | Path | None:
    if text is None or "," not in text:
        return Path(text) if text else None
    try:
        a, b, c = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--c012 {text!r} is not three numbers C0,C1,C2") from error
    return a, b, c


def _say(text: str) -> None:
    """Write a paragraph to standard error."""
    text = textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)
    print(text, file=sys.stderr)


def _print(result: dict[str, Any], render: Callable[..., Any], as_json: bool) -> None:
    """Print a result as one JSON object or as a table."""
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        _show(render(result))


def _show(renderable: Any) -> None:
    from rich.console import Console

    # Not a terminal: wide enough that no table is cut.
    Console(width=None if sys.stdout.isatty() else 120).print(renderable)


def _write(path: Path, text: str) -> None:
    from slslib.files import write_text

    write_text(path, text)
