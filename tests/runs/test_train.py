"""Training: the recipe's rules, files that are whole, and a resume that changes nothing."""

from __future__ import annotations

import csv
import gc
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from accelerate import Accelerator
from tiny import cuda, recipe, weights
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from slslib.data.corpora import mix, open_corpus
from slslib.errors import (
    AudioError,
    CheckpointError,
    ConfigError,
    ProtocolError,
    SlslibError,
    TrainingError,
)
from slslib.files import lock, sha256
from slslib.model.detector import Detector
from slslib.model.geometry import XLSRConfig
from slslib.runs import fit, processes, recipes
from slslib.runs.clips import TrialDataset, epoch_batches, load_batches, stack
from slslib.runs.fit import (
    Position,
    build_detector,
    build_optimizer,
    initial_weights,
    train_step,
    weighted_nll,
)
from slslib.runs.train import train


def log(run: Path) -> list[dict[str, str]]:
    """Return the rows of a run's log."""
    return list(csv.DictReader((run / "log.csv").read_text().splitlines()))


def assert_same_run(a: Path, b: Path) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    assert [k for k in ours if not torch.equal(ours[k], theirs[k])] == []
    assert (a / "log.csv").read_text() == (b / "log.csv").read_text()
    assert (a / "best.json").read_text() == (b / "best.json").read_text()


