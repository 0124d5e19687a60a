r"""Count what faults do: kills, full disks, malformed files, damaged audio, hostile checkpoints.

    nice python studies/faults.py all --out studies/results/faults.json
    nice python studies/faults.py kills|fuzz|mutations|payloads [--out FILE]

`kills` runs `slslib score` and a training on the simulated corpus with a tiny detector, interrupts
them, runs them again until they are done and compares with the undisturbed run: score files byte by
byte, training states bit by bit (`studies/kills.py`). `fuzz` gives malformed files to the parsers
(`studies/fuzz.py`), by Atheris where that is installed, in chunks that have seeds of their own, and
writes the counts after each. A single part joins the others in the file; each names the commit that
it was counted at. `mutations` decodes damaged recordings. `payloads` loads checkpoints that call
code or ask for memory (`studies/hostile.py`). A count that should be zero and is not is a fault of
the library, and is written down like the others.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import fuzz
import hostile
import kills
import numpy as np
import provenance
import soundfile as sf
import torch
from make_mp4 import write_av
from tiny import DETECTOR, authors_file

from minispoof import corpus as minispoof
from slslib.data.audio import Decoder
from slslib.data.isolate import blocks_isolated
from slslib.errors import AudioError, CheckpointError
from slslib.model.detector import Detector

WHAT = "kills, full disks, malformed files, damaged audio and hostile checkpoints, counted"
ALLOWED_MB = 300
"""More memory than this no checkpoint may get before it is refused."""
SHARES = {
    "protocols": 0.06,
    "scores": 0.05,
    "checkpoint descriptions": 0.02,
    "safetensors": 0.04,
    "pickles": 0.04,
    "thresholds": 0.05,
    "ONNX descriptions": 0.02,
    "ONNX files": 0.05,
    "configs of transformers": 0.01,
    "JSON beside a checkpoint": 0.06,
    "MP4 and AIFF headers": 0.1,
    "audio headers": 0.5,
}
"""How the executions are divided over the targets: a header takes 0.1 ms, a config 10 ms."""
FORMATS = {
    "WAV": ("wav", "PCM_16"),
    "FLAC": ("flac", "PCM_16"),
    "Ogg Vorbis": ("ogg", "VORBIS"),
    "MP3": ("mp3", "MPEG_LAYER_III"),
    "AIFF": ("aiff", "PCM_16"),
    "MP4 with AAC": ("m4a", "aac"),
    "MP4 with Apple Lossless": ("m4a", "alac"),
    "MP4 with Opus": ("mp4", "libopus"),
    "MP4 in fragments": ("mp4", "aac"),
    "WebM with Opus": ("webm", "libopus"),
    "WebM from a browser": ("webm", "libopus"),
}
_OPTIONS: dict[str, dict[str, str]] = {
    "MP4 in fragments": {"movflags": "frag_keyframe+empty_moov", "frag_duration": "200000"},
    "WebM from a browser": {"live": "1"},
}


def fuzzed(runs: int, seconds: float, seed: int) -> dict[str, Any]:
    """Fuzz each target in a process of its own, for so many executions or seconds.

    Args:
        runs: Executions of all targets together.
        seconds: Time for the executions of all of them; what is reached in it counts.
        seed: Of the changes.
    """
    engine = "atheris" if importlib.util.find_spec("atheris") else "mutate"
    targets: dict[str, dict[str, Any]] = {}
    for target, share in SHARES.items():
        # Not that of starting the processes, which a busy machine needs most of.
        time_left = seconds - sum(row["seconds"] for row in targets.values())
        time_left /= len(SHARES) - len(targets)
        command = [sys.executable, fuzz.__file__, target, f"--engine={engine}", f"--seed={seed}"]
        command += [f"--runs={round(runs * share)}", f"--seconds={time_left:.0f}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the fuzzer of {target} ended: {done.stderr[-2000:]}")
        targets[target] = json.loads(done.stdout.splitlines()[-1])
        print(target, targets[target], flush=True)
    return {"engine": engine, "seeds": [seed], "targets": targets} | _total(targets)


def _total(targets: dict[str, Any]) -> dict[str, int]:
    return {"runs": sum(row["runs"] for row in targets.values())}


def together(done: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Add the counts of a further chunk of executions; of what escaped, the first input is kept."""
    targets = {}
    for name, row in done["targets"].items():
        new = more["targets"][name]
        targets[name] = row | {key: row[key] + new[key] for key in ("runs", "accepted", "refused")}
        targets[name]["seconds"] += new["seconds"]
        for key in ("kinds_of_refusal", "slowest_s", "inputs_kept"):
            if key in row:
                targets[name][key] = max(row[key], new[key])
        targets[name]["escaped"] = {**row["escaped"]}
        for kind, example in new["escaped"].items():
            first = row["escaped"].get(kind, example | {"count": 0})
            targets[name]["escaped"][kind] = first | {"count": first["count"] + example["count"]}
    seeds = done["seeds"] + more["seeds"]
    return done | {"seeds": seeds, "targets": targets} | _total(targets)


