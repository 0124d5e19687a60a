"""A clip and its changed copies, to see and to hear."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread
from moving_page import SVG, Figure, said

from slslib.data.rawboost import rawboost
from slsnotebooks.sounds import movable_sounds

CLIP = (0.3 * np.sin(np.arange(16_000) ** 1.2 / 30)).astype(np.float32)
COPIES = {
    f"{algo} & so on": [(f"seed {k}", rawboost(CLIP, algo, k)) for k in range(2)]
    for algo in ("lnl", "ssi")
}


@pytest.fixture(scope="module")
def figure() -> Figure:
    return Figure(movable_sounds(CLIP, COPIES, ("ssi & so on", 1), "x"))


def opened(address: str, kind: str) -> io.BytesIO:
    head, _, data = address.partition(",")
    assert head == f"data:{kind};base64"
    return io.BytesIO(base64.b64decode(data))


def test_what_is_heard_are_the_samples_to_12_bits(figure: Figure) -> None:
    for algo, k in figure.settings:
        before, after = figure.at(algo, k).iter(f"{SVG}image")
        for image, samples in ((before, CLIP), (after, COPIES[algo][k][1])):
            heard, rate = soundfile.read(opened(image.get("data-sound"), "audio/flac"))
            assert rate == 16_000
            np.testing.assert_allclose(heard, samples.clip(-1, 1), atol=2**-12 + 1e-9)
        assert said(figure.at(algo, k)) == [algo, f"seed {k}"]


def test_the_spectrogram_shows_where_the_power_is() -> None:
    time = np.arange(16_000) / 16_000
    tones = [0.1 * np.sin(2 * np.pi * hertz * time, dtype=np.float32) for hertz in (1000, 6000)]
    figure = Figure(movable_sounds(tones[0], {"x": [("", tones[1])]}, ("x", 0), "y"))
    for image, hertz in zip(figure.at("x", 0).iter(f"{SVG}image"), (1000, 6000), strict=True):
        pixels = imread(opened(image.get("href"), "image/png"))[..., :3].sum(axis=2)
        assert pixels.shape == (129, 99)
        brightest = pixels.mean(axis=1).argmax()  # rows run from 8 kHz to 0
        assert abs((128 - brightest) * 62.5 - hertz) <= 62.5


def test_a_sound_beyond_full_scale_is_clipped_not_wrapped() -> None:
    loud = np.array([1.5, -1.5] * 8000, np.float32)
    figure = Figure(movable_sounds(loud, {"x": [("", loud)]}, ("x", 0), "y"))
    image = next(figure.at("x", 0).iter(f"{SVG}image"))
    heard, _ = soundfile.read(opened(image.get("data-sound"), "audio/flac"))
    assert heard[0] > 0.99
    assert heard[1] < -0.99
