"""What could be heard in the real speech of `real_speech.py`, and which layers hold it.

    python studies/real_speech_cues.py --data ../shared --out studies/results/real_speech_cues.json

Three descriptions of a clip, each with the same logistic regression, trained on train:

``outline``         mean and standard deviation of LFCCs: the spectrum's outline
``fine structure``  how alike neighbours of the spectrogram are once its outline is taken away, in
                    twelve regions of frequency; how periodic the voice is in five bands
``both``

Then a ridge regression guesses the fine structure of a clip from its outline, and from the mean
over time of each layer of a backbone, of speakers that it was not fitted on. R² is 1 where a layer
holds it and 0 where its mean over all clips is as good a guess. With XLS-R's weights
(`--backbone xlsr2_300m.pt`) the same can be asked of the full model.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from provenance import provenance, write
from scipy import fft, ndimage, signal
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from slslib.data import audio
from slslib.data.corpora import open_corpus
from slslib.evaluation.intervals import bootstrap_eer, interval
from slslib.model.detector import load_backbone
from slslib.model.xlsr import XLSR
from slsnotebooks.baseline import classifier, clip_features
from slsnotebooks.probing import layer_means
from slsnotebooks.tracks import eer_estimate

LAGS = ((1, 0), (2, 0), (3, 0), (0, 1), (0, 2), (1, 1), (1, -1))  # frames of 10 ms, bins of 31 Hz
REGIONS = np.linspace(2, 230, 13).astype(int)  # edges, in bins: 60 Hz to 7.2 kHz
VOICED = ((100, 500), (500, 1000), (1000, 2000), (2000, 3500), (3500, 5000))  # Hz
N_SAMPLES = 64_000  # of a clip, for the backbone: 4 s
Features = NDArray[np.float64]


def texture(samples: Features) -> Features:
    """Correlate the spectrogram less its outline with itself, some bins and frames away."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 512)[::160]
    power = np.abs(fft.rfft(frames * np.hanning(512))) ** 2
    log = np.log(power + 1e-8)
    fine = log - ndimage.uniform_filter(log, 9, mode="nearest")
    fine = fine[power.sum(1) > power.sum(1).max() * 10**-3.5]  # no pauses
    values = []
    for low, high in pairwise(REGIONS):
        region = fine[:, low:high] - fine[:, low:high].mean()
        for t, f in LAGS:
            later = region[t:, max(0, f) : region.shape[1] + min(0, f)]
            earlier = region[: len(region) - t, max(0, -f) : region.shape[1] - max(0, f)]
            values.append((later * earlier).mean() / region.var())
    return np.array(values)


def periodicity(samples: Features) -> Features:
    """Summarise the highest autocorrelation, 60 to 400 Hz, of the envelope of each band."""
    values: list[float] = []
    for band in VOICED:
        filtered = signal.sosfilt(signal.butter(2, band, "band", fs=16_000, output="sos"), samples)
        envelope = np.abs(signal.hilbert(filtered))
        frames = np.lib.stride_tricks.sliding_window_view(envelope, 1024)[::320]
        frames = frames - frames.mean(1, keepdims=True)
        alike = fft.irfft(np.abs(fft.rfft(frames, 2048)) ** 2)
        highest = (alike[:, 40:267] / (alike[:, :1] + 1e-9)).max(1)
        values += [*np.quantile(highest, [0.1, 0.5, 0.9]), highest.std()]
    return np.array(values)


def explained(features: Features, target: Features, groups: NDArray[Any]) -> dict[str, float]:
    """Return R² of a ridge regression, tested on groups it has not seen, by kind of target."""
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 8)))
    guess = cross_val_predict(model, features, target, cv=GroupKFold(5), groups=groups)
    r2 = r2_score(target, guess, multioutput="raw_values")
    n = len(LAGS) * (len(REGIONS) - 1)
    return {"texture": round(r2[:n].mean(), 3), "periodicity": round(r2[n:].mean(), 3)}


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="root of the corpora")
    parser.add_argument("--corpus", default="speech")
    parser.add_argument("--backbone", default="mini")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    where = provenance("torch", "transformers", "numpy", "scipy", "scikit-learn")
    torch.manual_seed(0)
    trained = load_backbone(args.backbone)
    backbones = {"trained": trained, "random": XLSR(trained.config).eval()}

    parts: dict[str, dict[str, Any]] = {}
    for part in ("train", "dev", "test"):
        corpus = open_corpus(f"{args.corpus}:{part}", args.data)
        rows: dict[str, list[Features]] = {}
        for utterance in tqdm(corpus.trials.utterance, part, unit="clip"):
            samples = audio.load(corpus.audio_path(utterance)).samples
            row = {
                "outline": clip_features(samples),
                "fine structure": np.concatenate([texture(samples), periodicity(samples)]),
            }
            row["both"] = np.concatenate([row["outline"], row["fine structure"]])
            clip = torch.from_numpy(samples[None, :N_SAMPLES])
            row |= {name: layer_means(backbone, clip)[0] for name, backbone in backbones.items()}
            for name, value in row.items():
                rows.setdefault(name, []).append(value)
        parts[part] = {name: np.stack(values) for name, values in rows.items()}
        parts[part] |= {name: corpus.trials[name].to_numpy() for name in ("label", "speaker")}

    eers: dict[str, dict[str, Any]] = {}
    outline: dict[str, Features] = {}  # scores
    for name in ("outline", "fine structure", "both"):
        model = classifier().fit(parts["train"][name], parts["train"]["label"])
        for part in ("dev", "test"):
            scores, labels = model.decision_function(parts[part][name]), parts[part]["label"]
            trials = eer_estimate(scores, labels)
            speakers = eer_estimate(scores, labels, [parts[part]["speaker"]])
            eers.setdefault(name, {})[part] = {
                "eer_percent": trials["value"],
                "eer_interval_percent": [trials["low"], trials["high"]],
                "eer_interval_by_speaker_percent": [speakers["low"], speakers["high"]],
            }
            before = outline.setdefault(part, scores)
            gain = bootstrap_eer(before, labels, seed=0, other=scores)
            eers[name][part]["less_than_outline_percent"] = [100 * x for x in interval(gain)]
    all_clips = {k: np.concatenate([part[k] for part in parts.values()]) for k in parts["train"]}
    target, speaker = all_clips["fine structure"], all_clips["speaker"]
    what = (
        "real speech: EER of a logistic regression on three descriptions of a clip, and R2 of the "
        "fine structure guessed from the outline and from each layer"
    )
    report = {
        "backbone": args.backbone,
        "eer": eers,
        "r2": {
            "outline": explained(all_clips["outline"], target, speaker),
            **{
                name: [explained(layer, target, speaker) for layer in np.moveaxis(x, 1, 0)]
                for name, x in all_clips.items()
                if name in backbones
            },
        },
    }
    write(args.out, what, where, report)
    print(json.dumps({"eer": eers, "outline": report["r2"]["outline"]}, indent=1))


if __name__ == "__main__":
    main()
