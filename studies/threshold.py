"""What the guarantee of `slslib threshold` is worth: by simulation, and on published scores.

    python studies/threshold.py --scores ../shared/scores --out studies/results/threshold.json

**Simulation.** Sets of scores are drawn from distributions whose true false rejection rate at any
threshold is known. ``kept`` is the share of the sets whose threshold rejects no more than wanted,
``promised`` what the theory says for scores without ties, ``covered`` how often the two-sided
interval holds the true rate. Clips of one speaker share a part of their scores: ``share`` is that
part's share of the variance, as seen by a listener who hears new speakers.

**Transfer.** A threshold of one set is used on another: of another training run, another year's
phase, or speech that went through a codec. **Repair.** 500 bona fide clips are drawn from a set, a
threshold is chosen on them, and what it does to all others is counted; drawn clip by clip, or
speaker by speaker until there are 500 clips, the others then being those of other speakers.
``quantile`` is the common rule that takes a quantile of the own scores for the threshold.

``published`` quotes the study whose numbers these figures stand beside. It is not recomputed: its
scores of the development set are not among the published files that are read here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray
from provenance import provenance, write
from scipy.special import ndtr
from scipy.stats import binom

from slsapp.guarantee import guarantee, proportion
from slslib.data.protocols import read_protocol
from slslib.data.scorefiles import match, read_scores

Floats = NDArray[np.float64]

CONFIDENCE, RATES, SIZES, OWN = 0.95, (0.01, 0.05), (100, 300, 500, 1000), 500
GRID, LOWEST = 0.5, -0.84  # of the tied scores: 80 % of the normal distribution lie above LOWEST
CLUSTERS = ((10, 0.2), (10, 0.5), (50, 0.2), (50, 0.5))  # clips per speaker, share of the variance
PUBLISHED = {
    "source": "rvirgilli/speech-deepfake-threshold-transport, "
    "experiments/EXP-102-a2-campaign/results_sls_complete.json at commit 5ae2468",
    "what": "authors' SLS scores; threshold at the 5 % quantile of bona fide speech of ASVspoof "
    "2019 LA dev; then the mean over 1,000 draws of 500 clips of the same set",
    "rows": [
        {"set": "ASVspoof 2021 LA", "transferred_percent": 43.97, "own_500_percent": 4.97},
        {"set": "ASVspoof 2021 DF", "transferred_percent": 48.62, "own_500_percent": 4.91},
        {"set": "In-the-Wild", "transferred_percent": 99.13, "own_500_percent": 4.93},
    ],
}


# -------------------------------------------------------------------------------------- simulation


def independent(rng: Generator, n: int) -> Floats:
    """Draw scores of which no two are equal."""
    return rng.normal(size=n)


def rounded(rng: Generator, n: int) -> Floats:
    """Draw scores on a grid."""
    return np.floor(rng.normal(size=n) / GRID) * GRID


def saturated(rng: Generator, n: int) -> Floats:
    """Draw scores most of which are the highest possible."""
    return np.minimum(rng.normal(size=n), LOWEST)


def clustered(clips: int, share: float) -> Callable[[Generator, int], Floats]:
    """Return what draws the clips of some speakers, each with a level of its own."""

    def draw(rng: Generator, n: int) -> Floats:
        level = np.repeat(rng.normal(size=n // clips), clips)
        return np.sqrt(share) * level + np.sqrt(1 - share) * rng.normal(size=n)

    return draw


def rejected_share(kind: str, threshold: Floats) -> Floats:
    """Return the true false rejection rate: how much of the distribution is at or below."""
    if kind == "rounded":
        return ndtr((np.floor(threshold / GRID) + 1) * GRID)
    return np.where((kind == "saturated") & (threshold >= LOWEST), 1.0, ndtr(threshold))


@cache
def ends(count: int, n: int) -> tuple[float, float]:
    """Return the two-sided interval of a rate, as fractions."""
    low, high = proportion(count, n, CONFIDENCE)["interval_percent"]
    return low / 100, high / 100


def simulate(repeats: int, seed: int) -> list[dict[str, Any]]:
    """Choose thresholds on drawn scores and look up their true rates."""
    kinds: dict[str, Any] = {"independent": independent, "rounded": rounded, "saturated": saturated}
    kinds |= {(clips, share): clustered(clips, share) for clips, share in CLUSTERS}
    rng, rows = np.random.default_rng(seed), []
    for kind, draw in kinds.items():
        for n in SIZES:
            for rate in RATES:
                row: dict[str, Any] = {"scores": kind, "n": n, "wanted_percent": 100 * rate}
                if isinstance(kind, tuple):
                    row |= {"scores": "clustered", "clips": kind[0], "share": kind[1]}
                rows.append(row)
                if 1 - (1 - rate) ** n < CONFIDENCE:
                    row["refused"] = True
                    continue
                true, covered = np.empty(repeats), 0
                for k in range(repeats):
                    scores = draw(rng, n)
                    rank, threshold = guarantee(scores, rate, CONFIDENCE)
                    true[k] = rejected_share(str(kind), np.array(threshold))
                    low, high = ends(int((scores <= threshold).sum()), n)
                    covered += low <= true[k] <= high
                row |= {
                    "rank": rank,
                    "promised_percent": 100 * float(binom.sf(rank - 1, n, rate)),
                    "kept_percent": 100 * float(np.mean(true <= rate)),
                    "covered_percent": 100 * covered / repeats,
                    "true_percent": spread(100 * true),
                }
    return rows


def spread(values: Floats) -> dict[str, float]:
    """Return the mean, the median and the range that holds 90 of a hundred values."""
    low, median, high = np.percentile(values, [5, 50, 95])
    return {"mean": float(values.mean()), "median": median, "low": low, "high": high}


# --------------------------------------------------------------------------------- published scores


def read(folder: Path) -> dict[str, pd.DataFrame]:
    """Read the trials with scores, by the name of set and system."""
    wild, key = folder / "in_the_wild", folder / "in_the_wild" / "key_in_the_wild.txt"
    found: dict[str, tuple[Path, Path, str | None]] = {}
    for name, file in (("authors", "authors"), ("v1", "repro_v1"), ("v2", "repro_v2")):
        found[f"In-the-Wild, SLS {name}"] = (wild / f"sls_{file}.txt", key, None)
    for system in ("LFCC-GMM", "LFCC-LCNN"):
        scores = folder / "la2021" / f"baseline_{system}.txt"
        for phase, labels in (
            ("progress", "key_cm_progress.txt"),
            ("eval", "key_cm_eval_labels.csv"),
        ):
            found[f"2021 LA {phase}, {system}"] = (scores, scores.with_name(labels), None)
    ours = folder / "la2019"
    found["2019 LA eval, RawGAT-ST"] = (ours / "rawgat_st_mul.txt", ours / "key_cm_eval.txt", None)
    for system in ("erm", "dann_v2"):
        table = folder / "asvspoof5" / f"w2v2_{system}.tsv"
        found[f"ASVspoof 5, w2v2 {system}"] = (table, table, None)
    return {
        name: match(read_scores(scores), read_protocol(labels), phase, allow_extra=True)
        for name, (scores, labels, phase) in found.items()
    }


def classes(trials: pd.DataFrame) -> tuple[Floats, Floats]:
    """Return the scores of bona fide and of spoofed trials."""
    is_bonafide = trials["label"] == 1
    return trials["score"][is_bonafide].to_numpy(), trials["score"][~is_bonafide].to_numpy()


def transfer(sets: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Use the threshold of one set on another."""
    pairs: list[tuple[str, Floats, str, tuple[Floats, Floats]]] = []
    wild = {name: classes(trials) for name, trials in sets.items() if name.startswith("In-the")}
    for name, (bonafide, _) in wild.items():
        pairs += [(name, bonafide, other, there) for other, there in wild.items() if other != name]
    for system in ("LFCC-GMM", "LFCC-LCNN"):
        name, other = (f"2021 LA {phase}, {system}" for phase in ("progress", "eval"))
        pairs.append((name, classes(sets[name])[0], other, classes(sets[other])))
    for name in sets:
        if name.startswith("ASVspoof 5"):
            clean = sets[name]["codec"] == "NONE"
            here, there = (classes(sets[name][own]) for own in (clean, ~clean))
            pairs.append((f"{name}, no codec", here[0], f"{name}, codecs", there))
    rows = []
    for name, chosen_on, other, there in pairs:
        threshold = guarantee(chosen_on, 0.05, CONFIDENCE)[1]
        rows.append({"chosen_on": name, "used_on": other, "wanted_percent": 5.0})
        rows[-1] |= errors(there, threshold)
    for name, there in wild.items():  # these scores are log p(bona fide)
        rows.append({"chosen_on": "probability one half", "used_on": name, "wanted_percent": None})
        rows[-1] |= errors(there, float(np.log(0.5)))
    return rows


