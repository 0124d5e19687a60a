"""Audio headers: which container a file is, and whether its header contradicts the file.

Decoders trust headers more than they should. libsndfile reads a truncated WAV file as a shorter
one, drops damaged Ogg pages, and reads only the first of two files that were joined byte by byte.
FFmpeg allocates what the tables of an MP4 file announce. This module reads headers (and Ogg pages,
one at a time) and never allocates memory by the numbers in them.

A WAV file that was written to a pipe does not state its length, nor do some MP3 files. They are
read to the end of the file, and callers are told. AAC without a container, MP4 in fragments, and
WebM from a browser state no length either, and a cut copy would pass for a whole one. They are
refused. A caller that informs its user may have the latter two accepted (``any_length``).

Formats: RIFF/WAVE, AIFF, FLAC (RFC 9639), Ogg (RFC 3533), MP3 with the Xing or LAME tag, MP4
(ISO/IEC 14496-12).
"""

import re
import stat
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from slslib.errors import AudioError

AUDIO_SUFFIXES = tuple(".flac .wav .ogg .oga .opus .mp3 .m4a .mp4 .aif .aiff .aifc".split())
"""Endings of the recordings that can be read."""
Format = Literal["WAV", "AIFF", "FLAC", "OGG", "MP3", "MP4", "FRAGMENTS", "MATROSKA"]

_REMEDY = "get it again, or, if it plays in full, convert it: ffmpeg -i OLD new.wav"
_MAX_CHUNKS = 1_000
_MAX_TAIL = 1 << 20  # bytes after the last chunk
# What recorders and players leave at the end: zeros; ID3v1, APEv2 and Lyrics3 tags.
_NO_AUDIO = rb"(?s)\A(\0+|TAG.{0,125}|APETAGEX.{24}.*?APETAGEX.{24}|LYRICSBEGIN.*?LYRICS(END|200))*"
_OTHER_AUDIO = (b"data", b"SSND", b"COMM", b"RIFF", b"FORM", bytes(4))
PRIMING = 0.3
"""Longest time, in seconds, that the encoder of an MP4 file adds at the beginning."""
_FRAGMENTS = "it is an MP4 file in fragments, which states no length"
_UNSTATED = "it states no length"  # for WAV and MP3, which are read to their end
_MAX_MOOV = 1 << 26  # bytes of the tables of an MP4 file
_MP3_FRAME = 1441  # bytes of the longest frame
_FLAC_START = b"fLaC\0\0\0\x22"
_STREAMED = 0x7FFFF000  # in a WAV file, lengths from here on stand for "not known"
_PLAIN_TAGS = (1, 3, 6, 7, 0xFFFE)  # PCM, float, A-law, mu-law, extensible
# Sample rate in kHz by a frame's code; 0: not stated.
_FLAC_KHZ = (0, 88.2, 176.4, 192, 8, 16, 22.05, 24, 32, 44.1, 48, 96, 0, 0, 0, 0)
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
# Coding and bits per sample of the AIFC files whose samples do have that many bits.
_AIFC_PLAIN = rb"(NONE|twos|sowt)\d+|(raw |(?i:[au]law))8|42n[1i]24|23ni32|..(24|32|64)\3"
# A list of one edit at normal speed, perhaps after a pause, and the clock of its track.
_MP4_EDIT = rb"(?s)(\x1celst\0.{7}|\x28elst\0.{11}\xff{4}.{4})(.{8})\0\x01\0\0.*mdhd\0.{11}(.{8})"
_MP4_SIZES = re.compile(rb"stsz.{4}(.{4})(.{4})", re.DOTALL)


class FlacInfo(NamedTuple):
    """A FLAC STREAMINFO block: soundfile's words for it, bits per sample, and the MD5 if stated."""

    samplerate: int
    channels: int
    subtype: str
    frames: int | None
    bits: int
    md5: str