def recording(form: str, seed: int = 0) -> bytes:
    """Return a second of a tone in noise, with tags, in a format of :data:`FORMATS`."""
    rng = np.random.default_rng(seed)
    samples = 0.3 * np.sin(0.1 * np.arange(16_000)) + 0.05 * rng.standard_normal(16_000)
    stream, (ending, subtype) = io.BytesIO(), FORMATS[form]
    if form.startswith(("MP4", "WebM")):
        integers = np.rint(32_767 * samples).astype(np.int16)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"x.{ending}"
            rate = 48_000 if subtype == "libopus" else 16_000  # a third of a second
            if form.startswith("WebM"):  # of which less than 0.3 s may be missing
                integers = np.tile(integers, 3)
            options = _OPTIONS.get(form, {})
            return write_av(path, integers, rate, codec=subtype, **options).read_bytes()
    with sf.SoundFile(stream, "w", 16_000, 1, subtype, format=ending) as file:
        file.title, file.artist, file.comment = "title", "artist", "comment" * 30
        file.write(samples)
    return stream.getvalue()


def damage(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Change a file in one place; return how, and the file."""
    place, n = rng.randrange(len(data)), rng.choice((1, 2, 4, 16, 64, 500))
    before, part, after = data[:place], data[place : place + n], data[place + n :]
    ways: dict[str, Callable[[], bytes]] = {
        "one bit": lambda: (
            before + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
        ),
        "bytes replaced": lambda: before + rng.randbytes(len(part)) + after,
        "bytes zeroed": lambda: before + bytes(len(part)) + after,
        "bytes removed": lambda: before + after,
        "bytes inserted": lambda: before + rng.randbytes(n) + part + after,
        "bytes repeated": lambda: before + part + part + after,
        "cut short": lambda: before,
    }
    kind = rng.choice([*ways])
    return kind, ways[kind]()


def _outcome(path: Path, sound: np.ndarray, isolated: bool = False) -> str:
    """Decode a file and compare it with the sound one."""
    try:
        if isolated:
            samples = np.concatenate(list(blocks_isolated(path, any_length=True)))
        else:  # as `detect` reads WebM and fragments; other formats are read alike everywhere
            samples = np.concatenate(list(Decoder(path, any_length=True).blocks()))
    except AudioError:
        return "refused"
    except Exception as error:
        return f"escaped: {type(error).__name__}: {error}"[:100]
    return "same" if np.array_equal(samples, sound) else "other"


def mutations(n: int, n_isolated: int, seed: int) -> dict[str, Any]:
    """Decode damaged recordings of each format, and some also in a process of their own.

    Returns:
        By format: how many were ``refused``, held the ``same`` samples (the damage hit a tag) or
        ``other`` ones, which nothing told, and how these were damaged; ``crashed`` decoders; and
        whether the isolated decoder agreed.
    """
    rows = []
    pool = ProcessPoolExecutor(1, get_context("fork"))
    with tempfile.TemporaryDirectory(dir=fuzz.memory()) as folder:
        for form, (ending, _) in FORMATS.items():
            rng, data, path = random.Random(seed), recording(form), Path(folder) / f"x.{ending}"
            path.write_bytes(data)
            sound = np.concatenate(list(Decoder(path, any_length=True).blocks()))
            counts, others, agreed = Counter[str](), Counter[str](), 0
            for k in range(n):
                kind, damaged = damage(data, rng)
                if damaged == data:
                    counts["unchanged"] += 1
                    continue
                path.write_bytes(damaged)
                try:
                    outcome = pool.submit(_outcome, path, sound).result()
                except BrokenProcessPool:
                    outcome, pool = "crashed", ProcessPoolExecutor(1, get_context("fork"))
                counts[outcome] += 1
                others[kind] += outcome == "other"
                agreed += k < n_isolated and _outcome(path, sound, isolated=True) == outcome
            row = {"format": form, "bytes": len(data), "mutations": n}
            row |= dict.fromkeys(("refused", "same", "other", "crashed", "unchanged"), 0) | counts
            row["other_by_kind"] = dict(sorted((+others).items()))
            row |= {"isolated": n_isolated, "isolated_agree": agreed}
            print(row, flush=True)
            rows.append(row)
    pool.shutdown()
    return {"seed": seed, "formats": rows}


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _loaded(path: Path) -> tuple[str, float]:
    """Load a checkpoint in its folder; return what came of it, and how many MB that took."""
    os.chdir(path.parent)
    # Asks PyTorch to run what it finds; the reader has to refuse all the same.
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    before = _peak_mb()
    try:
        Detector.load(path, n_heads=2)
        told = "accepted"
    except CheckpointError as error:
        told = str(error).replace(f"{path.parent}/", "")
    except Exception as error:
        told = f"escaped: {type(error).__name__}: {error}"
    return re.sub(r" at 0x\w+", "", told)[:200], _peak_mb() - before


def payloads(names: list[str] | None = None) -> dict[str, Any]:
    """Load hostile checkpoints, each in a process of its own."""
    detector = Detector(DETECTOR, seed=0)
    files = hostile.payloads(authors_file(detector), detector.state_dict(), asdict(DETECTOR))
    rows = []
    for name in names or files:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"x{Path(name).suffix}"
            files[name](path)
            with ProcessPoolExecutor(1, get_context("fork")) as pool:
                told, megabytes = pool.submit(_loaded, path).result()
            ran = (path.parent / hostile.CANARY).exists()
        row = {"payload": name, "ran_code": ran, "megabytes": round(megabytes), "told": told}
        rows.append(row)
    return {
        "payloads": len(rows),
        "ran_code": sum(row["ran_code"] for row in rows),
        "escaped": sum(row["told"].startswith("escaped") for row in rows),
        "accepted": [row["payload"] for row in rows if row["told"] == "accepted"],
        f"over_{ALLOWED_MB}_mb": [r["payload"] for r in rows if r["megabytes"] > ALLOWED_MB],
        "files": rows,
    }


def main() -> None:
    """Count, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("all", "kills", "fuzz", "mutations", "payloads"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=60, help="of scoring runs")
    parser.add_argument("--training-kills", type=int, default=15)
    parser.add_argument("--runs", type=int, default=1_000_000, help="executions of the parsers")
    parser.add_argument("--seconds", type=float, default=3600, help="time for these")
    parser.add_argument("--chunks", type=int, default=1, help="in as many parts, each of a seed")
    parser.add_argument("--add", action="store_true", help="to the executions that --out tells of")
    parser.add_argument("--mutations", type=int, default=2_000, help="of each format")
    parser.add_argument("--isolated", type=int, default=25, help="of these, decoded twice")
    parser.add_argument("--data", type=Path, help="simulated corpora (default: a tenth, written)")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.add and args.what != "fuzz":
        parser.error("--add is for fuzz: other seeds (--seed) after those of --out")
    torch.set_num_threads(1)
    packages = ["torch", "numpy", "pandas", "soundfile", "av", "safetensors", "onnxruntime"]
    packages += ["atheris"] if importlib.util.find_spec("atheris") else []
    where = provenance.provenance(*packages)

    def killed() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            data = args.data or minispoof.write(folder / "data", scale=0.1, progress=False)
            counts = args.kills, args.training_kills
            return kills.count(folder / "runs", data, "asvspoof2021-df", *counts, args.seed)

    def in_chunks() -> Iterator[dict[str, Any]]:
        share = args.runs / args.chunks, args.seconds / args.chunks
        done = results["fuzz"] if args.add else None
        for seed in range(args.seed, args.seed + args.chunks):
            more = fuzzed(round(share[0]), share[1], seed)
            done = together(done, more) if done else more
            yield done

    parts: dict[str, Callable[[], Iterable[dict[str, Any]]]] = {
        "payloads": lambda: [payloads()],
        "mutations": lambda: [mutations(args.mutations, args.isolated, args.seed)],
        "kills": lambda: [killed()],
        "fuzz": in_chunks,
    }
    results: dict[str, Any] = {}
    if args.what != "all" and args.out and args.out.exists():  # whose other parts stay
        old = json.loads(args.out.read_text(encoding="utf-8"))
        commit = {"commit": old["provenance"]["commit"]}
        results = {name: commit | part for name, part in old["results"].items()}
    new = {*range(args.seed, args.seed + args.chunks)}
    if args.add and ("fuzz" not in results or new & {*results["fuzz"]["seeds"]}):
        parser.error("--add needs --out with executions, and a --seed that is not among theirs")
    for name, count in parts.items():
        if args.what in ("all", name):
            began, before = time.monotonic(), results.get(name, {}) if args.add else {}
            commits = dict.fromkeys([*before.get("commit", "").split(), where["commit"]])
            for counts in count():
                seconds = round(time.monotonic() - began) + before.get("seconds", 0)
                results[name] = counts | {"commit": " ".join(commits), "seconds": seconds}
                print(json.dumps(results[name]), flush=True)
                if args.out:  # what was done counts, whatever ends the rest
                    provenance.write(args.out, WHAT, where, results)


if __name__ == "__main__":
    main()
