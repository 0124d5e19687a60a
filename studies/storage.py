"""Reading a corpus from a mounted archive beside a folder, and saving the state of a training.

    python studies/storage.py --places folder=A tar=B squashfs=C --out studies/results/storage.json

Each place holds the simulated corpora (`slslib minispoof`): A as they are, B a tar file mounted by
`ratarmount`, C a squashfs file mounted by `squashfuse`. The recordings of 2021 DF are read and
decoded by one process, in turns, from the page cache, and scored by `mini`. The state is that of
XLS-R 300M with SLS and Adam, saved as `train` saves it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from provenance import provenance, write

from slslib import load_audio, open_corpus, score
from slslib.files import sha256
from slslib.model.detector import Detector
from slslib.runs import processes
from slslib.runs.fit import Run, build_optimizer
from slslib.runs.recipes import v1

CORPUS = "asvspoof2021-df"


def timed(call: Any, items: list[Any]) -> float:
    """Return the seconds that a call takes for all items."""
    started = time.perf_counter()
    for item in items:
        call(item)
    return time.perf_counter() - started


def reading(places: dict[str, str], repeats: int, folder: Path) -> list[dict[str, Any]]:
    """Compare places of one corpus."""
    paths = {}
    for name, place in places.items():
        corpus = open_corpus(CORPUS, place)
        paths[name] = [corpus.audio_path(u) for u in corpus.trials["utterance"]]
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in places}
    for repeat in range(repeats + 1):
        for name, files in paths.items():
            seconds = timed(Path.read_bytes, files), timed(load_audio, files)
            if repeat:  # the first fills the page cache
                rates[name].append((len(files) / seconds[0], len(files) / seconds[1]))
    rows = []
    for name, place in places.items():
        read, decoded = (round(statistics.median(one)) for one in zip(*rates[name], strict=True))
        out = folder / name / "scores.txt"
        score("mini", CORPUS, out, data=place, progress=False)
        made = {"scores": sha256(out), "provenance": sha256(Path(f"{out}.json"))}
        rows.append({"place": name, "read_per_s": read, "decoded_per_s": decoded, **made})
    return rows


def saving(folder: Path, repeats: int) -> dict[str, Any]:
    """Save the state of a training of full size."""
    config, detector = v1(), Detector(seed=0)
    optimizer = build_optimizer(detector, config)
    for parameter in detector.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    run = Run(config, folder, processes.start(cpu=True), detector, optimizer, [])
    seconds = [timed(lambda _: run.save(), [0]) for _ in range(repeats)]
    gb = (folder / "state.pt").stat().st_size / 1e9
    found = {"median": statistics.median(seconds), "range": [min(seconds), max(seconds)]}
    return {"gb": round(gb, 3), "repeats": repeats, "seconds": found}


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--places", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    where = provenance("torch", "soundfile")
    places = dict(place.split("=", 1) for place in args.places)
    with tempfile.TemporaryDirectory() as folder:
        read = reading(places, args.repeats, Path(folder))
        saved = saving(Path(folder) / "run", args.repeats)
    what = "recordings per second from mounted archives; seconds of saving a training's state"
    write(args.out, what, where, {"corpus": CORPUS, "reading": read, "saving": saved})


if __name__ == "__main__":
    main()
