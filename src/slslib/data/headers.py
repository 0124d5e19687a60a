"""Audio headers: which container a file is, and whether its header contradicts the file.

Decoders trust headers more than they should: libsndfile reads a truncated WAV file as a shorter
one, and drops damaged Ogg pages. What is read here is headers (and Ogg pages, one at a time), and
nothing is allocated from the numbers they hold.

Formats: RIFF/WAVE, FLAC (RFC 9639), Ogg (RFC 3533).
"""

from __future__ import annotations

import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from slslib.errors import AudioError

Format = Literal["WAV", "FLAC", "OGG", "MP3"]

_MAX_CHUNKS = 1_000
_PLAIN_TAGS = (1, 3, 6, 7, 0xFFFE)  # PCM, float, A-law, mu-law, extensible
_FLAC_BITS = (0, 8, 12, 0, 16, 20, 24, 32)  # by code; 0: not stated
_FLAC_HZ = (
    *(0, 88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000),
    *(0, 0, 0, 0),
)
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_AGAIN = "the file is damaged or was not written to its end: fetch or make it again"


@dataclass(frozen=True)
class FlacInfo:
    """A FLAC STREAMINFO block, in soundfile's words: Hz, bits per sample, MD5 (if stated)."""

    samplerate: int
    channels: int
    bits: int
    frames: int | None
    md5: str

    @property
    def subtype(self) -> str:
        """The coding of its samples."""
        return "PCM_S8" if self.bits == 8 else f"PCM_{self.bits}"


def inspect(path: Path) -> tuple[Format, FlacInfo | None]:
    """Return a file's container, and its STREAMINFO where that is FLAC.

    Raises:
        AudioError: If the file is missing, empty, not regular, of another kind, or contradicts its
            header.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise AudioError(f"{path}: not a regular file; give an audio file.")
        if status.st_size == 0:
            raise AudioError(f"{path}: the file is empty; fetch or make it again.")
        with path.open("rb") as f:
            container, info, contradiction = _inspect(f, status.st_size)
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file; check the path or fetch the file.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise AudioError(f"{path}: it cannot be opened ({error}).") from error
    if contradiction:
        raise AudioError(f"{path}: {contradiction}; {_AGAIN}.")
    if container is None:
        raise AudioError(
            f"{path}: neither WAV, FLAC, Ogg nor MP3; convert it, for instance with "
            "`ffmpeg -i INPUT -ar 16000 -ac 1 OUTPUT.flac`."
        )
    return container, info


def _inspect(f: BinaryIO, size: int) -> tuple[Format | None, FlacInfo | None, str | None]:
    """Return the container, STREAMINFO, and what in the header contradicts the file."""
    head = f.read(10)
    if head[:4] == b"RIFF":
        return "WAV", None, _wav_contradiction(f, size)
    if head[:4] == b"OggS":
        return "OGG", None, _ogg_contradiction(f)
    tag = 0
    if head[:3] == b"ID3" and len(head) == 10:
        tag = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    f.seek(tag)
    start = f.read(42)
    if start[:4] == b"fLaC":
        if len(start) < 42 or start[4] & 0x7F or start[5:8] != b"\0\0\x22":
            return "FLAC", None, "its FLAC header is damaged"
        packed = int.from_bytes(start[18:26], "big")
        info = FlacInfo(
            samplerate=packed >> 44,
            channels=(packed >> 41 & 7) + 1,
            bits=(packed >> 36 & 31) + 1,
            frames=packed & (1 << 36) - 1 or None,
            md5=start[26:42].hex() if any(start[26:42]) else "",
        )
        return "FLAC", info, _flac_contradiction(f, tag + 4, info)
    if tag or (len(start) > 1 and start[0] == 0xFF and start[1] & 0xE0 == 0xE0):
        return "MP3", None, None
    return None, None, None


def _flac_contradiction(f: BinaryIO, position: int, info: FlacInfo) -> str | None:
    """Return how the first frame's header contradicts STREAMINFO, or ``None``."""
    if info.frames is None and not info.md5:  # a truncated copy would look like a whole one
        return "its FLAC header states neither length nor MD5, as if written to a pipe"
    is_last = False
    while not is_last:
        f.seek(position)
        if len(block := f.read(4)) < 4:
            return "its FLAC metadata is cut"
        position += 4 + int.from_bytes(block[1:], "big")
        is_last = bool(block[0] & 0x80)
    f.seek(position)
    if not (frame := f.read(4)):
        return None  # no audio, which is said later
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xFE != 0xF8:
        return f"no FLAC frame begins at byte {position}, where its metadata ends"
    hz, channels, bits = _FLAC_HZ[frame[2] & 15], frame[3] >> 4, _FLAC_BITS[frame[3] >> 1 & 7]
    stated = hz or info.samplerate, 2 if channels > 7 else channels + 1, bits or info.bits
    announced = info.samplerate, info.channels, info.bits
    if stated != announced:
        return f"its header announces Hz, channels and bits {announced}, its first frame {stated}"
    return None