@pytest.fixture(scope="module")
def finished(corpora, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    best = train(recipe(), out, data=corpora, progress=False, keep="all")
    return out, best


def test_a_run_leaves_whole_readable_files(finished):
    out, best = finished
    names = {p.name for p in out.iterdir()}
    epochs = {f"epoch_{i}.safetensors" for i in range(3)}
    assert names - {".lock"} == {"config.json", "log.csv", "best.json", "state.pt"} | epochs
    rows = log(out)
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    losses = [float(row["dev_loss"]) for row in rows]
    assert best == out / f"epoch_{int(np.argmin(losses))}.safetensors"
    assert json.loads((out / "best.json").read_text())["dev_loss"] == min(losses)
    config = json.loads((out / "config.json").read_text())
    assert config["config"]["lr"] == 1e-3
    assert config["initial_sha256"] is None  # random weights
    assert [d["n_trials"] for d in config["data"]] == [12, 8]
    metadata = Detector.load(best).metadata
    assert metadata["recipe"] == "v1"
    assert -100 < metadata["dev_eer_threshold"] < 100


def test_training_learns(finished):
    """Tones and noises are told apart in nine steps better than at the start."""
    rows = log(finished[0])
    assert float(rows[-1]["train_loss"]) < 0.95 * float(rows[0]["train_loss"])


def test_the_first_step_is_adam_on_the_weighted_loss(corpora, tmp_path):
    """One step equals a hand-written one: data order, loss, weight decay and learning rate."""
    config = recipe(rawboost=3, lr=1e-3, weight_decay=0.5)
    train(config, tmp_path / "r", data=corpora, progress=False, max_steps=1)
    model = build_detector(config, initial_weights(config)).train()
    corpus = open_corpus("asvspoof2019-la:train", corpora)
    dataset = TrialDataset(corpus, n_samples=4000, algo=3, seed=1234, epoch=0)
    batch = epoch_batches(12, 4, seed=1234, epoch=0)[0]
    x, y = stack(next(iter(load_batches(dataset, [batch]))))
    F.cross_entropy(model(x), y, weight=torch.tensor([0.1, 0.9])).backward()
    with torch.no_grad():  # Adam's first step moves by lr * g / (|g| + eps), L2 inside g
        for parameter in model.parameters():
            if parameter.grad is not None:
                g = parameter.grad + 0.5 * parameter
                parameter -= 1e-3 * g / (g.abs() + 1e-8)
    after = weights(tmp_path / "r")
    for name, want in model.state_dict().items():
        if not name.endswith("k_proj.bias"):  # its true gradient is 0
            torch.testing.assert_close(after[f"model.{name}"], want, rtol=1e-4, atol=1e-6)


def test_the_loss_copies_nothing_to_another_device(monkeypatch):
    """Such a copy would wait until a GPU has done the step before."""
    made: list[str] = []
    for name in ("tensor", "as_tensor"):
        monkeypatch.setattr(torch, name, lambda *_, **__: pytest.fail("a copy"))

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            tensors = [one for one in args if isinstance(one, torch.Tensor)]
            if not any(one.device.type == "meta" for one in tensors):
                made.append(str(func))
            return out

    log_probs = torch.empty(5, 2, device="meta")
    labels = torch.empty(5, dtype=torch.int64, device="meta")
    with Watch():
        weighted, weights = fit._sums(log_probs, labels, (0.1, 0.9))
    assert (weighted.device.type, weights.device.type) == ("meta", "meta")
    assert made == [], "every operation works on what is there"


def test_a_step_by_hand_is_the_first_of_a_run_bit_for_bit(corpora, tmp_path):
    """Studies time and compare :func:`train_step`; it must be what a run does."""
    config = recipe(dev=None, monitor="train_loss")
    train(config, tmp_path, data=corpora, cpu=True, progress=False, max_steps=1)
    state = torch.load(tmp_path / "state.pt", weights_only=True)["model"]
    dataset = TrialDataset(
        open_corpus(config.train, corpora), n_samples=4000, algo=config.rawboost, seed=config.seed
    )
    batch = epoch_batches(len(dataset), config.batch_size, seed=config.seed, epoch=0)[0]
    detector = build_detector(config, None)
    clips, accelerator = [dataset[i] for i in batch], processes.start(cpu=True)
    optimizer = build_optimizer(detector, config)
    train_step(detector.train(), optimizer, clips, config, accelerator)
    for name, tensor in detector.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    train_step(detector, optimizer, clips, config, accelerator)
    assert not torch.equal(detector.head.output.weight, state["head.output.weight"])


@pytest.mark.parametrize(("stop", "workers"), [(1, 0), (2, 1), (4, 2), (6, 0)])
def test_an_interrupted_run_resumes_bit_for_bit(finished, corpora, tmp_path, stop, workers):
    options = {"data": corpora, "progress": False, "keep": "all", "workers": workers}
    state = train(recipe(), tmp_path / "r", **options, max_steps=stop)
    assert state == tmp_path / "r" / "state.pt"
    train(recipe(), tmp_path / "r", **options, resume=True)
    assert_same_run(finished[0], tmp_path / "r")


@pytest.mark.parametrize(
    ("kind", "workers", "send"),
    [
        (signal.SIGKILL, 2, os.kill),
        (signal.SIGINT, 0, os.kill),
        (signal.SIGTERM, 1, os.kill),
        (signal.SIGTERM, 2, os.killpg),
    ],
    ids=["SIGKILL", "SIGINT", "SIGTERM", "SIGTERM to the group"],
)
def test_a_killed_process_resumes_bit_for_bit(corpora, tmp_path, kind, workers, send):
    """Kill a real process as soon as its second state is on the disk, in the middle of an epoch."""
    config = recipe(max_epochs=6)
    train(config, tmp_path / "whole", data=corpora, progress=False)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tiny import recipe; from slslib.runs.train import train\n"
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try: train(recipe(max_epochs=6), sys.argv[2], data=sys.argv[3],"
        " workers=int(sys.argv[4]), save_steps=1, progress=False)\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    run = tmp_path / "killed"
    arguments = [str(Path(__file__).parents[1]), str(run), str(corpora), str(workers)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, start_new_session=True
    )
    state, seen = run / "state.pt", set()
    while process.poll() is None and len(seen) < 2:
        if state.exists():
            seen.add(state.stat().st_mtime_ns)
        time.sleep(0.002)
    send(process.pid, kind)  # a new session: the group has the number of the process
    _, stderr = process.communicate()
    assert process.returncode == (130 if kind == signal.SIGINT else -kind)
    if kind != signal.SIGKILL:
        assert b"the state is saved, go on with --resume" in stderr
    train(config, run, data=corpora, resume=True, progress=False)
    assert_same_run(tmp_path / "whole", run)


def test_the_bar_counts_the_steps_of_the_whole_run(corpora, tmp_path, monkeypatch):
    """So that the time that tqdm estimates is the run's; after a resume too."""
    bars, real = [], processes.bar

    def bar(*args, **options):
        bars.append(made := real(*args, **options | {"show": True}))
        return made

    monkeypatch.setattr(processes, "bar", bar)
    config = recipe(dev=None, monitor="train_loss")
    train(config, tmp_path, data=corpora, progress=False, max_steps=4)
    train(config, tmp_path, data=corpora, progress=False, resume=True)
    counts = [(bar.desc, bar.initial, bar.n, bar.total) for bar in bars]
    assert counts == [
        *(("epoch 0", 0, 3, 9), ("epoch 1", 3, 4, 9)),  # stopped in the fifth step
        *(("epoch 1", 4, 6, 9), ("epoch 2", 6, 9, 9)),
    ]


def test_no_cycle_holds_a_tensor(corpora, tmp_path, monkeypatch):
    """The command line looks for garbage rarely, so none may hold the memory of a step."""
    held = []

    def step(*args):
        loss = train_step(*args)
        held.append(sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects()))
        return loss

    monkeypatch.setattr(fit, "train_step", step)
    gc.collect()
    gc.disable()
    try:
        train(recipe(dev=None, monitor="train_loss"), tmp_path, data=corpora, progress=False)
    finally:
        gc.enable()
    assert len(held) == 9
    assert max(held) - min(held) < 4, held  # one of each step would make eight


def test_a_run_without_a_name_has_that_of_its_recipe(corpora, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = train(recipe(), data=corpora, progress=False, max_steps=1)
    assert state == Path("runs/v1/state.pt")
    assert state.exists()


def test_training_rounds_convolutions_to_tf32_as_the_original_does(corpora, tmp_path, monkeypatch):
    """And lets cuDNN take deterministic algorithms only, as the authors do."""
    seen, step = [], fit.train_step

    def spy(*args):
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic))
        return step(*args)

    monkeypatch.setattr(fit, "train_step", spy)
    train(recipe(), tmp_path, data=corpora, progress=False, max_steps=1)
    assert seen == [(True, True)]


