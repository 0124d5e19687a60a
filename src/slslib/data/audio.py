"""Recordings: decode, check, bring to 16 kHz mono, cut to the model's length.

Every array that leaves this module is float32, mono and at 16 kHz. Full scale is 1 (a 16-bit sample
is divided by 32768), and nothing is normalised. Channels are averaged, and soxr (HQ) converts other
sample rates. Bad input raises :class:`~slslib.errors.AudioError`; no sample is ever clipped, zeroed
or invented.

**Formats.** WAV, AIFF (uncompressed), FLAC, Ogg (Vorbis, Opus), MP3 and MP4 (M4A; AAC, Apple
Lossless, Opus) files are read. FFmpeg decodes MP3, because libsndfile stops at a length that it
only estimates. FFmpeg also decodes MP4 and WebM: one audio stream, whole, whatever pictures
accompany it. An MP4 file is refused if its edit list makes players do more than pause and skip what
the encoder put before the beginning, because they would not play what is read here.

Other containers are refused, because a truncated file would pass for a whole one. AAC without a
container, MP4 in fragments, and WebM as browsers record it state no length, and FFmpeg leaves out
damaged parts of any WebM or Matroska file. A caller that passes this doubt on to its user may set
``any_length`` to read WebM, Matroska and MP4 in fragments. Their length (if they state one) and the
times of their packets are then checked. For every file, ``states_length`` says whether it states a
length.

**Checks.** A file is refused if one of these fails:

* the header of a WAV, AIFF or MP3 file, compared with the size of the file;
* the boxes of an MP4 file, compared with its size, and its number of packets and its duration,
  compared with what is decoded (0.3 s are allowed for what the encoder adds at the beginning);
* every page of an Ogg file;
* the CRC of every FLAC frame that is decoded, and the MD5 of a FLAC file that is decoded to its end
  and is not over-range;
* the announced length, compared with the decoded one.

A recording of up to a minute is always decoded to its end, so a truncated file is refused even if
only its beginning is needed. A *bounded* read of a longer recording (``max_samples``, or
:func:`windows` that are not exhausted) vouches only for what it decoded.

Some damage cannot be detected:

* changed sample values in a WAV or AIFF file;
* most damage inside an MP3 or MP4 file that keeps its length, such as zeros in place of Opus
  packets of 10 ms or less;
* a cut or a joint in an MP3 file without a length, or in a WAV file from a pipe;
* a wrong sample rate in a FLAC file whose frames state none;
* audio beyond the announced length of a FLAC file that has no MD5, or no usable one because it is
  over-range.

**Over-range FLAC.** libFLAC 1.3.2 stored samples beyond 16 bits if it was given them; about a third
of the ASVspoof 2021 files are like that. libsndfile 1.2.0 (soundfile 0.12.1) returns the values
that the stream predicts, unwrapped and beyond +-1, as the reference system saw them. libsndfile
1.2.2 refuses such a file. FFmpeg then decodes it with CRC checks and wraps the samples into 16
bits. Each recording reports its decoder and its number of over-range samples.

The MD5 of an over-range file cannot be checked. libFLAC hashed its input, but predicted from
samples wrapped into 16 bits. Decoders predict from unwrapped samples, so their output differs from
the encoder's input from the first over-range sample to the end of the frame. (One ASVspoof file has
18 over-range samples, up to 5.6, in libsndfile. A decoder that wraps the history gives the MD5 of
the header, and one over-range sample, of 1.0.)
"""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import soundfile as sf
import soxr
from jaxtyping import Float32

from slslib.data.headers import AUDIO_SUFFIXES, PRIMING, FlacInfo, inspect, unexplained
from slslib.errors import AudioError, ConfigError

