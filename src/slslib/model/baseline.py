"""The baseline: linear frequency cepstral coefficients and logistic regression.

LFCCs as in the ASVspoof 2019 baseline (Sahidullah, Kinnunen and Hanilçi, "A comparison of features
for synthetic speech detection", Interspeech 2015): 20 ms windows every 10 ms, 512-point power
spectrum, 20 triangular filters spaced linearly from 0 Hz to half the sample rate, logarithm, DCT.
A clip is described by the mean and the standard deviation of each coefficient over time, and
a logistic regression with balanced classes scores it. It trains in seconds and shows what a
detector must beat.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import fft
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from slslib.data import audio
from slslib.data.corpora import Corpus
from slslib.errors import AudioError, ProtocolError

WINDOW = audio.SAMPLE_RATE // 50  # 20 ms
HOP = audio.SAMPLE_RATE // 100  # 10 ms
N_FFT = 512
N_FILTERS = 20


def filterbank(n_filters: int = N_FILTERS, n_fft: int = N_FFT) -> NDArray[np.float64]:
    """Return triangular filters ``[n_filters, n_fft // 2 + 1]``, linear from 0 Hz to Nyquist.

    >>> filterbank(4, 10)[:, :3].round(2).tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    edges = np.linspace(0, n_fft / 2, n_filters + 2)
    width = edges[1]
    distance = np.abs(np.arange(n_fft // 2 + 1) - edges[1:-1, None])
    return np.maximum(0, 1 - distance / width)


_FILTERBANK = filterbank()


def lfcc(samples: NDArray[np.floating], deltas: bool = False) -> NDArray[np.float64]:
    """Return the linear frequency cepstral coefficients of a clip.

    Args:
        samples: 16 kHz mono ``[n_samples]``, at least one window (320 samples).
        deltas: append the first and second differences over time.

    Returns:
        ``[n_frames, 20]``, or ``[n_frames, 60]`` with deltas.

    Raises:
        AudioError: the clip is shorter than one window.
    """
    if samples.ndim != 1 or len(samples) < WINDOW:
        raise AudioError(
            f"LFCCs need one channel of at least {WINDOW} samples; got shape {samples.shape}."
        )
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    power = np.abs(fft.rfft(frames * np.hamming(WINDOW), N_FFT)) ** 2
    # One step of 16-bit audio has the power of about 1e-7 in a filter: digital silence stays finite
    # and no quieter than a dithered pause.
    static = fft.dct(np.log(power @ _FILTERBANK.T + 1e-7), norm="ortho")
    if not deltas:
        return static
    first = _delta(static)
    return np.concatenate([static, first, _delta(first)], axis=1)


def clip_features(samples: NDArray[np.floating], deltas: bool = False) -> NDArray[np.float64]:
    """Return the mean and standard deviation over time of each coefficient: ``[40]``."""
    coefficients = lfcc(samples, deltas)
    return np.concatenate([coefficients.mean(axis=0), coefficients.std(axis=0)])


def classifier() -> Pipeline:
    """Return the untrained back end: standardised features, class-balanced logistic regression."""
    return make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
    )


def corpus_features(
    corpus: Corpus, deltas: bool = False, jobs: int = 2, progress: bool = True
) -> NDArray[np.float64]:
    """Return the features of every trial of a corpus, in its order: ``[n_trials, n_features]``.

    Raises:
        AudioError: a recording cannot be read.
    """

    def one(utterance: str) -> NDArray[np.float64]:
        return clip_features(audio.load(corpus.audio_path(utterance)).samples, deltas)

    with ThreadPoolExecutor(jobs) as pool:
        rows: Iterable[NDArray[np.float64]] = pool.map(one, corpus.trials.utterance)
        label = f"LFCC {corpus.name} {corpus.partition}"
        return np.stack(list(tqdm(rows, label, len(corpus), unit="clip", disable=not progress)))


def baseline_scores(
    train: Corpus, test: Corpus, *, deltas: bool = False, jobs: int = 2, progress: bool = True
) -> pd.DataFrame:
    """Train on one corpus, score another.

    Args:
        train: labelled trials of both classes.
        test: trials to score; labels are not looked at.
        deltas: use the coefficients' differences too.
        jobs: threads that read audio.
        progress: show a progress bar.

    Returns:
        ``utterance`` and ``score``, the log odds of bona fide, in the order of the test protocol.

    Raises:
        AudioError: a recording cannot be read.
        ProtocolError: a training trial has no label, or one class is missing.
    """
    labels = train.trials.label.to_numpy()
    if set(np.unique(labels)) != {0, 1}:
        raise ProtocolError(
            f"{train.name} {train.partition}: training needs bona fide and spoofed trials, all of "
            f"them labelled; its labels are {sorted(map(int, np.unique(labels)))}."
        )
    model = classifier().fit(corpus_features(train, deltas, jobs, progress), labels)
    scores = model.decision_function(corpus_features(test, deltas, jobs, progress))
    return pd.DataFrame({"utterance": test.trials.utterance.to_numpy(), "score": scores})


def _delta(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return half the difference between the next and the previous frame, edges repeated."""
    padded = np.pad(coefficients, ((1, 1), (0, 0)), mode="edge")
    return (padded[2:] - padded[:-2]) / 2