def test_resuming_a_finished_run_does_nothing(finished, corpora):
    out, best = finished
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    assert train(recipe(), out, data=corpora, resume=True, progress=False) == best
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before


def test_only_the_best_checkpoint_is_kept_by_default(corpora, tmp_path):
    best = train(recipe(), tmp_path / "r", data=corpora, progress=False)
    assert [p.name for p in (tmp_path / "r").glob("epoch_*")] == [best.name]


def test_v1_stops_when_the_training_loss_rises():
    """The published losses of v1 stop after four epochs with epoch 2 the best."""
    position, config = Position(), recipes.v1()
    losses = iter([0.070653, 0.004578, 0.000661, 0.001521, 0.0001])
    while not position.finished(config):
        position.history.append({"train_loss": next(losses)})
        position.epoch += 1
    assert (position.best_epoch("train_loss"), len(position.history)) == (2, 4)


def test_v2_waits_ten_epochs_for_the_development_loss():
    position, config = Position(), recipes.v2()
    losses = iter([0.002 - 1e-4 * i for i in range(16)] + [0.000468] + [0.001] * 20)
    while not position.finished(config):
        position.history.append({"dev_loss": next(losses)})
        position.epoch += 1
    assert (position.best_epoch("dev_loss"), len(position.history)) == (16, 27)