SAMPLE_RATE = 16_000
N_SAMPLES = 64_600
"""Number of samples in the model's input: 4.0375 s."""
MIN_SAMPLES = 400
"""Fewest samples at 16 kHz from which the feature extractor makes a frame."""
_SUFFIXES = *AUDIO_SUFFIXES, *".3gp .aac .amr .au .caf .m4b .mka .mkv .mov .wave .webm .wma".split()
RATES = (4_000, 192_000)
"""Lowest and highest sample rate that a file may have, in Hz."""
MAX_CHANNELS = 8
MAX_SECONDS = 4 * 3600.0
"""Longest recording, in seconds, that :func:`load` returns whole."""
LOUDEST = 100.0
"""Samples at or beyond this have another unit. Over-range FLAC files of ASVspoof reach 5.6."""

_WHOLE_SECONDS = 60  # recordings up to this length are decoded to their end
_BLOCK = 65_536  # frames decoded at a time
_CODECS = ("aac", "alac", "opus", "mp3float", "flac")  # what FFmpeg may decode
_SILENT_MIX = 1e-6  # energy of the downmix over that of the channels: -60 dB

Mono = Float32[np.ndarray, "samples"]
MD5 = Literal["ok", "bad", "absent", "over-range", "unchecked"]


@dataclass
class Recording:
    """A recording, and what was found while decoding it.

    Attributes:
        path: The file.
        samples: float32 mono at 16 kHz, in units of int16 / 32768; empty if it was only audited.
        format: Container: ``"WAV"``, ``"AIFF"``, ``"FLAC"``, ``"OGG"``, ``"MP3"``, ``"MP4"``,
            ``"FRAGMENTS"`` (of MP4) or ``"MATROSKA"``. ``subtype`` is its coding.
        states_length: False if nobody can know whether all of the file is there. This holds for a
            WAV file from a pipe, an MP3 file without a length, MP4 in fragments, Matroska with MP3
            or pictures, and any other WebM or Matroska file without a length.
        source_rate: Sample rate of the file in Hz; 0 if it could not be opened.
        channels: Number of channels in the file; they are averaged into one.
        n_source_frames: Number of frames decoded, at the file's rate: all, unless the read was
            bounded.
        decoder: Name and version of the decoder.
        over_range: Number of decoded FLAC samples outside the file's integer range. It is 0 if
            there are none and for other formats, and ``None`` if the decoder wraps them and cannot
            count.
        peak: Largest absolute value among the decoded samples, before downmix and resampling.
        md5: For a FLAC file, ``"ok"``, ``"bad"``, ``"absent"``, ``"over-range"`` (no match, as is
            expected of an over-range file) or ``"unchecked"`` (not decoded to its end). For other
            formats, ``"absent"``.
        content: MD5 of the samples at 16 kHz, if the file was audited and is sound.
        problem: Why an audited file cannot be used; ``None`` if it is sound.
    """

    path: str
    samples: Mono = field(default_factory=lambda: np.zeros(0, np.float32), compare=False)
    format: str = ""
    subtype: str = ""
    states_length: bool = True
    source_rate: int = 0
    channels: int = 0
    n_source_frames: int = 0
    decoder: str = f"libsndfile {sf.__libsndfile_version__}"
    over_range: int | None = 0
    peak: float = 0.0
    md5: MD5 = "absent"
    content: str = ""
    problem: str | None = None


def load(
    path: str | os.PathLike[str], *, max_samples: int | None = None, allow_silence: bool = False
) -> Recording:
    """Decode a recording to float32 mono at 16 kHz.

    A recording of more than four hours (:data:`MAX_SECONDS`) is refused, unless ``max_samples`` is
    given.

    Args:
        path: A WAV, AIFF, FLAC, Ogg, MP3 or MP4 file.
        max_samples: Return at most this many samples (at 16 kHz), from the beginning. A recording
            longer than a minute is decoded only as far as needed.
        allow_silence: Accept all-zero audio, fewer than 400 samples, and stereo whose channels
            cancel in the downmix.

    Returns:
        The samples, and what was found.

    Raises:
        AudioError: If the file is missing, empty, no regular file, undecodable, truncated, damaged,
            non-finite, silent, too short, too long, or its rate or channel count is out of bounds.
        ConfigError: If ``max_samples`` is below 1.
    """
    if max_samples is not None and max_samples < 1:
        raise ConfigError(f"max_samples is {max_samples}; give a positive number of samples")
    decoder = Decoder(path)
    recording, blocks = decoder.recording, []
    for block in decoder.blocks(max_samples, allow_silence=allow_silence):
        blocks.append(block)
        n_frames = max(decoder.announced or 0, recording.n_source_frames)
        if max_samples is None and n_frames > MAX_SECONDS * recording.source_rate:
            decoder.fail(f"it is longer than {MAX_SECONDS:g} s; read a part of it (max_samples)")
    recording.samples = np.concatenate(blocks)
    return recording


