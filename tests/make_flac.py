"""Write small FLAC files that no ordinary encoder writes: over-range, damaged, endless.

libFLAC 1.3.2 accepted samples beyond 16 bits. It stored the residual of the sample itself, but
predicted it from samples wrapped into 16 bits. ``history="wrapped"`` does the same, so that
decoders, which predict from unwrapped samples, drift from the input and from its MD5;
``history="exact"`` predicts as decoders do, and decodes to the input.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Literal

import numpy as np

from minispoof.channel import crc

_WEIGHTS, _SHIFT = (57, -26), 5  # a damped predictor, as of speech: errors die away


def _utf8(number: int) -> bytes:
    return chr(number).encode("utf-8", "surrogatepass")


def _frame(number: int, size: int, channels: int, bits: str) -> bytes:
    """Wrap the bits of the subframes: header with CRC-8, padding, CRC-16."""
    head = (
        bytes([0xFF, 0xF8, 0x70, channels - 1 << 4]) + _utf8(number) + struct.pack(">H", size - 1)
    )
    head += bytes([crc(head, 8, 0x07)])
    bits += "0" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return head + body + struct.pack(">H", crc(head + body, 16, 0x8005))


def _signed(value: int, bits: int) -> str:
    return f"{value & (1 << bits) - 1:0{bits}b}"


def _subframe(samples: list[int], depth: int, wrap: bool) -> str:
    """Code one channel by a linear predictor and one Rice partition (method 1)."""

    def wrapped(value: int) -> int:
        return (value + (1 << depth - 1)) % (1 << depth) - (1 << depth - 1)

    history = [wrapped(s) for s in samples] if wrap else samples
    order = len(_WEIGHTS)
    if len(samples) <= order:
        return "00000010" + "".join(_signed(s, depth) for s in samples)
    residual = [
        samples[i] - (sum(w * history[i - 1 - j] for j, w in enumerate(_WEIGHTS)) >> _SHIFT)
        for i in range(order, len(samples))
    ]
    folded = [2 * r if r >= 0 else -2 * r - 1 for r in residual]
    k = max(0, min(30, (sum(folded) // len(folded)).bit_length() - 1))
    rice = ("0" * (f >> k) + "1" + (f"{f & (1 << k) - 1:0{k}b}" if k else "") for f in folded)
    warm_up = "".join(_signed(s, depth) for s in samples[:order])
    weights = "".join(_signed(w, 8) for w in _WEIGHTS)
    head = f"01{order - 1:05b}0" + warm_up + "0111" + f"{_SHIFT:05b}" + weights
    return head + "01" + "0000" + f"{k:05b}" + "".join(rice)


def _stream_info(
    rate: int, channels: int, depth: int, frames: int, md5: bytes, block: int
) -> bytes:
    packed = rate << 44 | (channels - 1) << 41 | (depth - 1) << 36 | frames
    body = struct.pack(">HH", block, block) + bytes(6) + packed.to_bytes(8, "big") + md5
    return b"fLaC" + bytes([0x80, 0, 0, 34]) + body


def write_flac(
    path: Path,
    samples: np.ndarray,
    rate: int = 16_000,
    *,
    depth: int = 16,
    history: Literal["exact", "wrapped"] = "exact",
    with_md5: bool = True,
    frames: int | None = None,
    block: int = 4096,
) -> Path:
    """Write integers [frames] or [frames, channels], which may exceed ``depth`` bits.

    ``frames`` is the length to announce, by default the true one.
    """
    samples = np.asarray(samples, np.int64).reshape(len(samples), -1)
    channels = samples.shape[1]
    width = -(-depth // 8)
    raw = samples.astype("<i8").view(np.uint8).reshape(*samples.shape, 8)[..., :width].tobytes()
    md5 = hashlib.md5(raw).digest() if with_md5 else bytes(16)
    announced = len(samples) if frames is None else frames
    out = [_stream_info(rate, channels, depth, announced, md5, block)]
    for number, start in enumerate(range(0, len(samples), block)):
        part = samples[start : start + block]
        bits = "".join(
            _subframe(part[:, c].tolist(), depth, history == "wrapped") for c in range(channels)
        )
        out.append(_frame(number, len(part), channels, bits))
    path.write_bytes(b"".join(out))
    return path


def write_bomb(path: Path, n_blocks: int, value: int = 1, rate: int = 16_000) -> Path:
    """Write ``n_blocks`` pairs of FLAC frames of 32,768 samples: some 28 bytes for four seconds.

    All samples of a frame are equal, and those of the second one of a pair have twice the value.
    """
    header = _stream_info(rate, 1, 16, n_blocks * 65_536, bytes(16), 32_768)
    with path.open("wb") as f:
        f.write(header)
        for number in range(2 * n_blocks):
            f.write(_frame(number, 32_768, 1, "00000000" + _signed(value << number % 2, 16)))
    return path