def _wav_contradiction(f: BinaryIO, size: int) -> str | None:
    """Return what in a RIFF header contradicts the file, or ``None``."""
    f.seek(4)
    riff_end, kind = struct.unpack("<I4s", f.read(8).ljust(8))
    riff_end, position, align, data, data_end = riff_end + 8, 12, 0, -1, 0
    if kind != b"WAVE":
        return "its RIFF header is not that of a WAV file"
    for _ in range(_MAX_CHUNKS):
        f.seek(position)
        if len(chunk := f.read(8)) < 8:
            break
        name, length = struct.unpack("<4sI", chunk)
        end = position + 8 + length
        if not all(32 <= byte < 127 for byte in name):
            return f"its header ends at byte {position}, but {size - position} bytes follow"
        if end > size:
            left = size - position - 8
            return f"its header announces {length} bytes of {name.decode()!r}, {left} are there"
        if name == b"fmt " and length >= 16:
            tag, channels, rate, per_second, align, bits = struct.unpack("<HHIIHH", f.read(16))
            plain = channels * -(-bits // 8), rate * channels * -(-bits // 8)
            if tag not in _PLAIN_TAGS:
                align = 1
            elif (align, per_second) != plain:
                return (
                    f"its header announces {rate} Hz, {channels} channels and {bits} bits, but "
                    f"{align} bytes per frame and {per_second} per second"
                )
        elif name == b"data" and data >= 0:
            return "it has two data chunks"
        elif name == b"data":
            data, data_end = length, end
        position = end + (length & 1)
    else:
        return f"it has more than {_MAX_CHUNKS} chunks"
    if data < 0 or not align or data % align:
        return f"it has no format chunk, or no data chunk of whole {align}-byte frames"
    if not data_end <= riff_end <= size + 1:
        return f"its header announces {riff_end} bytes in all, the file has {size}"
    return None


def _ogg_contradiction(f: BinaryIO) -> str | None:
    """Return which page is damaged or missing, or ``None``; decoders leave such pages out."""
    f.seek(0)
    number, is_last = 0, False
    while header := f.read(27):
        lengths = f.read(header[-1])
        page = header[:22] + bytes(4) + header[26:] + lengths + f.read(sum(lengths))
        # zlib's CRC-32 is Ogg's with all bits mirrored and the initial and final values inverted.
        mirrored = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
        crc = int(f"{mirrored:032b}"[::-1], 2)
        if header[:4] != b"OggS" or header[18:26] != struct.pack("<II", number, crc):
            return f"its Ogg page {number} is damaged, cut or missing, or two streams are mixed"
        is_last = bool(header[5] & 4)
        number = 0 if is_last else number + 1  # another stream may follow
    return None if is_last else "its last Ogg page is missing"
