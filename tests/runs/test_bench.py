"""Speed and memory: what is timed, how often, and what is made of it. No clock is believed."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import DETECTOR, cuda, recipe
from torch.utils.benchmark import Timer

from slslib.data.corpora import open_corpus
from slslib.errors import CheckpointError, ConfigError, TrainingError
from slslib.model.detector import Detector
from slslib.runs import bench as module
from slslib.runs.bench import bench
from slslib.runs.clips import TrialDataset, epoch_batches
from slslib.runs.fit import build_detector, build_optimizer, train_step, weighted_nll
from slslib.runs.processes import start
from slslib.runs.train import train


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "d.safetensors"
    Detector(DETECTOR, seed=0).save(path, {"recipe": "mini"})
    return path


class Watch:
    """In the place of PyTorch's timer: it calls three times and believes that each took 2 s."""

    def __init__(self, stmt, globals, num_threads):
        assert (stmt, num_threads) == ("call()", torch.get_num_threads())
        self.call = globals["call"]

    def adaptive_autorange(self):
        for _ in range(3):
            self.call()
        return SimpleNamespace(median=2.0)


@pytest.fixture(autouse=True)
def watch(monkeypatch):
    monkeypatch.setattr("torch.utils.benchmark.Timer", Watch)


def test_rows_are_made_of_the_median(checkpoint, monkeypatch):
    seen = []

    def score_batch(detector, clips, config, accelerator):
        assert not detector.training
        assert [len(clip.waveform) for clip in clips] == [4000] * config.batch_size
        seen.append((config.precision, config.batch_size))

    monkeypatch.setattr(module, "score_batch", score_batch)
    options = {"scoring_only": True, "cpu": True, "progress": False}
    result = bench(checkpoint=checkpoint, batch_size=(4, 1), **options)
    assert seen == [("no", 1)] * 3 + [("no", 4)] * 3
    one, four = result["rows"]
    assert (one["seconds"], four["seconds"]) == (2, 2)
    assert (one["clips_per_second"], four["clips_per_second"]) == (0.5, 2)
    assert four["real_time_factor"] == pytest.approx(0.5 / (4000 / 16_000))
    assert four["hours"] == {
        "2021 LA": pytest.approx(181_566 / 2 / 3600),
        "2021 DF": pytest.approx(611_829 / 2 / 3600),
        "In-the-Wild": pytest.approx(31_779 / 2 / 3600),
    }


def test_training_is_the_step_of_the_recipe_that_the_checkpoint_names(checkpoint, monkeypatch):
    loaded = Detector.load(checkpoint)
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    monkeypatch.setattr(Detector, "load", lambda *args, **kwargs: loaded)
    losses = []

    def spy(log_probs, labels, class_weights, accelerator):
        assert loaded.training
        losses.append((len(labels), int(labels.sum()), list(class_weights)))
        return weighted_nll(log_probs, labels, class_weights, accelerator)

    monkeypatch.setattr("slslib.runs.fit.weighted_nll", spy)
    result = bench(checkpoint=checkpoint, batch_size=(1,), cpu=True, progress=False)
    row = result["rows"][-1]
    assert (result["recipe"], row["work"], row["batch_size"]) == ("mini", "train", 16)
    assert losses == [(16, 8, [0.5, 0.5])] * 3
    assert set(row["hours"]) == {"2019 LA, epoch"}
    after = loaded.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "head.output.weight" in moved
    assert not {name for name in moved if ".feature_extractor." in name}  # frozen by mini


def test_a_step_is_the_first_of_a_training_run(corpora, tmp_path):
    config = recipe(dev=None, monitor="train_loss")
    with pytest.raises(TrainingError, match="1 steps"):
        train(config, tmp_path, data=corpora, cpu=True, progress=False, max_steps=1)
    state = torch.load(tmp_path / "state.pt", weights_only=True)["model"]
    dataset = TrialDataset(
        open_corpus(config.train, corpora), n_samples=4000, algo=config.rawboost, seed=config.seed
    )
    batch = epoch_batches(len(dataset), config.batch_size, seed=config.seed, epoch=0)[0]
    detector = build_detector(config, None)
    clips = [dataset[i] for i in batch]
    arguments = detector.train(), build_optimizer(detector, config), clips, config, start(cpu=True)
    train_step(*arguments)
    for name, tensor in detector.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    train_step(*arguments)
    assert not torch.equal(detector.head.output.weight, state["head.output.weight"])


