"""Which windows hold speech."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from slslib.data import speech
from slslib.data.audio import load
from slslib.errors import ConfigError


@pytest.fixture
def installed():
    pytest.importorskip("onnxruntime")
    if speech.find_spec("silero_vad") is None:
        pytest.skip("Silero VAD is not installed")


def test_noise_and_silence_hold_no_speech(installed):
    noise = np.random.default_rng(0).standard_normal((2, 64_600)).astype(np.float32)
    heard = speech.speech_s(np.stack([0 * noise[0], 0.1 * noise[0], 1e-4 * noise[1]]))
    assert (heard < speech.SPEECH_S).all()


def test_a_voice_is_speech_in_any_company(installed, shared):
    """The answer for a window does not depend on the others of its batch."""
    said = load(shared / "speech" / "flac" / "D_00001.flac").samples[:64_600]
    noise = 0.1 * np.random.default_rng(0).standard_normal(said.size).astype(np.float32)
    heard = speech.speech_s(np.stack([said, noise, said]))
    assert heard[0] > 2
    assert heard[[0, 2]].tolist() == [speech.speech_s(said[None])[0]] * 2
    assert heard[1] < speech.SPEECH_S


def test_what_is_shorter_than_a_chunk_holds_none(installed):
    assert speech.speech_s(np.ones((2, 511), np.float32)).tolist() == [0, 0]
    assert speech.speech_s(np.ones((0, 0), np.float32)).tolist() == []


def test_the_package_itself_is_not_imported(installed):
    """It would load PyTorch and set its number of threads."""
    program = (
        "import sys, numpy as np; from slslib.data.speech import speech_s; "
        "speech_s(np.zeros((1, 600), np.float32)); "
        "assert not {'torch', 'silero_vad'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_the_extra_a_remedy_is_given(monkeypatch):
    speech._session.cache_clear()
    monkeypatch.setattr(speech, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"\[speech\]"):
        speech.speech_s(np.zeros((1, 600), np.float32))
