"""Measure scoring, training and the score command beside the original code.

    python studies/speed.py scoring|training|command --original FOLDER [--pairs 5]

FOLDER is a checkout of github.com/QiShanZhang/SLSforASVspoof-2021-DF, which runs as it is. Use the
environment of `make test-fairseq`, with librosa for `command`. All have the same random weights, of
XLS-R 300M's full size, and must give the original's scores. The authors' model begins by reading a
file of fairseq's; here fairseq builds that backbone, and no file of 3.8 GB is read.

Processes of their own hold what is compared, warmed up, and take turns pair by pair. A ratio is
that of a pair: how many times what ours needs the reference needs. Numbers are medians of the
pairs, with the least and the most. Memory is the most that a process held resident, without its
loading; for `command` with it, of the largest process. The clips are noise.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import re
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
import soundfile
import torch
import tyro
from provenance import ROOT, provenance, write
from tyro.conf import Positional

from slslib.model.detector import Detector
from slslib.model.foreign import authors_name
from slslib.model.geometry import XLSRConfig
from slslib.model.xlsr import hugging_face
from slslib.runs import fit, processes
from slslib.runs.clips import Clip
from slslib.runs.recipes import TrainConfig
from slslib.runs.score import ScoreConfig, score_batch

# Options of ScoreConfig, TrainConfig and the command line, by the name of the setting.
SETTINGS: dict[str, dict[str, Any]] = {
    "exact": {"precision": "exact"},
    "bf16": {"precision": "bf16"},
}
RECOMPUTED = "exact, --checkpointing"  # of training only
EXACT = ("exact", RECOMPUTED)  # settings that must give the original's numbers
TOLERANCE = 5e-5  # of a score, in natural logarithms, or of a loss
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


class Pass(NamedTuple):
    """What one call took, and the scores or the loss that it gave."""

    seconds: float
    cpu_seconds: float
    peak_gb: float
    numbers: list[float]


# Each of these is called in a process of its own, and returns the call to measure.


def our_scoring(weights: Path, n_clips: int, options: dict[str, Any]) -> Any:
    """Score a batch as the score command does."""
    config, detector, clips = ScoreConfig(**options), Detector.load(weights), clips_of(n_clips)
    if config.precision == "bf16":
        detector.backbone.to_bf16()
    return lambda: score_batch(detector, clips, config).tolist()


def our_training(weights: Path, n_clips: int, options: dict[str, Any]) -> Any:
    """Take a step as the train command does, on the same clips again."""
    config = TrainConfig(init=str(weights), **options)
    accelerator = processes.start(config.precision, cpu=True)
    detector, clips = fit.build_detector(config, weights).train(), clips_of(n_clips)
    model, optimizer = accelerator.prepare(detector, fit.build_optimizer(detector, config))
    return lambda: [fit.train_step(model, optimizer, clips, config, accelerator)]


def original_scoring(weights: Path, n_clips: int, original: Path, gradients: bool) -> Any:
    """Score a batch by the authors' model, which their main.py does with gradients on."""
    model, waveforms = original_model(original, weights)[1].eval(), noise(n_clips)

    def call() -> list[float]:
        with torch.set_grad_enabled(gradients):
            log_probs = model(waveforms).detach().double()
        return (log_probs[:, 1] - log_probs[:, 0]).tolist()

    return call


def original_training(weights: Path, n_clips: int, original: Path) -> Any:
    """Train an epoch of one batch by the authors' function."""
    main, model = original_model(original, weights)
    main.optimizer = torch.optim.Adam(model.parameters(), lr=1e-6, weight_decay=1e-4)
    epoch = [(noise(n_clips), torch.arange(n_clips) % 2)]
    return lambda: [main.train_epoch(epoch, model, 1e-6, main.optimizer, "cpu")]


def pipeline_scoring(n_clips: int) -> Any:
    """Classify a batch by transformers' pipeline, as a user would who knows of SDPA."""
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification, pipeline

    model = Wav2Vec2ForSequenceClassification(hugging_face(XLSRConfig())).eval()
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    options = {"feature_extractor": extractor, "batch_size": n_clips, "device": "cpu"}
    classify, waveforms = pipeline("audio-classification", model, **options), noise(n_clips)
    return lambda: [one[0]["score"] for one in classify([*waveforms.numpy()])]


def noise(n_clips: int) -> torch.Tensor:
    """Return the clips that all compute on."""
    return 0.1 * torch.randn(n_clips, 64_600, generator=torch.Generator().manual_seed(1))


def clips_of(n_clips: int) -> list[Clip]:
    """Return the same clips in the form of the dataset."""
    return [Clip(str(i), i % 2, waveform) for i, waveform in enumerate(noise(n_clips).numpy())]


