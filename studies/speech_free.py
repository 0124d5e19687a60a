"""Measure which windows `detect --speech-only` leaves out, and what that does to scores.

    python studies/speech_free.py ../shared --out studies/results/speech_free.json

Speech: every window of 4.04 s of the recordings in FOLDER/speech. Other sound, 200 windows of each
kind: made noises and tones at three levels, and room tone, which is the quietest 0.3 s of a
recording, repeated, where it lies 30 dB or more below the recording's level. The last is told by
its level alone, so Silero VAD has no part in the choice. Babble is a sum of recordings of as many
people, each as loud as the others. Singing is not measured: there are no recordings of it.

Scores: each such recording is put between 4 s of its own room tone, and scored by `mini` as it was,
with the room tone, and with the room tone and `--speech-only`. How far do the scores move, and what
becomes of the EER? The numbers say nothing about a detector with XLS-R's weights.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from provenance import provenance, write

from slslib.data.audio import N_SAMPLES, SAMPLE_RATE, load, windows
from slslib.data.speech import SPEECH_S, speech_s
from slslib.evaluation.metrics import eer
from slslib.model.detector import Detector
from slslib.runs.detect import detect

WHAT = "windows that detect --speech-only leaves out, of speech and of other sound; scores of mini"
PAUSE = round(0.3 * SAMPLE_RATE)
TIMES = np.arange(N_SAMPLES) / SAMPLE_RATE


def level(samples: np.ndarray) -> float:
    """Return the mean power in dB of full scale."""
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-12))


def room_tone(samples: np.ndarray) -> np.ndarray | None:
    """Return 4.04 s of the quietest stretch, or None where it may not be a pause."""
    starts = range(0, len(samples) - PAUSE, PAUSE // 10)
    pieces = [samples[start : start + PAUSE] for start in starts]
    quietest = min(pieces, key=level, default=samples)
    if len(pieces) < 10 or not -90 < level(quietest) < level(samples) - 30:
        return None
    there_and_back = np.concatenate([quietest, quietest[::-1]])  # without a jump
    return np.resize(there_and_back, N_SAMPLES).astype(np.float32)


def coloured(rng: np.random.Generator, slope: float) -> np.ndarray:
    """Return noise whose power falls with frequency to the power of the slope."""
    spectrum = np.fft.rfft(rng.standard_normal(N_SAMPLES))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-slope / 2)
    spectrum[0] = 0
    return np.fft.irfft(spectrum, N_SAMPLES)


def tone(*frequencies: float) -> np.ndarray:
    """Return a sum of sines."""
    return np.sum([np.sin(2 * np.pi * f * TIMES) for f in frequencies], axis=0)


def melody(rng: np.random.Generator) -> np.ndarray:
    """Return notes of three, each of ten harmonics that die away, four in a second."""
    made = np.zeros(N_SAMPLES)
    for start in range(0, N_SAMPLES, SAMPLE_RATE // 4):
        rest = N_SAMPLES - start
        for pitch in 110 * 2 ** (rng.integers(0, 36, 3) / 12):
            note = tone(*(pitch * np.arange(1, 11)))[:rest] * np.exp(-3 * TIMES[:rest])
            made[start:] += note
    return made


def other_sound(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return one window of each made kind, not yet at a level."""
    on = (TIMES + rng.uniform(0, 4)) % 2 < 1
    return {
        "white noise": coloured(rng, 0),
        "pink noise": coloured(rng, 1),
        "brown noise": coloured(rng, 2),
        "noise with a speech-like rhythm": coloured(rng, 1) * (1 + np.sin(2 * np.pi * 4 * TIMES)),
        "mains hum, 50 Hz": tone(*(50 * np.arange(1, 8))) + 0.1 * coloured(rng, 0),
        "ringing tone, 425 Hz": tone(425) * on + 0.001 * coloured(rng, 0),
        "touch tones": tone(rng.choice([697, 770, 852, 941]), rng.choice([1209, 1336])) * on,
        "melody": melody(rng),
    }


def babble(rng: np.random.Generator, voices: dict[str, list[np.ndarray]], n: int) -> np.ndarray:
    """Return a window in which n people speak at once, each as loud as the others."""
    made = np.zeros(N_SAMPLES)
    for name in rng.choice([*voices], n, replace=False):
        said = voices[name][rng.integers(len(voices[name]))]
        said = np.resize(np.roll(said, rng.integers(len(said))), N_SAMPLES)
        made += said / np.sqrt(np.mean(said**2))
    return made


