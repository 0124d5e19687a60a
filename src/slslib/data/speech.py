"""Measure how much of a window is speech, by Silero VAD.

Silero VAD (https://github.com/snakers4/silero-vad, MIT licence) is a small recurrent network that
gives a probability of speech for each 32 ms at 16 kHz. The extra ``speech`` installs its package,
which holds the weights, and onnxruntime, which computes them. The package itself is not imported,
because it would load PyTorch and set its threads. Each window is heard by itself, from the
network's initial state, so the answer does not depend on what was heard before.

Speech here is any voice, real or synthetic. ``studies/speech_free.py`` measures how well speech and
other sound are told apart.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from slslib.data.audio import SAMPLE_RATE
from slslib.errors import ConfigError

SPEECH_S = 0.25
"""A window with less speech than this, in seconds, is called free of speech."""
_FILE = "data/silero_vad_16k_op15.onnx"
_CHUNK, _CONTEXT = 512, 64  # samples heard at a time, and samples repeated from before


def speech_s(windows: np.ndarray) -> np.ndarray:
    """Return the seconds in which the probability of speech is at least one half.

    Args:
        windows: ``[batch, samples]``, float32 mono at 16 kHz.

    Returns:
        Seconds, ``[batch]``.

    Raises:
        ConfigError: If the extra ``speech`` is not installed.
    """
    session, n = _session(), len(windows)
    state, heard = np.zeros((2, n, 128), np.float32), np.zeros(n)
    padded = np.pad(windows, ((0, 0), (_CONTEXT, 0)))
    for start in range(0, n and windows.shape[1] - _CHUNK + 1, _CHUNK):
        part = padded[:, start : start + _CONTEXT + _CHUNK]
        given = {"input": part, "state": state, "sr": np.array(SAMPLE_RATE)}
        probability, state = session.run(None, given)
        heard += probability[:, 0] >= 0.5
    return heard * _CHUNK / SAMPLE_RATE


@cache
def _session() -> Any:
    try:
        import onnxruntime

        folder = find_spec("silero_vad").submodule_search_locations[0]  # type: ignore
    except (ImportError, AttributeError) as error:
        remedy = 'install the extra: pip install -c constraints.txt -e ".[speech]"'
        raise ConfigError(f"Silero VAD is not there ({error}); {remedy}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(f"{folder}/{_FILE}", options, ["CPUExecutionProvider"])
