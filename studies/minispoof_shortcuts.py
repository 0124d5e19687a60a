"""What tells spoof from bona fide in MiniSpoof? Nothing but the resynthesis, one hopes.

    python studies/minispoof_shortcuts.py --seeds 1234,4321,4569 --scale 0.4 \
        --out studies/results/minispoof_shortcuts.json

A detector that cheats looks like one that works. For each corpus seed, logistic regressions are
trained on cues that have nothing to do with the voice: of the channel (silence before and after,
level, noise floor, bandwidth, duration, file size) and of the waveform's asymmetry (skewness,
kurtosis, sign). Within each set, in five folds, they should get about 40 to 55 % EER. A control
replaces every attack by analysis and synthesis without a change: LFCC + logistic regression, again
in five folds, should find nothing. With the real attacks, trained on train, it should find the
known ones at 10 to 35 % and the unknown ones worse.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from joblib import Parallel, delayed
from provenance import provenance, write
from scipy import stats
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from minispoof.attacks import CONTROL, KNOWN
from minispoof.corpus import Trial, plan
from slslib.data.audio import SAMPLE_RATE
from slslib.evaluation import metrics
from slsnotebooks import baseline as lfcc

SETS = {
    "LA/ASVspoof2019_LA_train": "train",
    "LA/ASVspoof2019_LA_dev": "dev",
    "LA/ASVspoof2019_LA_eval": "eval",
    "ASVspoof2021_LA_eval": "LA",
    "ASVspoof2021_DF_eval": "DF",
    "release_in_the_wild": "In-the-Wild",
}


def channel_cues(samples: np.ndarray, n_bytes: int) -> list[float]:
    """What a recording's channel looks like: 12 numbers."""
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)  # 20 ms
    level = 10 * np.log10((frames**2).mean(axis=1) + 1e-12)
    loud = np.flatnonzero(level > level.max() - 25)
    power = np.cumsum(np.abs(np.fft.rfft(samples)) ** 2)
    bandwidth = [np.searchsorted(power, q * power[-1]) / len(power) for q in (0.5, 0.95, 0.995)]
    quiet = np.sort(level)[: max(1, len(level) // 10)]
    return [
        loud[0],
        len(level) - loud[-1],
        (level < level.max() - 25).mean(),
        len(samples),
        level.mean(),
        level.max(),
        np.log(np.abs(samples).max()),
        quiet.mean(),
        *bandwidth,
        n_bytes / len(samples),
    ]


def asymmetry_cues(samples: np.ndarray) -> list[float]:
    """How lopsided and how peaked the waveform is: 6 numbers."""
    skewness = stats.skew(samples)
    return [
        skewness,
        abs(skewness),
        np.log(stats.kurtosis(samples) + 3),
        (samples > 0).mean(),
        samples.mean(),
        np.log(np.abs(samples).max() / samples.std()),
    ]


def describe(path: str, clip: Trial) -> dict[str, Any]:
    """Return the three kinds of features of a clip, and those of its control."""
    samples = clip.samples()
    flac = io.BytesIO()
    sf.write(flac, samples, SAMPLE_RATE, "PCM_16", format="FLAC")
    control = samples if clip.attack == "-" else replace(clip, attack=CONTROL).samples()
    return {
        "set": next(name for prefix, name in SETS.items() if path.startswith(prefix)),
        "attack": clip.attack,
        "channel": channel_cues(samples, flac.tell()),
        "asymmetry": asymmetry_cues(samples),
        "lfcc": lfcc.clip_features(samples),
        "control": lfcc.clip_features(control),
    }


def eer(scores: np.ndarray, bonafide: np.ndarray) -> float:
    """Return the EER in percent."""
    return 100 * metrics.eer(scores[bonafide], scores[~bonafide]).value


def measure(seed: int, scale: float, jobs: int) -> dict[str, Any]:
    """Return the EERs of one corpus, in percent."""
    content = plan(seed, scale)
    rows = Parallel(jobs)(
        delayed(describe)(path, clip) for path, clip in content.items() if isinstance(clip, Trial)
    )
    table = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    real = table["attack"] == "-"
    result: dict[str, Any] = {}
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    for kind in ("channel", "asymmetry", "control"):
        for name in SETS.values():
            own = table["set"] == name
            x, y = table[kind][own], real[own]
            model = lfcc.classifier()
            scores = cross_val_predict(model, x, y, cv=folds, method="decision_function")
            result.setdefault(kind, {})[name] = eer(scores, y)
    train = table["set"] == "train"
    model = lfcc.classifier().fit(table["lfcc"][train], real[train])
    scores = model.decision_function(table["lfcc"])
    for name in list(SETS.values())[1:]:
        own = table["set"] == name
        by_attack = {
            str(attack): eer(scores[chosen], real[chosen])
            for attack in sorted(set(table["attack"][own]) - {"-"})
            for chosen in [own & (real | (table["attack"] == attack))]
        }
        known = own & (real | np.isin(table["attack"], KNOWN))
        unknown = own & (real | ~np.isin(table["attack"], KNOWN))
        result.setdefault("lfcc", {})[name] = {
            "all": eer(scores[own], real[own]),
            **({"known": eer(scores[known], real[known])} if not real[known].all() else {}),
            **({"unknown": eer(scores[unknown], real[unknown])} if not real[unknown].all() else {}),
            "attacks": by_attack,
        }
    return result


def mean(results: list[Any]) -> Any:
    """Average nested dictionaries."""
    if isinstance(results[0], dict):
        return {key: mean([one[key] for one in results]) for key in results[0]}
    return round(float(np.mean(results)), 2)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="1234,4321,4569")
    parser.add_argument("--scale", type=float, default=0.5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    where = provenance("numpy", "scipy", "soundfile", "praat-parselmouth", "scikit-learn")
    start = time.perf_counter()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    results = [measure(seed, options.scale, options.jobs) for seed in seeds]
    report = {
        "seeds": seeds,
        "scale": options.scale,
        "mean": mean(results),
        "by_seed": {str(seed): mean([one]) for seed, one in zip(seeds, results, strict=True)},
        "seconds": round(time.perf_counter() - start),
    }
    if options.out:
        what = "EER (%) of descriptions that should tell nothing, on MiniSpoof, a simulation"
        write(options.out, what, where, report)
    print(json.dumps(report["mean"], indent=1))


if __name__ == "__main__":
    main()
