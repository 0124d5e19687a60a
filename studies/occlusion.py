r"""What to put in the place of a stretch of speech, when one asks what it did to the score.

    python studies/occlusion.py --out studies/results/occlusion.json

Simulated clips of MiniSpoof's evaluation partition, as many of each class as ``--clips`` says, and
``mini``. One stretch of 0.2 s after the other is replaced in a copy. Two questions for each
replacement: how far does it move the score on average, wherever it is (nearer to 0 is better: the
replacement is no cue of its own)? And in bona fide clips with a forged second, in what share of the
pairs of a forged and another stretch does replacing the forged one raise the score by more (0.5 is
chance)? Its standard error is over clips.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from provenance import provenance, write

from minispoof.corpus import simulation
from slslib.data.corpora import open_corpus
from slslib.model.detector import Detector
from slsnotebooks.probing import sample

STEP, FORGED = 3200, 5  # samples of a stretch; stretches that are forged
Replacement = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def same_spectrum(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return noise with the magnitudes of the stretch's own spectrum."""
    spectrum = np.abs(np.fft.rfft(x, axis=1))
    phases = np.exp(2j * np.pi * rng.random(spectrum.shape))
    return np.fft.irfft(spectrum * phases, x.shape[1], axis=1)


REPLACEMENTS: dict[str, Replacement] = {
    "played backwards": lambda x, _: x[:, ::-1],
    "noise of the same spectrum": same_spectrum,
    "noise at -60 dB of full scale": lambda x, rng: 1e-3 * rng.standard_normal(x.shape),
    "zeros": lambda x, _: np.zeros_like(x),
}


@torch.inference_mode()
def llrs(detector: Detector, clips: np.ndarray) -> np.ndarray:
    """Score clips in batches."""
    batches = torch.from_numpy(clips).split(16)
    return torch.cat([detector.llr(batch) for batch in batches]).numpy()


def changes(detector: Detector, clips: np.ndarray, replace: Replacement) -> np.ndarray:
    """Return the change of the LLR for each clip (rows) and stretch (columns)."""
    rng, whole, moved = np.random.default_rng(0), llrs(detector, clips), []
    for start in range(0, clips.shape[1], STEP):
        copies = clips.copy()
        copies[:, start : start + STEP] = replace(clips[:, start : start + STEP], rng)
        moved.append(llrs(detector, copies) - whole)
    return np.stack(moved, axis=1)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description="compare replacements of a stretch of speech")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    where = provenance("numpy", "torch")
    detector = Detector.load("mini")
    corpus = open_corpus("asvspoof2019-la:eval", simulation())
    trials, drawn = sample(corpus, args.clips, n_samples=detector.config.n_samples)
    clips, is_bonafide = drawn.numpy(), trials["label"].to_numpy() == 1
    forged, spoofs = clips[is_bonafide].copy(), clips[~is_bonafide]
    n_stretches = clips.shape[1] // STEP
    first = np.random.default_rng(1).integers(0, n_stretches - FORGED + 1, len(forged))
    for clip, spoof, at in zip(forged, spoofs, first, strict=True):
        clip[at * STEP : (at + FORGED) * STEP] = spoof[at * STEP : (at + FORGED) * STEP]
    results = {}
    for name, replace in REPLACEMENTS.items():
        moved, shares = changes(detector, clips, replace), []
        for row, at in zip(changes(detector, forged, replace), first, strict=True):
            inside = row[at : at + FORGED]
            outside = np.delete(row, np.s_[at : at + FORGED])
            pairs = inside[:, None] - outside
            shares.append(np.mean(pairs > 0) + np.mean(pairs == 0) / 2)
        results[name] = {
            "mean_change": round(float(moved.mean()), 4),
            "mean_absolute_change": round(float(np.abs(moved).mean()), 4),
            "forged_raised_more": round(float(np.mean(shares)), 4),
            "standard_error": round(float(np.std(shares) / len(shares) ** 0.5), 4),
        }
        print(name, results[name])
    what = f"change of the LLR by replacing 0.2 s; mini, {args.clips} simulated clips of each class"
    write(args.out, what, where, results)


if __name__ == "__main__":
    main()
