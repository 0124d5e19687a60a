"""Layer features, their similarity, and what linear probes read from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slslib.errors import ConfigError
from slslib.model.probing import layer_means, linear_cka, probe
from slslib.model.xlsr import XLSR, XLSRConfig


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_layer_means_are_those_of_the_layers_whatever_the_batches():
    torch.manual_seed(0)
    backbone = XLSR(XLSRConfig(width=16, n_layers=3, conv_width=8)).eval()
    waveforms = torch.randn(5, 2000)
    means = layer_means(backbone, waveforms, batch_size=2)
    assert means.shape == (5, 3, 16)
    with torch.no_grad():
        whole = backbone(waveforms).mean(dim=2)
    np.testing.assert_allclose(means, whole.numpy(), rtol=1e-4, atol=1e-5)


def test_cka_agrees_with_its_definition_by_kernels(rng):
    x, y = rng.normal(size=(30, 5)), rng.normal(size=(30, 8))
    centre = np.eye(30) - 1 / 30
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    expected = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert linear_cka(x, y) == pytest.approx(expected)


def test_cka_sees_no_rotation_scale_or_shift_but_the_order_of_trials(rng):
    x = rng.normal(size=(200, 6))
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    assert linear_cka(x, 7 * x @ rotation - 3) == pytest.approx(1)
    assert linear_cka(x, x @ np.diag([9, 1, 1, 1, 1, 1])) < 0.9
    assert linear_cka(x, rng.permutation(x)) < 0.1


def test_cka_of_unrelated_features_grows_with_the_width(rng):
    # Of independent normal features about width / (trials + width).
    x, y = rng.normal(size=(2, 100, 300))
    assert linear_cka(x, y) == pytest.approx(0.75, abs=0.03)


def test_cka_refuses_other_trials(rng):
    with pytest.raises(ValueError, match="mismatch"):
        linear_cka(rng.normal(size=(5, 2)), rng.normal(size=(6, 2)))


def test_cka_refuses_constant_features(rng):
    with pytest.raises(ConfigError, match="undefined"):
        linear_cka(rng.normal(size=(5, 2)), np.ones((5, 3)))


def test_probe_finds_the_layer_that_knows(rng):
    targets = np.repeat([0, 1, 2], [20, 40, 60])  # classes of different size
    features = rng.normal(size=(120, 2, 6))
    features[np.arange(120), 1, targets] += 6
    accuracy = probe(features, targets)
    assert accuracy.shape == (2, 5)
    assert accuracy[0].mean() == pytest.approx(1 / 3, abs=0.15)
    assert accuracy[1].mean() > 0.95
    np.testing.assert_array_equal(accuracy, probe(features, targets))
    assert not np.array_equal(accuracy, probe(features, targets, seed=1))


def test_probe_takes_names_of_two_classes(rng):
    features, classes = rng.normal(size=(40, 1, 4)), np.arange(40) % 2
    features[:, 0, 0] += 2 * classes
    named = probe(features, np.where(classes == 1, "ulaw", "alaw"))
    np.testing.assert_array_equal(named, probe(features, classes))
    with pytest.raises(ValueError, match="2D array"):
        probe(features[:, 0], classes)


def test_probe_with_groups_cannot_recognise_the_group(rng):
    # Each speaker has a place of its own and one language: to know the speaker is to know it.
    speaker = np.repeat(np.arange(20), 10)
    features = (rng.normal(size=(20, 15))[speaker] + 0.1 * rng.normal(size=(200, 15)))[:, None]
    language = speaker % 2
    assert probe(features, language).mean() > 0.95
    assert probe(features, language, groups=speaker).mean() < 0.75


def test_probe_averages_over_the_classes_of_a_fold(rng):
    # Eight speakers of four languages in five folds: no fold holds them all.
    speaker = np.repeat(np.arange(8), 10)
    features = np.eye(4)[speaker % 4] + 0.01 * rng.normal(size=(80, 4))
    assert (probe(features[:, None], speaker % 4, groups=speaker) == 1).all()


@pytest.mark.parametrize(
    ("targets", "groups", "error", "says"),
    [
        ([0] * 18 + [1] * 2, None, UserWarning, "only 2 members"),
        ([0] * 20, None, ValueError, "only one class"),
        ([0, 1] * 10, [0, 1, 2, 3] * 5, ValueError, "number of groups"),
        ([0] * 15 + [1] * 5, [*range(15), *[15] * 5], ConfigError, "one fold only"),
    ],
)
def test_what_cannot_be_split_is_said(rng, targets, groups, error, says):
    with pytest.raises(error, match=says):
        probe(rng.normal(size=(20, 1, 3)), targets, groups=groups)