def windows(
    blocks: Iterable[Mono], n_samples: int = N_SAMPLES, hop: int | None = None
) -> Iterator[tuple[float, Mono]]:
    """Yield ``(start in seconds, n_samples samples at 16 kHz)`` over a recording of any length.

    Windows follow each other without a gap, or overlap. The last window ends with the recording, so
    it may overlap the one before by more. A recording shorter than one window is tiled, as in
    :func:`fix_length`. Memory does not grow with the recording.

    Args:
        blocks: The recording, from :meth:`Decoder.blocks` or
            :func:`slslib.data.isolate.blocks_isolated`. Some of their checks (length, MD5, silence
            of the whole) can fail only at its end. If the iteration raises, use no window of the
            recording.
        n_samples: Length of a window in samples.
        hop: Samples from one window to the next; default the length.

    Raises:
        AudioError: As for :func:`load`.
        ConfigError: If the length is below 1, or the hop is not between 1 and the length.
    """
    hop = n_samples if hop is None else hop
    if not 1 <= hop <= n_samples:
        raise ConfigError(f"n_samples is {n_samples}, hop {hop}; give positive numbers of samples")
    window = rest = np.zeros(0, np.float32)
    start = 0  # of the next window
    for block in blocks:
        rest = np.concatenate([rest, block])
        while len(rest) >= n_samples:
            window = rest[:n_samples]
            yield start / SAMPLE_RATE, window.copy()
            rest, start = rest[hop:], start + hop
    if len(rest) > n_samples - hop or start == 0:
        last = fix_length(np.concatenate([window[:hop], rest])[-n_samples:], n_samples)
        yield max(0, start + len(rest) - n_samples) / SAMPLE_RATE, last


