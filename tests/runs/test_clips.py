"""Clips are keyed by seed, epoch and utterance, and never made up."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch

from slslib.data import isolate
from slslib.data.audio import load
from slslib.data.corpora import open_corpus
from slslib.errors import AudioError, ConfigError
from slslib.runs import clips
from slslib.runs.clips import (
    TrialDataset,
    epoch_batches,
    keyed_rng,
    load_batches,
    read_clips,
    stack,
)


@pytest.fixture
def corpus(corpora):
    return open_corpus("asvspoof2019-la:train", corpora)


def waveforms(dataset, workers=0):
    batches = [[0, 1, 2], [3, 4]]
    return torch.cat([stack(clips)[0] for clips in load_batches(dataset, batches, workers=workers)])


@pytest.mark.parametrize("options", [{}, {"algo": 3}, {"algo": 4, "crop": "random"}])
def test_workers_do_not_change_a_clip(corpus, options):
    dataset = TrialDataset(corpus, n_samples=4000, seed=7, epoch=2, **options)
    state = np.random.mtrand._rand.get_state(legacy=False), torch.get_rng_state()
    alone = waveforms(dataset)
    assert torch.equal(alone, waveforms(dataset, workers=2))
    after = np.random.mtrand._rand.get_state(legacy=False)
    assert np.array_equal(state[0]["state"]["key"], after["state"]["key"])
    assert state[0]["state"]["pos"] == after["state"]["pos"]
    assert torch.equal(state[1], torch.get_rng_state())
    assert alone.shape == (5, 4000)
    assert alone.dtype == torch.float32


@pytest.mark.parametrize("change", [{"seed": 8}, {"epoch": 3}])
def test_seed_and_epoch_change_the_augmentation(corpus, change):
    key = {"seed": 7, "epoch": 2}
    first = waveforms(TrialDataset(corpus, n_samples=4000, algo=3, **key))
    other = waveforms(TrialDataset(corpus, n_samples=4000, algo=3, **key | change))
    assert (first != other).any(dim=1).all()


def test_an_algorithm_has_a_number_and_a_name(corpus):
    for number, name in ((0, "none"), (3, "ssi")):
        same = [waveforms(TrialDataset(corpus, n_samples=4000, algo=a)) for a in (number, name)]
        assert torch.equal(*same)
    with pytest.raises(ConfigError, match="no RawBoost algorithm 9"):
        TrialDataset(corpus, algo=9)


def test_utterances_draw_different_numbers():
    draws = {keyed_rng(1, 0, name).random() for name in ("a", "b", "LA_T_0000001")}
    assert len(draws) == 3


def test_labels_follow_the_protocol(corpus):
    dataset = TrialDataset(corpus, n_samples=4000)
    assert [dataset[i].label for i in range(4)] == [0, 1, 0, 1]
    assert [dataset[i].utterance for i in range(2)] == ["LA_T_0000000", "LA_T_0000001"]
    waveforms, labels = read_clips(dataset, [1, 2])
    assert labels.tolist() == [1, 0]
    assert torch.equal(waveforms, read_clips(dataset)[0][1:3])


@pytest.mark.parametrize("n", [7, 8, 9])
def test_an_epoch_visits_no_trial_twice(n):
    batches = epoch_batches(n, 4, seed=1, epoch=0)
    assert [len(batch) for batch in batches] == [4] * (n // 4)
    visited = {i for batch in batches for i in batch}
    assert len(visited) == n // 4 * 4
    assert visited <= set(range(n))
    assert epoch_batches(n, 4, seed=1, epoch=1) != batches


def test_missing_audio_is_an_error_in_its_place(corpora, tmp_path):
    import shutil

    root = tmp_path / "copy"
    shutil.copytree(corpora, root)
    (root / "LA/ASVspoof2019_LA_train/flac/LA_T_0000002.flac").unlink()
    dataset = TrialDataset(open_corpus("asvspoof2019-la:train", root), n_samples=4000)
    clips = next(iter(load_batches(dataset, [[1, 2]])))
    assert clips[0].error == ""
    assert clips[1].waveform is None
    with pytest.raises(AudioError, match="LA_T_0000002"):
        stack(clips)


@pytest.mark.usefixtures("_new_decoders")
@pytest.mark.parametrize("ending", ["os.kill(os.getpid(), signal.SIGSEGV)", "time.sleep(60)"])
def test_a_recording_that_ends_its_worker_is_one_failed_trial(corpus, monkeypatch, ending):
    hostile = corpus.trials["utterance"][4]
    monkeypatch.setattr(clips, "_PATIENCE_SECONDS", 3)

    def crash(path, **options):
        if Path(path).stem == hostile:
            exec(f"import os, signal, time\n{ending}")
        return load(path, **options)

    monkeypatch.setattr(clips, "load", crash)
    script = (
        "import os, signal, time\n"
        "from slslib.data import isolate\n"
        "isolate.WALL_SECONDS, blocks = 2, isolate.Decoder.blocks\n"
        "def read(self, **options):\n"
        f"    if {hostile!r} in self.recording.path:\n"
        f"        {ending}\n"
        "    return blocks(self, **options)\n"
        "isolate.Decoder.blocks = read\n"
        "isolate.serve()"
    )
    monkeypatch.setattr(isolate, "_COMMAND", (sys.executable, "-P", "-c", script))
    dataset, before = TrialDataset(corpus, n_samples=4000), active_children()
    batches = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    read = []
    with pytest.warns(UserWarning, match="read again, file by file"):
        for batch in load_batches(dataset, batches, workers=2):
            read += batch
            time.sleep(0.5)  # as a network would: the other batches are ready meanwhile
    assert [clip.utterance for clip in read] == list(corpus.trials["utterance"][:10])
    (failed,) = (clip for clip in read if clip.error)
    assert failed.utterance == hostile
    assert "was killed by" in str(failed.error)
    for clip, expected in zip(read, [dataset[i] for i in (0, 1, 2, 3)], strict=False):
        assert np.array_equal(clip.waveform, expected.waveform)
    assert {*active_children()} <= {*before}


def test_a_full_shared_memory_delays_no_batch(corpus, monkeypatch):
    def full(_):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    dataset, began = TrialDataset(corpus, n_samples=4000), time.monotonic()
    with pytest.warns(UserWarning, match="No space left.*file by file.*--workers 0"):
        read = [*load_batches(dataset, [[0, 1], [2, 3]], workers=1)]
    assert time.monotonic() - began < clips._PATIENCE_SECONDS / 2
    names = [clip.utterance for batch in read for clip in batch]
    assert names == list(corpus.trials["utterance"][:4])
    assert np.array_equal(read[1][1].waveform, dataset[3].waveform)


@pytest.mark.parametrize(
    ("kind", "moment", "status"),
    [("SIGINT", "before", -signal.SIGINT), ("SIGTERM", "after_in_parent", 143)],
)
def test_no_signal_is_lost_while_workers_start(corpora, kind, moment, status):
    script = (
        "import os, signal, sys\n"
        "from slslib.data.corpora import open_corpus\n"
        "from slslib.runs.clips import TrialDataset, load_batches\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"  # as the command line does
        f"hook = lambda: os.kill(os.getpid(), signal.{kind})\n"
        f"os.register_at_fork({moment}=hook)\n"
        "corpus = open_corpus('asvspoof2019-la:train', sys.argv[1])\n"
        "for batch in load_batches(TrialDataset(corpus), [[0], [1]], workers=1):\n"
        "    print('it went on', flush=True)"
    )
    command = [sys.executable, "-c", script, str(corpora)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (status, "")


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_a_killed_process_leaves_no_workers(corpora):
    script = (
        "import os, signal, sys\n"
        "from multiprocessing import active_children\n"
        "from slslib.data.corpora import open_corpus\n"
        "from slslib.runs.clips import TrialDataset, load_batches\n"
        "corpus = open_corpus('asvspoof2019-la:train', sys.argv[1])\n"
        "batches = [[i] for i in range(10)]\n"
        "dataset = TrialDataset(corpus, n_samples=200_000)\n"  # more than a pipe holds
        "next(loaded := load_batches(dataset, batches, workers=2))\n"
        "print(*[child.pid for child in active_children()], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", script, str(corpora)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    pids = done.stdout.split()
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a worker is left"
        time.sleep(0.05)