def test_the_loss_is_pytorchs_weighted_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(7, 2, generator=generator).log_softmax(1)
    labels = torch.tensor([0, 1, 0, 0, 1, 0, 0])
    w = torch.tensor([0.1, 0.9])
    loss, reported = weighted_nll(log_probs, labels, w, Accelerator(cpu=True))
    want = F.cross_entropy(log_probs, labels, weight=w)  # log_softmax twice is idempotent
    torch.testing.assert_close(loss, want)
    assert reported == pytest.approx(float(want))


def test_a_loss_that_is_not_finite_stops_the_run(corpora, tmp_path, monkeypatch):
    real = Detector.forward
    calls = []

    def poisoned(self, waveform):
        calls.append(1)
        out = real(self, waveform)
        return out * float("nan") if self.training and len(calls) == 5 else out

    monkeypatch.setattr(Detector, "forward", poisoned)
    with pytest.raises(TrainingError, match=r"loss is nan .*LA_T_\d{7}, LA_T_"):
        train(recipe(dev=None, monitor="train_loss"), tmp_path, data=corpora, progress=False)
    assert (tmp_path / "best.json").exists()
    assert torch.isfinite(weights(tmp_path)["model.head.gate.weight"]).all()


def test_weights_that_are_not_finite_replace_no_good_state(corpora, tmp_path, monkeypatch):
    real, calls = torch.optim.Adam.step, []

    def breaks(self, *arguments, **options):
        calls.append(1)
        real(self, *arguments, **options)
        if len(calls) == 3:
            with torch.no_grad():
                self.param_groups[0]["params"][0][0] = torch.inf

    monkeypatch.setattr(torch.optim.Adam, "step", breaks)
    with pytest.raises(TrainingError, match="NaN or infinite"):
        train(recipe(), tmp_path, data=corpora, save_steps=1, progress=False)
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())
    monkeypatch.undo()
    assert train(recipe(), tmp_path, data=corpora, resume=True, progress=False).exists()


@pytest.mark.parametrize("steps", [3, 4])
def test_a_state_is_a_checkpoint_that_tells_what_the_others_tell(corpora, tmp_path, steps):
    """Its tensors do not tell how long its clips were; within an epoch there are no results."""
    config = recipe(n_samples=4300)
    state = train(config, tmp_path, data=corpora, progress=False, max_steps=steps)
    saved, after = Detector.load(state), Detector.load(tmp_path / "epoch_0.safetensors")
    assert saved.config == after.config
    assert saved.config.n_samples == 4300
    told = {"recipe": "v1", "seed": 1234}
    assert saved.metadata == (after.metadata if steps == 3 else told)
    assert told.items() < after.metadata.items()
    if steps == 3:
        tensors = after.state_dict()
        assert all(torch.equal(t, tensors[name]) for name, t in saved.state_dict().items())


def test_two_runs_in_one_folder_are_refused(corpora, tmp_path):
    with lock(tmp_path / "run"), pytest.raises(ConfigError, match="another run"):
        train(recipe(), tmp_path / "run", data=corpora, progress=False)


def test_a_start_over_an_existing_run_is_refused(finished, corpora):
    with pytest.raises(ConfigError, match="already holds a run"):
        train(recipe(), finished[0], data=corpora, progress=False)


def test_a_resume_with_other_settings_is_refused(finished, corpora):
    other = recipe(train="asvspoof2019-la:eval")
    with pytest.raises(ConfigError, match=r'[+] "train": "asvspoof2019-la:eval"'):
        train(other, finished[0], data=corpora, resume=True, progress=False)
    with pytest.raises(ConfigError, match=r'- "lr": 0\.001, [+] "lr": 0\.002'):
        train(recipe(lr=2e-3), finished[0], data=corpora, resume=True, progress=False)


