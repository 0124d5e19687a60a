"""Recordings: decode, check, bring to 16 kHz mono, cut to the model's length.

Every array that leaves this module is float32, mono, 16 kHz, with one 16-bit full scale as its unit
(int16 / 32768) and no normalisation. Other rates are converted by soxr (HQ), channels are averaged.

Bad input raises :class:`~slslib.errors.AudioError`; no sample is ever clipped, zeroed or invented.
WAV, FLAC, Ogg (Vorbis, Opus) and MP3 are read; other containers are refused, because libsndfile
shortens them silently where they are truncated. What can be checked is checked: a WAV header
against the file's size, the CRC of every FLAC frame that is decoded, the announced against the
decoded length, and the MD5 of a FLAC file that was decoded to its end. A recording of up to a
minute is always decoded to its end, so a truncated file is refused even where its beginning would
do; a *bounded* read of a longer one (``max_samples``, :func:`windows` that are not exhausted)
vouches for the part it needed and for nothing behind it. What nothing can tell: changed sample
values in a WAV file, most damage inside an MP3 file, a wrong sample rate where the frames do not
state one, and a FLAC file without (or, if over-range, with an unusable) MD5 whose header announces
less than follows.

Over-range FLAC. libFLAC 1.3.2 stored samples beyond 16 bits when it was given them; about a third
of the ASVspoof 2021 files are like that. libsndfile 1.2.0 (soundfile 0.12.1) returns what the
stream predicts, unwrapped and beyond +-1, as the reference system saw it; libsndfile 1.2.2 refuses
such a file, and FFmpeg, which then decodes it with CRC checks, wraps it into 16 bits. The decoder
and the number of over-range samples are reported with the recording. The MD5 of such a file cannot
be checked: libFLAC hashed its input, but predicted it from samples wrapped into 16 bits, while
decoders predict from unwrapped ones, and so leave the encoder's input from the first over-range
sample to the end of the frame. (Of one ASVspoof file whose 18 over-range samples reach 5.6 in
libsndfile, a decoder that wraps the history gives the MD5 of the header, and one over-range sample,
of 1.0.)
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import soundfile as sf
import soxr
from jaxtyping import Float32

from slslib.data.headers import inspect
from slslib.errors import AudioError, ConfigError

SAMPLE_RATE = 16_000
N_SAMPLES = 64_600
"""Samples of the model's input: 4.0375 s."""
MIN_SAMPLES = 400
"""The shortest recording at 16 kHz of which the feature extractor makes one frame."""
AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".oga", ".opus", ".mp3")
"""Endings of the files that :func:`list_recordings` lists."""
RATES = (4_000, 192_000)
MAX_CHANNELS = 8
MAX_SECONDS = 4 * 3600.0
"""Longest recording that :func:`load` returns whole."""

_WHOLE_SECONDS = 60  # recordings up to this length are decoded to their end
_BLOCK = 65_536  # frames decoded at a time
_SILENT_MIX = 1e-6  # energy of the downmix over that of the channels: -60 dB

Mono = Float32[np.ndarray, "samples"]
MD5 = Literal["ok", "bad", "absent", "over-range", "unchecked"]


@dataclass(frozen=True)
class Recording:
    """A decoded recording.

    Attributes:
        samples: float32 mono at 16 kHz, int16 / 32768 units.
        source_rate: Sample rate of the file in Hz.
        channels: Channels of the file, averaged into one.
        n_source_frames: Frames decoded, at the file's rate (all, unless the read was bounded).
        decoder: Name and version of the decoder.
        over_range: Decoded FLAC samples outside the file's integer range; 0 where there are none
            (and for other formats), ``None`` where the decoder wraps them and cannot count them.
        peak: Largest absolute value among the decoded samples, before downmix and resampling.
    """

    samples: Mono
    source_rate: int
    channels: int
    n_source_frames: int
    decoder: str
    over_range: int | None
    peak: float