def inspect(path: Path, *, any_length: bool = False) -> tuple[Format, FlacInfo | None, int, bool]:
    """Check the header of a file, and return what it says.

    Args:
        path: The file.
        any_length: Accept WebM, Matroska, and MP4 in fragments, where a cut copy may pass.

    Returns:
        The container, the STREAMINFO of FLAC, the byte up to which FFmpeg must find frames, and
        whether a length is stated (for WebM, Matroska and MP4 in fragments, only decoding tells).

    Raises:
        AudioError: If the file is missing, empty, not regular, of another kind, or contradicts its
            header.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
            raise AudioError(f"{path}: the file is empty, or not a regular file; fetch it again.")
        with path.open("rb") as f:
            container, info, end, contradiction = _inspect(f, status.st_size)
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file; check the path.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise AudioError(f"{path}: it cannot be opened ({error}).") from error
    may_pass = contradiction == _UNSTATED or (any_length and container in ("FRAGMENTS", "MATROSKA"))
    if contradiction and not may_pass:
        raise AudioError(f"{path}: {contradiction}; {_REMEDY}.")
    return container, info, end, not contradiction


def _inspect(f: BinaryIO, size: int) -> tuple[Format, FlacInfo | None, int, str]:
    """Return what :func:`inspect` returns, and how the header contradicts the file."""
    head = f.read(10).ljust(10, b"\0")
    if head[:4] == b"RIFF":
        return "WAV", None, 0, _wav_contradiction(f, size)
    if head[:4] == b"FORM" and head[8:] == b"AI":  # AIFF, AIFC
        return "AIFF", None, 0, _wav_contradiction(f, size, ">4sII", b"SSND")
    if head[4:8] == b"ftyp":
        why = _mp4_contradiction(f, size)
        return "FRAGMENTS" if why == _FRAGMENTS else "MP4", None, size, why
    if head[:4] == b"\x1a\x45\xdf\xa3":
        why = "WebM or Matroska, whose damaged or missing parts are left out silently"
        return "MATROSKA", None, size, why
    if head[:4] == b"OggS":
        return "OGG", None, 0, _ogg_contradiction(f)
    tag = 0
    if head[:3] == b"ID3":
        tag = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    f.seek(tag)
    start = f.read(42).ljust(42, b"\0")
    if start[:4] == b"fLaC":
        packed = int.from_bytes(start[18:26], "big")
        rate, channels, bits = packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
        md5 = start[26:].hex() if any(start[26:]) else ""
        info = FlacInfo(rate, channels, f"PCM_{bits}", packed & (1 << 36) - 1 or None, bits, md5)
        return "FLAC", info, 0, _flac_contradiction(f, tag + 4, info)
    if start[0] == 0xFF and start[1] & 0xF6 == 0xF0:
        return "MP3", None, 0, "AAC without a container, which states no length"
    if tag or (start[0] == 0xFF and start[1] & 0xE0 == 0xE0):
        end = _mp3_end(f, tag)
        # Another stream, or the tag before it, may follow.
        is_wrong = end and (end > size or unexplained(f, end)[:1] in (b"\xff", b"I"))
        why = f"its header announces {end} bytes, the file has {size}" if is_wrong else ""
        return "MP3", None, end or size - _MP3_FRAME, why if end else _UNSTATED
    return "MP3", None, 0, "neither WAV, AIFF, FLAC, Ogg, MP3 nor MP4"


def _flac_contradiction(f: BinaryIO, position: int, info: FlacInfo) -> str:
    """Return the fault of a FLAC file that no decoder notices, or nothing."""
    if info.frames is None and not info.md5:  # a truncated copy would look like a whole one
        return "its FLAC header states neither length nor MD5, as if written to a pipe"
    is_last = False
    while not is_last:
        f.seek(position)
        block = f.read(4).ljust(4, b"\xff")  # if cut, it counts as the last, and no frame follows
        position += 4 + int.from_bytes(block[1:], "big")
        is_last = bool(block[0] & 0x80)
    f.seek(position)
    frame = f.read(3).ljust(3, b"\0")
    if frame[0] != 0xFF or _FLAC_KHZ[frame[2] & 15] not in (0, info.samplerate / 1000):
        return f"no FLAC frame of {info.samplerate} Hz begins where its header ends"
    tail = b""
    while block := f.read(1 << 16):
        if _FLAC_START in tail + block:  # decoders stop before it
            return "another FLAC file follows in it"
        tail = block[-len(_FLAC_START) :]
    return ""


def _wav_contradiction(f: BinaryIO, size: int, head: str = "<4sII", data: bytes = b"data") -> str:
    """Return how a RIFF or AIFF header contradicts the file, or nothing."""
    data_end, position, n_announced = 0, 12, -1
    for _ in range(_MAX_CHUNKS):
        f.seek(position)
        chunk = f.read(30).ljust(30, b"\0")
        name, length, offset = struct.unpack_from(head, chunk)
        start, position = position + 8, position + 8 + length
        if name == b"fmt ":
            tag, channels, rate, per_second, align, bits = struct.unpack_from("<HHIIHH", chunk, 8)
            n_bytes = channels * -(-bits // 8)
            if tag in _PLAIN_TAGS and (align != n_bytes or per_second not in (0, rate * n_bytes)):
                sizes = f"{align} bytes per frame and {per_second} per second"
                return f"its header says {rate} Hz, {channels} channels, {bits} bits, but {sizes}"
        if name == b"COMM":  # libsndfile ignores its frame count, and takes the last of two chunks
            channels, n_frames, bits, coding = struct.unpack_from(">HIH10x4s", chunk, 8)
            is_plain = length < 22 or re.fullmatch(_AIFC_PLAIN, coding + b"%d" % bits)
            n_bytes = 8 + channels * n_frames * -(-bits // 8)
            n_announced = n_bytes if is_plain and n_announced < 0 else 0
        f.seek(position)
        if length & 1 and f.read(1) == b"\0":  # some writers leave out this byte
            position += 1
        if name == data and not data_end:
            if length >= _STREAMED and name == b"data":
                return _UNSTATED
            if name == b"SSND" and (found := length - offset) != n_announced:
                return f"its header tells of {n_announced} bytes of plain audio, it holds {found}"
            data_end = start + length
            if data_end > size:
                return f"its header announces {length} bytes of audio, {size - start} follow"
        elif data_end and (name in _OTHER_AUDIO or position > size or not name.isascii()):
            rest = unexplained(f, start - 8)
            return f"{len(rest)} bytes follow its audio that no chunk explains" if rest else ""
    return "it has no data chunk, or too many chunks"


def _mp4_contradiction(f: BinaryIO, size: int) -> str:
    """Return how the boxes of an MP4 file contradict it, or nothing."""
    names, tables, position = list[bytes](), b"", 0
    while position < size and len(names) < _MAX_CHUNKS:
        f.seek(position)
        length, name, long = struct.unpack(">I4sQ", f.read(16).ljust(16, b"\0"))
        start, position = position, position + (long if length == 1 else max(length, 1))
        names.append(name)
        if name == b"moov":
            f.seek(start)
            tables = f.read(min(position - start, _MAX_MOOV))
    if position != size or names.count(b"moov") != 1 or b"cmov" in tables:
        return "its boxes are not those of one whole MP4 file"
    if b"moof" in names:
        return _FRAGMENTS
    for packet_size, n_packets in _MP4_SIZES.findall(tables):
        n_bytes = max(1, int.from_bytes(packet_size, "big")) * int.from_bytes(n_packets, "big")
        if n_bytes > size:
            return f"its header announces {n_bytes} bytes of packets, the file has {size}"
    for track in tables.split(b"trak"):
        if b"elst" in track and b"soun" in track:
            edit = track.count(b"elst") == 1 and re.search(_MP4_EDIT, track)
            numbers = tables[28:32] + edit[2] + edit[3] if edit else b"\xff" * 20
            movie_rate, duration, begin, rate, length = struct.unpack(">IIIII", numbers)
            left_out = (length - begin) / max(1, rate) - duration / max(1, movie_rate)
            if begin > PRIMING * rate or abs(left_out) > PRIMING:
                return "its edit list leaves out or repeats parts of its sound"
    return ""


def _mp3_end(f: BinaryIO, position: int) -> int:
    """Return where an MP3 file ends according to its Xing or LAME tag, or 0."""
    f.seek(position)
    frame = f.read(_MP3_FRAME)
    tag = max(frame.find(b"Xing"), frame.find(b"Info"))
    flags, *stated = struct.unpack(">III", frame[tag + 4 : tag + 16].ljust(12, b"\0"))
    return position + stated[flags & 1] if tag >= 0 and flags & 2 else 0


def unexplained(f: BinaryIO, position: int) -> bytes:
    """Return what follows ``position``, without zeros and tags that hold no audio; cut if long."""
    f.seek(position)
    tail = f.read(_MAX_TAIL)
    return tail if len(tail) == _MAX_TAIL else re.sub(_NO_AUDIO, b"", tail, count=1)


def _ogg_contradiction(f: BinaryIO) -> str:
    """Return which page is damaged or missing, or nothing. Decoders skip such pages."""
    f.seek(0)
    number, is_last = 0, False
    while header := f.read(27):
        lengths = f.read(header[-1])
        page = header[:22] + bytes(4) + header[26:] + lengths + f.read(sum(lengths))
        # zlib's CRC-32 is Ogg's with all bits mirrored and the initial and final values inverted.
        mirrored = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
        crc = int(f"{mirrored:032b}"[::-1], 2)
        if header[:4] != b"OggS" or header[18:26] != struct.pack("<II", number, crc):
            return f"its Ogg page {number} is damaged, cut or missing, or is another stream's"
        is_last, number = bool(header[5] & 4), number + 1
    return "" if is_last else "its last Ogg page is missing"