@pytest.mark.parametrize("part", ["init", "backbone"])
def test_a_resume_wants_the_same_initial_weights(finished, corpora, tmp_path, part):
    initial = tmp_path / "initial.safetensors"
    shutil.copy(finished[1], initial)
    config = recipe(max_epochs=1, freeze="conv", **{part: str(initial)})
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(config, whole, data=corpora, progress=False)
    train(config, run, data=corpora, progress=False, max_steps=2)
    about = json.loads((run / "config.json").read_text())
    assert about["initial_sha256"] == sha256(initial)
    Detector.load(initial).save(initial, {"other": True})
    with pytest.raises(ConfigError, match="initial_sha256"):
        train(config, run, data=corpora, resume=True, progress=False)
    shutil.copy(finished[1], initial)
    train(config, run, data=corpora, resume=True, progress=False)
    assert_same_run(whole, run)


def test_a_resume_without_a_state_begins_again(finished, corpora, tmp_path):
    train(recipe(), tmp_path, data=corpora, progress=False, keep="all", max_steps=1)
    (tmp_path / "state.pt").unlink()  # as if killed before its first save
    train(recipe(), tmp_path, data=corpora, resume=True, progress=False, keep="all")
    assert_same_run(finished[0], tmp_path)


def test_a_resume_repairs_what_a_kill_left_behind(finished, corpora, tmp_path):
    """The log and the best epoch are written before the state, so a kill lets them run ahead."""
    train(recipe(), tmp_path, data=corpora, progress=False, keep="all", max_steps=5)
    for name in ("log.csv", "best.json", "epoch_1.safetensors"):
        shutil.copy(finished[0] / name, tmp_path)
    left = tmp_path / ".state.pt.123-01234567.tmp"  # in a container that is no more
    left.touch()
    os.utime(left, (0, 0))
    train(recipe(), tmp_path, data=corpora, resume=True, progress=False, keep="all")
    assert_same_run(finished[0], tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))


def test_recordings_that_are_converted_are_counted_once(corpora, tmp_path, capsys):
    shutil.copytree(corpora / "LA", tmp_path / "LA")
    for name, rate, shape in (("T_0000000", 8000, 5000), ("D_0000001", 16_000, (9000, 2))):
        part = {"T": "train", "D": "dev"}[name[0]]
        path = tmp_path / "LA" / f"ASVspoof2019_LA_{part}" / "flac" / f"LA_{name}.flac"
        sf.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, shape), rate)
    train(recipe(max_epochs=2), tmp_path / "run", data=tmp_path, progress=False)
    said = capsys.readouterr().err
    assert said.count("warning: 2 recordings were resampled or mixed down") == 1
    train(recipe(max_epochs=2), tmp_path / "other", data=corpora, progress=False)
    assert "resampled" not in capsys.readouterr().err


def test_silence_is_trained_on_only_where_that_is_allowed(corpora, tmp_path):
    shutil.copytree(corpora / "LA", tmp_path / "LA")
    audio = tmp_path / "LA" / "ASVspoof2019_LA_train" / "flac"
    for name, n in (("LA_T_0000000", 9000), ("LA_T_0000001", 300)):
        sf.write(audio / f"{name}.flac", np.zeros(n), 16_000)
    config = recipe(max_epochs=2, rawboost=3)
    options = {"data": tmp_path, "progress": False}
    with pytest.raises(AudioError, match=r"LA_T_000000[01].*--allow-silence"):
        train(config, tmp_path / "run", **options)
    train(config, tmp_path / "run", **options, resume=True, allow_silence=True)
    train(config, tmp_path / "whole", **options, allow_silence=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_state_that_does_not_fit_or_is_damaged_is_named(corpora, tmp_path):
    train(recipe(), tmp_path, data=corpora, progress=False, max_steps=1)
    path = tmp_path / "state.pt"
    whole, state = path.read_bytes(), torch.load(path, weights_only=True)
    state["model"]["head.hidden.weight"] = torch.zeros(4, 4)
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"state\.pt .*head\.hidden\.weight"):
        train(recipe(), tmp_path, data=corpora, resume=True, progress=False)
    for damaged in (whole[:-100], b"", pickle.dumps(print)):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"state\.pt .*remove it to begin again"):
            train(recipe(), tmp_path, data=corpora, resume=True, progress=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"init": "a", "backbone": "b"},
        {"init": "a", "dimensions": XLSRConfig(n_layers=3)},
        {"init": "a", "n_samples": 4000},
        {"dimensions": XLSRConfig(width=32)},
    ],
)
def test_what_would_not_be_used_is_refused(tmp_path, changes):
    """Weights bring their own backbone and dimensions."""
    for usual in (recipes.v1(), recipes.mini()):
        with pytest.raises(ConfigError, match="brings its own"):
            train(replace(usual, **changes), tmp_path / "r")