@dataclass
class FileAudit:
    """What the decoding of one file found; it is filled while the file is decoded.

    Attributes:
        path: The file.
        format: Container (``"WAV"``, ``"FLAC"``, ``"OGG"``, ``"MP3"``), ``subtype`` its coding.
        rate, channels: Sample rate in Hz and channels of the file (0 where it could not be opened).
        frames: Frames decoded, at that rate.
        decoder: Name and version of the decoder.
        over_range, peak: As in :class:`Recording`.
        md5: Of a FLAC file, ``"ok"``, ``"bad"``, ``"absent"``, ``"over-range"`` (does not match, as
            expected of an over-range file: see above) or ``"unchecked"`` (decoding failed);
            ``"absent"`` for other formats.
        content: MD5 of the decoded samples: equal for equal audio in the same sample format.
        problem: Why the file cannot be used, or ``None`` where it is sound.
    """

    path: str
    format: str = ""
    subtype: str = ""
    rate: int = 0
    channels: int = 0
    frames: int = 0
    decoder: str = f"libsndfile {sf.__libsndfile_version__}"
    over_range: int | None = 0
    peak: float = 0.0
    md5: MD5 = "absent"
    content: str = ""
    problem: str | None = None

    @property
    def seconds(self) -> float:
        """Duration of what was decoded."""
        return self.frames / self.rate if self.rate else 0.0