def import_original(original: Path) -> Any:
    """Import the authors' main.py, whose model gets a backbone that fairseq has built already."""
    sys.path += [str(original), str(ROOT / "tests")]
    import fairseq
    from fairseq_backbone import FairseqXLSR

    logging.disable(logging.DEBUG)  # a part of fairseq turns it on, also for what librosa imports
    backbone = FairseqXLSR(XLSRConfig()).model
    fairseq.checkpoint_utils.load_model_ensemble_and_task = lambda _: ([backbone], None, None)
    for name, unused in (("tensorboardX", "SummaryWriter"), ("torchvision", "transforms")):
        sys.modules[name] = ModuleType(name)  # main.py imports it, and what runs here has no use
        sys.modules[name].__spec__ = ModuleSpec(name, None)
        setattr(sys.modules[name], unused, None)
    import main

    return main


def original_model(original: Path, weights: Path) -> tuple[Any, Any]:
    """Return the authors' main.py as a module, and their model as it builds it."""
    main = import_original(original)
    model = torch.nn.DataParallel(main.Model(None, "cpu"))
    model.load_state_dict(torch.load(weights))
    return main, model


def run_original(original: str, corpus: str, weights: str, out: str, gradients: bool) -> None:
    """Run the authors' main.py in its evaluation mode; it exits."""
    import_original(Path(original))
    torch.set_grad_enabled(gradients)
    options = {"database_path": f"{corpus}/", "protocols_path": f"{corpus}/trials.txt"}
    options |= {"model_path": weights, "eval_output": out}
    sys.argv = ["main.py", "--eval", *(f"--{name}={value}" for name, value in options.items())]
    runpy.run_path(str(Path(original) / "main.py"), run_name="__main__")


@contextmanager
def worker(build: Callable[..., Any], *arguments: Any) -> Iterator[Callable[[], Pass]]:
    """Give a function that makes the measured call in a process of its own, warmed up."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=serve, args=(other, build, arguments), daemon=True)
    process.start()
    other.close()  # so that a process that dies is an EOFError here

    def call() -> Pass:
        pipe.send(True)
        return pipe.recv()

    try:
        call()
        yield call
    finally:
        pipe.send(False)
        process.join()


def serve(pipe: Any, build: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Measure a call as often as is asked for, until nobody is there to ask."""
    call = build(*arguments)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    while pipe.recv():
        start, cpu = time.perf_counter(), time.process_time()
        numbers = call()
        took = time.perf_counter() - start, time.process_time() - cpu
        pipe.send(Pass(*took, kilobytes("/proc/self/status", "VmHWM") * 1024 / 1e9, numbers))


def compare(
    name: str, reference: Callable[[], Pass], ours: Callable[[], Pass], pairs: int, same: bool
) -> dict[str, Any]:
    """Measure pairs; check the numbers of settings that are exact, where they mean the same."""
    made: list[tuple[Pass, Pass]] = []
    for i in range(pairs):  # who goes first takes turns too
        made.append((reference(), ours()) if i % 2 else (ours(), reference())[::-1])
    row: dict[str, Any] = {}
    for what in ("seconds", "cpu_seconds", "peak_gb"):
        values = [(getattr(a, what), getattr(b, what)) for a, b in made]
        row[what] = spread([b for _, b in values])
        row[f"reference_{what}"] = spread([a for a, _ in values])
        row[f"times_{what}"] = spread([a / b for a, b in values])
    if same:
        difference = max(float(np.abs(np.subtract(a.numbers, b.numbers)).max()) for a, b in made)
        row["max_difference"] = difference
        if name in EXACT and not difference <= TOLERANCE:
            raise SystemExit(f"{name}: a number differs from the original's by {difference}")
    print(name, row, flush=True)
    return row


def spread(values: list[float]) -> dict[str, Any]:
    """Return the median, the least and the most."""
    low, middle, high = (round(f(values), 3) for f in (min, statistics.median, max))
    return {"median": middle, "range": [low, high]}


def kilobytes(file: str, name: str) -> int:
    """Return a number of a file of /proc."""
    return int(re.findall(rf"{name}:\s+(\d+)", Path(file).read_text())[0])


def scoring(original: Path, weights: Path, n_clips: int, pairs: int) -> dict[str, Any]:
    """Compare with the original, gradients off; and two batches in one with transformers."""
    rows: dict[str, dict[str, Any]] = {"original": {}, "transformers": {}}
    with worker(original_scoring, weights, n_clips, original, False) as reference:
        for name, options in SETTINGS.items():
            with worker(our_scoring, weights, n_clips, options) as ours:
                rows["original"][name] = compare(name, reference, ours, pairs, True)
        name = "original, gradients on"
        with worker(original_scoring, weights, n_clips, original, True) as ours:
            rows["original"][name] = compare(name, reference, ours, pairs, True)
    with worker(pipeline_scoring, 2 * n_clips) as reference:
        for name, options in SETTINGS.items():
            with worker(our_scoring, weights, 2 * n_clips, options) as ours:
                rows["transformers"][name] = compare(name, reference, ours, pairs, False)
    return rows


