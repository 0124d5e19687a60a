"""Time slslib.data.rawboost, beside the published code where a copy of it is at hand.

    python studies/rawboost.py [--original path/to/RawBoost.py] [--out results.json]

The published code is RawBoost.py of github.com/TakHemlata/RawBoost-antispoofing. It is imported
from the given path and not changed on disk; two conversions of 1-element arrays that NumPy 2.4
refuses are replaced in the imported module. Both sides get the same clip and the same seeds, run
in turn, and must agree to 1e-6.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
from provenance import ROOT, provenance, write
from threadpoolctl import threadpool_limits

from slslib.data.rawboost import ALGORITHMS, rawboost

OUT = ROOT / "studies" / "results" / "rawboost.json"


def load_original(path: Path) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return ``run(samples, algo)`` of the published code, with its default options."""
    spec = importlib.util.spec_from_file_location("published_rawboost", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.int = lambda value: int(np.asarray(value).item())
    module.float = lambda value: float(np.asarray(value).item())
    notch = (5, 20, 8000, 100, 1000, 10, 100, 0, 0)

    def lnl(x: np.ndarray) -> np.ndarray:
        return module.LnL_convolutive_noise(x, 5, *notch, 5, 20, 16000)

    def isd(x: np.ndarray) -> np.ndarray:
        return module.ISD_additive_noise(x, 10, 2)

    def ssi(x: np.ndarray) -> np.ndarray:
        return module.SSI_additive_noise(x, 10, 40, *notch, 16000)

    series = {1: [lnl], 2: [isd], 3: [ssi], 4: [lnl, isd, ssi]}
    series |= {5: [lnl, isd], 6: [lnl, ssi], 7: [isd, ssi]}

    def run(samples: np.ndarray, algo: int) -> np.ndarray:
        if algo == 8:
            return module.normWav(lnl(samples) + isd(samples), 0)
        for step in series.get(algo, []):
            samples = step(samples)
        return samples

    return run


def clip(n_samples: int) -> np.ndarray:
    """Return a harmonic tone with a slow envelope: float32 ``[n_samples]``, peak below one."""
    t = np.arange(n_samples) / 16_000
    tone = sum(np.sin(2 * np.pi * 140 * k * t + k * k) / k for k in range(1, 30))
    return (0.25 * tone * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))).astype(np.float32)


def timed(function: Callable[..., np.ndarray], *arguments: object) -> tuple[float, np.ndarray]:
    """Return the CPU seconds of one call, and what it returned."""
    start = time.process_time()
    result = function(*arguments)
    return time.process_time() - start, result


def milliseconds(seconds: list[float]) -> float:
    """Return the median in milliseconds."""
    return round(1e3 * float(np.median(seconds)), 3)


def main() -> None:
    """Measure, print a table and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--original", type=Path, help="the published RawBoost.py")
    parser.add_argument("--seconds", type=float, default=4.0375, help="length of the clip")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    where = provenance("numpy", "scipy")
    threadpool_limits(1)  # or a thread of BLAS spins on behind the published code's calls
    original = load_original(args.original) if args.original else None
    samples = clip(int(args.seconds * 16_000))

    rows = []
    for algo, name in enumerate(ALGORITHMS):
        ours, usual, theirs, difference = [], [], [], 0.0
        for seed in range(args.repeats):
            rng, default = np.random.RandomState(seed), np.random.default_rng(seed)
            seconds, result = timed(rawboost, samples, algo, rng)
            ours.append(seconds)
            usual.append(timed(rawboost, samples, algo, default)[0])
            if original:
                np.random.seed(seed)  # noqa: NPY002 (the published code draws from it)
                seconds, expected = timed(original, samples, algo)
                theirs.append(seconds)
                difference = max(difference, float(np.abs(result - expected).max()))
        row = {"algo": algo, "name": name, "ours_ms": milliseconds(ours)}
        row["default_draws_ms"] = milliseconds(usual)
        if original:
            assert difference < 1e-6, f"algorithm {algo}: outputs differ by {difference}"
            row["original_ms"] = milliseconds(theirs)
            for name, times in (("speed_ratio", ours), ("default_draws_ratio", usual)):
                ratios = np.divide(theirs, times)
                row[name] = round(float(np.median(ratios)), 2)
                row[f"{name}_quartiles"] = np.quantile(ratios, [0.25, 0.75]).round(2).tolist()
            row["max_difference"] = difference
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()))

    what = "milliseconds of one draw and apply of RawBoost, and the published code beside it"
    results = {
        "original_sha256": sha256(args.original.read_bytes()).hexdigest() if original else None,
        "clip_seconds": args.seconds,
        "repeats": args.repeats,
        "statistic": "median CPU time of one draw and apply; median and quartiles of paired ratios",
        "default_draws": "by NumPy's default generator, which the published code cannot use",
        "algorithms": rows,
    }
    write(args.out, what, where, results)


if __name__ == "__main__":
    main()