def share(left_out: np.ndarray) -> dict[str, Any]:
    """Count what is left out."""
    n, of = int(left_out.sum()), left_out.size
    return {"n_windows": of, "n_left_out": n, "left_out_percent": 100 * n / of}


def free(batch: list[np.ndarray]) -> np.ndarray:
    """Tell which windows are called free of speech."""
    parts = [np.stack(batch[k : k + 64]) for k in range(0, len(batch), 64)]
    return np.concatenate([speech_s(part) for part in parts]) < SPEECH_S


def scores(folder: Path, made: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Score the recordings by mini, in the three ways."""
    detector = Detector.load("mini")
    llrs: dict[str, dict[str, np.ndarray]] = {}
    n_free, n_all, lost = 0, 0, dict.fromkeys(made, 0)
    for label, recordings in made.items():
        rows = {"as it was": [], "with room tone": [], "with room tone, --speech-only": []}
        for name, (clip, tone_) in recordings.items():
            path, longer = folder / f"{name}.wav", folder / f"{name}_longer.wav"
            sf.write(path, clip, SAMPLE_RATE, subtype="FLOAT")
            sf.write(longer, np.concatenate([tone_, clip, tone_]), SAMPLE_RATE, subtype="FLOAT")
            plain = detect((path, longer), checkpoint=detector)["files"]
            (spoken,) = detect((longer,), checkpoint=detector, speech_only=True)["files"]
            if spoken["error"]:
                lost[label] += 1
                continue
            n_free, n_all = n_free + spoken["n_speech_free"], n_all + len(spoken["windows"])
            for key, one in zip(rows, (*plain, spoken), strict=True):
                rows[key].append(one["llr"])
        llrs[label] = {key: np.array(values) for key, values in rows.items()}
    result: dict[str, Any] = {"n_left_out": n_free, "n_windows": n_all, "without_speech": lost}
    original = "as it was"
    for key in llrs["bonafide"]:
        moved = np.concatenate([abs(one[key] - one[original]) for one in llrs.values()])
        result[key] = {
            "n": {label: one[key].size for label, one in llrs.items()},
            "eer_percent": 100 * eer(llrs["bonafide"][key], llrs["spoof"][key]).value,
            "mean_llr": {label: float(one[key].mean()) for label, one in llrs.items()},
            "mean_change_of_llr": float(moved.mean()),
        }
    return result


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path, help="folder with speech/manifest.csv")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    where = provenance("torch", "onnxruntime", "silero-vad", "numpy")
    with (args.shared / "speech" / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    clips = {row["path"]: load(args.shared / "speech" / row["path"]).samples for row in rows}
    spoken = {
        label: [
            w for row in rows if row["label"] == label for _, w in windows([clips[row["path"]]])
        ]
        for label in ("bonafide", "spoof")
    }
    result: dict[str, Any] = {"window_s": N_SAMPLES / SAMPLE_RATE, "speech_s": SPEECH_S}
    result["speech"] = {label: share(free(some)) for label, some in spoken.items()}
    tones = {path: room_tone(clip) for path, clip in clips.items()}
    kept = [one for one in tones.values() if one is not None]
    result["other_sound"] = {"room tone": share(free(kept))}
    voices: dict[str, list[np.ndarray]] = {}
    for row in rows:
        if row["label"] == "bonafide":
            voices.setdefault(row["speaker"], []).append(clips[row["path"]])
    rng, others = np.random.default_rng(0), np.random.default_rng(1)
    drawn = [other_sound(rng) for _ in range(200)]
    for one in drawn:
        one |= {f"babble of {n}": babble(others, voices, n) for n in (4, 16, 64)}
    for kind in drawn[0]:
        for decibels in (-60, -40, -20):
            some = [10 ** ((decibels - level(one[kind])) / 20) * one[kind] for one in drawn]
            left = free([one.astype(np.float32) for one in some])
            result["other_sound"][f"{kind}, {decibels} dB"] = share(left)
    made: dict[str, dict[str, Any]] = {"bonafide": {}, "spoof": {}}
    for row in rows:
        if (tone_ := tones[row["path"]]) is not None:
            made[row["label"]][Path(row["path"]).stem] = (clips[row["path"]], tone_)
    with tempfile.TemporaryDirectory() as name:
        result["scores"] = scores(Path(name), made)
    write(args.out, WHAT, where, result)


if __name__ == "__main__":
    main()
