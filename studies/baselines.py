"""Two classical baselines: LFCC-GMM, and logistic regression on the clips' means and deviations.

    python studies/baselines.py --simulation MINISPOOF --speech FOLDER \
        --out studies/results/baselines.json

MINISPOOF is the simulated corpus, as `slslib minispoof` writes it; FOLDER holds a corpus `speech`
with partitions train, dev and test. Both baselines are fitted to the training partition. Of the
mixture sizes, one is kept for both corpora: that with the least EER, on average over their two dev
sets and three seeds. No test set is looked at for that. The intervals are those of the first seed,
over trials and over whole speakers. Of the 2021 sets the phase `eval` is used.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from provenance import provenance, write

from slslib.data.corpora import Corpus, open_corpus
from slslib.evaluation import metrics
from slslib.evaluation.intervals import bootstrap_eer, interval
from slsnotebooks.baseline import (
    LFCCGMM,
    N_FRAMES,
    VARIANCE_FLOOR,
    classifier,
    clip_features,
    fit_gmm,
    per_clip,
)
from slsnotebooks.tracks import eer_estimate

SIZES = (8, 16, 32, 64, 128)
SEEDS = (0, 1, 2)
SIMULATION = {
    "train": "asvspoof2019-la:train",
    "dev": "asvspoof2019-la:dev",
    "LA": "asvspoof2021-la:eval",
    "DF": "asvspoof2021-df:eval",
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


def fit_sizes(data: Path, specs: dict[str, str]) -> dict[int, list[tuple[LFCCGMM, float]]]:
    """Return for each mixture size and seed the model and its EER on dev (%)."""
    train, dev = (open_corpus(specs[part], data) for part in ("train", "dev"))
    fitted: dict[int, list[tuple[LFCCGMM, float]]] = {size: [] for size in SIZES}
    for size in SIZES:
        for seed in SEEDS:
            model = fit_gmm(train, size, seed=seed)
            scores = np.array(per_clip(model.score, dev))
            fitted[size].append((model, eer_percent(scores, dev.trials.label.to_numpy())))
    return fitted


def compare(data: Path, specs: dict[str, str], models: list[LFCCGMM]) -> dict[str, Any]:
    """Test the mixtures and the logistic regression on every set but train."""
    corpora = {name: open_corpus(spec, data) for name, spec in specs.items()}
    checksums = {name: corpus.protocol_sha256 for name, corpus in corpora.items()}
    train = corpora.pop("train")
    known = set(train.trials.attack) - {"-"}
    linear = classifier().fit(per_clip(clip_features, train), train.trials.label)
    sets: dict[str, Any] = {}
    for name, corpus in corpora.items():
        labels = corpus.trials.label.to_numpy()
        logits = linear.decision_function(per_clip(clip_features, corpus))
        ratios = [np.array(per_clip(model.score, corpus)) for model in models]
        difference = bootstrap_eer(ratios[0], labels, seed=0, other=logits)
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
    return {"sets": sets, "protocol_sha256": checksums}


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulation", type=Path, required=True, help="MiniSpoof")
    parser.add_argument("--speech", type=Path, required=True, help="folder with the corpus speech")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    data = {"simulation": (args.simulation, SIMULATION), "speech": (args.speech, SPEECH)}
    where = provenance("numpy", "scipy", "scikit-learn", "soundfile")
    fitted = dict(
        zip(data, Parallel(2)(delayed(fit_sizes)(*own) for own in data.values()), strict=True)
    )
    on_dev = {
        name: {size: [eer for _, eer in runs] for size, runs in own.items()}
        for name, own in fitted.items()
    }
    chosen = min(SIZES, key=lambda size: np.mean([own[size] for own in on_dev.values()]))
    models = {name: [model for model, _ in own[chosen]] for name, own in fitted.items()}
    print(json.dumps(on_dev), chosen, flush=True)
    compared = Parallel(2)(delayed(compare)(*own, models[name]) for name, own in data.items())
    what = (
        "equal error rates (%) of LFCC-GMM and of LFCC + logistic regression, on MiniSpoof "
        "(a simulation) and on real speech"
    )
    results = {
        "seeds": SEEDS,
        "frames_per_class": N_FRAMES,
        "variance_floor": VARIANCE_FLOOR,
        "dev_eer_percent_by_size_and_seed": on_dev,
        "n_components": chosen,
        **dict(zip(data, compared, strict=True)),
    }
    write(args.out, what, where, results)


if __name__ == "__main__":
    main()
