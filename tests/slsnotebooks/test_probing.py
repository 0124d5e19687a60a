"""Layer features."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.utils.data import DataLoader

from slslib.data.audio import fix_length, load
from slslib.data.corpora import open_corpus
from slslib.errors import ConfigError
from slslib.model.sls import SLSHead
from slslib.model.xlsr import XLSR, XLSRConfig
from slslib.runs.clips import TrialDataset, read_clips
from slsnotebooks.probing import frozen_layers, layer_means, sample


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SLSLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "layer_means"


def test_layer_means_are_computed_once_and_again_when_anything_changes(cache, monkeypatch):
    backbone = XLSR(XLSRConfig(width=16, n_layers=3, conv_width=8)).eval()
    waveforms = torch.randn(4, 2000)
    computed = []
    forward = XLSR.forward
    monkeypatch.setattr(XLSR, "forward", lambda *a: computed.append(1) or forward(*a))

    def fresh() -> bool:
        computed.clear()
        means = layer_means(backbone, waveforms)
        with torch.no_grad():
            expected = forward(backbone, waveforms).mean(dim=2)
        np.testing.assert_allclose(means, expected, rtol=1e-5, atol=1e-6)
        return bool(computed)

    assert fresh()
    assert not fresh()
    waveforms[0, 0] += 1
    assert fresh()
    with torch.no_grad():
        next(backbone.parameters()).mul_(2)
    assert fresh()
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:50])
    assert fresh(), "a damaged file is no reason to stop"
    assert not fresh()
    for file in cache.iterdir():
        save_file({"others": waveforms}, file)
    assert fresh(), "nor is one of something else"


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SLSLIB_CACHE", str(tmp_path / "file"))
    backbone = XLSR(XLSRConfig(width=16, n_layers=3, conv_width=8)).eval()
    assert layer_means(backbone, torch.randn(2, 2000)).shape == (2, 3, 16)


def test_layer_means_are_those_of_the_layers_whatever_the_batches():
    torch.manual_seed(0)
    backbone = XLSR(XLSRConfig(width=16, n_layers=3, conv_width=8)).eval()
    waveforms = torch.randn(5, 2000)
    means = layer_means(backbone, waveforms, batch_size=2)
    assert means.shape == (5, 3, 16)
    with torch.no_grad():
        whole = backbone(waveforms).mean(dim=2)
    np.testing.assert_allclose(means, whole.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("writable", [True, False])
def test_a_head_learns_from_frozen_layers_as_from_the_backbone(
    corpora, tmp_path, monkeypatch, writable
):
    if not writable:
        (tmp_path / "file").touch()
        monkeypatch.setenv("SLSLIB_CACHE", str(tmp_path / "file"))
    torch.manual_seed(0)
    backbone = XLSR(XLSRConfig(width=16, n_layers=3, conv_width=8)).eval()
    clips = TrialDataset(open_corpus("asvspoof2019-la:dev", corpora), n_samples=4000)
    head = SLSHead(16, backbone.config.n_frames(4000), hidden_width=8).eval()

    def gradient(layers, labels):
        head.zero_grad()
        F.cross_entropy(head(layers), labels).backward()
        return head.hidden.weight.grad.clone()

    waveforms, labels = read_clips(clips)
    with torch.no_grad():
        layers = list(backbone.layers(waveforms))
    expected = gradient(layers, labels)
    pairs = frozen_layers(backbone, clips, batch_size=2, shard=3)
    monkeypatch.setattr(XLSR, "layers", lambda *_: pytest.fail("computed again"))
    if writable:
        pairs = frozen_layers(backbone, clips, batch_size=2, shard=3)
    assert len(pairs) == len(clips)
    ((frozen, told),) = DataLoader(pairs, batch_size=len(clips))
    assert frozen.dtype == torch.bfloat16 and torch.equal(told, labels)
    torch.testing.assert_close(frozen.float(), torch.stack(layers, dim=1), rtol=1e-2, atol=1e-4)
    found = gradient(frozen.float().unbind(1), told)
    assert (found - expected).norm() < 0.02 * expected.norm() > 0


def test_the_page_trains_a_head_on_frozen_layers(corpora, tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "book" / "performance.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    corpus = open_corpus("asvspoof2019-la:dev", corpora)
    few = replace(corpus, trials=corpus.trials.groupby("label").head(3))
    monkeypatch.setattr("slslib.open_corpus", lambda _: few)
    names: dict[str, object] = {}
    exec(compile(code, str(page), "exec"), names)
    names["loss"].backward()
    assert names["detector"].head.gate.weight.grad.abs().sum() > 0


def test_a_sample_reads_as_many_of_each_class(corpora):
    corpus = open_corpus("asvspoof2019-la:train", corpora)
    trials, waveforms = sample(corpus, 3, n_samples=8000)
    assert trials["label"].value_counts().to_dict() == {0: 3, 1: 3}
    for utterance, waveform in zip(trials["utterance"], waveforms, strict=True):
        samples = load(corpus.audio_path(utterance)).samples
        np.testing.assert_array_equal(waveform, fix_length(samples, 8000))
    assert trials.equals(sample(corpus, 3, n_samples=8000)[0])
    with pytest.raises(ConfigError, match="per_class is 1000"):
        sample(corpus, 1000)
    with pytest.raises(ConfigError, match="per_class is 0"):
        sample(corpus, 0)


def noises(folder, n=5):
    """A corpus of noises, one longer than the next."""
    (folder / "flac").mkdir(parents=True)
    lines = ["file,label"]
    for k in range(n):
        x = 0.1 * np.random.default_rng(k).standard_normal(2000 + 100 * k)
        sf.write(folder / "flac" / f"n{k}.flac", x, 16_000, subtype="PCM_16")
        lines.append(f"n{k},{('bonafide', 'spoof')[k % 2]}")
    (folder / "protocols").mkdir()
    (folder / "protocols" / f"{folder.name}.csv").write_text("\n".join(lines) + "\n")
    return TrialDataset(open_corpus(str(folder)), n_samples=2000)


def test_frozen_layers_are_the_layers_rounded_and_computed_once(tmp_path, cache, monkeypatch):
    backbone = XLSR(XLSRConfig(width=16, n_layers=3, conv_width=8)).eval()
    clips, computed, layers = noises(tmp_path / "noises"), [], XLSR.layers
    monkeypatch.setattr(XLSR, "layers", lambda *a: computed.append(1) or layers(*a))

    def fresh(clips=clips) -> int:
        computed.clear()
        frozen = frozen_layers(backbone, clips, batch_size=1, shard=2)
        n_computed, waveforms = len(computed), read_clips(clips)[0]
        assert [int(label) for _, label in frozen] == [1, 0, 1, 0, 1]
        with torch.no_grad():
            for (kept, _), waveform in zip(frozen, waveforms, strict=True):
                assert kept.dtype == torch.bfloat16
                expected = torch.stack(list(layers(backbone, waveform[None])), dim=1)[0]
                torch.testing.assert_close(kept, expected.bfloat16())
        return n_computed

    folder = cache.with_name("frozen_layers")
    assert fresh() == 5
    assert len(list(folder.iterdir())) == 3, "shards of 2, 2 and 1"
    assert fresh() == 0
    first, second, _ = folder.iterdir()
    first.write_bytes(first.read_bytes()[:-1])
    assert 1 <= fresh() <= 2, "a damaged file"
    first.write_bytes(second.read_bytes())
    assert 1 <= fresh() <= 2, "that of other clips"
    assert fresh() == 0
    x = 0.1 * np.random.default_rng(9).standard_normal(2000)
    sf.write(clips.corpus.audio_path("n4"), x, 16_000, subtype="PCM_16")
    assert fresh() == 1, "only the shard with another recording"
    assert fresh(replace(clips, n_samples=1500)) == 5
    with torch.no_grad():
        next(backbone.parameters()).mul_(2)
    assert fresh() == 5
