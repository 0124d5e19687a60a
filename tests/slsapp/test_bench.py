"""Speed and memory: what is timed, how often, and what is made of it. No clock is believed."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import DETECTOR, cuda
from torch.utils.benchmark import Timer

from slsapp import bench as module
from slsapp.bench import bench
from slslib.errors import CheckpointError, ConfigError
from slslib.model.detector import Detector


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "d.safetensors"
    Detector(DETECTOR, seed=0).save(path, {"recipe": "mini"})
    return path


class Watch:
    """In the place of PyTorch's timer: it calls three times and believes that each took 2 s."""

    def __init__(self, stmt, globals, num_threads):
        assert num_threads == torch.get_num_threads()
        self.call = partial(eval, stmt, globals)

    def adaptive_autorange(self):
        for _ in range(3):
            self.call()
        return SimpleNamespace(median=2.0)


@pytest.fixture(autouse=True)
def watch(monkeypatch):
    monkeypatch.setattr("torch.utils.benchmark.Timer", Watch)


def test_rows_are_made_of_the_median(checkpoint, monkeypatch):
    seen = []

    def score_batch(detector, clips, config):
        assert not detector.training
        assert [len(clip.waveform) for clip in clips] == [4000] * config.batch_size
        seen.append(config.batch_size)
        return torch.zeros(len(clips))

    monkeypatch.setattr(module, "score_batch", score_batch)
    result = bench(checkpoint=checkpoint, batch_size=(4, 1), cpu=True)
    assert seen == [1] * 3 + [4] * 3
    one, four = result["rows"]
    assert (one["seconds"], four["seconds"]) == (2, 2)
    assert (one["clips_per_second"], four["clips_per_second"]) == (0.5, 2)
    assert four["real_time_factor"] == pytest.approx(0.5 / (4000 / 16_000))
    assert four["hours_of_2021_DF"] == pytest.approx(611_829 / 2 / 3600)
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize(
    ("precision", "dtype"), [("exact", torch.float32), ("bf16", torch.bfloat16)]
)
def test_the_precision_reaches_the_network(checkpoint, monkeypatch, precision, dtype):
    dtypes, real = [], module.score_batch

    def score_batch(detector, clips, config):
        layer = detector.backbone.model.encoder.layers[0].feed_forward.intermediate_dense
        hook = layer.register_forward_hook(lambda *args: dtypes.append(args[2].dtype))
        scores = real(detector, clips, config)
        hook.remove()
        return scores

    monkeypatch.setattr(module, "score_batch", score_batch)
    result = bench(checkpoint=checkpoint, batch_size=(2,), precision=precision, cpu=True)
    assert result["precision"] == precision
    assert dtypes == [dtype] * 3


def test_random_is_xlsr_300m_without_training(monkeypatch):
    made = []

    def build(*arguments, **options):
        made.append((arguments, options))
        return Detector(DETECTOR, **options)  # the default is too large for a test

    monkeypatch.setattr("slslib.model.detector.Detector", build)

    def score_batch(detector, *_):
        made.append(detector.training)
        return torch.zeros(1)

    monkeypatch.setattr(module, "score_batch", score_batch)
    bench(checkpoint="random", batch_size=(1,), cpu=True)
    assert made == [((), {"seed": 0}), False, False, False]


def test_memory_of_the_process_is_its_peak(checkpoint):
    options = {"checkpoint": checkpoint, "batch_size": (1,)}
    before = bench(**options, cpu=True)["rows"][0]["peak_memory_bytes"]
    np.ones(before, np.uint8)  # beside what is held now: certainly more than was ever held
    after = bench(**options, cpu=True)["rows"][0]["peak_memory_bytes"]
    assert before < after < 3 * before


@pytest.mark.parametrize("device", [cuda()])
def test_memory_on_cuda_is_that_of_the_setting(checkpoint, device):
    torch.empty(2**32, device=device, dtype=torch.uint8)  # before: not counted
    result = bench(checkpoint=checkpoint, batch_size=(1, 64))
    few, many = (row["peak_memory_bytes"] for row in result["rows"])
    assert 0 < few < many < 2**32


def test_no_clips_are_an_error():
    with pytest.raises(ConfigError, match="the least is 1"):
        bench(checkpoint="mini", batch_size=(8, 0), cpu=True)


def test_seconds_pass(checkpoint, monkeypatch):
    """With PyTorch's own timer."""
    monkeypatch.setattr("torch.utils.benchmark.Timer", Timer)
    result = bench(checkpoint=checkpoint, batch_size=(1,))
    assert 0 < result["rows"][0]["seconds"] < 60


def test_a_checkpoint_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        bench(checkpoint=tmp_path / "none.safetensors")