def load(
    path: str | os.PathLike[str],
    *,
    max_samples: int | None = None,
    allow_silence: bool = False,
) -> Recording:
    """Decode a recording to float32 mono at 16 kHz.

    One of more than four hours (:data:`MAX_SECONDS`) is refused, unless ``max_samples`` is given.

    Args:
        path: A WAV, FLAC, Ogg or MP3 file.
        max_samples: Return at most so many samples (at 16 kHz), and of recordings longer than a
            minute decode no more than they need. The result is the beginning of the unbounded one
            (to 1e-6 where the rate is converted).
        allow_silence: Accept all-zero audio, fewer than 400 samples, and stereo whose channels
            cancel in the downmix.

    Raises:
        AudioError: If the file is missing, empty, no regular file, undecodable, truncated, damaged,
            non-finite, silent, too short, too long, or its rate or channel count is out of bounds.
    """
    if max_samples is not None and max_samples < 1:
        raise ConfigError(f"max_samples is {max_samples}; give a positive number of samples")
    source = _Source(FileAudit(os.fspath(path)))
    limit = sys.maxsize
    if max_samples is None:
        source.refuse_overlong()
    elif not source.announced or source.announced > _WHOLE_SECONDS * source.rate:
        # The resampling filter looks less than a tenth of a second ahead.
        ahead = 0 if source.rate == SAMPLE_RATE else source.rate // 10
        limit = -(-max_samples * source.rate // SAMPLE_RATE) + ahead
    blocks = [np.zeros(0, np.float32)]
    for block in source.resampled(limit):
        blocks.append(block)
        if max_samples is None:
            source.refuse_overlong()
    samples = np.concatenate(blocks)[:max_samples]
    source.check_audible(len(samples), bool(samples.any()), allow_silence)
    report = source.found
    return Recording(
        samples=samples,
        source_rate=report.rate,
        channels=report.channels,
        n_source_frames=report.frames,
        decoder=report.decoder,
        over_range=report.over_range,
        peak=report.peak,
    )


def windows(
    path: str | os.PathLike[str],
    n_samples: int = N_SAMPLES,
    hop: int = N_SAMPLES,
    *,
    allow_silence: bool = False,
) -> Iterator[tuple[float, Mono]]:
    """Yield ``(start in seconds, n_samples samples at 16 kHz)`` over a recording of any length.

    The last window ends with the recording, so that every sample is covered once ``hop <=
    n_samples``; a recording shorter than one window is tiled as :func:`fix_length` does. Memory
    does not grow with the recording. Checks that need its end (length, MD5, silence of the whole)
    fail when that is reached: use no window of a recording whose iteration raised.

    Raises:
        AudioError: As :func:`load`.
    """
    if n_samples < 1 or hop < 1:
        raise ConfigError(f"n_samples is {n_samples} and hop {hop}; both must be positive")
    source = _Source(FileAudit(os.fspath(path)))
    kept = np.zeros(0, np.float32)  # the end of the `total` samples so far
    total, start, covered, audible = 0, 0, 0, False
    for block in source.resampled():
        kept = np.concatenate([kept, block])
        total += len(block)
        audible = audible or bool(block.any())
        while start + n_samples <= total:
            yield start / SAMPLE_RATE, kept[start - total :][:n_samples].copy()
            covered = start + n_samples
            start += hop
        kept = kept[-max(total - start, n_samples) :]  # for the window that ends the file
    source.check_audible(total, audible, allow_silence)
    if total > covered:
        last = fix_length(kept[-n_samples:], n_samples)
        yield max(0, total - n_samples) / SAMPLE_RATE, last.copy()


def fix_length(samples: Mono, n_samples: int = N_SAMPLES) -> Mono:
    """Return the first ``n_samples`` samples, or the recording tiled up to that length.

    As ``pad()`` of the original code.

    >>> fix_length(np.array([1, 2, 3], np.float32), 5).tolist()
    [1.0, 2.0, 3.0, 1.0, 2.0]

    Raises:
        AudioError: If there is no sample to repeat.
    """
    if len(samples) == 0:
        raise AudioError("an empty recording cannot be brought to length; check how it was made")
    if len(samples) >= n_samples:
        return samples[:n_samples]
    return np.tile(samples, -(-n_samples // len(samples)))[:n_samples]


def audit(path: str | os.PathLike[str], *, allow_silence: bool = False) -> FileAudit:
    """Decode a whole file, in bounded memory, and say what it holds and what is wrong with it.

    Never raises for bad input: see :attr:`FileAudit.problem`.
    """
    found = FileAudit(os.fspath(path))
    try:
        source = _Source(found, hashing=True)
        audible = [bool(mono.any()) for mono in source.mono()]
        n_samples = found.frames * SAMPLE_RATE // found.rate
        source.check_audible(n_samples, any(audible), allow_silence)
    except AudioError as error:
        found.problem = str(error)
    return found


def list_recordings(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the audio files in a folder and below it, sorted; they are told by their endings.

    Raises:
        AudioError: If there is no such folder, or no audio file in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise AudioError(f"{root}: no such folder; give a folder of audio files.")
    recordings = sorted(p for p in root.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    if not recordings:
        raise AudioError(f"{root}: holds no audio file ({', '.join(AUDIO_SUFFIXES)}).")
    return recordings


class _Stream(sf.SoundFile):  # type: ignore[misc]
    """A file that is read from its beginning to its end.

    soundfile seeks after every read of a seekable file. Where a block ends with a FLAC frame, that
    seek decodes the next frame and drops its CRC error, and the next read returns zeros for it.
    Read without seeking, every damaged frame raises.
    """

    def seekable(self) -> bool:
        return False


class _Source:
    """An open recording; what was decoded so far is noted in ``found``."""

    def __init__(self, found: FileAudit, hashing: bool = False) -> None:
        self.found = found
        self.path = Path(found.path)
        self._refusal = ""
        self._energy = np.zeros(2)  # of the channels, and of their mean
        found.format, self._flac = inspect(self.path)
        self._file = self._open()
        header = self._flac or self._file
        self.rate, self.announced = header.samplerate, header.frames
        found.rate, found.channels, found.subtype = self.rate, header.channels, header.subtype
        self._bits = 16 if found.subtype == "PCM_16" else None
        if self._flac:
            self._bits = self._flac.bits
            found.md5 = "unchecked" if self._flac.md5 else "absent"
        hashing = hashing or found.md5 == "unchecked"
        self._digest = hashlib.md5(usedforsecurity=False) if hashing else None
        if not RATES[0] <= found.rate <= RATES[1]:
            self.fail(f"its sample rate is {found.rate} Hz; resample it to 4-192 kHz")
        if not 1 <= found.channels <= MAX_CHANNELS:
            self.fail(f"it has {found.channels} channels; keep at most {MAX_CHANNELS} of them")

    def fail(self, why: str) -> NoReturn:
        raise AudioError(f"{self.path}: {why}.")

    def _open(self) -> Any:
        """Return the file as libsndfile opens it, or ``None`` for a FLAC file that it refuses."""
        try:
            file = _Stream(os.fsencode(self.path))  # bytes: the name may not be valid UTF-8
        except sf.LibsndfileError as error:
            self._give_up_libsndfile(error)
            return None
        held = "WAV" if file.format == "WAVEX" else file.format
        if held != self.found.format:
            self.fail(f"it looks like {self.found.format} but holds {held}; convert it to FLAC")
        return file

    def _give_up_libsndfile(self, error: sf.LibsndfileError) -> None:
        self._refusal = error.error_string.strip().rstrip(".")
        if not self._flac:
            self.fail(
                f"decoding stopped at frame {self.found.frames} (libsndfile: {self._refusal}); "
                "the file is damaged: fetch or make it again"
            )

    def resampled(self, limit: int = sys.maxsize) -> Iterator[Mono]:
        """Yield the downmix of the first ``limit`` frames at 16 kHz."""
        if self.rate == SAMPLE_RATE:
            yield from self.mono(limit)
            return
        stream = soxr.ResampleStream(self.rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        end = np.zeros(0, np.float32)
        for block in chain(self.mono(limit), [end]):
            converted = stream.resample_chunk(block, last=block is end)
            if not np.isfinite(converted).all():
                self.fail("its samples are too large for float32 after resampling; normalise it")
            yield converted

    def mono(self, limit: int = sys.maxsize) -> Iterator[Mono]:
        """Yield the downmix of the first ``limit`` frames in blocks, noting and checking them."""
        found = self.found
        for block in self._blocks(limit):
            low, high = float(block.min()), float(block.max())
            if not np.isfinite([low, high]).all():
                self.fail(
                    f"it has NaN or infinite samples near frame {found.frames}; make it again"
                )
            found.frames += len(block)
            found.peak = max(found.peak, high, -low)
            if self._flac and found.over_range is not None and (low < -1 or high >= 1):
                found.over_range += int(np.count_nonzero((block < -1) | (block >= 1)))
            if self._digest is not None:
                self._digest.update(_pack(block, self._bits))
            if found.channels == 1:
                yield block[:, 0]
                continue
            wide = block.astype(np.float64)
            mean = wide.mean(axis=1)
            self._energy += (np.square(wide).sum() / found.channels, np.square(mean).sum())
            yield mean.astype(np.float32)
        self._check_end(limit)

    def _blocks(self, limit: int) -> Iterator[np.ndarray]:
        """Yield float32 [frames, channels] from libsndfile, or from FFmpeg where that refuses."""
        if self._file is not None:
            try:
                with self._file as file:
                    while want := min(_BLOCK, limit - self.found.frames):
                        block = file.read(want, dtype="float32", always_2d=True)
                        if len(block):
                            yield block
                        if len(block) < want:
                            break
                return
            except sf.LibsndfileError as error:
                self._give_up_libsndfile(error)
        yield from self._ffmpeg_blocks(limit)

    def _ffmpeg_blocks(self, limit: int) -> Iterator[np.ndarray]:
        """Decode a FLAC file from its beginning; yield what is not in ``found`` yet."""
        import av  # takes 0.1 s, and most corpora never need it

        found, info = self.found, self._flac
        assert info is not None
        found.decoder = f"FFmpeg {av.ffmpeg_version_info}"
        # libsndfile lacks other depths; of these it refuses over-range files, which FFmpeg wraps.
        found.over_range = None if info.bits in (8, 16, 24) else 0
        strict = {"err_detect": "crccheck+explode"}
        try:
            # A file object, not a name: FFmpeg takes some names for URLs.
            with (
                self.path.open("rb") as f,
                av.open(f, format="flac", mode="r", options=strict) as container,
            ):
                stream = container.streams.audio[0]
                stream.codec_context.options = strict
                position = 0
                for frame in container.decode(stream):
                    # FFmpeg's parser skips what it cannot parse; the last frame may lack a time.
                    if frame.pts is None or frame.time_base is None:
                        if position + frame.samples != info.frames:
                            raise ValueError(f"the frame after {position} has no number")
                    elif frame.pts * frame.time_base * found.rate != position:
                        raise ValueError(f"frames are missing after {position}")
                    form = frame.sample_rate, frame.layout.nb_channels
                    if form != (found.rate, found.channels):
                        raise ValueError("the stream changes its rate or channels")
                    pcm = frame.to_ndarray().reshape(-1, found.channels)  # FLAC is not planar
                    new = pcm[max(0, found.frames - position) : limit - position]
                    position += frame.samples
                    if len(new):
                        yield (new / (1 << 8 * pcm.itemsize - 1)).astype(np.float32)
                    if found.frames == limit:
                        return
        except (av.FFmpegError, ValueError, IndexError) as error:
            reason = error.strerror if isinstance(error, av.FFmpegError) else error
            self.fail(
                f"truncated or damaged: neither decoder reads it (libsndfile: {self._refusal}; "
                f"FFmpeg: {reason}); fetch or make it again"
            )

    def _check_end(self, limit: int) -> None:
        """Check the length, and after a decode of the whole file the MD5."""
        found = self.found
        if self.announced is not None and found.frames != min(limit, self.announced):
            self.fail(
                f"truncated or damaged: its header announces {self.announced} frames, "
                f"{found.frames} decode; fetch or make it again"
            )
        if found.frames == limit or self._digest is None:
            return
        found.content = self._digest.hexdigest()
        if found.md5 == "absent":
            return
        assert self._flac is not None
        if found.content == self._flac.md5:
            found.md5 = "ok"
        elif found.over_range or (found.over_range is None and self.announced):
            # No decoder returns what the encoder hashed; see the module's docstring. The CRC of
            # each frame and the length vouch for the data.
            found.md5 = "over-range"
        else:
            found.md5 = "bad"
            self.fail(
                f"damaged: its samples have the MD5 {found.content}, its header says "
                f"{self._flac.md5}; fetch or make it again"
            )

    def refuse_overlong(self) -> None:
        if max(self.announced or 0, self.found.frames) > MAX_SECONDS * self.rate:
            self.fail(
                f"it is longer than {MAX_SECONDS:g} s; read a part of it (max_samples) or windows "
                "of it"
            )

    def check_audible(self, n_samples: int, audible: bool, allow_silence: bool) -> None:
        """Refuse what holds nothing to score; ``n_samples`` is the length at 16 kHz."""
        if n_samples == 0:
            self.fail("it holds no samples; fetch or make it again")
        if allow_silence:
            return
        remedy = "leave it out, or pass allow_silence (--allow-silence)"
        if n_samples < MIN_SAMPLES:
            self.fail(
                f"{n_samples} samples at 16 kHz are too few (at least {MIN_SAMPLES}); {remedy}"
            )
        if self._energy[0] > 0 and self._energy[1] < _SILENT_MIX * self._energy[0]:
            self.fail(f"its channels cancel each other in the downmix; keep one channel, {remedy}")
        if not audible:
            self.fail(f"the {n_samples} samples read are all zero; {remedy}")


def _pack(block: np.ndarray, bits: int | None) -> bytes:
    """Return the little-endian integers of a block, as FLAC hashes them (or its floats)."""
    if bits is None:
        return block.tobytes()
    integers = (block * np.float32(1 << bits - 1)).astype("<i4")  # exact up to 24 bits
    if bits <= 16:
        return integers.astype("<i2" if bits > 8 else "i1").tobytes()
    return integers.view(np.uint8).reshape(*block.shape, 4)[..., : -(-bits // 8)].tobytes()
