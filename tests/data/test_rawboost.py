"""RawBoost: parity with the published code, with an independent oracle, and signal properties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import signal

from slslib.data.rawboost import (
    ALGORITHMS,
    Notch,
    algorithm_name,
    apply,
    draw,
    rawboost,
)
from slslib.errors import AudioError, ConfigError

FS = 16_000
GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "rawboost.npz")


def clip(n_samples: int, peak: float = 0.4) -> np.ndarray:
    t = np.arange(n_samples) / FS
    tone = sum(np.sin(2 * np.pi * 120 * k * t + k) / k for k in range(1, 40))
    return (peak * tone / np.abs(tone).max()).astype(np.float32)


# An oracle written from the paper's equations with SciPy's textbook routines.


def oracle_notch(notch: Notch) -> np.ndarray:
    taps = np.ones(1)
    for centre, width, n_taps in zip(notch.centres, notch.bandwidths, notch.n_taps, strict=True):
        edges = [max(centre - width / 2, 1e-3), min(centre + width / 2, FS / 2 - 1e-3)]
        taps = np.convolve(taps, signal.firwin(n_taps, edges, window="hamming", fs=FS))
    largest = np.abs(signal.freqz(taps, 1, worN=512)[1]).max()
    return taps * 10 ** (notch.gain / 20) / largest


def oracle_fir(x: np.ndarray, taps: np.ndarray) -> np.ndarray:
    n = len(taps) + 1
    y = signal.lfilter(taps, 1, np.concatenate([x, np.zeros(n)]))
    return y[n // 2 : len(y) - n // 2]


def oracle_limit(x: np.ndarray) -> np.ndarray:
    return x / max(1.0, np.abs(x).max())


def oracle(samples: np.ndarray, drawn) -> np.ndarray:
    def lnl(x):
        terms = [
            oracle_fir(x**power, oracle_notch(notch))
            for power, notch in enumerate(drawn.lnl.filters, start=1)
        ]
        return oracle_limit(sum(terms) - np.mean(sum(terms)))

    def isd(x):
        y = np.array(x)
        for position, factor in zip(drawn.isd.positions, drawn.isd.factors, strict=True):
            y[position] = x[position] * (1 + 2 * factor)
        return oracle_limit(y)

    def ssi(x):
        noise = oracle_fir(drawn.ssi.noise, oracle_notch(drawn.ssi.notch))
        wanted_energy = np.sum(x**2) / 10 ** (drawn.ssi.snr / 10)
        return x + noise * np.sqrt(wanted_energy / np.sum(noise**2))

    x = samples.astype(np.float64)
    if drawn.algorithm == "parallel-12":
        return oracle_limit(lnl(x) + isd(x))
    for step, used in ((lnl, drawn.lnl), (isd, drawn.isd), (ssi, drawn.ssi)):
        x = step(x) if used else x
    return x


@pytest.mark.parametrize("algo", range(9))
@pytest.mark.parametrize("n_samples", [400, 16_000])
def test_contract(algo: int, n_samples: int) -> None:
    samples = clip(n_samples)
    before = samples.copy()
    global_state = np.random.get_state()[1].copy()  # noqa: NPY002
    drawn = draw(algo, n_samples, np.random.default_rng(3))
    result = apply(samples, drawn)

    assert result.dtype == np.float32
    assert result.shape == samples.shape
    assert np.isfinite(result).all()
    assert (algo == 0) == np.array_equal(result, samples)
    assert not np.shares_memory(result, samples)
    np.testing.assert_array_equal(samples, before)
    np.testing.assert_allclose(result, oracle(samples, drawn), rtol=0, atol=1e-6)
    # The same draws give the same output; so does the same generator; another one does not.
    np.testing.assert_array_equal(apply(samples, drawn), result)
    again = rawboost(samples, ALGORITHMS[algo], seed=3)
    np.testing.assert_array_equal(again, result)
    other = rawboost(samples, algo, np.random.default_rng(4))
    assert (algo == 0) == np.array_equal(other, result)
    np.testing.assert_array_equal(np.random.get_state()[1], global_state)  # noqa: NPY002


@pytest.mark.parametrize("algo", range(9))
def test_equals_the_published_code_draw_for_draw(algo: int) -> None:
    result = rawboost(GOLDEN["samples"], algo, np.random.RandomState(7))
    np.testing.assert_allclose(result, GOLDEN["outputs"][algo], rtol=0, atol=1e-6)


@pytest.mark.parametrize("algo", range(9))
def test_loud_clips_are_limited_where_the_paper_limits(algo: int) -> None:
    loud = clip(4000, peak=5.6)
    result = rawboost(loud, algo, np.random.default_rng(1))
    drawn = draw(algo, 4000, np.random.default_rng(1))
    np.testing.assert_allclose(result, oracle(loud, drawn), rtol=1e-6, atol=1e-6)
    ends_limited = algo in (1, 2, 5, 8)
    assert (np.abs(result).max() <= 1) == ends_limited


def test_lnl_draws_lie_in_their_ranges() -> None:
    rng = np.random.default_rng(0)
    filters = [draw("lnl", FS, rng).lnl.filters for _ in range(40)]
    assert {len(notches) for notches in filters} == {5}
    assert {notches[0].gain for notches in filters} == {0.0}
    gains = np.array([notch.gain for notches in filters for notch in notches[1:]])
    assert -20 <= gains.min() < -18
    assert -7 < gains.max() <= -5
    centres = np.array([notch.centres for notches in filters for notch in notches])
    assert centres.shape == (200, 5)
    assert 20 <= centres.min() < 200
    assert 7800 < centres.max() <= 8000
    assert abs(centres.mean() - 4010) < 250
    widths = np.array([notch.bandwidths for notches in filters for notch in notches])
    assert 100 <= widths.min() < 120
    assert 980 < widths.max() <= 1000
    taps = np.array([notch.n_taps for notches in filters for notch in notches])
    assert set(np.unique(taps)) == set(range(11, 100, 2))


def test_isd_disturbs_exactly_the_drawn_samples() -> None:
    rng, n = np.random.default_rng(1), 5000
    samples = np.full(n, 0.1, dtype=np.float32)
    percents = []
    for _ in range(60):
        drawn = draw("isd", n, rng)
        changed = np.flatnonzero(apply(samples, drawn) != samples)
        assert len(changed) == int(n * drawn.isd.percent / 100)
        np.testing.assert_array_equal(changed, np.sort(drawn.isd.positions))
        assert np.abs(apply(samples, drawn) - samples).max() <= 0.2  # g_sd * |x|
        percents.append(drawn.isd.percent)
    assert 0 <= min(percents) < 1.5
    assert 8.5 < max(percents) <= 10


def test_ssi_has_the_drawn_snr() -> None:
    rng, samples = np.random.default_rng(2), clip(FS)
    snrs = []
    for _ in range(60):
        drawn = draw("ssi", FS, rng)
        clean = samples.astype(np.float64)
        noise = drawn.ssi.apply(clean) - clean
        measured = 20 * np.log10(np.linalg.norm(clean) / np.linalg.norm(noise))
        assert measured == pytest.approx(drawn.ssi.snr, abs=1e-6)
        snrs.append(measured)
    assert 10 <= min(snrs) < 13
    assert 37 < max(snrs) <= 40


def test_notch_stops_its_band_and_passes_the_rest() -> None:
    notch = Notch((3000.0,), (1000.0,), (101,), -6.0)
    frequency, response = signal.freqz(notch.coefficients(), fs=FS, worN=4096)
    level = 20 * np.log10(np.abs(response))
    assert level[np.abs(frequency - 3000) < 250].max() < -6 - 30
    outside = np.abs(frequency - 3000) > 800
    np.testing.assert_allclose(level[outside], -6, atol=0.1)


def test_numbers_are_drawn_in_the_published_order() -> None:
    calls = []

    class Spy(np.random.RandomState):
        def __getattribute__(self, name):
            if name in ("uniform", "choice", "random", "standard_normal"):
                calls.append(name)
            return super().__getattribute__(name)

    draw("series-123", 500, Spy())
    notch = ["uniform"] * 16  # centre, bandwidth and taps of five bands, then the gain
    isd = ["uniform", "choice", "random", "random"]
    assert calls == notch * 5 + isd + ["standard_normal", *notch, "uniform"]


def test_silence_stays_silent() -> None:
    silence = np.zeros(800, dtype=np.float32)
    for algo in range(9):
        assert not rawboost(silence, algo, np.random.default_rng(0)).any()


def test_algorithms_go_by_number_or_name() -> None:
    for number, name in enumerate(ALGORITHMS):
        assert algorithm_name(number) == algorithm_name(str(number)) == algorithm_name(name) == name
    for wrong in (9, -1, "LnL", "", True):
        with pytest.raises(ConfigError, match="0 to 8"):
            algorithm_name(wrong)


def test_bad_clips_are_refused() -> None:
    drawn = draw("ssi", 800, np.random.default_rng(0))
    bad = np.zeros(800, dtype=np.float32)
    bad[5] = np.nan
    for samples in (clip(801), np.zeros((1, 800)), np.zeros(800, dtype=np.int16), bad):
        with pytest.raises(AudioError):
            apply(samples, drawn)
    with pytest.raises(ConfigError):
        draw("ssi", 0, np.random.default_rng(0))
