"""MiniSpoof: a small simulated corpus, for running everything anywhere.

It says nothing about benchmarks: no person and no text-to-speech system was recorded. Voices come
from a source-filter synthesizer (Fant 1960, Klatt 1980): jittered and shimmered glottal pulses and
breath noise through formants that move between random targets, with fricatives, stops, pauses, a
speaker's own pitch and vocal tract, a room and a microphone. *Bona fide* is that recording. *Spoof*
is another recording of the same kind after analysis and resynthesis, an attack that leaves what
real systems leave:

====== ========== ==============================================================================
attack partitions resynthesis
====== ========== ==============================================================================
M01    train, dev over-smoothed mel spectrogram, random phase above about 2 kHz, upsampler
M02    train, dev linear prediction held over long frames, excited by pulses or noise
M03    train, dev images and tones of an upsampler only (Pons et al., ICASSP 2021)
M04    eval       smoothed spectral envelope, excited by pulses or noise, minimum phase
M05    eval       coarse mel bands of short frames, random phase, another upsampler
====== ========== ==============================================================================

Both classes then pass through the same channel: a random all-pass filter and polarity, so that the
waveform's asymmetry tells nothing, a band limit, a noise floor and a level. Durations, pauses and
voices have one distribution. Partitions share no speaker.

Folders and protocols are those of ASVspoof 2019 LA, so what reads the real corpus reads this one.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray
from scipy import fft, signal
from tqdm import tqdm

from slslib.audio import SAMPLE_RATE as FS
from slslib.errors import ConfigError

Samples = NDArray[np.float64]
Spectrum = NDArray[np.complex128]
Rng = np.random.Generator

VERSION = 2  # of what is written: raised whenever the same seed would give other bytes
PARTITIONS = ("train", "dev", "eval")
SPEAKERS = 12  # in each partition
_HOP = 128  # samples between the synthesizer's control frames: 8 ms

_README = """\
MiniSpoof, a SIMULATION. Nobody was recorded: both classes were computed by slslib.minispoof
(version {version}, seed {seed}). "bonafide" is a synthetic voice, "spoof" is such a voice
resynthesised. The layout is that of ASVspoof 2019 LA so that the same code reads it. Numbers
obtained on it say nothing about any benchmark.
"""


def write(
    directory: str | Path,
    *,
    seed: int = 1234,
    n_train: int = 240,
    n_dev: int = 80,
    n_eval: int = 80,
    jobs: int = 2,
    progress: bool = True,
) -> Path:
    """Write the corpus, or find it there.

    The same arguments give the same bytes. The folder appears under its name when it is complete;
    one that holds the corpus of the same arguments already is left as it is.

    Args:
        directory: folder to create; it will hold ``LA/`` and can be given as ``--data``.
        seed: of everything random.
        n_train: clips in the training partition, half of them bona fide.
        n_dev: clips in the development partition.
        n_eval: clips in the evaluation partition.
        jobs: threads.
        progress: show a progress bar.

    Returns:
        The directory.

    Raises:
        ConfigError: a count is too small, or the folder holds something else.
    """
    root = Path(directory)
    counts = dict(zip(PARTITIONS, (n_train, n_dev, n_eval), strict=True))
    if min(counts.values()) < 2 or jobs < 1:
        raise ConfigError(
            f"MiniSpoof needs two clips per partition and a job; got {counts}, {jobs}."
        )
    settings = {"corpus": "minispoof", "version": VERSION, "seed": seed, **counts}
    marker = root / "minispoof.json"
    if marker.is_file() and json.loads(marker.read_text()) == settings:
        return root
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ConfigError(
            f"{root} exists and is not the MiniSpoof corpus of {settings}; remove it or choose "
            f"another folder."
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        clips = []
        for number, (partition, count) in enumerate(counts.items()):
            clips += _plan_partition(
                temporary, partition, count, np.random.default_rng([seed, number])
            )
        with ThreadPoolExecutor(jobs) as pool:
            done = pool.map(lambda clip: clip.write(), clips)
            for _ in tqdm(done, "MiniSpoof", len(clips), unit="clip", disable=not progress):
                pass
        (temporary / "README.txt").write_text(_README.format(version=VERSION, seed=seed))
        (temporary / marker.name).write_text(json.dumps(settings) + "\n")
        temporary.chmod(0o755)
        temporary.replace(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


@dataclass(frozen=True)
class _Clip:
    path: Path
    voice: Voice
    attack: str  # "-" for bona fide
    rng: Rng

    def write(self) -> None:
        samples = make_clip(self.voice, self.attack, self.rng)
        sf.write(self.path, np.round(samples * 32767).astype(np.int16), FS, subtype="PCM_16")


def _plan_partition(root: Path, partition: str, count: int, rng: Rng) -> list[_Clip]:
    """Write one partition's protocol and return the clips to make."""
    top = root / "LA"
    folder = top / f"ASVspoof2019_LA_{partition}" / "flac"
    protocols = top / "ASVspoof2019_LA_cm_protocols"
    folder.mkdir(parents=True)
    protocols.mkdir(exist_ok=True)
    names = ATTACKS["eval" if partition == "eval" else "train"]
    attacks = ["-" if i % 2 else names[i // 2 % len(names)] for i in range(count)]
    rng.shuffle(attacks)
    voices = [Voice.draw(rng) for _ in range(SPEAKERS)]
    clips, lines = [], []
    for i, (attack, generator) in enumerate(zip(attacks, rng.spawn(count), strict=True)):
        speaker = int(rng.integers(SPEAKERS))
        utterance = f"MS_{partition[0].upper()}_{i + 1:05d}"
        name = f"MS_{partition[0].upper()}{speaker + 1:02d}"
        key = "bonafide" if attack == "-" else "spoof"
        lines.append(f"{name} {utterance} - {attack} {key}\n")
        clips.append(_Clip(folder / f"{utterance}.flac", voices[speaker], attack, generator))
    suffix = "trn" if partition == "train" else "trl"
    (protocols / f"ASVspoof2019.LA.cm.{partition}.{suffix}.txt").write_text("".join(lines))
    return clips


def make_clip(voice: Voice, attack: str, rng: Rng) -> Samples:
    """Return one clip of 1.5 to 4.5 s: speech, room, attack (``"-"``: none), channel."""
    samples = record(speak(voice, int(rng.uniform(1.5, 4.5) * FS), rng), rng)
    if attack != "-":
        samples = _equalize(_ATTACKS[attack](samples, rng), samples)
    return transmit(samples, rng)


# ----------------------------------------------------------------------------------------- voices


@dataclass(frozen=True)
class Voice:
    """What is a speaker's own."""

    pitch: float  # Hz
    tract: float  # factor on all formants
    tilt: float  # pole of the glottal low-pass
    breath: float  # noise relative to the pulses
    jitter: float  # of a pulse's instant, relative to the period
    shimmer: float  # of a pulse's amplitude
    upper: tuple[float, ...]  # fourth to seventh formant, Hz
    bandwidths: tuple[float, ...]  # of the seven formants, Hz
    rate: float  # of speech

    @classmethod
    def draw(cls, rng: Rng) -> Voice:
        """Draw a speaker."""
        return cls(
            pitch=float(np.exp(rng.uniform(np.log(90), np.log(240)))),
            tract=float(rng.uniform(0.88, 1.18)),
            tilt=float(rng.uniform(0.80, 0.94)),
            breath=float(10 ** rng.uniform(-1.6, -0.8)),
            jitter=float(rng.uniform(0.004, 0.015)),
            shimmer=float(rng.uniform(0.03, 0.10)),
            upper=tuple(np.array([3450, 4400, 5500, 6600]) * rng.uniform(0.95, 1.05, 4)),
            bandwidths=tuple(
                np.array([60, 80, 120, 180, 250, 350, 450]) * rng.uniform(0.8, 1.4, 7)
            ),
            rate=float(rng.uniform(0.85, 1.2)),
        )


def speak(voice: Voice, n_samples: int, rng: Rng) -> Samples:
    """Synthesize nonsense speech: ``[n_samples]``."""
    n_frames = n_samples // _HOP + 3
    n = n_frames * _HOP
    voiced, noisy, formants, centre = _articulate(voice, n_frames, rng)
    grid, frame_grid = np.arange(n), np.arange(n_frames) * _HOP
    cycles = np.cumsum(np.interp(grid, frame_grid, _intonation(voice, n_frames, rng)) / FS)

    before = np.flatnonzero(np.diff(np.floor(cycles)))  # the samples before each pulse
    step = cycles[before + 1] - cycles[before]
    instants = before + (np.ceil(cycles[before]) - cycles[before]) / step
    instants += rng.normal(0, voice.jitter, len(instants)) / step
    level = np.interp(instants, frame_grid, voiced) / np.sqrt(100 * step)
    level *= np.maximum(0.1, 1 + rng.normal(0, voice.shimmer, len(instants)))
    pulses = _pulses(instants, level, n)
    # Breath is louder while the glottis is open.
    breath = rng.normal(size=n) * (0.3 + np.maximum(0, np.sin(2 * np.pi * cycles)))
    breath *= np.interp(grid, frame_grid, voiced) * voice.breath
    hiss = rng.normal(size=n) * np.interp(grid, frame_grid, noisy)

    n_fft = 768  # a frame of 256 and the ringing of the formants
    z = np.exp(-2j * np.pi * np.arange(n_fft // 2 + 1) / n_fft)
    glottis = (1 - z) / (1 - voice.tilt * z) ** 2
    tract = np.ones((n_frames, len(z)), dtype=np.complex128)
    upper = np.tile(voice.upper, (n_frames, 1))
    resonances = np.minimum(np.hstack([formants, upper]) * voice.tract, 7600)
    for resonance, bandwidth in zip(resonances.T, voice.bandwidths, strict=True):
        radius = np.exp(-np.pi * bandwidth / FS)
        a1, a2 = 2 * radius * np.cos(2 * np.pi * resonance / FS), radius**2
        tract *= (1 - a1 + a2)[:, None] / (1 - a1[:, None] * z + a2 * z**2)
    distance = np.arange(len(z)) * FS / n_fft - centre[:, None]
    friction = 1 / (1 + (distance / (0.3 * centre[:, None] + 300)) ** 2)

    def frames(x: Samples) -> Spectrum:
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, _HOP), 2 * _HOP)[::_HOP]
        return fft.rfft(windows[:n_frames] * _hann(2 * _HOP), n_fft)

    voicing = (frames(pulses) * glottis + frames(breath) * (1 - 0.6 * z)) * tract
    speech = fft.irfft(voicing + frames(hiss) * friction, n_fft)
    return _overlap_add(speech, _HOP)[_HOP : _HOP + n_samples]


def _articulate(voice: Voice, n_frames: int, rng: Rng) -> tuple[Samples, ...]:
    """Return tracks per frame: voiced and noise level, three formants, centre of the noise."""
    voiced, noisy = np.zeros(n_frames), np.zeros(n_frames)
    formants, centre = np.zeros((n_frames, 3)), np.full(n_frames, 4000.0)
    per_ms = 1e-3 * FS / _HOP / voice.rate

    def duration(low: float, high: float) -> int:
        return int(rng.uniform(low, high) * per_ms)

    t, end = duration(50, 300), n_frames - duration(50, 300)
    kinds = ["fricative", "stop", "sonorant", "none", "pause"]
    while t < end:
        kind = rng.choice(kinds, p=[0.25, 0.25, 0.25, 0.13, 0.12])
        if kind == "pause":
            t += duration(80, 350)
        elif kind != "none":
            now = slice(t, t + duration(45, 120))
            if kind == "fricative":
                noisy[now], centre[now] = 10 ** rng.uniform(-1.6, -0.7), rng.uniform(2200, 7000)
                voiced[now] = rng.choice([0.0, 0.25])
            elif kind == "stop":
                burst = slice(now.stop - 2, now.stop)
                noisy[burst], centre[burst] = 10 ** rng.uniform(-1.2, -0.4), rng.uniform(1200, 5000)
            else:
                voiced[now] = rng.uniform(0.15, 0.4)
                formants[now] = rng.uniform(220, 400), rng.uniform(900, 1800), 2500
            t = now.stop
        vowel = slice(t, t + duration(60, 230))
        voiced[vowel] = rng.uniform(0.5, 1)
        formants[vowel] = rng.uniform([280, 850, 2350], [820, 2300, 3100])
        t = vowel.stop
    voiced[end:], noisy[end:] = 0, 0
    # Where nothing is said the tongue stays where it was, or is where it will be.
    known = np.maximum.accumulate(np.where(formants[:, 0] > 0, np.arange(n_frames), -1))
    formants = formants[np.where(known < 0, np.argmax(formants[:, 0] > 0), known)]
    return _smooth(voiced, 5), _smooth(noisy, 3), _smooth(formants, 9), centre


def _intonation(voice: Voice, n_frames: int, rng: Rng) -> Samples:
    """Return the fundamental frequency per frame in Hz: declination, accents, slow drift."""
    time = np.arange(n_frames) * _HOP / FS
    contour = -0.06 * time
    for _ in range(max(2, int(2 * time[-1]))):
        distance = (time - rng.uniform(0, time[-1])) / rng.uniform(0.08, 0.25)
        contour += rng.uniform(-0.25, 0.3) * np.exp(-0.5 * distance**2)
    drift = np.cumsum(rng.normal(0, 0.006, n_frames))
    return voice.pitch * np.exp(contour + drift - np.linspace(0, drift[-1], n_frames))


def record(samples: Samples, rng: Rng) -> Samples:
    """Add a room, a microphone and background noise; return it at a level of -26 dB."""
    decay = rng.uniform(0.08, 0.35)
    time = np.arange(int(decay * FS)) / FS
    room = rng.normal(size=len(time)) * 10 ** (-3 * time / decay)
    room *= 10 ** (-rng.uniform(8, 22) / 20) / np.linalg.norm(room)
    room[0] = 1
    colour = np.interp(np.arange(257), np.linspace(0, 256, 9), rng.uniform(-4, 4, 9))  # dB
    microphone = fft.fftshift(fft.irfft(10 ** (colour / 20))) * _hann(512)
    samples = signal.fftconvolve(samples, signal.fftconvolve(room, microphone))
    samples = samples[256 : len(samples) - len(time) - 254]
    return _level(_noise_floor(samples, rng.uniform(30, 50), rng), 26)


def transmit(samples: Samples, rng: Rng) -> Samples:
    """Pass a clip of either class through the same random channel."""
    n_fft = fft.next_fast_len(len(samples) + 1024, real=True)
    points = np.arange(n_fft // 2 + 1)
    delay = rng.uniform(0, rng.uniform(1, 4), 25)  # ms, group delay every 333 Hz
    delay = np.interp(points, np.linspace(0, n_fft // 2, 25), delay)
    phase = np.cumsum(delay) * 1e-3 * FS * 2 * np.pi / n_fft
    low, high = rng.uniform(40, 120), rng.uniform(6500, 7600)
    frequency = np.maximum(points * FS / n_fft, 1e-3)
    gain = 1 / np.sqrt((1 + (low / frequency) ** 4) * (1 + (frequency / high) ** 24))
    spectrum = fft.rfft(samples, n_fft) * gain * np.exp(-1j * phase)
    samples = fft.irfft(spectrum, n_fft)[: len(samples)] * rng.choice([-1, 1])
    samples = _level(_noise_floor(samples, rng.uniform(28, 45), rng), rng.uniform(18, 28))
    return samples / max(1, np.abs(samples).max() / 0.98)


# ---------------------------------------------------------------------------------------- attacks


def _m01(samples: Samples, rng: Rng) -> Samples:
    size, hop = 512, 128
    spectrum = _stft(samples, size, hop)
    bank, inverse = _mel_bands(int(rng.choice([24, 32, 40])), size)
    log_mel = _smooth(np.log(np.abs(spectrum) @ bank.T + 1e-5), int(rng.integers(4, 9)))
    magnitude = np.maximum(np.exp(log_mel) @ inverse, 0)
    phase = _phase_below(spectrum, rng.uniform(1500, 2500), rng)
    return _upsampler(_istft(magnitude * phase, hop, samples), 8, rng)


def _m02(samples: Samples, rng: Rng) -> Samples:
    hop = int(rng.integers(240, 420))
    frames = _frames(np.pad(samples, (hop // 2, 2 * hop)), 2 * hop, hop)
    predictor, error = _linear_prediction(frames * _hann(2 * hop), int(rng.integers(12, 17)))
    gain = np.sqrt(error / (0.75 * hop))
    excitation = _excitation(samples, hop, len(frames), rng)
    excitation = excitation.reshape(-1, hop) * gain[:, None]
    n_fft = 2048
    filtered = fft.rfft(excitation, n_fft) / fft.rfft(predictor, n_fft)
    return _overlap_add(fft.irfft(filtered, n_fft), hop)[: len(samples)]


def _m03(samples: Samples, rng: Rng) -> Samples:
    return _upsampler(samples, 8, rng)


def _m04(samples: Samples, rng: Rng) -> Samples:
    size, hop = 512, 128
    power = np.abs(_stft(samples, size, hop)) ** 2
    bank, _ = _mel_bands(int(rng.choice([24, 28])), size)
    weights = bank / bank.sum(axis=1, keepdims=True)
    cepstrum = fft.irfft(0.5 * np.log(power @ weights.T @ bank + 1e-8))
    cepstrum[:, 1 : size // 2] *= 2  # folded: the response of minimum phase
    cepstrum[:, size // 2 + 1 :] = 0
    envelope = np.exp(fft.rfft(cepstrum))
    excitation = _excitation(samples, hop, len(samples) // hop + 2, rng)[: len(samples)]
    excited = _stft(excitation, size, hop)
    return _istft(excited * envelope / np.sqrt(size / 2), hop, samples)


def _m05(samples: Samples, rng: Rng) -> Samples:
    size, hop = 512, 256
    spectrum = _stft(samples, size, hop)
    bank, inverse = _mel_bands(int(rng.choice([24, 32])), size)
    magnitude = np.maximum(np.abs(spectrum) @ bank.T @ inverse, 0)
    phase = _phase_below(spectrum, rng.uniform(1200, 2000), rng)
    return _upsampler(_istft(magnitude * phase, hop, samples), 5, rng)


_ATTACKS: dict[str, Callable[[Samples, Rng], Samples]] = {
    "M01": _m01, "M02": _m02, "M03": _m03, "M04": _m04, "M05": _m05
}  # fmt: skip
ATTACKS = {"train": ("M01", "M02", "M03"), "dev": ("M01", "M02", "M03"), "eval": ("M04", "M05")}


def _equalize(samples: Samples, reference: Samples) -> Samples:
    """Give the samples the long-term spectrum of the reference, in bands of 333 Hz."""
    n = len(samples)
    edges = np.linspace(0, n // 2 + 1, 25).astype(int)
    spectrum = fft.rfft(samples)
    energies = [
        np.add.reduceat(np.abs(x) ** 2, edges[:-1]) + 1e-12 for x in (fft.rfft(reference), spectrum)
    ]
    gain = 0.5 * np.log(energies[0] / energies[1])
    points = (edges[:-1] + edges[1:]) / 2
    return fft.irfft(spectrum * np.exp(np.interp(np.arange(n // 2 + 1), points, gain)), n)


def _phase_below(spectrum: Spectrum, split: float, rng: Rng) -> Spectrum:
    """Return unit phasors: the spectrum's own below ``split`` Hz, random above."""
    phasors = np.exp(2j * np.pi * rng.random(spectrum.shape))
    kept = spectrum[:, : int(split / (FS / 2) * spectrum.shape[1])]
    phasors[:, : kept.shape[1]] = kept / np.maximum(np.abs(kept), 1e-12)
    return phasors


def _upsampler(samples: Samples, period: int, rng: Rng) -> Samples:
    """Leave the marks of transposed convolutions whose product of strides is ``period``.

    An unbalanced kernel multiplies the signal by a pattern of that period, which copies the
    spectrum round the multiples of FS / period; a bias adds such a pattern, which is heard as
    tones at those frequencies. Both are 22 to 34 dB under the signal of the moment, so that
    pauses stay pauses.
    """
    kernel, bias = rng.normal(size=(2, period))
    kernel = _level(kernel - kernel.mean(), rng.uniform(22, 34))
    bias = _level(bias - bias.mean(), rng.uniform(22, 34))
    loudness = np.sqrt(np.maximum(signal.oaconvolve(samples**2, _hann(640) / 320, "same"), 0))
    return samples * (1 + np.resize(kernel, len(samples))) + loudness * np.resize(
        bias, len(samples)
    )


def _linear_prediction(frames: Samples, order: int) -> tuple[Samples, Samples]:
    """Return predictors ``[frames, order + 1]`` and error energies, by Levinson's recursion."""
    correlation = fft.irfft(np.abs(fft.rfft(frames, 2 * frames.shape[1])) ** 2)[:, : order + 1]
    correlation[:, 0] = correlation[:, 0] * 1.0001 + 1e-9
    predictor = np.zeros((len(frames), order + 1))
    predictor[:, 0] = 1
    error = correlation[:, 0].copy()
    for i in range(1, order + 1):
        reflection = -np.sum(predictor[:, :i] * correlation[:, i:0:-1], axis=1) / error
        predictor[:, 1 : i + 1] += reflection[:, None] * predictor[:, i - 1 :: -1][:, :i]
        error *= 1 - reflection**2
    return predictor, error


def _excitation(samples: Samples, hop: int, n_frames: int, rng: Rng) -> Samples:
    """Return unit-power pulses where a frame is periodic, else noise: ``[n_frames * hop]``."""
    size, low, high = 800, FS // 320, FS // 70
    padded = np.pad(samples, (size // 2, size + n_frames * hop))
    frames = _frames(padded, size, hop)[:n_frames]
    power = np.abs(fft.rfft(frames * _hann(size), 2 * size)) ** 2
    power[:, size // 8 :] = 0  # above 1 kHz
    taper = fft.irfft(np.abs(fft.rfft(_hann(size), 2 * size)) ** 2)[:high]
    correlation = fft.irfft(power)[:, :high] / taper * taper[0]
    correlation /= correlation[:, :1] + 1e-9
    # A weight on short lags, because two periods correlate as well as one.
    lag = low + np.argmax(correlation[:, low:] * np.linspace(1, 0.85, high - low), axis=1)
    periodic = correlation[np.arange(len(lag)), lag] > 0.5
    pitch: Samples = FS / signal.medfilt(lag.astype(float), 3)
    cycles = np.cumsum(np.repeat(pitch, hop) / FS)
    instants: Samples = np.flatnonzero(np.diff(np.floor(cycles))).astype(np.float64) + 1
    pulses = _pulses(instants, np.sqrt(FS / pitch)[instants.astype(int) // hop], n_frames * hop)
    return np.where(np.repeat(periodic, hop), pulses, rng.normal(size=n_frames * hop))


# ----------------------------------------------------------------------------------------- tools


def _pulses(instants: Samples, level: NDArray[np.floating], n_samples: int) -> Samples:
    """Return band-limited impulses at fractional instants."""
    whole, offset = np.floor(instants).astype(int)[:, None], np.arange(-8, 9)
    distance = offset - (instants[:, None] - whole)
    kernel = np.sinc(0.96 * distance) * np.cos(np.pi * distance / 18) ** 2 * level[:, None]
    position = np.clip(whole + offset + 8, 0, n_samples + 15)
    total = np.bincount(position.ravel(), kernel.ravel(), n_samples + 16)
    return total[8 : 8 + n_samples].astype(np.float64)


def _frames(samples: Samples, size: int, hop: int) -> Samples:
    return np.lib.stride_tricks.sliding_window_view(samples, size)[::hop]


def _hann(size: int) -> Samples:
    return signal.get_window("hann", size)


def _stft(samples: Samples, size: int, hop: int) -> Spectrum:
    return fft.rfft(_frames(np.pad(samples, (size, 2 * size)), size, hop) * np.sqrt(_hann(size)))


def _istft(spectrum: Spectrum, hop: int, like: Samples) -> Samples:
    frames = fft.irfft(spectrum)
    size = frames.shape[1]
    whole = _overlap_add(frames * np.sqrt(_hann(size)), hop) * (2 * hop / size)
    return whole[size : size + len(like)]


def _overlap_add(frames: Samples, hop: int) -> Samples:
    n_frames, size = frames.shape
    parts = -(-size // hop)
    padded = np.pad(frames, ((0, 0), (0, parts * hop - size))).reshape(n_frames, parts, hop)
    out = np.zeros((n_frames + parts, hop))
    for part in range(parts):
        out[part : part + n_frames] += padded[:, part]
    return out.reshape(-1)


@cache
def _mel_bands(n_bands: int, size: int) -> tuple[Samples, Samples]:
    """Return triangular mel filters ``[n_bands, size // 2 + 1]`` and their pseudo-inverse."""
    edges = 700 * np.expm1(np.linspace(0, np.log1p(FS / 2 / 700), n_bands + 2))
    frequency = np.linspace(0, FS / 2, size // 2 + 1)
    rise = (frequency - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - frequency) / np.diff(edges)[1:, None]
    bank = np.maximum(0, np.minimum(rise, fall))
    return bank, np.linalg.pinv(bank).T


def _smooth(track: Samples, width: int) -> Samples:
    """Average over ``width`` neighbouring frames with a Hann window."""
    window = np.hanning(width + 2)[1:-1]
    padding = [(width // 2, width - 1 - width // 2)] + [(0, 0)] * (track.ndim - 1)
    neighbours = np.lib.stride_tricks.sliding_window_view(np.pad(track, padding, "edge"), width, 0)
    return neighbours @ (window / window.sum())


def _level(samples: Samples, below: float) -> Samples:
    """Scale to an RMS of ``below`` dB under one."""
    return samples * 10 ** (-below / 20) / np.sqrt(np.mean(samples**2))


def _noise_floor(samples: Samples, below: float, rng: Rng) -> Samples:
    """Add white noise ``below`` dB under the signal."""
    return samples + rng.normal(size=len(samples)) * np.sqrt(np.mean(samples**2)) / 10 ** (
        below / 20
    )