def test_a_run_needs_a_training_corpus(tmp_path):
    with pytest.raises(ConfigError, match="--train"):
        train(recipe(train=(), dev=None, monitor="train_loss"), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_no_step_is_taken_beyond_those_allowed(finished, corpora, tmp_path, capsys):
    """A planned stop is no error: the state is saved, and what to do next is said."""
    stopped = train(recipe(), tmp_path, data=corpora, progress=False, keep="all", max_steps=3)
    assert stopped == tmp_path / "state.pt"
    assert "stopped in epoch 1, step 0; the state is saved, go on with --resume" in (
        capsys.readouterr().err
    )
    assert len(log(tmp_path)) == 1
    train(recipe(), tmp_path, data=corpora, progress=False, keep="all", resume=True)
    assert_same_run(finished[0], tmp_path)


def test_a_resume_of_a_damaged_description_names_it(corpora, tmp_path):
    about = {"config": asdict(recipe()) | {"seed": "x"}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(ConfigError, match=r'- "seed": "x", [+] "seed": 1234'):
        train(recipe(), tmp_path, data=corpora, resume=True, progress=False)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"config\.json is missing or damaged"):
        train(recipe(), tmp_path, data=corpora, resume=True, progress=False)


def test_a_resume_of_nothing_is_refused(corpora, tmp_path):
    with pytest.raises(ConfigError, match="cannot resume"):
        train(recipe(), tmp_path / "no", data=corpora, resume=True, progress=False)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train": "asvspoof2019-la:tset"}, ProtocolError, "tset"),
        ({"backbone": "nowhere.pt"}, SlslibError, "nowhere.pt"),
        ({"batch_size": 13}, ConfigError, "at least 13"),
    ],
)
def test_bad_settings_leave_no_run_behind(corpora, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        train(recipe(**changes), tmp_path / "r", data=corpora, progress=False)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 0},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"class_weights": (float("nan"), 0.9)},
        {"rawboost": 9},
        {"rawboost": "sis"},
        {"rawboost": 3.0},
        {"rawboost": True},
        {"crop": "middle"},
        {"freeze": "all"},
        {"precision": "fp16"},
        {"monitor": "dev_eer"},
        {"class_weights": (0.1, 0.0)},
        {"dev": None, "monitor": "dev_loss"},
    ],
)
def test_nonsense_is_refused_before_anything_runs(changes):
    with pytest.raises(ConfigError):
        recipe(**changes)


def test_rawboost_is_known_by_name_too():
    assert recipe(rawboost="ssi") == recipe(rawboost=3)
    assert recipe(rawboost="series-123").rawboost == 4  # what config.json holds


def test_recipes_are_the_published_ones():
    v1, v2, paper = recipes.v1(), recipes.v2(), recipes.paper(4321)
    for config in (v1, v2, paper):
        assert (config.lr, config.weight_decay, config.batch_size) == (1e-6, 1e-4, 5)
        assert (config.rawboost, config.class_weights) == (3, (0.1, 0.9))
        assert (config.max_epochs, config.freeze, config.n_samples) == (50, "none", 64_600)
    assert (v1.dev, v1.monitor, v1.patience, v1.seed) == (None, "train_loss", 1, 1234)
    assert (v2.monitor, v2.patience, v2.augment_dev) == ("dev_loss", 10, True)
    assert paper.seed == 4321


