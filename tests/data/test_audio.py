"""Decoding: exact on sound files, an error on every damaged one, never anything in between."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from make_flac import write_bomb, write_flac
from make_mp4 import write_av

import slslib.data.audio
from slslib.data.audio import (
    MIN_SAMPLES,
    N_SAMPLES,
    SAMPLE_RATE,
    Decoder,
    Recording,
    fix_length,
    list_recordings,
    load,
    windows,
)
from slslib.errors import AudioError, ConfigError

N = 20_000


def voice(n: int = N, seed: int = 0) -> np.ndarray:
    """Integers of a noisy chirp within 16 bits."""
    rng = np.random.default_rng(seed)
    t = np.arange(n) / SAMPLE_RATE
    x = 8_000 * np.sin(2 * np.pi * (150 * t + 300 * t**2)) + rng.normal(0, 300, n)
    return np.rint(x).astype(np.int16)


def audit(path: Path, *, allow_silence: bool = False) -> Recording:
    """Decode a file to its end in this process; see :func:`slslib.data.isolate.audit`."""
    decoder = Decoder(path)
    try:
        for _ in decoder.blocks(allow_silence=allow_silence):
            pass
    except AudioError as error:
        decoder.recording.problem = str(error)
    return decoder.recording


def wav(path: Path, samples: np.ndarray | None = None, rate: int = SAMPLE_RATE, **kw: str) -> Path:
    sf.write(path, voice() if samples is None else samples, rate, **kw)
    return path


def over_range() -> np.ndarray:
    """A voice whose sample 9,000 and one other leave the 16-bit range."""
    x = voice().astype(np.int64)
    x[9_000], x[9_500] = 40_000, -33_000
    return x


# --- sound files -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.wav", "x.flac"])
def test_integers_come_back_exactly(tmp_path: Path, name: str) -> None:
    recording = load(wav(tmp_path / name))
    assert recording.samples.dtype == np.float32
    np.testing.assert_array_equal(recording.samples, voice().astype(np.float32) / 32_768)
    assert (recording.source_rate, recording.channels, recording.n_source_frames) == (16_000, 1, N)
    assert recording.over_range == 0
    assert recording.decoder == f"libsndfile {sf.__libsndfile_version__}"
    assert recording.peak == np.abs(recording.samples).max()


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("x.wav", {"subtype": "PCM_U8"}, 0.01),
        ("x.wav", {"subtype": "PCM_24"}, 1e-6),
        ("x.wav", {"subtype": "FLOAT"}, 0),
        ("x.wav", {"subtype": "ULAW"}, 0.02),
        ("x.wav", {"format": "WAVEX"}, 0),
        ("x.aiff", {}, 1e-4),
        ("x.aif", {"format": "AIFF", "subtype": "FLOAT"}, 0),
        ("x.aif", {"format": "AIFF", "subtype": "DOUBLE"}, 0),
        ("x.aif", {"format": "AIFF", "subtype": "PCM_U8"}, 0.01),
        ("x.aif", {"format": "AIFF", "subtype": "ULAW"}, 0.02),
        ("x.aif", {"format": "AIFF", "endian": "LITTLE"}, 1e-4),
        ("x.aif", {"format": "AIFF", "subtype": "PCM_24", "endian": "LITTLE"}, 1e-6),
        ("x.aif", {"format": "AIFF", "subtype": "PCM_32", "endian": "LITTLE"}, 1e-6),
        ("x.flac", {"subtype": "PCM_S8"}, 0.01),
        ("x.flac", {"subtype": "PCM_24"}, 1e-6),
        ("x.ogg", {}, 0.1),
        ("x.mp3", {}, 0.1),
    ],
)
def test_formats(tmp_path: Path, name: str, options: dict[str, str], tolerance: float) -> None:
    x = voice().astype(np.float32) / 32_768
    found = load(wav(tmp_path / name, x, **options)).samples
    np.testing.assert_allclose(found, x, atol=tolerance)
    assert audit(tmp_path / name).problem is None


@pytest.mark.parametrize("video", [False, True])
@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}], ids=["", "faststart"])
def test_phone_recordings(tmp_path: Path, options: dict[str, str], video: bool) -> None:
    path = write_av(tmp_path / "x.mp4", voice(), video=video, **options)
    recording = load(path)
    assert (recording.format, recording.subtype) == ("MP4", "aac")
    assert (recording.source_rate, recording.channels) == (SAMPLE_RATE, 1)
    assert recording.decoder.startswith("FFmpeg")
    assert N <= len(recording.samples) < N + 1_024  # the last frame is filled up
    x = voice() / 32_768
    assert np.corrcoef(recording.samples[:N], x)[0, 1] > 0.99  # in time with what was encoded
    assert audit(path).problem is None


@pytest.mark.parametrize("edits", [[(1_250, 1_024)], [(1_500, 0)], [(700, -1), (1_250, 1_024)]])
def test_an_edit_list_may_skip_the_priming_and_pause(
    tmp_path: Path, edits: list[tuple[int, int]]
) -> None:
    assert N <= len(load(_edited(tmp_path, *edits)).samples) < N + 2_048


def test_the_edit_list_of_a_film_is_not_that_of_its_sound(tmp_path: Path) -> None:
    path = write_av(tmp_path / "x.mp4", voice(), video=True)
    data = path.read_bytes()
    load(_edit(path, data.rindex(b"elst") + 12, struct.pack(">II", 200, 10_240)))
    at = data.index(b"elst") + 12
    with pytest.raises(AudioError, match="edit list"):
        load(_edit(path, at, struct.pack(">II", 200, 10_240)))


def test_apple_lossless_is_exact(tmp_path: Path) -> None:
    x = np.stack([voice(), voice(seed=1)], axis=1)
    recording = load(write_av(tmp_path / "x.m4a", x, codec="alac"))
    assert (recording.subtype, recording.channels) == ("alac", 2)
    mean = (x / 32_768).mean(axis=1, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(recording.samples, mean)


@pytest.mark.parametrize("codec", ["aac", "alac"])
def test_damaged_phone_recordings_are_never_shorter(tmp_path: Path, codec: str) -> None:
    path = write_av(tmp_path / "x.m4a", voice(), codec=codec)
    data, n_samples, rng = path.read_bytes(), len(load(path).samples), np.random.default_rng(2)
    refused = 0
    for trial in range(150):
        mutant = bytearray(data)
        at = int(rng.integers(0, len(data)))
        # The tables stand at the end.
        at = at if trial % 2 else len(data) - 1 - at % 900
        length = int(rng.integers(1, 2_000))
        if trial % 3 == 0:
            mutant[at] ^= int(rng.integers(1, 256))
        elif trial % 3 == 1:
            del mutant[at : at + length]
        else:
            mutant[at : at + length] = bytes(len(mutant[at : at + length]))
        path.write_bytes(mutant)
        try:
            assert len(load(path).samples) == n_samples
            assert trial % 3 != 1, "a file with a hole was accepted"
        except AudioError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data[:40] + b"\xff\xff\xff\xff" + data[44:],
        lambda data: data[:40] + b"\xff\xff\xff\x7f" + data[44:],
        lambda data: data[:4] + struct.pack("<I", len(data)) + data[8:],  # 8 too many
        lambda data: data[:4] + struct.pack("<I", len(data) - 16) + data[8:],
        lambda data: data + bytes(4_000),
        lambda data: data + b"TAG" + b"title".ljust(125),
        lambda data: data + b"LIST" + struct.pack("<I", 4) + b"INFO",
        lambda data: data + 2 * (b"LIST" + struct.pack("<I", 5) + b"INFOa"),
        lambda data: data[:28] + bytes(4) + data[32:],
    ],
    ids=[
        *("piped", "piped, signed", "RIFF + 8", "RIFF - 8", "zeros", "ID3v1", "LIST"),
        *("odd LIST without padding", "no byte rate"),
    ],
)
def test_headers_of_recorders_and_services(tmp_path: Path, edit: Callable[[bytes], bytes]) -> None:
    path = wav(tmp_path / "x.wav")
    path.write_bytes(edit(path.read_bytes()))
    found = load(path)
    np.testing.assert_array_equal(found.samples, voice().astype(np.float32) / 32_768)
    assert found.states_length == (path.read_bytes()[41:43] != b"\xff\xff")
    assert audit(path).problem is None


def test_an_mp3_without_a_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = wav(tmp_path / "x.mp3", voice(96_000))
    whole, data = load(path).samples, path.read_bytes()
    assert len(whole) == 96_000
    assert load(path).states_length
    path.write_bytes(data[data.find(data[:2], 4) :])  # the first frame holds the length
    samples = load(path).samples
    assert not load(path).states_length
    assert 96_000 <= len(samples) < 99_000
    lag = int(np.argmax(np.correlate(samples[40_000:50_000], whole[42_000:46_000])))
    np.testing.assert_allclose(samples[40_000 + lag :][:4_000], whole[42_000:46_000], atol=0.02)
    assert len(load(path, max_samples=N_SAMPLES).samples) == N_SAMPLES


ID3V1 = b"TAG".ljust(128)
APEV2 = (
    struct.pack("<8sIIII8x", b"APETAGEX", 2000, 47, 1, 0xA0000000)
    + struct.pack("<II", 1, 0) + b"Title\0x"
    + struct.pack("<8sIIII8x", b"APETAGEX", 2000, 47, 1, 0x80000000)
)  # fmt: skip
LYRICS3 = b"LYRICSBEGININD0000200LYR00010la la la l000039LYRICS200"
TAILS = {
    "a zero": b"\0",
    "zeros": bytes(500),
    "ID3v1": ID3V1,
    "APEv2": APEV2,
    "Lyrics3": b"LYRICSBEGIN[00:01]la la la\r\nLYRICSEND",
    "Lyrics3v2": LYRICS3,
    "all": APEV2 + LYRICS3 + ID3V1 + b"\0",
}


@pytest.mark.parametrize("with_length", [True, False])
@pytest.mark.parametrize("tail", TAILS)
def test_what_players_leave_behind_an_mp3(tmp_path: Path, tail: str, with_length: bool) -> None:
    path = wav(tmp_path / "x.mp3")
    data = path.read_bytes()
    data = data if with_length else data[data.find(data[:2], 4) :]
    path.write_bytes(data)
    whole = load(path).samples
    path.write_bytes(data + TAILS[tail])
    samples = load(path).samples
    np.testing.assert_array_equal(samples[: len(whole)], whole)
    # Behind many zeros, FFmpeg no longer cuts what the encoder added to fill its last frame.
    assert len(samples) - len(whole) < (576 if tail == "zeros" and with_length else 1)


@pytest.mark.parametrize("tail", ["zeros", "APEv2", "Lyrics3v2"])
def test_no_tail_hides_another_mp3(tmp_path: Path, tail: str) -> None:
    path = wav(tmp_path / "x.mp3")
    data = path.read_bytes()
    path.write_bytes(data + TAILS[tail] + data)
    with pytest.raises(AudioError, match="the file has"):
        load(path)
    bare = data[data.find(data[:2], 4) :]
    path.write_bytes(bare)
    n_samples = len(load(path).samples)
    path.write_bytes(bare + TAILS[tail] + bare)
    try:
        assert len(load(path).samples) >= 2 * n_samples - 576
    except AudioError as error:
        assert "damaged" in str(error)


@pytest.mark.parametrize("n_zeros", [200, 3_000])
def test_zeros_in_the_place_of_frames_are_no_tail(tmp_path: Path, n_zeros: int) -> None:
    """As an unfinished download leaves them."""
    path = wav(tmp_path / "x.mp3")
    data = path.read_bytes()
    for sound in (data, data[data.find(data[:2], 4) :])[: 1 + (n_zeros > 1_441)]:
        path.write_bytes(sound[:-n_zeros] + bytes(n_zeros))
        with pytest.raises(AudioError, match="damaged"):
            load(path)


@pytest.mark.parametrize("name", ["joined.mp3", "chained.ogg"])
def test_joined_files_of_others_are_refused(shared: Path, name: str) -> None:
    with pytest.raises(AudioError, match=r"the file has|another stream"):
        load(shared / "inputs" / name)


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 22_050, 44_100, 48_000, 192_000])
def test_rates_and_bounded_reads(
    tmp_path: Path, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slslib.data.audio._WHOLE_SECONDS", 1)  # two seconds are long here
    monkeypatch.setattr("slslib.data.audio._BLOCK", 1_000)
    x = voice(2 * rate).astype(np.float32) / 32_768
    path = wav(tmp_path / "x.wav", x, rate, subtype="FLOAT")
    whole = load(path).samples
    np.testing.assert_allclose(whole, soxr.resample(x, rate, SAMPLE_RATE), atol=1e-6)
    assert len(whole) == 2 * SAMPLE_RATE
    for n in (400, 6_543, 31_999, 32_000, N_SAMPLES):
        part = load(path, max_samples=n)
        assert len(part.samples) == min(n, len(whole))
        np.testing.assert_allclose(part.samples, whole[:n], atol=1e-6)
    assert load(path, max_samples=6_543).n_source_frames < rate


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = voice(seed=1), voice(seed=2)
    path = wav(tmp_path / "x.wav", np.stack([left, right, left], axis=1))
    expected = (2.0 * left + right) / 3 / 32_768
    np.testing.assert_allclose(load(path).samples, expected, atol=1e-7)
    assert load(path).channels == 3


def test_a_bounded_read_of_a_long_file_vouches_for_its_part_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_flac(tmp_path / "x.flac", voice(), block=1000)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    for options in ({}, {"max_samples": 5_000}):  # a short one is decoded to its end
        with pytest.raises(AudioError, match="truncated"):
            load(path, **options)
    monkeypatch.setattr("slslib.data.audio._WHOLE_SECONDS", 1)
    monkeypatch.setattr("slslib.data.audio._BLOCK", 1_000)
    np.testing.assert_array_equal(
        load(path, max_samples=5_000).samples, voice()[:5_000].astype(np.float32) / 32_768
    )
    with pytest.raises(AudioError, match="truncated"):
        load(path)


@given(n=st.integers(1, 300), length=st.integers(1, 1000))
def test_fix_length_repeats_or_cuts(n: int, length: int) -> None:
    x = np.arange(n, dtype=np.float32)
    np.testing.assert_array_equal(fix_length(x, length), np.arange(length) % n)


def test_fix_length_refuses_nothing() -> None:
    with pytest.raises(AudioError, match="empty"):
        fix_length(np.zeros(0, np.float32))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 6_000), length=st.integers(400, 9_000))
def test_windows_cover_the_recording(
    tmp_path_factory: pytest.TempPathFactory, n: int, length: int
) -> None:
    x = voice(length).astype(np.float32) / 32_768
    path = wav(tmp_path_factory.getbasetemp() / "windows.wav", x, subtype="FLOAT")
    n = max(n, length // 50 + 1)
    found = list(windows(Decoder(path).blocks(), n))
    starts = [round(start * SAMPLE_RATE) for start, _ in found]
    if length < n:
        assert starts == [0]
        np.testing.assert_array_equal(found[0][1], fix_length(x, n))
        return
    full = list(range(0, length - n + 1, n))
    assert starts == full + ([length - n] if full[-1] + n < length else [])
    for start, (_, window) in zip(starts, found, strict=True):
        np.testing.assert_array_equal(window, x[start : start + n])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 900), st.integers(1, 90), st.integers(1, 90), st.integers(1, 300))
def test_windows_that_overlap(length: int, n: int, hop: int, block: int) -> None:
    n, hop = max(n, hop), min(n, hop)
    x = np.arange(1, length + 1, dtype=np.float32)
    found = list(windows((x[k : k + block] for k in range(0, length, block)), n, hop))
    starts = [round(start * SAMPLE_RATE) for start, _ in found]
    full = list(range(0, length - n + 1, hop))
    is_covered = full and full[-1] + n == length
    assert starts == full + ([] if is_covered else [max(0, length - n)])
    for start, (_, window) in zip(starts, found, strict=True):
        np.testing.assert_array_equal(window, fix_length(x[start : start + n], n))


def test_windows_are_those_of_the_whole(tmp_path: Path) -> None:
    path = wav(tmp_path / "x.wav", voice(200_000), 44_100)
    whole = load(path).samples
    found = list(windows(Decoder(path).blocks(), 3_000))
    assert len(found) > 20
    for start, window in found:
        first = round(start * SAMPLE_RATE)
        np.testing.assert_allclose(window, whole[first : first + 3_000], atol=1e-6)


def test_options_are_checked(tmp_path: Path) -> None:
    path = wav(tmp_path / "x.wav")
    with pytest.raises(ConfigError, match="max_samples"):
        load(path, max_samples=0)


def test_an_hour_fits_in_bounded_memory(tmp_path: Path) -> None:
    path = write_bomb(tmp_path / "x.flac", 3_600 * 16_000 // 65_535 + 1)
    script = f"""
