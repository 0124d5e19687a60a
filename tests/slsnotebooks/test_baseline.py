"""LFCC against a direct computation, and the baseline on a corpus made for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from sklearn.mixture import GaussianMixture

from slslib.data import audio
from slslib.data.corpora import open_corpus
from slslib.errors import AudioError, ProtocolError
from slslib.evaluation import metrics
from slsnotebooks import baseline
from slsnotebooks.baseline import (
    N_FRAMES,
    add_deltas,
    baseline_scores,
    classifier,
    clip_features,
    filterbank,
    fit_gmm,
    lfcc,
    per_clip,
)


def noise(n: int = 8000, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).normal(size=n)).astype(np.float32)


def test_equals_a_direct_computation() -> None:
    samples = noise(1000).astype(np.float64)
    result = lfcc(samples)
    assert result.shape == (1 + (1000 - 320) // 160, 20)
    frame = samples[320:640] * np.hamming(320)
    k, n = np.arange(257)[:, None], np.arange(320)
    power = np.abs(np.exp(-2j * np.pi * k * n / 512) @ frame) ** 2
    edges = np.arange(22) * 256 / 21
    energies = [
        np.sum(power * np.interp(np.arange(257), edges[i : i + 3], [0, 1, 0])) for i in range(20)
    ]
    log_energy = np.log(np.array(energies) + 1e-7)
    for i in range(20):
        basis = np.cos(np.pi * i * (2 * np.arange(20) + 1) / 40)
        norm = np.sqrt((1 if i == 0 else 2) / 20)
        assert result[2, i] == pytest.approx(norm * basis @ log_energy, abs=1e-9)


def test_filters_sum_to_one_between_the_outer_centres() -> None:
    bank = filterbank()
    assert bank.shape == (20, 257)
    np.testing.assert_allclose(bank.sum(axis=0)[13:244], 1)


def test_level_moves_the_first_coefficient_only() -> None:
    change = lfcc(noise()) - lfcc(0.5 * noise())
    np.testing.assert_allclose(change[:, 0], np.sqrt(20) * np.log(4), atol=1e-3)
    np.testing.assert_allclose(change[:, 1:], 0, atol=1e-3)


def test_deltas_are_half_the_difference_of_the_neighbours() -> None:
    static, first, second = np.split(add_deltas(lfcc(noise())), 3, axis=1)
    np.testing.assert_array_equal(static, lfcc(noise()))
    np.testing.assert_allclose(first[5], (static[6] - static[4]) / 2)
    np.testing.assert_allclose(second[5], (first[6] - first[4]) / 2)
    assert clip_features(noise()).shape == (40,)


def test_silence_is_finite_and_short_clips_are_refused() -> None:
    assert np.isfinite(lfcc(np.zeros(8000))).all()
    for bad in (np.zeros(319), np.zeros((2, 8000))):
        with pytest.raises(ValueError, match="window"):
            lfcc(bad)


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    """White noise is bona fide, low-passed noise is spoof."""
    (tmp_path / "set" / "flac").mkdir(parents=True)
    (tmp_path / "set" / "protocols").mkdir()
    for partition, seed in (("train", 0), ("test", 100)):
        lines = []
        for i in range(12):
            samples, spoof = noise(seed=seed + i), i % 3 == 0
            samples = np.convolve(samples, [0.5, 0.5], "same") if spoof else samples
            sf.write(tmp_path / "set" / "flac" / f"{partition}{i}.flac", samples, 16_000)
            lines.append(f"S {partition}{i} - {'A1 spoof' if spoof else '- bonafide'}\n")
        protocol = tmp_path / "set" / "protocols" / f"x.cm.{partition}.trl.txt"
        protocol.write_text("".join(lines))
    return tmp_path


@pytest.mark.parametrize("deltas", [False, True])
def test_baseline_separates_what_is_separable(corpora: Path, deltas: bool) -> None:
    train, test = open_corpus("set:train", corpora), open_corpus("set:test", corpora)
    scores = baseline_scores(train, test, deltas=deltas)
    assert list(scores.utterance) == list(test.trials.utterance)
    bonafide = test.trials.label.to_numpy() == 1
    assert scores.score[bonafide].min() > 0 > scores.score[~bonafide].max()
    again = baseline_scores(train, test, deltas=deltas)
    np.testing.assert_array_equal(scores.score, again.score)
    linear = classifier().fit(per_clip(clip_features, train), train.trials.label)
    logits = linear.decision_function(per_clip(clip_features, test))
    assert logits[bonafide].min() > 0 > logits[~bonafide].max()


def test_score_is_the_mean_log_likelihood_ratio_of_the_frames(corpora: Path) -> None:
    train, test = open_corpus("set:train", corpora), open_corpus("set:test", corpora)
    model = fit_gmm(train, 4, seed=7)

    def log_density(frame: np.ndarray, label: int) -> float:
        mixture = model.bonafide if label else model.spoof
        z = (frame - mixture.means_) ** 2 / mixture.covariances_
        log_normal = -0.5 * (z + np.log(2 * np.pi * mixture.covariances_)).sum(axis=1)
        return float(np.log(np.sum(mixture.weights_ * np.exp(log_normal))))

    frames = add_deltas(lfcc(audio.load(test.audio_path("test0")).samples))
    ratios = [log_density(frame, 1) - log_density(frame, 0) for frame in frames]
    scores = per_clip(model.score, test)
    assert scores[0] == pytest.approx(np.mean(ratios), abs=1e-9)
    assert model.bonafide.means_.shape == model.spoof.covariances_.shape == (4, 60)
    same, other = (per_clip(fit_gmm(train, 4, seed=s).score, test) for s in (7, 8))
    assert scores == same
    assert np.abs(np.subtract(scores, other)).max() > 1e-3


def test_every_clip_gives_a_mixture_as_many_frames(
    corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    fit = GaussianMixture.fit

    def spy(self: GaussianMixture, x: np.ndarray) -> GaussianMixture:
        sizes.append(len(x))
        return fit(self, x)

    monkeypatch.setattr(GaussianMixture, "fit", spy)
    train = open_corpus("set:train", corpora)
    fit_gmm(train, 2)
    assert N_FRAMES > 8 * 49
    monkeypatch.setattr(baseline, "N_FRAMES", 80)
    fit_gmm(train, 2)
    assert sizes == [8 * 49, 4 * 49, 80, 80]


def test_silence_gives_finite_scores(corpora: Path) -> None:
    for path in (corpora / "set" / "flac").glob("train*.flac"):
        samples = sf.read(path)[0]
        sf.write(path, np.concatenate([np.zeros(4000), samples]), 16_000)
    train, test = open_corpus("set:train", corpora), open_corpus("set:test", corpora)
    model = fit_gmm(train, 4)
    assert model.bonafide.covariances_.min() > 0.999e-3  # rounding
    assert np.isfinite(per_clip(model.score, test)).all()


def test_training_needs_both_classes_and_every_file(corpora: Path) -> None:
    train, test = open_corpus("set:train", corpora), open_corpus("set:test", corpora)
    protocol = corpora / "set" / "protocols" / "x.cm.dev.trl.txt"
    protocol.write_text("S train1 - - bonafide\n")
    with pytest.raises(ProtocolError, match="labels"):
        baseline_scores(open_corpus("set:dev", corpora), test)
    (corpora / "set" / "flac" / "test3.flac").unlink()
    with pytest.raises(AudioError, match="test3"):
        baseline_scores(train, open_corpus("set:test", corpora))


@pytest.mark.shared
def test_baselines_on_real_speech(shared: Path) -> None:
    train, dev = open_corpus("speech:train", shared), open_corpus("speech:dev", shared)
    bonafide = dev.trials.label.to_numpy() == 1
    linear = classifier().fit(per_clip(clip_features, train), train.trials.label)
    logits = linear.decision_function(per_clip(clip_features, dev))
    assert 30 < 100 * metrics.eer(logits[bonafide], logits[~bonafide]).value < 40
    scores = baseline_scores(train, dev).score.to_numpy()
    assert 15 < 100 * metrics.eer(scores[bonafide], scores[~bonafide]).value < 30
