"""Measure ONNX files beside PyTorch: LLR drift, EER, size, start, memory and speed.

    python studies/export.py --minispoof FOLDER [--speech FOLDER] [--pairs 7] [--clips 240]

Two models: the packaged mini, on the tracks of MiniSpoof (as `slslib minispoof` writes them), and
XLS-R 300M's dimensions with random weights, on recordings of real speech (left out without
--speech). "exact" and "bf16" are PyTorch's; "onnx" and "int8" are what `slslib export` writes,
scored by onnxruntime. Each is held by a process of its own. They take turns, round by round, with
batches of four clips of noise; a ratio is that of one round: how many times as long "exact" took.
The start is the time to import PyTorch or onnxruntime, to load the detector and to score a first
clip. Memory is the most that a process held resident.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from provenance import ROOT, provenance, write

from slslib.data.audio import fix_length, load
from slslib.data.corpora import open_corpus
from slslib.evaluation.metrics import eer

OUT = ROOT / "studies" / "results" / "export.json"
SETTINGS = ("exact", "bf16", "onnx", "int8")
TRACKS = {
    "dev": "asvspoof2019-la:dev",
    "LA": "asvspoof2021-la",
    "DF": "asvspoof2021-df",
    "In-the-Wild": "in-the-wild",
}
BATCH = 4


def scorer(setting: str, checkpoint: Path) -> Any:
    """Return a function from samples to LLRs; for onnx and int8 nothing here imports PyTorch."""
    if setting in ("onnx", "int8"):
        from slslib.model.onnx import OnnxDetector

        return OnnxDetector(checkpoint.with_name(f"{setting}.onnx")).llr
    import torch

    from slslib.model.detector import Detector

    detector = Detector.load(checkpoint)
    if setting == "bf16":
        detector.backbone.to_bf16()

    def score(samples: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return detector.llr(torch.from_numpy(samples)).numpy()

    return score


def serve(pipe: Any, setting: str, checkpoint: Path) -> None:
    """Score what comes through a pipe; answer with scores, seconds and the peak of memory."""
    score = None
    while (samples := pipe.recv()) is not None:
        start = time.perf_counter()
        score = score or scorer(setting, checkpoint)
        llr = score(samples)
        seconds = time.perf_counter() - start
        pipe.send((llr, seconds, peak_gb(), "torch" in sys.modules))


def peak_gb() -> float:
    """Return the most that this process held; Linux counts in ru_maxrss what it was started by."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9


