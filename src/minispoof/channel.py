"""The path of a recording in :mod:`minispoof.corpus`: room, microphone, noise, codec, file.

Everything here is drawn from the generator that is passed in, and is applied to recordings of both
classes alike. The codecs are those of libsndfile.
"""

from __future__ import annotations

import hashlib
import io
import struct

import numpy as np
import scipy  # which loads its parts when they are used
import soundfile as sf
import soxr

from minispoof.attacks import Rng, Samples, Seed, level
from slslib.data.audio import SAMPLE_RATE as FS
from slslib.errors import ConfigError

Codec = tuple[int, str, str, float | None]  # rate, container, coding, compression
PHONE: dict[str, Codec | None] = {
    "none": None,
    "alaw": (8000, "WAV", "ALAW", None),
    "ulaw": (8000, "WAV", "ULAW", None),
    "gsm": (8000, "WAV", "GSM610", None),
    "opus": (16000, "OGG", "OPUS", 0.95),
}
MEDIA: dict[str, Codec | None] = {
    "nocodec": None,
    "low_mp3": (16000, "MP3", "MPEG_LAYER_III", 0.95),
    "high_mp3": (16000, "MP3", "MPEG_LAYER_III", 0.3),
    "low_ogg": (16000, "OGG", "VORBIS", 1.0),
    "high_ogg": (16000, "OGG", "VORBIS", 0.3),
}


def record(samples: Samples, seed: Seed, wild: bool = False) -> Samples:
    """Add a room, a microphone and its noise; return the result at a level of -26 dB."""
    rng = np.random.default_rng(seed)
    decay = rng.uniform(0.2, 0.5) if wild else rng.uniform(0.08, 0.35)
    time = np.arange(int(decay * FS)) / FS
    room = rng.normal(size=len(time)) * 10 ** (-3 * time / decay)
    below = rng.uniform(2, 12) if wild else rng.uniform(8, 22)  # dB
    room *= 10 ** (-below / 20) / np.linalg.norm(room)
    room[0] = 1
    colour = np.interp(np.arange(257), np.linspace(0, 256, 9), rng.uniform(-4, 4, 9))  # dB
    response = scipy.fft.fftshift(scipy.fft.irfft(10 ** (colour / 20)))
    path = scipy.signal.oaconvolve(room, response * scipy.signal.get_window("hann", 512))
    samples = scipy.signal.oaconvolve(samples, path)[256 : 256 + len(samples)]
    return level(_noise(samples, rng.uniform(40, 55), rng), -26)


def transmit(samples: Samples, seed: Seed, codec: str, wild: bool = False) -> Samples:
    """Pass a clip of either class through a random channel.

    Args:
        samples: The clip.
        seed: Seed of the channel's parameters.
        codec: One of ``PHONE`` or ``MEDIA``.
        wild: Add more noise.

    Raises:
        ConfigError: There is no such codec.
    """
    rng = np.random.default_rng(seed)
    known = PHONE | MEDIA
    if codec not in known:
        raise ConfigError(f"there is no codec {codec!r}; the codecs are {', '.join(known)}")
    n_fft = scipy.fft.next_fast_len(len(samples) + 1024, real=True)
    points = np.arange(n_fft // 2 + 1)
    delay = rng.uniform(0, rng.uniform(3, 10), 25)  # ms, group delay every 333 Hz
    delay = np.interp(points, np.linspace(0, n_fft // 2, 25), delay)
    phase = np.cumsum(delay) * 1e-3 * FS * 2 * np.pi / n_fft
    low, high = rng.uniform(40, 120), rng.uniform(6500, 7600)
    frequency = np.maximum(points * FS / n_fft, 1e-3)
    gain = 1 / np.sqrt((1 + (low / frequency) ** 4) * (1 + (frequency / high) ** 24))
    spectrum = scipy.fft.rfft(samples, n_fft) * gain * np.exp(-1j * phase)
    samples = scipy.fft.irfft(spectrum, n_fft)[: len(samples)] * rng.choice([-1, 1])
    samples = _noise(samples, rng.uniform(20, 34) if wild else rng.uniform(28, 45), rng)
    samples = level(samples, -rng.uniform(22, 32))
    settings = known[codec]
    return apply_codec(samples, settings) if settings else samples


def apply_codec(samples: Samples, codec: Codec) -> Samples:
    """Encode and decode; the length does not change."""
    rate, container, coding, compression = codec
    sent = samples if rate == FS else soxr.resample(samples, FS, rate, "HQ")
    buffer = io.BytesIO()
    with sf.SoundFile(buffer, "w", rate, 1, coding, format=container) as file:
        if compression is not None:  # soundfile 0.12 has no argument for this
            value = sf._ffi.new("double *", compression)
            sf._snd.sf_command(file._file, 0x1301, value, 8)  # SFC_SET_COMPRESSION_LEVEL
        file.write(sent)
    buffer.seek(0)
    got, _ = sf.read(buffer)
    got = got if rate == FS else soxr.resample(got, rate, FS, "HQ")
    return np.pad(got, (0, max(0, len(samples) - len(got))))[: len(samples)]


def _noise(samples: Samples, below: float, rng: Rng) -> Samples:
    """Add noise ``below`` dB under the signal; its spectrum falls by up to 6 dB an octave."""
    n = scipy.fft.next_fast_len(len(samples), real=True)
    frequency = np.maximum(scipy.fft.rfftfreq(n, 1 / FS), 50)
    noise = scipy.fft.irfft(scipy.fft.rfft(rng.normal(size=n)) * frequency ** -rng.uniform(0, 1), n)
    return samples + level(noise[: len(samples)], 10 * np.log10(np.mean(samples**2)) - below)


def trim(samples: Samples) -> Samples:
    """Cut silence off both ends."""
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1]


def over_range_flac(pcm: np.ndarray) -> bytes:
    """Encode integers that may exceed 16 bits as 16-bit FLAC, as libFLAC 1.3.2 did.

    Samples are stored as they are (fixed predictor of order 0, Rice codes of 10 bits and a unary
    part). The format allows this, but encoders refuse it.
    """
    block = 4096
    md5 = hashlib.md5(pcm.astype("<i2").tobytes(), usedforsecurity=False)
    info = struct.pack(">HH6x", block, block)
    info += (FS << 44 | 15 << 36 | len(pcm)).to_bytes(8, "big")
    stream = b"fLaC\x80\0\0\x22" + info + md5.digest()
    for number, start in enumerate(range(0, len(pcm), block)):
        part = pcm[start : start + block]
        head = b"\xff\xf8\x75\x08" + chr(number).encode() + struct.pack(">H", len(part) - 1)
        folded = np.where(part >= 0, 2 * part, -2 * part - 1).tolist()
        bits = "00010000" + "00" + "0000" + "1010"  # fixed order 0; Rice, one partition, 10 bits
        bits += "".join(f"{'0' * (value >> 10)}1{value & 1023:010b}" for value in folded)
        bits += "0" * (-len(bits) % 8)
        frame = head + bytes([crc(head, 8, 0x07)]) + int(bits, 2).to_bytes(len(bits) // 8, "big")
        stream += frame + struct.pack(">H", crc(frame, 16, 0x8005))
    return stream


def crc(data: bytes, width: int, polynomial: int) -> int:
    """Return the cyclic redundancy check of a FLAC header (8 bits) or frame (16 bits)."""
    crc, top = 0, 1 << width - 1
    for byte in data:
        crc ^= byte << width - 8
        for _ in range(8):
            crc = (crc << 1 ^ polynomial if crc & top else crc << 1) & (1 << width) - 1
    return crc
