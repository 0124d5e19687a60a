"""The classical baseline, LFCC-GMM: cepstral coefficients, one Gaussian mixture for each class.

*Features.* Linear frequency cepstral coefficients as in the ASVspoof 2019 baseline (Sahidullah,
Kinnunen and Hanilçi, "A comparison of features for synthetic speech detection", Interspeech 2015):
20 ms windows every 10 ms, 512-point power spectrum, 20 triangular filters spaced linearly from 0 Hz
to half the sample rate, logarithm, DCT; then their deltas and double deltas.

*Model.* A mixture of Gaussians with diagonal covariances models the frames of each class. The score
of a clip is the mean over its frames x of log p(x | bona fide) - log p(x | spoof).

This is the LFCC-GMM of ASVspoof 2019. It is also baseline B02 of ASVspoof 2021 (EER 19.30 % on 2021
LA, 25.25 % on 2021 DF), except for the features' resolution. B02 has 30 ms windows every 15 ms, a
1024-point spectrum, and 70 filters from 0 to 4 kHz, of which it keeps 20 coefficients. Its mixtures
have 512 components and see every frame of 25,380 clips. Ours are smaller, and see some frames of
each clip.

There is also a logistic regression on the mean and the standard deviation of each coefficient. It
is a baseline with nothing to choose. Probes use it, because it reads a description linearly.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import fft, ndimage
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from slslib.data import audio
from slslib.data.corpora import Corpus
from slslib.errors import ProtocolError

WINDOW = audio.SAMPLE_RATE // 50  # 20 ms
HOP = audio.SAMPLE_RATE // 100  # 10 ms
N_FFT = 512
N_FILTERS = 20
N_COMPONENTS = 128  # per mixture; chosen on development sets (studies/baselines.py)
N_FRAMES = 20_000  # frames of each class to which its mixture is fitted
# Added to every variance. Frames of digital silence are all alike. A component that describes only
# them would have no variance, and their density would outweigh that of all speech.
VARIANCE_FLOOR = 1e-3


def filterbank(n_filters: int = N_FILTERS, n_fft: int = N_FFT) -> NDArray[np.float64]:
    """Return triangular filters ``[n_filters, n_fft // 2 + 1]``, linear from 0 Hz to Nyquist.

    >>> filterbank(4, 10)[:, :3].round(2).tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    edges = np.linspace(0, n_fft / 2, n_filters + 2)
    distance = np.abs(np.arange(n_fft // 2 + 1) - edges[1:-1, None])
    return np.maximum(0, 1 - distance / edges[1])


def lfcc(samples: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the linear frequency cepstral coefficients of a clip.

    Args:
        samples: 16 kHz mono ``[n_samples]``, at least one window (320 samples).

    Returns:
        The coefficients, ``[n_frames, 20]``.

    Raises:
        ValueError: The clip has another form, or is shorter than one window.
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    power = np.abs(fft.rfft(frames * np.hamming(WINDOW), N_FFT)) ** 2
    # One step of 16-bit audio has a power of about 1e-7 in a filter. Adding it keeps digital
    # silence finite, and no quieter than a dithered pause.
    return fft.dct(np.log(power @ filterbank().T + 1e-7), norm="ortho")


def add_deltas(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """Append first and second differences over time: from ``[n_frames, n]`` to ``[n_frames, 3 n]``.

    A difference is half of the next frame minus the previous frame; edges are repeated.

    >>> add_deltas(np.array([[0.0], [2.0], [4.0]])).tolist()
    [[0.0, 1.0, 0.5], [2.0, 2.0, 0.0], [4.0, 1.0, -0.5]]
    """
    half = (-0.5, 0, 0.5)
    first = ndimage.correlate1d(coefficients, half, axis=0, mode="nearest")
    second = ndimage.correlate1d(first, half, axis=0, mode="nearest")
    return np.concatenate([coefficients, first, second], axis=1)


@dataclass(frozen=True)
class LFCCGMM:
    """The fitted baseline.

    Attributes:
        bonafide: Mixture of the frames of bona fide speech.
        spoof: Mixture of the frames of spoofed speech.
        deltas: Whether the frames include the coefficients' differences.
    """

    bonafide: GaussianMixture
    spoof: GaussianMixture
    deltas: bool

    def score(self, samples: NDArray[np.floating]) -> float:
        """Return the mean log-likelihood ratio of the frames of a clip ``[n_samples]``."""
        frames = _frames(samples, self.deltas)
        return float(self.bonafide.score(frames) - self.spoof.score(frames))


def fit_gmm(
    train: Corpus, n_components: int = N_COMPONENTS, *, deltas: bool = True, seed: int = 0
) -> LFCCGMM:
    """Fit a Gaussian mixture to each class by ten steps of expectation-maximisation.

    A mixture sees at most about 20,000 frames: the same number from each clip of its class, evenly
    spaced in time.

    Args:
        train: Labelled trials of both classes.
        n_components: Number of Gaussians in each mixture.
        deltas: Use the coefficients' differences too.
        seed: Seed of the first means (k-means++).

    Raises:
        AudioError: A recording cannot be read.
        ProtocolError: A training trial has no label, or one class is missing.
    """
    labels = train.trials.label
    if set(labels) != {0, 1}:
        raise ProtocolError(f"{train.protocol} has the labels {set(labels)}; 0 and 1 are needed")
    rng = np.random.default_rng(seed)

    def fit(label: int) -> GaussianMixture:
        corpus = replace(train, trials=train.trials[labels == label])
        most = -(-N_FRAMES // len(corpus))
        frames = per_clip(lambda samples: _frames(samples, deltas, most), corpus)
        mixture = GaussianMixture(
            n_components,
            covariance_type="diag",
            reg_covar=VARIANCE_FLOOR,
            max_iter=10,
            init_params="k-means++",
            random_state=int(rng.integers(2**31)),
        )
        with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
            return mixture.fit(np.concatenate(frames))  # ten steps need not converge

    return LFCCGMM(bonafide=fit(1), spoof=fit(0), deltas=deltas)


def baseline_scores(train: Corpus, test: Corpus, *, deltas: bool = True) -> pd.DataFrame:
    """Fit LFCC-GMM to one corpus and score another.

    Args:
        train: Labelled trials of both classes.
        test: Trials to score; their labels are not used.
        deltas: Use the coefficients' differences too.

    Returns:
        ``utterance`` and ``score``, the mean log-likelihood ratio of a frame, in the order of the
        test protocol.

    Raises:
        AudioError: A recording cannot be read.
        ProtocolError: A training trial has no label, or one class is missing.
    """
    scores = per_clip(fit_gmm(train, deltas=deltas).score, test)
    return pd.DataFrame({"utterance": test.trials.utterance.to_numpy(), "score": scores})


def clip_features(samples: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the mean and standard deviation over time of each coefficient: ``[40]``."""
    coefficients = lfcc(samples)
    return np.concatenate([coefficients.mean(axis=0), coefficients.std(axis=0)])


def per_clip(function: Callable[[NDArray[np.float32]], Any], corpus: Corpus) -> list[Any]:
    """Apply a function to the samples of every trial of a corpus, in its order.

    For a thousand trials or more a progress bar appears, however fast the machine is.

    Args:
        function: `LFCCGMM.score`, `clip_features` or another function of one clip.
        corpus: The trials; their labels are not used.

    Returns:
        What the function returned for each trial.

    Raises:
        AudioError: A recording cannot be read.
    """

    def one(utterance: str) -> Any:
        return function(audio.load(corpus.audio_path(utterance)).samples)

    bar: Any = {"unit": "clip", "leave": False, "disable": len(corpus) < 1000}
    return thread_map(one, corpus.trials.utterance, tqdm_class=tqdm, **bar)


def classifier() -> Pipeline:
    """Return an untrained probe: standardised features, class-balanced logistic regression."""
    return make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
    )


def _frames(samples: NDArray[Any], deltas: bool, most: int | None = None) -> NDArray[np.float64]:
    """Return the frames of a clip, or at most ``most`` of them, evenly spaced."""
    frames = add_deltas(lfcc(samples)) if deltas else lfcc(samples)
    n = min(most or len(frames), len(frames))
    return frames[np.linspace(0, len(frames) - 1, n).astype(int)]
