"""The page says of windows without speech what the study found."""

from __future__ import annotations

import numpy as np
import pytest
import speech_free as study
from provenance import ROOT, read

PAGE = " ".join((ROOT / "book" / "decide.md").read_text(encoding="utf-8").split())
MADE = "noise", "hum", "tone", "melody"


def test_the_windows() -> None:
    found = read("speech_free")
    speech, other = found["speech"].values(), found["other_sound"]
    assert f"windows of {found['window_s']:.2f} s" in PAGE
    assert f"less than {found['speech_s']:.2f} s of speech" in PAGE
    n, n_left_out = (sum(one[key] for one in speech) for key in ("n_windows", "n_left_out"))
    assert n_left_out == 1
    assert f"of {n:,} windows of 1,210 recordings of people and machines, it left out one" in PAGE
    room = other["room tone"]
    assert f"**Room tone** of {room['n_windows']} of these" in PAGE
    assert room["n_left_out"] == room["n_windows"]
    made = {name: one for name, one in other.items() if any(kind in name for kind in MADE)}
    assert len(made) == 3 * 8 + 1  # with room tone
    kept = {name for name, one in made.items() if one["n_left_out"] < one["n_windows"]}
    assert kept == {"mains hum, 50 Hz, -20 dB"}
    assert made["mains hum, 50 Hz, -20 dB"]["left_out_percent"] == pytest.approx(100 / 3, abs=3)
    assert "except two of three windows of hum at -20 dB" in PAGE


def test_babble() -> None:
    other = read("speech_free")["other_sound"]
    percent = {
        level: [
            f"{other[f'babble of {n}, {level} dB']['left_out_percent']:.0f}" for n in (4, 16, 64)
        ]
        for level in (-20, -60)
    }
    few, some, many = percent[-20]
    said = f"of 4 voices, {few} % was left out, of 16 voices {some} %, of 64 voices {many} %"
    assert said in PAGE
    few, some, many = percent[-60]
    assert f"At -60 dB it was {few}, {some} and {many} %" in PAGE


def test_the_scores() -> None:
    found = read("speech_free")["scores"]
    bare, told = found["with room tone"], found["with room tone, --speech-only"]
    n = sum(found["as it was"]["n"].values())
    assert f"of `mini` for {n} recordings" in PAGE
    assert f"moved them by {bare['mean_change_of_llr']:.2f} on average" in PAGE
    assert f"with `--speech-only` by {told['mean_change_of_llr']:.2f}," in PAGE
    eers = sorted(found[key]["eer_percent"] for key in ("as it was", *list(found)[-2:]))
    assert f"stayed at {eers[0]:.0f} to {eers[-1]:.0f} %" in PAGE


def test_babble_is_of_as_many_voices_each_as_loud() -> None:
    rng = np.random.default_rng(0)
    voices = {str(k): [np.full(10, 10.0**k)] for k in range(-3, 4)}
    assert study.babble(rng, voices, 5) == pytest.approx(5)
    with pytest.raises(ValueError, match="larger sample"):
        study.babble(rng, voices, 8)
