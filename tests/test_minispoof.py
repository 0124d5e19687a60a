"""MiniSpoof: layout, reproducibility, and that no cue but the resynthesis tells the classes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from scipy import stats

from slslib import lfcc, metrics, minispoof
from slslib.errors import ConfigError
from slslib.protocols import open_corpus

COUNTS = {"n_train": 144, "n_dev": 72, "n_eval": 8}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return minispoof.write(tmp_path_factory.mktemp("minispoof") / "m", progress=False, **COUNTS)


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def test_layout_is_that_of_asvspoof_2019(corpus: Path) -> None:
    speakers = []
    for (partition, attacks), count in zip(minispoof.ATTACKS.items(), COUNTS.values(), strict=True):
        part = open_corpus(f"asvspoof2019-la:{partition}", corpus)
        assert len(part) == count
        assert part.trials.label.sum() == count / 2
        assert set(part.trials.attack) == {"-", *attacks}
        assert (part.trials.attack == "-").equals(part.trials.label == 1)
        speakers.append(set(part.trials.speaker))
        for utterance in part.trials.utterance[:5]:
            info = sf.info(part.audio_path(utterance))
            assert (info.samplerate, info.channels) == (16_000, 1)
            assert (info.format, info.subtype) == ("FLAC", "PCM_16")
            assert 1.5 <= info.duration <= 4.5
    assert not speakers[0] & speakers[1]
    assert not speakers[2] & (speakers[0] | speakers[1])
    assert "SIMULATION" in (corpus / "README.txt").read_text()


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    small = {"n_train": 4, "n_dev": 2, "n_eval": 2, "progress": False}
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one = digests(minispoof.write(tmp_path / "one", jobs=1, **small))
    two = digests(minispoof.write(tmp_path / "two", jobs=3, **small))
    other = digests(minispoof.write(tmp_path / "other", seed=1, **small))
    assert len(one) == 8 + 3 + 2
    assert one == two
    audio = [name for name in one if name.endswith(".flac")]
    assert not any(one[name] == other[name] for name in audio)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_complete_corpus_is_reused_and_anything_else_refused(tmp_path: Path, monkeypatch) -> None:
    small = {"n_train": 2, "n_dev": 2, "n_eval": 2, "progress": False}
    root = minispoof.write(tmp_path / "m", **small)
    monkeypatch.setattr(minispoof.sf, "write", lambda *_, **__: pytest.fail("written again"))
    assert minispoof.write(root, **small) == root
    with pytest.raises(ConfigError, match="remove it"):
        minispoof.write(root, seed=5, **small)
    with pytest.raises(ConfigError, match="remove it"):
        minispoof.write(tmp_path, **small)
    with pytest.raises(ConfigError, match="two clips"):
        minispoof.write(tmp_path / "n", n_train=1)


def test_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(minispoof.sf, "write", full)
    with pytest.raises(OSError, match="No space"):
        minispoof.write(tmp_path / "m", n_train=2, n_dev=2, n_eval=2, progress=False)
    assert not list(tmp_path.iterdir())


def channel_cues(samples: np.ndarray) -> list[float]:
    """What tells recordings apart without listening to the voice."""
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    level = 10 * np.log10((frames**2).mean(axis=1) + 1e-12)
    power = np.cumsum(np.abs(np.fft.rfft(samples)) ** 2)
    bandwidth = [np.searchsorted(power, q * power[-1]) / len(power) for q in (0.5, 0.95, 0.99)]
    skewness = stats.skew(samples)
    return [
        np.log(samples.std()),
        np.log(np.abs(samples).max()),
        len(samples),
        (level < level.max() - 25).mean(),
        (level < level.max() - 35).mean(),
        *bandwidth,
        skewness,
        abs(skewness),
        np.log(stats.kurtosis(samples) + 2),
        (samples > 0).mean(),
        samples.mean(),
    ]


def dev_eer(corpus: Path, features) -> float:
    x, y = {}, {}
    for partition in ("train", "dev"):
        part = open_corpus(f"asvspoof2019-la:{partition}", corpus)
        clips = [sf.read(part.audio_path(utterance))[0] for utterance in part.trials.utterance]
        x[partition] = np.array([features(clip) for clip in clips])
        y[partition] = part.trials.label.to_numpy()
    scores = lfcc.classifier().fit(x["train"], y["train"]).decision_function(x["dev"])
    labels = y["dev"]
    return 100 * metrics.eer(scores[labels == 1], scores[labels == 0]).value


def test_channel_cues_are_near_chance(corpus: Path) -> None:
    assert 35 <= dev_eer(corpus, channel_cues) <= 65


def test_resynthesis_is_heard_by_the_baseline(corpus: Path) -> None:
    assert 10 <= dev_eer(corpus, lfcc.clip_features) <= 35


def test_analysis_and_synthesis_alone_change_nothing() -> None:
    samples = np.random.default_rng(0).normal(size=20_000)
    for size, hop in ((512, 128), (512, 256)):
        again = minispoof._istft(minispoof._stft(samples, size, hop), hop, samples)
        np.testing.assert_allclose(again, samples, atol=1e-10)
    np.testing.assert_allclose(minispoof._equalize(samples, samples), samples, atol=1e-10)


def test_upsampler_adds_images_and_tones_but_nothing_in_pauses() -> None:
    tone = np.sin(2 * np.pi * 500 * np.arange(16_000) / 16_000)
    added = minispoof._upsampler(tone, 8, np.random.default_rng(0)) - tone
    assert -32 < 10 * np.log10(np.mean(added**2) / np.mean(tone**2)) < -18
    power = np.abs(np.fft.rfft(added * np.hanning(16_000))) ** 2  # 1 Hz per bin
    peaks = np.flatnonzero(power > 1e-3 * power.max())
    expected = [abs(2000 * k + shift) for k in range(1, 5) for shift in (-500, 0, 500)]
    assert np.abs(peaks[:, None] - expected).min(axis=1).max() <= 2
    tone[8000:] = 0
    added = minispoof._upsampler(tone, 8, np.random.default_rng(0)) - tone
    assert np.abs(added[8400:]).max() < 1e-6


@pytest.mark.parametrize("attack", ["-", "M01", "M02", "M03", "M04", "M05"])
def test_every_attack_gives_sound_clips(attack: str) -> None:
    rng = np.random.default_rng(3)
    clip = minispoof.make_clip(minispoof.Voice.draw(rng), attack, rng)
    assert 1.5 * 16_000 <= len(clip) <= 4.5 * 16_000
    assert np.isfinite(clip).all()
    assert np.abs(clip).max() <= 0.98 + 1e-9
    assert -33 < 20 * np.log10(clip.std()) < -19