def fix_length(samples: Mono, n_samples: int = N_SAMPLES) -> Mono:
    """Return the first ``n_samples`` samples, or the recording tiled up to that length.

    This is what ``pad()`` of the original code does.

    >>> fix_length(np.array([1, 2, 3], np.float32), 5).tolist()
    [1.0, 2.0, 3.0, 1.0, 2.0]

    Raises:
        AudioError: If there is no sample to repeat.
    """
    if len(samples) == 0:
        raise AudioError("an empty recording cannot be brought to length; check how it was made")
    return np.tile(samples, -(-n_samples // len(samples)))[:n_samples]


def is_silent(samples: np.ndarray) -> Any:
    """Tell whether all samples of a recording are equal, as zeros are; a batch gives an array."""
    return (samples == samples[..., :1]).all(axis=-1)


def list_recordings(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the audio files in a folder and below it, sorted, recognised by their endings.

    Links to folders are followed, and no folder is listed twice. Files in formats that cannot be
    read are included; the error on opening one says why. ``._a.wav`` is left out if it lies beside
    ``a.wav`` or in ``__MACOSX``: macOS keeps facts about a file there.

    Raises:
        AudioError: If a folder is absent or cannot be listed, or there is no audio file.
    """

    def stop(error: OSError) -> NoReturn:
        raise AudioError(f"{folder}: cannot be listed ({error}).") from error

    files: dict[Path, list[Path]] = {}
    for at, folders, names in os.walk(folder, True, stop, True):
        folders.sort()
        notes = {*names} if "__MACOSX" in Path(at).parts else {f"._{name}" for name in names}
        here = [Path(at, name) for name in names if name[:2] != "._" or name not in notes]
        if files.setdefault(Path(at).resolve(), here) is not here:  # a link leads here again
            folders.clear()
    recordings = sorted(p for p in chain(*files.values()) if p.suffix.lower() in _SUFFIXES)
    if not recordings:
        raise AudioError(f"{folder}: holds no audio ({' '.join(AUDIO_SUFFIXES)}), or is absent.")
    return recordings


class _Stream(sf.SoundFile):  # type: ignore[misc]
    """A file that is read from its beginning to its end.

    soundfile seeks after every read of a seekable file. If a block ends with a FLAC frame, that
    seek decodes the next frame and drops its CRC error, and the next read returns zeros for it.
    Without seeking, every damaged frame raises an error.
    """

    def seekable(self) -> bool:
        return False


class Decoder:
    """A file that is decoded once; ``recording`` holds what was found so far."""

    def __init__(self, path: str | os.PathLike[str], *, any_length: bool = False) -> None:
        """Name the file; nothing is opened yet.

        Args:
            path: The file.
            any_length: Also read WebM, Matroska and MP4 in fragments, where a cut may go unnoticed.
        """
        self.recording = Recording(os.fspath(path))
        self.announced: int | None = None  # frames, according to the header
        self._flac: FlacInfo | None = None
        self._any_length = any_length
        self._energy = np.zeros(2)  # that of the channels, and that of their mean

    def fail(self, why: str) -> NoReturn:
        """Raise an error that names the file."""
        raise AudioError(f"{self.recording.path}: {why}.")

    def _damaged(self, why: str) -> NoReturn:
        self.fail(f"truncated or damaged: {why}; fetch or make it again")

    def blocks(
        self, max_samples: int | None = None, *, allow_silence: bool = False, heard: int = N_SAMPLES
    ) -> Iterator[Mono]:
        """Yield all samples, or the first ones, as float32 mono at 16 kHz, and check the file.

        Args:
            max_samples: As for :func:`load`.
            allow_silence: As for :func:`load`.
            heard: Number of samples at the beginning, those that are scored, that must not be
                silent.

        Raises:
            AudioError: As for :func:`load`. Many faults show only at the end of the recording.
        """
        wanted, n_samples, audible = max_samples or sys.maxsize, 0, False
        for decoded in self._resampled():
            block = decoded[: wanted - n_samples]
            audible = audible or not is_silent(block[: max(0, heard - n_samples)])
            n_samples += len(block)
            yield block
            n_frames = max(self.announced or 0, self.recording.n_source_frames)
            if n_samples == wanted and n_frames > _WHOLE_SECONDS * self.recording.source_rate:
                break
        if n_samples == 0:
            self.fail("it holds no samples; fetch or make it again")
        if allow_silence:
            return
        remedy = "leave it out, or pass allow_silence (--allow-silence)"
        if n_samples < MIN_SAMPLES:
            self.fail(f"{n_samples} samples at 16 kHz are too few, under {MIN_SAMPLES}; {remedy}")
        if self._energy[1] < _SILENT_MIX * self._energy[0]:
            self.fail(f"its channels cancel each other in the downmix; keep one, {remedy}")
        if not audible:
            self.fail(f"its first {min(heard, n_samples)} 16-kHz samples are all equal; {remedy}")

    def _resampled(self) -> Iterator[Mono]:
        """Yield the downmix at 16 kHz."""
        stream, end = None, np.zeros(0, np.float32)
        for block in chain(self._downmixed(), [end]):
            if (rate := self.recording.source_rate) == SAMPLE_RATE:
                yield block
            else:
                stream = stream or soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", "HQ")
                yield stream.resample_chunk(block, last=block is end)

    def _downmixed(self) -> Iterator[Mono]:
        """Yield the mean of the channels; note and check the samples."""
        recording, md5 = self.recording, hashlib.md5(usedforsecurity=False)
        for block in self._decoded():
            low, high = float(block.min()), float(block.max())
            if not max(high, -low) < LOUDEST:  # true for NaN too
                where = f"near frame {recording.n_source_frames}, where full scale is 1"
                remedy = "scale it (int16: divide by 32768), or make it again"
                self.fail(f"samples of {low:g} to {high:g} {where}; {remedy}")
            recording.peak = max(recording.peak, high, -low)
            recording.n_source_frames += len(block)
            if self._flac and recording.over_range is not None and (low < -1 or high >= 1):
                recording.over_range += int(np.count_nonzero((block < -1) | (block >= 1)))
            md5.update(_pack(block, self._flac.bits) if self._flac else b"")
            if recording.channels == 1:
                yield block[:, 0]
                continue
            mean = block.mean(axis=1, dtype=np.float64)
            energies = np.square(block, dtype=np.float64).sum(axis=0)
            self._energy += energies.mean(), np.square(mean).sum()
            yield mean.astype(np.float32)
        self._check_end(md5.hexdigest())

    def _decoded(self) -> Iterator[np.ndarray]:
        """Yield float32 [frames, channels] from libsndfile, or else from FFmpeg."""
        recording = self.recording
        told = inspect(Path(recording.path), any_length=self._any_length)
        recording.format, self._flac, mp3_end, recording.states_length = told
        if self._flac:
            recording.md5 = "unchecked" if self._flac.md5 else "absent"
            self._describe(*self._flac[:4])
        # libsndfile estimates the length of an MP3 file, and stops there.
        if recording.format in ("WAV", "AIFF", "FLAC", "OGG"):
            try:
                with _Stream(os.fsencode(recording.path)) as file:  # the name may not be UTF-8
                    head: Any = self._flac or file
                    self._describe(head.samplerate, head.channels, head.subtype, head.frames)
                    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                        yield block
                return
            except sf.LibsndfileError as error:
                if not self._flac:
                    where, why = recording.n_source_frames, error.error_string.strip(" .\n")
                    self._damaged(f"libsndfile stopped at frame {where} ({why})")
        yield from self._decoded_by_ffmpeg(mp3_end)

    def _describe(self, rate: int, channels: int, subtype: str, n_frames: int | None) -> None:
        """Record the facts of a header, and refuse values that are out of bounds."""
        recording = self.recording
        recording.source_rate, recording.channels = rate, channels
        recording.subtype, self.announced = subtype, n_frames
        if not RATES[0] <= rate <= RATES[1] or channels > MAX_CHANNELS:
            form = f"{rate} Hz, channels: {channels}"
            self.fail(f"{form}; convert it to 4-192 kHz and at most {MAX_CHANNELS} channels")

    def _decoded_by_ffmpeg(self, end: int) -> Iterator[np.ndarray]:
        """Decode a file from its beginning; yield the frames that were not decoded yet."""
        import av  # takes 0.1 s, and most corpora never need it

        recording, flac = self.recording, self._flac
        recording.decoder = f"FFmpeg {av.ffmpeg_version_info}"
        # libsndfile reads only these depths. It refuses over-range files, and FFmpeg wraps them.
        recording.over_range = None if flac and flac.bits in (8, 16, 24) else 0
        strict = {"err_detect": "crccheck+explode", "codec_whitelist": ",".join(_CODECS)}
        start = done = n_packets = 0  # byte at which a packet begins; frames and packets decoded
        time: Any = None  # seconds at which the next frame of Matroska or a fragment should begin
        is_live = recording.format in ("FRAGMENTS", "MATROSKA")
        try:
            # Without "file:", FFmpeg would take some names for URLs.
            name, form = f"file:{recording.path}", recording.format.lower()
            form = "mp4" if form == "fragments" else form
            with av.open(name, "r", form, {**strict, "advanced_editlist": "0"}) as container:
                streams: Any = container.streams.audio
                codecs = [getattr(one.codec_context, "name", "unknown") for one in streams]
                if len(codecs) != 1 or codecs[0] not in _CODECS:
                    what = f"its audio is {' and '.join(codecs) or 'absent'}, not one stream of AAC"
                    self.fail(f"{what}, ALAC or Opus; convert one: ffmpeg -i OLD new.wav")
                (stream,) = streams
                stream.codec_context.options = strict
                for packet in container.demux(stream):
                    start = packet.pos or start
                    n_packets += packet.size > 0 and not packet.is_corrupt
                    n_before = done
                    for frame in packet.decode():
                        kind = frame.sample_rate, frame.layout.nb_channels
                        if not flac and not done:
                            self._describe(*kind, codecs[0], None)
                        missing = flac and frame.pts not in (done, None)  # lost by the parser
                        if is_live:
                            begin = time or 0 if frame.time is None else frame.time
                            missing = time is not None and abs(begin - time) > PRIMING
                            time = begin + frame.samples / frame.sample_rate
                        if missing or kind != (recording.source_rate, recording.channels):
                            raise ValueError(f"a frame is missing, or of another form, at {done}")
                        pcm = frame.to_ndarray()
                        pcm = pcm.T if frame.format.is_planar else pcm.reshape(-1, kind[1])
                        new = pcm[max(0, recording.n_source_frames - done) :]
                        done += frame.samples
                        if len(new):
                            scale = 1 << 8 * pcm.itemsize - 1 if pcm.dtype.kind == "i" else 1
                            yield (new / scale).astype(np.float32)
                    # Zeros decode as 10 ms of Opus. The first frames come from the encoder.
                    n_told = (packet.duration or 0) * packet.time_base * recording.source_rate
                    if n_before and codecs == ["opus"] and done - n_before < 0.75 * n_told:
                        raise ValueError(f"a packet of {int(n_told)} frames has {done - n_before}")
                if not done:
                    raise ValueError("it holds no sound frame")
                n_stated = stream.frames
                announced = float((stream.duration or 0) * stream.time_base)
                if is_live:
                    n_stated, announced = n_packets, (container.duration or 0) / av.time_base
                    # A film may outlast its sound, and a bit rate gives FFmpeg only an estimate.
                    is_stated = len(container.streams) == 1 and not stream.bit_rate
                    recording.states_length = form == "matroska" and is_stated and announced > 0
                seconds = done / recording.source_rate
                differs = abs(announced - seconds) > PRIMING
                is_checked = form in ("mp4", "matroska") and recording.states_length
                if is_checked and (differs or n_packets != n_stated):
                    got = f"{seconds:.1f} s of sound that end at {time or seconds:.1f} s"
                    raise ValueError(f"{n_packets} packets of {n_stated}, {got}, not {announced:g}")
        except (av.FFmpegError, ValueError, IndexError) as error:
            # After the last MP3 frame, FFmpeg takes zeros and some tags for another frame.
            with Path(recording.path).open("rb") as f:
                if flac or start < end or unexplained(f, start):
                    self._damaged(f"FFmpeg stopped at frame {done} ({error})")

    def _check_end(self, md5: str) -> None:
        """Check the length, and the MD5 if the header states one."""
        recording, flac = self.recording, self._flac
        if self.announced is not None and recording.n_source_frames != self.announced:
            n_frames = f"{self.announced} frames, {recording.n_source_frames} decode"
            self._damaged(f"its header announces {n_frames}")
        if flac is None or not flac.md5 or flac.bits > 24:  # float32 holds no more
            return
        if md5 == flac.md5:
            recording.md5 = "ok"
        elif recording.over_range or (recording.over_range is None and self.announced):
            # No decoder returns what the encoder hashed; see the module's docstring. The CRC of
            # each frame and the length vouch for the data.
            recording.md5 = "over-range"
        else:
            recording.md5 = "bad"
            self._damaged(f"the MD5 is {md5}, in the header {flac.md5}")


def _pack(block: np.ndarray, bits: int) -> bytes:
    """Return the little-endian integers of a block, as FLAC hashes them."""
    integers = (block * np.float32(1 << bits - 1)).astype("<i4")  # exact up to 24 bits
    low: Any = {"names": ["bytes"], "formats": [f"V{-(-bits // 8)}"], "itemsize": 4}
    return bytes(integers.view(np.dtype(low))["bytes"].tobytes())
