"""Simulated voices: Praat's built-in formant synthesizer in seventeen languages.

Praat carries eSpeak NG (https://github.com/espeak-ng/espeak-ng), a rule-based synthesizer: small,
fast, and plainly not a person. A voice here is one of its variants with its own pitch, liveliness,
rate and vocal-tract length. It says common words of its language in random order. It needs
``praat-parselmouth`` (GPL), an optional dependency (the extra ``minispoof``) that is used only for
generating.

The synthesizer keeps a state between calls, so what it says depends on what its process said
before. It also draws from the C library's ``rand``, which any other library may have used. Each
call therefore runs in a forked copy of the process, in which nothing was said yet, and seeds
``rand`` as in a new process. So the same arguments give the same samples, in any order.
"""

from __future__ import annotations

import ctypes
import os
import tomllib
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

import numpy as np
import soxr
from numpy.typing import NDArray

from slslib.data.audio import SAMPLE_RATE
from slslib.errors import ConfigError

Samples = NDArray[np.float64]

WORDS: dict[str, str] = tomllib.loads(
    resources.files("minispoof").joinpath("words.toml").read_text(encoding="utf-8")
)
"""Words of each language, by Praat's name of the language.

:meta hide-value:
"""

LANGUAGES = tuple(WORDS)
VARIANTS = tuple(f"Female{i}" for i in range(1, 6)) + tuple(f"Male{i}" for i in range(1, 8))


@dataclass(frozen=True)
class Voice:
    """What distinguishes one speaker."""

    language: str
    variant: str
    pitch: float
    """Factor on the variant's pitch."""
    liveliness: float
    """Factor on the range of the pitch."""
    rate: float
    """Words per minute."""
    tract: float
    """Factor on all formants."""

    @classmethod
    def draw(cls, seed: int | np.random.Generator, language: str | None = None) -> Voice:
        """Draw a speaker of ``language``, by default of any language."""
        rng = np.random.default_rng(seed)
        return cls(
            language or str(rng.choice(LANGUAGES)),
            str(rng.choice(VARIANTS)),
            pitch=float(rng.uniform(0.75, 1.35)),
            liveliness=float(rng.uniform(0.5, 1.6)),
            rate=float(rng.uniform(135, 205)),
            tract=float(rng.uniform(0.9, 1.12)),
        )


def speak(voice: Voice, seconds: float, seed: int | np.random.Generator) -> Samples:
    """Say random words for about ``seconds``, at most 1.7 times that: ``[samples]`` at 16 kHz.

    Raises:
        ConfigError: praat-parselmouth is not installed.
        RuntimeError: Praat's synthesizer failed; its own message is on standard error.
    """
    try:
        from parselmouth.praat import call
    except ImportError as error:
        raise ConfigError(
            "Simulated voices need the extra: pip install -c constraints.txt -e '.[minispoof]'"
        ) from error
    rng = np.random.default_rng(seed)
    words = WORDS[voice.language].split()
    text = " ".join(rng.choice(words, max(1, round(seconds * voice.rate / 60))))
    # For the tract length, the recording is played at another speed; pitch and rate make up for it.
    pitch = float(np.clip(voice.pitch / voice.tract, 0.5, 2))
    rate = int(voice.rate / voice.tract)
    settings = (44100, 0.01, pitch, min(voice.liveliness, 2.0), rate, "IPA")

    def say() -> Samples:
        ctypes.CDLL(None).srand(1)
        synthesizer = call("Create SpeechSynthesizer", voice.language, voice.variant)
        call(synthesizer, "Speech output settings", *settings)
        sounds = call(synthesizer, "To Sound", text, "no")
        sound = sounds[0] if isinstance(sounds, list) else sounds
        return np.asarray(sound.values[0], dtype=np.float64)

    samples = _in_a_fork(say)[: int(44100 * 1.5 * seconds)]
    return soxr.resample(samples, 44100 * voice.tract, SAMPLE_RATE, "HQ")


def _in_a_fork(function: Callable[[], Samples]) -> Samples:
    """Return what the function computes in a copy of this process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(function().tobytes())
        except BaseException:  # nothing of the parent may go on in the copy
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("Praat's synthesizer failed in its process")
    return np.frombuffer(data)
