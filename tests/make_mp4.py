"""Write MP4, WebM and AAC files as phones and browsers do, with FFmpeg."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_av(
    path: Path,
    samples: np.ndarray,
    rate: int = 16_000,
    *,
    codec: str = "aac",
    n_audio: int = 1,
    video: bool = False,
    start: float = 0,
    **options: str,
) -> Path:
    """Encode 16-bit samples [n] or [n, channels].

    Args:
        path: The file; its ending decides the container.
        samples: Sound of each audio stream.
        rate: Sample rate in Hz.
        codec: FFmpeg's name of the encoder.
        n_audio: Audio streams; none with 0.
        video: Add a stream of grey pictures.
        start: Seconds where the sound begins.
        options: Of the container.
    """
    samples = samples.reshape(len(samples), -1)
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    # The bytes are the same each time.
    options = {"fflags": "+bitexact", **options}
    with av.open(str(path), "w", options=options) as container:
        streams = [container.add_stream(codec, rate=rate, layout=layout) for _ in range(n_audio)]
        if video:
            pictures = container.add_stream("mpeg4", rate=25)
            pictures.width = pictures.height = 64
            for _ in range(25):
                picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 128, np.uint8))
                container.mux(pictures.encode(picture))
            container.mux(pictures.encode(None))
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "s16", layout)
            frame.rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(start * rate)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path