@contextmanager
def worker(setting: str, checkpoint: Path) -> Any:
    """Give a function that scores samples in a process of its own."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=serve, args=(other, setting, checkpoint), daemon=True)
    process.start()
    other.close()

    def call(samples: np.ndarray) -> tuple[np.ndarray, float, float, bool]:
        pipe.send(samples)
        return pipe.recv()

    try:
        yield call
    finally:
        pipe.send(None)
        process.join()


def batches(samples: np.ndarray) -> list[np.ndarray]:
    """Cut clips into batches."""
    return [samples[i : i + BATCH] for i in range(0, len(samples), BATCH)]


def measure(
    checkpoint: Path, n_samples: int, pairs: int, sets: dict[str, tuple[np.ndarray, Any]]
) -> dict[str, Any]:
    """Export a checkpoint and measure every setting; sets hold clips and labels, if there are."""
    from precision import drift  # both load PyTorch, which some of the processes do without
    from speed import spread

    exported = {}
    for setting in ("onnx", "int8"):
        out = checkpoint.with_name(f"{setting}.onnx")
        command = [sys.executable, "-m", "slslib", "export", str(checkpoint), str(out), "--json"]
        command += ["--int8"] * (setting == "int8")
        start = time.perf_counter()
        said = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        exported[setting] = {"seconds": round(time.perf_counter() - start, 1)}
        exported[setting]["largest_drift_on_noise"] = said["largest_drift"]
        print(setting, exported[setting], flush=True)
    noise = 0.1 * np.random.default_rng(1).standard_normal((BATCH, n_samples), np.float32)
    rows: dict[str, dict[str, Any]] = {setting: {} for setting in SETTINGS}
    with ExitStack() as stack:
        calls = {s: stack.enter_context(worker(s, checkpoint)) for s in SETTINGS}
        time.sleep(5)  # until all have started
        for setting, call in calls.items():
            file = checkpoint if setting in ("exact", "bf16") else f"{setting}.onnx"
            rows[setting]["file_mb"] = checkpoint.with_name(Path(file).name).stat().st_size / 1e6
            rows[setting]["start_s"] = round(call(noise[:1])[1], 2)
            call(noise)
        seconds: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
        for i in range(pairs):  # who goes first takes turns too
            for setting in SETTINGS[i % 4 :] + SETTINGS[: i % 4]:
                _, took, rows[setting]["peak_gb"], with_torch = calls[setting](noise)
                assert with_torch == (setting in ("exact", "bf16"))
                seconds[setting].append(took)
        for setting, row in rows.items():
            row["seconds_per_clip"] = spread([took / BATCH for took in seconds[setting]])
            ratios = [a / b for a, b in zip(seconds["exact"], seconds[setting], strict=True)]
            row["times_exact"] = spread(ratios)
            print(setting, row, flush=True)
        for name, (clips, labels) in sets.items():
            scores = {
                setting: np.concatenate([call(batch)[0] for batch in batches(clips)])
                for setting, call in calls.items()
            }
            for setting, llr in scores.items():
                found: dict[str, Any] = drift(llr, scores["exact"]) | {"n_clips": len(llr)}
                if labels is not None:
                    bonafide, spoof = llr[labels == 1], llr[labels == 0]
                    found["eer_percent"] = 100 * eer(bonafide, spoof).value
                rows[setting].setdefault("scores", {})[name] = found
            print(name, {s: row["scores"][name] for s, row in rows.items()}, flush=True)
    return {"exported": exported, "settings": rows}


def read(paths: list[Path], n_samples: int) -> np.ndarray:
    """Decode the first window of recordings."""
    return np.stack([fix_length(load(path).samples, n_samples) for path in paths])


def track(spec: str, data: Path, n_clips: int, n_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return clips of a track, evenly taken, and their labels."""
    corpus = open_corpus(spec, data)
    trials = corpus.trials.iloc[:: max(1, len(corpus.trials) // n_clips)]
    paths = [corpus.audio_path(name) for name in trials.utterance]
    return read(paths, n_samples), trials.label.to_numpy()


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minispoof", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--speech", type=Path, help="folder of recordings")
    parser.add_argument("--clips", type=int, default=240, help="of each track")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    where = provenance("torch", "onnx", "onnxscript", "onnxruntime", "numpy")
    from slslib.model.checkpoints import locate
    from slslib.model.detector import Detector

    conditions = {"batch": BATCH, "pairs": args.pairs, "load_before": os.getloadavg()}
    results: dict[str, Any] = {"conditions": conditions}
    with tempfile.TemporaryDirectory() as name:
        mini, full = (Path(name) / size / "d.safetensors" for size in ("mini", "full"))
        mini.parent.mkdir()
        mini.write_bytes(locate("mini").read_bytes())
        n_samples = Detector.load(mini).config.n_samples
        sets: Any = {t: track(s, args.minispoof, args.clips, n_samples) for t, s in TRACKS.items()}
        results["mini"] = measure(mini, n_samples, args.pairs, sets)
        if args.speech:
            detector = Detector(seed=0)
            n_samples = detector.config.n_samples
            detector.save(full)
            del detector
            paths = sorted(args.speech.glob("*.flac"))
            speech = read(paths[:: max(1, len(paths) // 12)][:12], n_samples)
            results["full_size_random_weights"] = measure(
                full, n_samples, args.pairs, {"real speech": (speech, None)}
            )
    conditions["load_after"] = os.getloadavg()
    write(args.out, "ONNX files beside PyTorch on a CPU", where, results)


if __name__ == "__main__":
    main()