def test_training_from_a_checkpoint_starts_with_its_backbone(finished):
    config = recipe(backbone=str(finished[1]), freeze="backbone")
    detector = build_detector(config, initial_weights(config))
    want = Detector.load(finished[1]).backbone.state_dict()
    for name, tensor in detector.backbone.state_dict().items():
        assert torch.equal(tensor, want[name])
    assert not any(p.requires_grad for p in detector.backbone.parameters())
    assert all(p.requires_grad for p in detector.head.parameters())


def test_training_goes_on_from_a_whole_detector(finished):
    detector = build_detector(recipe(init=str(finished[1]), seed=7), finished[1])
    want = Detector.load(finished[1]).state_dict()
    assert detector.state_dict().keys() == want.keys()
    for name, tensor in detector.state_dict().items():
        assert torch.equal(tensor, want[name]), name
    assert (
        detector.config.n_samples == recipe().n_samples
    )  # not that of v1, whose length it was not


def test_signals_are_collected_and_then_as_before():
    before = signal.getsignal(signal.SIGTERM)
    with processes.signals() as received:
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # the second one kills
    assert received == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_handler_that_is_changed_meanwhile_is_given_back():
    before = signal.getsignal(signal.SIGUSR1)
    with processes.signals(signal.SIGUSR1) as received:
        signal.raise_signal(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, lambda *_: None)
    assert received == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", cuda(count=2)])
def test_two_processes_train_as_one(corpora, tmp_path, device):
    """Gradients are averaged over the whole batch: weights agree with a single process.

    BatchNorm sees half a batch on each process of a CPU run, so it is taken out there; GPUs share
    its statistics. TF32 is off, because it rounds differently for batches of other sizes.
    """
    on_cpu = device == "cpu"
    without = "lambda self, x: x * self.weight + self.bias"
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        f"import torch; {f'torch.nn.BatchNorm2d.forward = {without}' if on_cpu else ''}\n"
        "from tiny import recipe; from slslib.runs.train import train\n"
        f"train(recipe(max_epochs=1), sys.argv[2], data=sys.argv[3], progress=False, cpu={on_cpu})"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NVIDIA_TF32_OVERRIDE": "0"}
    environment |= {"ACCELERATE_USE_CPU": "true"} if on_cpu else {}
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for name, launch in (("one", []), ("two", two)):
        arguments = [
            str(script),
            str(Path(__file__).parents[1]),
            str(tmp_path / name),
            str(corpora),
        ]
        done = subprocess.run(
            [sys.executable, *launch, *arguments], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["processes"] == (2 if launch else 1)
        assert config["device"].startswith(device)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        if name.startswith("model.") and not name.endswith("k_proj.bias"):
            torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-5)
    rows = [log(tmp_path / name)[0] for name in ("one", "two")]
    for column in ("train_loss", "dev_loss", "dev_eer_percent"):
        assert float(rows[0][column]) == pytest.approx(float(rows[1][column]), rel=1e-4)


