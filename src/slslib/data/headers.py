"""Audio containers: which one a file is, and whether its header contradicts the file.

Decoders trust headers more than they should: libsndfile reads a truncated WAV file as a shorter
one, and drops damaged Ogg pages. The walks below read no more than headers (and Ogg pages, one at
a time), and allocate nothing from the numbers they find.

Formats: RIFF/WAVE (with RF64 and RIFX), FLAC (RFC 9639), Ogg (RFC 3533).
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
_FLAC_BITS = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}
_FLAC_RATES = {
    1: 88_200, 2: 176_400, 3: 192_000, 4: 8_000, 5: 16_000, 6: 22_050, 7: 24_000, 8: 32_000,
    9: 44_100, 10: 48_000, 11: 96_000,
}  # fmt: skip
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
            return _inspect(path, f, status.st_size)
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file; check the path or fetch the file.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise AudioError(f"{path}: it cannot be opened ({error}).") from error


def _inspect(path: Path, f: BinaryIO, size: int) -> tuple[Format, FlacInfo | None]:
    head = f.read(10)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64"):
        if why := _wav_contradiction(f, size):
            raise AudioError(f"{path}: {why}; {_AGAIN}.")
        return "WAV", None
    if head[:4] == b"OggS":
        if why := _ogg_contradiction(f):
            raise AudioError(f"{path}: {why}; {_AGAIN}.")
        return "OGG", None
    tag = 0
    if head[:3] == b"ID3" and len(head) == 10:
        tag = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    f.seek(tag)
    start = f.read(42)
    if start[:4] == b"fLaC":
        if len(start) < 42 or start[4] & 0x7F or start[5:8] != b"\0\0\x22":
            raise AudioError(f"{path}: its FLAC header is damaged; {_AGAIN}.")
        packed = int.from_bytes(start[18:26], "big")
        info = FlacInfo(
            samplerate=packed >> 44,
            channels=(packed >> 41 & 7) + 1,
            bits=(packed >> 36 & 31) + 1,
            frames=packed & (1 << 36) - 1 or None,
            md5=start[26:42].hex() if any(start[26:42]) else "",
        )
        if info.frames is None and not info.md5:
            raise AudioError(
                f"{path}: its FLAC header states neither length nor MD5 (it was written to a pipe),"
                " so that a truncated copy looks like a whole one; write it again, for instance "
                "with `ffmpeg -i INPUT OUTPUT.flac`."
            )
        if why := _flac_contradiction(f, tag + 4, info):
            raise AudioError(f"{path}: {why}; {_AGAIN}.")
        return "FLAC", info
    if tag or (len(start) > 1 and start[0] == 0xFF and start[1] & 0xE0 == 0xE0):
        return "MP3", None
    raise AudioError(
        f"{path}: neither WAV, FLAC, Ogg nor MP3; convert it, for instance with "
        "`ffmpeg -i INPUT -ar 16000 -ac 1 OUTPUT.flac`."
    )


def _flac_contradiction(f: BinaryIO, position: int, info: FlacInfo) -> str | None:
    """Return how the first frame's header contradicts STREAMINFO, or ``None``."""
    for _ in range(_MAX_CHUNKS):
        f.seek(position)
        block = f.read(4)
        if len(block) < 4:
            return "its FLAC metadata is cut"
        position += 4 + int.from_bytes(block[1:], "big")
        if block[0] & 0x80:  # the last block of metadata
            break
    f.seek(position)
    frame = f.read(4)
    if not frame:
        return None  # no audio, which is said later
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xFE != 0xF8:
        return f"no FLAC frame begins at byte {position}, where its metadata ends"
    rate, channels, bits = frame[2] & 15, frame[3] >> 4, frame[3] >> 1 & 7
    for what, said, announced in (
        ("Hz", _FLAC_RATES.get(rate), info.samplerate),
        ("channels", 2 if channels > 7 else channels + 1, info.channels),
        ("bits", _FLAC_BITS.get(bits), info.bits),
    ):
        if said is not None and said != announced:
            return f"its header announces {announced} {what}, its first frame {said}"
    return None


def _wav_contradiction(f: BinaryIO, size: int) -> str | None:
    """Return what in a RIFF header contradicts the file, or ``None``."""
    f.seek(0)
    head = f.read(12)
    if len(head) < 12 or head[8:] != b"WAVE":
        return "its RIFF header is not that of a WAV file"
    order = ">" if head[:4] == b"RIFX" else "<"
    riff_end = 8 + struct.unpack(order + "I", head[4:8])[0]
    position, align, data, data_end, long_data = 12, 0, None, 0, None
    for _ in range(_MAX_CHUNKS):
        f.seek(position)
        chunk = f.read(8)
        if len(chunk) < 8:
            break
        name, length = struct.unpack(order + "4sI", chunk)
        if not all(32 <= byte < 127 for byte in name):
            return f"its header ends at byte {position}, but {size - position} bytes follow"
        if name == b"data" and long_data is not None:
            length = long_data
        end = position + 8 + length
        if end > size:
            left = size - position - 8
            return f"its header announces {length} bytes of {name.decode()!r}, {left} are there"
        if name == b"ds64" and length >= 16 and head[:4] == b"RF64":
            riff_size, long_data = struct.unpack("<QQ", f.read(16))
            riff_end = 8 + riff_size
        elif name == b"fmt " and length >= 16:
            tag, channels, rate, per_second, align, bits = struct.unpack(
                order + "HHIIHH", f.read(16)
            )
            if tag not in _PLAIN_TAGS:
                align = 1
            elif align != channels * -(-bits // 8) or per_second != rate * align:
                return (
                    f"its header announces {rate} Hz, {channels} channels and {bits} bits, but "
                    f"{align} bytes per frame and {per_second} per second"
                )
        elif name == b"data":
            if data is not None:
                return "it has two data chunks"
            data, data_end = length, end
        position = end + (length & 1)
    else:
        return f"it has more than {_MAX_CHUNKS} chunks"
    if data is None or not align:
        return "it has no data chunk or no format chunk"
    if data % align:
        return f"its {data} bytes of audio are no whole number of {align}-byte frames"
    if not data_end <= riff_end <= size + 1:
        return f"its header announces {riff_end} bytes in all, the file has {size}"
    return None


def _ogg_contradiction(f: BinaryIO) -> str | None:
    """Return which Ogg page is damaged or missing, or ``None``."""
    f.seek(0)
    position = 0
    pages: dict[bytes, int] = {}  # of each open stream
    while header := f.read(27):
        if len(header) < 27 or header[:5] != b"OggS\0":
            return f"at byte {position} an Ogg page should begin"
        lengths = f.read(header[26])
        body = f.read(sum(lengths))
        if len(lengths) < header[26] or len(body) < sum(lengths):
            return f"the Ogg page at byte {position} is cut"
        page = header[:22] + bytes(4) + header[26:] + lengths + body
        # zlib's CRC-32 is Ogg's with all bits mirrored and the initial and final values inverted.
        mirrored = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
        if int(f"{mirrored:032b}"[::-1], 2) != int.from_bytes(header[22:26], "little"):
            return f"the Ogg page at byte {position} fails its CRC"
        serial, number = header[14:18], int.from_bytes(header[18:22], "little")
        if number != pages.get(serial, number):
            return f"Ogg pages are missing before byte {position}"
        pages[serial] = number + 1
        if header[5] & 4:
            del pages[serial]
        position += len(page)
    return "its last Ogg page is missing" if pages else None