def training(original: Path, weights: Path, n_clips: int, pairs: int) -> dict[str, Any]:
    """Compare training steps; the original begins again with each setting, as its weights move."""
    rows = {}
    for name, options in (SETTINGS | {RECOMPUTED: {"checkpointing": True}}).items():
        with (
            worker(original_training, weights, n_clips, original) as reference,
            worker(our_training, weights, n_clips, options) as ours,
        ):
            rows[name] = compare(name, reference, ours, pairs, True)
    return {"original": rows}


def command(original: Path, weights: Path, n_clips: int, pairs: int) -> dict[str, Any]:
    """Compare whole processes that score FLAC files of 2 to 6 s; the original's batch is 8."""
    if (free := kilobytes("/proc/meminfo", "MemAvailable") / 1e6) < 18:
        raise SystemExit(f"{free:.1f} GB are free; the original takes 16 GB")
    corpus, out = weights.parent / "corpus", weights.parent / "scores.txt"
    (corpus / "flac").mkdir(parents=True)
    names, rng = [f"clip{i:03d}" for i in range(n_clips)], np.random.default_rng(1)
    (corpus / "trials.txt").write_text("".join(f"{name}\n" for name in names))
    for name in names:
        samples = 0.1 * rng.standard_normal(rng.integers(32_000, 96_000))
        soundfile.write(corpus / "flac" / f"{name}.flac", samples, 16_000)
    paths = {"checkpoint": weights, "corpus": corpus, "out": out}
    given = [f"--{option}={path}" for option, path in paths.items()]
    given += ["--score=logp", "--cpu", "--no-progress"]
    arguments = ", ".join(repr(str(path)) for path in (original, corpus, weights, out))
    program = f"import speed; speed.run_original({arguments}, gradients=%s)"
    reference = partial(run, out, "-c", program % True)
    rows = {}
    for name, options in SETTINGS.items():
        flags = [f"--{option.replace('_', '-')}={value}" for option, value in options.items()]
        ours = partial(run, out, "-m", "slslib", "score", *given, *flags)
        rows[name] = compare(name, reference, ours, pairs, True)
    name, ours = "original, gradients off", partial(run, out, "-c", program % False)
    return {"original": rows | {name: compare(name, reference, ours, pairs, True)}}


def run(out: Path, *arguments: str) -> Pass:
    """Run Python; return what it took, its children's time included, and the scores it wrote."""
    out.unlink(missing_ok=True)
    search = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'studies'}"}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=out.parent, env=os.environ | search, stdout=sys.stderr
    )
    _, status, used = os.wait4(process.pid, 0)
    took = time.perf_counter() - start, used.ru_utime + used.ru_stime
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit status {process.returncode}")
    scores = [float(line.split()[1]) for line in out.read_text().splitlines()]
    return Pass(*took, used.ru_maxrss * 1024 / 1e9, scores)


KINDS = {"scoring": (scoring, 4), "training": (training, 5), "command": (command, 32)}


def main(
    kind: Positional[Literal["scoring", "training", "command"]],
    original: Path,
    clips: int | None = None,
    pairs: int = 5,
    threads: int = 2,
    out: Path | None = None,
) -> None:
    """Measure and write the JSON file.

    Args:
        kind: What to measure.
        original: Checkout of the authors' repository.
        clips: Clips of a batch, or files (by default 4, 5 and 32).
        pairs: Measurements of each row.
        threads: Threads of each process.
        out: File to write (by default studies/results/speed-KIND.json).
    """
    os.environ |= {"OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    where = provenance("torch", "transformers", "fairseq-fixed", "numpy")
    measure, usual = KINDS[kind]
    words = Path("/proc/cpuinfo").read_text().split()
    code = b"".join((original / name).read_bytes() for name in ("main.py", "model.py"))
    conditions: dict[str, Any] = {
        "clips": clips or usual,
        "pairs": pairs,
        "threads": threads,
        "cpu_flags": [flag for flag in FLAGS if flag in words],
        "memory_gb": round(kilobytes("/proc/meminfo", "MemTotal") * 1024 / 1e9, 1),
        "original_sha256": hashlib.sha256(code).hexdigest(),
        "load_before": os.getloadavg(),
    }
    with tempfile.TemporaryDirectory() as folder:
        state, weights = Detector(seed=0).state_dict(), Path(folder) / "weights.pth"
        torch.save({f"module.{authors_name(n)}": t for n, t in state.items()}, weights)
        del state
        beside = measure(original.resolve(), weights, clips or usual, pairs)
    conditions["load_after"] = os.getloadavg()
    what = f"{kind} beside the original code: times what ours takes, time and memory"
    path = out or ROOT / "studies" / "results" / f"speed-{kind}.json"
    write(path, what, where, {"conditions": conditions, "beside": beside})


if __name__ == "__main__":
    tyro.cli(main)
