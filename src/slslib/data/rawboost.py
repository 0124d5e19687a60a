"""RawBoost: noise made from the raw waveform, for training on the whole clip.

Tak, Kamble, Patino, Todisco and Evans, "RawBoost: A raw data boosting and augmentation method
applied to automatic speaker verification anti-spoofing", ICASSP 2022. Three kinds of noise and
their combinations:

====== ================ =======================================================================
number name             what it does
====== ================ =======================================================================
0      ``none``         nothing
1      ``lnl``          linear and non-linear convolutive noise (paper, section 3.1)
2      ``isd``          impulsive signal-dependent additive noise (section 3.2)
3      ``ssi``          stationary signal-independent additive noise (section 3.3)
4      ``series-123``   1, then 2, then 3
5      ``series-12``    1, then 2
6      ``series-13``    1, then 3
7      ``series-23``    2, then 3
8      ``parallel-12``  the sum of 1 and 2, each made from the input
====== ================ =======================================================================

An augmentation has two steps. :func:`draw` draws every random number and needs only the clip's
length; :func:`apply` is a pure function of the samples and the drawn numbers. The ranges and the
order of the draws are the published ones. The draws use only methods that `numpy.random.Generator`
and the legacy `numpy.random.RandomState` share. So ``RandomState(7)`` as seed repeats the draws of
a published run after ``np.random.seed(7)``. The arithmetic is float64 (in ``isd``, only for the
impulses); the result is float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate, repeat
from typing import Any, Literal, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from slslib.data.audio import SAMPLE_RATE
from slslib.errors import AudioError, ConfigError

Samples = NDArray[np.float64]
Random = np.random.Generator | np.random.RandomState
Seed = int | np.integer | np.random.SeedSequence | Random | None
"""Anything that `numpy.random.default_rng` takes; a generator is advanced."""
Algorithm = Literal[
    "none", "lnl", "isd", "ssi", "series-123", "series-12", "series-13", "series-23", "parallel-12"
]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)  # an algorithm's number is its index

_BLOCK, _AT_ONCE = 4096, 4  # samples of a transform (filters: 489 taps at most); transforms at once
_NOISES = dict(zip(ALGORITHMS, ("", "1", "2", "3", "123", "12", "13", "23", "12"), strict=True))


@dataclass(frozen=True)
class Notch:
    """Drawn parameters of one filter, a cascade of stop bands."""

    centres: tuple[float, ...]  # Hz
    bandwidths: tuple[float, ...]  # Hz
    n_taps: tuple[int, ...]  # odd
    gain: float  # largest response, in dB

    def coefficients(self) -> Samples:
        """Return the impulse response, an odd number of taps."""
        taps = reduce(np.convolve, map(self._band, self.centres, self.bandwidths, self.n_taps))
        # Parity: the largest response is sought on 512 points, not exactly.
        response = np.fft.rfft(taps, 1024)[:512]
        return 10 ** (self.gain / 20) * taps / np.abs(response).max()

    def _band(self, centre: float, bandwidth: float, n_taps: int) -> Samples:
        """Return ``firwin(n_taps, [low, high], window="hamming")``, in closed form."""
        nyquist = SAMPLE_RATE / 2
        low = max(centre - bandwidth / 2, 1e-3) / nyquist
        high = min(centre + bandwidth / 2, nyquist - 1e-3) / nyquist
        n = np.arange(n_taps) - (n_taps - 1) / 2
        ideal = np.sinc(n) - high * np.sinc(high * n) + low * np.sinc(low * n)
        taps = ideal * np.hamming(n_taps)
        return taps / taps.sum()  # a response of one at 0 Hz


@dataclass(frozen=True)
class LnL:
    """Drawn parameters of linear and non-linear convolutive noise: one filter per power."""

    filters: tuple[Notch, ...]

    def apply(self, samples: Samples) -> Samples:
        """Return the sum of the filtered powers of the samples, without its mean."""
        result = _filter(samples, [notch.coefficients() for notch in self.filters])
        return _limit(result - result.mean())


@dataclass(frozen=True, eq=False)
class ISD:
    """Drawn parameters of impulsive noise: which samples, and by how much each is multiplied."""

    percent: float  # beta
    positions: NDArray[np.int64]  # without repetition
    factors: Samples  # the product of two uniform draws from [-1, 1), one per position
    gain: float

    def apply(self, samples: Samples) -> Samples:
        """Return the samples; those at the positions are multiplied by ``1 + gain * factor``."""
        result = samples.copy()
        result[self.positions] *= 1 + self.gain * self.factors
        return _limit(result)


@dataclass(frozen=True, eq=False)
class SSI:
    """Drawn parameters of stationary noise: white noise, the filter that colours it, the SNR."""

    noise: Samples  # standard normal, as long as the clip
    notch: Notch
    snr: float  # dB

    def apply(self, samples: Samples) -> Samples:
        """Return the samples plus coloured noise at the drawn SNR; the sum is never normalised."""
        noise = _filter(self.noise, [self.notch.coefficients()])
        # Sums, as a norm would wake the threads of BLAS, which then spin beside other processes.
        noise *= np.sqrt((samples**2).sum() / (noise**2).sum()) / 10 ** (self.snr / 20)
        return noise + samples


@dataclass(frozen=True, eq=False)
class Draw:
    """Every random number of one augmentation of a clip of ``n_samples``."""

    algorithm: Algorithm
    n_samples: int
    lnl: LnL | None = None
    isd: ISD | None = None
    ssi: SSI | None = None


def algorithm_name(algo: int | str) -> Algorithm:
    """Return the name of a RawBoost algorithm, given by number or name.

    Raises:
        ConfigError: There is no such algorithm.

    >>> algorithm_name(3), algorithm_name("4"), algorithm_name("lnl")
    ('ssi', 'series-123', 'lnl')
    """
    for number, name in enumerate(ALGORITHMS):
        if str(algo) in (str(number), name):
            return name
    raise ConfigError(f"no RawBoost algorithm {algo!r}; use 0 to 8 or {', '.join(ALGORITHMS)}")


def draw(algo: int | str, n_samples: int, seed: Seed) -> Draw:
    """Draw the parameters of one augmentation.

    Args:
        algo: Algorithm, by number (0-8) or name.
        n_samples: Length of the whole clip.
        seed: Anything that `numpy.random.default_rng` takes. A generator is advanced by this call;
            a legacy `numpy.random.RandomState` draws as in the published code.

    Raises:
        ConfigError: There is no such algorithm, or the clip is empty.
    """
    name = algorithm_name(algo)
    if n_samples < 1:
        raise ConfigError(f"RawBoost needs at least one sample; got n_samples={n_samples}.")
    rng = seed if isinstance(seed, np.random.RandomState) else np.random.default_rng(seed)
    lnl = isd = ssi = None
    if "1" in _NOISES[name]:
        # Parity: the bias is subtracted once, for the second filter, and stays for the rest.
        gains = [(0.0, 0.0)] + [(-5.0, -20.0)] * 4
        lnl = LnL(tuple(_draw_notch(rng, *bounds) for bounds in gains))
    if "2" in _NOISES[name]:
        percent = float(rng.uniform(0, 10))
        n_impulses = int(n_samples * (percent / 100))
        # Parity: a legacy generator gives the beginning of a permutation, as published.
        positions = rng.choice(n_samples, n_impulses, replace=False)
        factors = (2 * rng.random(n_impulses) - 1) * (2 * rng.random(n_impulses) - 1)
        isd = ISD(percent, positions, factors, gain=2.0)
    if "3" in _NOISES[name]:
        noise = rng.standard_normal(n_samples)
        ssi = SSI(noise, _draw_notch(rng, 0.0, 0.0), snr=float(rng.uniform(10, 40)))
    return Draw(name, n_samples, lnl, isd, ssi)


def apply(samples: NDArray[np.floating], drawn: Draw) -> NDArray[np.float32]:
    """Return the augmented clip: float32 ``[n_samples]``, as long as the input.

    Args:
        samples: The whole clip, float ``[n_samples]`` in units of int16 / 32768; not modified.
        drawn: What `draw` returned for this length.

    Raises:
        AudioError: The clip is not one channel of finite floats of the drawn length.
    """
    form = samples.shape, samples.dtype.kind
    if form != ((drawn.n_samples,), "f") or not np.isfinite(samples).all():
        what = f"an array of shape {samples.shape} and type {samples.dtype}"
        raise AudioError(f"RawBoost was drawn for {drawn.n_samples} finite floats, not for {what}")
    # Impulses leave most samples as they are, so a float64 copy of all would gain nothing.
    clean: Any = samples.astype("f4" if drawn.algorithm == "isd" else "f8", copy=False)
    steps = [step for step in (drawn.lnl, drawn.isd, drawn.ssi) if step]
    if drawn.algorithm == "parallel-12":
        result = _limit(np.sum([step.apply(clean) for step in steps], axis=0))
    else:
        result = reduce(lambda samples, step: step.apply(samples), steps, clean)
    return result.astype(np.float32, copy=False)


def rawboost(samples: NDArray[np.floating], algo: int | str, seed: Seed) -> NDArray[np.float32]:
    """Draw and apply in one call; see :func:`draw` and :func:`apply`.

    >>> clip = np.sin(np.arange(16_000) / 10).astype(np.float32)
    >>> rawboost(clip, "ssi", seed=0).shape
    (16000,)
    """
    return apply(samples, draw(algo, len(samples), seed))


def _draw_notch(rng: Random, first: float, last: float) -> Notch:
    """Draw five stop bands, and a gain between the given bounds in dB."""
    bands = []
    for _ in range(5):
        centre, bandwidth = rng.uniform(20, 8000), rng.uniform(100, 1000)
        bands.append((centre, bandwidth, int(rng.uniform(10, 100)) | 1))  # odd, for a centre
    # Parity: the upper bound may be the lower number (-5, -20). RandomState.uniform accepts that
    # and computes this; Generator.uniform refuses it.
    gain = first + (last - first) * float(rng.uniform())
    centres, bandwidths, n_taps = zip(*bands, strict=True)
    return Notch(centres, bandwidths, n_taps, gain)


def _filter(samples: Samples, filters: Sequence[Samples]) -> Samples:
    """Sum the powers 1, 2, ... of the samples ``[n]``, each convolved with its own filter.

    The method is overlap-save, with one inverse transform for the sum. A few blocks at once are
    faster than one. All at once are slower, because malloc returns such arrays to the kernel.

    Args:
        samples: The samples to filter.
        filters: One filter for each power, with an odd number of taps.
    """
    n, longest = len(samples), max(map(len, filters))
    step = _BLOCK - longest + 1  # samples of a block that are free of circular wrap-around
    # Parity: the published filter pads len(taps) + 1 zeros and drops half of them on either side,
    # so the output starts one sample past the filters' common centre, (longest - 1) / 2.
    lead = longest - 1 - (longest + 1) // 2
    blocks = sliding_window_view(np.pad(samples, (lead, _BLOCK)), _BLOCK)[:n:step]
    responses = [np.fft.rfft(np.pad(h, ((longest - len(h)) // 2, 0)), _BLOCK) for h in filters]
    result = np.empty((len(blocks), step))
    for i in range(0, len(blocks), _AT_ONCE):
        powers = accumulate(repeat(blocks[i : i + _AT_ONCE], len(filters)), np.multiply)
        spectrum = sum(np.fft.rfft(x) * h for x, h in zip(powers, responses, strict=True))
        result[i : i + _AT_ONCE] = np.fft.irfft(spectrum)[:, longest - 1 :]
    return result.ravel()[:n]


def _limit(samples: Samples) -> Samples:
    """Scale to a peak of one, if the peak is above one."""
    peak = max(samples.max(), -samples.min())
    return samples / peak if peak > 1 else samples