# Several corpora


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two folders whose recordings have equal names and other samples: tones of 200 and 400 Hz."""
    root = tmp_path_factory.mktemp("two")
    for n, frequency in (("one", 200), ("two", 400)):
        (root / n / "flac").mkdir(parents=True)
        lines = ["file,label\n"]
        for i in range(6):
            x = 0.1 * (i + 1) * np.sin(2 * np.pi * frequency * np.arange(5000) / 16_000)
            sf.write(root / n / "flac" / f"a{i}.flac", x, 16_000)
            lines.append(f"a{i},{('spoof', 'bonafide')[i % 2]}\n")
        (root / n / "own.train.csv").write_text("".join(lines))
    return root


def test_equal_names_of_mixed_corpora_stay_apart(two):
    parts = [open_corpus(f"{name}:train", two) for name in ("one", "two")]
    mixed = mix(parts)
    assert mixed.trials["utterance"].tolist() == [f"{n}:a{i}" for n in (1, 2) for i in range(6)]
    assert mixed.trials["label"].tolist() == [0, 1, 0, 1, 0, 1] * 2
    assert set(mixed.trials.columns) == set(parts[0].trials.columns)
    dataset = TrialDataset(mixed, n_samples=4000)
    for i in range(12):
        own = TrialDataset(parts[i // 6], n_samples=4000)[i % 6]
        np.testing.assert_array_equal(dataset[i].waveform, own.waveform)
    first, second = dataset[1].waveform, dataset[7].waveform
    assert not np.array_equal(first, second)
    with pytest.raises(AudioError, match="a9"):
        mixed.audio_path("2:a9")


def test_augmentation_tells_equal_names_apart(two):
    twice = mix([open_corpus("one:train", two)] * 2)
    dataset = TrialDataset(twice, n_samples=4000, algo=3)
    assert not np.array_equal(dataset[0].waveform, dataset[6].waveform)
    assert np.array_equal(dataset[0].waveform, dataset[0].waveform)


def test_a_mixture_trains_resumes_and_is_written_down(two, tmp_path, corpora):
    several = (str(two / "one"), str(two / "two"), "asvspoof2019-la:train")
    mixed = recipe(train=several, max_epochs=2)
    train(mixed, tmp_path / "whole", data=corpora, progress=False)
    train(mixed, tmp_path / "parts", data=corpora, progress=False, max_steps=4)
    train(mixed, tmp_path / "parts", data=corpora, progress=False, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["config"]["train"] == list(several)
    counts = [(Path(one["corpus"]).name, one["n_trials"]) for one in config["data"]]
    want = [("one", 6), ("two", 6), ("asvspoof2019-la", 12), ("asvspoof2019-la", 8)]
    assert counts == want
    with pytest.raises(ConfigError, match="two"):
        other = replace(mixed, train=several[:1] + several[2:])
        train(other, tmp_path / "parts", data=corpora, progress=False, resume=True)


def test_a_mixture_may_have_corpora_of_one_class(two, tmp_path, corpora):
    spoof = tmp_path / "spoof"
    shutil.copytree(two / "one", spoof)
    (spoof / "own.train.csv").write_text("file,label\na0,spoof\na2,spoof\n")
    with pytest.raises(ConfigError, match="2 trials"):
        train(recipe(train=str(spoof)), tmp_path / "a", data=corpora, progress=False)
    several = recipe(train=(str(spoof), str(two / "two")), max_epochs=1)
    train(several, tmp_path / "b", data=corpora, progress=False)
    (spoof / "own.train.csv").write_text("a0\na2\n")  # without labels
    with pytest.raises(ConfigError, match="8 trials"):
        train(several, tmp_path / "c", data=corpora, progress=False)


def test_one_corpus_is_written_down_as_before(finished):
    config = json.loads((finished[0] / "config.json").read_text())
    assert config["config"]["train"] == "asvspoof2019-la:train"
    assert len(config["data"]) == 2


def test_asvspoof5_is_v2_but_for_what_it_says():
    ours, theirs = asdict(recipes.asvspoof5()), asdict(recipes.v2())
    assert {name for name in ours if ours[name] != theirs[name]} == {
        *("recipe", "train", "dev", "augment_dev", "crop", "patience")
    }


@pytest.mark.parametrize(("percent", "told"), [(62.5, True), (50.0, False)])
def test_swapped_labels_are_warned_of(corpora, tmp_path, capsys, monkeypatch, percent, told):
    made = {"dev_loss": 1.0, "dev_accuracy": 0.5, "dev_eer_threshold": 0.0}
    made["dev_eer_percent"] = percent
    monkeypatch.setattr("slslib.runs.fit._validate", lambda *_: made)
    train(recipe(max_epochs=1), tmp_path / "run", data=corpora, workers=0, cpu=True)
    assert ("labels look swapped" in capsys.readouterr().err) == told