import resource
from slslib.data.audio import Decoder, load, windows
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
baseline = peak()
assert len(load({str(path)!r}, max_samples=64_600).samples) == 64_600
assert sum(1 for _ in windows(Decoder({str(path)!r}).blocks())) > 890
print(peak() - baseline)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 50e6
    assert path.stat().st_size < 30_000


# --- faults ----------------------------------------------------------------------------------


def _edit(path: Path, position: int, new: bytes) -> Path:
    data = bytearray(path.read_bytes())
    data[position : position + len(new)] = new
    path.write_bytes(data)
    return path


def _cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def _flipped_flac(tmp: Path) -> Path:
    path = wav(tmp / "x.flac")
    return _edit(path, path.stat().st_size // 2, b"\x55\xaa\x55")


def _fifo(tmp: Path) -> Path:
    os.mkfifo(tmp / "x.wav")
    return tmp / "x.wav"


def _empty(tmp: Path) -> Path:
    (tmp / "x.wav").touch()
    return tmp / "x.wav"


def _text(tmp: Path) -> Path:
    (tmp / "x.flac").write_text("<html>404 Not Found</html>")
    return tmp / "x.flac"


def _header_only(tmp: Path) -> Path:
    (tmp / "x.flac").write_bytes(b"fLaC" + bytes(20))
    return tmp / "x.flac"


def _value(tmp: Path, value: float) -> Path:
    x = voice().astype(np.float32) / 32_768
    x[N // 2] = value
    return wav(tmp / "x.wav", x, subtype="FLOAT")


def _lost_page(tmp: Path, which: int) -> Path:
    path = wav(tmp / "x.ogg", voice(200_000))
    pages = path.read_bytes().split(b"OggS")[1:]
    del pages[which]
    path.write_bytes(b"".join(b"OggS" + page for page in pages))
    return path


def _two_data_chunks(tmp: Path) -> Path:
    path = wav(tmp / "x.wav")
    path.write_bytes(path.read_bytes() + b"data" + struct.pack("<I", 4) + bytes(4))
    return path


def _behind(tmp: Path, between: bytes) -> Path:
    path = wav(tmp / "x.wav")
    path.write_bytes(path.read_bytes() + between + voice().tobytes())
    return path


def _joined(tmp: Path, name: str, between: bytes = b"") -> Path:
    first, second = (wav(tmp / f"{k}{name}", voice(seed=k)).read_bytes() for k in (0, 1))
    (tmp / name).write_bytes(first + between + second)
    return tmp / name


def _many_chunks(tmp: Path) -> Path:
    path = tmp / "x.wav"
    path.write_bytes(b"RIFF\xff\xff\0\0WAVE" + b"junk\0\0\0\0" * 5_000)
    return path


def _tables(tmp: Path, name: bytes) -> tuple[Path, bytes, int]:
    path = write_av(tmp / "x.m4a", voice())
    data = path.read_bytes()
    return path, data, data.index(name)


def _mp4_end(tmp: Path) -> tuple[Path, int, bytes]:
    path, data, _ = _tables(tmp, b"moov")
    return path, len(data), data


def _fewer_packets(tmp: Path) -> Path:
    path, data, at = _tables(tmp, b"stsz")
    (n,) = struct.unpack(">I", data[at + 12 : at + 16])
    return _edit(path, at + 12, struct.pack(">I", n - 8))


def _mp4_bomb(tmp: Path) -> Path:
    path, data, at = _tables(tmp, b"stsz")
    path.write_bytes(data[: at + 8] + struct.pack(">II", 1, 1 << 28) + data[at + 16 :])
    return path


def _edited(tmp: Path, *edits: tuple[int, int], speed: int = 0x10000, **options: Any) -> Path:
    """Replace the edit list of the sound, each edit a duration in ms and a first sample."""
    path = write_av(tmp / "x.mp4", voice(), **options)
    data = path.read_bytes()
    entries = b"".join(struct.pack(">IiI", *edit, speed) for edit in edits)
    new = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(edits)) + entries
    at = data.index(b"elst") - 4
    mutant = bytearray(data[:at] + new + data[at + 28 :])
    for name in (b"moov", b"trak", b"edts"):
        at = data.index(name) - 4
        (length,) = struct.unpack(">I", data[at : at + 4])
        mutant[at : at + 4] = struct.pack(">I", length + len(new) - 28)
    path.write_bytes(mutant)
    return path


def _joined_mp4(tmp: Path) -> Path:
    path, data, at = _tables(tmp, b"mdat")
    path.write_bytes(data + data[at - 4 :])  # the second without its first box
    return path


def _aiff(tmp: Path, *chunks: bytes, kind: bytes = b"AIFC") -> Path:
    (tmp / "x.aiff").write_bytes(b"FORM" + struct.pack(">I", 4 + sum(map(len, chunks))) + kind)
    with (tmp / "x.aiff").open("ab") as f:
        f.writelines(chunks)
    return tmp / "x.aiff"


def _comm(coding: bytes = b"NONE", rate: int = SAMPLE_RATE) -> bytes:
    # The rate is a float of 80 bits.
    exponent = rate.bit_length() - 1
    rate80 = struct.pack(">HQ", 16_383 + exponent, rate << 63 - exponent)
    return struct.pack(">4sIHIH", b"COMM", 24, 1, N, 16) + rate80 + coding + bytes(2)


def _ssnd(offset: int = 0, unused: int = 0) -> bytes:
    data = bytes(unused) + voice().astype(">i2").tobytes()
    return struct.pack(">4sIII", b"SSND", 8 + len(data), offset, 0) + data


@pytest.mark.parametrize("unused", [0, 2, 32_000])
def test_aiff_begins_behind_its_offset(tmp_path: Path, unused: int) -> None:
    samples = load(_aiff(tmp_path, _comm(), _ssnd(unused, unused))).samples
    np.testing.assert_array_equal(samples, voice().astype(np.float32) / 32_768)


def _zeroed_mp4(tmp: Path) -> Path:
    path, data, at = _tables(tmp, b"mdat")
    path.write_bytes(data[: at + 500] + bytes(2_000) + data[at + 2_500 :])
    return path


def _zeroed_opus(tmp: Path) -> Path:
    """Zero the last tenth of the packets, of 20 ms each."""
    path = write_av(tmp / "x.mp4", voice(), codec="libopus")
    data = path.read_bytes()
    at = data.index(b"mdat") - 4
    end = at + int.from_bytes(data[at : at + 4], "big")
    n = (end - at) // 10
    path.write_bytes(data[: end - n] + bytes(n) + data[end:])
    return path


FAULTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda tmp: tmp / "x.wav", "no such file"),
    "empty": (_empty, "empty"),
    "folder": (lambda tmp: tmp, "not a regular file"),
    "FIFO": (_fifo, "not a regular file"),
    "device": (lambda tmp: Path("/dev/zero"), "not a regular file"),
    "NUL in the name": (lambda tmp: tmp / "x\0.wav", "cannot be opened"),
    "text": (_text, "neither WAV"),
    "AIFF truncated": (lambda tmp: _cut(wav(tmp / "x.aiff"), 0.7), "bytes of audio"),
    "AIFF announces fewer frames": (
        lambda tmp: _edit(wav(tmp / "x.aiff"), 22, struct.pack(">I", 9_000)),
        "18008 bytes of plain audio",
    ),
    "AIFF with two headers": (
        lambda tmp: _aiff(tmp, _comm(), _comm(rate=8_000), _ssnd()),
        " 0 bytes of plain audio",
    ),
    "AIFF with a coded header behind a plain one": (
        lambda tmp: _aiff(tmp, _comm(), _comm(b"ulaw"), _ssnd()),
        " 0 bytes of plain audio",
    ),
    "AIFF with another header behind": (
        lambda tmp: _aiff(tmp, _comm(), _ssnd(), _comm(rate=8_000)),
        "bytes follow its audio",
    ),
    "AIFF with an offset into its audio": (
        lambda tmp: _aiff(tmp, _comm(), _ssnd(offset=32_000)),
        "40008 bytes of plain audio, it holds 8008",
    ),
    "AIFF of 8 bits that announces 16": (
        lambda tmp: _aiff(tmp, _comm(b"ulaw"), _ssnd()),
        " 0 bytes of plain audio",
    ),
    "AIFF of 24 bits that announces 16": (
        lambda tmp: _aiff(tmp, _comm(b"in24"), _ssnd()),
        " 0 bytes of plain audio",
    ),
    "AIFF, coded": (lambda tmp: wav(tmp / "x.aiff", subtype="IMA_ADPCM"), "plain audio"),
    "MP4 truncated": (lambda tmp: _cut(write_av(tmp / "x.m4a", voice()), 0.7), "whole MP4"),
    "MP4 twice": (lambda tmp: _edit(*_mp4_end(tmp)), "whole MP4"),
    "two MP4 files joined": (_joined_mp4, "whole MP4"),
    "MP4 that plays its beginning": (lambda tmp: _edited(tmp, (500, 1_024)), "edit list"),
    "MP4 that plays its end": (lambda tmp: _edited(tmp, (750, 9_024)), "edit list"),
    "MP4 that plays nothing": (lambda tmp: _edited(tmp, (1_250, -1)), "edit list"),
    "MP4 that leaves out its middle": (
        lambda tmp: _edited(tmp, (400, 1_024), (400, 14_000)),
        "edit list",
    ),
    "MP4 that repeats its beginning": (
        lambda tmp: _edited(tmp, (600, 1_024), (650, 1_024)),
        "edit list",
    ),
    "MP4 at half speed": (lambda tmp: _edited(tmp, (1_250, 1_024), speed=0x8000), "edit list"),
    "MP4 in fragments": (
        lambda tmp: write_av(tmp / "x.mp4", voice(), movflags="frag_keyframe+empty_moov"),
        "states no length",
    ),
    "MP4 of two sounds": (lambda tmp: write_av(tmp / "x.m4a", voice(), n_audio=2), "aac and aac"),
    "MP4 without sound": (
        lambda tmp: write_av(tmp / "x.mp4", voice(), n_audio=0, video=True),
        "absent",
    ),
    "MP4 of another codec": (
        lambda tmp: write_av(tmp / "x.mp4", voice(48_000), 48_000, codec="ac3"),
        "ac3",
    ),
    "MP4 announces fewer packets": (_fewer_packets, r"packets of .* (\d\S+ s) of .* end at \1"),
    "MP4 announces 256 million packets": (_mp4_bomb, "announces 268435456 bytes"),
    "MP4 of zeros": (_zeroed_mp4, "truncated or damaged"),
    "MP4 with Opus, zeros at its end": (_zeroed_opus, "a packet of 960 frames has 4"),
    "WebM": (
        lambda tmp: write_av(tmp / "x.webm", voice(48_000), 48_000, codec="libopus"),
        "left out silently",
    ),
    "AAC without a container": (lambda tmp: write_av(tmp / "x.aac", voice()), "no length"),
    "FLAC header cut": (_header_only, "neither length nor MD5"),
    "FLAC truncated": (lambda tmp: _cut(wav(tmp / "x.flac"), 0.7), "truncated or damaged"),
    "FLAC flipped": (_flipped_flac, "damaged"),
    "FLAC MD5 wrong": (lambda tmp: _edit(wav(tmp / "x.flac"), 30, b"\0\1\2"), "MD5"),
    "FLAC announces more": (
        lambda tmp: write_flac(tmp / "x.flac", voice(), frames=1 << 34),
        "longer than|announces 17179869184 frames",
    ),
    "FLAC announces less": (lambda tmp: write_flac(tmp / "x.flac", voice(), frames=9_000), "MD5"),
    "FLAC announces nothing": (
        lambda tmp: write_flac(tmp / "x.flac", voice(), frames=0, with_md5=False),
        "neither length nor MD5",
    ),
    "FLAC rate": (lambda tmp: _edit(wav(tmp / "x.flac"), 19, b"\x42"), "no FLAC frame of"),
    "FLAC metadata": (lambda tmp: _edit(wav(tmp / "x.flac"), 45, b"\x29"), "no FLAC frame"),
    "FLAC of 12 bits with a wrong MD5": (
        lambda tmp: _edit(write_flac(tmp / "x.flac", voice() // 16, depth=12), 30, b"\0\1\2"),
        "MD5",
    ),
    "WAV truncated": (lambda tmp: _cut(wav(tmp / "x.wav"), 0.7), "announces 40000 bytes"),
    "WAV announces less": (
        lambda tmp: _edit(wav(tmp / "x.wav"), 40, struct.pack("<I", 20_000)),
        "follow|announces",
    ),
    "WAV bytes per second": (
        lambda tmp: _edit(wav(tmp / "x.wav"), 24, struct.pack("<I", 8_000)),
        "8000 Hz",
    ),
    "WAV channels": (lambda tmp: _edit(wav(tmp / "x.wav"), 22, b"\2\0"), "2 channels"),
    "WAV with two data chunks": (_two_data_chunks, "bytes follow its audio"),
    "two WAV files joined": (lambda tmp: _joined(tmp, "x.wav"), "bytes follow its audio"),
    "WAV with speech behind a pause": (
        lambda tmp: _behind(tmp, bytes(9_000)),
        "bytes follow its audio",
    ),
    "WAV with speech behind many chunks": (
        lambda tmp: _behind(tmp, b"LIST\0\0\0\0" * 1_000),
        "too many chunks",
    ),
    "WAV with speech behind a tag": (
        lambda tmp: _behind(tmp, b"TAG" + bytes(125)),
        "bytes follow its audio",
    ),
    "two MP3 files joined around a tag": (
        lambda tmp: _joined(tmp, "x.mp3", b"TAG" + bytes(125)),
        "the file has",
    ),
    "two FLAC files joined": (lambda tmp: _joined(tmp, "x.flac"), "another FLAC file"),
    "two Ogg files joined": (lambda tmp: _joined(tmp, "x.ogg"), "another stream"),
    "two MP3 files joined": (lambda tmp: _joined(tmp, "x.mp3"), "the file has"),
    "WAV of chunks": (_many_chunks, "no data chunk"),
    "WAV without data": (lambda tmp: wav(tmp / "x.wav", voice(0)), "no samples"),
    "Ogg truncated": (lambda tmp: _cut(wav(tmp / "x.ogg"), 0.7), "Ogg page"),
    "Ogg flipped": (lambda tmp: _edit(wav(tmp / "x.ogg"), -300, b"\1"), "Ogg page"),
    "Ogg lost a page": (lambda tmp: _lost_page(tmp, 4), "Ogg page"),
    "Ogg lost its last page": (lambda tmp: _lost_page(tmp, -1), "last Ogg page"),
    "MP3 truncated": (lambda tmp: _cut(wav(tmp / "x.mp3"), 0.7), "the file has"),
    "NaN": (lambda tmp: _value(tmp, np.nan), "nan to nan near frame 0"),
    "infinite": (lambda tmp: _value(tmp, -np.inf), "-inf to .* near frame 0"),
    "one huge value": (lambda tmp: _value(tmp, 1e30), "1e.30 near frame 0"),
    "floats in units of int16": (
        lambda tmp: wav(tmp / "x.wav", voice().astype(np.float32), subtype="FLOAT"),
        "divide by 32768",
    ),
    "all zero": (lambda tmp: wav(tmp / "x.flac", np.zeros(N, np.int16)), "all equal"),
    "constant": (lambda tmp: wav(tmp / "x.flac", np.full(N, -40, np.int16)), "all equal"),
    "too short": (lambda tmp: wav(tmp / "x.wav", voice(MIN_SAMPLES - 1)), "too few"),
    "too short at 48 kHz": (lambda tmp: wav(tmp / "x.wav", voice(1_190), 48_000), "too few"),
    "anti-phase": (
        lambda tmp: wav(tmp / "x.wav", np.stack([voice(), -voice()], axis=1)),
        "cancel each other",
    ),
    "3,999 Hz": (lambda tmp: wav(tmp / "x.wav", rate=3_999), "3999 Hz"),
    "192,001 Hz": (lambda tmp: wav(tmp / "x.wav", rate=192_001), "192001 Hz"),
    "channels: 9": (
        lambda tmp: wav(tmp / "x.wav", np.repeat(voice()[:, None], 9, axis=1)),
        "channels: 9",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(tmp_path: Path, fault: str) -> None:
    make, message = FAULTS[fault]
    path = make(tmp_path)
    with pytest.raises(AudioError, match=message) as error:
        load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(AudioError):
        list(windows(Decoder(path).blocks(), 4_000))
    problem = audit(path).problem
    assert problem is not None
    assert str(path) in problem


@pytest.mark.parametrize("fault", ["all zero", "constant", "too short", "anti-phase"])
def test_silence_is_accepted_when_asked(tmp_path: Path, fault: str) -> None:
    path = FAULTS[fault][0](tmp_path)
    assert len(load(path, allow_silence=True).samples) == audit(path).n_source_frames
    assert audit(path, allow_silence=True).problem is None
    assert list(windows(Decoder(path).blocks(allow_silence=True)))


def test_silence_within_the_part_that_is_read(tmp_path: Path) -> None:
    x = voice()
    x[:10_000] = 0
    path = wav(tmp_path / "x.wav", x)
    assert load(path).samples.any()
    with pytest.raises(AudioError, match="all equal"):
        load(path, max_samples=10_000)
    late = wav(tmp_path / "late.wav", np.concatenate([np.zeros(N_SAMPLES, np.int16), voice()]))
    for read in (load, lambda path: load(path, max_samples=N_SAMPLES)):
        with pytest.raises(AudioError, match="all equal"):  # one rule, whatever is read
            read(late)
    assert "all equal" in str(audit(late).problem)
    whole = b"".join(block.tobytes() for block in Decoder(late).blocks(heard=sys.maxsize))
    assert len(whole) == 4 * (N_SAMPLES + N)


def test_a_folder_is_listed_whole(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for path in (folder / "in", elsewhere):
        path.mkdir(parents=True)
    (folder / "link").symlink_to(elsewhere)
    # Back to a folder, and to one that is listed already.
    for name, target in (("again", folder), ("more", elsewhere)):
        (folder / name).symlink_to(target)
    names = ["b.WAV", "in/c.m4a", "in/d.aiff", "link/e.opus", "link/f.wave"]
    for name in [*names, "notes.txt", "in/wav"]:
        (folder / name).touch()
    assert list_recordings(folder) == [folder / name for name in names]
    for nothing in (tmp_path / "absent", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(AudioError, match=r"cannot be listed|holds no audio"):
            list_recordings(nothing)


def test_notes_of_macos_are_no_recordings(tmp_path: Path) -> None:
    names = ["._b.wav", "__MACOSX/in/c.wav", "in/a.wav"]
    for name in [*names, "in/._a.wav", "__MACOSX/in/._a.wav"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_recordings(tmp_path) == [tmp_path / name for name in names], "no b.wav beside ._b"


def test_unreadable_file(tmp_path: Path) -> None:
    path = wav(tmp_path / "x.wav")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(AudioError, match="cannot be opened"):
        load(path)


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = write_bomb(tmp_path / "x.flac", 4_000)
    with pytest.raises(AudioError, match="longer than 14400 s"):
        load(path)


def test_huge_floats_are_an_error_not_infinity(tmp_path: Path) -> None:
    x = np.full((N, 2), 3.4e38, np.float32) * np.sign(voice()[:, None])
    path = wav(tmp_path / "x.wav", x.astype(np.float32), 44_100, subtype="FLOAT")
    with pytest.raises(AudioError, match="full scale"):
        load(path)
    with pytest.raises(AudioError, match="full scale"):
        list(windows(Decoder(path).blocks()))


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.wav"))
    try:
        wav(tmp_path / "x.wav").rename(path)
    except OSError:
        pytest.skip("the file system wants UTF-8")
    assert len(load(path).samples) == N


def test_every_damaged_flac_frame_is_an_error(tmp_path: Path) -> None:
    """Whatever the size of FLAC frames: at some, plain soundfile returns zeros instead."""
    for block in (1_000, 4_096, 16_384):
        path = write_flac(tmp_path / "x.flac", voice(40_000), block=block, with_md5=False)
        data = path.read_bytes()
        for position in range(60, len(data), 1_500):
            _edit(path, position, bytes([data[position] ^ 0x10]))
            with pytest.raises(AudioError):
                load(path)
            path.write_bytes(data)


@pytest.mark.parametrize("name", ["x.flac", "x.wav", "x.ogg", "x.mp3"])
def test_mutations(tmp_path: Path, name: str) -> None:
    """Flips and cuts give AudioError, or what is right, or (WAV, MP3) what nothing can tell."""
    x = voice(12_000)
    path = wav(tmp_path / name, x)
    data, whole = path.read_bytes(), load(path).samples
    rng = np.random.default_rng(1)
    refused = 0
    for trial in range(200):
        mutant = bytearray(data)
        # Half of the mutations in the headers, where the parsers are.
        position = int(rng.integers(0, len(data) if trial % 4 < 2 else 120))
        if trial % 2:
            mutant[position] ^= int(rng.integers(1, 256))
        else:
            del mutant[position:]
        path.write_bytes(mutant)
        for bound in (None, 3_000):
            try:
                found = load(path, max_samples=bound)
            except AudioError:
                refused += bound is None
                continue
            assert np.isfinite(found.samples).all()
            assert len(found.samples) >= MIN_SAMPLES
            if name in ("x.flac", "x.ogg") and found.source_rate == SAMPLE_RATE:
                np.testing.assert_array_equal(found.samples, whole[:bound])
            if name != "x.mp3":
                assert trial % 2 or bound, "a truncated file was accepted"
    assert refused >= 50


# --- over-range FLAC --------------------------------------------------------------------------


unwraps = pytest.mark.skipif(
    sf.__libsndfile_version__ != "1.2.0", reason="only libsndfile 1.2.0 returns them unwrapped"
)


@unwraps
def test_over_range_samples_stay_unwrapped(tmp_path: Path) -> None:
    path = write_flac(tmp_path / "x.flac", over_range())
    recording = load(path)
    np.testing.assert_array_equal(recording.samples, over_range().astype(np.float32) / 32_768)
    assert (recording.over_range, recording.peak) == (2, 40_000 / 32_768)
    assert (audit(path).md5, audit(path).problem) == ("ok", None)


@unwraps
def test_a_wrapped_predictor_drifts_and_is_told(tmp_path: Path) -> None:
    """As in the files of ASVspoof 2021: more over-range samples than were put in, another MD5."""
    path = write_flac(tmp_path / "x.flac", over_range(), history="wrapped")
    recording = load(path)
    wrong = np.flatnonzero(recording.samples != over_range().astype(np.float32) / 32_768)
    assert wrong.min() > 9_000
    assert wrong.max() < 12_288, "the end of the frame ends the drift"
    assert recording.over_range is not None
    assert recording.over_range > 2
    assert (audit(path).md5, audit(path).problem) == ("over-range", None)


class _RefusesToOpen(slslib.data.audio._Stream):
    def __init__(self, *args: object) -> None:
        raise sf.LibsndfileError(161, "refused: ")


class _RefusesToRead(slslib.data.audio._Stream):
    """Refuses from frame 8,192 on, as libsndfile 1.2.2 does at the first over-range frame."""

    def read(self, frames: int, **kw: object) -> np.ndarray:
        self.done = getattr(self, "done", 0) + frames
        if self.done > 8_192:
            raise sf.LibsndfileError(161)
        return super().read(frames, **kw)


@pytest.fixture(params=[_RefusesToOpen, _RefusesToRead])
def refusing_libsndfile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slslib.data.audio, "_Stream", request.param)
    monkeypatch.setattr(slslib.data.audio, "_BLOCK", 4_096)


@pytest.mark.usefixtures("refusing_libsndfile")
class TestFFmpeg:
    def test_wraps(self, tmp_path: Path) -> None:
        path = write_flac(tmp_path / "x.flac", over_range())
        recording = load(path)
        wrapped = over_range().astype(np.int16).astype(np.float32) / 32_768
        np.testing.assert_array_equal(recording.samples, wrapped)
        assert recording.over_range is None
        assert recording.decoder.startswith("FFmpeg ")
        assert recording.n_source_frames == N
        np.testing.assert_array_equal(load(path, max_samples=11_111).samples, wrapped[:11_111])
        cut = windows(Decoder(path).blocks(), 2_000)
        found = np.concatenate([window for _, window in cut])
        np.testing.assert_array_equal(found, wrapped)

    def test_another_md5_is_expected(self, tmp_path: Path) -> None:
        path = write_flac(tmp_path / "x.flac", over_range(), history="wrapped")
        assert (audit(path).md5, audit(path).problem) == ("over-range", None)

    @pytest.mark.parametrize("depth", [8, 24])
    def test_scale_and_channels(self, tmp_path: Path, depth: int) -> None:
        x = (voice(9_000).astype(np.int64) << 8) >> (24 - depth)
        path = write_flac(tmp_path / "x.flac", np.stack([x, x // 2], axis=1), depth=depth)
        expected = (x + x // 2) / 2.0**depth
        np.testing.assert_allclose(load(path).samples, expected, atol=1e-7)
        assert audit(path).md5 == "ok"

    def test_damage_stays_an_error(self, tmp_path: Path) -> None:
        path = write_flac(tmp_path / "x.flac", over_range(), block=2_000)
        data = path.read_bytes()
        for position in range(50, len(data), 997):
            path.write_bytes(data[:position])
            with pytest.raises(AudioError):
                load(path)
            _edit(path, 0, data)
            _edit(path, position, bytes([data[position] ^ 4]))
            with pytest.raises(AudioError):
                load(path)
            path.write_bytes(data)

    def test_a_lost_frame_is_an_error_in_a_bounded_read_too(self, tmp_path: Path) -> None:
        path = write_flac(tmp_path / "x.flac", over_range(), block=2_000)
        frames = path.read_bytes().split(b"\xff\xf8\x70")
        for lost in (1, 4, 5):
            path.write_bytes(b"\xff\xf8\x70".join(frames[:lost] + frames[lost + 1 :]))
            with pytest.raises(AudioError):
                load(path, max_samples=12_000)

    def test_other_formats_have_no_second_decoder(self, tmp_path: Path) -> None:
        with pytest.raises(AudioError, match="libsndfile"):
            load(wav(tmp_path / "x.wav"))


@pytest.mark.parametrize("depth", [12, 20])
def test_depths_that_libsndfile_lacks(tmp_path: Path, depth: int) -> None:
    x = (voice().astype(np.int64) << 8) >> (24 - depth)
    path = write_flac(tmp_path / "x.flac", x, depth=depth)
    np.testing.assert_array_equal(load(path).samples, x / np.float32(1 << depth - 1))
    assert (audit(path).md5, audit(path).subtype) == ("ok", f"PCM_{depth}")
    assert load(path).over_range == 0


# --- reference data ---------------------------------------------------------------------------


@pytest.mark.shared
@unwraps
def test_asvspoof_samples(shared: Path) -> None:
    folder = shared / "speech" / "asvspoof_samples"
    found = {path.name: (load(path), audit(path)) for path in folder.glob("*.flac")}
    assert len(found) == 3
    assert all(a.problem is None for _, a in found.values())
    odd, odd_audit = found.pop("SSL_Anti-spoofing__DF_E_2014017_original.flac")
    assert (len(odd.samples), odd.over_range, odd_audit.md5) == (51_211, 18, "over-range")
    assert odd.peak == pytest.approx(5.61, abs=0.005)
    assert all((r.over_range, a.md5) == (0, "ok") for r, a in found.values())


@pytest.mark.shared
def test_asvspoof_sample_through_ffmpeg(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shared / "speech" / "asvspoof_samples"
    (path,) = folder.glob("*2014017*")
    monkeypatch.setattr(slslib.data.audio, "_Stream", _RefusesToOpen)
    recording = load(path)
    assert (len(recording.samples), recording.over_range) == (51_211, None)
    assert recording.peak <= 1


def test_a_window_has_a_length():
    with pytest.raises(ConfigError, match="n_samples"):
        next(windows([np.ones(10, np.float32)], 0))