def errors(there: tuple[Floats, Floats], threshold: float) -> dict[str, Any]:
    """Return both error rates at a threshold, in percent, with their intervals."""
    wrong = (there[0] <= threshold, there[1] > threshold)
    frr, far = (proportion(int(own.sum()), own.size, CONFIDENCE) for own in wrong)
    return {"threshold": threshold, "n_bonafide": there[0].size, "frr": frr, "far": far}


def repair(
    sets: dict[str, pd.DataFrame], repeats: int, seed: int, own: int = OWN
) -> list[dict[str, Any]]:
    """Choose thresholds on some clips of a set, and count what they do to the others."""
    rng, rows = np.random.default_rng(seed), []
    for name, trials in sets.items():
        if "progress" in name:  # too few others to count on
            continue
        bonafide, spoof = (np.sort(one) for one in classes(trials))
        order = np.argsort(trials["score"][trials["label"] == 1].to_numpy(), kind="stable")
        speakers = trials["speaker"][trials["label"] == 1].to_numpy()[order]
        draws: dict[str, Callable[[], tuple[Floats, Floats]]] = {
            "clips": lambda bonafide=bonafide: by_clips(bonafide, own, rng)
        }
        if len(np.unique(speakers)) > 1:
            draws["speakers"] = lambda b=bonafide, s=speakers: by_speakers(b, s, own, rng)
        for kind, draw in draws.items():
            found = {(rate, rule): [] for rate in RATES for rule in ("guarantee", "quantile")}
            for _ in range(repeats):
                chosen_on, others = draw()
                for rate, rule in found:
                    if rule == "guarantee":
                        threshold = guarantee(chosen_on, rate, CONFIDENCE)[1]
                    else:
                        threshold = np.sort(chosen_on)[int((own + 1) * rate) - 1]
                    rejected = np.searchsorted(others, threshold, "right") / others.size
                    passed = 1 - np.searchsorted(spoof, threshold, "right") / spoof.size
                    found[rate, rule].append((rejected, passed))
            for (rate, rule), pairs in found.items():
                frr, far = np.array(pairs).T
                row = {"set": name, "drawn_by": kind, "rule": rule, "wanted_percent": 100 * rate}
                row |= {"n_bonafide": bonafide.size, "n_speakers": len(np.unique(speakers))}
                row |= {"kept_percent": 100 * float(np.mean(frr <= rate))}
                rows.append(
                    row | {"frr_percent": spread(100 * frr), "far_percent": spread(100 * far)}
                )
    return rows


