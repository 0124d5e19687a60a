"""A figure to see and hear what a change does to a clip: one changed copy beside the clip."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np
import soundfile
from matplotlib import colormaps
from PIL import Image
from scipy.signal import spectrogram

from slslib.data.audio import SAMPLE_RATE, Mono
from slsnotebooks.moving import movable, template

Copies = Mapping[str, Sequence[tuple[str, Mono]]]


def movable_sounds(clip: Mono, copies: Copies, start: tuple[str, int], alt: str) -> str:
    """Draw the spectrograms of a clip and of a changed copy, with a player for each, as HTML.

    The reader chooses the change and its strength.

    Args:
        clip: A clip of one second.
        copies: For each change, by its name, the changed copies from weak to strong. A copy is a
            few words and the samples. Every change has the same number of copies.
        start: The change, and the number of the copy, to begin with.
        alt: What the picture shows, in words.
    """
    picture = template("sounds.svg")
    before = {"before": _spectrogram(clip), "heard_before": _flac(clip)}

    def draw(change: str, k: int) -> str:
        words, samples = copies[change][k]
        after = {"after": _spectrogram(samples), "heard_after": _flac(samples)}
        return picture.substitute(before, **after, change=escape(change), words=escape(words))

    strengths = range(min(map(len, copies.values())))
    controls = {"Change": list(copies), "Strength (drag, or press arrow keys)": strengths}
    return movable(draw, controls, start, alt)


def _spectrogram(samples: Mono) -> str:
    """Draw windows of 16 ms every 10 ms, in 16 colours from -120 to -50 dB/Hz."""
    power = spectrogram(samples, SAMPLE_RATE, nperseg=256, noverlap=96)[2]
    colours = 16 / 70 * (10 * np.log10(power[::-1] + 1e-20) + 120)
    image = Image.fromarray(colours.clip(0, 15).astype(np.uint8))
    image.putpalette(colormaps["magma"].resampled(16)(range(16), bytes=True)[:, :3].tobytes())
    return _address("image/png", lambda f: image.save(f, "PNG", bits=4))


def _flac(samples: Mono) -> str:
    """Write the sound, rounded to 12 bits."""
    rounded = np.round(np.float64(samples) * 2**11) / 2**11
    return _address("audio/flac", lambda f: soundfile.write(f, rounded, SAMPLE_RATE, format="FLAC"))


def _address(kind: str, write: Callable[[io.BytesIO], None]) -> str:
    file = io.BytesIO()
    write(file)
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
