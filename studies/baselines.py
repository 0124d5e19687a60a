"""Two classical baselines: LFCC-GMM, and logistic regression on the clips' means and deviations.

    python studies/baselines.py --simulation MINISPOOF --speech FOLDER \
        --out studies/results/baselines.json

MINISPOOF is the simulated corpus, as `slslib minispoof` writes it; FOLDER holds a corpus `speech`
with partitions train, dev and test. Both baselines are fitted to the training partition. Of the
mixture sizes, the one with the least EER on dev is kept, the mean over three seeds; no test set is
looked at for that. The intervals are those of the first seed, over trials and over whole speakers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from provenance import provenance

from slslib.data.protocols import Corpus, open_corpus
from slslib.evaluation import metrics
from slslib.evaluation.intervals import eer_estimate, interval, paired_bootstrap
from slslib.model.baseline import (
    N_FRAMES,
    VARIANCE_FLOOR,
    classifier,
    corpus_features,
    fit_gmm,
    gmm_scores,
)

SIZES = (8, 16, 32, 64, 128, 256, 512)
SEEDS = (0, 1, 2)
SIMULATION = {
    "train": "asvspoof2019-la:train",
    "dev": "asvspoof2019-la:dev",
    "LA": "asvspoof2021-la",
    "DF": "asvspoof2021-df",
    "In-the-Wild": "in-the-wild",
}
SPEECH = {part: f"speech:{part}" for part in ("train", "dev", "test")}

Scores = NDArray[np.float64]


def eer_percent(scores: Scores, labels: NDArray[np.int64]) -> float:
    """Return the equal error rate in percent."""
    return 100 * metrics.eer(scores[labels == 1], scores[labels == 0]).value


def result(scores: Scores, corpus: Corpus, known: set[str]) -> dict[str, Any]:
    """Return an EER with both intervals, and those of known and of unknown attacks (%)."""
    trials, labels = corpus.trials, corpus.trials.label.to_numpy()
    over_trials = eer_estimate(scores, labels)
    over_speakers = eer_estimate(scores, labels, [trials.speaker])
    kinds = {}
    is_known = trials.attack.isin(known).to_numpy()
    for kind, chosen in (("known", is_known), ("unknown", ~is_known)):
        if (chosen & (labels == 0)).any():
            part = chosen | (labels == 1)
            kinds[f"{kind}_attacks_eer_percent"] = eer_percent(scores[part], labels[part])
    return {
        "eer_percent": over_trials["value"],
        "interval_over_trials_percent": [over_trials["low"], over_trials["high"]],
        "interval_over_speakers_percent": [over_speakers["low"], over_speakers["high"]],
        **kinds,
    }


def compare(data: Path, specs: dict[str, str]) -> dict[str, Any]:
    """Choose a mixture size on dev, then test both baselines on every other set."""
    corpora = {name: open_corpus(spec, data) for name, spec in specs.items()}
    train, dev = corpora.pop("train"), corpora["dev"]
    known = set(train.trials.attack) - {"-"}
    by_size: dict[int, list[float]] = {}
    models = {}
    for size in SIZES:
        models[size] = [fit_gmm(train, size, seed=seed, progress=False) for seed in SEEDS]
        on_dev = [gmm_scores(model, dev, progress=False) for model in models[size]]
        by_size[size] = [eer_percent(scores, dev.trials.label.to_numpy()) for scores in on_dev]
        print(size, by_size[size], flush=True)
    chosen = min(SIZES, key=lambda size: np.mean(by_size[size]))
    linear = classifier().fit(corpus_features(train, progress=False), train.trials.label)
    sets: dict[str, Any] = {}
    for name, corpus in corpora.items():
        labels = corpus.trials.label.to_numpy()
        logits = linear.decision_function(corpus_features(corpus, progress=False))
        ratios = [gmm_scores(model, corpus, progress=False) for model in models[chosen]]
        difference = paired_bootstrap(ratios[0], logits, labels, rng=np.random.default_rng(0))
        eers = [eer_percent(scores, labels) for scores in ratios]
        sets[name] = {
            "n_bonafide": int((labels == 1).sum()),
            "n_spoof": int((labels == 0).sum()),
            "lfcc_gmm": result(ratios[0], corpus, known)
            | {"eer_percent_by_seed": eers, "eer_percent_mean": float(np.mean(eers))},
            "lfcc_logistic_regression": result(logits, corpus, known),
            "gmm_minus_logistic_regression_percent": {
                "value": eers[0] - eer_percent(logits, labels),
                "interval_over_trials": list(interval(100 * difference)),
            },
        }
        print(name, json.dumps(sets[name]), flush=True)
    return {
        "dev_eer_percent_by_size_and_seed": by_size,
        "n_components": chosen,
        "sets": sets,
        "protocol_sha256": {name: c.protocol_sha256 for name, c in corpora.items()}
        | {"train": train.protocol_sha256},
    }


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulation", type=Path, required=True, help="MiniSpoof")
    parser.add_argument("--speech", type=Path, required=True, help="folder with the corpus speech")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    where = provenance("numpy", "scipy", "scikit-learn", "soundfile")
    report = {
        "what": "equal error rates (%) of LFCC-GMM and of LFCC + logistic regression, on MiniSpoof "
        "(a simulation) and on real speech; measured here",
        "seeds": SEEDS,
        "frames_per_class": N_FRAMES,
        "variance_floor": VARIANCE_FLOOR,
        "simulation": compare(args.simulation, SIMULATION),
        "speech": compare(args.speech, SPEECH),
        **where,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
