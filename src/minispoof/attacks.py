"""Resynthesis of a recording: the attacks of the simulated corpus :mod:`minispoof.corpus`.

Each attack takes a recording apart and puts it together again, and leaves traces like those of real
systems. The constants below are the strengths of the attacks.

====== ======= ===============================================================================
attack kind    what it does
====== ======= ===============================================================================
M01    known   a mel spectrogram, smoothed over time, and a few rounds of Griffin-Lim
M02    known   linear prediction in steps, excited by pulses or noise (Praat)
M03    known   images and tones of a neural upsampler (Pons et al., ICASSP 2021)
M04    known   a smooth envelope of minimum phase, excited by pulses or noise
M05    unknown Griffin-Lim from random phases (Griffin and Lim, 1984)
M06    unknown pitch and rhythm changed by PSOLA (Praat; Moulines and Charpentier, 1990)
M07    unknown stretched and shrunk again by a phase vocoder (Flanagan and Golden, 1966)
M08    unknown spectral envelope over-smoothed in time, phases kept
M09    unknown short units from slightly wrong places, with audible joints
M10    unknown coarse envelope, quantised and held for a frame, as of a neural codec
====== ======= ===============================================================================

*Known* attacks are those of the training set. ``identity`` is a control: analysis and synthesis
without a change. Nothing should be able to tell it from a recording.

Pitch marks, linear prediction and PSOLA come from Praat (``praat-parselmouth``, GPL, optional).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import scipy  # which loads its parts when they are used
from numpy.typing import NDArray

from slslib.data.audio import SAMPLE_RATE as FS
from slslib.errors import ConfigError

Samples = NDArray[np.float64]
Spectrum = NDArray[np.complex128]
Rng = np.random.Generator
Seed = int | np.random.Generator  # or anything else that numpy.random.default_rng takes

KNOWN = ("M01", "M02", "M03", "M04")
UNKNOWN = ("M05", "M06", "M07", "M08", "M09", "M10")
CONTROL = "identity"

# Strengths. If a strength is a range, each clip draws its own from it.
MEL_BANDS = (24, 40)  # M01; fewer bands lose more of the envelope
MEL_FRAMES = (4, 8)  # M01: frames of 8 ms that are averaged
MEL_ROUNDS = 4  # M01: of Griffin-Lim
LPC_ORDER = (12, 16)  # M02
LPC_STEP = 0.02  # M02: s between predictors
IMAGES_DB = (19.0, 30.0)  # M03: level of images and tones below the signal
ENVELOPE_BANDS = (30, 38)  # M04
GRIFFIN_LIM_ROUNDS = 2  # M05
PSOLA_PITCH = 0.25  # M06: largest relative change of the pitch
PSOLA_RATE = 0.25  # M06: largest relative change of the rate
STRETCH = (1.6, 2.2)  # M07
SMOOTH_FRAMES = (7, 12)  # M08: frames of 8 ms that are averaged
UNIT = (0.03, 0.07)  # M09: s, length of a unit
UNIT_ERROR = 0.03  # M09: s, largest distance of a unit from its right place
CODE_BANDS = (20, 26)  # M10
CODE_STEP_DB = 4.0  # M10: step of the quantised envelope
OWN_PHASE = (1000.0, 2000.0)  # M10: Hz; phases are kept below and random above

_SIZE, _HOP = 512, 128  # the analysis has windows of 32 ms every 8 ms


def resynthesize(samples: Samples, attack: str, seed: Seed) -> Samples:
    """Take a recording apart and put it together again: ``[n_samples]`` at 16 kHz.

    The result has the recording's length and, in bands of 333 Hz, its long-term spectrum, so
    neither distinguishes it from a recording.

    Args:
        samples: The recording.
        attack: One of ``KNOWN``, ``UNKNOWN`` or ``CONTROL``.
        seed: Seed of everything random.

    Raises:
        ConfigError: There is no such attack.
    """
    if attack not in _ATTACKS:
        raise ConfigError(f"there is no attack {attack!r}; known are {', '.join(_ATTACKS)}")
    return _equalize(_ATTACKS[attack](samples, np.random.default_rng(seed)), samples)


def _identity(samples: Samples, rng: Rng) -> Samples:
    return istft(stft(samples), len(samples))


def _mel_inversion(samples: Samples, rng: Rng) -> Samples:
    n_bands = int(rng.integers(*MEL_BANDS, endpoint=True))
    mel = _log_mel(stft(samples), n_bands)
    _, inverse = _mel_bands(n_bands)
    mel = _smooth(mel, int(rng.integers(*MEL_FRAMES, endpoint=True)))
    return _griffin_lim(np.maximum(np.exp(mel) @ inverse, 0), len(samples), MEL_ROUNDS, rng)


def _linear_prediction(samples: Samples, rng: Rng) -> Samples:
    import parselmouth
    from parselmouth.praat import call

    order = int(rng.integers(*LPC_ORDER, endpoint=True))
    sound = parselmouth.Sound(samples, FS)
    predictor = call(sound, "To LPC (autocorrelation)", order, 0.03, LPC_STEP, 50)
    source = parselmouth.Sound(_excitation(samples, rng), FS)
    return np.asarray(call([predictor, source], "Filter", "yes").values[0], dtype=np.float64)


def _upsampler(samples: Samples, rng: Rng) -> Samples:
    """Leave the marks of transposed convolutions whose product of strides is 8.

    An unbalanced kernel multiplies the signal by a pattern of 8 samples, which copies the spectrum
    around the multiples of FS / 8. A bias adds such a pattern, which is heard as tones at those
    frequencies. Both follow the loudness, so that pauses stay pauses.
    """
    kernel, bias = rng.normal(size=(2, 8))
    kernel = level(kernel - kernel.mean(), -rng.uniform(*IMAGES_DB))
    bias = level(bias - bias.mean(), -rng.uniform(*IMAGES_DB))
    loudness = np.sqrt(np.maximum(scipy.signal.oaconvolve(samples**2, _hann(640) / 320, "same"), 0))
    n = len(samples)
    return samples * (1 + np.resize(kernel, n)) + loudness * np.resize(bias, n)


def _vocoder(samples: Samples, rng: Rng) -> Samples:
    power = np.abs(stft(samples)) ** 2
    bank, _ = _mel_bands(int(rng.integers(*ENVELOPE_BANDS, endpoint=True)))
    weights = bank / bank.sum(axis=1, keepdims=True)
    cepstrum = scipy.fft.irfft(0.5 * np.log(power @ weights.T @ bank + 1e-8))
    cepstrum[:, 1 : _SIZE // 2] *= 2  # folded: the response of minimum phase
    cepstrum[:, _SIZE // 2 + 1 :] = 0
    envelope = np.exp(scipy.fft.rfft(cepstrum))
    return istft(stft(_excitation(samples, rng)) * envelope / np.sqrt(_SIZE / 2), len(samples))


def _griffin_lim_alone(samples: Samples, rng: Rng) -> Samples:
    return _griffin_lim(np.abs(stft(samples)), len(samples), GRIFFIN_LIM_ROUNDS, rng)


def _psola(samples: Samples, rng: Rng) -> Samples:
    import parselmouth
    from parselmouth.praat import call, run

    sound = parselmouth.Sound(samples, FS)
    manipulation = call(sound, "To Manipulation", 0.01, 60, 500)
    pitch = call(manipulation, "Extract pitch tier")
    seconds = len(samples) / FS
    change = 1 + PSOLA_PITCH * rng.uniform(0.5, 1) * rng.choice([-1, 1])
    call(pitch, "Multiply frequencies", 0, seconds, float(change))
    rhythm = call("Create DurationTier", "rhythm", 0, seconds)
    for time in np.arange(0, seconds, 0.2):
        call(rhythm, "Add point", float(time), float(1 + PSOLA_RATE * rng.uniform(-1, 1)))
    call([manipulation, pitch], "Replace pitch tier")
    call([manipulation, rhythm], "Replace duration tier")
    # Praat places the pieces of unvoiced sound at random, by its own generator.
    run(f"random_initializeWithSeedUnsafelyButPredictably ({rng.integers(2**31)})")
    changed = call(manipulation, "Get resynthesis (overlap-add)").values[0]
    run("random_initializeSafelyAndUnpredictably ()")
    return np.resize(np.asarray(changed, dtype=np.float64), len(samples))


def _phase_vocoder(samples: Samples, rng: Rng) -> Samples:
    factor = rng.uniform(*STRETCH)
    longer = _stretch(samples, int(len(samples) * factor))
    return _stretch(longer, len(samples))


def _over_smoothing(samples: Samples, rng: Rng) -> Samples:
    spectrum = stft(samples)
    mel = _log_mel(spectrum, 40)
    smooth = _smooth(mel, int(rng.integers(*SMOOTH_FRAMES, endpoint=True)))
    return istft(_change_envelope(spectrum, smooth - mel), len(samples))


def _concatenation(samples: Samples, rng: Rng) -> Samples:
    out = np.zeros_like(samples)
    fade = np.sin(np.linspace(0, np.pi / 2, 10)) ** 2  # 0.6 ms
    reach = int(UNIT_ERROR * FS)
    padded = np.pad(samples, reach, "reflect")
    start = 0
    while start < len(samples):
        unit = padded[start + int(rng.integers(2 * reach)) :][: int(rng.uniform(*UNIT) * FS)].copy()
        unit = unit[: len(samples) - start]
        if len(unit) > 2 * len(fade):
            unit[: len(fade)] *= fade
            unit[-len(fade) :] *= fade[::-1]
        out[start : start + len(unit)] += unit
        start += max(len(unit) - len(fade), len(fade))
    return out


def _neural_codec(samples: Samples, rng: Rng) -> Samples:
    spectrum = stft(samples)
    mel = _log_mel(spectrum, int(rng.integers(*CODE_BANDS, endpoint=True)))
    step = CODE_STEP_DB / 20 * np.log(10)
    held = np.round(mel[::3] / step).repeat(3, axis=0)[: len(mel)] * step
    spectrum = _change_envelope(spectrum, held - mel)
    split = int(rng.uniform(*OWN_PHASE) / (FS / 2) * spectrum.shape[1])
    random = np.exp(2j * np.pi * rng.random((len(spectrum), spectrum.shape[1] - split)))
    spectrum[:, split:] = np.abs(spectrum[:, split:]) * random
    return istft(spectrum, len(samples))


_OF_KNOWN = (_mel_inversion, _linear_prediction, _upsampler, _vocoder)
_OF_UNKNOWN = (_griffin_lim_alone, _psola, _phase_vocoder, _over_smoothing, _concatenation)
_ATTACKS: dict[str, Callable[[Samples, Rng], Samples]] = dict(
    zip(
        (*KNOWN, *UNKNOWN, CONTROL),
        (*_OF_KNOWN, *_OF_UNKNOWN, _neural_codec, _identity),
        strict=True,
    )
)


# -------------------------------------------------------------------------------- their parts


def _equalize(samples: Samples, reference: Samples) -> Samples:
    """Give the samples the long-term spectrum of the reference, in bands of 333 Hz."""
    n = scipy.fft.next_fast_len(len(samples), real=True)
    edges = np.linspace(0, n // 2 + 1, 25).astype(int)
    spectrum = scipy.fft.rfft(samples, n)
    energies = [
        np.add.reduceat(np.abs(x) ** 2, edges[:-1]) + 1e-12
        for x in (scipy.fft.rfft(reference, n), spectrum)
    ]
    gain = 0.5 * np.log(energies[0] / energies[1])
    points = (edges[:-1] + edges[1:]) / 2
    gain = np.exp(np.interp(np.arange(n // 2 + 1), points, gain))
    return scipy.fft.irfft(spectrum * gain, n)[: len(samples)]


def _griffin_lim(magnitude: Samples, n_samples: int, rounds: int, rng: Rng) -> Samples:
    """Find a signal whose spectrogram is near ``magnitude``, from random phases."""
    samples = istft(magnitude * np.exp(2j * np.pi * rng.random(magnitude.shape)), n_samples)
    for _ in range(rounds):
        spectrum = stft(samples)
        samples = istft(magnitude * spectrum / np.maximum(np.abs(spectrum), 1e-12), n_samples)
    return samples


def _stretch(samples: Samples, n_samples: int) -> Samples:
    """Change the duration and keep the pitch: magnitudes interpolated, phases accumulated."""
    spectrum = stft(samples)
    n_frames = n_samples // _HOP + _SIZE // _HOP + 1
    at = np.linspace(0, len(spectrum) - 1.001, n_frames)
    left, part = at.astype(int), (at % 1)[:, None]
    magnitude = np.abs(spectrum)
    magnitude = (1 - part) * magnitude[left] + part * magnitude[left + 1]
    phase = np.angle(spectrum)
    advance = 2 * np.pi * _HOP * np.arange(phase.shape[1]) / _SIZE
    step = np.diff(phase, axis=0) - advance
    step = advance + step - 2 * np.pi * np.round(step / (2 * np.pi))
    phase = phase[0] + np.cumsum(np.vstack([np.zeros_like(advance), step[left[:-1]]]), axis=0)
    return istft(magnitude * np.exp(1j * phase), n_samples)


def _excitation(samples: Samples, rng: Rng) -> Samples:
    """Return unit-power pulses where the recording is voiced, else noise: ``[n_samples]``."""
    import parselmouth
    from parselmouth.praat import call

    sound = parselmouth.Sound(samples, FS)
    marks = call([sound, sound.to_pitch(0.01, 60, 500)], "To PointProcess (cc)")
    n, voiced = len(samples), np.zeros(len(samples), bool)
    pulses = np.zeros(n)
    if call(marks, "Get number of points") > 1:
        instants = np.asarray(call(marks, "To Matrix").values[0]) * FS
        period = np.diff(instants)
        periodic = period < FS / 60
        instants, period = instants[:-1][periodic], period[periodic]
        for start, length in zip(instants.astype(int), np.ceil(period).astype(int), strict=True):
            voiced[start : start + length] = True
        pulses = _pulses(instants, np.sqrt(period), n)
    return np.where(voiced, pulses, rng.normal(size=n))


def _pulses(instants: Samples, height: Samples, n_samples: int) -> Samples:
    """Return band-limited impulses at fractional instants."""
    whole, offset = np.floor(instants).astype(int)[:, None], np.arange(-8, 9)
    distance = offset - (instants[:, None] - whole)
    kernel = np.sinc(0.96 * distance) * np.cos(np.pi * distance / 18) ** 2 * height[:, None]
    position = np.clip(whole + offset + 8, 0, n_samples + 15)
    total = np.bincount(position.ravel(), kernel.ravel(), n_samples + 16)
    return total[8 : 8 + n_samples].astype(np.float64)


@cache
def _mel_bands(n_bands: int) -> tuple[Samples, Samples]:
    """Return triangular mel filters ``[n_bands, bins]`` and their pseudo-inverse."""
    edges = 700 * np.expm1(np.linspace(0, np.log1p(FS / 2 / 700), n_bands + 2))
    frequency = np.linspace(0, FS / 2, _SIZE // 2 + 1)
    rise = (frequency - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - frequency) / np.diff(edges)[1:, None]
    bank = np.maximum(0, np.minimum(rise, fall))
    return bank, np.linalg.pinv(bank).T


def _log_mel(spectrum: Spectrum, n_bands: int) -> Samples:
    """Return the logarithm of the magnitudes in mel bands: ``[frames, n_bands]``."""
    bank, _ = _mel_bands(n_bands)
    return np.log(np.abs(spectrum) @ bank.T + 1e-5)


def _change_envelope(spectrum: Spectrum, change: Samples) -> Spectrum:
    """Add ``change`` to the log magnitudes in mel bands, by at most 3, and keep the phases."""
    bank, _ = _mel_bands(change.shape[1])
    weights = bank / np.maximum(bank.sum(axis=0), 1e-9)
    return spectrum * np.exp(np.clip(change, -3, 3) @ weights)


def _smooth(track: Samples, width: int) -> Samples:
    """Average over ``width`` neighbouring frames with a Hann window."""
    window = np.hanning(width + 2)[1:-1]
    padding = [(width // 2, width - 1 - width // 2), (0, 0)]
    neighbours = np.lib.stride_tricks.sliding_window_view(np.pad(track, padding, "edge"), width, 0)
    return neighbours @ (window / window.sum())


def level(samples: Samples, db: float) -> Samples:
    """Scale to an RMS of ``db`` dB relative to one."""
    return samples * 10 ** (db / 20) / np.sqrt(np.mean(samples**2))


def _hann(size: int) -> Samples:
    return scipy.signal.get_window("hann", size)


def stft(samples: Samples) -> Spectrum:
    """Return the spectrum of windows of 32 ms every 8 ms: ``[frames, bins]``."""
    padded = np.pad(samples, (_SIZE, 2 * _SIZE))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _SIZE)[::_HOP]
    return scipy.fft.rfft(windows * np.sqrt(_hann(_SIZE)))


def istft(spectrum: Spectrum, n_samples: int) -> Samples:
    """Overlap and add: the inverse of :func:`stft`."""
    frames = scipy.fft.irfft(spectrum) * np.sqrt(_hann(_SIZE)) * (2 * _HOP / _SIZE)
    parts = _SIZE // _HOP
    out = np.zeros((len(frames) + parts, _HOP))
    for part in range(parts):
        out[part : part + len(frames)] += frames[:, part * _HOP : (part + 1) * _HOP]
    out = out.reshape(-1)[_SIZE : _SIZE + n_samples]
    return np.pad(out, (0, n_samples - len(out)))