def test_other_checkpoints_train_as_v1(checkpoint):
    Detector(DETECTOR, seed=0).save(checkpoint)
    result = bench(checkpoint=checkpoint, batch_size=(1,), cpu=True, progress=False)
    assert result["recipe"] == "v1"
    assert [row["batch_size"] for row in result["rows"]] == [1, 5]
    Detector(DETECTOR, seed=0).save(checkpoint, {"recipe": ["mini"]})
    options = {"scoring_only": True, "progress": False}
    assert bench(checkpoint=checkpoint, batch_size=(1,), cpu=True, **options)["recipe"] == "v1"


def test_each_precision_reaches_the_network(checkpoint, monkeypatch):
    dtypes, real = [], module.score_batch

    def score_batch(detector, clips, config, accelerator):
        layer = detector.backbone.model.encoder.layers[0].feed_forward.intermediate_dense
        hook = layer.register_forward_hook(lambda *args: dtypes.append(args[2].dtype))
        real(detector, clips, config, accelerator)
        hook.remove()

    monkeypatch.setattr(module, "score_batch", score_batch)
    options = {"batch_size": (2,), "scoring_only": True, "progress": False}
    result = bench(checkpoint=checkpoint, precision=("no", "bf16"), cpu=True, **options)
    assert [row["precision"] for row in result["rows"]] == ["no", "bf16"]
    assert dtypes == [torch.float32] * 3 + [torch.bfloat16] * 3


def test_random_has_the_size_of_xlsr_300m(monkeypatch):
    built = []
    monkeypatch.setattr(module, "_measure", lambda detector, *args: built.append(detector) or {})
    with torch.device("meta"):
        result = bench(checkpoint="random", scoring_only=True, cpu=True, progress=False)
    assert built[0].config.backbone.width == 1024
    assert result["clip_seconds"] == 4.0375
    assert 330e6 < result["parameters"] < 350e6


def test_memory_of_the_process_is_its_peak(checkpoint):
    options = {"checkpoint": checkpoint, "batch_size": (1,), "scoring_only": True}
    before = bench(**options, cpu=True, progress=False)["rows"][0]["peak_memory_bytes"]
    np.ones(before, np.uint8)  # beside what is held now: certainly more than was ever held
    after = bench(**options, cpu=True, progress=False)["rows"][0]["peak_memory_bytes"]
    assert before < after < 3 * before


@pytest.mark.parametrize("device", [cuda()])
def test_memory_on_cuda_is_that_of_the_setting(checkpoint, device):
    torch.empty(2**32, device=device, dtype=torch.uint8)  # before: not counted
    result = bench(checkpoint=checkpoint, batch_size=(1, 64), progress=False)
    few, many, _ = (row["peak_memory_bytes"] for row in result["rows"])
    assert 0 < few < many < 2**32


def test_no_clips_are_an_error():
    with pytest.raises(ConfigError, match="at least 1"):
        bench(checkpoint="mini", batch_size=(8, 0), scoring_only=True, cpu=True, progress=False)


def test_seconds_pass(checkpoint, monkeypatch):
    """With PyTorch's own timer."""
    monkeypatch.setattr("torch.utils.benchmark.Timer", Timer)
    result = bench(checkpoint=checkpoint, batch_size=(1,), scoring_only=True, progress=False)
    assert 0 < result["rows"][0]["seconds"] < 60


def test_a_checkpoint_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        bench(checkpoint=tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"), "CUDA out of memory. Tried"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_rows_are_kept_when_the_memory_is_not_enough(checkpoint, monkeypatch, error, cause):
    def fail(*args):
        raise error

    real = module.score_batch

    def score_batch(detector, clips, config, accelerator):
        return fail() if len(clips) == 3 else real(detector, clips, config, accelerator)

    monkeypatch.setattr(module, "score_batch", score_batch)
    monkeypatch.setattr("slslib.runs.fit.train_step", fail)
    options = {"batch_size": (2, 3), "cpu": True, "progress": False}
    result = json.loads(json.dumps(bench(checkpoint=checkpoint, **options)))
    two, three, training = result["rows"]
    assert two["clips_per_second"] > 0
    assert three.keys() == training.keys() == {"work", "batch_size", "precision", "error"}
    first, second = result["errors"]
    assert first.startswith(f"score, batch 3, precision no: {cause}; ")
    assert second.startswith(f"train, batch 16, precision no: {cause}; ")