def by_clips(bonafide: Floats, own: int, rng: Generator) -> tuple[Floats, Floats]:
    """Draw clips; return their scores and, in order, those of the others."""
    is_own = np.zeros(bonafide.size, bool)
    is_own[rng.choice(bonafide.size, own, replace=False, shuffle=False)] = True
    return bonafide[is_own], bonafide[~is_own]


def by_speakers(
    bonafide: Floats, speakers: NDArray[Any], own: int, rng: Generator
) -> tuple[Floats, Floats]:
    """Draw speakers until their clips suffice; return some of these, and those of the others."""
    names, code = np.unique(speakers, return_inverse=True)
    order = rng.permutation(len(names))
    last = np.searchsorted(np.cumsum(np.bincount(code)[order]), own)
    is_own = np.isin(code, order[: last + 1])
    return rng.choice(bonafide[is_own], own, replace=False), bonafide[~is_own]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", type=Path, required=True, help="folder of published scores")
    parser.add_argument("--repeats", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    where = provenance("numpy", "scipy")
    sets = read(options.scores)
    results = {
        "confidence_percent": 100 * CONFIDENCE,
        "repeats": options.repeats,
        "own_clips": OWN,
        "published": PUBLISHED,
        "transfer": transfer(sets),
        "repair": repair(sets, options.repeats, options.seed),
        "simulation": simulate(options.repeats, options.seed),
    }
    what = "thresholds with a guaranteed false rejection rate: coverage, transfer and repair"
    write(options.out, what, where, results)


if __name__ == "__main__":
    main()
